//! `rlhf export --gguf`: a language model as one file for llama.cpp, Ollama and others.

use std::collections::BTreeMap;
use std::path::Path;

use rlhf_base::tell;
use rlhf_lm::gguf::{self, Exported, Fallback};
use serde_json::{Value, json};

use super::{beside, refuse_existing, stem};
use crate::exit::usage;
use crate::flags::{ExportArgs, QuantisationArg};
use crate::models;
use crate::ollama::modelfile;
use crate::output::print_result;

pub(super) fn run(args: &ExportArgs, kind: QuantisationArg, folder: &Path) -> anyhow::Result<()> {
    if models::is_reward_model(folder)? {
        return Err(usage!(
            "{} is a reward model: it gives a score instead of text, and llama.cpp has no place for its head in a file of this kind. Take it away \
             with --hf",
            folder.display()
        ));
    }
    let name = stem(&args.model);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => beside(&args.model, &format!("{name}-{}.gguf", kind.name())),
    };
    let recipe = args.ollama.then(|| out.with_extension("Modelfile"));
    for file in [Some(&out), recipe.as_ref()].into_iter().flatten() {
        refuse_existing(file)?;
    }
    if out
        .extension()
        .is_none_or(|found| !found.eq_ignore_ascii_case("gguf"))
    {
        return Err(usage!(
            "--out {}: expected a file name that ends with .gguf, by which other programs know what it is",
            out.display()
        ));
    }
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs_err::create_dir_all(parent)?;
    }
    if !args.quiet {
        tell(format!("writing {} as {}", folder.display(), kind.name()));
    }
    let bases = models::bases();
    let mut done = gguf::export(folder, &bases, kind.quantisation(), &name, &out)?;
    if let Some(recipe) = &recipe {
        let file = out.file_name().unwrap_or_default().to_string_lossy();
        let (text, missing) = modelfile(&file, &done.tokenizer, done.context_length);
        fs_err::write(recipe, text)?;
        if missing {
            done.notes.push(format!(
                "the chat template is more than text around turns, which is all that is translated for Ollama: add a TEMPLATE to {}",
                recipe.display()
            ));
        }
    }
    let size = fs_err::metadata(&out)?.len();
    let mut result = json!({
        "out": out,
        "from": folder,
        "bytes": size,
        "tensors": done.tensors,
        "fallbacks": fallbacks_json(&done.fallbacks),
        "notes": done.notes,
    });
    if let Some(recipe) = &recipe {
        result["modelfile"] = json!(recipe);
    }
    print_result(args.json, &result, || {
        described(&out, recipe.as_deref(), size, &done, &name)
    })
}

fn fallbacks_json(fallbacks: &[Fallback]) -> Vec<Value> {
    let one = |f: &Fallback| json!({"tensor": f.tensor, "row": f.row, "wanted": f.wanted, "used": f.used});
    fallbacks.iter().map(one).collect()
}

fn described(out: &Path, recipe: Option<&Path>, size: u64, done: &Exported, name: &str) -> String {
    let counts: Vec<_> = done
        .tensors
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    let mut text = format!(
        "{}: {:.1} MB, tensors: {}\n",
        out.display(),
        size as f64 / 1e6,
        counts.join(", ")
    );
    let mut groups: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for fallback in &done.fallbacks {
        let key = (fallback.row, fallback.wanted, fallback.used);
        groups.entry(key).or_default().push(&fallback.tensor);
    }
    for ((row, wanted, used), tensors) in groups {
        let others = match tensors.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        text += &format!(
            "  {used} instead of {wanted}, whose blocks rows of {row} do not fill: {}{others}\n",
            tensors[0]
        );
    }
    for note in &done.notes {
        text += &format!("  note: {note}\n");
    }
    match recipe {
        Some(recipe) => text += &format!("next: ollama create {name} -f {}\n", recipe.display()),
        None => text += &format!("next: llama-cli -m {}\n", out.display()),
    }
    text
}
