//! Data sets of the hub, named where a data file is named.

use std::collections::BTreeMap;

use crate::folder::{Folder, stderr};
use crate::hub_server::{HubFiles, HubServer};

fn row(text: &str) -> String {
    format!("{{\"prompt\": \"{text}\", \"completion\": \"red.\"}}\n")
}

#[test]
fn a_data_set_is_named_alone_by_its_split_or_by_its_file() {
    let repo = |name: &str, file: &str| format!("datasets/org/{name}/{file}");
    let converted = "scripted@refs%2Fconvert%2Fparquet";
    let files = BTreeMap::from([
        (repo("two", "README.md"), String::new()),
        (repo("two", "data/train-00000-of-00002.jsonl"), row("a")),
        (repo("two", "data/train-00001-of-00002.jsonl"), row("b")),
        (repo("two", "data/test-00000-of-00001.jsonl"), row("c")),
        (repo("scripted", "scripted.py"), String::new()),
        // Content decides, not the name.
        (repo(converted, "default/train/0000.parquet"), row("d")),
        (repo("empty", "README.md"), String::new()),
    ]);
    let server = HubServer::start(HubFiles {
        files: files
            .into_iter()
            .map(|(path, text)| (path, text.into_bytes()))
            .collect(),
        token: String::new(),
    })
    .unwrap();
    let folder = Folder::quick();
    let run = |spec: &str| {
        let mut command = folder.command(&format!("data {spec} --json"));
        command
            .env_remove("HF_HUB_OFFLINE")
            .env("HF_ENDPOINT", &server.endpoint);
        let output = command.output().unwrap();
        match output.status.success() {
            true => serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["summary"]
                ["rows"]
                .to_string(),
            false => stderr(&output),
        }
    };
    for (spec, found) in [
        ("org/two:train", "2"),
        ("org/two@main:test", "1"),
        ("hf://datasets/org/two/data/train-00001-of-00002.jsonl", "1"),
        ("hf://datasets/org/two/data:test org/two:train", "3"),
        ("org/scripted", "1"),
        (
            "org/two",
            "org/two: name one of its splits (test, train): org/two:test",
        ),
        (
            "org/two:dev",
            "org/two:dev: name one of its splits (test, train): org/two:test",
        ),
        ("org/empty", "holds no data file"),
        ("org/none", "the hub has no org/none"),
    ] {
        let answer = run(spec);
        assert!(answer.contains(found), "{spec}: {answer}");
    }
    // What is there, or looks like a file, is never asked for.
    let asked = server.requests().len();
    fs_err::create_dir_all(folder.path("local")).unwrap();
    folder.write("local/two", &row("e").repeat(4));
    assert_eq!(run("local/two"), "4");
    for missing in [
        "two",
        "two.jsonl",
        "org/two.jsonl",
        "local/three",
        "./org/two",
    ] {
        assert!(run(missing).contains("no such file or folder"), "{missing}");
    }
    assert_eq!(server.requests().len(), asked);
}
