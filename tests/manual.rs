//! What `--help` says.

use crate::folder::Folder;

#[test]
fn the_short_help_of_every_command_is_as_reviewed() {
    let folder = Folder::empty();
    let overview = folder.done("--help");
    let commands: Vec<&str> = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    insta::assert_snapshot!("rlhf", overview);
    for command in commands {
        let screen = folder
            .command(&format!("{command} -h"))
            .env("COLUMNS", "80")
            .output()
            .unwrap();
        let screen = String::from_utf8(screen.stdout).unwrap();
        assert!(screen.lines().count() <= 48, "{screen}");
        assert!(
            screen.lines().all(|line| line.chars().count() <= 80),
            "{screen}"
        );
        insta::assert_snapshot!(
            format!("rlhf_{command}"),
            folder.done(&format!("{command} -h"))
        );
    }
}

#[test]
fn the_long_help_of_a_stage_has_an_example_and_every_setting_with_its_default() {
    let folder = Folder::empty();
    let help = folder.done("ppo --help");
    for line in [
        "Example: rlhf ppo",
        "--kl-coef <X>",
        "[default: 0.05; from 0 to 1000]",
        "--gamma <X>",
        "--max-kl <VALUE>",
        "--whiten-advantages <VALUE>",
        "--aggregate <NAME>",
        "--seed <SEED>",
    ] {
        assert!(help.contains(line), "{line} is not in\n{help}");
    }
    assert_eq!(help.matches("--kl-coef <X>").count(), 1, "{help}");
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let folder = Folder::empty();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = folder.done(&format!("completions {shell}"));
        for word in ["label", "dpo", "kl-coef"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    assert!(
        folder
            .refused("completions tcsh")
            .contains("possible values")
    );
    folder.done("manual --man pages");
    let page = fs_err::read_to_string(folder.path("pages/rlhf-ppo.1")).unwrap();
    assert!(page.contains("kl\\-coef"), "{page}");
}
