//! What a checkpoint holds, and how a run resumes from it.

use anyhow::{Context, Result};
use rlhf_train::{Checkpoint, RunDir};
use serde_json::json;

use crate::policy_optimization::{BestPolicy, PolicyOptimization};

impl PolicyOptimization {
    /// Everything that a step changes. Prompts, rollouts and minibatches follow from seed and step.
    pub(crate) fn checkpoint(&self, step: u64) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint {
            step,
            tensors: Default::default(),
            state: json!({ "kl_coef": self.kl.coef }),
        };
        if let Some(best) = &self.best {
            checkpoint.state["best"] = json!({ "step": best.step, "score": best.score });
            checkpoint.insert_group("best", best.params.clone());
        }
        self.policy.save("policy", &mut checkpoint)?;
        if let Some(critic) = &self.critic {
            critic.save(&mut checkpoint)?;
        }
        Ok(checkpoint)
    }

    /// Goes back to the latest checkpoint if the run resumes; returns the steps already made.
    pub(crate) fn resume(&mut self, dir: &RunDir) -> Result<u64> {
        let Some(checkpoint) = dir.resume()? else {
            return Ok(0);
        };
        self.policy.restore("policy", &checkpoint)?;
        if let Some(critic) = &mut self.critic {
            critic.restore(&checkpoint)?;
        }
        self.kl.coef = checkpoint.state["kl_coef"]
            .as_f64()
            .context("the checkpoint's state.json lacks the number kl_coef")?;
        let best = &checkpoint.state["best"];
        if let (Some(step), Some(score)) = (best["step"].as_u64(), best["score"].as_f64()) {
            self.best = Some(BestPolicy {
                step,
                score,
                params: checkpoint.group("best"),
            });
        }
        tracing::info!("resuming after step {}", checkpoint.step);
        Ok(checkpoint.step)
    }
}
