use rlhf_lm::ModelConfig;

use crate::{AdamW, AdamWConfig, Error, Result, Schedule, ScheduleKind, micro_batch_tokens};

/// The settings of a stage that minimises one loss over its rows: how it walks over them, and how far a step goes.
///
/// [`recipe!`](crate::recipe!) reads them off the stage's own settings, which have the same names and their own defaults.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The stage: its section in a configuration file.
    pub stage: &'static str,
    /// What a step takes `batch` of: `row`, `prompt`.
    pub unit: &'static str,
    /// Passes over the rows.
    pub epochs: usize,
    /// Optimizer steps; 0 means as many as `epochs` gives.
    pub steps: u64,
    /// Rows per optimizer step.
    pub batch: usize,
    /// Tokens per forward and backward pass; 0 chooses by the model's size.
    pub micro_batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate moves after the warm-up.
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// A new random order every epoch, or that of the files.
    pub shuffle: bool,
    /// Evaluate every so many steps (and at the end); 0 only at the end.
    pub eval_every: u64,
    /// Save a checkpoint every so many steps; 0 only when interrupted.
    pub save_every: u64,
}

/// `recipe!("sft", "row", config)`: the [`Recipe`](crate::Recipe) in a stage's settings.
#[macro_export]
macro_rules! recipe {
    ($stage:literal, $unit:literal, $config:expr) => {
        $crate::Recipe {
            stage: $stage,
            unit: $unit,
            epochs: $config.epochs,
            steps: $config.steps,
            batch: $config.batch,
            micro_batch: $config.micro_batch,
            lr: $config.lr,
            schedule: $config.schedule,
            warmup: $config.warmup,
            weight_decay: $config.weight_decay,
            max_grad_norm: $config.max_grad_norm,
            shuffle: $config.shuffle,
            eval_every: $config.eval_every,
            save_every: $config.save_every,
        }
    };
}

/// What a [`Recipe`] comes to for a model and a number of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Optimizer steps in a pass over the rows; the last takes what is left.
    pub per_epoch: u64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// The learning rate of each.
    pub schedule: Schedule,
    /// Tokens per forward and backward pass.
    pub micro_tokens: usize,
}

impl Recipe {
    /// The course over `rows` rows.
    pub fn course(&self, rows: usize, model: &ModelConfig, recompute: bool) -> Result<Course> {
        if self.batch == 0 {
            return Err(Error::EmptyBatch {
                stage: self.stage,
                unit: self.unit,
            });
        }
        let per_epoch = rows.div_ceil(self.batch) as u64;
        let steps = if self.steps > 0 {
            self.steps
        } else {
            per_epoch * self.epochs as u64
        };
        let micro_tokens = if self.micro_batch > 0 {
            self.micro_batch
        } else {
            micro_batch_tokens(model, recompute)
        };
        Ok(Course {
            per_epoch,
            steps,
            schedule: Schedule {
                kind: self.schedule,
                warmup_steps: self.warmup,
                total_steps: steps,
            },
            micro_tokens,
        })
    }

    /// An optimizer that has taken no step.
    pub fn optimizer(&self) -> AdamW {
        AdamW::new(AdamWConfig {
            weight_decay: self.weight_decay,
            ..AdamWConfig::default()
        })
    }

    /// The norm that gradients are scaled down to, if they are.
    pub fn clip(&self) -> Option<f64> {
        (self.max_grad_norm > 0.0).then_some(self.max_grad_norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// By hand: ten rows by four are three steps a pass, the last of them of two rows.
    #[test]
    fn a_course_is_as_many_passes_as_asked_for_unless_steps_are_given() {
        let model = ModelConfig::from_json(json!({
            "model_type": "gpt2", "vocab_size": 8, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1
        }))
        .unwrap();
        let recipe = Recipe {
            stage: "sft",
            unit: "row",
            epochs: 2,
            steps: 0,
            batch: 4,
            micro_batch: 99,
            lr: 1.0,
            schedule: ScheduleKind::Constant,
            warmup: 0,
            weight_decay: 0.0,
            max_grad_norm: 0.0,
            shuffle: false,
            eval_every: 0,
            save_every: 0,
        };
        let course = recipe.course(10, &model, false).unwrap();
        assert_eq!((course.per_epoch, course.steps), (3, 6));
        assert_eq!((course.micro_tokens, recipe.clip()), (99, None));
        let set = Recipe {
            steps: 5,
            ..recipe.clone()
        };
        assert_eq!(set.course(10, &model, false).unwrap().steps, 5);
        let nothing = Recipe { batch: 0, ..recipe };
        assert_eq!(
            nothing.course(10, &model, false).unwrap_err().to_string(),
            "sft.batch is 0: a step needs at least one row"
        );
    }
}
