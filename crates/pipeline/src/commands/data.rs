//! `rlhf data`.

use std::fmt::Write as _;

use rlhf_dataset::summary::{Lengths, Summary};
use rlhf_dataset::{Feedback, Loaded, Row, Text, read_rows};
use serde_json::json;

use crate::flags::DataArgs;
use crate::output::{print, print_json};

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let Loaded { rows, skipped } = read_rows(&args.files, args.skip_bad)?;
    let summary = Summary::of(&rows);
    if args.json {
        let skipped: Vec<_> = skipped.iter().map(ToString::to_string).collect();
        return print_json(&json!({"summary": summary, "skipped": skipped}));
    }
    for bad in &skipped {
        eprintln!("skipped: {bad}");
    }
    print(&describe(&summary));
    for row in rows.iter().take(args.show) {
        print(&format!("\n{}", shown(row)));
    }
    Ok(())
}

fn describe(summary: &Summary) -> String {
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

/// A row with its parts marked.
fn shown(row: &Row) -> String {
    let parts: Vec<(String, String)> = match row {
        Row::Text(row) => vec![("text".into(), row.text.clone())],
        Row::Prompt(row) => vec![("prompt".into(), row.prompt.to_string())],
        Row::Demonstration(row) => {
            vec![
                ("prompt".into(), row.prompt.to_string()),
                ("completion".into(), row.completion.to_string()),
            ]
        }
        Row::Feedback(feedback) => {
            let mut parts = vec![("prompt".to_owned(), feedback.prompt().to_string())];
            let names: Vec<String> = match feedback {
                Feedback::Pair(_) => vec!["chosen".into(), "rejected".into()],
                Feedback::Ranking(row) => row
                    .ranks
                    .iter()
                    .map(|rank| format!("rank {rank}"))
                    .collect(),
                Feedback::Rating(row) => vec![format!("rating {}", row.rating)],
                Feedback::Thumbs(row) => {
                    vec![if row.label { "liked" } else { "disliked" }.to_owned()]
                }
            };
            let responses = feedback.responses().into_iter().map(Text::to_string);
            parts.extend(names.into_iter().zip(responses));
            parts
        }
    };
    let mut out = format!("--- {}\n", row.kind().name());
    for (name, text) in parts {
        let _ = writeln!(out, "[{name}] {text}");
    }
    out
}
