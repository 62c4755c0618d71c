//! Answers that are sampled while people judge.
//!
//! A thread samples prompt after prompt, a few ahead of what is wanted, and keeps what it has in a file, so that a restart goes on with the
//! same answers. What is sampled depends on the seed and on the place of the prompt, not on when it is asked for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rand::RngCore as _;
use rlhf_base::{Text, rng};
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer};
use rlhf_ops::device::in_background;
use rlhf_rollout::{PromptRow, respond};
use rlhf_train::Comm;
use serde_json::{Value, json};

use crate::Kind;
use crate::error::Error;
use crate::item::{Answer, Candidates};
use crate::pool::{Arrivals, Pool};

/// Most prompts that are answered side by side.
const CHUNK: usize = 16;

/// A model that answers.
pub struct Speaker {
    /// As it is named in the file of judgements.
    pub name: String,
    /// Turns prompts into tokens, and tokens into answers.
    pub tokenizer: Tokenizer,
    /// The model.
    pub model: CausalLm,
}

/// What is sampled.
pub struct Sampling {
    /// One model, or two whose answers are compared. They take turns in answering.
    pub speakers: Vec<Speaker>,
    /// The prompts.
    pub prompts: Vec<Text>,
    /// How many answers to each.
    pub answers: usize,
    /// How the next token is chosen; its seed is that of everything here.
    pub config: SamplingConfig,
    /// What a session asks about the answers.
    pub kind: Kind,
    /// What the answers depend on besides: the contents of the models.
    pub identity: String,
}

/// Where the answers sampled for a file of judgements are kept: of `prefs.jsonl`, `prefs.answers.jsonl`.
pub fn answers_of(path: &Path) -> PathBuf {
    path.with_extension("answers.jsonl")
}

impl Sampling {
    /// The pool of what has been kept in `file` and what is sampled from now on. Its prompts come in a random order.
    ///
    /// # Errors
    /// If the file holds answers that were sampled otherwise, or cannot be written.
    pub fn start(mut self, file: &Path) -> Result<Pool> {
        let identity = self.identity();
        let mut order = rng::stream(self.config.seed, "label/order", 0);
        rng::shuffle(&mut order, &mut self.prompts);
        let kept = read(file, &identity)?;
        let mut out = fs_err::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .map_err(|cause| Error::NotWritable {
                path: file.to_owned(),
                cause,
            })?;
        let each = match self.kind.compares() {
            true => 1,
            false => self.answers,
        };
        let arrivals = Arrivals::expecting(self.prompts.len() * each);
        let pool = Pool::arriving(&arrivals);
        let mut done = kept.len();
        let kind = self.kind;
        arrivals.deliver(kept.into_iter().flat_map(|it| it.for_kind(kind)).collect());
        in_background("answers", move || {
            let mut end = End {
                arrivals,
                why: Some("sampling answers has failed".to_owned()),
            };
            let made = self.run(&mut done, &identity, &mut out, &end.arrivals);
            end.why = made
                .err()
                .map(|error| format!("sampling answers: {error:#}"));
        })?;
        Ok(pool)
    }

    /// Samples chunk after chunk until all is done or nobody wants more.
    fn run(
        &self,
        done: &mut usize,
        identity: &str,
        out: &mut fs_err::File,
        arrivals: &Arrivals,
    ) -> Result<()> {
        while *done < self.prompts.len() {
            if !arrivals.wait_until_wanted() {
                return Ok(());
            }
            let start = chunk_of(*done);
            let end = self.prompts.len().min(start + start.clamp(1, CHUNK));
            let made = self.sample(start, end)?;
            let new: Vec<Candidates> = made.into_iter().skip(*done - start).collect();
            let rows: String = new
                .iter()
                .map(|it| format!("{}\n", row(it, identity)))
                .collect();
            out.write_all(rows.as_bytes())?;
            *done += new.len();
            arrivals.deliver(
                new.into_iter()
                    .flat_map(|it| it.for_kind(self.kind))
                    .collect(),
            );
        }
        Ok(())
    }

    /// The answers to the prompts of a chunk.
    fn sample(&self, start: usize, end: usize) -> Result<Vec<Candidates>> {
        let n = self.speakers.len();
        let mut answers: Vec<Vec<Answer>> = vec![Vec::new(); end - start];
        for (i, speaker) in self.speakers.iter().enumerate() {
            let own = (self.answers + n - 1 - i) / n;
            if own == 0 {
                continue;
            }
            let rows = self.prompts[start..end].iter().map(|prompt| {
                let ids = speaker.tokenizer.encode_prompt(prompt)?;
                Ok(PromptRow::new(prompt.clone(), ids))
            });
            let rows = rows.collect::<Result<Vec<_>>>()?;
            let seed =
                rng::stream(self.config.seed, "label/sample", (start * n + i) as u64).next_u64();
            let config = SamplingConfig {
                seed,
                ..self.config.clone()
            };
            for episode in respond(
                &speaker.model,
                &speaker.tokenizer,
                &rows,
                own,
                &config,
                &Comm::single(),
            )? {
                answers[episode.prompt].push(Answer {
                    text: Text::Plain(episode.text(&speaker.tokenizer, &rows)?),
                    model: Some(speaker.name.clone()),
                    finished: episode.finished,
                });
            }
        }
        let prompts = self.prompts[start..end].iter().cloned();
        let all = prompts.zip(answers);
        Ok(all
            .map(|(prompt, answers)| Candidates::new(prompt, answers, None))
            .collect())
    }

    /// A name for everything that the answers depend on.
    fn identity(&self) -> String {
        let config = SamplingConfig {
            // Responses do not depend on what is sampled beside them.
            max_rows: 0,
            lookup: 0,
            ..self.config.clone()
        };
        let names: Vec<&str> = self.speakers.iter().map(|it| it.name.as_str()).collect();
        let prompts: Vec<String> = self.prompts.iter().map(Text::to_string).collect();
        let all = format!(
            "{config:?}{names:?}{}{}{prompts:?}",
            self.answers, self.identity
        );
        format!("{:016x}", rng::fnv1a(all.as_bytes()))
    }
}

/// Tells the pool how the thread ended, also when it panics.
struct End {
    arrivals: Arc<Arrivals>,
    why: Option<String>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.arrivals.finish(self.why.take());
    }
}

/// The first prompt of the chunk that prompt `i` is in. The first chunks are small, so that nobody waits for the first item: they begin at 0,
/// 1, 2, 4, 8, 16, and then every 16 prompts.
fn chunk_of(i: usize) -> usize {
    match i {
        0 => 0,
        1..CHUNK => 1 << i.ilog2(),
        _ => i - i % CHUNK,
    }
}

/// A row of the file, which can be labelled anew with `--data` too.
fn row(candidates: &Candidates, identity: &str) -> Value {
    let of = |part: fn(&Answer) -> Value| candidates.answers.iter().map(part).collect::<Vec<_>>();
    json!({
        "prompt": candidates.prompt,
        "responses": of(|answer| json!(answer.text)),
        "models": of(|answer| json!(answer.model)),
        "finished": of(|answer| json!(answer.finished)),
        "sampled": identity,
    })
}

/// The whole rows of the file; a last one that is half written is cut off.
fn read(file: &Path, identity: &str) -> Result<Vec<Candidates>> {
    let bytes = match fs_err::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let whole = bytes
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |i| i + 1);
    let mut kept = Vec::new();
    for (i, line) in bytes[..whole].split(|&byte| byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let place = || format!("{}:{}", file.display(), i + 1);
        let row: Value = serde_json::from_slice(line).with_context(place)?;
        if row["sampled"] != identity {
            return Err(Error::OtherAnswers(file.to_owned()).into());
        }
        kept.push(parse(&row).with_context(|| format!("{}: the row is damaged", place()))?);
    }
    if whole < bytes.len() {
        fs_err::OpenOptions::new()
            .write(true)
            .open(file)?
            .set_len(whole as u64)?;
    }
    Ok(kept)
}

fn parse(row: &Value) -> Option<Candidates> {
    let texts = row["responses"].as_array()?;
    let (models, finished) = (row["models"].as_array()?, row["finished"].as_array()?);
    let answer = |i: usize| {
        Some(Answer {
            text: serde_json::from_value(texts[i].clone()).ok()?,
            model: models.get(i)?.as_str().map(str::to_owned),
            finished: finished.get(i)?.as_bool()?,
        })
    };
    let answers = (0..texts.len()).map(answer).collect::<Option<Vec<_>>>()?;
    let prompt = serde_json::from_value(row["prompt"].clone()).ok()?;
    Some(Candidates::new(prompt, answers, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_and_every_prompt_is_in_one() {
        let starts: Vec<usize> = (0..40).map(chunk_of).collect();
        let mut distinct = starts.clone();
        distinct.dedup();
        assert_eq!(distinct, [0, 1, 2, 4, 8, 16, 32]);
        for (i, start) in starts.into_iter().enumerate() {
            assert!((start..start + start.clamp(1, CHUNK)).contains(&i));
        }
    }

    #[test]
    fn what_is_kept_is_read_back_and_what_was_sampled_otherwise_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("prefs.answers.jsonl");
        let answer = |text: &str, model: Option<&str>, finished| Answer {
            text: Text::from(text),
            model: model.map(str::to_owned),
            finished,
        };
        let answers = vec![answer("a", Some("m"), true), answer("b", None, false)];
        let one = Candidates::new(Text::from("q"), answers, None);
        let line = row(&one, "id").to_string();
        fs_err::write(&file, format!("{line}\n{}", &line[..20])).unwrap();
        assert_eq!(read(&file, "id").unwrap(), [one]);
        assert_eq!(fs_err::read_to_string(&file).unwrap(), format!("{line}\n"));
        let error = read(&file, "other").unwrap_err().to_string();
        assert!(
            error.contains("prefs.answers.jsonl") && error.contains("another file"),
            "{error}"
        );
    }
}
