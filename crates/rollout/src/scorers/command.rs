//! `command:LINE`: a reward from any program. JSON lines in, one number a line out.

use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rlhf_lm::Tokenizer;
use serde::Deserialize;
use serde_json::Value;

use super::Scorer;
use crate::{Episode, PromptRow};

/// How long to wait between two looks at whether a program that has closed its output has ended.
const POLL: Duration = Duration::from_millis(5);

/// A shell command that is started once for every batch of responses.
///
/// It reads one `{"prompt", "response", …}` a line, with every other field of the prompt's row besides, until its input ends, and prints one line for each: a number, or
/// `{"score": number}`. A new process for each batch needs no flushing and keeps no state that a resumed run would lack.
struct ScoreCommand {
    line: String,
    timeout: Duration,
}

/// One line of the program's input: what is scored, and what else the prompt's row holds, so that a rule can compare with a reference.
fn question(prompt: &PromptRow, response: &str) -> Result<String> {
    let mut line = prompt.fields.clone();
    line.insert("prompt".to_owned(), serde_json::to_value(&prompt.text)?);
    line.insert("response".to_owned(), Value::from(response));
    Ok(serde_json::to_string(&line)?)
}

/// One line of its output.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Number(f64),
    Object { score: f64 },
}

/// `line` is what one would type into a shell; a batch may take `timeout`.
pub(super) fn open(line: &str, timeout: Duration) -> Result<Box<dyn Scorer>> {
    ensure!(
        !line.trim().is_empty(),
        "expected command:LINE, such as command:./score.py"
    );
    Ok(Box::new(ScoreCommand {
        line: line.to_owned(),
        timeout,
    }))
}

impl Scorer for ScoreCommand {
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let mut rows = Vec::with_capacity(episodes.len());
        for episode in episodes {
            let text = episode.text(tokenizer, prompts)?;
            rows.push((&prompts[episode.prompt], text));
        }
        self.ask(&rows)
    }

    /// The programs and data files among the words of the line.
    fn files(&self) -> Vec<PathBuf> {
        let words = self.line.split_whitespace().map(Path::new);
        let files = words.filter(|word| word.is_file());
        files.map(Path::to_owned).collect()
    }
}

impl ScoreCommand {
    /// The score of every (prompt, response), in order.
    fn ask(&self, rows: &[(&PromptRow, String)]) -> Result<Vec<f64>> {
        let mut questions = String::new();
        for (prompt, response) in rows {
            questions.push_str(&question(prompt, response)?);
            questions.push('\n');
        }
        let (answers, status) = self.run(questions, rows.len())?;
        let lines: Vec<&str> = answers.lines().filter(|l| !l.trim().is_empty()).collect();
        ensure!(
            status.success(),
            "the reward command `{}` ended with {status} after {} of {} answers; its own messages are above",
            self.line,
            lines.len(),
            rows.len()
        );
        ensure!(
            lines.len() == rows.len(),
            "the reward command `{}` answered {} responses with {} lines: it must print one line for each line it reads, a \
             number or {{\"score\": number}}",
            self.line,
            rows.len(),
            lines.len()
        );
        let score = |(i, line): (usize, &&str)| match serde_json::from_str(line) {
            Ok(Answer::Number(score) | Answer::Object { score }) => Ok(score),
            Err(_) => bail!(
                "answer {} of the reward command `{}` is `{line}`: expected a finite number or {{\"score\": number}}",
                i + 1,
                self.line
            ),
        };
        lines.iter().enumerate().map(score).collect()
    }

    /// What the program prints to `questions`, and how it ended.
    fn run(&self, questions: String, count: usize) -> Result<(String, ExitStatus)> {
        let begun = Instant::now();
        let mut child = shell(&self.line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the reward command `{}` cannot be started", self.line))?;
        let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the reward command `{}` has no pipes", self.line);
        };
        // Both pipes at once: a program that answers as it reads would otherwise wait for us as we wait for it.
        let writer = thread::spawn(move || input.write_all(questions.as_bytes()));
        let (send, receive) = channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = output.read_to_end(&mut bytes).map(|_| bytes);
            // After a timeout the receiver is gone, and so is the need for what was read.
            let _ = send.send(read);
        });
        let answers = receive.recv_timeout(self.timeout).ok();
        let status = match &answers {
            Some(_) => wait(&mut child, self.timeout.saturating_sub(begun.elapsed()))?,
            None => None,
        };
        let (Some(answers), Some(status)) = (answers, status) else {
            stop(&mut child);
            bail!(
                "the reward command `{}` has not finished {count} responses within {} s and was stopped; make it faster, \
                 or raise reward_timeout",
                self.line,
                self.timeout.as_secs_f64()
            );
        };
        // A program may score without reading everything; whether it answered enough is counted elsewhere.
        if let Ok(Err(error)) = writer.join()
            && error.kind() != ErrorKind::BrokenPipe
        {
            return Err(error)
                .with_context(|| format!("writing to the reward command `{}`", self.line));
        }
        let answers = String::from_utf8(
            answers.with_context(|| format!("reading from the reward command `{}`", self.line))?,
        );
        let answers = answers
            .with_context(|| format!("the reward command `{}` prints no UTF-8", self.line))?;
        Ok((answers, status))
    }
}

/// The status of a process that ends within `timeout`.
fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if begun.elapsed() >= timeout => return Ok(None),
            None => thread::sleep(POLL),
        }
    }
}

#[cfg(unix)]
fn shell(line: &str) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("sh");
    // A group of its own: Ctrl-C lets it finish its batch, and stopping it stops what it started.
    command.arg("-c").arg(line).process_group(0);
    command
}

#[cfg(windows)]
fn shell(line: &str) -> Command {
    use std::os::windows::process::CommandExt as _;
    let mut command = Command::new("cmd");
    // As it was typed: cmd does not undo the quoting that programs usually do.
    command.arg("/C").raw_arg(line);
    command
}

/// Ends a program that takes too long, with everything it has started.
fn stop(child: &mut Child) {
    // It may have ended by itself in this very moment, so nothing here can fail in a way that matters.
    #[cfg(unix)]
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{}", child.id())])
        .stderr(Stdio::null())
        .status();
    #[cfg(windows)]
    let _ = Command::new("taskkill")
        .args(["/T", "/F", "/PID", &child.id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use rlhf_base::Text;

    fn ask(line: &str, count: usize, seconds: f64) -> Result<Vec<f64>> {
        let prompt = PromptRow::new(Text::from("Q"), vec![1]);
        let rows: Vec<_> = (0..count)
            .map(|i| (&prompt, format!("answer {i}")))
            .collect();
        let command = ScoreCommand {
            line: line.to_owned(),
            timeout: Duration::from_secs_f64(seconds),
        };
        command.ask(&rows)
    }

    fn said(line: &str, seconds: f64) -> String {
        ask(line, 3, seconds).unwrap_err().to_string()
    }

    #[test]
    fn numbers_and_objects_are_scores_in_the_order_of_the_responses() {
        assert_eq!(
            ask(
                "cat > /dev/null; echo 1; echo '{\"score\": -2.5}'; echo; echo 3e-1",
                3,
                60.0
            )
            .unwrap(),
            [1.0, -2.5, 0.3]
        );
        // What is asked arrives as JSON: the last character before the closing quote is the number of the answer.
        let line = r#"sed 's/.*answer \([0-9]*\)".*/\1/'"#;
        let scores = ask(line, 20_000, 60.0).unwrap();
        assert!(
            scores
                .iter()
                .enumerate()
                .all(|(i, score)| *score == i as f64)
        );
    }

    #[test]
    fn the_other_fields_of_the_row_are_given_too_and_ours_win() {
        let mut prompt = PromptRow::new(Text::from("2+2"), vec![1]);
        let row = serde_json::json!({"answer": "4", "response": "theirs", "info": {"level": 1}});
        prompt.fields = row.as_object().unwrap().clone();
        let line: Value = serde_json::from_str(&question(&prompt, "ours").unwrap()).unwrap();
        let want = serde_json::json!(
            {"prompt": "2+2", "response": "ours", "answer": "4", "info": {"level": 1}}
        );
        assert_eq!(line, want);
    }

    #[test]
    fn a_program_that_dies_says_how_and_after_how_many_answers() {
        let said = said("echo 1; exit 3", 60.0);
        assert!(
            said.contains("exit status: 3 after 1 of 3 answers"),
            "{said}"
        );
        let missing = super::tests::said("./no-such-scorer", 60.0);
        assert!(
            missing.contains("./no-such-scorer") && missing.contains("127"),
            "{missing}"
        );
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped_with_what_it_started() {
        let begun = Instant::now();
        let said = said("sleep 600 | cat", 0.2);
        assert!(said.contains("reward_timeout"), "{said}");
        let closed = super::tests::said("exec >&-; sleep 600", 0.2);
        assert!(closed.contains("reward_timeout"), "{closed}");
        assert!(begun.elapsed() < Duration::from_secs(300));
    }

    #[test]
    fn too_few_answers_and_what_is_no_number_are_errors() {
        let few = said("cat > /dev/null; echo 1; echo 2", 60.0);
        assert!(few.contains("3 responses with 2 lines"), "{few}");
        for bad in ["NaN", "nan", "null", "{\"reward\": 1}", "Infinity", "1e999"] {
            let said = said(&format!("echo 1; echo '{bad}'; echo 2"), 60.0);
            assert!(
                said.contains("answer 2 of the reward command") && said.contains(bad),
                "{said}"
            );
        }
    }
}
