//! The policy as it is sampled from, where that is not the policy itself: with weights in fewer bits, or with guesses.
//!
//! What is sampled then comes from a distribution beside π, and its log-probabilities are taken from π all the same, by the training forward.
//! How far the two are apart is measured at every step.

use anyhow::{Context, Result, ensure};
use rlhf_lm::{CausalLm, Params, WeightFormat};
use rlhf_rollout::Drawing;
use serde_json::{Value, json};

use crate::config::Config;
use crate::policy_optimization::PolicyOptimization;

/// Weights that were sampled with and stay as they are: those under an adapter.
pub(crate) type KeptWeights = Option<Params>;

impl PolicyOptimization {
    /// The policy with its weights as `ppo.rollout_weights` has them; `None` where they are its own.
    pub(crate) fn rounded_policy(&mut self) -> Result<Option<CausalLm>> {
        let format = self.config.rollout_weights;
        if format == WeightFormat::F32 {
            return Ok(None);
        }
        let (config, policy) = (&self.language_model.config, &self.policy.params);
        let rounded = policy.rounded(config, format, self.kept_weights.as_ref());
        let rounded = rounded.context("ppo.rollout_weights")?;
        let model = CausalLm::new(config, &rounded)?;
        // Under an adapter nothing of it changes; else it is made anew, and makes room for the update.
        self.kept_weights = policy.adapter().is_some().then_some(rounded);
        Ok(Some(model))
    }
}

impl Config {
    /// Errors where the policy cannot be sampled from as set.
    pub(crate) fn validate_sampler(&self, model: &rlhf_lm::ModelConfig) -> Result<()> {
        ensure!(
            self.rollout_lookup == 0 || model.state_width() == 0,
            "ppo.rollout_lookup is {}, and {} has recurrent layers, which cannot take back a guess: leave it at 0",
            self.rollout_lookup,
            model.model_type()
        );
        Ok(())
    }

    /// What a step's record says of how the responses were sampled: `drawings` are the sampler's numbers, `logprobs` the policy's.
    pub(crate) fn sampler_metrics(
        &self,
        drawings: &[Drawing],
        logprobs: &[Vec<f32>],
    ) -> Vec<(&'static str, Value)> {
        let mut metrics = Vec::new();
        if self.rollout_weights != WeightFormat::F32 {
            let (mean, most) = logprob_gap(drawings, logprobs);
            metrics.push(("rollout/logprob_gap", json!(mean)));
            metrics.push(("rollout/logprob_gap_max", json!(most)));
        }
        if self.rollout_lookup > 0 {
            let sum = |count: fn(&Drawing) -> usize| drawings.iter().map(count).sum::<usize>();
            let (guesses, hits) = (sum(|d| d.guesses), sum(|d| d.hits));
            metrics.push(("rollout/guesses", json!(guesses)));
            metrics.push((
                "rollout/guesses_hit",
                json!(hits as f64 / guesses.max(1) as f64),
            ));
        }
        metrics
    }
}

/// Mean and maximum of `|log q(y_t) − log π(y_t)|` over all tokens, q being what was sampled from, in nats.
fn logprob_gap(drawings: &[Drawing], logprobs: &[Vec<f32>]) -> (f64, f64) {
    let both = drawings.iter().zip(logprobs);
    let gaps = both.flat_map(|(drawing, ours)| drawing.logprobs.iter().zip(ours));
    let (mut sum, mut most, mut tokens) = (0.0, 0f64, 0usize);
    for (theirs, ours) in gaps {
        let gap = (f64::from(*theirs) - f64::from(*ours)).abs();
        sum += gap;
        // Unlike a maximum, this keeps NaN.
        most = if most.is_nan() || most >= gap {
            most
        } else {
            gap
        };
        tokens += 1;
    }
    (sum / tokens.max(1) as f64, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand.
    #[test]
    fn the_gap_is_over_all_tokens() {
        let drawing = |logprobs: &[f32]| Drawing {
            logprobs: logprobs.to_vec(),
            guesses: 0,
            hits: 0,
        };
        let drawings = [drawing(&[-1.0, -2.0]), drawing(&[-0.5])];
        let ours = [vec![-1.5, -2.0], vec![-0.25]];
        assert_eq!(logprob_gap(&drawings, &ours), (0.25, 0.5));
        assert_eq!(logprob_gap(&[], &[]), (0.0, 0.0));
        let broken = [vec![f32::NAN, -2.0], vec![-0.25]];
        assert!(logprob_gap(&drawings, &broken).1.is_nan());
    }
}
