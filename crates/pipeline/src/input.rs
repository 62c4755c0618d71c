//! Lines that a person types, or that come from a pipe.

use std::io::{BufRead as _, IsTerminal as _};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Where lines come from: an editor with a history, or a pipe.
pub(crate) enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

/// What came.
pub(crate) enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C, at a terminal.
    Interrupt,
    /// There are no more lines.
    End,
}

impl Input {
    /// The line editor takes Ctrl-C for itself when it starts: make this before any handler of it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(if std::io::stdin().is_terminal() {
            Self::Terminal(Box::new(DefaultEditor::new()?))
        } else {
            Self::Pipe
        })
    }

    /// Whether Ctrl-C ends the process while a line is awaited. The editor reads it as a key instead.
    pub(crate) fn ends_by_interrupt(&self) -> bool {
        matches!(self, Self::Pipe)
    }

    /// The next line, at a terminal behind `question` and begun with `begin`.
    pub(crate) fn ask(&mut self, question: &str, begin: &str) -> anyhow::Result<Typed> {
        match self {
            Self::Terminal(editor) => match editor.readline_with_initial(question, (begin, "")) {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    Ok(Typed::Line(line))
                }
                Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error.into()),
            },
            Self::Pipe => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line)?;
                Ok(match read {
                    0 => Typed::End,
                    _ => Typed::Line(line.trim_end_matches(['\n', '\r']).to_owned()),
                })
            }
        }
    }
}

/// The name of whoever sits here, as far as the system knows it.
pub(crate) fn user() -> String {
    let named = ["USER", "USERNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok());
    let name: String = named
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    match name.trim() {
        "" => "me".to_owned(),
        name => name.to_owned(),
    }
}
