//! The commands and settings that the pages of the repository show are commands and settings.

use std::path::{Path, PathBuf};

use crate::cli::command;
use crate::settings::Layers;

/// README.md, CONTRIBUTING.md, and what lies in the folders of pages.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "data", "scripts/bench"] {
        let found = fs_err::read_dir(root.join(folder)).unwrap();
        pages.extend(found.map(|entry| entry.unwrap().path()));
    }
    let crates = fs_err::read_dir(root.join("crates")).unwrap();
    pages.extend(crates.map(|entry| entry.unwrap().path().join("README.md")));
    pages.retain(|page| page.extension().is_some_and(|e| e == "md") && page.exists());
    pages
}

/// Flags exist and take the values shown, and so do the settings of `--set`.
#[test]
fn commands_on_pages_are_taken() {
    let mut checked = 0;
    for page in pages() {
        let text = fs_err::read_to_string(&page).unwrap();
        for line in commands(&text) {
            let words = words(&line);
            let place = format!("{}: {line}", page.display());
            let parsed = command().try_get_matches_from(&words);
            if let Err(error) = parsed.as_ref()
                && error.exit_code() != 0
            {
                panic!("{place}\n{error}");
            }
            let pairs = words.windows(2).filter(|pair| pair[0] == "--set");
            let set: Vec<String> = pairs.map(|pair| pair[1].clone()).collect();
            if let Err(error) = Layers::given(None, &set) {
                panic!("{place}\n{error:#}");
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked} commands were found");
}

/// The lines of console blocks that run the program, as `rlhf …`; a backslash at the end of a line goes on in the next.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let typed = line.strip_prefix("$ ").unwrap_or_default();
        let ours = typed
            .strip_prefix("rlhf ")
            .or_else(|| typed.strip_prefix("cargo run --release -- "));
        let Some(rest) = ours else { continue };
        let mut whole = format!("rlhf {rest}");
        while let Some(start) = whole.strip_suffix('\\') {
            whole = format!("{start}{}", lines.next().unwrap_or_default().trim_start());
        }
        found.push(whole);
    }
    found
}

/// The words of a command as a shell has them, up to a comment or to where its output goes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut begun) = (String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, '#' | '>' | '|' | '<') if !begun => break,
            (None, ' ') => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            _ => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

#[test]
fn a_line_is_split_as_a_shell_splits_it() {
    let line = "rlhf ppo --reward 'regex:(?i)thank you' --set lora.targets='[\"q_proj\"]'   # why";
    let found = [
        "rlhf",
        "ppo",
        "--reward",
        "regex:(?i)thank you",
        "--set",
        "lora.targets=[\"q_proj\"]",
    ];
    assert_eq!(words(line), found);
    let text = "$ rlhf data x \\\n    --show 3\nout\n$ ls\n$ cargo run --release -- run a.toml\n";
    assert_eq!(commands(text), ["rlhf data x --show 3", "rlhf run a.toml"]);
}
