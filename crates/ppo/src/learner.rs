//! A model under training, with its optimizer.

use anyhow::Result;
use rlhf_lm::{Gradients, Params};
use rlhf_train::{AdamW, AdamWConfig, Checkpoint, Session};

/// A model under training: its weights, the model over them, a view of the same weights that records no graph, its optimizer.
pub(crate) struct Learner<M> {
    pub(crate) params: Params,
    pub(crate) model: M,
    pub(crate) view: M,
    pub(crate) adam: AdamW,
}

/// AdamW as PPO uses it: no weight decay, and a larger ε than usual.
pub(crate) fn optimizer(eps: f64, session: &Session) -> AdamW {
    session.optimizer(AdamWConfig {
        eps,
        ..AdamWConfig::default()
    })
}

impl<M> Learner<M> {
    /// One optimizer step; the norm of the gradient before it was clipped to `clip`.
    pub(crate) fn step(
        &mut self,
        gradients: &Gradients,
        lr: f64,
        clip: Option<f64>,
    ) -> Result<f64> {
        Ok(self.adam.step(&self.params, gradients, lr, clip)?)
    }

    /// Weights as the group `name` of a checkpoint, optimizer moments as `name.adam`.
    pub(crate) fn save(&self, name: &str, checkpoint: &mut Checkpoint) -> Result<()> {
        checkpoint.insert_group(name, self.params.trained());
        checkpoint.insert_group(&format!("{name}.adam"), self.adam.state()?);
        Ok(())
    }

    /// Back to what [`Learner::save`] wrote.
    pub(crate) fn restore(&mut self, name: &str, checkpoint: &Checkpoint) -> Result<()> {
        self.params.restore(&checkpoint.group(name))?;
        let moments = checkpoint.group(&format!("{name}.adam"));
        Ok(self.adam.load_state(&self.params, &moments)?)
    }
}
