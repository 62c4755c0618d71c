//! What a pipeline's file says: which stages there are, and how each follows from the one before.

use std::path::{Path, PathBuf};

use rlhf_train::{LoraSettings, Makes, Source};

use crate::bundled;
use crate::commands::stage::layers;
use crate::data_files;
use crate::evaluation::Questions;
use crate::exit::usage;
use crate::flags::CommonArgs;
use crate::settings::{EVAL, EvalSettings, LORA, Layers, RUN, RunSettings};
use crate::stages::{AnyStage, Configured, STAGES};

/// A pipeline's settings, and where its stages write.
pub(crate) struct Wiring {
    pub(crate) file: PathBuf,
    pub(crate) layers: Layers,
    pub(crate) run: RunSettings,
    lora: LoraSettings,
    /// The folder that holds one run directory a stage.
    pub(crate) out: PathBuf,
}

impl Wiring {
    /// The file, and over it `--set` and the flags of `[run]`.
    pub(crate) fn read(file: &Path, common: &CommonArgs) -> anyhow::Result<Self> {
        let layers = layers(Some(file), common)?;
        let run: RunSettings = layers.get(RUN)?;
        let lora: LoraSettings = layers.get(LORA)?;
        let stem = file.file_stem().unwrap_or_default();
        let out = run
            .out
            .clone()
            .unwrap_or_else(|| Path::new("runs").join(stem));
        let wiring = Self {
            file: file.to_owned(),
            layers,
            run,
            lora,
            out,
        };
        if wiring.stages().next().is_none() {
            let names = STAGES.iter().map(|stage| format!("[{}]", stage.name()));
            let names: Vec<String> = names.collect();
            return Err(usage!(
                "{}: no stage in it; add any of {}",
                file.display(),
                names.join(", ")
            ));
        }
        Ok(wiring)
    }

    /// The stages that the file has, in the order of a pipeline.
    pub(crate) fn stages(&self) -> impl Iterator<Item = &'static dyn AnyStage> {
        let named = |stage: &&dyn AnyStage| self.names(stage.name());
        STAGES.iter().copied().filter(named)
    }

    /// Those of them that make such a model.
    pub(crate) fn making(&self, makes: Makes) -> impl Iterator<Item = &'static dyn AnyStage> {
        self.stages().filter(move |stage| stage.makes() == makes)
    }

    /// Whether the pipeline has the stage.
    pub(crate) fn names(&self, stage: &str) -> bool {
        self.layers.names(stage)
    }

    /// The run directory of a stage.
    pub(crate) fn folder(&self, stage: &str) -> PathBuf {
        self.out.join(stage)
    }

    /// The model that a stage publishes.
    pub(crate) fn model(&self, stage: &str) -> PathBuf {
        self.folder(stage).join("final")
    }

    /// `[lora]` for a stage. Pretraining has nothing to adapt: there all weights are trained.
    pub(crate) fn lora(&self, stage: &dyn AnyStage) -> LoraSettings {
        match stage.makes() {
            Makes::Base => LoraSettings::default(),
            _ => self.lora.clone(),
        }
    }

    /// A stage with its settings. A model that a stage of this pipeline makes comes from there, unless another one is named.
    pub(crate) fn configured(&self, stage: &dyn AnyStage) -> anyhow::Result<Box<dyn Configured>> {
        let mut configured = self.layers.configure(stage)?;
        for source in configured.sources()? {
            if let Source::Model {
                setting,
                name,
                made_by,
                ..
            } = source
                && self.names(made_by)
                && !self.layers.sets(stage.name(), setting)
            {
                *name = self.folder(made_by).display().to_string();
            }
        }
        Ok(configured)
    }

    /// What the models are asked at the end; nothing where no stage makes a model that answers.
    pub(crate) fn questions(&self) -> anyhow::Result<Option<Questions>> {
        let answers = [Makes::Reference, Makes::Policy];
        if !self.stages().any(|stage| answers.contains(&stage.makes())) {
            return Ok(None);
        }
        let ppo: rlhf_ppo::Config = self.layers.get("ppo")?;
        let settings: EvalSettings = self.layers.get(EVAL)?;
        let mut questions = Questions::new(&settings, &ppo, self.run.seed);
        questions.files = data_files::found(&questions.files)?;
        if questions.files.is_empty() {
            if !ppo.prompts.is_empty() {
                return Err(usage!(
                    "{}: ppo.prompts are your own, so models can only be compared on prompts of yours: name ppo.eval_prompts or eval.prompts",
                    self.file.display()
                ));
            }
            questions
                .files
                .push(bundled::path(bundled::HELD_OUT_PROMPTS)?);
        }
        Ok(Some(questions))
    }
}
