//! Where a stage starts, before the stages ahead of it have run.

use std::path::{Path, PathBuf};

use crate::stage::model_folder;
use crate::wiring::Wiring;

/// Where a stage's first weights come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Start {
    /// They are there.
    There(PathBuf),
    /// `stage` will make them from these.
    Made { stage: &'static str, from: PathBuf },
    /// Pretraining will make them, from nothing.
    Nothing,
}

impl Start {
    /// The model that is there, or stands in.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::There(folder) | Self::Made { from: folder, .. } => Some(folder),
            Self::Nothing => None,
        }
    }

    /// What errors and findings call it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::There(folder) => folder.display().to_string(),
            Self::Made { stage, from } => {
                format!("what [{stage}] will make of {}", from.display())
            }
            Self::Nothing => "what [pretrain] will make".to_owned(),
        }
    }
}

/// Where the model that `spec` names comes from.
pub(super) fn start(wiring: &Wiring, spec: &str) -> anyhow::Result<Start> {
    for stage in ["sft", "pretrain"] {
        let mine = wiring.names(stage) && Path::new(spec) == wiring.folder(stage);
        if !mine || model_folder(spec, stage).is_ok() {
            continue;
        }
        if stage == "pretrain" {
            return Ok(Start::Nothing);
        }
        return Ok(match start(wiring, &wiring.sft()?.model)? {
            Start::There(from) | Start::Made { from, .. } => Start::Made { stage: "sft", from },
            Start::Nothing => Start::Nothing,
        });
    }
    Ok(Start::There(model_folder(spec, "sft")?))
}
