//! Refusals: where the numbers would mean nothing, training stops and names the cause.

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use rlhf_lm::Gradients;

use crate::loss::UpdateStats;
use crate::train::{Critic, Ppo};
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

impl Ppo<'_> {
    /// Stops where training would go on with numbers that mean nothing, and says why.
    pub(crate) fn check_update(
        &mut self,
        (step, done): (u64, usize),
        stats: &UpdateStats,
        (trajectory, minibatch): (&Trajectory, &[usize]),
        (policy, critic): (&Gradients, &Gradients),
    ) -> Result<()> {
        ensure!(
            stats.policy_loss.is_finite() && stats.ratio.is_finite(),
            "PPO step {}: the policy loss is {} and the ratio {}: training has diverged; lower --lr. The last checkpoint is untouched",
            step + 1,
            stats.policy_loss,
            stats.ratio
        );
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
