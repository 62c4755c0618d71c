//! What a pipeline's file says: which stages there are, and how each follows from the one before.

use std::path::{Path, PathBuf};

use crate::bundled;
use crate::commands::stage::layers;
use crate::evaluation::{EvalSettings, Questions};
use crate::exit::usage;
use crate::flags::CommonArgs;
use crate::models;
use crate::settings::{Layers, RunSettings};

/// The stages that a file can name, in their order.
const STAGES: [&str; 4] = ["pretrain", "sft", "reward", "ppo"];

/// A pipeline's settings, and where its stages write.
pub(crate) struct Wiring {
    pub(crate) file: PathBuf,
    pub(crate) layers: Layers,
    pub(crate) run: RunSettings,
    /// The folder that holds one run directory a stage.
    pub(crate) out: PathBuf,
}

impl Wiring {
    /// The file, and over it `--set` and the flags of `[run]`.
    pub(crate) fn read(file: &Path, common: &CommonArgs) -> anyhow::Result<Self> {
        let layers = layers(Some(file), common)?;
        let run: RunSettings = layers.get()?;
        let stem = file.file_stem().unwrap_or_default();
        let out = run
            .out
            .clone()
            .unwrap_or_else(|| Path::new("runs").join(stem));
        let wiring = Self {
            file: file.to_owned(),
            layers,
            run,
            out,
        };
        if !STAGES.iter().any(|stage| wiring.names(stage)) {
            return Err(usage!(
                "{}: no stage in it; add any of [pretrain], [sft], [reward], [ppo]",
                file.display()
            ));
        }
        Ok(wiring)
    }

    /// Whether the pipeline has the stage.
    pub(crate) fn names(&self, stage: &str) -> bool {
        self.layers.names(stage)
    }

    /// The run directory of a stage.
    pub(crate) fn folder(&self, stage: &str) -> PathBuf {
        self.out.join(stage)
    }

    pub(crate) fn pretrain(&self) -> anyhow::Result<rlhf_sft::pretrain::Config> {
        self.layers.get()
    }

    pub(crate) fn sft(&self) -> anyhow::Result<rlhf_sft::Config> {
        let mut sft: rlhf_sft::Config = self.layers.get()?;
        self.predecessor("sft", "model", "pretrain", &mut sft.model);
        Ok(sft)
    }

    pub(crate) fn reward(&self) -> anyhow::Result<rlhf_reward::Config> {
        let mut reward: rlhf_reward::Config = self.layers.get()?;
        self.predecessor("reward", "model", "sft", &mut reward.model);
        Ok(reward)
    }

    pub(crate) fn ppo(&self) -> anyhow::Result<rlhf_ppo::Config> {
        let mut ppo: rlhf_ppo::Config = self.layers.get()?;
        self.predecessor("ppo", "model", "sft", &mut ppo.model);
        self.predecessor("ppo", "reward", "reward", &mut ppo.reward);
        Ok(ppo)
    }

    /// Lets `setting` name the run of `stage` in this pipeline, where there is one and nobody named another.
    fn predecessor(&self, section: &str, key: &str, stage: &str, setting: &mut String) {
        if self.names(stage) && !self.layers.sets(section, key) {
            *setting = self.folder(stage).display().to_string();
        }
    }

    /// What the models are asked at the end; nothing where no stage makes a model that answers.
    pub(crate) fn questions(&self) -> anyhow::Result<Option<Questions>> {
        if !self.names("sft") && !self.names("ppo") {
            return Ok(None);
        }
        let ppo: rlhf_ppo::Config = self.layers.get()?;
        let settings: EvalSettings = self.layers.get()?;
        let mut questions = Questions::new(&settings, &ppo, self.run.seed);
        for file in &mut questions.files {
            *file = models::file(file)?;
        }
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
