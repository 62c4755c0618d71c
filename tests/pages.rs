//! Every command that README and docs show is run, on a tiny model and a few rows, in the order of its page.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::folder::{Folder, gguf, stderr, tiny_gpt2};
use crate::push::{hub, with_token};

/// Beginnings of lines that are other programs', or that build this one or measure it for hours: run by hand, and by continuous integration
/// where it is ours.
const NOT_RUN: &[(&str, &str)] = &[
    ("apt-get ", "installs packages"),
    (
        "cargo fuzz ",
        "builds the fuzzer; tests/fuzz.rs replays its corpus",
    ),
    ("cargo install ", "builds everything"),
    ("cargo test ", "runs these tests"),
    ("curl ", "asks a server that runs; tests/serving.rs does"),
    ("llama-cli ", "llama.cpp"),
    ("mpirun ", "needs MPI; scripts/check mpi runs it"),
    ("ollama ", "Ollama"),
    ("pip ", "needs a network"),
    ("python ", "trackio"),
    ("scripts/", "our scripts; that they exist is checked"),
    ("tensorboard ", "TensorBoard"),
    ("trackio ", "trackio"),
];

/// What a command gets here besides, so that it takes a moment: the beginning of its line, and the words.
const SMALLER: &[(&str, &str)] = &[
    (
        "rlhf run ",
        "--set sft.steps=2 --set reward.steps=2 --set dpo.steps=2 --set ppo.steps=2 --set ppo.batch=4 --set ppo.samples_per_prompt=2 --set ppo.minibatches=1 \
         --set ppo.response_length=4 --set ppo.eval_limit=4 --set ppo.keep_going=true --set eval.limit=4",
    ),
    ("rlhf label ", "--terminal --items 1 --max-new-tokens 4"),
    ("rlhf serve ", "--port 0 --no-open"),
    ("rlhf chat ", "--max-new-tokens 4"),
    ("rlhf generate ", "--max-new-tokens 4"),
];

/// Words of a page that are others here, because runs are shorter and nobody judges enough to learn from.
const REPLACED: &[(&str, &str)] = &[
    (
        "rlhf label --save prefs.jsonl",
        "rlhf label --save judged.jsonl",
    ),
    (
        "--prompts prompts.jsonl --save prefs.jsonl",
        "--prompts prompts.jsonl --save judged.jsonl",
    ),
    (
        "--data answers.jsonl --save prefs.jsonl",
        "--data answers.jsonl --save judged.jsonl",
    ),
    ("--step 40", "--step 2"),
    // What the small GGUF file reads.
    ("--response-length 64", "--response-length 24"),
    // A page with five stages for three seeds: its plan alone.
    (
        "configs/compare.toml --seeds 3",
        "configs/compare.toml --dry-run",
    ),
];

/// What people type while a command runs: a question and a verdict for `chat`, a verdict for `label`.
const TYPED: &str = "Which colour is it?\n1\nf\n";

/// The name of a model on the hub, and what stands for it here.
const ON_THE_HUB: [&str; 2] = ["SmolLM2-135M", "SmolLM2-135M-Instruct"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README.md, CONTRIBUTING.md, and what lies in the folders of pages.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for folder in ["docs", "data", "scripts/bench"] {
        let found = fs_err::read_dir(root().join(folder)).unwrap();
        pages.extend(found.map(|entry| entry.unwrap().path()));
    }
    let crates = fs_err::read_dir(root().join("crates")).unwrap();
    pages.extend(crates.map(|entry| entry.unwrap().path().join("README.md")));
    pages.retain(|page| page.extension().is_some_and(|e| e == "md") && page.exists());
    pages.sort();
    pages
}

/// A folder with everything that a page takes for granted: models on the hub and as files, rows under the names of the pages, and a run of
/// each stage.
fn furnished() -> Folder {
    let folder = Folder::pipeline();
    for name in ON_THE_HUB {
        let repo = format!("hub-cache/hub/models--HuggingFaceTB--{name}");
        folder.write(&format!("{repo}/refs/main"), "0");
        tiny_gpt2(&folder.path(&format!("{repo}/snapshots/0")));
    }
    folder.tiny_gpt2("smollm2");
    for name in ["base.gguf", "smollm2.gguf"] {
        fs_err::copy(gguf(), folder.path(name)).unwrap();
    }
    for name in ["demos.heldout.jsonl", "tldr.jsonl"] {
        folder.demonstrations(name);
    }
    for name in [
        "answers.jsonl",
        "comparisons.jsonl",
        "pairs.train.jsonl",
        "pairs.held.jsonl",
    ] {
        folder.pairs(name);
    }
    for name in [
        "held-out.jsonl",
        "prompts.train.jsonl",
        "prompts.held.jsonl",
    ] {
        folder.prompts(name);
    }
    let ranking =
        r#"{"prompt": "What is it?", "responses": ["A fox.", "Go away."], "ranks": [1, 2]}"#;
    for name in ["rankings.train.jsonl", "rankings.held.jsonl"] {
        folder.write(name, &format!("{ranking}\n"));
    }
    let shp = r#"{"post_id": "a", "domain": "d", "upvote_ratio": 0.9, "history": "How?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": 1, "score_A": 9, "score_B": 3, "score_ratio": 3.0, "c_root_id_A": "x", "c_root_id_B": "y", "seconds_difference": 1.0}"#;
    folder.write("shp.jsonl", &format!("{shp}\n"));
    for config in fs_err::read_dir(root().join("configs")).unwrap() {
        let config = config.unwrap();
        let name = config.file_name().into_string().unwrap();
        folder.write(
            &format!("configs/{name}"),
            &fs_err::read_to_string(config.path()).unwrap(),
        );
    }
    folder.done(&format!("run configs/demo.toml --quiet {}", SMALLER[0].1));
    folder.done("sft --model base --data demos.jsonl --quiet");
    folder.done("reward --prefs prefs.jsonl --quiet");
    folder.done("reward --prefs prefs.jsonl --out runs/ratings --quiet");
    folder.done("ppo --prompts prompts.jsonl --quiet");
    folder.done("export runs/ppo --gguf q4_k_m --quiet");
    folder
}

/// Copies what is below `from`.
fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let (entry, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .unwrap();
        match entry.is_dir() {
            true => copy(&entry, &to.join(name)),
            false => drop(fs_err::copy(&entry, to.join(name)).unwrap()),
        }
    }
}

/// Makes room for what the command is about to make, which the reader of the page has not made yet.
fn make_room(folder: &Folder, words: &[String]) {
    let name = |flag: &str| {
        words
            .windows(2)
            .find(|it| it[0] == flag)
            .map(|it| it[1].clone())
    };
    let remove = |name: &str| {
        let path = folder.path(name);
        match path.is_dir() {
            true => fs_err::remove_dir_all(path).unwrap(),
            false => drop(fs_err::remove_file(path)),
        }
    };
    match words[0].as_str() {
        stage @ ("pretrain" | "sft" | "reward" | "dpo" | "ppo") => {
            remove(&name("--out").unwrap_or_else(|| format!("runs/{stage}")));
        }
        "init" => remove(&name("--out").unwrap_or_else(|| "rlhf.toml".to_owned())),
        "label" => {
            remove("judged.jsonl");
            remove("judged.answers.jsonl");
        }
        "merge" | "export" => drop(fs_err::remove_dir_all(folder.path("runs/ppo-merged"))),
        _ => {}
    }
}

#[test]
fn every_command_of_the_pages_runs() {
    let furnished = furnished();
    let hub = hub(&[]);
    let (mut run, mut left_out) = (0, vec![0; NOT_RUN.len()]);
    let mut failed: Vec<String> = Vec::new();
    for page in pages() {
        let text = fs_err::read_to_string(&page).unwrap();
        let lines = commands(&text);
        let folder = Folder::empty();
        if lines.iter().any(|line| line.starts_with("rlhf ")) {
            copy(&furnished.path(""), &folder.path(""));
        }
        for line in lines {
            let place = format!("{}: {line}", page.display());
            if let Some(at) = NOT_RUN
                .iter()
                .position(|(begin, _)| line.starts_with(begin))
            {
                left_out[at] += 1;
                let script = line.split(' ').next().unwrap();
                assert!(
                    !script.contains('/') || root().join(script).exists(),
                    "{place}"
                );
                continue;
            }
            assert!(
                line.starts_with("rlhf "),
                "{place}\nis neither run nor in NOT_RUN"
            );
            let mut shorter = line.clone();
            for (from, to) in REPLACED {
                shorter = shorter.replace(from, to);
            }
            let mut typed = words(&shorter);
            if let Some((_, more)) = SMALLER.iter().find(|(begin, _)| line.starts_with(begin)) {
                typed.extend(more.split_whitespace().map(str::to_owned));
            }
            typed.remove(0);
            make_room(&folder, &typed);
            let mut command = folder.command("");
            command.args(&typed);
            if line.starts_with("rlhf push") {
                command = with_token(command, &hub);
            }
            if line.starts_with("rlhf serve") {
                serves(&place, command);
            } else {
                let output = command.write_stdin(TYPED).output().unwrap();
                let result = String::from_utf8_lossy(&output.stdout);
                let said = stderr(&output);
                if !output.status.success() {
                    failed.push(format!("{place}\n{said}\n{result}"));
                }
            }
            run += 1;
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(run > 40, "only {run} commands were found");
    for ((begin, _), times) in NOT_RUN.iter().zip(left_out) {
        assert!(times > 0, "no page has a command that begins with {begin}");
    }
}

/// A server says where it is, and is ended then.
fn serves(place: &str, command: assert_cmd::Command) {
    struct Ended(Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut process = std::process::Command::new(command.get_program());
    process.args(command.get_args());
    process.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
    }
    process
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut server = Ended(process.spawn().unwrap());
    let mut said = BufReader::new(server.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://") {
        line.clear();
        if said.read_line(&mut line).unwrap() == 0 {
            let mut rest = String::new();
            let _ = said.read_to_string(&mut rest);
            panic!("{place}\n{rest}");
        }
    }
}

/// The commands of console blocks, ours as `rlhf …`; a backslash at the end of a line goes on in the next.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(typed) = line.strip_prefix("$ ") else {
            continue;
        };
        let mut whole = match typed.strip_prefix("cargo run --release -- ") {
            Some(rest) => format!("rlhf {rest}"),
            None => typed.to_owned(),
        };
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
    assert_eq!(
        commands(text),
        ["rlhf data x --show 3", "ls", "rlhf run a.toml"]
    );
}
