//! Downloads through the real client from a hub on loopback.

use std::path::Path;

use rlhf_lm::hub::{DatasetRepo, HubSettings, resolve_model};

#[path = "../../../../tests/hub_server.rs"]
mod hub_server;

use hub_server::{COMMIT, HubFiles, HubServer};

fn hub() -> HubServer {
    let mut hub = HubFiles {
        token: "secret".to_owned(),
        ..Default::default()
    };
    let mut add = |path: &str, content: &str| {
        hub.files
            .insert(path.to_owned(), content.as_bytes().to_vec())
    };
    for repo in ["tiny", "private/tiny"] {
        add(&format!("{repo}/config.json"), "{}");
        add(&format!("{repo}/tokenizer.json"), "{\"a\": 1}");
        add(&format!("{repo}/tokenizer_config.json"), "{\"b\": 1}");
        add(
            &format!("{repo}/model.safetensors"),
            &"weights".repeat(10_000),
        );
    }
    for file in ["config.json", "tokenizer.json"] {
        add(&format!("org/sharded/{file}"), file);
        add(&format!("org/pickled/{file}"), file);
    }
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    add("org/sharded/model.safetensors.index.json", index);
    add("org/sharded/model-1.safetensors", "one");
    add("org/sharded/model-2.safetensors", "two");
    add("org/pickled/pytorch_model.bin", "never");
    add("datasets/org/prefs/data/train.jsonl", "{}\n");
    add("datasets/org/scripted/scripted.py", "");
    let converted = "datasets/org/scripted@refs%2Fconvert%2Fparquet/default/train";
    add(&format!("{converted}/0000.parquet"), "one");
    add(&format!("{converted}/0001.parquet"), "two");
    HubServer::start(hub).unwrap()
}

fn settings(hub: &HubServer, home: &Path) -> HubSettings {
    HubSettings {
        cache: home.join("hub"),
        endpoint: hub.endpoint.clone(),
        token: None,
        offline: false,
        progress: false,
        retry_pause: std::time::Duration::from_millis(1),
    }
}

fn error(spec: &str, settings: &HubSettings) -> String {
    resolve_model(spec, settings).unwrap_err().to_string()
}

#[test]
fn a_model_is_downloaded_once_and_then_found_without_a_network() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, home.path());
    let dir = resolve_model("tiny", &online).unwrap();
    assert_eq!(
        dir,
        home.path().join("hub/models--tiny/snapshots").join(COMMIT)
    );
    let weights = fs_err::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights, "weights".repeat(10_000).as_bytes());
    assert_eq!(
        fs_err::read_to_string(dir.join("tokenizer_config.json")).unwrap(),
        "{\"b\": 1}"
    );
    assert!(!dir.join("generation_config.json").exists());

    let asked = hub.requests();
    let unreachable = "http://127.0.0.1:9".to_owned();
    for (endpoint, offline) in [
        (hub.endpoint.clone(), false),
        (hub.endpoint.clone(), true),
        (unreachable, false),
    ] {
        let again = HubSettings {
            endpoint,
            offline,
            ..online.clone()
        };
        assert_eq!(resolve_model("tiny", &again).unwrap(), dir);
        assert_eq!(
            resolve_model(&format!("tiny@{COMMIT}"), &again).unwrap(),
            dir
        );
    }
    assert_eq!(hub.requests(), asked);
}

#[test]
fn every_shard_of_sharded_weights_is_fetched() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, home.path());
    let dir = resolve_model("org/sharded", &online).unwrap();
    assert_eq!(
        fs_err::read_to_string(dir.join("model-1.safetensors")).unwrap(),
        "one"
    );
    assert_eq!(
        fs_err::read_to_string(dir.join("model-2.safetensors")).unwrap(),
        "two"
    );

    // A download that was cut short is completed.
    fs_err::remove_file(dir.join("model-2.safetensors")).unwrap();
    let offline = HubSettings {
        offline: true,
        ..online.clone()
    };
    assert!(error("org/sharded", &offline).contains("HF_HUB_OFFLINE"));
    resolve_model("org/sharded", &online).unwrap();
    assert!(dir.join("model-2.safetensors").exists());
    assert_eq!(resolve_model("org/sharded", &offline).unwrap(), dir);
}

#[test]
fn pickles_are_never_fetched() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let what = error("org/pickled", &settings(&hub, home.path()));
    assert!(what.contains("Only safetensors"), "{what}");
    assert!(!hub.requests().iter().any(|path| path.ends_with(".bin")));
}

#[test]
fn a_token_opens_a_private_model() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let without = settings(&hub, home.path());
    let what = error("private/tiny", &without);
    assert!(what.contains("401") && what.contains("HF_TOKEN"), "{what}");
    let with = HubSettings {
        token: Some("secret".to_owned()),
        ..without
    };
    resolve_model("private/tiny", &with).unwrap();
}

#[test]
fn what_cannot_be_had_says_what_was_tried_and_what_to_do() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, home.path());
    let missing = error("no/such", &online);
    assert!(
        missing.contains(&format!(
            "{}/no/such/resolve/main/config.json",
            hub.endpoint
        )),
        "{missing}"
    );
    let revision = error("tiny@v2", &online);
    assert!(revision.contains("tiny@v2"), "{revision}");
    let offline = HubSettings {
        offline: true,
        ..online.clone()
    };
    assert!(error("tiny", &offline).contains("HF_HUB_OFFLINE"));
    let unreachable = HubSettings {
        endpoint: "http://127.0.0.1:9".to_owned(),
        ..online.clone()
    };
    assert!(error("tiny", &unreachable).contains("HF_ENDPOINT"));
    assert!(error("./no/directory", &online).contains("no such directory"));
}

#[test]
fn a_local_directory_wins() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let local = home.path().to_str().unwrap();
    assert_eq!(
        resolve_model(local, &settings(&hub, home.path())).unwrap(),
        home.path()
    );
    assert!(hub.requests().is_empty());
}

#[test]
fn the_files_of_a_data_set_are_listed_and_fetched_once() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, home.path());
    let offline = HubSettings {
        offline: true,
        ..online.clone()
    };
    let repo = DatasetRepo::parse("org/prefs").unwrap();
    let what = repo.files(&offline).unwrap_err().to_string();
    assert!(what.contains("HF_HUB_OFFLINE"), "{what}");
    let files = repo.files(&online).unwrap();
    assert_eq!(files, ["data/train.jsonl"]);
    let copies = repo.fetch(&files, &online).unwrap();
    assert_eq!(fs_err::read_to_string(&copies[0]).unwrap(), "{}\n");
    assert_eq!(repo.files(&offline).unwrap(), files);
    assert_eq!(repo.fetch(&files, &offline).unwrap(), copies);
    let file = DatasetRepo::parse("hf://datasets/org/prefs/data/train.jsonl").unwrap();
    assert_eq!(file.cached(&offline).as_ref(), copies.first());
    let outside = repo
        .fetch(&["../prefs.jsonl".to_owned()], &online)
        .unwrap_err();
    assert!(outside.to_string().contains("no path in it"), "{outside}");
}

#[test]
fn a_data_set_that_a_script_makes_is_found_in_the_branch_of_the_hub() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let online = settings(&hub, home.path());
    let repo = DatasetRepo::parse("org/scripted").unwrap().converted();
    let files = repo.files(&online).unwrap();
    assert_eq!(
        files,
        ["default/train/0000.parquet", "default/train/0001.parquet"]
    );
    let copies = repo.fetch(&files, &online).unwrap();
    assert_eq!(fs_err::read_to_string(&copies[1]).unwrap(), "two");
    let missing = DatasetRepo::parse("org/nothing")
        .unwrap()
        .files(&online)
        .unwrap_err();
    assert!(
        missing.to_string().contains("the hub has no org/nothing"),
        "{missing}"
    );
}
