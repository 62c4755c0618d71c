//! The section `[label]` of a pipeline: what can be refused of it before any model is trained.

use std::cell::Cell;
use std::path::PathBuf;

use rlhf_base::Text;
use rlhf_dataset::{Prompt, hold_out_some, read};
use rlhf_label::{Choose, Simulated, check_name};
use rlhf_lm::SamplingConfig;
use rlhf_web::server::Server;

use super::{Asked, annotators};
use crate::bundled;
use crate::data_files::found;
use crate::exit::usage;
use crate::flags::ListeningArgs;
use crate::machine::Machine;
use crate::settings::LabelSettings;
use crate::wiring::Wiring;

/// `[label]`, and what it takes from `[ppo]`.
pub(crate) struct Section<'a> {
    pub(crate) settings: &'a LabelSettings,
    ppo: rlhf_ppo::Config,
    /// Of the last page.
    port: Cell<Option<u16>>,
}

/// Who judges.
pub(crate) enum Who {
    Programs(Vec<Simulated>),
    /// A person, by name if one is given.
    Terminal(Option<String>),
    /// People; by name if only one is expected.
    Page(Option<String>),
}

impl<'a> Section<'a> {
    pub(crate) fn of(wiring: &Wiring, settings: &'a LabelSettings) -> anyhow::Result<Self> {
        let ppo = wiring.layers.get("ppo")?;
        Ok(Self {
            settings,
            ppo,
            port: Cell::new(None),
        })
    }

    /// Errors on everything that would stop a round and is known before it.
    pub(crate) fn check(&self, machine: &Machine) -> anyhow::Result<()> {
        self.asked(String::new(), &[], 0)
            .check()
            .map_err(|error| usage!("[label]: {error:#}"))?;
        let prompts = self.read_prompts()?;
        self.guidelines()?;
        let who = self.who(machine, 0)?;
        self.can(&who, prompts.first())
    }

    /// Errors where programs cannot judge answers to a prompt such as `prompt`, or where there can be no page for people.
    pub(crate) fn can(&self, who: &Who, prompt: Option<&Text>) -> anyhow::Result<()> {
        match who {
            Who::Terminal(_) => {}
            // The port is free again until the first round.
            Who::Page(_) => drop(self.bind(self.settings.port)?),
            Who::Programs(programs) => {
                let Some(prompt) = prompt else {
                    return Ok(());
                };
                for program in programs {
                    program
                        .trial(self.settings.kind, prompt, self.answers())
                        .map_err(|error| usage!("label.annotator: {error:#}"))?;
                }
            }
        }
        Ok(())
    }

    /// What the policy is asked: the prompts of PPO if the section names none; none at all: the bundled ones.
    pub(crate) fn prompts(&self) -> anyhow::Result<Vec<PathBuf>> {
        found(match self.settings.prompts.as_slice() {
            [] => &self.ppo.prompts,
            own => own,
        })
    }

    /// What of it stands in their files and may be judged.
    pub(crate) fn read_prompts(&self) -> anyhow::Result<Vec<Text>> {
        let mut files = self.prompts()?;
        if files.is_empty() {
            files.push(bundled::path("prompts.jsonl")?);
        }
        let mut rows = read::<Prompt, _>(&files, &self.ppo.data.reading())?.rows;
        if let Some(share) = self.kept_back() {
            rows = hold_out_some(rows, share, |row| row.prompt.clone())?.0;
        }
        Ok(rows.into_iter().map(|row| row.record.prompt).collect())
    }

    /// The share of PPO's prompts that it holds out, where its prompts are what the policy is asked: what is judged is trained on.
    pub(crate) fn kept_back(&self) -> Option<f64> {
        let theirs = self.settings.prompts.is_empty() && !self.ppo.prompts.is_empty();
        (theirs && self.ppo.eval_prompts.is_empty()).then_some(self.ppo.eval_fraction)
    }

    /// The text of the guidelines.
    pub(crate) fn guidelines(&self) -> anyhow::Result<Option<String>> {
        let file = self.settings.guidelines.as_ref();
        file.map(|file| {
            fs_err::read_to_string(file).map_err(|error| usage!("label.guidelines: {error}"))
        })
        .transpose()
    }

    /// Whoever judges; programs draw from streams of `seed`.
    pub(crate) fn who(&self, machine: &Machine, seed: u64) -> anyhow::Result<Who> {
        let LabelSettings {
            annotator,
            terminal,
            ..
        } = self.settings;
        let (programs, people) = annotators(annotator, machine, seed)
            .map_err(|error| usage!("label.annotator: {error:#}"))?;
        if people.len() > 1 || !people.is_empty() && !programs.is_empty() {
            return Err(usage!(
                "label.annotator: either one person judges, or programs; where several people judge, leave it out, and each gives a name on \
                 the page"
            ));
        }
        if *terminal && !programs.is_empty() {
            return Err(usage!(
                "label.terminal is for people, and label.annotator names a program: leave out one of the two"
            ));
        }
        let person = people.into_iter().next();
        if let Some(name) = &person {
            check_name(name).map_err(|error| usage!("label.annotator: {error}"))?;
        }
        Ok(match (programs.is_empty(), terminal) {
            (false, _) => Who::Programs(programs),
            (true, true) => Who::Terminal(person),
            (true, false) => Who::Page(person),
        })
    }

    /// Takes the port of the page: where none is set, the one that it had in the round before, if it is still free.
    pub(crate) fn listen(&self) -> anyhow::Result<Server> {
        let set = self.settings.port;
        let before = self.port.get().filter(|_| set == 0);
        let again = before.and_then(|port| self.bind(port).ok());
        let server = again.map_or_else(|| self.bind(set), Ok)?;
        self.port.set(Some(server.port()));
        Ok(server)
    }

    fn bind(&self, port: u16) -> anyhow::Result<Server> {
        Server::bind(&ListeningArgs::here(port).config()).map_err(|error| {
            usage!(
                "label.port: there can be no page on port {port} of this machine: {error}; name another, 0 for a free one, or set \
                 label.terminal = true"
            )
        })
    }

    /// Whether there has been a page already.
    pub(crate) fn has_listened(&self) -> bool {
        self.port.get().is_some()
    }

    pub(crate) fn listening(&self) -> ListeningArgs {
        ListeningArgs::here(self.settings.port)
    }

    /// How many answers to a prompt are sampled.
    pub(crate) fn answers(&self) -> usize {
        let chooses = self.settings.choose != Choose::Random;
        let usual = self.settings.kind.usual_answers(1, chooses);
        self.settings.answers.unwrap_or(usual)
    }

    /// How answers are sampled, whatever the seed.
    pub(crate) fn sampling(&self, seed: u64) -> SamplingConfig {
        let LabelSettings {
            temperature,
            response_length,
            ..
        } = self.settings;
        SamplingConfig {
            temperature: temperature.unwrap_or(self.ppo.temperature),
            max_new_tokens: response_length.unwrap_or(self.ppo.response_length),
            ..self.ppo.sampling(seed)
        }
    }

    /// What `model` is asked.
    pub(crate) fn asked<'b>(&self, model: String, prompts: &'b [PathBuf], seed: u64) -> Asked<'b> {
        Asked {
            models: vec![model],
            prompts,
            kept_back: self.kept_back(),
            reading: self.ppo.data.reading(),
            answers: self.answers(),
            raw: self.ppo.raw,
            config: self.sampling(seed),
            kind: self.settings.kind,
        }
    }
}
