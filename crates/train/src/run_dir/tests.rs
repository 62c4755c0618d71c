use super::*;
use serde_json::json;

#[test]
fn a_second_holder_is_refused_and_the_lock_is_free_after_drop() {
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("runs/sft");
    let first = RunDir::open(&out, OnExisting::Refuse).unwrap();
    let message = RunDir::open(&out, OnExisting::Resume)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&format!("in use by process {}", std::process::id())),
        "{message}"
    );
    drop(first);
    RunDir::open(&out, OnExisting::Refuse).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_directory_with_a_run_is_refused_and_left_alone() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.write_record("lr = 1\n", "{}\n").unwrap();
    dir.append_sample(&json!({"response": "hello"})).unwrap();
    drop(dir);
    let before = ["config.toml", "inputs.json", "samples.jsonl"];
    assert_eq!(names(tmp.path()), before, "and no run.lock");
    let message = RunDir::open(tmp.path(), OnExisting::Refuse)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("--resume") && message.contains("--overwrite"),
        "{message}"
    );
    assert_eq!(names(tmp.path()), before);
    // Nor is a file of somebody else taken for what a failed run left.
    let mine = tempfile::tempdir().unwrap();
    fs_err::write(mine.path().join("config.toml"), "mine").unwrap();
    RunDir::open(mine.path(), OnExisting::Refuse).unwrap_err();
    RunDir::refuse_existing(mine.path()).unwrap_err();
    assert_eq!(names(mine.path()), ["config.toml"]);
}

#[test]
fn a_run_that_did_nothing_leaves_nothing_however_it_ended() {
    let tmp = tempfile::tempdir().unwrap();
    let (new, there) = (tmp.path().join("runs/new"), tmp.path().join("there"));
    fs_err::create_dir(&there).unwrap();
    fs_err::write(there.join("thesis.tex"), "mine").unwrap();
    for out in [&new, &there] {
        let dir = RunDir::open(out, OnExisting::Refuse).unwrap();
        dir.write_record("lr = 1\n", "{}\n").unwrap();
        dir.metrics().unwrap();
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _dir = dir;
            panic!("on purpose")
        }));
        assert!(died.is_err());
        RunDir::refuse_existing(out).unwrap();
    }
    assert_eq!(
        names(tmp.path()),
        ["there"],
        "the folders above are gone too"
    );
    assert_eq!(names(&there), ["thesis.tex"]);
}

/// No destructor runs on SIGKILL.
#[test]
fn a_run_killed_before_its_first_step_is_not_in_the_way_of_the_next() {
    let tmp = tempfile::tempdir().unwrap();
    for name in ["config.toml", "inputs.json", "metrics.jsonl", "run.lock"] {
        fs_err::write(
            tmp.path().join(name),
            if name == METRICS { "" } else { "1" },
        )
        .unwrap();
    }
    RunDir::refuse_existing(tmp.path()).unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    assert_eq!(names(tmp.path()), ["run.lock"]);
    drop(dir);
    assert_eq!(names(tmp.path()), [""; 0]);
}

#[test]
fn what_was_logged_is_read_back() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    assert!(dir.logged().unwrap().is_empty());
    let line = Map::from_iter([("loss".to_owned(), json!(0.1 + 0.2))]);
    dir.metrics().unwrap().log(7, &line).unwrap();
    let logged = dir.logged().unwrap();
    assert_eq!(
        (logged.len(), &logged[0]["step"], &logged[0]["loss"]),
        (1, &json!(7), &json!(0.1 + 0.2))
    );
}

#[test]
fn a_run_is_running_while_it_is_held_and_its_history_is_kept_across_a_resume() {
    let tmp = tempfile::tempdir().unwrap();
    assert!(!is_running(tmp.path()), "no lock file, and none is made");
    assert_eq!(names(tmp.path()), [""; 0]);
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    assert!(is_running(tmp.path()));
    dir.append_history(&json!({"event": "started"})).unwrap();
    dir.append_sample(&json!({"response": "hello"})).unwrap();
    drop(dir);
    assert!(!is_running(tmp.path()));
    let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
    dir.append_history(&json!({"event": "finished"})).unwrap();
    let path = tmp.path().join(HISTORY);
    let text = fs_err::read_to_string(&path).unwrap();
    fs_err::write(&path, text.clone() + "{\"event\": \"sta").unwrap();
    let events: Vec<_> = history(tmp.path())
        .iter()
        .map(|e| e["event"].clone())
        .collect();
    assert_eq!(events, ["started", "finished"]);
}

#[test]
fn overwriting_removes_the_run_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    fs_err::write(tmp.path().join("thesis.tex"), "mine").unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.write_record("lr = 1\n", "{}\n").unwrap();
    dir.append_sample(&json!({"response": "hello"})).unwrap();
    dir.metrics()
        .unwrap()
        .log(1, &serde_json::Map::new())
        .unwrap();
    dir.publish(|d| fs_err::write(d.join("model"), "weights"))
        .unwrap();
    dir.mark_finished("abc").unwrap();
    assert_eq!(finished(tmp.path()).as_deref(), Some("abc"));
    drop(dir);
    let dir = RunDir::open(tmp.path(), OnExisting::Overwrite).unwrap();
    assert_eq!(dir.finished(), None);
    assert_eq!(names(tmp.path()), ["run.lock", "thesis.tex"]);
}

#[test]
fn resuming_restores_a_model_that_had_just_stepped_aside() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.publish(|d| fs_err::write(d.join("model"), "weights"))
        .unwrap();
    fs_err::rename(dir.final_dir(), tmp.path().join("final.old")).unwrap();
    drop(dir);
    let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
    assert_eq!(
        fs_err::read_to_string(dir.final_dir().join("model")).unwrap(),
        "weights"
    );
}
