//! Killed at any moment, resumed, and no trace of it in the result.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::folder::{Folder, assert_same_run};

/// Starts `line`, kills it without warning once its third checkpoint is there, resumes it, and compares with a run that
/// nobody disturbed.
fn survives_a_kill(folder: &Folder, line: &str, stage: &str) {
    let line = format!("{line} --save-every 1 --quiet");
    folder.done(&format!("{line} --out runs/{stage}-whole"));

    let out = format!("runs/{stage}-cut");
    let prepared = folder.command(&format!("{line} --out {out}"));
    let mut child = Command::new(prepared.get_program())
        .args(prepared.get_args())
        .current_dir(folder.path(""))
        .env("XDG_CACHE_HOME", folder.path("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoints = folder.path(&format!("{out}/checkpoints"));
    let begun = Instant::now();
    let saved = || {
        let entries = fs_err::read_dir(&checkpoints)
            .into_iter()
            .flatten()
            .flatten();
        entries
            .filter_map(|e| {
                e.file_name()
                    .to_str()?
                    .strip_prefix("step-")?
                    .parse::<u64>()
                    .ok()
            })
            .max()
            .unwrap_or(0)
    };
    while saved() < 3 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no checkpoint appears"
        );
        assert!(
            child.try_wait().unwrap().is_none(),
            "finished before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap(); // SIGKILL: no handler runs
    child.wait().unwrap();
    assert!(
        !folder.path(&format!("{out}/finished")).exists(),
        "finished before it could be killed"
    );

    folder.done(&format!("{line} --out {out} --resume"));
    assert_same_run(
        &folder.path(&format!("runs/{stage}-whole")),
        &folder.path(&out),
    );
}

#[test]
fn a_killed_sft_run_resumes_to_the_same_bytes() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    survives_a_kill(
        &folder,
        "sft --model base --data demos.jsonl --steps 60",
        "sft",
    );
}

#[test]
fn a_killed_pretraining_resumes_to_the_same_bytes() {
    let folder = Folder::quick();
    let corpus: String = (0..40)
        .map(|i| format!("thing {i} is red, and thing {} is blue.\n\n", i + 1))
        .collect();
    folder.write("corpus.txt", &corpus);
    survives_a_kill(&folder, "pretrain --data corpus.txt --steps 60", "pretrain");
}

#[test]
fn killed_reward_training_and_ppo_resume_to_the_same_bytes() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    survives_a_kill(
        &folder,
        "reward --model base --prefs prefs.jsonl --steps 60",
        "reward",
    );
    let ppo = "ppo --model base --reward runs/reward-whole --prompts prompts.jsonl --steps 40";
    survives_a_kill(&folder, ppo, "ppo");
}

#[test]
fn resuming_what_is_finished_does_nothing_and_starting_over_it_is_refused() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let line = "sft --model base --data demos.jsonl";
    folder.done(line);
    let metrics = folder.read("runs/sft/metrics.jsonl");
    let said = folder.refused(line);
    assert!(
        said.contains("--resume") && said.contains("--overwrite"),
        "{said}"
    );
    folder.done(&format!("{line} --resume"));
    assert_eq!(folder.read("runs/sft/metrics.jsonl"), metrics);
    folder.done(&format!("{line} --overwrite"));
    assert_eq!(folder.read("runs/sft/metrics.jsonl"), metrics);
}
