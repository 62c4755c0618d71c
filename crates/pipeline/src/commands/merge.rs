//! `rlhf merge`: an adapter and its base become one model.

use std::path::PathBuf;

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
    let (dtype, device) = (DType::F32, Device::Cpu);
    let saved = if models::is_reward_model(&folder)? {
        RewardModel::load_over(&folder, dtype, &device, &bases).and_then(|model| {
            let (config, params) = (model.config(), model.params());
            RewardModel::save(&aside, config, params, model.tokenizer(), model.card())
        })
    } else {
        bases
            .language_model(&folder, Weights::Frozen, dtype, &device)
            .and_then(|model| model.save(&aside, SaveDtype::F32))
    };
    let renamed = saved.and_then(|()| Ok(fs_err::rename(&aside, &out)?));
    if let Err(error) = renamed {
        // What is left of it, if anything is.
        let _ = fs_err::remove_dir_all(&aside);
        return Err(error.into());
    }
    let result = json!({ "out": out, "adapter": folder, "base": base });
    print_result(args.json, &result, || {
        format!("merged model in {}\n", out.display())
    })
}
