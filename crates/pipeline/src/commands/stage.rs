//! `rlhf pretrain`, `sft`, `reward`, `ppo`: one stage.

use std::path::{Path, PathBuf};

use rlhf_base::tell;
use rlhf_train::{Comm, LoraSettings, OnExisting, RunDir, Settings as _, Source};
use serde::Serialize;
use toml::{Table, Value};

use crate::exit::{usage, with_resume};
use crate::flags::{CommonArgs, StageArgs};
use crate::job::{Job, recorded, recorded_lora};
use crate::machine::Machine;
use crate::output::print_result;
use crate::own_data::refuse_bundled_data_for_own_model;
use crate::record::{Record, compare, refusal};
use crate::settings::{LORA, LORA_MAY_CHANGE, Layers, RUN, RUN_MAY_CHANGE, RunSettings};
use crate::stages::{AnyStage, Configured};
use crate::variants::Part;

/// Runs `stage` with the settings of the files, of `--set`, and of the `flags` over them.
pub(crate) fn run(
    stage: &'static dyn AnyStage,
    flags: Table,
    args: &StageArgs,
    comm: &Comm,
) -> anyhow::Result<()> {
    let flags = section(stage.name(), flags);
    let mut layers = layers(args.config.as_deref(), &args.common)?;
    layers.add(FLAGS, flags.clone())?;
    let mut run: RunSettings = layers.get(RUN)?;
    if run.seeds > 1 {
        return Err(usage!(
            "run.seeds is {}, and {} runs once: take `rlhf run`, or one seed after the other with --seed and --out",
            run.seeds,
            stage.name()
        ));
    }
    let out = run
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(stage.name()));

    let quiet = args.common.quiet;
    let begun = match args.resume {
        true => begun(&out, stage)?,
        false => None,
    };
    // What stands beside the command, without the file of the folder.
    let mut given = Layers::given(args.config.as_deref(), &args.common.set)?;
    given.add(FLAGS, of_all(&args.common)?)?;
    given.add(FLAGS, flags)?;
    let job = if let Some(record) = &begun {
        let found = comm.leader_first(|| resumed(stage, &out, record, &given, &run, quiet));
        let (job, settings) = found?;
        run = settings;
        job
    } else {
        if args.resume && given.table(stage.name()).is_empty() {
            return Err(usage!(
                "{} holds no run to resume: start one without --resume, or name its folder with --out",
                out.display()
            ));
        }
        let lora: LoraSettings = layers.get(LORA)?;
        let mut configured = layers.configure(&Part::of(stage))?;
        refuse_bundled_data_for_own_model(stage, configured.as_mut())?;
        comm.leader_first(|| Job::new(stage, configured, &run, &lora, quiet))?
    };
    if args.resume && rlhf_train::finished(&out).is_some_and(|before| before == job.fingerprint) {
        tell(format!(
            "{}: this run is finished, with these very settings and inputs; nothing to do",
            out.display()
        ));
        let result = serde_json::json!({"out": out.display().to_string()});
        return print_result(args.common.json, &result, String::new);
    }
    let existing = match (args.resume, args.overwrite) {
        (true, _) => OnExisting::Resume,
        (_, true) => OnExisting::Overwrite,
        _ => OnExisting::Refuse,
    };
    let machine = Machine::of_rank(&run, quiet, comm)?;
    machine.catch_interrupts()?;
    let summary = job
        .run(&machine, &out, existing)
        .map_err(|error| with_resume(error, &continuation(stage, &out, &args.common)))?;
    let next = next(stage, stage.configure(&job.settings)?.as_mut(), &out)?;
    let mut result = summary.json;
    result["out"] = out.display().to_string().into();
    print_result(args.common.json, &result, || {
        let model = out.join("final");
        format!(
            "{}model in {}\nnext: {next}\n",
            summary.text,
            model.display()
        )
    })
}

/// The command that usually comes next, on files of one's own where this stage had some.
fn next(
    stage: &dyn AnyStage,
    configured: &mut dyn Configured,
    out: &Path,
) -> anyhow::Result<String> {
    let (command, data) = stage.next();
    let (mut model, mut own) = (String::new(), false);
    for source in configured.sources()? {
        match source {
            Source::Model {
                setting: "model",
                name,
                ..
            } => model.clone_from(name),
            Source::Data { files, .. } => own |= !files.is_empty(),
            _ => {}
        }
    }
    let line = format!("{command}{}", if own { data } else { "" });
    let out = out.display().to_string();
    Ok(line.replace("{out}", &out).replace("{model}", &model))
}

/// What the run in `out` was begun with, if there is one.
fn begun(out: &Path, stage: &dyn AnyStage) -> anyhow::Result<Option<Record>> {
    let record = Record::read(out, stage)?;
    if record.is_none() && RunDir::refuse_existing(out).is_err() {
        return Err(usage!(
            "{} is missing, so the settings of this run are not known; start anew with --overwrite or another --out",
            out.join("config.toml").display()
        ));
    }
    Ok(record)
}

/// The run in `out` that `record` is of, with what is `given` beside `--resume` where that may differ, and the settings it is computed with. `usual` says
/// what a run does not record: its folder and the number of threads.
///
/// # Errors
/// On every other difference, and on inputs that have changed, all in one message.
fn resumed(
    stage: &'static dyn AnyStage,
    out: &Path,
    record: &Record,
    given: &Layers,
    usual: &RunSettings,
    quiet: bool,
) -> anyhow::Result<(Job, RunSettings)> {
    let name = stage.name();
    let config = out.join("config.toml");
    let config = config.display();
    let over = |was: &Table, section: &str| {
        let mut is = was.clone();
        is.extend(given.table(section));
        is
    };
    let of_run = |table: &Table| {
        RunSettings::from_table(table).map_err(|error| usage!("{}: {RUN}.{error}", config))
    };
    let of_lora = |table: &Table| {
        LoraSettings::from_table(table).map_err(|error| usage!("{}: {LORA}.{error}", config))
    };
    let of_stage = |table: &Table| {
        let configured = stage.configure(table);
        configured.map_err(|error| usage!("{}: {name}.{error}", config))
    };
    // Read as settings, so that 1 and 1.0 are the same.
    let run = compare(
        RUN,
        &RUN_MAY_CHANGE,
        &recorded(&of_run(&record.run)?),
        &recorded(&of_run(&over(&record.run, RUN))?),
    );
    let lora = compare(
        LORA,
        &LORA_MAY_CHANGE,
        &record.lora,
        &recorded_lora(&of_lora(&over(&record.lora, LORA))?),
    );
    let own = compare(
        name,
        &stage.may_change(),
        &of_stage(&record.stage)?.to_table(),
        &of_stage(&over(&record.stage, name))?.to_table(),
    );
    let settings = RunSettings {
        out: usual.out.clone(),
        threads: usual.threads,
        ..of_run(&run.settled)?
    };
    let mut differences = [run.refused, lora.refused, own.refused].concat();
    let lora = of_lora(&lora.settled)?;
    let job = match Job::new(stage, of_stage(&own.settled)?, &settings, &lora, quiet) {
        Ok(job) => job,
        Err(error) if differences.is_empty() => return Err(error),
        Err(error) => {
            differences.push(format!("{error:#}"));
            return Err(refusal(out, &differences));
        }
    };
    differences.extend(job.inputs.changes_since(&record.inputs));
    match differences.as_slice() {
        [] => Ok((job, settings)),
        some => Err(refusal(out, some)),
    }
}

/// The words of the command that goes on with an interrupted run: its settings are in its folder, all but these.
fn continuation(stage: &dyn AnyStage, out: &Path, common: &CommonArgs) -> Vec<String> {
    let mut words = vec![stage.name().to_owned(), "--resume".to_owned()];
    words.extend(["--out".to_owned(), out.display().to_string()]);
    let flags = as_table(&common.run).unwrap_or_default();
    if let Some(threads) = flags.get("threads") {
        words.extend(["--threads".to_owned(), threads.to_string()]);
    }
    for (flag, given) in [("--quiet", common.quiet), ("--json", common.json)] {
        words.extend(given.then(|| flag.to_owned()));
    }
    words
}

/// What errors call the layer of flags.
const FLAGS: &str = "command line";

/// The flags that every command which computes has, by section.
fn of_all(common: &CommonArgs) -> anyhow::Result<Table> {
    let mut all = section(RUN, as_table(&common.run)?);
    all.extend(section(LORA, as_table(&common.lora)?));
    Ok(all)
}

/// Files, then `--set`, then the flags of `[run]` and `[lora]`.
pub(crate) fn layers(config: Option<&Path>, common: &CommonArgs) -> anyhow::Result<Layers> {
    let mut layers = Layers::read(config, &common.set)?;
    layers.add(FLAGS, of_all(common)?)?;
    Ok(layers)
}

/// Flags as a table: what was not given is not in it.
fn as_table(flags: &impl Serialize) -> anyhow::Result<Table> {
    Ok(Table::try_from(flags)?)
}

fn section(name: &str, settings: Table) -> Table {
    Table::from_iter([(name.to_owned(), Value::Table(settings))])
}
