//! stdout: results and nothing else.

use std::io::{IsTerminal, Write as _};

use serde::Serialize;

/// Writes `text` to stdout. A reader that went away (`rlhf … | head`) is no failure.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One line of JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value)? + "\n"));
    Ok(())
}

/// Whether to colour stdout.
pub(crate) fn colours() -> bool {
    coloured(&std::io::stdout())
}

/// Whether to colour what is written to `stream`: it is a terminal, and NO_COLOR is not set.
pub(crate) fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}
