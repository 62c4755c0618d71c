//! What a checkpoint holds, and how a run goes on from it.

use anyhow::{Context, Result};
use rlhf_train::Checkpoint;
use serde_json::json;

use crate::frontier::Best;
use crate::roles::Critic;
use crate::train::Ppo;

impl Ppo<'_> {
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
        checkpoint.insert_group("policy", self.policy.params.trained());
        checkpoint.insert_group("policy.adam", self.policy.adam.state()?);
        if let Critic::Separate(critic) = &self.critic {
            checkpoint.insert_group("critic", critic.params.trained());
            checkpoint.insert_group("critic.adam", critic.adam.state()?);
        }
        Ok(checkpoint)
    }

    /// Goes back to the latest checkpoint if the session resumes; returns the steps already made.
    pub(crate) fn resume(&mut self, dir: &rlhf_train::RunDir) -> Result<u64> {
        let Some(checkpoint) = dir.resume()? else {
            return Ok(0);
        };
        self.policy.params.restore(&checkpoint.group("policy"))?;
        self.policy
            .adam
            .load_state(&self.policy.params, &checkpoint.group("policy.adam"))?;
        if let Critic::Separate(critic) = &mut self.critic {
            critic.params.restore(&checkpoint.group("critic"))?;
            critic
                .adam
                .load_state(&critic.params, &checkpoint.group("critic.adam"))?;
        }
        self.kl.coef = checkpoint.state["kl_coef"]
            .as_f64()
            .context("the checkpoint's state.json lacks the number kl_coef")?;
        let best = &checkpoint.state["best"];
        if let (Some(step), Some(score)) = (best["step"].as_u64(), best["score"].as_f64()) {
            self.best = Some(Best {
                step,
                score,
                params: checkpoint.group("best"),
            });
        }
        tracing::info!("resuming after step {}", checkpoint.step);
        Ok(checkpoint.step)
    }
}
