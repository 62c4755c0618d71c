//! How a stage that minimises one loss over its rows walks over them, and how far a step goes.

use candle_core::Device;
use rlhf_lm::ModelConfig;

use crate::{
    AdamW, AdamWConfig, DataSettings, Error, MayChange, Range, Result, Schedule, ScheduleKind,
    Session, micro_batch_tokens, settings,
};

settings! {
    /// The settings that pretraining, fine-tuning and reward modelling share: a part of each of their sections, which give
    /// their own defaults.
    pub struct Training {
        /// Passes over the data.
        pub epochs: usize = 1 => 1..=1_000_000,
        /// Optimizer steps; 0 means as many as `epochs` gives.
        pub steps: u64 = 0 => 0..=1_000_000_000_000,
        /// Rows per optimizer step; of human feedback prompts, each with all its responses.
        pub batch: usize = 32 => 1..=1_000_000,
        /// Tokens per forward and backward pass; memory depends on it, the result does not. 0 chooses by the model's size.
        pub micro_batch_tokens: usize = 0 => 0..=1_000_000_000,
        /// Peak learning rate.
        pub lr: f64 = 2e-5 => Range::above(0.0, 1.0),
        /// How the learning rate moves after the warm-up: constant, linear or cosine.
        pub schedule: ScheduleKind = ScheduleKind::Linear,
        /// Steps over which the learning rate rises from 0.
        pub warmup: u64 = 0 => 0..=1_000_000_000,
        /// AdamW's decoupled weight decay, of matrices only: norms and biases do not decay.
        pub weight_decay: f64 = 0.0 => 0.0..=10.0,
        /// The gradient is scaled down to this norm; 0 turns clipping off.
        pub max_grad_norm: f64 = 1.0 => 0.0..=1e6,
        /// Visit the rows in a new random order every epoch; `false` keeps the order of the files.
        pub shuffle: bool = true,
        /// Evaluate every this many steps, and at the end; 0 only at the end.
        pub eval_every: u64 = 0 => 0..=1_000_000_000,
        /// Save a checkpoint every this many steps; 0: only by `run.save_minutes` and when interrupted.
        pub save_every: u64 = 100 => 0..=1_000_000_000,
    }
    parts {
        /// How its rows are read.
        pub data: DataSettings = DataSettings::default(),
    }
}

/// What [`Training`] comes to for a model and a number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extent {
    /// Rows of the data.
    pub rows: usize,
    /// Rows of a step: of a batch larger than the data, all.
    pub rows_per_step: usize,
    /// Optimizer steps in a pass over the rows; the last takes what is left.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// The learning rate of each.
    pub schedule: Schedule,
    /// Tokens per forward and backward pass.
    pub micro_batch_tokens: usize,
}

impl Extent {
    /// Tokens of a step, of data with `tokens` in all; the last step of an epoch may have fewer.
    pub fn tokens_per_step(&self, tokens: usize) -> f64 {
        tokens as f64 * self.rows_per_step as f64 / self.rows.max(1) as f64
    }

    /// Tokens of the run, of data with `tokens` in all: exact for whole epochs.
    pub fn tokens_of_run(&self, tokens: usize) -> u64 {
        let per_epoch = self.steps_per_epoch.max(1);
        let rest = (self.steps % per_epoch) as f64 * self.tokens_per_step(tokens);
        tokens as u64 * (self.steps / per_epoch) + rest as u64
    }
}

impl Training {
    /// What a resumed run may change of these.
    pub const MAY_CHANGE: MayChange = MayChange {
        unseen: &["save_every"],
        seen: &["epochs", "steps", "micro_batch_tokens", "eval_every"],
    };

    /// What of these settings of `stage` will not happen as they say: for the plan.
    pub fn notes(&self, stage: &str, extent: &Extent) -> Vec<String> {
        let mut notes = extent.schedule.notes(stage, self.lr);
        if self.batch > extent.rows {
            notes.push(format!(
                "{stage}.batch is {}, more than the rows there are ({}): every step takes all of them",
                self.batch, extent.rows
            ));
        }
        notes
    }

    /// Steps, learning rates and micro-batches of `stage` over `rows` rows.
    pub fn extent(
        &self,
        stage: &'static str,
        rows: usize,
        model: &ModelConfig,
        recompute: bool,
        device: &Device,
    ) -> Result<Extent> {
        if self.batch == 0 {
            return Err(Error::EmptyBatch { stage });
        }
        let steps_per_epoch = rows.div_ceil(self.batch) as u64;
        let steps = match self.steps {
            0 => steps_per_epoch * self.epochs as u64,
            steps => steps,
        };
        let micro_batch_tokens = match self.micro_batch_tokens {
            0 => micro_batch_tokens(model, recompute, device),
            tokens => tokens,
        };
        Ok(Extent {
            rows,
            rows_per_step: self.batch.min(rows),
            steps_per_epoch,
            steps,
            schedule: Schedule {
                kind: self.schedule,
                warmup_steps: self.warmup,
                total_steps: steps,
            },
            micro_batch_tokens,
        })
    }

    /// An optimizer that has taken no step.
    pub fn optimizer(&self, session: &Session) -> AdamW {
        session.optimizer(AdamWConfig {
            weight_decay: self.weight_decay,
            ..AdamWConfig::default()
        })
    }

    /// The norm that gradients are scaled down to, if they are.
    pub fn clip(&self) -> Option<f64> {
        (self.max_grad_norm > 0.0).then_some(self.max_grad_norm)
    }

    /// Whether a checkpoint is due after step `done` of `steps`: none is after the last, which publishes the model.
    pub fn saves_after(&self, done: u64, steps: u64) -> bool {
        done < steps && self.save_every > 0 && done.is_multiple_of(self.save_every)
    }

    /// How many checkpoints [`Training::saves_after`] asks for in `steps`.
    pub fn saves(&self, steps: u64) -> u64 {
        let before_the_last = steps.saturating_sub(1);
        before_the_last.checked_div(self.save_every).unwrap_or(0)
    }

    /// Whether an evaluation is due after step `done` of `steps`: always after the last.
    pub fn evaluates_after(&self, done: u64, steps: u64) -> bool {
        done == steps || self.eval_every > 0 && done.is_multiple_of(self.eval_every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// By hand: ten rows by four are three steps a pass, the last of them of two rows.
    #[test]
    fn training_lasts_as_many_passes_as_asked_for_unless_steps_are_given() {
        let model = ModelConfig::from_json(json!({
            "model_type": "gpt2", "vocab_size": 8, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1
        }))
        .unwrap();
        let training = Training {
            epochs: 2,
            batch: 4,
            micro_batch_tokens: 99,
            max_grad_norm: 0.0,
            ..Training::default()
        };
        let extent = training
            .extent("sft", 10, &model, false, &Device::Cpu)
            .unwrap();
        assert_eq!((extent.steps_per_epoch, extent.steps), (3, 6));
        assert_eq!(
            (extent.tokens_per_step(100), extent.tokens_of_run(100)),
            (40.0, 200)
        );
        assert!(training.notes("sft", &extent).is_empty());
        assert_eq!((extent.micro_batch_tokens, training.clip()), (99, None));
        let set = Training {
            steps: 5,
            ..training.clone()
        };
        let set = set.extent("sft", 10, &model, false, &Device::Cpu).unwrap();
        // A whole pass, and two steps of four rows.
        assert_eq!((set.steps, set.tokens_of_run(100)), (5, 180));
        let large = Training {
            batch: 32,
            ..training.clone()
        };
        let extent = large
            .extent("sft", 30, &model, false, &Device::Cpu)
            .unwrap();
        assert_eq!((extent.rows_per_step, extent.tokens_of_run(300)), (30, 600));
        let said = large.notes("sft", &extent);
        assert_eq!(
            said,
            ["sft.batch is 32, more than the rows there are (30): every step takes all of them"]
        );
        let nothing = Training {
            batch: 0,
            ..training
        };
        assert_eq!(
            nothing
                .extent("sft", 10, &model, false, &Device::Cpu)
                .unwrap_err()
                .to_string(),
            "sft.batch is 0: a step needs at least one row"
        );
    }

    /// By hand, over six steps.
    #[test]
    fn checkpoints_and_evaluations_come_when_they_are_due() {
        let training = Training {
            eval_every: 4,
            save_every: 3,
            ..Training::default()
        };
        let due = |due: &dyn Fn(u64) -> bool| (1..=6).filter(|&done| due(done)).collect::<Vec<_>>();
        assert_eq!(due(&|done| training.saves_after(done, 6)), [3]);
        assert_eq!([6, 7, 0].map(|steps| training.saves(steps)), [1, 2, 0]);
        assert_eq!(due(&|done| training.evaluates_after(done, 6)), [4, 6]);
        let never = Training {
            save_every: 0,
            ..Training::default()
        };
        assert_eq!(due(&|done| never.saves_after(done, 6)), [0u64; 0]);
        assert_eq!(never.saves(6), 0);
        assert_eq!(due(&|done| never.evaluates_after(done, 6)), [6]);
    }
}
