//! `rlhf label --terminal`: an item, a key, the next item.

use std::io::IsTerminal as _;
use std::thread;
use std::time::Instant;

use rlhf_base::tell;
use rlhf_label::{Key, Next, Rewritten, Session, Shown, Verdict, as_text};

use crate::input::{Input, Typed, user};
use crate::labelling::{Opinion, POLL};
use crate::output::{colours, print};

/// Who is asked, and what is shown besides the items.
pub(crate) struct Asking {
    /// The annotator; without one, the user of this terminal.
    pub(crate) person: Option<String>,
    pub(crate) guidelines: Option<String>,
    /// What it gives to the answers is shown after each judgement.
    pub(crate) opinion: Option<Opinion>,
    /// Stdout is for a result alone.
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

/// Asks until there is nothing left, or whoever judges ends it.
pub(crate) fn judge(session: &mut Session, asking: Asking) -> anyhow::Result<()> {
    let mut terminal = Terminal {
        session,
        annotator: asking.person.unwrap_or_else(user),
        guidelines: asking.guidelines,
        opinion: asking.opinion,
        input: Input::new()?,
        on_stdout: std::io::stdout().is_terminal() && !asking.json,
        quiet: asking.quiet,
    };
    terminal.run()
}

struct Terminal<'a> {
    session: &'a mut Session,
    annotator: String,
    guidelines: Option<String>,
    opinion: Option<Opinion>,
    input: Input,
    /// Items are for reading on stdout, or beside a result for programs on stderr.
    on_stdout: bool,
    quiet: bool,
}

impl Terminal<'_> {
    fn run(&mut self) -> anyhow::Result<()> {
        let mut waited = false;
        loop {
            match self.session.next(&self.annotator)? {
                Next::Done => {
                    tell("that is all: there is nothing left to judge");
                    return Ok(());
                }
                Next::Wait => {
                    if !waited && !self.quiet {
                        tell("sampling answers …");
                    }
                    waited = true;
                    thread::sleep(POLL);
                }
                Next::Show(shown) => {
                    waited = false;
                    if !self.item(&shown)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Shows an item until it is judged, skipped, or another one comes by a step back. False at the end of the session.
    fn item(&mut self, shown: &Shown) -> anyhow::Result<bool> {
        let kind = self.session.settings().kind;
        let answers = shown.sides.len();
        let (done, left) = self.session.counts(&self.annotator);
        let heading = format!("{done} judged, {left} left");
        self.show(&match self.on_stdout && colours() {
            true => format!("\n\x1b[2m── {heading} ──\x1b[0m\n"),
            false => format!("\n── {heading} ──\n"),
        })?;
        self.show(&as_text(kind, shown))?;
        if done == 0 {
            self.show(&format!("\n{}\n", Key::short(kind, answers)))?;
        }
        let begun = Instant::now();
        let mut rewritten = None;
        loop {
            let line = match self.input.ask("> ", "")? {
                Typed::Line(line) => line,
                // Everything is on the disk already.
                Typed::Interrupt | Typed::End => return Ok(false),
            };
            let key = match Key::parse(kind, answers, &line) {
                Ok(key) => key,
                Err(short) => {
                    tell(short);
                    continue;
                }
            };
            match key {
                Key::Quit => return Ok(false),
                Key::Help => tell(Key::help(kind, answers)),
                Key::Guidelines => match &self.guidelines {
                    Some(text) => self.show(text)?,
                    None => tell("there are no guidelines"),
                },
                Key::Undo => match self.session.undo(&self.annotator)? {
                    Some(_) => return Ok(true),
                    None => tell("there is nothing to undo"),
                },
                Key::Edit(side) => rewritten = self.rewrite(shown, side)?.or(rewritten),
                Key::Verdict(verdict) => {
                    let seconds = Some(begun.elapsed().as_secs_f64());
                    let skips = verdict == Verdict::Skip;
                    let rewritten = rewritten.take().filter(|_| !skips);
                    self.session
                        .judge(&self.annotator, &shown.id, verdict, rewritten, seconds)?;
                    if !skips {
                        self.tell_scores(shown)?;
                    }
                    return Ok(true);
                }
            }
        }
    }

    /// A better answer in place of that on `side`; nothing where nothing is changed.
    fn rewrite(&mut self, shown: &Shown, side: usize) -> anyhow::Result<Option<Rewritten>> {
        let old = shown.texts()[side].to_string();
        let typed = self
            .input
            .ask("better: ", &old.replace('\\', "\\\\").replace('\n', "\\n"))?;
        let Typed::Line(line) = typed else {
            return Ok(None);
        };
        let text = unescaped(&line);
        if text.trim().is_empty() || text == old {
            tell("nothing was rewritten");
            return Ok(None);
        }
        tell("it is kept with your verdict: now judge the answers as they are");
        Ok(Some(Rewritten { side, text }))
    }

    /// What the reward model would have said, now that it can sway nobody.
    fn tell_scores(&self, shown: &Shown) -> anyhow::Result<()> {
        let Some(opinion) = &self.opinion else {
            return Ok(());
        };
        let scores = opinion.scores(shown)?;
        let scores: Vec<String> = scores.iter().map(|score| format!("{score:.3}")).collect();
        tell(format!("   the reward says {}", scores.join(", ")));
        Ok(())
    }

    fn show(&self, text: &str) -> anyhow::Result<()> {
        match (self.on_stdout, self.quiet) {
            (true, _) => print(text),
            (false, true) => Ok(()),
            (false, false) => {
                tell(text.trim_end_matches('\n'));
                Ok(())
            }
        }
    }
}

/// `line` with `\n` as line breaks and `\\` as backslashes.
fn unescaped(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('\\', Some('n')) => {
                out.push('\n');
                chars.next();
            }
            ('\\', Some('\\')) => {
                out.push('\\');
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_are_typed_as_two_characters() {
        assert_eq!(unescaped(r"a\nb\\n\c"), "a\nb\\n\\c");
    }
}
