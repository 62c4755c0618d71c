//! `rlhf doctor` on several ranks.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::folder::Folder;
use crate::mpirun::done;

/// Ranks and their devices, and a sum whose bytes and messages are those that scripts/simulate-ranks computes with.
#[test]
fn doctor_shows_the_ranks_and_what_a_sum_sends_is_what_the_simulator_says() {
    let folder = Folder::quick();
    let report: Value = serde_json::from_str(&done(&folder, 3, "doctor --json")).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let found = |name: &str| {
        let check = checks
            .iter()
            .find(|check| check["check"].as_str().unwrap().starts_with(name));
        check.unwrap()["found"].as_str().unwrap()
    };
    for rank in ["rank 0 of 3", "rank 1 of 3", "rank 2 of 3"] {
        assert!(found(rank).starts_with("cpu (1 thread"), "{}", found(rank));
    }
    assert!(found("alike").starts_with("all compute with"));

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/simulate-ranks");
    let numbers = (1 << 22).to_string();
    let said = Command::new(script)
        .args(["--bytes", &numbers, "3"])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let (bytes, messages) = said.trim().split_once(' ').unwrap();
    let sum = found("sum over all");
    assert!(
        sum.contains(&format!("sends {bytes} bytes in {messages} messages")),
        "{sum} and {said}"
    );
}

/// Every rank holds its models, so the host needs as many times the memory of one process.
#[test]
fn doctor_counts_the_memory_of_all_ranks_of_the_host() {
    let folder = Folder::empty();
    folder.write("sft.toml", "[sft]\nsteps = 2\n");
    let memory = |ranks| {
        let report: Value =
            serde_json::from_str(&done(&folder, ranks, "doctor sft.toml --json")).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let of_sft = checks
            .iter()
            .find(|check| check["part"] == "sft" && check["check"] == "memory");
        of_sft.unwrap()["found"].as_str().unwrap().to_owned()
    };
    let mib = |found: &str| -> f64 { found.split(' ').nth(1).unwrap().parse().unwrap() };
    let (one, three) = (memory(1), memory(3));
    assert!(three.contains(" for 3 ranks of "), "{three}");
    assert!(
        (mib(&three) / mib(&one) - 3.0).abs() < 0.05,
        "{one}; {three}"
    );
}
