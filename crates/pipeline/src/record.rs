//! What a run directory says of the run in it, and what has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rlhf_train::MayChange;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::exit::usage;
use crate::fingerprint::Content;
use crate::flags::derived::readable;
use crate::settings::{LORA, RUN};
use crate::stages::{AnyStage, STAGES};

/// `inputs.json`: what a run was made from besides its settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    /// The version of this program.
    rlhf: String,
    /// SHA-256 of every file that was read, by its name.
    sha256: BTreeMap<String, String>,
}

impl Inputs {
    pub(crate) fn new(contents: &[Content]) -> Self {
        Self {
            rlhf: env!("CARGO_PKG_VERSION").to_owned(),
            sha256: contents.iter().flat_map(Content::named).collect(),
        }
    }

    /// The beginning of the checksum of every file, by its name.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (String, String)> {
        let short = |sum: &String| format!("a file of checksum {}", &sum[..sum.len().min(12)]);
        self.sha256
            .iter()
            .map(move |(name, sum)| (name.clone(), short(sum)))
    }

    /// What is no longer as it `was`, in words.
    pub(crate) fn changes_since(&self, was: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        if self.rlhf != was.rlhf {
            changes.push(format!("rlhf was {}, is {}", was.rlhf, self.rlhf));
        }
        let names: BTreeSet<_> = was.sha256.keys().chain(self.sha256.keys()).collect();
        for name in names {
            match (was.sha256.get(name), self.sha256.get(name)) {
                (Some(was), Some(is)) if was == is => {}
                (Some(_), Some(_)) => {
                    changes.push(format!("{name} has changed since the run began"));
                }
                (Some(_), None) => changes.push(format!("{name} is no longer read")),
                (None, _) => changes.push(format!("{name} was not read when the run began")),
            }
        }
        changes
    }
}

/// The settings and inputs that a run began with.
#[derive(Debug)]
pub(crate) struct Record {
    /// `[run]`.
    pub(crate) run: Table,
    /// `[lora]`; empty where the weights themselves are trained.
    pub(crate) lora: Table,
    /// The section of the stage.
    pub(crate) stage: Table,
    pub(crate) inputs: Inputs,
}

impl Record {
    /// The record of the run of `stage` in `out`; `None` if there is no run.
    ///
    /// # Errors
    /// If the record is damaged, or that of another stage.
    pub(crate) fn read(out: &Path, stage: &dyn AnyStage) -> anyhow::Result<Option<Self>> {
        let name = stage.name();
        let Some((config, inputs)) = rlhf_train::record(out)? else {
            return Ok(None);
        };
        let path = out.join("config.toml").display().to_string();
        let mut sections: Table = config.parse().map_err(|error| usage!("{path}: {error}"))?;
        let mut section = |name: &str| match sections.remove(name) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        };
        let run = section(RUN).unwrap_or_default();
        let lora = section(LORA).unwrap_or_default();
        let Some(table) = section(name) else {
            let mut names = STAGES.iter().map(|stage| stage.name());
            let other = names.find(|other| sections.contains_key(*other));
            return Err(match other {
                Some(other) => usage!(
                    "{} holds a run of {other}: resume it with `rlhf {other} --resume --out {}`",
                    out.display(),
                    out.display()
                ),
                None => usage!("{path}: there is no section [{name}], so it is no run of {name}"),
            });
        };
        let path = out.join("inputs.json").display().to_string();
        let inputs = inputs.ok_or_else(|| {
            usage!("{path} is missing, so it is not known what the run was made from; start anew with --overwrite")
        })?;
        Ok(Some(Self {
            run,
            lora,
            stage: table,
            inputs: serde_json::from_str(&inputs).map_err(|error| usage!("{path}: {error}"))?,
        }))
    }
}

/// The error of resuming the run in `out` that names `differences`, all of them.
pub(crate) fn refusal(out: &Path, differences: &[String]) -> anyhow::Error {
    usage!(
        "{}: a resumed run goes on as it began, but\n  {}\nundo this to go on, or start anew with --overwrite or another --out",
        out.display(),
        differences.join("\n  ")
    )
}

/// The settings of one section, compared.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Compared {
    /// Those of before, with the differences that a resumed run may make.
    pub(crate) settled: Table,
    /// The differences that it may not make, in words.
    pub(crate) refused: Vec<String>,
    /// Those that it may make and that show in what the run makes, in words.
    pub(crate) seen: Vec<String>,
}

/// Compares the settings that `section` has with those it had.
pub(crate) fn compare(section: &str, may: &MayChange, was: &Table, is: &Table) -> Compared {
    let mut compared = Compared {
        settled: was.clone(),
        ..Compared::default()
    };
    let keys: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for key in keys {
        let (before, now) = (was.get(key), is.get(key));
        if before == now {
            continue;
        }
        let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), readable);
        let difference = format!("{section}.{key} was {}, is {}", shown(before), shown(now));
        if may.seen.contains(&key.as_str()) {
            compared.seen.push(difference);
        } else if !may.unseen.contains(&key.as_str()) {
            compared.refused.push(difference);
            continue;
        }
        match now {
            Some(now) => compared.settled.insert(key.clone(), now.clone()),
            None => compared.settled.remove(key),
        };
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAY: MayChange = MayChange {
        unseen: &["save_every"],
        seen: &["steps"],
    };

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn differences_are_named_and_only_those_that_may_be_made_are_settled() {
        let was = table("lr = 5e-4\nsteps = 9\nsave_every = 3\nmax_kl = 2.0\nname = 'a'");
        let is = table("lr = 1e-3\nsteps = 10\nsave_every = 4\nname = 'a'\nnew = [1]");
        let compared = compare("sft", &MAY, &was, &is);
        assert_eq!(
            compared.refused,
            [
                "sft.lr was 5e-4, is 1e-3",
                "sft.max_kl was 2.0, is not set",
                "sft.new was not set, is [1]"
            ]
        );
        assert_eq!(compared.seen, ["sft.steps was 9, is 10"]);
        let settled = "lr = 5e-4\nsteps = 10\nsave_every = 4\nmax_kl = 2.0\nname = 'a'";
        assert_eq!(compared.settled, table(settled));
        let same = compare("sft", &MAY, &was, &was);
        assert!(same.refused.is_empty() && same.seen.is_empty() && same.settled == was);
    }

    #[test]
    fn changed_inputs_are_called_by_their_names() {
        let inputs = |rlhf: &str, files: &[(&str, &str)]| Inputs {
            rlhf: rlhf.to_owned(),
            sha256: files
                .iter()
                .map(|(name, sum)| (name.to_string(), sum.to_string()))
                .collect(),
        };
        let was = inputs(
            "1.0.0",
            &[("a.jsonl", "1"), ("b.jsonl", "2"), ("c.jsonl", "3")],
        );
        let is = inputs(
            "1.1.0",
            &[("a.jsonl", "1"), ("b.jsonl", "9"), ("d.jsonl", "4")],
        );
        assert_eq!(
            is.changes_since(&was),
            [
                "rlhf was 1.0.0, is 1.1.0",
                "b.jsonl has changed since the run began",
                "c.jsonl is no longer read",
                "d.jsonl was not read when the run began"
            ]
        );
        assert_eq!(was.changes_since(&was), [""; 0]);
    }
}
