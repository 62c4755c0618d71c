//! `rlhf pretrain`, `sft`, `reward`, `ppo`: one stage.

use std::path::{Path, PathBuf};

use rlhf_base::tell;
use rlhf_train::OnExisting;
use serde::Serialize;
use toml::{Table, Value};

use crate::flags::{CommonArgs, StageArgs};
use crate::job::Job;
use crate::machine::Machine;
use crate::output::print_result;
use crate::settings::{Layers, RUN, RunSettings};
use crate::stages::AnyStage;

/// Runs `stage` with the settings of the files, of `--set`, and of the `flags` over them.
pub(crate) fn run(stage: &dyn AnyStage, flags: Table, args: &StageArgs) -> anyhow::Result<()> {
    let mut layers = layers(args.config.as_deref(), &args.common)?;
    layers.add(FLAGS, section(stage.name(), flags))?;
    let run: RunSettings = layers.get(RUN)?;
    let out = run
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(stage.name()));

    let quiet = args.common.quiet;
    let job = Job::new(stage.name(), layers.configure(stage)?, &run, quiet)?;
    if args.resume && rlhf_train::finished(&out).is_some_and(|before| before == job.fingerprint) {
        tell(format!(
            "{}: this run is finished, with these very settings and inputs; nothing to do",
            out.display()
        ));
        return Ok(());
    }
    let existing = match (args.resume, args.overwrite) {
        (true, _) => OnExisting::Resume,
        (_, true) => OnExisting::Overwrite,
        _ => OnExisting::Refuse,
    };
    let machine = Machine::new(&run, quiet)?;
    machine.catch_interrupts()?;
    let summary = job.run(&machine, &out, existing)?;
    let mut result = summary.json;
    result["out"] = out.display().to_string().into();
    print_result(args.common.json, &result, || {
        format!("{}model in {}\n", summary.text, out.join("final").display())
    })
}

/// What errors call the layer of flags.
const FLAGS: &str = "command line";

/// Files, then `--set`, then the flags of `[run]`.
pub(crate) fn layers(config: Option<&Path>, common: &CommonArgs) -> anyhow::Result<Layers> {
    let mut layers = Layers::read(config, &common.set)?;
    layers.add(FLAGS, section(RUN, as_table(&common.run)?))?;
    Ok(layers)
}

/// Flags as a table: what was not given is not in it.
fn as_table(flags: &impl Serialize) -> anyhow::Result<Table> {
    Ok(Table::try_from(flags)?)
}

fn section(name: &str, settings: Table) -> Table {
    Table::from_iter([(name.to_owned(), Value::Table(settings))])
}
