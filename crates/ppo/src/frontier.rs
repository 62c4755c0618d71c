//! The frontier of score against KL, of which a run under a KL budget publishes the best point.

use anyhow::Result;
use rlhf_rollout::Evaluation;

use crate::policy_optimization::{BestPolicy, PolicyOptimization};

impl PolicyOptimization {
    /// Keeps the policy if it has the highest score so far within the KL budget, if there is one. As it starts it has no KL, and the score
    /// that others must beat.
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
