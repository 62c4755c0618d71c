//! Pushes through the real client to a hub on loopback, which fails as networks and hubs do.

use std::path::Path;
use std::time::Duration;

use rlhf_lm::hub::{Content, Destination, HubSettings, PushEvent, Pushed, Upload, push};

#[path = "../../../../tests/hub_writer.rs"]
mod hub_writer;

use hub_writer::{Fault, HubWriter, State};

/// `hello` in base64, and its name in Git (`printf hello | git hash-object --stdin`).
const HELLO: (&str, &str) = ("aGVsbG8=", "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");

fn hub(faults: &[Fault]) -> HubWriter {
    HubWriter::start(State {
        token: "secret".to_owned(),
        faults: faults.to_vec(),
        ..State::default()
    })
    .unwrap()
}

fn settings(hub: &HubWriter) -> HubSettings {
    HubSettings {
        cache: Path::new("/nowhere/hub").to_owned(),
        endpoint: hub.endpoint.clone(),
        token: Some("secret".to_owned()),
        offline: false,
        progress: false,
        retry_pause: Duration::from_millis(1),
    }
}

fn to(revision: &str) -> Destination {
    Destination {
        repo: "org/name".to_owned(),
        revision: revision.to_owned(),
        private: true,
        message: "A model".to_owned(),
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 % 251) as u8).collect()
}

/// A short text, a file sent whole, and one sent in three parts.
fn uploads(dir: &Path) -> Vec<Upload> {
    let file = |name: &str, length| {
        fs_err::write(dir.join(name), bytes(length)).unwrap();
        Upload {
            path: name.to_owned(),
            content: Content::File(dir.join(name)),
        }
    };
    let card = Upload {
        path: "README.md".to_owned(),
        content: Content::Text("hello".to_owned()),
    };
    vec![card, file("whole.bin", 500), file("parts.bin", 2500)]
}

fn pushed(hub: &HubWriter) -> rlhf_lm::Result<Pushed> {
    let dir = tempfile::tempdir().unwrap();
    push(
        &uploads(dir.path()),
        &to("main"),
        &settings(hub),
        &mut |_| {},
    )
}

fn error(hub: &HubWriter) -> String {
    pushed(hub).unwrap_err().to_string()
}

fn sent(hub: &HubWriter) -> usize {
    let state = hub.state();
    state
        .requests
        .iter()
        .filter(|request| request.starts_with("PUT"))
        .count()
}

#[test]
fn files_arrive_in_one_commit_and_are_not_sent_again() {
    let (hub, dir) = (hub(&[]), tempfile::tempdir().unwrap());
    let files = uploads(dir.path());
    let (mut seen, mut unchanged) = (Vec::new(), Vec::new());
    let mut watch = |event: PushEvent<'_>| match event {
        PushEvent::Sent(path, at, of) => seen.push((path.to_owned(), at, of)),
        PushEvent::Unchanged(path) => unchanged.push(path.to_owned()),
        PushEvent::Again(why) => panic!("{why}"),
    };
    let done = push(&files, &to("try/1"), &settings(&hub), &mut watch).unwrap();
    assert_eq!(
        (done.files, done.bytes, done.commit.as_deref()),
        (3, 3005, Some("commit-1"))
    );
    assert_eq!(done.url, format!("{}/org/name", hub.endpoint));
    assert!(unchanged.is_empty() && seen.contains(&("parts.bin".to_owned(), 2500, 2500)));
    {
        let mut state = hub.state();
        let made = &state.created[0];
        assert_eq!(
            (&made["name"], &made["organization"], &made["private"]),
            (&"name".into(), &"org".into(), &true.into())
        );
        assert_eq!(state.branches, ["try%2F1"]);
        assert_eq!(state.commits, ["A model"]);
        assert_eq!(state.files["README.md"].1, HELLO.0.as_bytes());
        assert!(
            state.files["whole.bin"].1 == bytes(500) && state.files["parts.bin"].1 == bytes(2500)
        );
        state.files.get_mut("README.md").unwrap().0 = HELLO.1.to_owned();
    }
    assert_eq!(sent(&hub), 4);
    let again = push(&files, &to("main"), &settings(&hub), &mut |_| {}).unwrap();
    assert_eq!((again.files, again.bytes, again.commit), (0, 0, None));
    assert_eq!((sent(&hub), hub.state().commits.len()), (4, 1));
}

#[test]
fn what_fails_once_is_tried_again() {
    for (place, times) in [("/storage/whole", 2), ("/storage/part", 3)] {
        let mut faults = vec![Fault::Cut(place); times];
        for place in [
            "create",
            "preupload",
            "batch",
            "/storage/",
            "complete",
            "verify",
            "commit",
        ] {
            faults.push(Fault::Status(place, 500, "a moment"));
        }
        faults.push(Fault::Status("commit", 429, "slower"));
        let hub = hub(&faults);
        assert_eq!(pushed(&hub).unwrap().files, 3);
        let state = hub.state();
        assert!(state.faults.is_empty());
        assert!(
            state.files["whole.bin"].1 == bytes(500) && state.files["parts.bin"].1 == bytes(2500)
        );
    }
}

#[test]
fn a_push_that_was_cut_off_sends_the_rest() {
    let hub = hub(&[Fault::Status("/storage/part", 403, "Request has expired")]);
    let refused = error(&hub);
    assert!(
        refused.contains("Request has expired") && refused.contains("push again"),
        "{refused}"
    );
    assert!(hub.state().commits.is_empty());
    let before = sent(&hub);
    assert_eq!(pushed(&hub).unwrap().bytes, 2505);
    assert_eq!(sent(&hub), before + 3); // the parts alone
}

#[test]
fn what_cannot_pass_says_what_to_do() {
    let cases = [
        (Fault::Status("create", 401, "token expired"), "HF_TOKEN"),
        (
            Fault::Status("preupload", 403, "Forbidden"),
            "role \"write\"",
        ),
        (
            Fault::Status("preupload", 404, "Repository not found"),
            "no such repository",
        ),
        (
            Fault::Status("commit", 412, "A commit has happened since"),
            "push again",
        ),
        (
            Fault::Status("commit", 413, "Payload too large"),
            "larger than the hub takes",
        ),
        (
            Fault::Status("create", 400, "Invalid name"),
            "HTTP 400 (Invalid name)",
        ),
    ];
    for (fault, what) in cases {
        let Fault::Status(_, _, said) = fault else {
            unreachable!()
        };
        let found = error(&hub(&[fault]));
        assert!(found.contains(what) && found.contains(said), "{found}");
    }
    let down = hub(&vec![Fault::Status("create", 503, "maintenance"); 5]);
    assert!(error(&down).contains("tried 5 times"));
    let cut = hub(&vec![Fault::Cut("create"); 5]);
    let found = error(&cut);
    assert!(
        found.contains("could not be reached") && found.contains(&cut.endpoint),
        "{found}"
    );
}

#[test]
fn nothing_is_asked_without_a_token_or_a_name() {
    let hub = hub(&[]);
    let says = |settings: HubSettings, repo: &str| {
        let to = Destination {
            repo: repo.to_owned(),
            ..to("main")
        };
        push(&[], &to, &settings, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let home = tempfile::tempdir().unwrap();
    let nobody = HubSettings {
        token: None,
        cache: home.path().join("hub"),
        ..settings(&hub)
    };
    assert!(says(nobody.clone(), "org/name").contains("HF_TOKEN"));
    let offline = HubSettings {
        offline: true,
        ..settings(&hub)
    };
    assert!(says(offline, "org/name").contains("HF_HUB_OFFLINE"));
    for name in ["name", "org/name/more", "org/na me", "org/name@main"] {
        assert!(
            says(settings(&hub), name).contains("expected ORG/NAME"),
            "{name}"
        );
    }
    assert!(hub.state().requests.is_empty());
    // As `hf auth login` leaves it.
    fs_err::write(home.path().join("token"), "secret\n").unwrap();
    push(&[], &to("main"), &nobody, &mut |_| {}).unwrap();
    assert_eq!(hub.state().created.len(), 1);
}
