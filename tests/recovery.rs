//! Killed at any moment, resumed, and no trace of it in the result.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::folder::{Folder, assert_same_run};

/// Starts `line` and waits for its third checkpoint in `run`.
fn started(folder: &Folder, line: &str, run: &str) -> Child {
    let prepared = folder.command(line);
    let mut child = Command::new(prepared.get_program())
        .args(prepared.get_args())
        .current_dir(folder.path(""))
        .env("XDG_CACHE_HOME", folder.path("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoints = folder.path(&format!("{run}/checkpoints"));
    let begun = Instant::now();
    let saved = || {
        let entries = fs_err::read_dir(&checkpoints)
            .into_iter()
            .flatten()
            .flatten();
        let steps = entries.filter_map(|e| {
            e.file_name()
                .to_str()?
                .strip_prefix("step-")?
                .parse::<u64>()
                .ok()
        });
        steps.max().unwrap_or(0)
    };
    while saved() < 3 {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "no checkpoint appears"
        );
        assert!(
            child.try_wait().unwrap().is_none(),
            "finished before it could be stopped"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// Kills a run without warning, resumes it, and compares with a run that nobody disturbed.
fn survives_a_kill(folder: &Folder, line: &str, stage: &str) {
    let (whole, cut) = (format!("runs/{stage}-whole"), format!("runs/{stage}-cut"));
    folder.done(&format!("{line} --quiet --out {whole}"));

    // Checkpoints at every step slow the run down, so that it cannot end before it is killed.
    let line = format!("{line} --quiet --out {cut}");
    let mut child = started(folder, &format!("{line} --save-every 1"), &cut);
    child.kill().unwrap(); // SIGKILL: no handler runs
    child.wait().unwrap();
    assert!(
        !folder.path(&format!("{cut}/finished")).exists(),
        "finished before it could be killed"
    );

    folder.done(&format!("{line} --resume"));
    assert_same_run(&folder.path(&whole), &folder.path(&cut));
}

#[test]
fn a_killed_sft_run_resumes_to_the_same_bytes() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    survives_a_kill(
        &folder,
        "sft --model base --data demos.jsonl --steps 300",
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
    survives_a_kill(
        &folder,
        "pretrain --data corpus.txt --steps 300",
        "pretrain",
    );
}

#[test]
fn killed_reward_training_and_ppo_resume_to_the_same_bytes() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    survives_a_kill(
        &folder,
        "reward --model base --prefs prefs.jsonl --steps 300",
        "reward",
    );
    let ppo = "ppo --model base --reward runs/reward-whole --prompts prompts.jsonl --steps 100";
    survives_a_kill(&folder, ppo, "ppo");
    folder.demonstrations("demos.jsonl");
    folder.write(
        "shared.toml",
        "[ppo]\nptx_coef = 0.5\nptx_data = [\"demos.jsonl\"]\nmax_kl = 1e3\n",
    );
    let shared = format!("{ppo} --config shared.toml --critic shared");
    survives_a_kill(&folder, &shared, "shared");
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_saves_a_checkpoint_exits_with_130_and_resumes_to_the_same_bytes() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let line = "sft --model base --data demos.jsonl --steps 1000 --quiet";
    folder.done(&format!("{line} --out runs/whole"));
    // Checkpoints only tell when to interrupt; what is resumed from is the one saved on the signal.
    let mut child = started(
        &folder,
        &format!("{line} --save-every 1 --out runs/cut"),
        "runs/cut",
    );
    let signal = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(signal.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    folder.done(&format!("{line} --out runs/cut --resume"));
    assert_same_run(&folder.path("runs/whole"), &folder.path("runs/cut"));
}

#[test]
fn a_killed_pipeline_continues_where_it_was() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.write(
        "one.toml",
        "[sft]\nmodel = \"base\"\ndata = [\"demos.jsonl\"]\nsteps = 300\nsave_every = 1\n",
    );
    folder.done("run one.toml --quiet --out whole");
    let mut child = started(&folder, "run one.toml --quiet --out cut", "cut/sft");
    child.kill().unwrap();
    child.wait().unwrap();
    let output = folder.command("run one.toml --out cut").output().unwrap();
    let said = crate::folder::stderr(&output);
    assert!(
        output.status.success() && said.contains("sft: continuing the interrupted run"),
        "{said}"
    );
    assert_same_run(&folder.path("whole/sft"), &folder.path("cut/sft"));
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
