//! The training loop of pretraining and of supervised fine-tuning: the same loss over different rows.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Tensor};
use rlhf_dataset::order::{micro_batches, step_rows};
use rlhf_lm::{CausalLm, Example, ExampleBatch, Gradients, LanguageModel, SaveDtype};
use rlhf_ops::Recording;
use rlhf_train::{
    Balancing, Checkpoint, Comm, DiskUse, Extent, Finding, GUESSING_LOSS, Interrupted, LossMonitor,
    MemoryItem, Pace, Plan, Prepared, Progress, RunDir, Session, Summary, Training, check_finite,
    check_update,
};
use serde_json::{Map, Value, json};

use crate::eval::mean_loss;
use crate::rows::Rows;

/// The result of a finished run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Optimizer steps made.
    pub steps: u64,
    /// Loss per target token of the last step, in nats.
    pub loss: f64,
    /// Loss per target token on held-out rows, in nats, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The same before training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss_before: Option<f64>,
    /// What shows that the run has learnt nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A language model and the rows it is to learn.
pub(crate) struct LanguageModelling {
    pub(crate) stage: &'static str,
    pub(crate) training: Training,
    pub(crate) extent: Extent,
    pub(crate) max_length: usize,
    /// Weight of the load-balancing loss of a mixture of experts.
    pub(crate) balance: f64,
    pub(crate) model: LanguageModel,
    pub(crate) rows: Rows,
    pub(crate) held_out: Vec<Example>,
    /// Number format of the weights in `final/`.
    pub(crate) save_dtype: SaveDtype,
    /// When the model had been loaded.
    pub(crate) loaded: Instant,
}

impl Prepared for LanguageModelling {
    fn plan(&self, session: &Session) -> Result<Plan> {
        let rows = &self.rows.rows;
        let tokens: usize = rows.iter().map(|row| row.ids().len()).sum();
        let targets: usize = rows.iter().map(Example::num_targets).sum();
        let parameters = self.model.params.num_trainable() as u64;
        let per_step = self.extent.tokens_per_step(tokens);
        let mut memory = MemoryItem::trained("model", &self.model.params);
        let micro_batch_tokens = self.extent.micro_batch_tokens;
        let held = (per_step as u64).min(micro_batch_tokens as u64);
        memory.push(MemoryItem::activations(
            held,
            &self.model.config,
            session.recompute,
        ));
        Ok(Plan {
            stage: self.stage.into(),
            model: self.model.config.model_type().into(),
            parameters,
            data: vec![(
                "rows".into(),
                format!(
                    "{}, {tokens} tokens, {targets} of them carry loss",
                    rows.len()
                ),
            )],
            batch: format!(
                "{} rows a step, about {per_step:.0} tokens, in micro-batches of at most {micro_batch_tokens} tokens",
                self.extent.rows_per_step
            ),
            steps: self.extent.steps,
            tokens: self.extent.tokens_of_run(tokens),
            at_most: false,
            notes: self.training.notes(self.stage, &self.extent),
            memory,
            disk: DiskUse {
                checkpoints: DiskUse::checkpoints_at_once(
                    self.training.saves(self.extent.steps),
                    session.saving.keep,
                ),
                checkpoint: DiskUse::CHECKPOINT * parameters,
                model: DiskUse::model(&self.model.params),
            },
            device: session.describe_device(),
            example: self
                .model
                .tokenizer
                .pieces(rows[0].ids(), rows[0].targets())?,
        })
    }

    fn check(&mut self) -> Vec<Finding> {
        let (model, rows) = (&self.model, &self.rows.rows);
        let tokens: usize = rows.iter().map(|row| row.ids().len()).sum();
        let targets: usize = rows.iter().map(Example::num_targets).sum();
        let warnings = self.rows.warnings(self.stage, self.max_length);
        let found = format!(
            "{} rows to train on, {} held out; {tokens} tokens, of which {targets} carry loss",
            rows.len(),
            self.held_out.len()
        );
        vec![
            Finding::of("model", model.describe().map_err(Into::into)),
            Finding::new("data", found, &warnings),
            Finding::of("loss", self.loss_on_trial()),
        ]
    }

    /// Minimises the loss per target token over the rows with AdamW.
    fn run(&mut self, session: &Session, dir: &RunDir) -> Result<Summary> {
        let (training, params) = (&self.training, &self.model.params);
        let (rows, held_out, comm) = (&self.rows.rows, &self.held_out, &session.comm);
        let Extent {
            steps_per_epoch,
            steps,
            schedule,
            micro_batch_tokens,
            ..
        } = self.extent;
        let model =
            CausalLm::new(&self.model.config, params)?.gradient_checkpointing(session.recompute);
        let evaluated = CausalLm::new(&self.model.config, &params.frozen())?;
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
        let mut progress = Progress::new(session.progress, self.stage, steps, "step");
        let mut outcome = Outcome {
            steps,
            loss: f64::NAN,
            eval_loss: None,
            eval_loss_before: None,
            warning: None,
        };
        let mut monitor = LossMonitor::after(&dir.logged()?);
        let mut log = |step: u64, line: &Map<String, Value>| -> Result<()> {
            metrics.log(step, line)?;
            if let Some(warning) = monitor.observe(step, line) {
                tracing::warn!("{}: {warning}", self.stage);
            }
            Ok(())
        };
        // Logged with the first step: a run that fails before it leaves nothing behind.
        let mut before = None;
        let mut checked = false;
        if first == 0 {
            let mut line = Map::new();
            if !held_out.is_empty() {
                let loss = mean_loss(&evaluated, held_out, micro_batch_tokens, comm)?;
                progress.say(&format!("held-out loss {loss:.4} before training"));
                line = held_out_line(loss);
            }
            let vocabulary = self.model.config.vocab_size() as f64;
            line.insert(GUESSING_LOSS.into(), json!(vocabulary.ln()));
            before = Some(line);
        }

        tracing::info!(
            "the first step begins {:.2} s after the model was loaded",
            self.loaded.elapsed().as_secs_f64()
        );
        for step in first..steps {
            let begun = Instant::now();
            let order = step_rows(
                session.seed,
                rows.len(),
                training.batch,
                training.shuffle,
                step,
            );
            let batch: Vec<&Example> = order.iter().map(|&i| &rows[i]).collect();
            let tokens: usize = batch.iter().map(|row| row.ids().len()).sum();
            let targets: usize = batch.iter().map(|row| row.num_targets()).sum();

            let mut gradients = Gradients::new();
            let mut total = Tensor::zeros((), DType::F32, &session.device)?;
            let mut balancing = Balancing::new(self.balance, tokens);
            let lengths: Vec<usize> = batch.iter().map(|row| row.ids().len()).collect();
            let own = comm.deal(&lengths);
            let lengths: Vec<usize> = own.iter().map(|&row| lengths[row]).collect();
            let mut micros = micro_batches(&lengths, micro_batch_tokens).into_iter();
            while let Some(micro) = micros.next() {
                let _recording = Recording::start();
                let micro: Vec<&Example> = own[micro].iter().map(|&row| batch[row]).collect();
                let packed = ExampleBatch::pack(&micro, &session.device)?;
                let (loss, balance) = packed.loss_balanced(&model, targets)?;
                total = (total + loss.detach())?;
                let minimised = balancing.minimised(loss, balance, packed.packed.tokens())?;
                let last = micros.len() == 0;
                comm.accumulate(params, &mut gradients, &minimised, last)?;
            }
            let [balance, balanced] = balancing.numbers(&session.device)?;
            let numbers = Tensor::stack(&[total, balance, balanced], 0)?;
            let numbers = comm.sum_gradients(params, &mut gradients, &numbers)?;
            let numbers = Gradients::read(&numbers, &[&gradients])?;
            outcome.loss = f64::from(numbers[0]);
            if !checked {
                checked = gradients.check_all(params)?;
            }
            check_finite(step + 1, "the loss", outcome.loss)?;
            let lr = schedule.lr(training.lr, step);
            let grad_norm = optimizer
                .step(params, &gradients, lr, training.clip())
                .with_context(|| format!("step {}", step + 1))?;
            drop(gradients);

            let done = step + 1;
            let mut line = Map::new();
            line.insert("loss".into(), json!(outcome.loss));
            if let [_, balance, balanced] = numbers[..] {
                Balancing::log([balance, balanced], &mut line);
            }
            line.insert("grad_norm".into(), json!(grad_norm));
            line.insert("lr".into(), json!(lr));
            line.insert("tokens".into(), json!(tokens));
            line.insert("epoch".into(), json!(done as f64 / steps_per_epoch as f64));
            let seconds = begun.elapsed().as_secs_f64();
            line.insert("time/step".into(), json!(seconds));
            line.insert("tokens_per_second".into(), json!(tokens as f64 / seconds));
            pace.step(comm, &mut line)?;
            if let Some(before) = before.take() {
                log(0, &before)?;
            }
            log(done, &line)?;
            if !held_out.is_empty() && training.evaluates_after(done, steps) {
                let loss = mean_loss(&evaluated, held_out, micro_batch_tokens, comm)?;
                log(done, &held_out_line(loss))?;
                progress.say(&format!("held-out loss {loss:.4} after step {done}"));
                outcome.eval_loss = Some(loss);
            }
            progress.tick(done, &[("loss", outcome.loss)], tokens as u64);

            let [stop, due] = comm.any([session.interrupt.requested(), save_clock.due()])?;
            let stop = stop && done < steps;
            let save = stop || training.saves_after(done, steps) || done < steps && due;
            if save || done == steps {
                let _recording = Recording::start();
                let packed = ExampleBatch::pack(&batch[..1], &session.device)?;
                let loss = packed.loss(&model, batch[0].num_targets())?;
                check_update(done, params, &loss)?;
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
        outcome.eval_loss_before = monitor.before();
        outcome.warning = monitor.conclusion();

        let save = |folder: &std::path::Path| Ok(self.model.save(folder, self.save_dtype)?);
        dir.publish(save).map_err(|error: anyhow::Error| error)?;
        Summary::new(&outcome, outcome.describe())
    }
}

impl LanguageModelling {
    /// Rows of the trial before training.
    const TRIED: usize = 4;

    /// The loss on a few rows: weights that are not finite show here.
    fn loss_on_trial(&self) -> Result<String> {
        let causal = CausalLm::new(&self.model.config, &self.model.params.frozen())?;
        let tried = &self.rows.rows[..self.rows.rows.len().min(Self::TRIED)];
        let tokens = self.extent.micro_batch_tokens;
        let loss = mean_loss(&causal, tried, tokens, &Comm::single())?;
        ensure!(
            loss.is_finite(),
            "the model's loss on the first {} rows is {loss}: its weights are damaged, or too large for this --dtype",
            tried.len()
        );
        Ok(format!(
            "{loss:.3} nats a token over the first {} rows",
            tried.len()
        ))
    }
}

impl Outcome {
    fn describe(&self) -> String {
        let mut out = format!("steps {}, last loss {:.4}", self.steps, self.loss);
        if let Some(loss) = self.eval_loss {
            let before = self
                .eval_loss_before
                .map(|l| format!(" ({l:.4} before training)"));
            out.push_str(&format!(
                ", held-out loss {loss:.4}{}, perplexity {:.2}",
                before.unwrap_or_default(),
                loss.exp()
            ));
        }
        if let Some(warning) = &self.warning {
            out.push_str(&format!("\nwarning: {warning}"));
        }
        out + "\n"
    }
}

/// A loss over the held-out rows under its names in `metrics.jsonl`.
fn held_out_line(loss: f64) -> Map<String, Value> {
    Map::from_iter([
        ("eval/loss".to_owned(), json!(loss)),
        ("eval/perplexity".to_owned(), json!(loss.exp())),
    ])
}
