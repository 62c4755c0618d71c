//! `rlhf doctor`: everything that can be checked before anything is spent.

mod machine;
mod stages;
mod start;

use serde::Serialize;

use crate::exit::usage;
use crate::flags::DoctorArgs;
use crate::machine::Machine;
use crate::output::{print, print_json};
use crate::settings::{Layers, RunSettings};
use crate::wiring::Wiring;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let mut report = Report::default();
    match &args.pipeline {
        Some(file) => {
            let wiring = Wiring::read(file, &args.common)?;
            let machine = Machine::new(&wiring.run, true)?;
            machine::check(&machine, &wiring.out, &mut report);
            stages::check(&wiring, &machine, &mut report);
        }
        None => {
            let layers: Layers = crate::commands::stage::layers(None, &args.common)?;
            let run: RunSettings = layers.get()?;
            let machine = Machine::new(&run, true)?;
            let out = run.out.unwrap_or_else(|| "runs".into());
            machine::check(&machine, &out, &mut report);
        }
    }
    if args.common.json {
        print_json(&report)?;
    } else {
        print(&report.render(crate::output::colours()));
    }
    match report.count(Verdict::Fail) {
        0 => Ok(()),
        1 => Err(usage!("one check failed: mend it before you start")),
        n => Err(usage!("{n} checks failed: mend them before you start")),
    }
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It will run, but perhaps not as hoped.
    Warn,
    /// It would stop the run.
    Fail,
}

/// One check and what it found, with the remedy where one is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    part: String,
    check: String,
    verdict: Verdict,
    found: String,
}

/// What is fine, and what it is; or what gives pause.
enum Found {
    Ok(String),
    Warn(String),
}

#[derive(Debug, Default, Serialize)]
struct Report {
    checks: Vec<Finding>,
    #[serde(skip)]
    part: String,
}

impl Report {
    /// What follows is about `part`.
    fn part(&mut self, part: &str) {
        part.clone_into(&mut self.part);
    }

    /// Carries out one check; an error fails it, and gives nothing for the checks that build on it.
    fn check<T>(
        &mut self,
        check: &str,
        carry_out: impl FnOnce() -> anyhow::Result<(T, Found)>,
    ) -> Option<T> {
        let (given, verdict, found) = match carry_out() {
            Ok((given, Found::Ok(found))) => (Some(given), Verdict::Ok, found),
            Ok((given, Found::Warn(found))) => (Some(given), Verdict::Warn, found),
            Err(error) => (None, Verdict::Fail, format!("{error:#}")),
        };
        self.checks.push(Finding {
            part: self.part.clone(),
            check: check.to_owned(),
            verdict,
            found,
        });
        given
    }

    fn count(&self, verdict: Verdict) -> usize {
        let of = |finding: &&Finding| finding.verdict == verdict;
        self.checks.iter().filter(of).count()
    }

    /// One line a check, under the part it is about.
    fn render(&self, colour: bool) -> String {
        let widest = self.checks.iter().map(|c| c.check.chars().count()).max();
        let width = widest.unwrap_or(0);
        let mut out = String::new();
        let mut part = "";
        for finding in &self.checks {
            if finding.part != part {
                part = &finding.part;
                out.push_str(&format!("{part}\n"));
            }
            let (word, paint) = match finding.verdict {
                Verdict::Ok => ("ok  ", "32"),
                Verdict::Warn => ("warn", "33"),
                Verdict::Fail => ("fail", "31"),
            };
            let word = match colour {
                true => format!("\x1b[{paint}m{word}\x1b[0m"),
                false => word.to_owned(),
            };
            // A finding of several lines stays in its column.
            let found = finding
                .found
                .replace('\n', &format!("\n{:indent$}", "", indent = 10 + width));
            out.push_str(&format!("  {word}  {:<width$}  {found}\n", finding.check));
        }
        let (warn, fail) = (self.count(Verdict::Warn), self.count(Verdict::Fail));
        out.push_str(&match (warn, fail) {
            (0, 0) => format!("{} checks, all in order\n", self.checks.len()),
            _ => format!(
                "{} checks, {fail} failed, {warn} to look at\n",
                self.checks.len()
            ),
        });
        out
    }
}

/// A size in binary units.
fn gib(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 30) {
        few if few < 0.95 => format!("{:.0} MiB", few * 1024.0),
        many => format!("{many:.1} GiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_part_by_part_and_an_error_fails_its_check() {
        let mut report = Report::default();
        report.part("machine");
        assert_eq!(
            report.check("disk", || Ok((7, Found::Ok("9.0 GiB free".into())))),
            Some(7)
        );
        report.part("sft");
        let warned = || Ok(((), Found::Warn("3 rows are cut\nat 8 tokens".into())));
        report.check("data", warned);
        report.check::<()>("model", || Err(usage!("no config.json")));
        insta::assert_snapshot!(report.render(false), @r"
        machine
          ok    disk   9.0 GiB free
        sft
          warn  data   3 rows are cut
                       at 8 tokens
          fail  model  no config.json
        3 checks, 1 failed, 1 to look at
        ");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(
            (gib(64 << 20), gib(3 << 29)),
            ("64 MiB".into(), "1.5 GiB".into())
        );
    }
}
