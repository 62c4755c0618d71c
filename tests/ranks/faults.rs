//! One rank fails, or is not like the others.

use std::time::Instant;

use crate::folder::{Folder, files, stderr};
use crate::mpirun::{Running, SECONDS, mpirun, run, signal};

const SFT: &str = "rlhf sft --model base --data demos.jsonl";

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
    let mut running = Running::start(&folder, mpirun(&folder, &format!("-n 2 {line}")));
    let run_dir = folder.path("runs/long");
    running.until_a_checkpoint(&run_dir);
    let killed = Instant::now();
    signal("KILL", ranks_of(running.id())[1]).unwrap();
    let (status, said) = running.end();
    assert!(!status.success(), "{said}");
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
    let mut running = Running::start(&folder, mpirun(&folder, &format!("-n 2 {line}")));
    let metrics = folder.path("runs/long/metrics.jsonl");
    running.until("fourth step", || {
        fs_err::read_to_string(&metrics).is_ok_and(|text| text.lines().count() > 3)
    });
    signal("INT", ranks_of(running.id())[1]).unwrap();
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("a checkpoint is saved"), "{said}");
    let saved = files(&folder.path("runs/long/checkpoints"));
    assert_eq!(saved.len(), 3, "one whole checkpoint");
}
