use super::*;
use crate::metrics::{METRICS, TIMINGS};
use crate::run_dir::SAMPLES;
use serde_json::{Map, json};

fn at_step(step: u64) -> Checkpoint {
    let device = Device::Cpu;
    Checkpoint {
        step,
        tensors: BTreeMap::from([
            (
                "policy/w".into(),
                Tensor::new(&[[step as f32, -0.5], [1e-30, 3.0]], &device).unwrap(),
            ),
            ("policy/b".into(), Tensor::new(&[1u32, 2], &device).unwrap()),
            (
                "adam/step".into(),
                Tensor::new(step as i64, &device).unwrap(),
            ),
        ]),
        state: json!({"kl_coef": 0.1 + 0.2, "position": step * 8}),
    }
}

fn names(dir: &RunDir) -> Vec<String> {
    let entries = fs_err::read_dir(dir.path().join(CHECKPOINTS)).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_is_loaded_and_only_the_newest_are_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    assert!(dir.checkpoint_latest().unwrap().is_none());
    for step in [1, 2, 999_999, 1_000_000] {
        dir.checkpoint_save(&at_step(step), 2).unwrap();
    }
    assert_eq!(names(&dir), ["step-1000000", "step-999999"]);
    let loaded = dir.checkpoint_latest().unwrap().unwrap();
    assert_eq!(
        (loaded.step, &loaded.state),
        (1_000_000, &at_step(1_000_000).state)
    );
    let policy = loaded.group("policy");
    assert_eq!(policy.keys().collect::<Vec<_>>(), ["b", "w"]);
    assert_eq!(
        policy["w"].to_vec2::<f32>().unwrap(),
        [[1e6, -0.5], [1e-30, 3.0]]
    );
    assert_eq!(
        loaded.tensors["adam/step"].to_scalar::<i64>().unwrap(),
        1_000_000
    );
    let mut again = Checkpoint {
        tensors: BTreeMap::new(),
        ..loaded.clone()
    };
    again.insert_group("policy", policy);
    assert_eq!(
        again.tensors.keys().collect::<Vec<_>>(),
        ["policy/b", "policy/w"]
    );
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    let bytes = || {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        dir.checkpoint_save(&at_step(7), 1).unwrap();
        let path = dir.checkpoint_path(7);
        (
            fs_err::read(path.join(TENSORS)).unwrap(),
            fs_err::read(path.join(STATE)).unwrap(),
        )
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_process_that_dies_while_saving_leaves_the_previous_checkpoint() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.checkpoint_save(&at_step(1), 2).unwrap();
    let half = dir.path().join("checkpoints/step-000002.aside");
    fs_err::create_dir(&half).unwrap();
    fs_err::write(half.join(TENSORS), [0u8; 100]).unwrap();
    // What an interrupted removal leaves.
    let pruned = dir.path().join("checkpoints/step-000000.gone");
    fs_err::create_dir(&pruned).unwrap();
    fs_err::write(pruned.join(TENSORS), [0u8; 100]).unwrap();
    assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
    assert!(!half.exists() && !pruned.exists());
    dir.checkpoint_save(&at_step(2), 2).unwrap();
    assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 2);
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before_and_alone_is_an_error_that_names_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.checkpoint_save(&at_step(1), 2).unwrap();
    dir.checkpoint_save(&at_step(2), 2).unwrap();
    // Damage that no parser would notice, in each file: one bit, one digit; the end; all of it.
    let flipped = |name: &str| {
        let mut bytes = fs_err::read(dir.checkpoint_path(2).join(name)).unwrap();
        let last_digit = bytes.iter().rposition(u8::is_ascii_digit);
        let at = if name == TENSORS {
            bytes.len() - 1
        } else {
            last_digit.unwrap()
        };
        bytes[at] ^= 1;
        Some(bytes)
    };
    let cut = |name: &str| {
        let bytes = fs_err::read(dir.checkpoint_path(2).join(name)).unwrap();
        Some(bytes[..bytes.len() / 2].to_vec())
    };
    for name in [TENSORS, STATE, SUMS] {
        let path = dir.checkpoint_path(2).join(name);
        let whole = fs_err::read(&path).unwrap();
        for damage in [flipped(name), cut(name), Some(Vec::new()), None] {
            match damage {
                Some(bytes) => fs_err::write(&path, bytes).unwrap(),
                None => fs_err::remove_file(&path).unwrap(),
            }
            assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1, "{name}");
            assert!(dir.checkpoint_path(2).exists(), "what is damaged is left");
            fs_err::write(&path, &whole).unwrap();
            assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 2, "{name}");
        }
    }
    fs_err::write(dir.checkpoint_path(2).join(TENSORS), "").unwrap();
    fs_err::write(dir.checkpoint_path(1).join(STATE), "{}").unwrap();
    let message = dir.checkpoint_latest().unwrap_err().to_string();
    for part in [
        "no checkpoint is whole",
        "step-000002/tensors.safetensors: its 0 bytes",
        "step-000001/state.json",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

/// The oracle is the program of the operating system.
#[test]
#[cfg(target_os = "linux")]
fn sha256sum_reads_the_checksums() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.checkpoint_save(&at_step(1), 1).unwrap();
    let check = || {
        let mut command = std::process::Command::new("sha256sum");
        let command = command.args(["--check", "--strict", SUMS]);
        command
            .current_dir(dir.checkpoint_path(1))
            .output()
            .unwrap()
    };
    assert!(check().status.success());
    fs_err::write(dir.checkpoint_path(1).join(STATE), "{}").unwrap();
    assert!(!check().status.success());
}

/// A run that went back behind a damaged checkpoint must not keep that one instead of its own.
#[test]
fn a_checkpoint_replaces_those_of_later_steps() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    for step in [1, 9] {
        dir.checkpoint_save(&at_step(step), 2).unwrap();
    }
    fs_err::write(dir.checkpoint_path(9).join(TENSORS), "").unwrap();
    assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
    dir.checkpoint_save(&at_step(2), 1).unwrap();
    assert_eq!(names(&dir), ["step-000002"]);
    assert_eq!(newest_checkpoint(tmp.path()), Some(2));
}

#[test]
#[cfg(unix)]
fn the_files_of_a_checkpoint_have_the_mode_of_any_other_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.checkpoint_save(&at_step(1), 1).unwrap();
    let mode = |path: PathBuf| fs_err::metadata(path).unwrap().permissions().mode();
    fs_err::write(tmp.path().join("any"), "").unwrap();
    for name in [TENSORS, STATE, SUMS] {
        let path = dir.checkpoint_path(1).join(name);
        assert_eq!(mode(path), mode(tmp.path().join("any")), "{name}");
    }
}

#[test]
fn nothing_is_changed_while_a_run_to_resume_is_still_examined() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.append_sample(&json!({"response": "one"})).unwrap();
    dir.checkpoint_save(&at_step(1), 1).unwrap();
    dir.append_sample(&json!({"response": "two"})).unwrap();
    fs_err::write(dir.checkpoint_path(1).join(STATE), "{}").unwrap();
    dir.mark_finished("abc").unwrap();
    drop(dir);
    RunDir::open(tmp.path(), OnExisting::Resume).unwrap_err();
    let samples = fs_err::read_to_string(tmp.path().join(SAMPLES)).unwrap();
    assert_eq!(samples.lines().count(), 2);
    assert_eq!(crate::finished(tmp.path()).as_deref(), Some("abc"));
}

#[test]
fn resuming_cuts_metrics_and_samples_back_to_the_checkpoint() {
    let tmp = tempfile::tempdir().unwrap();
    let read = |name: &str| fs_err::read_to_string(tmp.path().join(name)).unwrap();
    let entry = |loss: f64| Map::from_iter([("loss".to_owned(), json!(loss))]);
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    let mut metrics = dir.metrics().unwrap();
    metrics.log(1, &entry(0.5)).unwrap();
    dir.append_sample(&json!({"response": "one"})).unwrap();
    dir.checkpoint_save(&at_step(1), 1).unwrap();
    let at_checkpoint = [METRICS, TIMINGS, SAMPLES].map(read);
    metrics.log(2, &entry(0.25)).unwrap();
    dir.append_sample(&json!({"response": "two"})).unwrap();
    drop((metrics, dir));

    let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
    assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
    assert_eq!([METRICS, TIMINGS, SAMPLES].map(read), at_checkpoint);
    dir.metrics().unwrap().log(2, &entry(0.125)).unwrap();
    assert_eq!(
        read(METRICS),
        "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.125}\n"
    );
}

#[test]
fn resuming_without_a_checkpoint_starts_the_files_anew() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.append_sample(&json!({"response": "one"})).unwrap();
    drop(dir);
    let dir = RunDir::open(tmp.path(), OnExisting::Resume).unwrap();
    assert!(dir.checkpoint_latest().unwrap().is_none());
    assert_eq!(
        fs_err::read_to_string(tmp.path().join(SAMPLES)).unwrap(),
        ""
    );
}

#[test]
fn a_checkpoint_that_cannot_be_written_says_so_and_loses_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
    dir.checkpoint_save(&at_step(1), 3).unwrap();
    // Root ignores permissions, so a file takes the place of the folder.
    let elsewhere = tmp.path().join("elsewhere");
    fs_err::rename(tmp.path().join(CHECKPOINTS), &elsewhere).unwrap();
    fs_err::write(tmp.path().join(CHECKPOINTS), "").unwrap();
    let message = dir.checkpoint_save(&at_step(2), 3).unwrap_err().to_string();
    assert!(
        message.contains("step 2") && message.contains("checkpoints"),
        "{message}"
    );
    fs_err::remove_file(tmp.path().join(CHECKPOINTS)).unwrap();
    fs_err::rename(&elsewhere, tmp.path().join(CHECKPOINTS)).unwrap();
    assert_eq!(dir.checkpoint_latest().unwrap().unwrap().step, 1);
}
