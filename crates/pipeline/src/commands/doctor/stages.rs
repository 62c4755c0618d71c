//! A pipeline's stages, before the first of them has run: settings, models, data, room.
//!
//! A stage may start from a model that an earlier one has yet to make. What that one starts from stands in for it: it has the same
//! shape and the same tokenizer.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use rlhf_base::Text;
use rlhf_dataset::{read_demonstrations, read_feedback, read_prompts, read_texts};
use rlhf_lm::{CausalLm, LanguageModel, ModelConfig, RewardModel};
use rlhf_reward::{Counts, Item, Items, split_by_prompt};
use rlhf_rollout::{Episode, PromptRow, RewardSource, prompt_rows};
use rlhf_sft::{Row, Rows, mean_loss};
use rlhf_train::{MemoryItem, micro_batch_tokens};

use super::machine::{disk, memory};
use super::start::{Start, start};
use super::{Found, Report, gib};
use crate::machine::Machine;
use crate::stage::{Job, Stage, Standing, model_folder, reward_source};
use crate::wiring::Wiring;

/// Rows of data that the model is tried on.
const TRIED: usize = 4;

pub(super) fn check(wiring: &Wiring, machine: &Machine, report: &mut Report) {
    let mut rounds = Rounds {
        wiring,
        machine,
        report,
        loaded: None,
        written: 0,
    };
    if wiring.names("pretrain") {
        rounds.stage("pretrain", Rounds::pretrain);
    }
    if wiring.names("sft") {
        rounds.stage("sft", Rounds::sft);
    }
    if wiring.names("reward") {
        rounds.stage("reward", Rounds::reward);
    }
    if wiring.names("ppo") {
        rounds.stage("ppo", Rounds::ppo);
    }
    let written = rounds.written;
    report.part("afterwards");
    report.check("evaluation", || {
        let Some(questions) = wiring.questions()? else {
            return Ok(((), Found::Ok("no stage makes a model that answers".into())));
        };
        let prompts = read_prompts(&questions.files, questions.skip_bad)?
            .rows
            .len();
        let asked = prompts.min(questions.limit);
        Ok((
            (),
            Found::Ok(format!("every model answers {asked} held-out prompts")),
        ))
    });
    report.check("disk", || Ok(((), disk(&wiring.out, written)?)));
}

struct Rounds<'a> {
    wiring: &'a Wiring,
    machine: &'a Machine,
    report: &'a mut Report,
    /// The last model that was loaded: stages share it.
    loaded: Option<(PathBuf, Rc<LanguageModel>)>,
    /// Bytes that the run directories will hold.
    written: u64,
}

impl Rounds<'_> {
    /// The checks of one stage; what stops them early stands in the report.
    fn stage(&mut self, name: &str, checks: fn(&mut Self) -> Option<()>) {
        self.report.part(name);
        let _ = checks(self);
    }

    fn pretrain(&mut self) -> Option<()> {
        let settings = self.wiring.pretrain();
        let (settings, config) = self.report.check("data", || {
            let settings = settings?;
            let mut config = settings.clone();
            config.locate(&mut Vec::new())?;
            let texts = read_texts(&config.data, config.skip_bad)?.rows;
            let characters: usize = texts.iter().map(|row| row.text.chars().count()).sum();
            let found = format!("{} texts, {characters} characters", texts.len());
            Ok(((settings, config), Found::Ok(found)))
        })?;
        let (model, parameters) = self.report.check("model", || {
            let model = config.model(config.vocab_size)?;
            let schema = CausalLm::schema(&model)?;
            let parameters: usize = schema.iter().map(|(_, shape)| shape.elem_count()).sum();
            let found = format!("llama from nothing, {parameters} parameters");
            Ok(((model, parameters as u64), Found::Ok(found)))
        })?;
        let held = (config.batch * config.max_length) as u64;
        self.room(&[parameters], 0, held, config.micro_batch, &model);
        self.standing(&settings, &Start::Nothing);
        Some(())
    }

    fn sft(&mut self) -> Option<()> {
        let settings = self.wiring.sft();
        let (settings, config, start) = self.located(settings, |config| &mut config.model)?;
        let read = self.report.check("data", || {
            let rows = read_demonstrations(&config.data, config.skip_bad)?.rows;
            let found = format!("{} demonstrations", rows.len());
            Ok((rows, Found::Ok(found)))
        })?;
        if let Some(model) = self.model(&start)? {
            let rows = self.report.check("tokens", || {
                let cut = config.max_length;
                let all = Rows::from_demonstrations(
                    &model.tokenizer,
                    &read,
                    cut,
                    config.train_on_prompt,
                )?;
                let tokens: usize = all.rows.iter().map(|row| row.ids.len()).sum();
                let targets: usize = all.rows.iter().map(Row::targets).sum();
                let found = format!("{tokens}, of which {targets} carry loss");
                let found = match all.cut {
                    0 => Found::Ok(found),
                    n => Found::Warn(format!(
                        "{found}; {n} rows are cut at {cut} tokens: raise sft.max_length to keep them whole"
                    )),
                };
                Ok((all.rows, found))
            })?;
            self.answers(&model, &rows);
            let tokens = rows.iter().map(|row| row.ids.len()).sum::<usize>();
            let held = tokens * config.batch / rows.len();
            self.room_of(&model, held, config.micro_batch);
        }
        self.standing(&settings, &start);
        Some(())
    }

    fn reward(&mut self) -> Option<()> {
        let settings = self.wiring.reward();
        let (settings, config, start) = self.located(settings, |config| &mut config.model)?;
        let (feedback, held_out) = self.report.check("data", || {
            let feedback = read_feedback(&config.prefs, config.skip_bad)?.rows;
            let held_out = match config.eval_prefs.as_slice() {
                [] => Vec::new(),
                files => read_feedback(files, config.skip_bad)?.rows,
            };
            let found = format!(
                "{} rows of feedback, {} held out",
                feedback.len(),
                held_out.len()
            );
            Ok(((feedback, held_out), Found::Ok(found)))
        })?;
        if let Some(model) = self.model(&start)? {
            let items = self.report.check("tokens", || {
                let cut = config.max_length;
                let encode = |rows| Items::from_feedback(&model.tokenizer, rows, cut);
                let mut all = encode(&feedback)?;
                let others = match held_out.as_slice() {
                    [] => split_by_prompt(all.items.clone(), config.eval_fraction)?.1,
                    rows => encode(rows)?.items,
                };
                ensure!(
                    !others.is_empty(),
                    "no feedback is held out, and the scale of scores is measured there: raise reward.eval_fraction"
                );
                let trained = (!held_out.is_empty()).then_some(all.items.as_slice());
                let shared = Counts::of(&others, 0, trained).trained_on.unwrap_or(0);
                let tokens: usize = all.items.iter().map(Item::tokens).sum();
                let mut found = format!("{tokens} over {} prompts", all.items.len());
                let counts = [
                    (all.cut, format!("sequences are cut at {cut} tokens: raise reward.max_length")),
                    (all.identical, "prompts are left out: their answers are all the same".into()),
                    (shared, "held-out prompts are trained on too: the report will flatter".into()),
                ];
                let told = counts.iter().filter(|(count, _)| *count > 0);
                let told: Vec<String> = told.map(|(count, what)| format!("{count} {what}")).collect();
                let items = std::mem::take(&mut all.items);
                if told.is_empty() {
                    return Ok((items, Found::Ok(found)));
                }
                found = format!("{found}\n{}", told.join("\n"));
                Ok((items, Found::Warn(found)))
            })?;
            let tokens = items.iter().map(Item::tokens).sum::<usize>();
            let held = tokens * config.batch / items.len();
            self.room_of(&model, held, config.micro_batch);
        }
        self.standing(&settings, &start);
        Some(())
    }

    fn ppo(&mut self) -> Option<()> {
        let wiring = self.wiring;
        let unmade = |config: &rlhf_ppo::Config| {
            let folder = wiring.folder("reward");
            wiring.names("reward")
                && Path::new(&config.reward) == folder
                && model_folder(&config.reward, "reward").is_err()
        };
        let settings = wiring.ppo().map(|mut config| {
            let later = unmade(&config);
            if later {
                // Any reward that is always there: the model's own checks are those of its stage.
                config.reward = "length:1".to_owned();
            }
            (config, later)
        });
        let later = settings.as_ref().is_ok_and(|(_, later)| *later);
        let (settings, config, start) = self
            .located(settings.map(|(config, _)| config), |config| {
                &mut config.model
            })?;
        let texts = self.report.check("data", || {
            let prompts = read_prompts(&config.prompts, config.skip_bad)?.rows;
            let found = format!("{} prompts", prompts.len());
            let texts: Vec<Text> = prompts.into_iter().map(|row| row.prompt).collect();
            Ok((texts, Found::Ok(found)))
        })?;
        if let Some(model) = self.model(&start)? {
            let prompts = self.report.check("tokens", || {
                let all = texts.len();
                let rows = prompt_rows(&model.tokenizer, texts.into_iter(), config.max_prompt_length)?;
                let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
                let most = model.config.max_length();
                ensure!(
                    longest + config.response_length <= most,
                    "the longest prompt has {longest} tokens and ppo.response_length is {}, but the model reads at most {most}: lower \
                     ppo.max_prompt_length or ppo.response_length",
                    config.response_length
                );
                let found = format!("{} prompts of up to {longest} tokens", rows.len());
                let found = match all - rows.len() {
                    0 => Found::Ok(found),
                    n => Found::Warn(format!(
                        "{found}; {n} are dropped: empty, or longer than ppo.max_prompt_length ({})",
                        config.max_prompt_length
                    )),
                };
                Ok((rows, found))
            })?;
            let parameters = model.params.num_parameters() as u64;
            let judge = self.reward_of_ppo(&config, later, &model, &prompts)?;
            let critic = match config.separate_critic() {
                true => parameters.max(judge),
                false => 0,
            };
            let prompt_tokens: usize = prompts.iter().map(|row| row.ids.len()).sum();
            let distinct = config.batch / config.samples_per_prompt;
            let step =
                prompt_tokens * distinct / prompts.len() + config.batch * config.response_length;
            let held = (step / config.minibatches) as u64;
            let trained = [parameters, critic];
            self.room(
                &trained,
                parameters + judge,
                held,
                config.micro_batch,
                &model.config,
            );
        }
        if !later {
            self.standing(&settings, &start);
        }
        Some(())
    }

    /// Opens the reward and lets it score one answer; how many parameters it has.
    fn reward_of_ppo(
        &mut self,
        config: &rlhf_ppo::Config,
        later: bool,
        model: &LanguageModel,
        prompts: &[PromptRow],
    ) -> Option<u64> {
        let machine = self.machine;
        self.report.check("reward", || {
            if later {
                let parameters = model.params.num_parameters() as u64;
                return Ok((parameters, Found::Ok("what [reward] will make".into())));
            }
            let source = reward_source(&config.reward)?;
            let reward = source.open(machine.dtype, &machine.device, config.timeout())?;
            let parameters = reward
                .model()
                .map_or(0, |m| m.params().num_parameters() as u64);
            if let Some(judge) = reward.model() {
                check_judge(config, judge, model)?;
            }
            let mut response = model.tokenizer.encode("This is an answer.")?;
            response.push(model.tokenizer.eos_id()?);
            let episode = Episode {
                prompt: 0,
                response,
                finished: true,
            };
            let scores = reward.scores(&model.tokenizer, &prompts[..1], &[episode])?;
            let score = scores.first().context("the reward gave no score")?;
            let what = match source {
                RewardSource::Model(folder) => folder.display().to_string(),
                _ => config.reward.clone(),
            };
            Ok((
                parameters,
                Found::Ok(format!("{what} scores an answer on trial {score:.3}")),
            ))
        })
    }

    /// The settings as written, with real files in them, and where the stage starts.
    fn located<S: Stage>(
        &mut self,
        settings: anyhow::Result<S>,
        model: fn(&mut S) -> &mut String,
    ) -> Option<(S, S, Start)> {
        let wiring = self.wiring;
        self.report.check("settings", || {
            let settings = settings?;
            let mut located = settings.clone();
            let start = start(wiring, model(&mut located))?;
            let folder = start.folder().unwrap_or(Path::new(""));
            *model(&mut located) = folder.display().to_string();
            located.locate(&mut Vec::new())?;
            let found = format!("starts from {}", start.describe());
            Ok(((settings, located, start), Found::Ok(found)))
        })
    }

    /// Loads the model; within, nothing where pretraining has yet to make it.
    fn model(&mut self, start: &Start) -> Option<Option<Rc<LanguageModel>>> {
        let Some(folder) = start.folder() else {
            return Some(None);
        };
        if let Some((name, model)) = &self.loaded
            && name == folder
        {
            return Some(Some(model.clone()));
        }
        let machine = self.machine;
        let model = self.report.check("model", || {
            let model = LanguageModel::load(folder, machine.dtype, &machine.device)?;
            let end = model.tokenizer.eos_id()?;
            let found = format!(
                "{}, {} parameters, ends with {}, {} chat template",
                model.config.model_type(),
                model.params.num_parameters(),
                model.tokenizer.token(end).unwrap_or_default(),
                if model.tokenizer.has_chat_template() {
                    "has a"
                } else {
                    "no"
                }
            );
            Ok((Rc::new(model), Found::Ok(found)))
        })?;
        self.loaded = Some((folder.to_owned(), model.clone()));
        Some(Some(model))
    }

    /// The loss on a few rows: weights that are not finite show here.
    fn answers(&mut self, model: &LanguageModel, rows: &[Row]) {
        self.report.check("loss", || {
            let causal = CausalLm::new(&model.config, &model.params.frozen())?;
            let tried = &rows[..rows.len().min(TRIED)];
            let loss = mean_loss(&causal, tried, micro_batch_tokens(&model.config, false))?;
            ensure!(
                loss.is_finite(),
                "the model's loss on the first {} rows is {loss}: its weights are damaged, or too large for this --dtype",
                tried.len()
            );
            let found = format!("{loss:.3} nats a token over the first {} rows", tried.len());
            Ok(((), Found::Ok(found)))
        });
    }

    /// [`Rounds::room`] of a stage that trains this model and no other.
    fn room_of(&mut self, model: &LanguageModel, held: usize, micro_batch: usize) {
        let parameters = model.params.num_parameters() as u64;
        self.room(&[parameters], 0, held as u64, micro_batch, &model.config);
    }

    /// Memory while the stage runs, against what is free; and what it leaves on the disk.
    ///
    /// `trained` are the sizes of the models it trains (0 for none), `frozen` the parameters it only reads, `held` the tokens of an
    /// optimizer step.
    fn room(
        &mut self,
        trained: &[u64],
        frozen: u64,
        held: u64,
        micro_batch: usize,
        model: &ModelConfig,
    ) {
        let recompute = self.wiring.run.recompute;
        let micro = match micro_batch {
            0 => micro_batch_tokens(model, recompute),
            tokens => tokens,
        };
        let models = trained.iter().flat_map(|n| MemoryItem::trained("", *n));
        let activations = MemoryItem::activations(held.min(micro as u64), model, recompute);
        let items = models.chain([MemoryItem::new("", 4 * frozen), activations]);
        let needed: u64 = items.map(|item| item.bytes).sum();
        // Two checkpoints of weights and two moments are kept while a third is written; then the model itself.
        let parameters: u64 = trained.iter().sum();
        self.written += 3 * 12 * parameters + 4 * trained[0];
        let on_cpu = self.machine.device.is_cpu();
        self.report.check("memory", || {
            let about = format!("about {}", gib(needed));
            if !on_cpu {
                return Ok(((), Found::Ok(format!("{about} on the device"))));
            }
            let (free, _) = memory();
            if needed > free {
                return Ok((
                    (),
                    Found::Warn(format!(
                        "{about}, and {} are free: lower the stage's micro_batch, or train with --recompute",
                        gib(free)
                    )),
                ));
            }
            Ok(((), Found::Ok(format!("{about} of {} free", gib(free)))))
        });
    }

    /// What the run directory holds, and what `rlhf run` will do about it.
    fn standing<S: Stage>(&mut self, settings: &S, start: &Start) {
        let (run, out) = (&self.wiring.run, self.wiring.folder(S::SECTION));
        let there = matches!(start, Start::There(_) | Start::Nothing);
        self.report.check("run", || {
            let out_there = out.join("config.toml").exists();
            if !there && out_there {
                let found = "holds a run from another start: it will be replaced";
                return Ok(((), Found::Warn(format!("{} {found}", out.display()))));
            }
            let standing = match out_there {
                true => Job::prepare(settings, run, true)?.standing(&out),
                false => Standing::New,
            };
            let out = out.display();
            Ok((
                (),
                match standing {
                    Standing::New => Found::Ok(format!("{out} is new")),
                    Standing::Finished => {
                        Found::Ok(format!("{out} is finished: it will be skipped"))
                    }
                    Standing::Interrupted => {
                        Found::Ok(format!("{out} was interrupted: it will be continued"))
                    }
                    Standing::Changed => Found::Warn(format!(
                        "{out} holds a run with other settings or inputs: it will be replaced"
                    )),
                },
            ))
        });
    }
}

/// Refuses what `rlhf ppo` refuses.
fn check_judge(
    config: &rlhf_ppo::Config,
    judge: &RewardModel,
    policy: &LanguageModel,
) -> anyhow::Result<()> {
    ensure!(
        judge.card().calibration.is_some() || config.uncalibrated,
        "no calibration in reward.json: measure it with `rlhf eval --reward {} --data FILE --calibrate`, or set ppo.uncalibrated",
        config.reward
    );
    ensure!(
        !config.separate_critic() || judge.tokenizer().hash()? == policy.tokenizer.hash()?,
        "its tokenizer is not the policy's, and a separate critic starts from it: set ppo.critic to \"shared\""
    );
    Ok(())
}
