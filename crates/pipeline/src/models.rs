//! Where a model is: a run, a directory, or the hub.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use rlhf_lm::hub::HubSettings;
use rlhf_lm::{Bases, is_adapter};

use crate::exit::usage;
use crate::near::instead;

/// The folder of the model that `spec` names: of a run its `final/`, a model directory or an adapter as it is, otherwise the local
/// copy of a hub repository, fetched if need be. A GGUF file stands for itself. `maker` is the command that would make
/// what is missing.
pub(crate) fn folder(spec: &str, maker: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(spec);
    let published = path.join("final");
    for folder in [published, path.to_owned()] {
        if is_adapter(&folder) || folder.join("config.json").is_file() {
            return Ok(folder);
        }
    }
    if let Some(file) = rlhf_lm::gguf::locate(path)? {
        return Ok(file);
    }
    if path.join("config.toml").is_file() {
        return Err(usage!(
            "{spec}: this run has no model yet; finish it with `rlhf {maker} --resume --out {spec}`"
        ));
    }
    if path.is_dir() {
        return Err(usage!(
            "{spec}: neither config.json, adapter_config.json nor a GGUF file in it, so it is neither a model directory nor a run"
        ));
    }
    if path.exists() {
        return Err(usage!(
            "{spec} is a file, and no model: expected a run, the directory of a model, a file x.gguf, or a hub id"
        ));
    }
    if looks_like_a_path(spec) {
        let instead = instead(path);
        return Err(match path.extension().is_some_and(|it| it == "gguf") {
            true => usage!("{spec} does not exist{instead}"),
            false => usage!(
                "{spec} does not exist{instead}{} make it with `rlhf {maker}`, or name another model",
                if instead.ends_with('?') { "" } else { ";" }
            ),
        });
    }
    let hub = hub();
    if !rlhf_lm::hub::is_cached(spec, &hub) {
        if !spec.contains(['/', '@']) && !HUB_WORDS.contains(&spec) {
            return Err(usage!(
                "there is no folder {spec} here{}, and models on the hub are written org/name, such as HuggingFaceTB/SmolLM2-135M; for one \
                 that has no org, write {spec}@main",
                instead(path).trim_end_matches('?')
            ));
        }
        tracing::info!("there is no folder {spec} here: looking for {spec} on the hub");
    }
    Ok(rlhf_lm::hub::resolve_model(spec, &hub)?)
}

/// Models of the hub that have a name without an organisation, and are known by it.
const HUB_WORDS: [&str; 5] = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2"];

/// The hub as the environment describes it (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`).
pub(crate) fn hub() -> HubSettings {
    let settings = HubSettings::from_variables(|name| std::env::var(name).ok());
    HubSettings {
        progress: std::io::stderr().is_terminal(),
        ..settings
    }
}

/// Where models come from, the bases of adapters included.
pub(crate) fn bases() -> Bases {
    Bases::new(hub())
}

/// Whether the model in `folder` gives a score instead of text.
pub(crate) fn is_reward_model(folder: &Path) -> anyhow::Result<bool> {
    if folder.join("reward.json").is_file() {
        return Ok(true);
    }
    if is_adapter(folder) {
        return Ok(rlhf_lm::is_reward_adapter(folder)?);
    }
    if rlhf_lm::gguf::locate(folder)?.is_some() {
        return Ok(false);
    }
    let path = folder.join("config.json");
    let config: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(&path)?)
        .map_err(|error| usage!("{}: {error}", path.display()))?;
    let names = config["architectures"].as_array().into_iter().flatten();
    Ok(names
        .filter_map(|name| name.as_str())
        .any(|name| name.ends_with("ForSequenceClassification")))
}

/// Whether `spec` is a path rather than a hub id: absolute, dotted, several folders deep, below `runs/`, written as on Windows, or a GGUF file.
fn looks_like_a_path(spec: &str) -> bool {
    spec.starts_with(['/', '.', '~'])
        || spec.contains('\\')
        || spec.starts_with("runs/")
        || spec.ends_with(".gguf")
        || spec.matches('/').count() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_for_its_final_model() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs/sft");
        fs_err::create_dir_all(run.join("final")).unwrap();
        let spec = run.to_str().unwrap();
        assert!(
            folder(spec, "sft")
                .unwrap_err()
                .to_string()
                .contains("neither")
        );
        fs_err::write(run.join("config.toml"), "").unwrap();
        assert!(
            folder(spec, "sft")
                .unwrap_err()
                .to_string()
                .contains("--resume")
        );
        fs_err::write(run.join("final/config.json"), "{}").unwrap();
        assert_eq!(folder(spec, "sft").unwrap(), run.join("final"));
        assert_eq!(
            folder(run.join("final").to_str().unwrap(), "sft").unwrap(),
            run.join("final")
        );
    }

    #[test]
    fn a_missing_run_is_not_looked_for_on_the_hub() {
        let error = folder("runs/nowhere", "reward").unwrap_err().to_string();
        assert!(error.contains("`rlhf reward`"), "{error}");
        assert!(looks_like_a_path(r"runs\ppo") && looks_like_a_path(r"C:\models\a"));
        assert!(!looks_like_a_path("gpt2") && !looks_like_a_path("org/name@main"));
    }
}
