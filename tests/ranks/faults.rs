//! One rank fails, or is not like the others.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::folder::{Folder, files, stderr};
use crate::mpirun::{mpirun, run};

const SFT: &str = "rlhf sft --model base --data demos.jsonl";

/// Longer than it takes on the slowest machine, and short beside a run that waits for ever.
const SECONDS: Duration = Duration::from_secs(120);

#[test]
fn a_rank_with_other_settings_or_files_is_refused_by_name_and_nothing_is_written() {
    let folder = Folder::pipeline();
    let refused = |line: &str| {
        let output = run(&folder, line);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "one voice: {said}");
        assert!(!folder.path("runs").exists(), "{line}");
        said
    };
    let said = refused(&format!("-n 1 {SFT} : -n 1 {SFT} --lr 0.5"));
    assert!(said.contains("rank 1 of 2 on "), "{said}");
    assert!(said.contains("sft.lr is 0.5 instead of 0.001"), "{said}");
    // The same name and other content.
    folder.write(
        "there/demos.jsonl",
        &folder.read("demos.jsonl").replace("red", "blue"),
    );
    folder.write("there/rlhf.toml", &folder.read("rlhf.toml"));
    let base = folder.path("base");
    let line = format!("rlhf sft --model {} --data demos.jsonl", base.display());
    let there = folder.path("there");
    let said = refused(&format!(
        "-n 1 {line} : -wdir {} -n 1 {line}",
        there.display()
    ));
    assert!(said.contains("demos.jsonl"), "{said}");
    // What every rank finds is said once.
    let said = refused("-n 2 rlhf sft --model nowhere --data demos.jsonl");
    assert!(
        said.contains("nowhere") && !said.contains("rank 1"),
        "{said}"
    );
    let said = refused("-n 2 rlhf generate --model base --prompt hello");
    assert!(said.contains("start it without mpirun"), "{said}");
}

#[test]
fn an_error_on_one_rank_ends_all_with_its_name_and_its_cause() {
    let folder = Folder::pipeline();
    let begun = Instant::now();
    let there = folder.path("there");
    folder.write("there/rlhf.toml", &folder.read("rlhf.toml"));
    let base = folder.path("base");
    let line = format!("rlhf sft --model {} --data demos.jsonl", base.display());
    let output = run(
        &folder,
        &format!("-n 1 {line} : -wdir {} -n 1 {line}", there.display()),
    );
    let said = stderr(&output);
    assert!(!output.status.success());
    assert!(
        said.contains("rank 1 of 2 on ") && said.contains("demos.jsonl"),
        "{said}"
    );
    assert!(begun.elapsed() < SECONDS);
}

/// The checkpoint before stays whole, and the run goes on from it.
#[test]
fn a_killed_rank_ends_all_and_the_run_goes_on_from_its_last_checkpoint() {
    let folder = Folder::pipeline();
    let line = format!("{SFT} --steps 100000 --save-every 5 --out runs/long --quiet");
    let mut child = mpirun(&folder, &format!("-n 2 {line}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let run_dir = folder.path("runs/long");
    // Any checkpoint will do: steps are made faster than this looks, and old ones are removed.
    let begun = Instant::now();
    while rlhf_train::newest_checkpoint(&run_dir).is_none() {
        assert!(begun.elapsed() < SECONDS, "no step is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    let victim = ranks_of(child.id())[1];
    let killed = Instant::now();
    std::process::Command::new("kill")
        .args(["-9", &victim.to_string()])
        .status()
        .unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert!(killed.elapsed() < SECONDS, "{:?}", killed.elapsed());
    let newest = rlhf_train::newest_checkpoint(&run_dir).unwrap();
    let go_on = format!(
        "-n 3 rlhf sft --resume --steps {} --out runs/long",
        newest + 1
    );
    let output = run(&folder, &go_on);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("resuming after step {newest}")));
}

/// The processes that `mpirun` has started, in order of rank: it starts one after the other.
fn ranks_of(mpirun: u32) -> Vec<u32> {
    let children = format!("/proc/{mpirun}/task/{mpirun}/children");
    let text = fs_err::read_to_string(children).unwrap();
    text.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

#[test]
fn a_full_disk_on_the_leader_ends_all_and_says_how_to_go_on() {
    let folder = Folder::pipeline();
    fs_err::create_dir_all(folder.path("runs/full")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path("runs/full/timings.jsonl")).unwrap();
    let begun = Instant::now();
    let output = run(&folder, &format!("-n 2 {SFT} --out runs/full"));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("timings.jsonl") && said.contains("--resume"),
        "{said}"
    );
    assert!(begun.elapsed() < SECONDS);
}

/// Ctrl-C reaches one rank, and all stop after the same step, with a checkpoint.
#[test]
fn an_interrupted_rank_stops_all_after_the_same_step() {
    let folder = Folder::pipeline();
    let line = format!("{SFT} --steps 100000 --save-every 0 --out runs/long --quiet");
    let child = mpirun(&folder, &format!("-n 2 {line}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let metrics = folder.path("runs/long/metrics.jsonl");
    let begun = Instant::now();
    while !fs_err::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 3) {
        assert!(begun.elapsed() < SECONDS, "no step is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    let any = ranks_of(child.id())[1];
    std::process::Command::new("kill")
        .args(["-INT", &any.to_string()])
        .status()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("a checkpoint is saved"), "{said}");
    let saved = files(&folder.path("runs/long/checkpoints"));
    assert_eq!(saved.len(), 3, "one whole checkpoint");
}
