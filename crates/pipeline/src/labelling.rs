//! What a session of judging is made of: where answers come from, and annotators that are programs. `rlhf label` and the section `[label]`
//! of a pipeline share it.

mod existing;
mod page;
mod section;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rlhf_base::tell;
use rlhf_dataset::{Prompt, Reading, hold_out_some};
use rlhf_label::{
    Kind, Next, Pool, Sampling, Session, Simulated, SimulatedSpec, Speaker, answers_of,
};
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer};
use rlhf_train::{Counted, read_and_tell, tell_skipped};

use crate::bundled;
use crate::data_files::found;
use crate::exit::usage;
use crate::fingerprint::{Content, Input, fingerprint};
use crate::locate::{model_folder, reward_source};
use crate::machine::Machine;

pub(crate) use self::existing::existing;
pub(crate) use self::page::{Opinion, judge_on_page};
pub(crate) use self::section::{Section, Who};

/// How long to wait before looking again for answers that are being sampled.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// What models are asked for a session.
pub(crate) struct Asked<'a> {
    /// One model or two, as they are named.
    pub(crate) models: Vec<String>,
    pub(crate) prompts: &'a [PathBuf],
    /// The share of the prompts that is held out: answers to these are not judged.
    pub(crate) kept_back: Option<f64>,
    pub(crate) reading: Reading,
    pub(crate) answers: usize,
    pub(crate) raw: bool,
    pub(crate) config: SamplingConfig,
    pub(crate) kind: Kind,
}

impl Asked<'_> {
    /// Errors where such answers could not be judged.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.config.check()?;
        let (answers, models) = (self.answers, self.models.len());
        if self.kind.compares() && answers < 2 {
            return Err(usage!(
                "answers: {answers} to a prompt; a {} compares at least two",
                self.kind.name()
            ));
        }
        if answers < models {
            return Err(usage!(
                "answers: {answers} to a prompt; {models} models need as many"
            ));
        }
        if self.kind.compares() && self.config.temperature == 0.0 && answers > models {
            return Err(usage!(
                "temperature: at 0 a model gives the same answer each time, and there would be nothing to compare"
            ));
        }
        Ok(())
    }

    /// The pool of answers that are sampled from here on, a few ahead of the annotators, and kept beside `save`.
    pub(crate) fn pool(self, save: &Path, machine: &Machine) -> anyhow::Result<Pool> {
        self.check()?;
        let mut speakers = Vec::new();
        let (mut contents, mut longest) = (Vec::new(), Vec::new());
        for name in &self.models {
            let folder = model_folder(name, "sft")?;
            contents.push(Content::of(&Input {
                name: name.clone(),
                path: folder.clone(),
            })?);
            let mut model = machine.load(&folder)?;
            model.tokenizer = model.tokenizer.take_raw(self.raw);
            speakers.push(Speaker {
                name: if name.is_empty() { bundled::NAME } else { name }.to_owned(),
                model: CausalLm::new(&model.config, &model.params.frozen())?,
                tokenizer: model.tokenizer,
            });
            longest.push(model.config.max_length());
        }
        let files = match self.prompts {
            [] => vec![bundled::path("prompts.jsonl")?],
            given => found(given)?,
        };
        let mut loaded = read_and_tell::<Prompt>(&files, &self.reading)?;
        tell_skipped(&loaded.tolerance);
        if let Some(share) = self.kept_back {
            loaded.rows = hold_out_some(loaded.rows, share, |row| row.prompt.clone())?.0;
        }
        let mut prompts = Vec::with_capacity(loaded.rows.len());
        let mut left_out = Counted::default();
        for row in loaded.rows {
            let prompt = row.record.prompt;
            let fits = speakers.iter().zip(&longest).map(|(speaker, longest)| {
                let ids = speaker.tokenizer.encode_prompt(&prompt)?.len();
                Ok(ids > 0 && ids < *longest)
            });
            match fits
                .collect::<anyhow::Result<Vec<bool>>>()?
                .contains(&false)
            {
                true => left_out.add(&row.place),
                false => prompts.push(prompt),
            }
        }
        if let Some(said) = left_out.sentence("left out: empty, or longer than the model reads") {
            tracing::warn!("prompts: {said}");
        }
        if prompts.is_empty() {
            return Err(usage!(
                "no prompt is left: all are empty, or longer than the model reads"
            ));
        }
        let pool = Sampling {
            speakers,
            prompts,
            answers: self.answers,
            config: self.config,
            kind: self.kind,
            identity: fingerprint("", &contents),
        };
        pool.start(&answers_of(save))
    }
}

/// The annotators among `names` that are programs, ready to judge, and the names of people.
pub(crate) fn annotators(
    names: &[String],
    machine: &Machine,
    seed: u64,
) -> anyhow::Result<(Vec<Simulated>, Vec<String>)> {
    let (mut programs, mut people) = (Vec::new(), Vec::new());
    for name in names {
        let spec = SimulatedSpec::parse(name).map_err(|error| usage!("{error:#}"))?;
        let Some(spec) = spec else {
            people.push(name.trim().to_owned());
            continue;
        };
        let timeout = rlhf_ppo::Config::default().timeout();
        let scorer = reward_source(&spec.reward)?.open(
            &machine.bases,
            machine.dtype,
            &machine.device,
            timeout,
        )?;
        programs.push(Simulated::new(spec, scorer, lossless_tokenizer()?, seed));
    }
    Ok((programs, people))
}

/// A tokenizer that goes back to the text it was given: what rules and programs score goes through one.
pub(crate) fn lossless_tokenizer() -> anyhow::Result<Tokenizer> {
    Ok(Tokenizer::from_dir(&bundled::path(bundled::MODEL)?)?)
}

/// Has programs judge until there is nothing left. The next item goes to the one with the fewest judgements, so that an interrupted session
/// goes on as it would have.
pub(crate) fn let_judge(
    session: &mut Session,
    programs: &[Simulated],
    machine: &Machine,
) -> anyhow::Result<()> {
    let kind = session.settings().kind;
    let mut done: Vec<(usize, usize)> = programs
        .iter()
        .enumerate()
        .map(|(i, program)| (session.counts(program.name()).0, i))
        .collect();
    'items: loop {
        machine.check_interrupt()?;
        done.sort_unstable();
        for (count, i) in &mut done {
            let program = &programs[*i];
            match session.next(program.name())? {
                Next::Show(shown) => {
                    let verdict = program.judge(kind, &shown)?;
                    session.judge(program.name(), &shown.id, verdict, None, None)?;
                    *count += 1;
                    continue 'items;
                }
                Next::Wait => {
                    thread::sleep(POLL);
                    continue 'items;
                }
                Next::Done => {}
            }
        }
        return Ok(());
    }
}

/// Says what was mended in the files when a session was opened.
pub(crate) fn tell_mended(session: &Session) {
    session.journal().mended.iter().for_each(tell);
}
