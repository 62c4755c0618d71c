//! `rlhf push`, to a hub on loopback.

use assert_cmd::Command;
use serde_json::Value;

use crate::folder::{Folder, stderr};

#[path = "hub_writer.rs"]
mod hub_writer;

use hub_writer::{Fault, HubWriter, State};

fn command(folder: &Folder, hub: &HubWriter, line: &str) -> std::process::Output {
    with_token(folder.command(line), hub).output().unwrap()
}

/// `command` with the address of `hub` and a token that may write to it.
pub(crate) fn with_token(mut command: Command, hub: &HubWriter) -> Command {
    command
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_TOKEN", "secret")
        .env_remove("HF_HUB_OFFLINE");
    command
}

pub(crate) fn hub(faults: &[Fault]) -> HubWriter {
    HubWriter::start(State {
        token: "secret".into(),
        faults: faults.to_vec(),
        ..State::default()
    })
    .unwrap()
}

#[test]
fn a_run_is_published_with_its_card_and_again_only_where_it_changed() {
    let folder = Folder::pipeline();
    folder.done("sft --model base --data demos.jsonl --quiet");
    let busy = Fault::Status("preupload", 500, "busy");
    let hub = hub(&[busy, Fault::Cut("/storage/")]);
    let first = command(
        &folder,
        &hub,
        "push runs/sft org/name --private --license mit",
    );
    let said = stderr(&first);
    assert!(first.status.success(), "{said}");
    assert!(
        said.contains("trying again") && said.contains("model.safetensors sent"),
        "{said}"
    );
    let printed = String::from_utf8(first.stdout).unwrap();
    assert!(
        printed.starts_with(&format!("{}/org/name: ", hub.endpoint))
            && printed.ends_with("commit commit-1\n"),
        "{printed}"
    );
    {
        let state = hub.state();
        assert_eq!(state.created[0]["private"], true);
        assert_eq!(state.commits, ["Add sft"]);
        let weights = fs_err::read(folder.path("runs/sft/final/model.safetensors")).unwrap();
        assert!(state.files["model.safetensors"].1 == weights);
        let card = String::from_utf8(state.files["README.md"].1.clone()).unwrap();
        assert!(
            card.contains("license: mit") && card.contains("# sft"),
            "{card}"
        );
    }
    let puts = || {
        let state = hub.state();
        state
            .requests
            .iter()
            .filter(|request| request.starts_with("PUT"))
            .count()
    };
    let before = puts();
    let again = command(
        &folder,
        &hub,
        "push runs/sft org/name --license mit --json --quiet",
    );
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    // The weights stay; what is small and has no name in this hub is sent anew.
    assert_eq!(puts(), before);
    assert!(
        again["bytes"].as_u64()
            < Some(
                fs_err::metadata(folder.path("runs/sft/final/model.safetensors"))
                    .unwrap()
                    .len()
            ),
        "{again}"
    );
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_sent() {
    let folder = Folder::pipeline();
    let (hub, offline) = (hub(&[]), "HF_HUB_OFFLINE");
    assert!(folder.refused("push base org/name").contains(offline));
    let says = |line: &str, what: &str| {
        let output = command(&folder, &hub, line);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    };
    says("push nowhere org/name", "nowhere does not exist");
    says("push base name", "expected ORG/NAME");
    folder.write("base/README.md", "mine");
    says("push base org/name --license mit", "name the licence in it");
    assert!(hub.state().requests.is_empty());
    hub.state().token = "another".into();
    says("push base org/name", "HF_TOKEN");
}
