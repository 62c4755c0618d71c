//! `rlhf chat`, with lines from a pipe and from a terminal.

use serde_json::Value;

use crate::folder::{Folder, stderr, tiny_gpt2_of};

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/// Types `lines`; the answers and what was said besides.
fn typed(folder: &Folder, flags: &str, lines: &str) -> (Vec<Value>, String) {
    let line = format!("chat --quiet --max-new-tokens 8 {flags}");
    let output = folder.command(&line).write_stdin(lines).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers = answers.lines().map(|l| serde_json::from_str(l).unwrap());
    (answers.collect(), said)
}

#[test]
fn every_line_is_answered_by_every_model_and_the_same_seed_says_the_same() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let flags = "--model base --against base --format Q:{}\\n --reward length:4";
    let (answers, _) = typed(&folder, flags, "red?\n\n/again\n/new\nblue?\n");
    let prompts: Vec<&str> = answers
        .iter()
        .map(|a| a["prompt"].as_str().unwrap())
        .collect();
    assert_eq!(
        prompts,
        [
            "Q:red?\n",
            "Q:red?\n",
            "Q:red?\n",
            "Q:red?\n",
            "Q:blue?\n",
            "Q:blue?\n"
        ]
    );
    for answer in &answers {
        assert!(
            answer["model"] == "base" && answer["score"].as_f64().unwrap() <= 1.0,
            "{answer}"
        );
    }
    assert_ne!(
        answers[0]["response"], answers[2]["response"],
        "/again draws anew"
    );
    assert_eq!(
        typed(&folder, flags, "red?\n\n/again\n/new\nblue?\n").0,
        answers
    );
    let greedy = typed(&folder, flags, "/temperature 0\nred?\n/again\n").0;
    assert_eq!(greedy[0]["response"], greedy[2]["response"]);
}

#[test]
fn a_model_with_a_chat_template_remembers_until_told_to_forget_or_out_of_room() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.write("base/chat_template.jinja", TEMPLATE);
    let turns = |answer: &Value| answer["prompt"].as_array().unwrap().len();
    let (answers, _) = typed(
        &folder,
        "--model base --system Rhyme.",
        "red?\nblue?\n/again\n/new\ngreen?\n",
    );
    let counted: Vec<usize> = answers.iter().map(turns).collect();
    assert_eq!(
        counted,
        [2, 4, 4, 2],
        "system, then a turn for each thing said"
    );
    assert_eq!(answers[1]["prompt"][2]["content"], answers[0]["response"]);
    assert_eq!(answers[1]["prompt"], answers[2]["prompt"]);

    let many = "what is red and what is blue and what is green?\n".repeat(30);
    let (answers, _) = typed(&folder, "--model base", &many);
    assert_eq!(answers.len(), 30);
    let longest = answers.iter().map(turns).max().unwrap();
    assert!(
        longest > 3 && longest < 59,
        "{longest} turns: the beginning is forgotten"
    );
    let (answers, said) = typed(
        &folder,
        "--model base",
        &format!("{}\nred?\n", "red ".repeat(2000)),
    );
    assert!(
        answers.len() == 1 && said.contains("reads at most"),
        "{said}"
    );
}

#[test]
fn a_verdict_becomes_feedback_that_a_reward_model_learns_from() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    let flags = "--model base --save prefs.jsonl";
    let lines: String = (0..6)
        .map(|i| format!("what is {i}?\n{}\n", ["1", "2", "x\n="][i % 3]))
        .collect();
    let (answers, _) = typed(&folder, flags, &format!("{lines}nobody knows?\n\n"));
    assert_eq!(answers.len(), 14);
    let rows: Vec<Value> = folder
        .read("prefs.jsonl")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(rows.len(), 6, "no verdict, no row");
    assert_eq!(rows[0]["chosen"], answers[0]["response"]);
    assert_eq!(rows[0]["rejected"], answers[1]["response"]);
    assert_eq!(rows[1]["chosen"], answers[3]["response"]);
    assert_eq!(rows[2]["ranks"], serde_json::json!([1, 1]));
    folder.done("reward --model base --prefs prefs.jsonl --eval-prefs prefs.jsonl --quiet");
}

#[test]
fn flags_that_no_model_could_heed_are_refused() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    assert!(
        folder
            .refused("chat --model base --system Rhyme.")
            .contains("no chat template")
    );
    assert!(
        folder
            .refused("chat --model base --format Q:")
            .contains("{}")
    );
    assert!(
        folder
            .refused("chat --model base --temperature=-1")
            .contains("temperature")
    );
    assert!(
        folder
            .refused("chat --model runs/nowhere")
            .contains("runs/nowhere")
    );
    folder.tiny_gpt2("other");
    folder.write("other/chat_template.jinja", TEMPLATE);
    assert!(
        folder
            .refused("chat --model other --format Q:{}")
            .contains("--format")
    );
    let said = folder.refused("chat --model base --against other --save prefs.jsonl");
    assert!(said.contains("same prompt"), "{said}");
}

/// A terminal with `rlhf chat` in it.
#[cfg(unix)]
struct Terminal {
    screen: fs_err::File,
    /// All that was shown and not yet looked for.
    shown: Vec<u8>,
    child: std::process::Child,
}

#[cfg(unix)]
impl Terminal {
    fn start(folder: &Folder, line: &str) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let end = || {
            let mut options = fs_err::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .open(&name)
                .unwrap()
                .into_parts()
                .0
        };
        let prepared = folder.command(line);
        let mut command = std::process::Command::new(prepared.get_program());
        command
            .args(prepared.get_args())
            .current_dir(folder.path(""))
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        Self {
            screen: fs_err::File::from_parts(screen.into(), name),
            shown: Vec::new(),
            child: command.spawn().unwrap(),
        }
    }

    fn types(&mut self, keys: &str) {
        use std::io::Write as _;
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` is shown; how many bytes came before it since the last time.
    fn waits_for(&mut self, text: &str) -> usize {
        loop {
            let found = self
                .shown
                .windows(text.len())
                .position(|w| w == text.as_bytes());
            if let Some(at) = found {
                self.shown.drain(..at + text.len());
                return at;
            }
            assert!(
                self.look(),
                "the chat ended: {}",
                String::from_utf8_lossy(&self.shown)
            );
        }
    }

    /// Reads a little of what is shown; false once there is nobody to show anything.
    fn look(&mut self) -> bool {
        use std::io::Read as _;
        let mut bytes = [0; 64];
        // Linux answers with an error where the other end is closed.
        let read = self.screen.read(&mut bytes).unwrap_or(0);
        self.shown.extend(&bytes[..read]);
        read > 0
    }
}

#[cfg(unix)]
impl Drop for Terminal {
    /// A test that fails leaves no chat behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_the_answer_and_at_the_prompt_the_line_but_not_the_chat() {
    let folder = Folder::quick();
    // Longer than what a terminal holds unread, so that it cannot end by itself before the signal comes.
    let tokens = 40_000;
    tiny_gpt2_of(&folder.path("base"), tokens + 100);
    let line = format!("chat --model base --max-new-tokens {tokens} --min-new-tokens {tokens}");
    let mut terminal = Terminal::start(&folder, &line);
    for _ in 0..2 {
        terminal.waits_for("> ");
        terminal.types("what is red?\r");
        terminal.waits_for("what is red?");
        // The end of the typed line and some of the answer.
        while terminal.shown.len() < 64 {
            assert!(terminal.look());
        }
        let signal = std::process::Command::new("kill")
            .args(["-INT", &terminal.child.id().to_string()])
            .status()
            .unwrap();
        assert!(signal.success());
        let shown = terminal.waits_for(" […]");
        assert!(shown < tokens, "{shown} bytes are the whole answer");
    }
    terminal.waits_for("> ");
    terminal.types("half a line\x03");
    terminal.waits_for("/quit or Ctrl-D ends");
    terminal.waits_for("> ");
    terminal.types("/quit\r");
    // Somebody must read what a terminal shows, or its programs wait.
    while terminal.child.try_wait().unwrap().is_none() {
        if !terminal.look() {
            break;
        }
    }
    assert!(terminal.child.wait().unwrap().success());
}
