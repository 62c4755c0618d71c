//! `rlhf init`: a configuration file for what there is, or from a template, and whether it would run.

mod choices;
mod file;
mod look;
mod templates;
mod text;

use std::path::{Path, PathBuf};

use rlhf_lm::Outline;
use rlhf_train::{Comm, write_file};
use serde_json::json;
use toml::{Table, Value};

use self::file::Given;
use self::look::{Rows, expect, outline};
use self::templates::{Named, TEMPLATES, Template};
use crate::exit::usage;
use crate::flags::{CommonArgs, DoctorArgs, InitArgs};
use crate::locate::model_folder;
use crate::memory::{free_on, memory};
use crate::output::{print, print_json};
use crate::settings::{Layers, RunSettings};

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<()> {
    let out = &args.out;
    let template = args.template.as_deref().map(Template::named).transpose()?;
    if out.exists() && !args.overwrite {
        return Err(usage!(
            "{} exists, and is not overwritten: name another file with --out, or say --overwrite",
            out.display()
        ));
    }
    let text = match template {
        Some(template) => template.text(&named(args), out)?,
        None => given(args)?.text(),
    };
    // Every setting of it is one, and together they make sense.
    let table: Table = text.parse()?;
    Layers::default().add(&out.display().to_string(), table.clone())?;
    write_file(out, text.as_bytes())?;
    let missing = missing_files(&table);
    let file = out.display();
    if !missing.is_empty() {
        let names = look::names(&missing);
        let next = format!("rlhf doctor {file}");
        if args.json {
            return print_json(&json!({"out": file.to_string(), "missing": missing, "next": next}));
        }
        return print(&format!(
            "wrote {file}\nnot here yet: {names}. Put them there, or name yours in {file}; what a row is stands there too\nnext: {next}\n"
        ));
    }
    let next = format!("rlhf run {file}");
    let doctor = DoctorArgs {
        pipeline: Some(out.clone()),
        common: CommonArgs::default(),
    };
    if args.json {
        let report = super::doctor::examined(&doctor, &Comm::single())?;
        print_json(&json!({"out": file.to_string(), "checks": report.checks, "next": next}))?;
        return report.passed();
    }
    print(&format!("wrote {file}\n\n"))?;
    super::doctor::run(&doctor, &Comm::single())?;
    print(&format!("next: {next}\n"))
}

fn named(args: &InitArgs) -> Named<'_> {
    Named {
        model: args.model.as_deref(),
        data: &args.data,
        prefs: &args.prefs,
        prompts: &args.prompts,
    }
}

/// Looks at what was given.
fn given(args: &InitArgs) -> anyhow::Result<Given> {
    let names: Vec<&str> = TEMPLATES.iter().map(|it| it.name).collect();
    let names = names.join(", ");
    if args.data.is_empty() && args.prefs.is_empty() && args.prompts.is_empty() {
        let alone = match &args.model {
            Some(model) => format!("{model} has nothing to learn from"),
            None => "nothing was given".to_owned(),
        };
        return Err(usage!(
            "{alone}: give files of rows, --data (demonstrations), --prefs (which answer is better), --prompts, and --model; or start from a \
             file with --template {names}"
        ));
    }
    let Some(model) = &args.model else {
        return Err(usage!(
            "rows of your own need a model: --model with a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct, a folder, or a GGUF file"
        ));
    };
    let folder = model_folder(model, "sft")?;
    let outline = outline(&folder)?;
    let read = |flag: &str, files: &[PathBuf]| -> anyhow::Result<Option<Rows>> {
        if files.is_empty() {
            return Ok(None);
        }
        let rows = Rows::read(files, &outline)?;
        expect(flag, &rows)?;
        Ok(Some(rows))
    };
    let (data, prefs) = (read("--data", &args.data)?, read("--prefs", &args.prefs)?);
    let prompts = read("--prompts", &args.prompts)?;
    if data.is_none() && prefs.is_none() && !outline.tokenizer.has_chat_template() {
        rlhf_base::tell(format!(
            "{model} has no chat template and no demonstrations are given: a model that was never taught to answer rarely does; give --data"
        ));
    }
    Ok(Given {
        model: model.clone(),
        is_adapter: Outline::is_adapter(&folder),
        outline,
        data,
        prefs,
        prompts,
        free: free(),
        typed: typed(args),
        out: args.out.display().to_string(),
    })
}

/// Bytes that are free on the device that a run of the file takes.
fn free() -> u64 {
    let device = rlhf_ops::device::pick(&RunSettings::default().device, 0).ok();
    let free = device.and_then(|device| free_on(&device));
    free.unwrap_or_else(|| memory().0)
}

/// The command that writes the file again.
fn typed(args: &InitArgs) -> String {
    let mut words = vec!["rlhf init".to_owned()];
    words.extend(args.model.iter().map(|model| format!("--model {model}")));
    for (flag, files) in [
        ("--data", &args.data),
        ("--prefs", &args.prefs),
        ("--prompts", &args.prompts),
    ] {
        if !files.is_empty() {
            words.push(format!("{flag} {}", look::names(files)));
        }
    }
    words.join(" ")
}

/// Data files that the settings name and that are not here. What may be a data set of the hub is left to `doctor`.
fn missing_files(settings: &Table) -> Vec<PathBuf> {
    let mut missing = Vec::new();
    for section in settings.values().filter_map(Value::as_table) {
        for key in ["data", "prefs", "prompts"] {
            let names = section.get(key).and_then(Value::as_array).into_iter();
            let names = names.flatten().filter_map(Value::as_str);
            let of_files =
                names.filter(|name| rlhf_dataset::is_data_file(name) && !Path::new(name).exists());
            missing.extend(of_files.map(PathBuf::from));
        }
    }
    missing.dedup();
    missing
}
