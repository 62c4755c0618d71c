//! The two lengths of help: `-h` fits one screen, with a clause for each flag that is wanted most; `--help` is the manual.
//!
//! A flag is described once, in full, where it is declared. Its line in `-h` is the beginning of that.

use clap::{Arg, ArgAction, Command};

/// Flags that only `--help` shows, in every command: what is rarely needed, or told by the commands that are about it.
const RARE: &[&str] = &[
    "allow_special",
    "batch",
    "choose_by",
    "guidelines",
    "host",
    "keep_checkpoints",
    "liked_only",
    "max_length",
    "merge",
    "min_new_tokens",
    "overlap",
    "random",
    "rating_field",
    "raw",
    "repeat",
    "repetition_penalty",
    "save_minutes",
    "shard_optimizer",
    "skip_bad",
    "stop",
    "threads",
    "token",
    "top_k",
    "top_p",
];

/// The longest note in brackets that `-h` has room for.
const NOTE: usize = 44;

/// `command` with both lengths of help for each of its flags, and for those of its subcommands.
pub(crate) fn two_lengths(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_help().map(ToString::to_string) {
        Some(text) => described(arg, &text),
        None => arg,
    });
    command.mut_subcommands(two_lengths)
}

/// `arg`, described by `text` in full.
fn described(arg: Arg, text: &str) -> Arg {
    let (body, note) = match text
        .strip_suffix(']')
        .and_then(|text| text.rsplit_once(" ["))
    {
        Some((body, note)) => (body, Some(note.to_owned())),
        None => (text, None),
    };
    let note = note.or_else(|| usual(&arg));
    let long = match &note {
        Some(note) => format!("{body} [{note}]"),
        None => body.to_owned(),
    };
    let short = match note
        .as_deref()
        .map(usual_alone)
        .filter(|note| note.chars().count() <= NOTE)
    {
        Some(note) if note.is_empty() => clause(body).to_owned(),
        Some(note) => format!("{} [{note}]", clause(body)),
        None => clause(body).to_owned(),
    };
    let rare = arg.is_hide_short_help_set()
        || RARE.contains(&arg.get_id().as_str()) && arg.get_help_heading() != Some("Settings");
    let shows_default = usual(&arg).is_some();
    let arg = arg.help(short).long_help(long).hide_short_help(rare);
    match shows_default {
        true => arg.hide_default_value(true), // the note has it
        false => arg,
    }
}

/// Of a note the default and the other values there are, without the range.
fn usual_alone(note: &str) -> String {
    let parts = note.split("; ");
    let kept: Vec<&str> =
        (parts.filter(|part| part.starts_with("default") || part.starts_with("or "))).collect();
    kept.join("; ")
}

/// The default of a flag, as its note; none of a switch, and none where the flag does not show it.
fn usual(arg: &Arg) -> Option<String> {
    let values = arg.get_default_values();
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let shown = takes_value && !arg.is_hide_default_value_set() && !values.is_empty();
    let all: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
    shown.then(|| format!("default: {}", all.join(" ")))
}

/// The first clause of a text: up to its first full stop, semicolon or colon that a blank follows. A colon after a single word, such as a
/// symbol, does not end it.
fn clause(text: &str) -> &str {
    let ends = text.match_indices([';', '.', ':']).find(|(at, end)| {
        let before = &text[..*at];
        let goes_on = text[at + 1..].starts_with(' ');
        let open = before.matches(['(', '{']).count() > before.matches([')', '}']).count();
        goes_on && !open && (*end != ":" || before.contains(' '))
    });
    let whole = ends.map_or(text, |(at, _)| &text[..at]);
    whole.trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_short_help_is_the_first_clause() {
        for (text, first) in [
            ("PPO steps: each is one rollout.", "PPO steps"),
            (
                "β: weight of the KL penalty.",
                "β: weight of the KL penalty",
            ),
            ("Any device, cuda:N too. More.", "Any device, cuda:N too"),
            ("Rows (first; then more); rest", "Rows (first; then more)"),
            ("auto, cpu or metal", "auto, cpu or metal"),
        ] {
            assert_eq!(clause(text), first);
        }
    }

    #[test]
    fn the_default_stands_in_both_and_a_long_note_in_the_manual_alone() {
        let arg = Arg::new("x").long("x").default_value("3");
        let arg = described(arg, "How many: a number");
        assert_eq!(arg.get_help().unwrap().to_string(), "How many [default: 3]");
        assert_eq!(
            arg.get_long_help().unwrap().to_string(),
            "How many: a number [default: 3]"
        );
        let arg = described(Arg::new("x").long("x"), "Which. [default: 3; from 1 to 4]");
        assert_eq!(arg.get_help().unwrap().to_string(), "Which [default: 3]");
        let long = format!("Which. [{}]", "or one of many, ".repeat(9));
        let arg = described(Arg::new("x").long("x"), &long);
        assert_eq!(arg.get_help().unwrap().to_string(), "Which");
        assert_eq!(arg.get_long_help().unwrap().to_string(), long);
    }

    /// Every flag of `--help` is told once, and no setting is told beside the flag that sets it.
    #[test]
    fn the_manual_tells_everything_once() {
        let mut all = crate::cli::command();
        all.build();
        let mut told = 0;
        for command in all.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let mut seen = Vec::new();
            for line in help.lines() {
                // A flag, or a setting without one: `      --lr <X>`, `  eval.limit = 512`.
                let mut words = line.split_whitespace();
                let word = words.next().unwrap_or_default();
                if line.starts_with("      --") || words.next() == Some("=") {
                    let name = word.trim_start_matches("--").replace('-', "_");
                    seen.push(name);
                }
            }
            let mut once = seen.clone();
            once.sort();
            once.dedup();
            told += seen.len();
            let twice: Vec<_> = once
                .iter()
                .filter(|name| seen.iter().filter(|other| other == name).count() > 1)
                .collect();
            assert!(
                twice.is_empty(),
                "{}: {twice:?}\n{help}",
                command.get_name()
            );
        }
        assert!(told > 300, "only {told} flags were found");
    }
}
