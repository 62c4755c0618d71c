//! `rlhf doctor`: everything that can be checked before anything is spent.

mod machine;
mod ranks;
mod rounds;
mod stages;

use rlhf_train::{Comm, Finding, Verdict};
use serde::Serialize;

use crate::exit::usage;
use crate::flags::{DoctorArgs, RunArgs};
use crate::machine::Machine;
use crate::output::print_result;
use crate::settings::{Layers, RUN, RunSettings};
use crate::wiring::Wiring;

pub(crate) fn run(args: &DoctorArgs, comm: &Comm) -> anyhow::Result<()> {
    told(&examined(args, comm)?, args.common.json)
}

/// Looks at everything.
pub(super) fn examined(args: &DoctorArgs, comm: &Comm) -> anyhow::Result<Report> {
    let mut report = Report::default();
    match &args.pipeline {
        Some(file) => {
            let wiring = of_first_seed(Wiring::read(file, &args.common)?);
            let machine = Machine::of_rank(&wiring.run, true, comm)?;
            machine::check(&machine, &wiring.out, &mut report);
            ranks::check(&machine, &mut report)?;
            stages::check(&wiring, &machine, Intent::default(), &mut report);
        }
        None => {
            let layers: Layers = crate::commands::stage::layers(None, &args.common)?;
            let run: RunSettings = layers.get(RUN)?;
            let machine = Machine::of_rank(&run, true, comm)?;
            let out = run.out.unwrap_or_else(|| "runs".into());
            machine::check(&machine, &out, &mut report);
            ranks::check(&machine, &mut report)?;
        }
    }
    Ok(report)
}

/// `rlhf run --dry-run`: what is checked of a pipeline, and the plan of every stage.
pub(super) fn dry_run(wiring: Wiring, args: &RunArgs, comm: &Comm) -> anyhow::Result<()> {
    let wiring = of_first_seed(wiring);
    let machine = Machine::of_rank(&wiring.run, true, comm)?;
    let intent = Intent {
        plans: true,
        resume: args.resume,
        overwrite: args.overwrite,
    };
    let mut report = Report::default();
    stages::check(&wiring, &machine, intent, &mut report);
    told(&report, args.common.json)
}

/// Of several seeds the first: the others differ in nothing that can be looked at beforehand.
fn of_first_seed(wiring: Wiring) -> Wiring {
    match wiring.seeds()[..] {
        [first, _, ..] => wiring.with_seed(first),
        _ => wiring,
    }
}

/// Prints the report, and errors where a check has failed.
fn told(report: &Report, json: bool) -> anyhow::Result<()> {
    print_result(json, report, || report.render(crate::output::colours()))?;
    report.passed()
}

/// How the pipeline is to be run, and what is to be shown.
#[derive(Clone, Copy, Debug, Default)]
struct Intent {
    /// Show the plan of every stage.
    plans: bool,
    resume: bool,
    overwrite: bool,
}

/// A finding and the part of the program that it is about.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    part: String,
    #[serde(flatten)]
    finding: Finding,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) checks: Vec<Checked>,
    #[serde(skip)]
    part: String,
}

impl Report {
    /// Errors where a check has failed.
    pub(super) fn passed(&self) -> anyhow::Result<()> {
        match self.count(Verdict::Fail) {
            0 => Ok(()),
            1 => Err(usage!("one check failed: mend it before you start")),
            n => Err(usage!("{n} checks failed: mend them before you start")),
        }
    }

    /// What follows is about `part`.
    fn part(&mut self, part: &str) {
        part.clone_into(&mut self.part);
    }

    fn push(&mut self, finding: Finding) {
        let part = self.part.clone();
        self.checks.push(Checked { part, finding });
    }

    /// What comes of `result`; an error becomes a failed check.
    fn expect<T>(&mut self, check: &str, result: anyhow::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.push(Finding::of(check, Err(error)));
                None
            }
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        let of = |checked: &&Checked| checked.finding.verdict == verdict;
        self.checks.iter().filter(of).count()
    }

    /// One line a check, under the part it is about.
    fn render(&self, colour: bool) -> String {
        let length = |checked: &Checked| checked.finding.check.chars().count();
        let widest = self.checks.iter().map(length).max();
        let width = widest.unwrap_or(0);
        let mut out = String::new();
        let mut part = "";
        for Checked { part: of, finding } in &self.checks {
            if of != part {
                part = of;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_reads_part_by_part_and_an_error_fails_its_check() {
        let mut report = Report::default();
        report.part("machine");
        report.push(Finding::new("disk", "9.0 GiB free", &[]));
        report.part("sft");
        report.push(Finding::new("data", "9 rows", &["3 rows are cut".into()]));
        assert_eq!(report.expect("plan", Ok(7)), Some(7));
        report.expect::<()>("model", Err(usage!("no config.json")));
        insta::assert_snapshot!(report.render(false), @r"
        machine
          ok    disk   9.0 GiB free
        sft
          warn  data   9 rows
                       3 rows are cut
          fail  model  no config.json
        3 checks, 1 failed, 1 to look at
        ");
    }
}
