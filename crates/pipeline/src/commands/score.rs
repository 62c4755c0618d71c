//! `rlhf score`.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::Context as _;
use rlhf_base::Text;
use rlhf_dataset::order::micro_batches;
use rlhf_dataset::{Feedback, Loaded, Place, Placed, Row, Tolerance};
use rlhf_lm::{CausalLm, Example, ExampleBatch, ScoreGroup, TextNotes, Tokenizer};
use rlhf_rollout::load_heads;
use rlhf_train::{micro_batch_tokens, read_and_tell, tell_skipped};
use serde_json::{Map, Value, json};

use crate::data_files::found;
use crate::exit::usage;
use crate::flags::ScoreArgs;
use crate::locate::model_folder;
use crate::machine::Machine;
use crate::models;
use crate::output::{print_json, print_result};

pub(crate) fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let Loaded {
        rows,
        mut tolerance,
        ..
    } = read_and_tell::<Row>(&found(&args.data)?, &args.reading.reading())?;
    let entries = entries(&rows)?;
    let folder = model_folder(&args.model, "sft")?;
    let machine = Machine::new(&args.common.run(), args.common.quiet)?;
    let print: Print = if std::io::stdout().is_terminal() && !args.json {
        for_reading
    } else {
        |line| print_json(line)
    };
    if models::is_reward_model(&folder)? {
        under_reward_model(&folder, &entries, args, &machine, &mut tolerance, print)?;
    } else {
        under_language_model(&folder, &entries, args, &machine, &mut tolerance, print)?;
    }
    tell_skipped(&tolerance);
    Ok(())
}

/// What is known of one text.
type Line = Map<String, Value>;
type Print = fn(&Line) -> anyhow::Result<()>;

/// Row, answer and the number that sums it up.
fn for_reading(line: &Line) -> anyhow::Result<()> {
    let answer = line
        .get("answer")
        .map(|answer| format!(" {answer}"))
        .unwrap_or_default();
    let tokens = line
        .get("tokens")
        .and_then(Value::as_array)
        .map(|t| format!(", {} tokens", t.len()))
        .unwrap_or_default();
    let value = |what: &str| Some(format!("{what} {:.4}", line.get(what)?.as_f64()?));
    let known = value("score").or_else(|| value("perplexity"));
    let known = known.unwrap_or_else(|| "nothing to predict".to_owned());
    let sd = line.get("sd").and_then(Value::as_f64);
    let sd = sd.map(|sd| format!(" ± {sd:.4}")).unwrap_or_default();
    let text = format!("row {}{answer}: {known}{sd}{tokens}\n", line["index"]);
    print_result(false, line, || text)
}

/// One text to score: of which row, which of its answers, and what it says.
struct Entry<'a> {
    index: usize,
    place: &'a Place,
    answer: Option<Value>,
    prompt: Option<&'a Text>,
    text: Text,
}

impl Entry<'_> {
    /// The line's beginning: what is scored.
    fn line(&self) -> Line {
        let mut line = Map::from_iter([("index".to_owned(), json!(self.index))]);
        if let Some(answer) = &self.answer {
            line.insert("answer".to_owned(), answer.clone());
        }
        line
    }
}

fn entries(rows: &[Placed<Row>]) -> anyhow::Result<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    for (index, Placed { record, place }) in rows.iter().enumerate() {
        let mut push = |answer, prompt, text: &Text| {
            entries.push(Entry {
                index,
                place,
                answer,
                prompt,
                text: text.clone(),
            })
        };
        match record {
            Row::Text(row) => push(None, None, &Text::Plain(row.text.clone())),
            Row::Demonstration(row) => push(None, Some(&row.prompt), &row.completion),
            Row::Prompt(_) => {
                return Err(usage!(
                    "{place}: a prompt without an answer: there is nothing to score"
                ));
            }
            Row::Feedback(feedback) => {
                let responses = feedback.responses();
                for (i, text) in responses.iter().enumerate() {
                    let answer = match feedback {
                        Feedback::Pair(_) => Some(json!(["chosen", "rejected"][i])),
                        _ => (responses.len() > 1).then(|| json!(i)),
                    };
                    push(answer, Some(feedback.prompt()), text);
                }
            }
        }
    }
    Ok(entries)
}

/// The tokens of the prompt and of what follows it. A sequence beyond `most` tokens is an error: a score of a part of a text would
/// be taken for that of the whole.
fn encode(
    tokenizer: &Tokenizer,
    entry: &Entry<'_>,
    most: usize,
) -> anyhow::Result<(Vec<u32>, Vec<u32>)> {
    let (prompt, response) = match entry.prompt {
        Some(prompt) => {
            let encoded = tokenizer.encode_demonstration(prompt, &entry.text)?;
            (encoded.prompt, encoded.completion)
        }
        // A bare text: as the tokenizer itself would begin it.
        None => (tokenizer.encode_begun(&entry.text.to_string())?, Vec::new()),
    };
    let length = prompt.len() + response.len();
    if length > most {
        return Err(usage!(
            "the text has {length} tokens, and the model reads at most {most}: shorten it, or leave it out with --skip-bad"
        ));
    }
    Ok((prompt, response))
}

/// Says what the texts hold that is worth telling.
fn tell(tokenizer: &Tokenizer, entries: &[Entry<'_>]) {
    let mut notes = TextNotes::default();
    for entry in entries {
        match (entry.prompt, &entry.text) {
            (Some(prompt), text) => notes.row(tokenizer, prompt, &[text]),
            (None, text) => notes.text(tokenizer, &text.to_string()),
        }
    }
    for note in notes.told(tokenizer) {
        tracing::warn!("{note}");
    }
}

fn under_reward_model(
    folder: &Path,
    entries: &[Entry<'_>],
    args: &ScoreArgs,
    machine: &Machine,
    tolerance: &mut Tolerance,
    print: Print,
) -> anyhow::Result<()> {
    let model = machine.load_reward(folder)?;
    let tokenizer = model.tokenizer().clone().allow_special(args.allow_special);
    tell(&tokenizer, entries);
    let end = tokenizer.eos_id()?;
    let most = model.config().max_length();
    let (mut groups, mut scored) = (Vec::new(), Vec::new());
    for entry in entries {
        let encoded = encode(&tokenizer, entry, most);
        let Some((prompt, mut response)) = tolerance.keep(entry.place, encoded)? else {
            continue;
        };
        scored.push(entry);
        // A score is read at the token that ends an answer; a bare text lacks it.
        if entry.prompt.is_none() {
            response.push(end);
        }
        groups.push(ScoreGroup {
            prompt,
            responses: vec![response],
        });
    }
    let scores = if args.raw {
        model.raw_scores(&groups)?
    } else {
        model.scores(&groups)?
    };
    let sd = match &model.card().heads {
        None => None,
        Some(_) => {
            let (heads, card) = load_heads(folder, &model)?;
            let scale = if args.raw { 1.0 } else { card.calibration.std };
            let by_answer = heads.mean_and_sd(&model.hidden_states(&groups)?)?;
            Some(by_answer.into_iter().map(move |(_, sd)| sd / scale))
        }
    };
    let mut sd = sd.into_iter().flatten();
    for (entry, score) in scored.into_iter().zip(scores.into_iter().flatten()) {
        let mut line = entry.line();
        line.insert("score".to_owned(), json!(score));
        if let Some(sd) = sd.next() {
            line.insert("sd".to_owned(), json!(sd));
        }
        print(&line)?;
    }
    Ok(())
}

/// `exp(−mean log p)`.
fn perplexity(logprobs: &[f32]) -> f64 {
    let sum: f64 = logprobs.iter().map(|p| f64::from(*p)).sum();
    (-sum / logprobs.len() as f64).exp()
}

fn under_language_model(
    folder: &Path,
    entries: &[Entry<'_>],
    args: &ScoreArgs,
    machine: &Machine,
    tolerance: &mut Tolerance,
    print: Print,
) -> anyhow::Result<()> {
    let model = machine.load(folder)?;
    let causal = CausalLm::new(&model.config, &model.params.frozen())?;
    let tokenizer = (model.tokenizer)
        .allow_special(args.allow_special)
        .take_raw(args.raw);
    tell(&tokenizer, entries);
    let most = model.config.max_length();
    let (mut rows, mut scored) = (Vec::new(), Vec::new());
    // Tokens of each answer, its end token included; none of a bare text.
    let mut answers = Vec::new();
    for entry in entries {
        let encoded = encode(&tokenizer, entry, most);
        let Some((mut ids, completion)) = tolerance.keep(entry.place, encoded)? else {
            continue;
        };
        scored.push(entry);
        answers.push(completion.len());
        ids.extend(completion);
        rows.push(Example::whole(ids));
    }
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids().len()).collect();
    for range in micro_batches(
        &lengths,
        micro_batch_tokens(&model.config, false, &machine.device),
    ) {
        let part: Vec<&Example> = rows[range.clone()].iter().collect();
        let batch = ExampleBatch::pack(&part, &machine.device)?;
        let (mut logprobs, mut entropy) = (Vec::new(), Vec::new());
        if batch.targets.elem_count() > 0 {
            let found = causal.logprobs(&batch.hidden(&causal)?, &batch.targets, 1.0)?;
            (logprobs, entropy) = (
                found.logprobs.to_vec1::<f32>()?,
                found.entropy.to_vec1::<f32>()?,
            );
        }
        let mut first = 0;
        for i in range {
            let own = first..first + rows[i].num_targets();
            first = own.end;
            let own_logprobs = logprobs
                .get(own.clone())
                .context("one log-probability per predicted token")?;
            let answer = answers[i].min(own_logprobs.len());
            let answer = &own_logprobs[own_logprobs.len() - answer..];
            let mut line = scored[i].line();
            line.insert("tokens".to_owned(), json!(rows[i].ids()));
            line.insert("logprobs".to_owned(), json!(own_logprobs));
            line.insert("entropy".to_owned(), json!(entropy[own]));
            // One token alone predicts nothing, and has no perplexity.
            for (name, part) in [("perplexity", own_logprobs), ("answer_perplexity", answer)] {
                if !part.is_empty() {
                    line.insert(name.to_owned(), json!(perplexity(part)));
                }
            }
            print(&line)?;
        }
    }
    Ok(())
}
