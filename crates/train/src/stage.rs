//! What a stage is to the program around it: its name and manual, its settings, what it reads, and its work.
//!
//! The binary keeps one list of stages. The command line, the sections of a configuration file, the wiring of a pipeline,
//! `doctor`, the report and the tables of the README are derived from it. The training loop itself stays visible in each
//! stage: nothing here calls back into it.

use std::path::PathBuf;

use rlhf_base::caption::Caption;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Plan, RunDir, Session, Settings};

/// A stage of RLHF: pretraining, fine-tuning, a reward model, PPO.
pub trait Stage {
    /// The command, the section of a configuration file and the folder under `runs/`.
    const NAME: &'static str;
    /// What the report calls it.
    const TITLE: &'static str;
    /// What it does, in one line of help.
    const ABOUT: &'static str;
    /// What `--help` says besides.
    const MANUAL: &'static str;
    /// A command line to start from.
    const EXAMPLE: &'static str;
    /// The settings that `-h` shows, most wanted first; `--help` shows all.
    const SHORT_HELP: &'static [&'static str];
    /// The settings that a resumed run may change.
    const MAY_CHANGE: MayChange;
    /// What its `final/` holds.
    const MAKES: Makes;
    /// What its metrics mean, in the order of the report.
    const CAPTIONS: &'static [Caption];
    /// The command that usually comes next, and the words that give it files of one's own; `{out}` stands for the run, `{model}` for the
    /// model that it started from.
    const NEXT: (&'static str, &'static str);

    /// Its section of a configuration file.
    type Config: Settings;

    /// What the lines of its `metrics.jsonl` show of a run that learns nothing, for the report.
    fn findings(lines: &[Map<String, Value>]) -> Vec<String>;

    /// Refuses settings that make no sense together or by themselves, naming them.
    fn validate(_config: &Self::Config) -> anyhow::Result<()> {
        Ok(())
    }

    /// What it starts from and reads. The binary puts real folders and files in the place of names.
    fn sources(config: &mut Self::Config) -> anyhow::Result<Vec<Source<'_>>>;

    /// Loads everything and refuses what cannot work, before anything is written. `config` names real folders and files.
    fn prepare(config: &Self::Config, session: &Session) -> anyhow::Result<Box<dyn Prepared>>;
}

/// A stage that has loaded everything and can begin.
pub trait Prepared {
    /// What is about to happen, for the user to read before anything is spent.
    fn plan(&self, session: &Session) -> anyhow::Result<Plan>;

    /// What can be found out without training: counts of rows and tokens, what was cut or left out, a trial of model and
    /// reward. For `doctor`.
    fn check(&mut self) -> Vec<Finding>;

    /// Trains, in the run directory `dir`, which has the model in its `final/` afterwards.
    fn run(&mut self, session: &Session, dir: &RunDir) -> anyhow::Result<Summary>;
}

/// The settings that a resumed run may change. All others stay as they were when the run began.
#[derive(Clone, Copy, Debug)]
pub struct MayChange {
    /// Those that leave no trace in what the run makes, such as when it saves: a finished run stays finished when they change.
    pub unseen: &'static [&'static str],
    /// Those that hold from the resumed step on: how long the run lasts, how it is computed, what it reports.
    pub seen: &'static [&'static str],
}

/// What a stage makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// A language model to be fine-tuned.
    Base,
    /// The fine-tuned model, which later ones are compared with.
    Reference,
    /// A reward model.
    RewardModel,
    /// A language model that was improved by feedback.
    Policy,
}

/// Something that a stage starts from or reads, as a place in its settings.
pub enum Source<'a> {
    /// A model: the name of a run, a folder, a GGUF file or a hub id.
    Model {
        /// The key of the setting.
        setting: &'static str,
        /// The setting, to be replaced by a folder.
        name: &'a mut String,
        /// The stage that makes such models. In a pipeline with this stage, its run is where the model comes from, unless
        /// the setting says otherwise.
        made_by: &'static str,
        /// What `doctor` tries in its place while it is yet to be made; without one, what its maker starts from, which has
        /// the same shape and tokenizer.
        stand_in: Option<&'static str>,
    },
    /// Data files, and those held out for evaluation; where none are given, the bundled ones.
    Data {
        /// The key of the setting that names them.
        setting: &'static str,
        /// Files or folders to train on.
        files: &'a mut Vec<PathBuf>,
        /// Files or folders to evaluate on, if the stage takes any.
        held_out: Option<&'a mut Vec<PathBuf>>,
        /// The bundled files to take when none are given.
        bundled: Bundled,
    },
    /// Other files that the result depends on.
    Files(Vec<PathBuf>),
}

/// The bundled data, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bundled {
    /// Texts to pretrain on.
    Corpus,
    /// Prompts with answers to imitate.
    Demonstrations,
    /// Human feedback.
    Preferences,
    /// Prompts alone.
    Prompts,
}

/// One thing that `doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// Whether it is as it should be.
    pub verdict: Verdict,
    /// What was found, with the remedy where one is needed.
    pub found: String,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It will run, but perhaps not as hoped.
    Warn,
    /// It would stop the run.
    Fail,
}

impl Finding {
    /// `check` found `found`, and warns if there is anything in `warnings`.
    pub fn new(check: &str, found: impl Into<String>, warnings: &[String]) -> Self {
        let found: String = found.into();
        let (verdict, found) = match warnings {
            [] => (Verdict::Ok, found),
            some => (Verdict::Warn, format!("{found}\n{}", some.join("\n"))),
        };
        Self {
            check: check.to_owned(),
            verdict,
            found,
        }
    }

    /// What `check` found; an error fails it.
    pub fn of(check: &str, found: anyhow::Result<String>) -> Self {
        match found {
            Ok(found) => Self::new(check, found, &[]),
            Err(error) => Self {
                check: check.to_owned(),
                verdict: Verdict::Fail,
                found: format!("{error:#}"),
            },
        }
    }
}

/// What a finished run has to say for itself.
#[derive(Clone, Debug)]
pub struct Summary {
    /// In a few lines for people.
    pub text: String,
    /// For programs: an object.
    pub json: Value,
}

impl Summary {
    /// `outcome` for programs, `text` for people.
    pub fn new(outcome: &impl Serialize, text: String) -> anyhow::Result<Self> {
        Ok(Self {
            text,
            json: serde_json::to_value(outcome)?,
        })
    }
}
