//! What the updates of a step did: sums over a minibatch, means over an epoch, means over the step.

use rlhf_train::statistics;

use crate::loss::{UpdateStats, VALUE_SUMS};

/// Sums of the policy's loss over one minibatch, read from the device at once.
///
/// In order: those of `update_sums` over its tokens, the KL penalty's sum over its tokens, those of `value_sums` over its values, and the
/// mean loss on demonstrations; each 0 where the loss has no such part, as that of a policy beside a critic with weights of its own.
pub(crate) struct MinibatchSums {
    pub(crate) read: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) slots: usize,
}

impl MinibatchSums {
    /// Sums that are added up over micro-batches; that of the demonstrations comes once, after them.
    pub(crate) const PER_MICRO_BATCH: usize = UpdateStats::LEN + 1 + VALUE_SUMS;

    pub(crate) fn is_finite(&self) -> bool {
        self.read.iter().all(|sum| sum.is_finite())
    }

    /// Means over the minibatch's tokens.
    pub(crate) fn stats(&self) -> UpdateStats {
        UpdateStats::from_sums(&self.read, self.tokens)
    }
}

/// Those of `value_sums` over the values of one minibatch, of a critic with weights of its own.
pub(crate) struct CriticSums {
    pub(crate) read: Vec<f32>,
    pub(crate) slots: usize,
}

impl CriticSums {
    pub(crate) fn is_finite(&self) -> bool {
        self.read.iter().all(|sum| sum.is_finite())
    }
}

/// What the updates of one step did: per epoch, and the rest averaged over the optimizer steps.
#[derive(Default)]
pub(crate) struct Updates {
    pub(crate) per_epoch: Vec<UpdateStats>,
    /// Mean ratio ρ over the tokens of each minibatch.
    pub(crate) ratios: Vec<f64>,
    pub(crate) kl_loss: f64,
    pub(crate) value_loss: f64,
    pub(crate) value_clip_fraction: f64,
    pub(crate) policy_grad_norm: f64,
    pub(crate) critic_grad_norm: f64,
    pub(crate) ptx_loss: f64,
    /// Of the policy.
    pub(crate) optimizer_steps: usize,
    /// Of a critic with weights of its own: as many, but for those that were skipped.
    critic_steps: usize,
    pub(crate) stopped_early: bool,
    pub(crate) skipped: usize,
    /// Sums over the tokens of the epoch so far, and the number of those tokens.
    epoch: ([f32; UpdateStats::LEN], usize),
}

impl Updates {
    /// Counts an optimizer step of the policy, whose gradient had this norm.
    pub(crate) fn add(&mut self, sums: &MinibatchSums, norm: f64) {
        let (epoch_sums, epoch_tokens) = &mut self.epoch;
        epoch_sums
            .iter_mut()
            .zip(&sums.read)
            .for_each(|(total, sum)| *total += sum);
        *epoch_tokens += sums.tokens;
        let [kl, value, clipped, ptx] =
            [0, 1, 2, 3].map(|i| f64::from(sums.read[UpdateStats::LEN + i]));
        self.ratios.push(sums.stats().ratio);
        self.kl_loss += kl / sums.tokens as f64;
        self.value_loss += value / sums.slots as f64;
        self.value_clip_fraction += clipped / sums.slots as f64;
        self.ptx_loss += ptx;
        self.policy_grad_norm += norm;
        self.optimizer_steps += 1;
    }

    /// Counts an optimizer step of a critic with weights of its own.
    pub(crate) fn add_critic(&mut self, sums: &CriticSums, norm: f64) {
        let [value, clipped] = [0, 1].map(|i| f64::from(sums.read[i]));
        self.value_loss += value / sums.slots as f64;
        self.value_clip_fraction += clipped / sums.slots as f64;
        self.critic_grad_norm += norm;
        self.critic_steps += 1;
    }

    /// Closes an epoch; one without an optimizer step leaves no trace.
    pub(crate) fn end_epoch(&mut self) {
        let (sums, tokens) = std::mem::take(&mut self.epoch);
        if tokens > 0 {
            self.per_epoch.push(UpdateStats::from_sums(&sums, tokens));
        }
    }

    /// Turns sums into means over the optimizer steps. An epoch that was stopped counts with what was done of it.
    pub(crate) fn averaged(mut self) -> Self {
        self.end_epoch();
        let steps = self.optimizer_steps.max(1) as f64;
        let critic_steps = match self.critic_steps {
            0 => steps,
            own => own as f64,
        };
        for (total, steps) in [
            (&mut self.kl_loss, steps),
            (&mut self.policy_grad_norm, steps),
            (&mut self.ptx_loss, steps),
            (&mut self.value_loss, critic_steps),
            (&mut self.value_clip_fraction, critic_steps),
            (&mut self.critic_grad_norm, critic_steps),
        ] {
            *total /= steps;
        }
        self
    }

    /// Mean over the minibatches' mean ratios, and their unbiased variance, which a single one does not have (NaN). TRL's
    /// `val/ratio` and `val/ratio_var`.
    pub(crate) fn ratio(&self) -> (f64, f64) {
        let mean = statistics::mean(&self.ratios);
        let squares = self.ratios.iter().map(|ratio| (ratio - mean).powi(2));
        (
            mean,
            squares.sum::<f64>() / (self.ratios.len() as f64 - 1.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of a minibatch of `tokens` tokens whose mean ratio is `ratio`.
    fn minibatch(ratio: f32, tokens: usize) -> MinibatchSums {
        let mut read = vec![0.0; MinibatchSums::PER_MICRO_BATCH + 1];
        read[2] = ratio * tokens as f32;
        MinibatchSums {
            read,
            tokens,
            slots: tokens,
        }
    }

    /// By hand: means of 1, 1.5 and 2 over minibatches of different sizes have mean 1.5 and unbiased variance ¼; over the tokens of
    /// the first epoch the ratio is (1·3 + 1.5·1) / 4.
    #[test]
    fn the_ratio_is_averaged_over_minibatches_and_its_variance_is_theirs() {
        let mut updates = Updates::default();
        updates.add(&minibatch(1.0, 3), 0.0);
        updates.add(&minibatch(1.5, 1), 0.0);
        updates.end_epoch();
        updates.add(&minibatch(2.0, 2), 0.0);
        // Stopped before the second epoch was over: what was done counts.
        let updates = updates.averaged();
        assert_eq!(updates.ratio(), (1.5, 0.25));
        let epochs: Vec<f64> = updates.per_epoch.iter().map(|e| e.ratio).collect();
        assert_eq!(epochs, [1.125, 2.0]);
    }

    /// By hand: of two minibatches the critic's second step was skipped.
    #[test]
    fn the_critics_numbers_are_means_over_its_own_steps() {
        let mut updates = Updates::default();
        updates.add(&minibatch(1.0, 3), 2.0);
        let sums = CriticSums {
            read: vec![6.0, 1.0],
            slots: 4,
        };
        updates.add_critic(&sums, 5.0);
        updates.add(&minibatch(1.0, 3), 4.0);
        let updates = updates.averaged();
        assert_eq!(
            (updates.value_loss, updates.value_clip_fraction),
            (1.5, 0.25)
        );
        assert_eq!(
            (updates.policy_grad_norm, updates.critic_grad_norm),
            (3.0, 5.0)
        );
    }

    #[test]
    fn one_minibatch_has_no_variance() {
        let mut updates = Updates::default();
        updates.add(&minibatch(1.0, 3), 0.0);
        assert!(updates.averaged().ratio().1.is_nan());
    }
}
