//! The training loop: log-ratios of responses, the loss that they explain, one optimizer step.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rlhf_dataset::order::{micro_batches, step_rows};
use rlhf_lm::{CausalLm, Gradients, LanguageModel, SaveDtype};
use rlhf_ops::Recording;
use rlhf_train::feedback::{Counts, Item, Report, report};
use rlhf_train::{
    Balancing, Checkpoint, Comm, DiskUse, Extent, Finding, Interrupted, LossMonitor, MemoryItem,
    Pace, Plan, Prepared, Progress, RunDir, Session, Summary, check_finite, check_update,
};
use serde_json::{Map, json};

use crate::batch::{Batch, by_item, response_logprobs};
use crate::config::Config;
use crate::judged::Judged;
use crate::loss::Loss;
use crate::metrics;
use crate::objective::{feedback_loss, loss_of, reference_point, share};
use crate::reference::Reference;
use crate::stage::teaches;

/// The result of a finished run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Optimizer steps made.
    pub steps: u64,
    /// Loss of the last step.
    pub loss: f64,
    /// Loss on held-out feedback, if there was any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// How well the implicit rewards predict held-out feedback.
    pub report: Report,
}

/// The load-balancing loss of a mixture of experts, over a number of tokens.
type Balance = (Option<Tensor>, usize);

/// A policy and the feedback it is to learn from.
pub(crate) struct PreferenceLearning {
    pub(crate) config: Config,
    /// Weight of the load-balancing loss.
    pub(crate) balance: f64,
    pub(crate) extent: Extent,
    pub(crate) model: LanguageModel,
    pub(crate) trained: Judged,
    pub(crate) held_out: Judged,
    pub(crate) counts: Counts,
    /// What was cut, left out, or flatters.
    pub(crate) warnings: Vec<String>,
}

impl Prepared for PreferenceLearning {
    fn plan(&self, session: &Session) -> Result<Plan> {
        let items = &self.trained.items;
        let tokens: usize = items.iter().map(Item::tokens).sum();
        let responses: usize = items.iter().map(|item| item.responses.len()).sum();
        let parameters = self.model.params.num_trainable() as u64;
        let batch = self.extent.rows_per_step;
        let per_step = self.extent.tokens_per_step(tokens);
        let mut memory = MemoryItem::trained("policy", &self.model.params);
        let micro_batch_tokens = self.extent.micro_batch_tokens;
        let held = (per_step as u64).min(micro_batch_tokens as u64);
        memory.push(MemoryItem::activations(
            held,
            &self.model.config,
            session.recompute,
        ));
        let example = &items[0];
        let tokenizer = &self.model.tokenizer;
        Ok(Plan {
            stage: "dpo".into(),
            model: self.model.config.model_type().into(),
            parameters,
            data: vec![
                (
                    "prompts".into(),
                    format!(
                        "{} with {responses} responses, {tokens} tokens",
                        items.len()
                    ),
                ),
                (
                    "reference".into(),
                    "this model before the first step, computed once".into(),
                ),
            ],
            batch: format!(
                "{batch} prompts a step, about {per_step:.0} tokens, in micro-batches of at most {micro_batch_tokens} tokens"
            ),
            steps: self.extent.steps,
            tokens: self.extent.tokens_of_run(tokens),
            at_most: false,
            notes: self.config.training.notes("dpo", &self.extent),
            memory,
            disk: DiskUse {
                checkpoints: DiskUse::checkpoints_at_once(
                    self.config.training.saves(self.extent.steps),
                    session.saving.keep,
                ),
                checkpoint: DiskUse::CHECKPOINT * parameters,
                model: DiskUse::model(&self.model.params),
            },
            device: session.describe_device(),
            example: vec![
                (tokenizer.spell_out(&[], &example.prompt)?, false),
                (
                    tokenizer.spell_out(&example.prompt, &example.responses[0])?,
                    true,
                ),
            ],
        })
    }

    fn check(&mut self) -> Vec<Finding> {
        let items = &self.trained.items;
        let tokens: usize = items.iter().map(Item::tokens).sum();
        let found = format!(
            "{} prompts to train on, {} held out; {tokens} tokens",
            items.len(),
            self.held_out.items.len()
        );
        vec![
            Finding::of("model", self.model.describe().map_err(Into::into)),
            Finding::new("data", found, &self.warnings),
        ]
    }

    /// Minimises the loss over the feedback with AdamW.
    fn run(&mut self, session: &Session, dir: &RunDir) -> Result<Summary> {
        let (config, training) = (&self.config, &self.config.training);
        let (params, trained) = (&self.model.params, &self.trained);
        let comm = &session.comm;
        let Extent {
            steps_per_epoch,
            steps,
            schedule,
            micro_batch_tokens,
            ..
        } = self.extent;
        let policy =
            CausalLm::new(&self.model.config, params)?.gradient_checkpointing(session.recompute);
        let view = CausalLm::new(&self.model.config, &params.frozen())?;

        // Before the policy moves, it is its own reference.
        let data = (trained, &self.held_out);
        let reference =
            Reference::of(dir, &view, data, config.normalise, micro_batch_tokens, comm)?;
        let evaluate = || self.evaluate(&view, &reference, comm);

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
        let mut progress = Progress::new(session.progress, "dpo", steps, "step");
        let mut monitor = LossMonitor::after(&dir.logged()?);
        let mut last_loss = f64::NAN;
        let mut checked = false;
        // Logged with the first step: a run that fails before it leaves nothing behind.
        let mut before = None;
        if first == 0 {
            let (report, loss) = evaluate()?;
            before = Some(evaluation_line(&report, loss)).filter(|line| !line.is_empty());
        }

        for step in first..steps {
            let begun = Instant::now();
            let order = step_rows(
                session.seed,
                trained.items.len(),
                training.batch,
                training.shuffle,
                step,
            );
            let batch: Vec<&Item> = order.iter().map(|&i| &trained.items[i]).collect();
            let lengths: Vec<usize> = batch.iter().map(|item| item.tokens()).collect();
            let tokens: usize = lengths.iter().sum();
            let share = share(config, &batch);
            // KTO's reference point, from the answers to other prompts; no gradient flows through it.
            let z0 = match config.loss {
                Loss::Kto => {
                    let others: Vec<Item> = order
                        .iter()
                        .map(|&i| trained.mismatched[i].clone())
                        .collect();
                    let now = response_logprobs(
                        &view,
                        &others,
                        config.normalise,
                        micro_batch_tokens,
                        comm,
                    )?;
                    let then = reference.trained.of_mismatched(&order);
                    reference_point(&log_ratios(&now, &then))
                }
                _ => 0.0,
            };
            // The loss of the items `micro` of the batch, how unevenly experts were used over how many tokens, and log π of the responses.
            let forward = |micro: &[usize], share: f32| -> Result<(Tensor, Balance, Tensor)> {
                let items: Vec<&Item> = micro.iter().map(|&item| batch[item]).collect();
                let packed = Batch::pack(&items, &session.device)?;
                let (now, balance) = packed.logprobs_balanced(&policy, config.normalise)?;
                let rows: Vec<usize> = micro.iter().map(|&item| order[item]).collect();
                let then = reference.trained.of_items(&rows);
                let then = rlhf_ops::upload(&then, then.len(), &session.device)?;
                let ratios = (&now - then)?;
                let loss = feedback_loss(config, &ratios, &items, share, z0)?;
                Ok((loss, (balance, packed.tokens()), now))
            };

            let mut gradients = Gradients::new();
            let mut total = Tensor::zeros((), DType::F32, &session.device)?;
            let mut balancing = Balancing::new(self.balance, tokens);
            let mut logprobs = Vec::new();
            let own = comm.deal(&lengths);
            let lengths: Vec<usize> = own.iter().map(|&item| lengths[item]).collect();
            let mut micros = micro_batches(&lengths, micro_batch_tokens).into_iter();
            while let Some(micro) = micros.next() {
                let _recording = Recording::start();
                let micro = &own[micro];
                let teaches = micro.iter().any(|&item| teaches(config, batch[item]));
                let (loss, (balance, held), now) = forward(micro, share)?;
                total = (total + loss.detach())?;
                let minimised = balancing.minimised(loss, balance, held)?;
                // Ties alone leave no loss that depends on the policy where they count nothing.
                if teaches || minimised.track_op() {
                    comm.accumulate(params, &mut gradients, &minimised, micros.len() == 0)?;
                }
                logprobs.push(now.detach());
            }
            let [balance, balanced] = balancing.numbers(&session.device)?;
            let sums = Tensor::stack(&[total, balance, balanced], 0)?;
            let sums = comm.sum_gradients(params, &mut gradients, &sums)?;
            logprobs.insert(0, sums);
            let found = Gradients::read(&Tensor::cat(&logprobs, 0)?, &[&gradients])?;
            let (sums, found) = found.split_at(3);
            last_loss = f64::from(sums[0]);
            let now = by_item(own.iter().map(|&item| batch[item]), found);
            let now = comm.in_order(&own, now)?.concat();
            // Ties alone have no gradient at the start.
            if !checked && batch.iter().any(|item| teaches(config, item)) {
                checked = gradients.check_all(params)?;
            }
            check_finite(step + 1, "the loss", last_loss)?;
            let lr = schedule.lr(training.lr, step);
            let grad_norm = optimizer
                .step(params, &gradients, lr, training.clip())
                .with_context(|| format!("step {}", step + 1))?;
            drop(gradients);

            let done = step + 1;
            let seconds = begun.elapsed().as_secs_f64();
            let then = reference.trained.of_items(&order);
            let mut line = Map::from_iter([("loss".to_owned(), json!(last_loss))]);
            line.append(&mut metrics::of_step(
                config,
                &batch,
                &log_ratios(&now, &then),
                &now,
            ));
            Balancing::log([sums[1], sums[2]], &mut line);
            if config.loss == Loss::Kto {
                line.insert("kl".to_owned(), json!(z0));
            }
            line.extend([
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
                monitor.observe(0, &before);
            }
            metrics.log(done, &line)?;
            if let Some(warning) = monitor.observe(done, &line) {
                tracing::warn!("dpo: {warning}");
            }
            if done < steps && training.evaluates_after(done, steps) {
                let (report, loss) = evaluate()?;
                metrics.log(done, &evaluation_line(&report, loss))?;
                progress.say(&format!("{} after step {done}", report.headline()));
            }
            progress.tick(done, &[("loss", last_loss)], tokens as u64);

            let [stop, due] = comm.any([session.interrupt.requested(), save_clock.due()])?;
            let stop = stop && done < steps;
            let save = stop || training.saves_after(done, steps) || done < steps && due;
            if save || done == steps {
                let _recording = Recording::start();
                check_update(done, params, &forward(&[0], share)?.0)?;
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

        let (report, eval_loss) = evaluate()?;
        metrics.log(steps, &evaluation_line(&report, eval_loss))?;
        dir.publish(|folder| -> Result<()> { Ok(self.model.save(folder, SaveDtype::F32)?) })?;
        let held_out =
            eval_loss.map_or_else(String::new, |loss| format!(", held-out loss {loss:.4}"));
        let text = format!("steps {steps}, last loss {last_loss:.4}{held_out}\n{report}");
        let outcome = Outcome {
            steps,
            loss: last_loss,
            eval_loss,
            report,
        };
        Summary::new(&outcome, text)
    }
}

impl PreferenceLearning {
    /// What the implicit rewards say of held-out feedback, and its loss.
    fn evaluate(
        &self,
        view: &CausalLm,
        reference: &Reference,
        comm: &Comm,
    ) -> Result<(Report, Option<f64>)> {
        let (config, items) = (&self.config, &self.held_out.items);
        if items.is_empty() {
            return Ok((report(items, &[], self.counts), None));
        }
        let all: Vec<usize> = (0..items.len()).collect();
        let now = |items: &[Item]| {
            response_logprobs(
                view,
                items,
                config.normalise,
                self.extent.micro_batch_tokens,
                comm,
            )
        };
        let ratios = log_ratios(&now(items)?, &reference.held_out.of_items(&all));
        let z0 = match config.loss {
            Loss::Kto => {
                let then = reference.held_out.of_mismatched(&all);
                reference_point(&log_ratios(&now(&self.held_out.mismatched)?, &then))
            }
            _ => 0.0,
        };
        let borrowed: Vec<&Item> = items.iter().collect();
        let loss = loss_of(config, &ratios, &borrowed, z0)?;
        let mut rest = ratios.iter().map(|ratio| config.beta * f64::from(*ratio));
        let rewards: Vec<Vec<f64>> = items
            .iter()
            .map(|item| rest.by_ref().take(item.responses.len()).collect())
            .collect();
        Ok((report(items, &rewards, self.counts), Some(loss)))
    }
}

/// `log π − log π_ref`, number by number.
fn log_ratios(now: &[f32], then: &[f32]) -> Vec<f32> {
    now.iter().zip(then).map(|(now, then)| now - then).collect()
}

/// An evaluation under its names in `metrics.jsonl`.
fn evaluation_line(report: &Report, loss: Option<f64>) -> Map<String, serde_json::Value> {
    let mut line = report.metrics();
    if let Some(loss) = loss {
        line.insert("eval/loss".to_owned(), json!(loss));
    }
    line
}
