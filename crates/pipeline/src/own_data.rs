//! Data of one's own and the bundled Tiny World do not mix.
//!
//! Without data a stage takes the bundled one, so that everything can be tried at once. A model that has learned from other data would be led
//! astray by it, and slowly: so then it is refused.

use std::path::{Path, PathBuf};

use rlhf_train::{Bundled, Source};
use toml::{Table, Value};

use crate::bundled;
use crate::exit::usage;
use crate::stages::{AnyStage, Configured, STAGES};

/// A setting that names data.
pub(crate) struct Named {
    /// `sft.data`.
    pub(crate) setting: String,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) kind: Bundled,
}

/// The settings of a stage that name data. Settings that cannot be used name none: what is wrong with them is told elsewhere.
pub(crate) fn named(stage: &str, configured: &mut dyn Configured) -> Vec<Named> {
    let sources = configured.sources().unwrap_or_default().into_iter();
    let data = sources.filter_map(|source| match source {
        Source::Data {
            setting,
            files,
            bundled,
            ..
        } => Some(Named {
            setting: format!("{stage}.{setting}"),
            files: files.clone(),
            kind: bundled,
        }),
        _ => None,
    });
    data.collect()
}

/// Whether a stage starts from the bundled model, or makes its model from nothing.
pub(crate) fn starts_in_the_tiny_world(configured: &mut dyn Configured) -> bool {
    let sources = configured.sources().unwrap_or_default().into_iter();
    let mut models = sources.filter_map(|source| match source {
        Source::Model {
            setting: "model",
            name,
            ..
        } => Some(name.is_empty() || name == bundled::NAME),
        _ => None,
    });
    models.next().unwrap_or(true)
}

/// Errors where some of the settings name data and others leave it to the bundled one.
pub(crate) fn refuse_a_mixture(file: &Path, all: &[Named]) -> anyhow::Result<()> {
    let own = all.iter().find(|named| !named.files.is_empty());
    let missing = all.iter().find(|named| named.files.is_empty());
    match (own, missing) {
        (Some(own), Some(missing)) => Err(usage!(
            "{}: {} names data of your own and {} none, so that the bundled Tiny World would be trained on: name {} too{}",
            file.display(),
            own.setting,
            missing.setting,
            missing.setting,
            also(missing.kind)
        )),
        _ => Ok(()),
    }
}

/// Errors where a stage would train a model of one's own data on bundled data.
pub(crate) fn refuse_bundled_data_for_own_model(
    stage: &dyn AnyStage,
    configured: &mut dyn Configured,
) -> anyhow::Result<()> {
    let name = stage.name();
    let all = named(name, configured);
    let Some(missing) = all.iter().find(|named| named.files.is_empty()) else {
        return Ok(());
    };
    for source in configured.sources()? {
        let Source::Model { name: model, .. } = source else {
            continue;
        };
        if let Some(data) = own_data_of_run(Path::new(&*model)) {
            let flag = missing.setting.rsplit('.').next().unwrap_or_default();
            return Err(usage!(
                "{model} has learned from data of your own ({}), and no --{flag} are given, so that {name} would take the bundled Tiny World's: \
                 name yours{}",
                data.display(),
                also(missing.kind)
            ));
        }
    }
    Ok(())
}

fn also(kind: Bundled) -> &'static str {
    match kind {
        Bundled::Prompts => " (a file of demonstrations or feedback has prompts, too)",
        _ => "",
    }
}

/// The first file of one's own that the run in `folder`, or the one whose model that is, was trained on.
fn own_data_of_run(folder: &Path) -> Option<PathBuf> {
    let above = folder.parent().filter(|_| folder.ends_with("final"));
    let (config, _) = rlhf_train::record(above.unwrap_or(folder)).ok()??;
    let sections: Table = config.parse().ok()?;
    for stage in STAGES {
        if let Some(Value::Table(section)) = sections.get(stage.name()) {
            let mut configured = stage.configure(section).ok()?;
            let all = named(stage.name(), configured.as_mut()).into_iter();
            return all.flat_map(|named| named.files).next();
        }
    }
    None
}
