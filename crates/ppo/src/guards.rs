//! Guards: where the numbers of an update are not finite or mean nothing, it is skipped or training stops and names the cause.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::DType;
use rlhf_lm::{Gradients, WeightFormat};

use crate::loss::UpdateStats;
use crate::policy_optimization::PolicyOptimization;
use crate::trajectory::Trajectory;

/// Largest approximate KL per token that rounding may cause between two forward passes of the same weights, packed in another way.
///
/// bf16 keeps 8 bits, so a logit of 20 moves by up to 0.06, and a log-probability with it; f16 keeps 11. A forgotten temperature or a
/// shifted token costs more than a tenth of a nat.
fn ratio_tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1e-2,
        DType::F16 => 1e-3,
        _ => 1e-5,
    }
}

/// Smallest advantage, and smallest error of the critic, that must give a gradient. Below it there is nothing to learn, as when a rule
/// scores every response alike: a gradient of zero is then right, and says nothing about the operations on its way.
pub(crate) const SIGNAL: f64 = 1e-6;

/// Skipped updates in a row that stop the run.
const MAX_SKIPPED_IN_A_ROW: usize = 3;

impl PolicyOptimization {
    /// Skips an update in which a number is not finite: appends its episodes to those that the step has skipped before. Errors at the
    /// third in a row.
    pub(crate) fn skip(
        &mut self,
        (step, before): (u64, usize),
        t: &Trajectory,
        episodes: &[usize],
    ) -> Result<()> {
        let folder = self.skipped.clone();
        let folder = folder.context("an update is not finite, and there is no run directory")?;
        let path = folder.join(format!("step-{:06}.jsonl", step + 1));
        if self.comm.leads() {
            self.keep_skipped(&path, (step, before), t, episodes)?;
        }
        self.skipped_in_a_row += 1;
        tracing::warn!(
            "PPO step {}: an update was skipped, for a loss, a gradient or a log-probability is not finite; its episodes are in {}",
            step + 1,
            path.display()
        );
        ensure!(
            self.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW,
            "PPO step {}: {MAX_SKIPPED_IN_A_ROW} updates in a row were not finite, so training has diverged. Their episodes are in {}; \
             the last checkpoint is from before and sound: --resume goes on from there as the run began. Where its settings are at fault, \
             start anew (--overwrite) with a lower ppo.lr or another reward",
            step + 1,
            folder.display()
        );
        Ok(())
    }

    /// Writes the episodes of a skipped update to `path`, after those of the `before` that were skipped in this step already.
    fn keep_skipped(
        &self,
        path: &Path,
        (step, before): (u64, usize),
        t: &Trajectory,
        episodes: &[usize],
    ) -> Result<()> {
        path.parent().map_or(Ok(()), fs_err::create_dir_all)?;
        let mut lines = String::new();
        for &i in episodes {
            lines.push_str(&self.sample(step + 1, t, i)?.to_string());
            lines.push('\n');
        }
        // A file of this step may be left from a run that was resumed from before it.
        fs_err::OpenOptions::new()
            .create(true)
            .write(true)
            .append(before > 0)
            .truncate(before == 0)
            .open(path)?
            .write_all(lines.as_bytes())?;
        Ok(())
    }

    /// Errors if the policy's log-probabilities are not finite; call before a checkpoint keeps it, for resuming would only find it again.
    pub(crate) fn check_before_checkpoint(&self, done: u64, t: &Trajectory) -> Result<()> {
        let probe = &t.episodes[..1];
        let logprobs = self.logprobs(&self.policy.view, &t.prompts, probe)?;
        if logprobs.iter().flatten().all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err(has_diverged(done, "a log-probability is not finite"))
        }
    }

    /// Errors where finite numbers mean nothing all the same: a ratio that is not 1 before the first of a rollout's updates (`done` is
    /// 0), or a parameter that no gradient reaches.
    pub(crate) fn check_update(
        &mut self,
        (step, done): (u64, usize),
        stats: &UpdateStats,
        (trajectory, minibatch): (&Trajectory, &[usize]),
        gradients: &Gradients,
    ) -> Result<()> {
        // Before the first optimizer step of a rollout π is still π_old, so every ratio is 1 up to rounding.
        ensure!(
            done > 0 || stats.approx_kl < ratio_tolerance(self.policy.params.dtype()),
            "PPO step {}: before its first update the policy already differs from the one that was sampled \
             (approximate KL {:.3e} nats a token, mean ratio {:.6}): the two forward passes disagree, so the policy \
             gradient would be wrong. Please report this with your configuration",
            step + 1,
            stats.approx_kl,
            stats.ratio
        );
        let advantages = |&i: &usize| trajectory.advantages[i].iter();
        let advantages_differ = minibatch
            .iter()
            .flat_map(advantages)
            .any(|advantage| advantage.abs() > SIGNAL);
        // A value head among the policy's parameters gets its gradient from the critic's errors.
        let head = self.critic.as_ref();
        let head_within = head.is_some_and(|critic| critic.shared_head().is_some());
        let head_learns = !head_within || trajectory.critic_errs(minibatch);
        if !self.checked.policy && advantages_differ && head_learns {
            let checked = gradients.check_all(&self.policy.params);
            self.checked.policy = checked.context("policy")?;
        }
        Ok(())
    }

    /// Errors if no gradient reaches a parameter of a critic with weights of its own.
    pub(crate) fn check_critic(
        &mut self,
        (trajectory, minibatch): (&Trajectory, &[usize]),
        gradients: &Gradients,
    ) -> Result<()> {
        // Under a head of zeros a trunk has no gradient either, until the head has moved.
        if let Some(critic) = &self.critic
            && !self.checked.critic
            && trajectory.critic_errs(minibatch)
            && critic.head_has_moved()?
        {
            let checked = critic.check(gradients);
            self.checked.critic = checked.context("critic")?;
        }
        Ok(())
    }

    /// Errors if policy and reference disagree at the start, where they are the same weights; of a rounded reference, if it says what is no number.
    pub(crate) fn check_reference(&self, trajectory: &Trajectory) -> Result<()> {
        let gaps = trajectory
            .logprobs
            .iter()
            .flatten()
            .zip(trajectory.ref_logprobs.iter().flatten());
        let gaps = gaps.map(|(p, r)| (p - r).abs());
        let worst = gaps.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a });
        if self.config.frozen_weights != WeightFormat::F32 {
            ensure!(
                worst.is_finite(),
                "a log-probability of the reference is no number, with its weights as ppo.frozen_weights has them"
            );
            return Ok(());
        }
        ensure!(
            worst < 1e-3,
            "policy and reference start from the same weights, yet a log-probability differs by {worst}: \
             the KL penalty would be wrong from the first step"
        );
        Ok(())
    }
}

/// Names the cause where a sampler finds no number in the policy's logits after `done` steps: before the first the model was broken
/// all along, later training has diverged.
pub(crate) fn blame_training(done: u64, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(rlhf_lm::Error::NotSampled(found)) if done > 0 => has_diverged(done, found),
        _ => error,
    }
}

fn has_diverged(done: u64, found: &str) -> anyhow::Error {
    anyhow!(
        "after PPO step {done} the policy's logits are not finite ({found}): training has diverged. The last checkpoint is from before \
         and sound: --resume goes on from there as the run began. Where its settings are at fault, start anew (--overwrite) with a lower \
         ppo.lr, a higher ppo.kl_coef or another reward"
    )
}
