//! The frontier of score against KL, of which a run under a KL budget publishes the best point.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Tensor;
use rlhf_rollout::Evaluation;

use crate::train::PolicyOptimization;

/// The policy with the highest held-out score within the KL budget so far.
pub(crate) struct BestPolicy {
    pub(crate) step: u64,
    pub(crate) score: f64,
    pub(crate) params: BTreeMap<String, Tensor>,
}

impl PolicyOptimization {
    /// The policy as it starts: no KL, and the score that others must beat.
    pub(crate) fn start_frontier(&mut self) -> Result<()> {
        let evaluation = self.evaluate()?;
        self.keep_if_best(0, &evaluation)
    }

    /// Keeps the policy if it has the highest score so far within the KL budget, if there is one.
    pub(crate) fn keep_if_best(&mut self, step: u64, evaluation: &Evaluation) -> Result<()> {
        let budget = self.config.max_kl;
        let within = budget.is_some_and(|budget| evaluation.kl <= budget);
        let best = self.best.as_ref();
        let better = best.is_none_or(|best| evaluation.score > best.score);
        if within && better {
            let copies = self.policy.params.trained().into_iter();
            self.best = Some(BestPolicy {
                step,
                score: evaluation.score,
                params: copies
                    .map(|(name, tensor)| Ok((name, tensor.copy()?)))
                    .collect::<Result<_>>()?,
            });
        }
        Ok(())
    }
}
