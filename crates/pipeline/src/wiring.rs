//! What a pipeline's file says: which stages there are, and how each follows from the one before.

use std::path::{Path, PathBuf};

use rlhf_train::{Bundled, DataSettings, LoraSettings, Makes, Settings as _, Source};
use toml::Value;

use crate::bundled;
use crate::commands::stage::layers;
use crate::data_files;
use crate::exit::usage;
use crate::flags::CommonArgs;
use crate::own_data;
use crate::questions::Questions;
use crate::settings::{EVAL, EvalSettings, LABEL, LORA, LabelSettings, Layers, RUN, RunSettings};
use crate::stages::{AnyStage, Configured, STAGES};
use crate::variants::Part;

/// The file of a round's judgements, in its folder `label`.
pub(crate) const JUDGEMENTS: &str = "judgements.jsonl";

/// Whether a round of judging trains it anew.
fn learns_from_judgements(part: &Part) -> bool {
    matches!(part.stage.makes(), Makes::RewardModel | Makes::Policy)
}

/// A pipeline's settings, and where its stages write.
#[derive(Clone)]
pub(crate) struct Wiring {
    pub(crate) file: PathBuf,
    pub(crate) layers: Layers,
    pub(crate) run: RunSettings,
    lora: LoraSettings,
    /// The folder that holds one run directory a stage.
    pub(crate) out: PathBuf,
    round: Option<Round>,
}

/// Where the stages of a round of judging find what was made before it.
#[derive(Clone)]
struct Round {
    /// The folder of the pipeline, with the stages that every round starts from.
    whole: PathBuf,
    /// The files of this round's judgements and of those before.
    judgements: Vec<PathBuf>,
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
            round: None,
        };
        if wiring.parts().is_empty() {
            let names = STAGES.iter().map(|stage| format!("[{}]", stage.name()));
            let names: Vec<String> = names.collect();
            return Err(usage!(
                "{}: no stage in it; add any of {}",
                file.display(),
                names.join(", ")
            ));
        }
        wiring.check_pessimism()?;
        wiring.check_own_data()?;
        Ok(wiring)
    }

    /// Errors where PPO is to be pessimistic about the reward model of this pipeline and that gets no heads: known now, and not only once
    /// the reward model is trained.
    fn check_pessimism(&self) -> anyhow::Result<()> {
        let reward: rlhf_reward::Config = self.layers.get("reward")?;
        for part in self.making(Makes::Policy) {
            let settings = self.configured(&part)?.to_table();
            let pessimism = settings.get("pessimism").and_then(Value::as_float);
            let named = settings.get("reward").and_then(Value::as_str);
            let own = self.names("reward") && named.map(Path::new) == Some(&self.folder("reward"));
            if own && pessimism.is_some_and(|kappa| kappa > 0.0) && reward.heads == 0 {
                return Err(usage!(
                    "{}: {}.pessimism needs the heads of the reward model, and reward.heads is 0: set reward.heads = 16",
                    self.file.display(),
                    part.name()
                ));
            }
        }
        Ok(())
    }

    /// Errors where one stage has data of one's own and another would take the bundled one, unless all start from the bundled model.
    fn check_own_data(&self) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for (i, part) in self.parts().iter().enumerate() {
            let mut configured = self.configured(part)?;
            let named = own_data::named(&part.section(), configured.as_mut());
            let nothing_own = named.iter().all(|named| named.files.is_empty());
            if i == 0 && nothing_own && own_data::starts_in_the_tiny_world(configured.as_mut()) {
                return Ok(());
            }
            all.extend(named);
        }
        // What is judged on the way is feedback of one's own.
        let judged = self.names(LABEL);
        all.retain(|named| !(judged && named.kind == Bundled::Preferences));
        own_data::refuse_a_mixture(&self.file, &all)
    }

    /// The same pipeline with one of its seeds, in a folder of its own.
    pub(crate) fn with_seed(&self, seed: u64) -> Self {
        Self {
            file: self.file.clone(),
            layers: self.layers.clone(),
            run: RunSettings {
                seed,
                ..self.run.clone()
            },
            lora: self.lora.clone(),
            out: self.out.join(format!("seed-{seed}")),
            round: None,
        }
    }

    /// The same pipeline in one of its rounds of judging, counted from 1: what learns from judgements has a folder of its own there.
    pub(crate) fn in_round(&self, number: usize) -> Self {
        let of = |n: usize| self.out.join(format!("round-{n}"));
        let judgements = (1..=number).map(|n| of(n).join(LABEL).join(JUDGEMENTS));
        Self {
            file: self.file.clone(),
            layers: self.layers.clone(),
            run: self.run.clone(),
            lora: self.lora.clone(),
            out: of(number),
            round: Some(Round {
                whole: self.out.clone(),
                judgements: judgements.collect(),
            }),
        }
    }

    /// `[label]`, if the pipeline asks for judgements.
    ///
    /// # Errors
    /// If nothing learns from them.
    pub(crate) fn label(&self) -> anyhow::Result<Option<LabelSettings>> {
        if !self.names(LABEL) {
            return Ok(None);
        }
        if !self.parts().iter().any(learns_from_judgements) {
            return Err(usage!(
                "{}: [{LABEL}] asks for judgements, and no stage learns from any: add [reward] or [dpo]",
                self.file.display()
            ));
        }
        self.layers.get(LABEL).map(Some)
    }

    /// In a round of judging, the files of its judgements and of those before; its own is the last one.
    pub(crate) fn judgements(&self) -> &[PathBuf] {
        self.round.as_ref().map_or(&[], |round| &round.judgements)
    }

    /// The seeds that it is to be run with.
    pub(crate) fn seeds(&self) -> Vec<u64> {
        (0..self.run.seeds)
            .map(|i| self.run.seed.wrapping_add(i))
            .collect()
    }

    /// The stages that the file has, in the order of a pipeline, each with its variants behind it.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let named = STAGES.iter().filter(|stage| self.names(stage.name()));
        named.flat_map(|stage| self.layers.parts(*stage)).collect()
    }

    /// Those of them that make such a model.
    pub(crate) fn making(&self, makes: Makes) -> Vec<Part> {
        let mut parts = self.parts();
        parts.retain(|part| part.stage.makes() == makes);
        parts
    }

    /// Whether the pipeline has the stage.
    pub(crate) fn names(&self, stage: &str) -> bool {
        self.layers.names(stage)
    }

    /// The run directory of a stage, or of a variant.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        if let Some(round) = &self.round
            && self
                .parts()
                .iter()
                .any(|part| part.name() == name && !learns_from_judgements(part))
        {
            return round.whole.join(name);
        }
        self.out.join(name)
    }

    /// What the table calls the model of a part: `ppo`, or in the second round of judging `ppo 2`.
    pub(crate) fn name_in_table(&self, part: &Part) -> String {
        match &self.round {
            Some(round) => format!("{} {}", part.name(), round.judgements.len()),
            None => part.name().to_owned(),
        }
    }

    /// The model that a stage or a variant publishes.
    pub(crate) fn model(&self, name: &str) -> PathBuf {
        self.folder(name).join("final")
    }

    /// `[lora]` for a stage. Pretraining has nothing to adapt: there all weights are trained.
    pub(crate) fn lora(&self, stage: &dyn AnyStage) -> LoraSettings {
        match stage.makes() {
            Makes::Base => LoraSettings::default(),
            _ => self.lora.clone(),
        }
    }

    /// A part with its settings. A model that a stage of this pipeline makes comes from there, unless another one is named.
    pub(crate) fn configured(&self, part: &Part) -> anyhow::Result<Box<dyn Configured>> {
        let mut configured = self.layers.configure(part)?;
        for source in configured.sources()? {
            match source {
                Source::Model {
                    setting,
                    name,
                    made_by,
                    ..
                } if self.names(made_by)
                    && !part.sets(setting)
                    && !self.layers.sets(part.stage.name(), setting) =>
                {
                    *name = self.folder(made_by).display().to_string();
                }
                // Beside the feedback that the file names, if it does.
                Source::Data {
                    files,
                    bundled: Bundled::Preferences,
                    ..
                } => {
                    files.extend(self.judgements().iter().cloned());
                }
                _ => {}
            }
        }
        Ok(configured)
    }

    /// The parts that every round of judging starts from, and those that it trains.
    pub(crate) fn around_label(&self) -> (Vec<Part>, Vec<Part>) {
        let parts = self.parts().into_iter();
        parts.partition(|part| !learns_from_judgements(part))
    }

    /// What the models are asked at the end; nothing where no stage makes a model that answers.
    pub(crate) fn questions(&self) -> anyhow::Result<Option<Questions>> {
        let answers = [Makes::Reference, Makes::Policy];
        if !self
            .parts()
            .iter()
            .any(|part| answers.contains(&part.stage.makes()))
        {
            return Ok(None);
        }
        let ppo: rlhf_ppo::Config = self.layers.get("ppo")?;
        let settings: EvalSettings = self.layers.get(EVAL)?;
        let mut questions = Questions::new(&settings, &ppo, self.run.seed)?;
        if questions.files.is_empty() {
            self.ask_what_is_held_out(&mut questions)?;
        }
        if questions.kept_back == Some(0.0) {
            return Err(Questions::none_held_out());
        }
        questions.files = data_files::found(&questions.files)?;
        if questions.files.is_empty() {
            questions
                .files
                .push(bundled::path(bundled::HELD_OUT_PROMPTS)?);
        }
        Ok(Some(questions))
    }

    /// Without prompts of PPO: what the last stage with data of its own holds out.
    fn ask_what_is_held_out(&self, questions: &mut Questions) -> anyhow::Result<()> {
        for part in self.parts().iter().rev() {
            let mut configured = self.configured(part)?;
            let settings = configured.to_table();
            for source in configured.sources()? {
                let Source::Data {
                    files,
                    held_out: Some(held_out),
                    ..
                } = source
                else {
                    continue;
                };
                if files.is_empty() {
                    continue;
                }
                let share = settings.get("eval_fraction").and_then(Value::as_float);
                (questions.files, questions.kept_back) = match held_out.is_empty() {
                    true => (files.clone(), share),
                    false => (held_out.clone(), None),
                };
                let mut read = settings;
                let known = DataSettings::default().settings();
                read.retain(|name, _| known.iter().any(|setting| setting.name == name));
                questions.reading = DataSettings::from_table(&read)?.reading();
                return Ok(());
            }
        }
        Ok(())
    }
}
