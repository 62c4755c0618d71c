//! `rlhf data`.

use std::fmt::Write as _;

use candle_core::{DType, Device};
use rlhf_base::Text;
use rlhf_base::tell;
use rlhf_dataset::summary::{Lengths, Summary};
use rlhf_dataset::{Feedback, Loaded, Row, read_rows};
use rlhf_lm::{LanguageModel, Tokenizer, Weights, gguf};
use serde::Serialize;
use serde_json::{Value, json};

use crate::flags::DataArgs;
use crate::locate::model_folder;
use crate::models;
use crate::output::{print, print_json};

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let Loaded { rows, skipped } = read_rows(&models::files(&args.files)?, args.skip_bad)?;
    let summary = Summary::of(&rows);
    let tokenizer = args.model.as_deref().map(tokenizer).transpose()?;
    let tokens = tokenizer
        .as_ref()
        .map(|t| Tokens::of(t, &rows))
        .transpose()?;
    if args.json {
        let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
        let mut result = json!({"summary": summary, "skipped": skipped});
        if let Some(tokens) = tokens {
            result["tokens"] = serde_json::to_value(tokens)?;
        }
        // Lengths of a part that no row has.
        for part in ["summary", "tokens"] {
            if let Some(part) = result.get_mut(part).and_then(Value::as_object_mut) {
                part.retain(|_, value| !value.is_null());
            }
        }
        return print_json(&result);
    }
    for bad in &skipped {
        tell(format!("skipped: {bad}"));
    }
    print(&describe(&summary, tokens.as_ref()))?;
    for row in rows.iter().take(args.show) {
        print(&format!("\n{}", shown(row, tokenizer.as_ref())?))?;
    }
    Ok(())
}

/// The tokenizer of the model that `name` names.
fn tokenizer(name: &str) -> anyhow::Result<Tokenizer> {
    let folder = model_folder(name, "sft")?;
    Ok(match gguf::locate(&folder)? {
        Some(_) => {
            LanguageModel::load(&folder, Weights::Frozen, DType::F32, &Device::Cpu)?.tokenizer
        }
        None => Tokenizer::from_dir(&folder)?,
    })
}

/// Lengths as the model will see them.
#[derive(Serialize)]
struct Tokens {
    prompt: Option<Lengths>,
    /// Of an answer with its EOS token, or of a text.
    answer: Option<Lengths>,
}

impl Tokens {
    fn of(tokenizer: &Tokenizer, rows: &[Row]) -> anyhow::Result<Self> {
        let (mut prompts, mut answers) = (Vec::new(), Vec::new());
        for row in rows {
            for (part, ids) in parts(row).iter().zip(encoded(tokenizer, row)?) {
                let lengths = if part.0 == PROMPT {
                    &mut prompts
                } else {
                    &mut answers
                };
                lengths.push(ids.len());
            }
        }
        Ok(Self {
            prompt: Lengths::of(prompts),
            answer: Lengths::of(answers),
        })
    }
}

fn describe(summary: &Summary, tokens: Option<&Tokens>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<22}{value}");
    };
    line("rows", summary.rows.to_string());
    for (kind, count) in &summary.kinds {
        line(&format!("  {}", kind.name()), count.to_string());
    }
    for (source, count) in &summary.sources {
        line(&format!("  from {source}"), count.to_string());
    }
    if summary.prompts > 0 {
        line("different prompts", summary.prompts.to_string());
    }
    let lengths = |l: &Lengths| {
        format!(
            "{} to {}, half up to {}, mean {:.1}",
            l.min, l.max, l.median, l.mean
        )
    };
    if let Some(l) = &summary.prompt_characters {
        line("characters, prompt", lengths(l));
    }
    if let Some(l) = &summary.answer_characters {
        line("characters, answer", lengths(l));
    }
    for (name, spread) in [
        ("tokens, prompt", tokens.and_then(|t| t.prompt)),
        ("tokens, answer", tokens.and_then(|t| t.answer)),
    ] {
        if let Some(spread) = spread {
            line(name, lengths(&spread));
        }
    }
    for (name, count) in [
        ("repeated rows", summary.duplicates),
        ("empty answers", summary.empty_answers),
        ("rankings with a tie", summary.tied),
        ("identical answers", summary.identical_answers),
    ] {
        if count > 0 {
            line(name, count.to_string());
        }
    }
    out
}

/// The part of a row that is given and not learned.
const PROMPT: &str = "prompt";

/// The parts of a row, named.
fn parts(row: &Row) -> Vec<(String, String)> {
    match row {
        Row::Text(row) => vec![("text".into(), row.text.clone())],
        Row::Prompt(row) => vec![(PROMPT.into(), row.prompt.to_string())],
        Row::Demonstration(row) => vec![
            (PROMPT.into(), row.prompt.to_string()),
            ("completion".into(), row.completion.to_string()),
        ],
        Row::Feedback(feedback) => {
            let names: Vec<String> = match feedback {
                Feedback::Pair(_) => vec!["chosen".into(), "rejected".into()],
                Feedback::Ranking(row) => row
                    .ranks
                    .iter()
                    .map(|rank| format!("rank {rank}"))
                    .collect(),
                Feedback::BestOf(row) => (0..row.responses.len())
                    .map(|i| if i == row.best { "best" } else { "other" }.to_owned())
                    .collect(),
                Feedback::Rating(row) => vec![format!("rating {}", row.rating)],
                Feedback::Thumbs(row) => {
                    vec![if row.label { "liked" } else { "disliked" }.to_owned()]
                }
            };
            let responses = feedback.responses().into_iter().map(Text::to_string);
            let prompt = (PROMPT.to_owned(), feedback.prompt().to_string());
            [prompt]
                .into_iter()
                .chain(names.into_iter().zip(responses))
                .collect()
        }
    }
}

/// The tokens of each part, in the order of [`parts`], as a stage would take them.
fn encoded(tokenizer: &Tokenizer, row: &Row) -> anyhow::Result<Vec<Vec<u32>>> {
    let answered = |prompt: &Text, answers: &[&Text]| -> anyhow::Result<Vec<Vec<u32>>> {
        let mut parts = vec![tokenizer.encode_prompt(prompt)?];
        for answer in answers {
            parts.push(tokenizer.encode_completion(prompt, answer)?);
        }
        Ok(parts)
    };
    match row {
        Row::Text(row) => {
            let mut ids = tokenizer.encode(&row.text)?;
            ids.push(tokenizer.eos_id()?);
            Ok(vec![ids])
        }
        Row::Prompt(row) => answered(&row.prompt, &[]),
        Row::Demonstration(row) => answered(&row.prompt, &[&row.completion]),
        Row::Feedback(feedback) => answered(feedback.prompt(), &feedback.responses()),
    }
}

/// A row with its parts marked: as it stands in the file, or with a tokenizer as the model sees it.
fn shown(row: &Row, tokenizer: Option<&Tokenizer>) -> anyhow::Result<String> {
    let mut out = format!("--- {}\n", row.kind().name());
    let mut parts = parts(row);
    if let Some(tokenizer) = tokenizer {
        for ((name, text), ids) in parts.iter_mut().zip(encoded(tokenizer, row)?) {
            *text = tokenizer.decode_with_special(&ids)?;
            name.push_str(&format!(", {} tokens", ids.len()));
        }
    }
    for (name, text) in parts {
        let _ = writeln!(out, "[{name}] {text}");
    }
    Ok(out)
}
