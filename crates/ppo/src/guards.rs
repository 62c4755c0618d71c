//! Refusals: where the numbers would mean nothing, training stops and names the cause.

use std::collections::VecDeque;
use std::io::Write;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::DType;
use rlhf_lm::Gradients;

use crate::loss::UpdateStats;
use crate::roles::Critic;
use crate::train::Ppo;
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

/// Advantages and errors of the critic below this leave nothing to learn, as when a rule scores every response alike: then a
/// gradient of zero is right, and says nothing about the operations on its way.
const SIGNAL: f64 = 1e-6;

/// Whose gradients have been found to reach every parameter.
#[derive(Default)]
pub(crate) struct Guarded {
    policy: bool,
    critic: bool,
}

/// So many skipped updates in a row stop the run.
const PATIENCE: usize = 3;

impl Ppo<'_> {
    /// Writes the episodes of an update that cannot be made, because a number is not finite, after those that the step has skipped
    /// before; the third in a row stops the run.
    pub(crate) fn skip(
        &mut self,
        (step, before): (u64, usize),
        t: &Trajectory,
        episodes: &[usize],
    ) -> Result<()> {
        fs_err::create_dir_all(&self.skipped)?;
        let path = self.skipped.join(format!("step-{:06}.jsonl", step + 1));
        let mut lines = String::new();
        for &i in episodes {
            lines.push_str(&self.sample(step + 1, t, i)?.to_string());
            lines.push('\n');
        }
        // What a run that was resumed from before this step had written does not stay.
        fs_err::OpenOptions::new()
            .create(true)
            .write(true)
            .append(before > 0)
            .truncate(before == 0)
            .open(&path)?
            .write_all(lines.as_bytes())?;
        self.skipped_in_a_row += 1;
        tracing::warn!(
            "PPO step {}: an update was skipped, for a loss, a gradient or a log-probability is not finite; its episodes are in {}",
            step + 1,
            path.display()
        );
        ensure!(
            self.skipped_in_a_row < PATIENCE,
            "PPO step {}: {PATIENCE} updates in a row were not finite, so training has diverged. Their episodes are in {}; the last \
             checkpoint is from before and sound: lower --lr or look at the reward, then continue with --resume",
            step + 1,
            self.skipped.display()
        );
        Ok(())
    }

    /// Stops before a checkpoint would keep a policy whose log-probabilities are no numbers any more: resuming would only meet it again.
    pub(crate) fn refuse_to_keep_what_has_diverged(&self, done: u64, t: &Trajectory) -> Result<()> {
        let probe = &t.episodes[..1];
        let logprobs = self.logprobs(&self.policy.view, &t.prompts, probe)?;
        if logprobs.iter().flatten().all(|x| x.is_finite()) {
            Ok(())
        } else {
            Err(has_diverged(done, "a log-probability is not finite"))
        }
    }

    /// Stops where finite numbers would mean nothing all the same, and says why.
    pub(crate) fn check_update(
        &mut self,
        (step, done): (u64, usize),
        stats: &UpdateStats,
        (trajectory, minibatch): (&Trajectory, &[usize]),
        (policy, critic): (&Gradients, &Gradients),
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
        let told = |difference: &dyn Fn(usize, usize) -> f64| {
            minibatch.iter().any(|&i| {
                (0..trajectory.advantages[i].len()).any(|t| difference(i, t).abs() > SIGNAL)
            })
        };
        let critic_errs =
            told(&|i, t| trajectory.returns[i][t] - f64::from(trajectory.values[i][t]));
        let shared = matches!(self.critic, Critic::Shared { .. });
        if !self.guarded.policy
            && told(&|i, t| trajectory.advantages[i][t])
            && (critic_errs || !shared)
        {
            policy.check_all(&self.policy.params).context("policy")?;
            self.guarded.policy = true;
        }
        // Under a head of zeros a trunk has no gradient either, until the head has moved.
        if !self.guarded.critic && critic_errs && self.critic_head_has_moved()? {
            if let Critic::Separate(own) = &self.critic {
                critic.check_all(&own.params).context("critic")?;
            }
            self.guarded.critic = true;
        }
        Ok(())
    }

    /// Whether values can depend on more than the head. Reads from the device by itself: a step waits twice until the guard has
    /// passed.
    fn critic_head_has_moved(&self) -> Result<bool> {
        let params = match &self.critic {
            Critic::Separate(own) => &own.params,
            Critic::Shared { .. } => &self.policy.params,
        };
        let Some(head) = params.get("score.weight") else {
            return Ok(true);
        };
        Ok(rlhf_ops::read_to_host(&head.abs()?.max_all()?)?[0] > 0.0)
    }

    /// At the start policy and reference are the same weights, so their log-probabilities must be the same.
    pub(crate) fn refuse_a_reference_that_differs(&self, trajectory: &Trajectory) -> Result<()> {
        let gaps = trajectory
            .logprobs
            .iter()
            .flatten()
            .zip(trajectory.ref_logprobs.iter().flatten());
        let worst = gaps.map(|(p, r)| (p - r).abs()).fold(0.0, f32::max);
        ensure!(
            worst < 1e-3,
            "policy and reference start from the same weights, yet a log-probability differs by {worst}: \
             the KL penalty would be wrong from the first step"
        );
        Ok(())
    }
}

/// What a sampler that finds no number in the policy's logits means after `done` steps: before the first, that the model was broken all
/// along, and later, that training has diverged.
pub(crate) fn blame_training(done: u64, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(rlhf_lm::Error::NotSampled(found)) if done > 0 => has_diverged(done, found),
        _ => error,
    }
}

fn has_diverged(done: u64, found: &str) -> anyhow::Error {
    anyhow!(
        "after PPO step {done} the policy's logits are not finite ({found}): training has diverged. The last checkpoint is from before \
         and sound: lower --lr, raise ppo.kl_coef or look at the reward, then continue with --resume"
    )
}

/// Watches for collapse: responses that shrink, or no longer end.
#[derive(Default)]
pub(crate) struct Health {
    first: Vec<[f64; 2]>,
    latest: VecDeque<[f64; 2]>,
    warned: [bool; 2],
}

impl Health {
    /// Steps that are averaged, at the start of the run and now.
    const WINDOW: usize = 10;

    /// What there is to warn about after a step, once each: a mean over the latest steps below half of that over the first.
    pub(crate) fn watch(&mut self, length: f64, eos_fraction: f64) -> Vec<String> {
        let step = [length, eos_fraction];
        if self.first.len() < Self::WINDOW {
            self.first.push(step);
            return Vec::new();
        }
        self.latest.push_back(step);
        if self.latest.len() > Self::WINDOW {
            self.latest.pop_front();
        }
        let mut warnings = Vec::new();
        if self.latest.len() == Self::WINDOW {
            for (i, what) in [
                "the mean response length",
                "the share of responses that end",
            ]
            .into_iter()
            .enumerate()
            {
                let mean = |steps: &mut dyn Iterator<Item = &[f64; 2]>| {
                    steps.map(|s| s[i]).sum::<f64>() / Self::WINDOW as f64
                };
                let (was, is) = (mean(&mut self.first.iter()), mean(&mut self.latest.iter()));
                if !self.warned[i] && is < 0.5 * was {
                    self.warned[i] = true;
                    warnings.push(format!(
                        "{what} has fallen from {was:.2} to {is:.2}: the policy may be exploiting the reward; look at samples.jsonl, \
                         raise ppo.kl_coef, or see ppo.missing_eos"
                    ));
                }
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_to_less_than_half_is_told_once_and_noise_is_not() {
        let mut health = Health::default();
        let mut told = Vec::new();
        for step in 0..60 {
            let noise = f64::from(step % 3);
            let length = if step < 30 { 20.0 } else { 8.0 } + noise;
            told.extend(health.watch(length, 0.9 - 0.01 * noise));
        }
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains("length") && told[0].contains("from 20.9"),
            "{told:?}"
        );
    }
}
