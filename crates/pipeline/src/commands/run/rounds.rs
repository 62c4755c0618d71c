//! `rlhf run` with a section `[label]`: the newest policy answers, its answers are judged, all judgements so far train the stages that learn
//! from them, and again.
//!
//! ```text
//! runs/loop/sft/                 what every round starts from
//! runs/loop/round-1/label/       judgements.jsonl, and the answers that were judged
//! runs/loop/round-1/reward/      learns from the judgements of this round and of those before
//! runs/loop/round-1/ppo/         answers in the next round
//! ```

use std::path::{Path, PathBuf};

use rand::RngCore as _;
use rlhf_base::rng;
use rlhf_label::{Clock, Error, Random, Session, Settings, demonstrations_of};
use rlhf_lm::SamplingConfig;
use rlhf_train::{Makes, Settings as _, write_file};
use rlhf_web::label::LabelPage;
use serde_json::Value;

use super::Pipeline;
use crate::commands::label::terminal::{self, Asking};
use crate::data_files::found;
use crate::evaluation::Questions;
use crate::exit::{Stopped, usage};
use crate::fingerprint::{Content, Input, fingerprint};
use crate::flags::ListeningArgs;
use crate::labelling::{Asked, annotators, judge_on_page, let_judge, tell_mended};
use crate::page::{announce, listen};
use crate::settings::{LABEL, LabelSettings};
use crate::table::{Evaluation, RoundRow};
use crate::wiring::JUDGEMENTS;

/// Beside a round's judgements: the fingerprint of what they are of, from when they are begun and from when they are complete.
const BEGUN: &str = "begun";
const FINISHED: &str = "finished";

impl Pipeline<'_> {
    /// Everything: what comes before the judgements, the rounds, and the comparison of all models.
    pub(super) fn rounds(
        &self,
        label: &LabelSettings,
        questions: Option<&Questions>,
    ) -> anyhow::Result<Option<Evaluation>> {
        // What cannot be is refused before anything is trained.
        let (_, people) = annotators(&label.annotator, &self.machine, 0)?;
        if people.len() > 1 || !people.is_empty() && label.annotator.len() > 1 {
            return Err(usage!(
                "label.annotator: either one person judges, or programs"
            ));
        }
        found(&self.prompts(label)?)?;
        let (before, after) = self.wiring.around_label();
        let mut ran = false;
        for part in &before {
            ran |= self.part(part, ran)?;
        }
        let mut rows = Vec::new();
        let mut labels = 0;
        for number in 1..=label.rounds {
            self.say(&format!("round {number} of {}:", label.rounds));
            let round = Pipeline {
                wiring: self.wiring.in_round(number),
                machine: self.machine.clone(),
                args: self.args,
            };
            let judged = round.judged(label, number, &self.newest_policy(number)?, ran)?;
            labels += judged.labels;
            ran |= judged.anew;
            for part in &after {
                ran |= round.part(part, ran)?;
            }
            let policy = round.wiring.making(Makes::Policy);
            let reward = round.wiring.making(Makes::RewardModel);
            rows.push(RoundRow {
                round: number,
                labels,
                accuracy: reward.first().and_then(|part| {
                    accuracy(&round.wiring.folder(part.name()).join("metrics.jsonl"))
                }),
                policy: policy.first().map(|part| round.wiring.name_in_table(part)),
            });
        }
        match questions {
            Some(questions) => self.evaluation(&self.lineup()?, questions, rows).map(Some),
            None => Ok(None),
        }
    }

    /// The run whose model answers in a round: the policy of the round before, in the first the fine-tuned model.
    fn newest_policy(&self, number: usize) -> anyhow::Result<PathBuf> {
        let policies = self.wiring.making(Makes::Policy);
        match (
            number,
            policies.first(),
            self.wiring.making(Makes::Reference).first(),
        ) {
            (2.., Some(policy), _) => Ok(self.wiring.in_round(number - 1).folder(policy.name())),
            (_, _, Some(reference)) => Ok(self.wiring.folder(reference.name())),
            (_, Some(policy), None) => self.starts_from(policy),
            (_, None, None) => Err(usage!(
                "[{LABEL}]: no stage makes a model whose answers could be judged: add [sft]"
            )),
        }
    }

    /// What the policy is asked; none: the bundled prompts.
    fn prompts(&self, label: &LabelSettings) -> anyhow::Result<Vec<PathBuf>> {
        let ppo: rlhf_ppo::Config = self.wiring.layers.get("ppo")?;
        Ok(match label.prompts.is_empty() {
            true => ppo.prompts,
            false => label.prompts.clone(),
        })
    }

    /// Has the answers of `model` judged in this round, as far as they are not yet.
    fn judged(
        &self,
        label: &LabelSettings,
        number: usize,
        model: &Path,
        ran: bool,
    ) -> anyhow::Result<Judged> {
        let folder = self.wiring.out.join(LABEL);
        let file = folder.join(JUDGEMENTS);
        let seed = rng::stream(self.wiring.run.seed, "label/round", number as u64).next_u64();
        let (programs, people) = annotators(&label.annotator, &self.machine, seed)?;
        let prompts = self.prompts(label)?;
        let fingerprint = self.of_what(label, model, &prompts)?;
        let says = |name: &str| fs_err::read_to_string(folder.join(name)).ok();
        let is_of_this = |text: Option<String>| text.as_deref() == Some(fingerprint.as_str());
        let overwrite = self.args.overwrite && !programs.is_empty();
        if is_of_this(says(FINISHED)) && !overwrite {
            let labels = lines(&file)?;
            self.say(&format!(
                "label: skipped, {labels} judgements of these very answers in {}",
                folder.display()
            ));
            return Ok(Judged {
                labels,
                anew: false,
            });
        }
        // Programs judge again; what people have said is never thrown away.
        let other = says(BEGUN).is_some_and(|begun| begun != fingerprint);
        if !programs.is_empty() && folder.exists() && (other || overwrite) {
            if self.args.resume && !ran {
                return Err(usage!(
                    "{}: the judgements there are of other answers, or by others: [label], its prompts or the model has changed; undo this to go \
                     on, or leave out --resume to have them judged anew",
                    folder.display()
                ));
            }
            self.say(&format!("label: judging anew in {}", folder.display()));
            fs_err::remove_dir_all(&folder)?;
        }
        fs_err::create_dir_all(&folder)?;
        write_file(&folder.join(BEGUN), fingerprint.as_bytes())?;
        let mut session = self.session(label, model, &prompts, seed, programs.is_empty(), &file)?;
        tell_mended(&session);
        let guidelines = || {
            label
                .guidelines
                .as_ref()
                .map(fs_err::read_to_string)
                .transpose()
        };
        let person = people.into_iter().next();
        match programs.as_slice() {
            [] if label.terminal => {
                let asking = Asking {
                    person,
                    guidelines: guidelines()?,
                    opinion: None,
                    json: self.args.common.json,
                    quiet: self.args.common.quiet,
                };
                terminal::judge(&mut session, asking)?;
            }
            [] => {
                let page = LabelPage {
                    kind: label.kind.name(),
                    file: file.display().to_string(),
                    annotator: person,
                    guidelines: guidelines()?,
                    opinions: false,
                };
                let listening = ListeningArgs::here();
                let server = listen(&listening)?;
                announce(&server, &listening, "label");
                session = judge_on_page(session, server, &page, None, &self.machine)?;
            }
            programs => let_judge(&mut session, programs, &self.machine)?,
        }
        let labels = session.journal().past().len();
        // Programs have judged all there is; a person may end before.
        if programs.is_empty() && !session.complete() {
            self.say(&format!(
                "label: {labels} judgements so far in {}",
                file.display()
            ));
            return Err(Stopped.into());
        }
        if labels == 0 {
            return Err(usage!(
                "label: nothing was judged: all answers to a prompt are alike; raise label.temperature or label.answers"
            ));
        }
        let rewritten = demonstrations_of(&file);
        if rewritten.exists() {
            self.say(&format!(
                "label: rewritten answers are in {}",
                rewritten.display()
            ));
        }
        self.say(&format!("label: {labels} judgements in {}", file.display()));
        write_file(&folder.join(FINISHED), fingerprint.as_bytes())?;
        Ok(Judged { labels, anew: true })
    }

    fn session(
        &self,
        label: &LabelSettings,
        model: &Path,
        prompts: &[PathBuf],
        seed: u64,
        people: bool,
        file: &Path,
    ) -> anyhow::Result<Session> {
        let ppo: rlhf_ppo::Config = self.wiring.layers.get("ppo")?;
        let asked = Asked {
            models: vec![model.display().to_string()],
            prompts,
            reading: ppo.data.reading(),
            answers: label.answers.unwrap_or(label.kind.usual_answers(1, false)),
            raw: ppo.raw,
            config: SamplingConfig {
                temperature: label.temperature.unwrap_or(ppo.temperature),
                max_new_tokens: label.response_length.unwrap_or(ppo.response_length),
                ..ppo.sampling(seed)
            },
            kind: label.kind,
        };
        let pool = asked.pool(file, &self.machine).map_err(|error| match error.downcast_ref() {
            Some(Error::OtherAnswers(_)) => usage!(
                "{}: the judgements there are of answers of another model, or to other prompts; undo the change to go on with them, or move the \
                 folder away to judge anew",
                self.wiring.out.join(LABEL).display()
            ),
            _ => error,
        })?;
        let settings = Settings {
            kind: label.kind,
            seed,
            repeat: label.repeat,
            overlap: label.overlap,
            items: Some(label.items),
            clock: if people { Clock::System } else { Clock::Absent },
        };
        Ok(Session::open(
            file,
            pool,
            Box::new(Random { seed }),
            settings,
        )?)
    }

    /// A name for what a round's judgements depend on.
    fn of_what(
        &self,
        label: &LabelSettings,
        model: &Path,
        prompts: &[PathBuf],
    ) -> anyhow::Result<String> {
        let ppo: rlhf_ppo::Config = self.wiring.layers.get("ppo")?;
        let of_all_rounds = LabelSettings {
            rounds: 1,
            guidelines: None,
            ..label.clone()
        };
        let sampling = ppo.sampling(self.wiring.run.seed);
        let final_model = model.join("final");
        let model = if final_model.exists() {
            final_model
        } else {
            model.to_owned()
        };
        let inputs = found(prompts)?.into_iter().chain([model]);
        let contents = inputs.map(|path| {
            let name = path.display().to_string();
            Content::of(&Input { name, path })
        });
        let contents: Vec<Content> = contents.collect::<Result<_, _>>()?;
        Ok(fingerprint(
            &format!("{}{sampling:?}", of_all_rounds.to_table()),
            &contents,
        ))
    }
}

/// A round's judgements.
struct Judged {
    labels: usize,
    /// Whether they were made now.
    anew: bool,
}

fn lines(file: &Path) -> anyhow::Result<usize> {
    let text = fs_err::read_to_string(file)?;
    Ok(text
        .lines()
        .filter(|line| !line.contains("\"rewritten\":true"))
        .count())
}

/// The last accuracy in the metrics of a reward model.
fn accuracy(metrics: &Path) -> Option<f64> {
    let text = fs_err::read_to_string(metrics).ok()?;
    let rows = text
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    rows.filter_map(|row| row.get("eval/accuracy").and_then(Value::as_f64))
        .next()
}
