//! The clipped PPO objectives. Tensors in, one loss per response token out; the caller averages.
//!
//! Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), eq. 7 and 9; the clipped
//! value loss is OpenAI's (baselines, and "Fine-Tuning Language Models from Human Preferences").

use candle_core::{Result, Tensor};

/// Policy loss per token: `max(−A ρ, −A clip(ρ, 1−ε, 1+ε))` with `ρ = exp(log π − log π_old)`.
///
/// All tensors `[N]` f32 over the N response tokens; `old_logprobs` and `advantages` record no graph.
pub fn policy_loss(
    logprobs: &Tensor,
    old_logprobs: &Tensor,
    advantages: &Tensor,
    clip: f64,
) -> Result<Tensor> {
    let ratio = (logprobs - old_logprobs)?.exp()?;
    let gain = advantages.neg()?;
    let unclipped = (&ratio * &gain)?;
    let clipped = (ratio.clamp(1.0 - clip, 1.0 + clip)? * &gain)?;
    unclipped.maximum(&clipped)
}

/// Whether the clipped term is the larger loss, `−A clip(ρ, 1−ε, 1+ε) > −A ρ`: the token's gradient is then zero.
pub fn is_clipped(ratio: f64, advantage: f64, clip: f64) -> bool {
    -advantage * ratio.clamp(1.0 - clip, 1.0 + clip) > -advantage * ratio
}

/// Value loss per token: `½ max((V − R)², (V_clip − R)²)`, `V_clip = V_old + clip(V − V_old, ±ε_v)`.
///
/// All tensors `[N]` f32; `old_values` and `returns` record no graph.
pub fn value_loss(
    values: &Tensor,
    old_values: &Tensor,
    returns: &Tensor,
    clip: f64,
) -> Result<Tensor> {
    let clipped = ((values - old_values)?.clamp(-clip, clip)? + old_values)?;
    let free = (values - returns)?.sqr()?;
    let held = (clipped - returns)?.sqr()?;
    free.maximum(&held)? * 0.5
}

/// What an update looked like, averaged over its response tokens; read from the device once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UpdateStats {
    /// `½ E[(log π − log π_old)²]`, the second-order estimate of `KL(π_old ‖ π)`, in nats per token.
    pub(crate) approx_kl: f64,
    /// Fraction of tokens whose clipped term is the larger loss.
    pub(crate) clip_fraction: f64,
    /// Mean ratio ρ.
    pub(crate) ratio: f64,
    /// Mean entropy of the policy in nats per token.
    pub(crate) entropy: f64,
    /// Mean policy loss.
    pub(crate) policy_loss: f64,
}

impl UpdateStats {
    /// Number of sums that [`update_sums`] returns.
    pub(crate) const LEN: usize = 5;

    /// From sums over `tokens` response tokens, in the order of [`update_sums`].
    pub(crate) fn from_sums(sums: &[f32], tokens: usize) -> Self {
        let mean = |i: usize| f64::from(sums[i]) / tokens as f64;
        Self {
            approx_kl: mean(0),
            clip_fraction: mean(1),
            ratio: mean(2),
            entropy: mean(3),
            policy_loss: mean(4),
        }
    }
}

/// Sums over tokens that [`UpdateStats`] averages: `[5]` f32, on the device, without a graph.
pub(crate) fn update_sums(
    logprobs: &Tensor,
    old_logprobs: &Tensor,
    advantages: &Tensor,
    entropy: &Tensor,
    losses: &Tensor,
) -> Result<Tensor> {
    let (logprobs, losses) = (logprobs.detach(), losses.detach());
    let log_ratio = (&logprobs - old_logprobs)?;
    let ratio = log_ratio.exp()?;
    let unclipped = (&ratio * advantages.neg()?)?;
    let clipped = losses.gt(&unclipped)?.to_dtype(candle_core::DType::F32)?;
    Tensor::stack(
        &[
            (log_ratio.sqr()? * 0.5)?.sum_all()?,
            clipped.sum_all()?,
            ratio.sum_all()?,
            entropy.detach().sum_all()?,
            losses.sum_all()?,
        ],
        0,
    )
}

/// Number of sums that [`value_sums`] returns.
pub(crate) const VALUE_SUMS: usize = 2;

/// Over the values of a micro-batch, the sum of their losses, and the number whose clipped loss is the larger,
/// `(V_clip − R)² > (V − R)²`: `[2]` f32, on the device, without a graph. `losses` are those of [`value_loss`].
pub fn value_sums(
    values: &Tensor,
    old_values: &Tensor,
    returns: &Tensor,
    losses: &Tensor,
    clip: f64,
) -> Result<Tensor> {
    let (values, losses) = (values.detach(), losses.detach());
    let larger = losses.gt(&((&values - returns)?.sqr()? * 0.5)?)?;
    // Within the clip V_clip is V but for rounding, which must not count.
    let moved = (values - old_values)?.abs()?.gt(clip)?;
    let clipped = (larger * moved)?.to_dtype(candle_core::DType::F32)?;
    Tensor::stack(&[losses.sum_all()?, clipped.sum_all()?], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn tensor(x: &[f32]) -> Tensor {
        Tensor::new(x, &Device::Cpu).unwrap()
    }

    /// Closed form (scripts/oracle/losses.py): A=1: ρ=e → −1.2, ρ=1/e → −.367879, ρ=e^.1 → −1.105171;
    /// A=−1: ρ=e → 2.718282, ρ=1/e → .8.
    #[test]
    fn policy_loss_clips_only_the_side_that_would_gain() {
        let new = tensor(&[1.0, -1.0, 0.1, 1.0, -1.0]);
        let old = tensor(&[0.0; 5]);
        let advantages = tensor(&[1.0, 1.0, 1.0, -1.0, -1.0]);
        let got = policy_loss(&new, &old, &advantages, 0.2)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (g, w) in got
            .iter()
            .zip([-1.2, -(-1f32).exp(), -0.1f32.exp(), 1f32.exp(), 0.8])
        {
            assert!((g - w).abs() < 1e-6, "{got:?}");
        }
    }

    /// The definition: only a ratio that has left the interval on the side its advantage asks for is held.
    #[test]
    fn a_token_is_clipped_only_where_its_advantage_would_push_it_further() {
        for (ratio, advantage, held) in [
            (1.3, 1.0, true),
            (1.3, -1.0, false),
            (0.7, -1.0, true),
            (0.7, 1.0, false),
            (1.1, 1.0, false),
            (1.3, 0.0, false),
        ] {
            assert_eq!(
                is_clipped(ratio, advantage, 0.2),
                held,
                "ρ {ratio} A {advantage}"
            );
        }
    }

    /// Closed form: V=1.5, V_old=1, R=2, ε_v=.2 → ½·max(.25, .64) = .32.
    #[test]
    fn value_loss_takes_the_worse_of_free_and_clipped() {
        let got = value_loss(&tensor(&[1.5]), &tensor(&[1.0]), &tensor(&[2.0]), 0.2).unwrap();
        assert!((got.to_vec1::<f32>().unwrap()[0] - 0.32).abs() < 1e-6);
    }

    /// By hand, V_old = 1 and ε_v = .2: a move by .5 towards R = 2 is clipped to 1.2, whose loss is the larger; that of a move by .5 away
    /// from R = 0 is not, and a move by .1 is not clipped. Losses ½·.64, ½·2.25, ½·.81.
    #[test]
    fn values_whose_clipped_loss_is_the_larger_are_counted() {
        let (values, old) = (tensor(&[1.5, 1.5, 1.1]), tensor(&[1.0; 3]));
        let returns = tensor(&[2.0, 0.0, 2.0]);
        let losses = value_loss(&values, &old, &returns, 0.2).unwrap();
        let sums = value_sums(&values, &old, &returns, &losses, 0.2).unwrap();
        let [loss, clipped] = sums.to_vec1::<f32>().unwrap()[..] else {
            panic!("two sums");
        };
        assert!((loss - 1.85).abs() < 1e-6 && clipped == 1.0, "{sums}");
    }

    /// Finite differences of the scalar formulas in f64, at points away from the kinks and at ρ = 1.
    #[test]
    fn gradients_equal_finite_differences() {
        let policy = |x: f64, a: f64| {
            let rho = x.exp();
            (-a * rho).max(-a * rho.clamp(0.8, 1.2))
        };
        let value = |v: f64| {
            let clipped = 1.0 + (v - 1.0f64).clamp(-0.2, 0.2);
            0.5 * (v - 2.0).powi(2).max((clipped - 2.0f64).powi(2))
        };
        let h = 1e-5;
        for (x, a) in [
            (0.0, 1.0),
            (0.0, -2.0),
            (0.1, 1.5),
            (0.5, 1.0),
            (0.5, -1.0),
            (-0.5, 1.0),
            (-0.5, -1.0),
        ] {
            let var = Var::from_tensor(&tensor(&[x as f32])).unwrap();
            let loss = policy_loss(&var, &tensor(&[0.0]), &tensor(&[a as f32]), 0.2).unwrap();
            let grad = loss.sum_all().unwrap().backward().unwrap();
            let got = grad
                .get(&var)
                .map_or(0.0, |g| f64::from(g.to_vec1::<f32>().unwrap()[0]));
            let want = (policy(x + h, a) - policy(x - h, a)) / (2.0 * h);
            assert!(
                (got - want).abs() < 1e-4,
                "x {x} A {a}: {got} against {want}"
            );
        }
        for v in [0.9, 1.1, 1.5, 0.4, 3.5] {
            let var = Var::from_tensor(&tensor(&[v as f32])).unwrap();
            let loss = value_loss(&var, &tensor(&[1.0]), &tensor(&[2.0]), 0.2).unwrap();
            let grad = loss.sum_all().unwrap().backward().unwrap();
            let got = grad
                .get(&var)
                .map_or(0.0, |g| f64::from(g.to_vec1::<f32>().unwrap()[0]));
            let want = (value(v + h) - value(v - h)) / (2.0 * h);
            assert!((got - want).abs() < 1e-4, "V {v}: {got} against {want}");
        }
    }

    /// Token means over a minibatch, (1+2+3+4+5+7)/6, do not depend on how it is cut (scripts/oracle/losses.py).
    #[test]
    fn statistics_are_means_over_all_tokens_of_the_minibatch() {
        let rows: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0, 5.0], &[7.0]];
        let sums = |parts: &[&[&[f32]]]| -> f64 {
            let mut total = vec![0f32; UpdateStats::LEN];
            for part in parts {
                let flat: Vec<f32> = part.concat();
                let zeros = tensor(&vec![0.0; flat.len()]);
                let s =
                    update_sums(&zeros, &zeros, &zeros, &tensor(&flat), &tensor(&flat)).unwrap();
                total
                    .iter_mut()
                    .zip(s.to_vec1::<f32>().unwrap())
                    .for_each(|(t, s)| *t += s);
            }
            UpdateStats::from_sums(&total, 6).policy_loss
        };
        assert!((sums(&[&rows]) - 3.666_667).abs() < 1e-6);
        assert_eq!(sums(&[&rows]), sums(&[&rows[..1], &rows[1..]]));
        assert_eq!(sums(&[&rows]), sums(&[&rows[..2], &rows[2..]]));
    }
}
