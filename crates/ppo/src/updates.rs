//! What the updates of a step did: sums over a minibatch, means over an epoch, means over the step.

use crate::loss::{UpdateStats, VALUE_SUMS};

/// Sums over one minibatch: those of `update_sums` over its tokens, those of `value_sums` over its values, and the mean loss on
/// demonstrations where there are any.
pub(crate) struct Sums {
    /// As they came from the device, at once.
    pub(crate) read: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) slots: usize,
}

impl Sums {
    pub(crate) fn is_finite(&self) -> bool {
        self.read.iter().all(|sum| sum.is_finite())
    }

    /// Means over the minibatch's tokens.
    pub(crate) fn stats(&self) -> UpdateStats {
        UpdateStats::from_sums(&self.read, self.tokens)
    }
}

/// What the updates of one step did: per epoch, and the rest averaged over all of them.
#[derive(Default)]
pub(crate) struct Updates {
    pub(crate) per_epoch: Vec<UpdateStats>,
    pub(crate) value_loss: f64,
    pub(crate) value_clip_fraction: f64,
    pub(crate) policy_grad_norm: f64,
    pub(crate) critic_grad_norm: f64,
    pub(crate) ptx_loss: f64,
    pub(crate) optimizer_steps: usize,
    pub(crate) stopped_early: bool,
    pub(crate) skipped: usize,
    /// Sums over the tokens of the epoch so far, and how many those are.
    epoch: ([f32; UpdateStats::LEN], usize),
}

impl Updates {
    /// Counts an optimizer step, whose gradients had these norms.
    pub(crate) fn add(&mut self, sums: &Sums, (policy_norm, critic_norm): (f64, f64)) {
        let (epoch_sums, epoch_tokens) = &mut self.epoch;
        epoch_sums
            .iter_mut()
            .zip(&sums.read)
            .for_each(|(total, sum)| *total += sum);
        *epoch_tokens += sums.tokens;
        let [loss, clipped] = [0, 1].map(|i| f64::from(sums.read[UpdateStats::LEN + i]));
        self.value_loss += loss / sums.slots as f64;
        self.value_clip_fraction += clipped / sums.slots as f64;
        self.ptx_loss += sums
            .read
            .get(UpdateStats::LEN + VALUE_SUMS)
            .map_or(0.0, |x| f64::from(*x));
        self.policy_grad_norm += policy_norm;
        self.critic_grad_norm += critic_norm;
        self.optimizer_steps += 1;
    }

    /// Closes an epoch.
    pub(crate) fn end_epoch(&mut self) {
        let (sums, tokens) = std::mem::take(&mut self.epoch);
        if tokens > 0 {
            self.per_epoch.push(UpdateStats::from_sums(&sums, tokens));
        }
    }

    /// Turns what was added up into means over the optimizer steps.
    pub(crate) fn averaged(mut self) -> Self {
        let steps = self.optimizer_steps.max(1) as f64;
        for total in [
            &mut self.value_loss,
            &mut self.value_clip_fraction,
            &mut self.policy_grad_norm,
            &mut self.critic_grad_norm,
            &mut self.ptx_loss,
        ] {
            *total /= steps;
        }
        self
    }
}
