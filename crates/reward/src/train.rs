//! Training a reward model from human feedback.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rlhf_dataset::order::{micro_batches, step_rows};
use rlhf_lm::{Gradients, ModelConfig, Params, RewardCard, RewardModel, ScalarModel, Tokenizer};
use rlhf_ops::Recording;
use rlhf_rollout::save_heads;
use rlhf_train::feedback::{Counts, Item, LossTerms, Report, report};
use rlhf_train::{
    Checkpoint, DiskUse, Extent, Finding, Interrupted, LossMonitor, MemoryItem, Pace, Plan,
    Prepared, Progress, RunDir, Session, Summary, check_finite, check_update,
};
use serde_json::{Map, json};

use crate::calibrate::calibrate;
use crate::config::Config;
use crate::heads::FittedHeads;
use crate::scores::{Batch, raw_scores};

/// The result of a finished run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Optimizer steps made.
    pub steps: u64,
    /// Loss per prompt of the last step.
    pub loss: f64,
    /// How well held-out feedback is predicted.
    pub report: Report,
}

/// A scalar model with a fresh head on a language model's trunk, and the feedback it is to learn.
pub(crate) struct RewardModelling {
    pub(crate) config: Config,
    pub(crate) extent: Extent,
    pub(crate) model: ModelConfig,
    pub(crate) params: Params,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) items: Vec<Item>,
    pub(crate) held_out: Vec<Item>,
    pub(crate) counts: Counts,
    /// The language model it starts from, in words.
    pub(crate) described: String,
    /// What was cut, left out, or flatters.
    pub(crate) warnings: Vec<String>,
}

impl Prepared for RewardModelling {
    fn plan(&self, session: &Session) -> Result<Plan> {
        let items = &self.items;
        let tokens: usize = items.iter().map(Item::tokens).sum();
        let responses: usize = items.iter().map(|item| item.responses.len()).sum();
        let parameters = self.params.num_trainable() as u64;
        let batch = self.extent.rows_per_step;
        let per_step = self.extent.tokens_per_step(tokens);
        let mut memory = MemoryItem::trained("model", &self.params);
        let micro_batch_tokens = self.extent.micro_batch_tokens;
        let held = (per_step as u64).min(micro_batch_tokens as u64);
        memory.push(MemoryItem::activations(
            held,
            &self.model,
            session.recompute,
        ));
        let example = &items[0];
        let (end, response) = example.responses[0]
            .split_last()
            .context("a response without its EOS token")?;
        let given = [&example.prompt, response].concat();
        let tokenizer = &self.tokenizer;
        Ok(Plan {
            stage: "reward".into(),
            model: self.model.model_type().into(),
            parameters,
            data: vec![(
                "prompts".into(),
                format!(
                    "{} with {responses} responses, {tokens} tokens",
                    items.len()
                ),
            )],
            batch: format!(
                "{batch} prompts a step, about {per_step:.0} tokens, in micro-batches of at most {micro_batch_tokens} tokens"
            ),
            steps: self.extent.steps,
            tokens: self.extent.tokens_of_run(tokens),
            at_most: false,
            notes: self.config.training.notes("reward", &self.extent),
            memory,
            disk: DiskUse {
                checkpoints: DiskUse::checkpoints_at_once(
                    self.config.training.saves(self.extent.steps),
                    session.saving.keep,
                ),
                checkpoint: DiskUse::CHECKPOINT * parameters,
                model: DiskUse::model(&self.params),
            },
            device: session.describe_device(),
            example: vec![
                (tokenizer.spell_out(&[], &given)?, false),
                (tokenizer.spell_out(&given, &[*end])?, true),
            ],
        })
    }

    fn check(&mut self) -> Vec<Finding> {
        let tokens: usize = self.items.iter().map(Item::tokens).sum();
        let found = format!(
            "{} prompts to train on, {} held out; {tokens} tokens",
            self.items.len(),
            self.held_out.len()
        );
        vec![
            Finding::new("model", self.described.clone(), &[]),
            Finding::new("data", found, &self.warnings),
        ]
    }

    /// Minimises the loss per prompt over the feedback with AdamW, then measures the scale of the scores.
    fn run(&mut self, session: &Session, dir: &RunDir) -> Result<Summary> {
        let (config, training) = (&self.config, &self.config.training);
        let (params, items, held_out) = (&self.params, &self.items, &self.held_out);
        let comm = &session.comm;
        let Extent {
            steps_per_epoch,
            steps,
            schedule,
            micro_batch_tokens,
            ..
        } = self.extent;
        let model =
            ScalarModel::new(&self.model, params)?.gradient_checkpointing(session.recompute);
        let evaluated = ScalarModel::new(&self.model, &params.frozen())?;
        let evaluate = || -> Result<(Vec<Vec<f64>>, Report)> {
            let scores = raw_scores(&evaluated, held_out, micro_batch_tokens, comm)?;
            let report = report(held_out, &scores, self.counts);
            Ok((scores, report))
        };
        let mut optimizer = training.optimizer(session);
        let mut first = 0;
        if let Some(checkpoint) = dir.resume()? {
            checkpoint.restore(params, &mut optimizer)?;
            first = checkpoint.step;
            tracing::info!("resuming after step {first}");
        }
        let mut metrics = dir.metrics()?;
        let mut save_clock = session.saving.clock();
        let mut pace = Pace::new(comm);
        let mut progress = Progress::new(session.progress, "reward", steps, "step");
        let mut monitor = LossMonitor::after(&dir.logged()?);
        let mut last_loss = f64::NAN;
        let mut checked = false;
        // Logged with the first step: a run that fails before it leaves nothing behind.
        let mut before = match first {
            0 => Some(evaluate()?.1.metrics()).filter(|line| !line.is_empty()),
            _ => None,
        };

        let loss_of = |items: &[&Item], share: f32| -> Result<Tensor> {
            let packed = Batch::pack(items, &session.device)?;
            let hidden = model
                .hidden(&packed.packed)?
                .index_select(&packed.last, 0)?;
            feedback_loss(&model.scores(&hidden)?, items, share, config)
        };
        for step in first..steps {
            let begun = Instant::now();
            let order = step_rows(
                session.seed,
                items.len(),
                training.batch,
                training.shuffle,
                step,
            );
            let batch: Vec<&Item> = order.iter().map(|&i| &items[i]).collect();
            let tokens: usize = batch.iter().map(|item| item.tokens()).sum();
            let share = 1.0 / batch.len() as f32;

            let mut gradients = Gradients::new();
            let mut total = Tensor::zeros((), DType::F32, &session.device)?;
            let lengths: Vec<usize> = batch.iter().map(|item| item.tokens()).collect();
            let own = comm.deal(&lengths);
            let lengths: Vec<usize> = own.iter().map(|&item| lengths[item]).collect();
            let mut micros = micro_batches(&lengths, micro_batch_tokens).into_iter();
            while let Some(micro) = micros.next() {
                let _recording = Recording::start();
                let micro: Vec<&Item> = own[micro].iter().map(|&item| batch[item]).collect();
                let loss = loss_of(&micro, share)?;
                comm.accumulate(params, &mut gradients, &loss, micros.len() == 0)?;
                total = (total + loss.detach())?;
            }
            let total = comm.sum_gradients(params, &mut gradients, &total)?;
            last_loss = f64::from(Gradients::read(&total, &[&gradients])?[0]);
            if !checked {
                // A comparison stays the same when all scores move by one amount.
                checked = gradients.check_all_but(params, self.model.shared_shifts())?;
            }
            check_finite(step + 1, "the loss", last_loss)?;
            let lr = schedule.lr(training.lr, step);
            let grad_norm = optimizer
                .step(params, &gradients, lr, training.clip())
                .with_context(|| format!("step {}", step + 1))?;
            drop(gradients);

            let done = step + 1;
            let seconds = begun.elapsed().as_secs_f64();
            let mut line = Map::from_iter([
                ("loss".to_owned(), json!(last_loss)),
                ("grad_norm".to_owned(), json!(grad_norm)),
                ("lr".to_owned(), json!(lr)),
                ("tokens".to_owned(), json!(tokens)),
                (
                    "epoch".to_owned(),
                    json!(done as f64 / steps_per_epoch as f64),
                ),
                ("time/step".to_owned(), json!(seconds)),
                (
                    "tokens_per_second".to_owned(),
                    json!(tokens as f64 / seconds),
                ),
            ]);
            pace.step(comm, &mut line)?;
            if let Some(before) = before.take() {
                metrics.log(0, &before)?;
            }
            metrics.log(done, &line)?;
            if let Some(warning) = monitor.observe(done, &line) {
                tracing::warn!("reward: {warning}");
            }
            if done < steps && training.evaluates_after(done, steps) {
                let report = evaluate()?.1;
                metrics.log(done, &report.metrics())?;
                progress.say(&format!("{} after step {done}", report.headline()));
            }
            progress.tick(done, &[("loss", last_loss)], tokens as u64);

            let [stop, due] = comm.any([session.interrupt.requested(), save_clock.due()])?;
            let stop = stop && done < steps;
            let save = stop || training.saves_after(done, steps) || done < steps && due;
            if save || done == steps {
                let _recording = Recording::start();
                check_update(done, params, &loss_of(&batch[..1], 1.0)?)?;
            }
            if save {
                let checkpoint = Checkpoint::of(done, params, &optimizer)?;
                dir.checkpoint_save(&checkpoint, session.saving.keep)?;
                save_clock.saved();
            }
            if stop {
                return Err(Interrupted { step: done }.into());
            }
        }
        progress.finish();

        let (scores, report) = evaluate()?;
        metrics.log(steps, &report.metrics())?;
        let mut card = card(config, held_out, &scores, &report)?;
        let heads = match config.heads {
            0 => None,
            _ => {
                let data = (items.as_slice(), held_out.as_slice());
                let heads =
                    FittedHeads::fit(&evaluated, data, config, micro_batch_tokens, session.seed)?;
                metrics.log(steps, &heads.metrics())?;
                card.heads = Some(heads.card.clone());
                Some(heads)
            }
        };
        dir.publish(|folder| -> Result<()> {
            RewardModel::save(folder, &self.model, params, &self.tokenizer, &card)?;
            match &heads {
                Some(heads) => save_heads(folder, &heads.ensemble),
                None => Ok(()),
            }
        })?;
        let said = heads.map_or(String::new(), |heads| heads.describe());
        let text = format!("steps {steps}, last loss {last_loss:.4}\n{report}{said}");
        let outcome = Outcome {
            steps,
            loss: last_loss,
            report,
        };
        Summary::new(&outcome, text)
    }
}

/// Loss of a micro-batch; each prompt weighs `share`, whatever its kind of feedback and number of responses.
fn feedback_loss(scores: &Tensor, items: &[&Item], share: f32, config: &Config) -> Result<Tensor> {
    let mut terms = LossTerms::default();
    for item in items {
        terms.push(&item.judgement, item.responses.len(), config.ties, share);
    }
    Ok(terms.loss(scores, config.label_smoothing, config.center_rewards)?)
}

/// The content of `reward.json`: the scale of held-out scores, and probe texts with their scores.
fn card(
    config: &Config,
    held_out: &[Item],
    scores: &[Vec<f64>],
    report: &Report,
) -> Result<RewardCard> {
    let (calibration, probes) = calibrate(held_out, scores)?;
    // Names, not paths: the folder may be published.
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        let names = paths.iter().filter_map(|path| path.file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    };
    Ok(RewardCard {
        calibration: Some(calibration),
        trained: json!({ "from": config.model, "prefs": names(&config.prefs), "report": report }),
        probes,
        heads: None,
    })
}
