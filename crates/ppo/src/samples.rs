//! Rollouts as people read them: `samples.jsonl`, and the episodes of skipped updates.

use anyhow::Result;
use rlhf_train::RunDir;
use serde_json::{Value, json};

use crate::loss::is_clipped;
use crate::policy_optimization::PolicyOptimization;
use crate::trajectory::Trajectory;

impl PolicyOptimization {
    /// The first few episodes of a step, whole, for `samples.jsonl`.
    ///
    /// `ratios` compare the policy that the step's updates left with the one that sampled; `clipped` tokens are those the
    /// clip has stopped moving.
    pub(crate) fn log_samples(
        &self,
        step: u64,
        t: &Trajectory,
        beta: f64,
        dir: &RunDir,
    ) -> Result<()> {
        let config = &self.config;
        let shown = &t.episodes[..config.log_samples.min(t.episodes.len())];
        let updated = self.logprobs(&self.policy.view, &t.prompts, shown)?;
        for i in 0..shown.len() {
            let ratios: Vec<f64> = updated[i]
                .iter()
                .zip(&t.logprobs[i])
                .map(|(new, old)| (f64::from(*new) - f64::from(*old)).exp())
                .collect();
            let clipped: Vec<bool> = ratios
                .iter()
                .zip(&t.advantages[i])
                .map(|(ratio, advantage)| is_clipped(*ratio, *advantage, config.clip))
                .collect();
            let mut sample = self.sample(step, t, i)?;
            sample["kl_coef"] = json!(beta);
            sample["ratios"] = json!(ratios);
            sample["clipped"] = json!(clipped);
            dir.append_sample(&sample)?;
        }
        Ok(())
    }

    /// One episode of a rollout, whole; values and returns only with a critic.
    pub(crate) fn sample(&self, step: u64, t: &Trajectory, i: usize) -> Result<Value> {
        let tokenizer = &self.language_model.tokenizer;
        let episode = &t.episodes[i];
        let prompt = &t.prompts[episode.prompt];
        let response = &episode.response;
        let mut texts = Vec::with_capacity(response.len());
        for i in 0..response.len() {
            let before = [&prompt[..], &response[..i]].concat();
            texts.push(tokenizer.spell_out(&before, &response[i..=i])?);
        }
        let mut sample = json!({
            "step": step,
            "kind": "rollout",
            "prompt": tokenizer.decode_response(&[], prompt)?,
            "response": tokenizer.decode_response(prompt, response)?,
            "finished": episode.finished,
            "score": t.scores[i],
            "tokens": episode.response,
            "texts": texts,
            "logprobs": t.logprobs[i],
            "ref_logprobs": t.ref_logprobs[i],
        });
        if let Some(critic) = &t.critic {
            sample["values"] = json!(critic.values[i]);
        }
        sample["rewards"] = json!(t.rewards[i]);
        sample["advantages"] = json!(t.advantages[i]);
        if let Some(critic) = &t.critic {
            sample["returns"] = json!(critic.returns[i]);
        }
        Ok(sample)
    }
}
