//! What stdout and stderr get, and what is said when they take nothing or there is no result.

use std::process::Command;

use crate::folder::{Folder, stderr};

/// `rlhf` and the words of `line`, with streams that can be replaced.
fn plain(folder: &Folder, line: &str) -> Command {
    let prepared = folder.command(line);
    let mut command = Command::new(prepared.get_program());
    command
        .args(prepared.get_args())
        .current_dir(folder.path(""))
        .env("XDG_CACHE_HOME", folder.path("cache"));
    command
}

/// `/dev/full` answers every write as a full disk does.
#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_written_fails_and_a_message_that_cannot_does_not() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let full = || {
        std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for line in [
        "--help",
        "sft --help",
        "manual",
        "mdp",
        "mdp --json",
        "data demos.jsonl",
        "data demos.jsonl --json",
        "score --model base --data demos.jsonl",
        "eval --model base --data demos.jsonl",
        "generate --model base --prompt a --max-new-tokens 3 --quiet",
        "sft --model base --data demos.jsonl --steps 1 --quiet",
    ] {
        let output = plain(&folder, line).stdout(full()).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(
            said.contains("could not be written to stdout: No space left"),
            "{line}: {said}"
        );
    }
    for line in [
        "mdp",
        "sft --model base --data demos.jsonl --steps 1 --out runs/other",
    ] {
        let output = plain(&folder, line).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{line}");
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = Folder::quick();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = plain(&folder, "mdp").stdout(writer).output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), String::new())
    );
}

#[test]
fn weights_that_are_not_finite_are_refused_by_every_command_and_the_tensor_is_named() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let file = folder.path("base/model.safetensors");
    let mut bytes = fs_err::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs_err::write(&file, bytes).unwrap();
    for line in [
        "score --model base --data demos.jsonl",
        "eval --model base --data demos.jsonl",
        "generate --model base --prompt a",
        "sft --model base --data demos.jsonl",
        "reward --model base",
        "ppo --model base --reward length:4",
    ] {
        let said = folder.refused(line);
        assert!(
            said.contains("model.safetensors: tensor ") && said.contains("NaN"),
            "{line}: {said}"
        );
        assert!(!folder.path("runs").exists(), "{line}");
    }
}
