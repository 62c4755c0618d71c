//! `rlhf data`.
//!
//! Rows are read, counted and written one after another: a file may be larger than memory.

pub(super) mod row;

use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rlhf_base::{Text, tell};
use rlhf_dataset::summary::{Lengths, Summary, Tally};
use rlhf_dataset::{
    Demonstration, Feedback, Placed, Prompt, Record, Records, Row, TextRow, Tolerance, Understood,
};
use rlhf_lm::{TextNotes, Tokenizer, glued, seam as text_seam};
use serde::Serialize;
use serde_json::{Value, json};

use self::row::PROMPT;
use crate::data_files::found;
use crate::exit::usage;
use crate::flags::{DataArgs, KindArg};
use crate::locate::model_folder;
use crate::models;
use crate::output::{print, print_json};

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let tokenizer = args.model.as_deref().map(tokenizer).transpose()?;
    let tokenizer = tokenizer.map(|it| it.allow_special(args.allow_special).take_raw(args.raw));
    let mut look = Look {
        tokenizer,
        show: args.show,
        shown: String::new(),
        tally: Tally::default(),
        tokens: Tokens::default(),
        notes: Notes::default(),
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
    notes: Notes,
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
        self.notes.add(self.tokenizer.as_ref(), row);
        if self.show > 0 {
            self.show -= 1;
            self.shown.push('\n');
            self.shown
                .push_str(&row::shown(row, self.tokenizer.as_ref())?);
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
        let notes = self.notes.told(self.tokenizer.as_ref());
        let skipped = read.tolerance.skipped();
        if args.json {
            let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
            let mut result = json!({
                "summary": summary, "understood": read.understood, "notes": notes, "skipped": skipped,
            });
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
        for bad in skipped {
            tell(format!("skipped: {bad}"));
        }
        let understood = read.understood.lines().into_iter();
        let lines: String = understood.chain(notes).map(|line| line + "\n").collect();
        print(&lines)?;
        print(&describe(&summary, tokens.as_ref()))?;
        print(&self.shown)?;
        if let Some((path, _)) = &self.to {
            print(&format!(
                "\n{} rows written to {}\n",
                summary.rows,
                path.display()
            ))?;
        }
        Ok(())
    }
}

/// What the texts hold that their writer may not have meant.
#[derive(Default)]
struct Notes {
    texts: TextNotes,
    /// Rows whose prompt and answer run into one another, and the first of them; known without a model too.
    glued: usize,
    example: String,
}

impl Notes {
    fn add(&mut self, tokenizer: Option<&Tokenizer>, row: &Row) {
        match (tokenizer, row, row::prompt_and_answers(row)) {
            (Some(tokenizer), Row::Text(row), _) => self.texts.text(tokenizer, &row.text),
            (Some(tokenizer), _, Some((prompt, answers))) => {
                self.texts.row(tokenizer, prompt, &answers);
            }
            (None, _, Some((Text::Plain(prompt), answers))) => {
                let seam = answers.into_iter().find_map(|answer| match answer {
                    Text::Plain(answer) if glued(prompt, answer) => Some(answer),
                    _ => None,
                });
                if let Some(answer) = seam {
                    if self.glued == 0 {
                        self.example = text_seam(prompt, answer);
                    }
                    self.glued += 1;
                }
            }
            _ => {}
        }
    }

    fn told(&self, tokenizer: Option<&Tokenizer>) -> Vec<String> {
        match tokenizer {
            Some(tokenizer) => self.texts.told(tokenizer),
            None if self.glued == 0 => Vec::new(),
            None => {
                let rows = if self.glued == 1 { "row" } else { "rows" };
                vec![format!(
                    "in {} {rows} nothing stands between prompt and answer, such as {:?}: a model without a chat template reads them as one",
                    self.glued, self.example
                )]
            }
        }
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
    Ok(rlhf_lm::read_tokenizer(&folder, &models::bases())?)
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
        if let Row::Demonstration(row) = row {
            // As it is learnt, which may take several rows for a conversation.
            for row in tokenizer.encode_rows(&row.prompt, &row.completion)? {
                let (answers, context): (Vec<_>, Vec<_>) =
                    row.iter().partition(|segment| segment.target);
                self.prompts.extend(context.first().map(|it| it.ids.len()));
                self.answers.extend(answers.iter().map(|it| it.ids.len()));
            }
            return Ok(());
        }
        for (name, ids) in row::names(row).iter().zip(row::encoded(tokenizer, row)?) {
            let lengths = match name == PROMPT {
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

fn describe(summary: &Summary, tokens: Option<&TokenLengths>) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
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
    let width = lines.iter().map(|(name, _)| name.chars().count());
    let width = width.max().unwrap_or(0).max(20) + 2;
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{name:<width$} {value}\n"));
    lines.collect()
}
