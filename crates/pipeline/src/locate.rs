//! Real folders and files in place of the names in a stage's settings.

use std::path::{Path, PathBuf};

use rlhf_lm::base_of;
use rlhf_rollout::RewardSource;
use rlhf_train::Source;

use crate::bundled;
use crate::data_files;
use crate::exit::usage;
use crate::fingerprint::Input;
use crate::models;
use crate::stages::Configured;

/// Puts real files and folders in the place of names (a run, a hub id, nothing at all), and lists everything the stage will
/// read, by the names that the settings give. What was filled in is said in `notes`.
pub(crate) fn locate(
    configured: &mut dyn Configured,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<Input>> {
    configured.validate().map_err(|error| usage!("{error:#}"))?;
    locate_unchecked(configured, notes)
}

/// The same of settings that were checked before something stood in for what is yet to be made.
pub(crate) fn locate_unchecked(
    configured: &mut dyn Configured,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for source in configured.sources()? {
        match source {
            Source::Model { name, made_by, .. } => {
                if name.is_empty() {
                    notes.push(
                        "no model given: starting from the bundled Tiny World model".to_owned(),
                    );
                }
                let folder = model_folder(name, made_by)?;
                inputs.push(input(name, &folder));
                let base = base_of(&folder, &models::bases());
                if let Some(base) = base.map_err(|error| usage!("{error}"))? {
                    inputs.push(input(&base.display().to_string(), &base));
                }
                *name = folder.display().to_string();
            }
            Source::Data {
                files,
                mut held_out,
                bundled,
                ..
            } => {
                for names in [Some(&mut *files), held_out.as_deref_mut()]
                    .into_iter()
                    .flatten()
                {
                    let mut all = Vec::new();
                    for name in names.iter() {
                        let found = data_files::found(std::slice::from_ref(name))?;
                        let shown = name.display().to_string();
                        inputs.extend(found.iter().map(|file| input(&shown, file)));
                        all.extend(found);
                    }
                    *names = all;
                }
                if files.is_empty() {
                    let split = bundled::split(bundled);
                    notes.push(format!(
                        "no data given: using the bundled Tiny World {}",
                        split.what
                    ));
                    let mut fill = |name: &str, files: &mut Vec<PathBuf>| -> anyhow::Result<()> {
                        let file = bundled::path(name)?;
                        inputs.push(Input {
                            name: format!("the bundled {name}"),
                            path: file.clone(),
                        });
                        files.push(file);
                        Ok(())
                    };
                    fill(split.train, files)?;
                    if let (Some(name), Some(held_out)) = (split.held_out, &mut held_out)
                        && held_out.is_empty()
                    {
                        fill(name, held_out)?;
                    }
                }
            }
            Source::Files(files) => {
                let names = files.iter().map(|file| file.display().to_string());
                inputs.extend(names.zip(&files).map(|(name, file)| input(&name, file)));
            }
        }
    }
    Ok(inputs)
}

/// What messages call the file or folder that `name` stands for: by its own path where that tells where it is, else as it was named.
fn input(name: &str, found: &Path) -> Input {
    let name = match name {
        "" | bundled::NAME => "the bundled model".to_owned(),
        name if Path::new(name).exists() => found.display().to_string(),
        name => name.to_owned(),
    };
    Input {
        name,
        path: found.to_owned(),
    }
}

/// The folder of a model by name; no name at all means the bundled one. `maker` is the command that makes such models.
pub(crate) fn model_folder(name: &str, maker: &str) -> anyhow::Result<PathBuf> {
    if name.is_empty() || name == bundled::NAME {
        bundled::path(bundled::MODEL)
    } else {
        models::folder(name, maker)
    }
}

/// What a reward is, a model's folder found by name.
pub(crate) fn reward_source(spec: &str) -> anyhow::Result<RewardSource> {
    let source = spec
        .parse()
        .map_err(|error: anyhow::Error| usage!("{error:#}"))?;
    Ok(match source {
        RewardSource::Model(_) => RewardSource::Model(model_folder(spec, "reward")?),
        other => other,
    })
}
