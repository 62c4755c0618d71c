//! `rlhf pretrain`, `sft`, `reward`, `ppo`: one stage.

use std::path::{Path, PathBuf};

use clap::Args;
use rlhf_train::OnExisting;
use serde::Serialize;
use toml::{Table, Value};

use crate::flags::{CommonArgs, StageArgs};
use crate::machine::Machine;
use crate::output::{print, print_json};
use crate::settings::{Layers, RunSettings};
use crate::stage::{Job, Stage};

pub(crate) fn run<S: Stage, F: Args + Serialize>(args: &StageArgs<F>) -> anyhow::Result<()> {
    let mut layers = layers(args.config.as_deref(), &args.common)?;
    layers.add(FLAGS, section(S::SECTION, &args.training)?)?;
    layers.add(FLAGS, section(S::SECTION, &args.own)?)?;
    let run: RunSettings = layers.get()?;
    let settings: S = layers.get()?;
    let out = run
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(S::SECTION));

    let quiet = args.common.quiet;
    let job = Job::prepare(&settings, &run, quiet)?;
    if args.resume && rlhf_train::finished(&out).is_some_and(|before| before == job.fingerprint) {
        eprintln!(
            "{}: this run is finished, with these very settings and inputs; nothing to do",
            out.display()
        );
        return Ok(());
    }
    let existing = match (args.resume, args.overwrite) {
        (true, _) => OnExisting::Resume,
        (_, true) => OnExisting::Overwrite,
        _ => OnExisting::Refuse,
    };
    let machine = Machine::new(&run, quiet)?;
    machine.catch_interrupts()?;
    let outcome = job.run(&machine, &out, existing)?;
    if args.common.json {
        let mut result = serde_json::to_value(&outcome)?;
        result["out"] = out.display().to_string().into();
        return print_json(&result);
    }
    print(&S::summary(&outcome));
    print(&format!("model in {}\n", out.join("final").display()));
    Ok(())
}

/// What errors call the layer of flags.
const FLAGS: &str = "command line";

/// Files, then `--set`, then the flags of `[run]`.
pub(crate) fn layers(config: Option<&Path>, common: &CommonArgs) -> anyhow::Result<Layers> {
    let mut layers = Layers::read(config, &common.set)?;
    layers.add(FLAGS, section("run", &common.run)?)?;
    Ok(layers)
}

/// Flags as a layer: what was not given is not in it.
fn section(name: &str, flags: &impl Serialize) -> anyhow::Result<Table> {
    Ok(Table::from_iter([(
        name.to_owned(),
        Value::Table(Table::try_from(flags)?),
    )]))
}
