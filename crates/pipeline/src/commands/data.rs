//! `rlhf data`.
//!
//! Rows are read, counted and written one after another: a file may be larger than memory.

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use candle_core::{DType, Device};
use rlhf_base::Text;
use rlhf_dataset::summary::{Lengths, Summary, Tally};
use rlhf_dataset::{
    Demonstration, Feedback, Placed, Prompt, Record, Records, Row, TextRow, Tolerance, Understood,
};
use rlhf_lm::{LanguageModel, Tokenizer, Weights, gguf};
use serde::Serialize;
use serde_json::json;

use crate::data_files::found;
use crate::exit::usage;
use crate::flags::{DataArgs, KindArg};
use crate::locate::model_folder;
use crate::output::{print, print_json};

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let tokenizer = args.model.as_deref().map(tokenizer).transpose()?;
    let mut look = Look {
        tokenizer,
        show: args.show,
        shown: String::new(),
        tally: Tally::default(),
        tokens: Tokens::default(),
        to: args.to.as_deref().map(create).transpose()?,
    };
    let read = match args.kind {
        None => look.all::<Row>(args)?,
        Some(KindArg::Text) => look.all::<TextRow>(args)?,
        Some(KindArg::Demonstration) => look.all::<Demonstration>(args)?,
        Some(KindArg::Prompt) => look.all::<Prompt>(args)?,
        Some(KindArg::Feedback) => look.all::<Feedback>(args)?,
    };
    look.tell(&read, args)
}

/// How the rows were read.
struct HowRead {
    tolerance: Tolerance,
    understood: Understood,
}

/// What is gathered while rows go by.
struct Look {
    tokenizer: Option<Tokenizer>,
    /// How many more rows to show.
    show: usize,
    shown: String,
    tally: Tally,
    tokens: Tokens,
    to: Option<(PathBuf, BufWriter<fs_err::File>)>,
}

impl Look {
    /// Looks at every row of the files, read as `T`.
    fn all<T: Record + Into<Row>>(&mut self, args: &DataArgs) -> anyhow::Result<HowRead> {
        let mut records = Records::<T>::open(&found(&args.files)?, &args.reading.reading())?;
        while let Some(row) = records.next() {
            let Placed { record, place } = row?;
            let row = record.into();
            let looked = self.tokens.add(self.tokenizer.as_ref(), &row);
            if records.tolerance.keep(&place, looked)?.is_some() {
                self.add(&row)?;
            }
        }
        Ok(HowRead {
            tolerance: records.tolerance,
            understood: records.understood,
        })
    }

    fn add(&mut self, row: &Row) -> anyhow::Result<()> {
        self.tally.add(row);
        if self.show > 0 {
            self.show -= 1;
            self.shown.push('\n');
            self.shown.push_str(&shown(row, self.tokenizer.as_ref())?);
        }
        if let Some((path, out)) = &mut self.to {
            serde_json::to_writer(&mut *out, row)
                .and_then(|()| out.write_all(b"\n").map_err(serde_json::Error::io))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    fn tell(mut self, read: &HowRead, args: &DataArgs) -> anyhow::Result<()> {
        if let Some((path, out)) = &mut self.to {
            out.flush()
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let summary = self.tally.finish();
        let tokens = self.tokenizer.is_some().then(|| self.tokens.lengths());
        let skipped = read.tolerance.skipped();
        if args.json {
            let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
            let mut result = json!({
                "summary": summary, "understood": read.understood, "skipped": skipped,
            });
            if let Some(tokens) = tokens {
                result["tokens"] = serde_json::to_value(tokens)?;
            }
            return print_json(&result);
        }
        for bad in skipped {
            eprintln!("skipped: {bad}");
        }
        print(&describe(&summary, &read.understood, tokens.as_ref()));
        print(&self.shown);
        if let Some((path, _)) = &self.to {
            print(&format!(
                "\n{} rows written to {}\n",
                summary.rows,
                path.display()
            ));
        }
        Ok(())
    }
}

/// A new file for rows in our own form.
fn create(path: &Path) -> anyhow::Result<(PathBuf, BufWriter<fs_err::File>)> {
    if path.exists() {
        return Err(usage!(
            "--to {}: the file exists, and is not overwritten",
            path.display()
        ));
    }
    let file = fs_err::File::create(path)?;
    Ok((path.to_owned(), BufWriter::new(file)))
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
#[derive(Default)]
struct Tokens {
    prompts: Vec<usize>,
    /// Of answers with their EOS token, or of texts.
    answers: Vec<usize>,
}

#[derive(Serialize)]
struct TokenLengths {
    prompt: Option<Lengths>,
    answer: Option<Lengths>,
}

impl Tokens {
    fn add(&mut self, tokenizer: Option<&Tokenizer>, row: &Row) -> anyhow::Result<()> {
        let Some(tokenizer) = tokenizer else {
            return Ok(());
        };
        for (part, ids) in parts(row).iter().zip(encoded(tokenizer, row)?) {
            let lengths = match part.0 == PROMPT {
                true => &mut self.prompts,
                false => &mut self.answers,
            };
            lengths.push(ids.len());
        }
        Ok(())
    }

    fn lengths(self) -> TokenLengths {
        TokenLengths {
            prompt: Lengths::of(self.prompts),
            answer: Lengths::of(self.answers),
        }
    }
}

fn describe(summary: &Summary, understood: &Understood, tokens: Option<&TokenLengths>) -> String {
    let mut out = String::new();
    for line in understood.lines() {
        let _ = writeln!(out, "{line}");
    }
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<22} {value}");
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
            let mut ids = tokenizer.encode_text(&row.text)?;
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
        let mut before = Vec::new();
        for ((name, text), ids) in parts.iter_mut().zip(encoded(tokenizer, row)?) {
            *text = tokenizer.spell_out(&before, &ids)?;
            if before.is_empty() {
                before = ids.clone();
            }
            name.push_str(&format!(", {} tokens", ids.len()));
        }
    }
    for (name, text) in parts {
        let _ = writeln!(out, "[{name}] {text}");
    }
    Ok(out)
}
