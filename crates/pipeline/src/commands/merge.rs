//! `rlhf merge`: an adapter and its base become one model.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use rlhf_base::tell;
use rlhf_lm::{RewardModel, SaveDtype, Weights, base_of, is_adapter};
use serde_json::json;

use crate::exit::usage;
use crate::flags::MergeArgs;
use crate::models;
use crate::output::print_result;

pub(crate) fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let folder = models::folder(&args.adapter, "sft")?;
    if !is_adapter(&folder) {
        return Err(usage!(
            "{} holds no adapter (adapter_config.json): it is a whole model already",
            folder.display()
        ));
    }
    let out = args.out.clone().unwrap_or_else(|| {
        let name = args.adapter.trim_end_matches(['/', '\\']);
        PathBuf::from(format!("{name}-merged"))
    });
    if out.exists() {
        return Err(usage!(
            "{} exists, and is not overwritten: name another folder with --out",
            out.display()
        ));
    }
    let bases = models::bases();
    let base = base_of(&folder, &bases)?.unwrap_or_default();
    if !args.quiet {
        tell(format!(
            "merging {} into {}",
            folder.display(),
            base.display()
        ));
    }
    // Written aside, so that a folder of that name is always complete.
    let mut aside = out.clone().into_os_string();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let renamed = write_whole(&folder, &aside).and_then(|()| Ok(fs_err::rename(&aside, &out)?));
    if let Err(error) = renamed {
        // What is left of it, if anything is.
        let _ = fs_err::remove_dir_all(&aside);
        return Err(error);
    }
    let result = json!({ "out": out, "adapter": folder, "base": base });
    print_result(args.json, &result, || {
        format!("merged model in {}\n", out.display())
    })
}

/// Writes the model in `folder` as a whole into the new directory `out`: a directory that is whole already as it is, an adapter merged into
/// its base, and a GGUF file in f32.
pub(crate) fn write_whole(folder: &Path, out: &Path) -> anyhow::Result<()> {
    if folder.join("config.json").is_file() && !is_adapter(folder) {
        fs_err::create_dir_all(out)?;
        for entry in fs_err::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                fs_err::copy(&path, out.join(path.file_name().unwrap_or_default()))?;
            }
        }
        return Ok(());
    }
    let (dtype, device, bases) = (DType::F32, Device::Cpu, models::bases());
    if models::is_reward_model(folder)? {
        let model = RewardModel::load_over(folder, dtype, &device, &bases)?;
        let (config, params) = (model.config(), model.params());
        RewardModel::save(out, config, params, model.tokenizer(), model.card())?;
        return Ok(());
    }
    let model = bases.language_model(folder, Weights::Frozen, dtype, &device)?;
    Ok(model.save(out, SaveDtype::F32)?)
}
