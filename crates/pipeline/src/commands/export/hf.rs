//! `rlhf export --hf`: a whole model in a Hugging Face directory of its own, with a model card.

use std::path::{Path, PathBuf};

use rlhf_base::tell;
use serde_json::json;

use super::{beside, refuse_existing, stem};
use crate::card;
use crate::commands::merge::write_whole;
use crate::flags::ExportArgs;
use crate::output::print_result;

pub(super) fn run(args: &ExportArgs, folder: &Path) -> anyhow::Result<()> {
    let name = stem(&args.model);
    let out = match &args.out {
        Some(out) => out.clone(),
        None => beside(&args.model, &format!("{name}-hf")),
    };
    refuse_existing(&out)?;
    if !args.quiet {
        tell(format!(
            "writing {} into {}",
            folder.display(),
            out.display()
        ));
    }
    // Written aside, so that a folder of that name is always complete.
    let mut aside = out.clone().into_os_string();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = || -> anyhow::Result<()> {
        write_whole(folder, &aside)?;
        for file in card::files(folder, &name, args.license.as_deref(), card::Form::Whole)? {
            fs_err::write(aside.join(file.name), file.text)?;
        }
        Ok(fs_err::rename(&aside, &out)?)
    };
    written().inspect_err(|_| {
        // What is left of it, if anything is.
        let _ = fs_err::remove_dir_all(&aside);
    })?;
    let result = json!({ "out": out, "from": folder });
    print_result(args.json, &result, || {
        let out = out.display();
        format!("{out}: the model, and its card in README.md\nnext: rlhf push {out} ORG/NAME\n")
    })
}
