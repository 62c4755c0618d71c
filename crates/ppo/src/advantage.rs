//! From scores to advantages: KL-shaped rewards, generalised advantage estimation, whitening.
//!
//! Everything here is ragged: one slice per response, exactly as long as the response. There is no mask,
//! so nothing outside a response can reach a result.

use serde::{Deserialize, Serialize};

use crate::kl::KlEstimator;

/// Rewards of one response: `r_t = −β k_t + [t = n] S`, t = 1…n.
///
/// `logprobs`, `ref_logprobs`: `[n]`, natural log, under π_old and π_ref at the sampling temperature;
/// `score`: S(x, y) after normalisation, clipping and the end-token rule.
/// Source: Ziegler et al. (2019), eq. 2, spread over tokens; Ouyang et al. (2022), eq. 2.
pub fn rewards(
    logprobs: &[f32],
    ref_logprobs: &[f32],
    score: f64,
    beta: f64,
    estimator: KlEstimator,
) -> Vec<f64> {
    rewards_over(
        logprobs.len(),
        logprobs,
        ref_logprobs,
        score,
        beta,
        estimator,
    )
}

/// [`rewards`] with the score in the last of `slots`: n of them, or one more, which has no token and so no penalty.
pub fn rewards_over(
    slots: usize,
    logprobs: &[f32],
    ref_logprobs: &[f32],
    score: f64,
    beta: f64,
    estimator: KlEstimator,
) -> Vec<f64> {
    let penalty = |t: usize| match (logprobs.get(t), ref_logprobs.get(t)) {
        (Some(p), Some(r)) => -beta * estimator.estimate(*p, *r),
        _ => 0.0,
    };
    (0..slots)
        .map(|t| penalty(t) + if t + 1 == slots { score } else { 0.0 })
        .collect()
}

/// Where a response's score stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreSlot {
    /// On its last token: OpenAI's, and ours.
    #[default]
    Last,
    /// One slot later, where a response is shorter than the longest, and a value is learnt there too: TRL's.
    After,
}

impl ScoreSlot {
    /// How many rewards and values a response of `tokens` tokens has, where the longest may have `longest`.
    pub fn slots(self, tokens: usize, longest: usize) -> usize {
        tokens + usize::from(self == Self::After && tokens < longest)
    }
}

/// Advantages and returns of one response.
///
/// `δ_t = r_t + γ V_{t+1} − V_t` with `V_{n+1} = 0`; `A_t = Σ_l (γλ)^l δ_{t+l}`; `R_t = A_t + V_t`.
/// `rewards`, `values`: `[n]`. Source: Schulman et al., "High-Dimensional Continuous Control Using
/// Generalized Advantage Estimation" (2016), eq. 16.
pub fn gae(rewards: &[f64], values: &[f32], gamma: f64, lambda: f64) -> (Vec<f64>, Vec<f64>) {
    let n = rewards.len();
    let mut advantages = vec![0.0; n];
    let mut next_value = 0.0;
    let mut next_advantage = 0.0;
    for t in (0..n).rev() {
        let value = f64::from(values[t]);
        let delta = rewards[t] + gamma * next_value - value;
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = value;
        advantages[t] = next_advantage;
    }
    let returns = advantages
        .iter()
        .zip(values)
        .map(|(a, v)| a + f64::from(*v))
        .collect();
    (advantages, returns)
}

/// Which variance whitening divides by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variance {
    /// `Σ(x − mean)² / n`: OpenAI's, and ours.
    #[default]
    Population,
    /// `Σ(x − mean)² / (n − 1)`: TRL's.
    Unbiased,
}

/// Whitens in place over all response tokens of a step, `[B][n_i]`: `A ← (A − mean) / sqrt(var + 1e-8)`.
pub fn whiten(advantages: &mut [Vec<f64>], variance: Variance) {
    let (mean, scale) = standard(advantages, variance);
    let all = advantages.iter_mut().flatten();
    all.for_each(|a| *a = (*a - mean) * scale);
}

/// Scales in place to variance 1 and leaves the mean: `r ← (r − mean) / sqrt(var + 1e-8) + mean`.
///
/// What OpenAI and TRL do to rewards on request, where a shift would change what is rewarded.
pub fn whiten_keeping_mean(rewards: &mut [Vec<f64>], variance: Variance) {
    let (mean, scale) = standard(rewards, variance);
    let all = rewards.iter_mut().flatten();
    all.for_each(|r| *r = (*r - mean) * scale + mean);
}

/// The mean over all rows as one list, and `1 / sqrt(var + 1e-8)`.
fn standard(rows: &[Vec<f64>], variance: Variance) -> (f64, f64) {
    let all = || rows.iter().flatten();
    let n = all().count() as f64;
    let mean = all().sum::<f64>() / n;
    let degrees = match variance {
        Variance::Population => n,
        Variance::Unbiased => (n - 1.0).max(1.0),
    };
    let var = all().map(|x| (x - mean).powi(2)).sum::<f64>() / degrees;
    (mean, 1.0 / (var + 1e-8).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < tolerance, "{got:?} against {want:?}");
        }
    }

    /// Derived by hand and checked with NumPy (scripts/oracle/losses.py).
    #[test]
    fn rewards_are_the_kl_penalty_with_the_score_on_the_last_token() {
        let logprobs = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]];
        let references = [[0.2, 0.3, 0.4], [0.6, 0.7, 0.8], [0.9, 1.0, 1.1]];
        let expected = [[0.05, 0.05, 1.05], [0.1, 0.1, 2.1], [0.15, 0.15, 3.15]];
        for (i, want) in expected.iter().enumerate() {
            let got = rewards(
                &logprobs[i],
                &references[i],
                (i + 1) as f64,
                0.5,
                KlEstimator::K1,
            );
            assert_close(&got, want, 1e-6); // f32 inputs
        }
    }

    /// Computed with NumPy from the definition (scripts/oracle/losses.py).
    #[test]
    fn gae_matches_the_definition() {
        let r = [0.1, -0.2, 0.05, 1.3];
        let v = [0.5, 0.4, -0.1, 0.2];
        for (gamma, lambda, want) in [
            (1.0, 0.95, [0.593_987_5, 0.625_25, 1.395, 1.1]),
            (0.99, 0.9, [0.427_544_36, 0.484_337_1, 1.328_1, 1.1]),
            (1.0, 1.0, [0.75, 0.75, 1.45, 1.1]),
        ] {
            let (advantages, returns) = gae(&r, &v, gamma, lambda);
            assert_close(&advantages, &want, 1e-7); // f32 values
            let sums: Vec<f64> = want
                .iter()
                .zip(&v)
                .map(|(a, v)| a + f64::from(*v))
                .collect();
            assert_close(&returns, &sums, 1e-7);
        }
    }

    /// torchtune's published case: V = r = [0,0,0,1], γ .9, λ .95.
    #[test]
    fn gae_agrees_with_a_published_case() {
        let (advantages, returns) = gae(&[0.0, 0.0, 0.0, 1.0], &[0.0, 0.0, 0.0, 1.0], 0.9, 0.95);
        assert_close(&advantages, &[0.657_922_5, 0.769_5, 0.9, 0.0], 1e-7);
        assert_close(&returns, &[0.657_922_5, 0.769_5, 0.9, 1.0], 1e-7);
    }

    /// With λ = 1 and γ = 1 the advantage is the return-to-go minus the value: a brute-force sum.
    #[test]
    fn gae_with_lambda_one_is_return_to_go_minus_value() {
        let r = [0.3, -1.0, 2.0, 0.0, 0.7];
        let v = [0.1, 0.2, -0.4, 0.9, 0.0];
        let (advantages, _) = gae(&r, &v, 1.0, 1.0);
        let brute: Vec<f64> = (0..5)
            .map(|t| r[t..].iter().sum::<f64>() - f64::from(v[t]))
            .collect();
        assert_close(&advantages, &brute, 1e-7);
    }

    /// By hand: a response of 2 tokens where 3 are the most: the score moves to a third slot, which has no penalty.
    #[test]
    fn a_score_after_the_end_has_a_slot_of_its_own_where_there_is_room() {
        assert_eq!(ScoreSlot::After.slots(2, 3), 3);
        assert_eq!(ScoreSlot::After.slots(3, 3), 3);
        assert_eq!(ScoreSlot::Last.slots(2, 3), 2);
        let (p, r) = ([-1.0, -1.0], [-2.0, -1.5]);
        let got = rewards_over(3, &p, &r, 4.0, 0.5, KlEstimator::K1);
        assert_close(&got, &[-0.5, -0.25, 4.0], 1e-12);
    }

    /// By hand: 1 and 3 have mean 2 and population deviation 1.
    #[test]
    fn whitening_rewards_keeps_their_mean() {
        let mut rewards = [vec![0.0], vec![4.0]];
        whiten_keeping_mean(&mut rewards, Variance::Population);
        assert_close(&rewards.concat(), &[1.0, 3.0], 1e-7);
    }

    /// Closed form: two values a distance 1 apart have population deviation ½ and unbiased √½.
    #[test]
    fn whitening_centres_and_scales_by_the_chosen_variance() {
        let mut population = [vec![2.0], vec![3.0]];
        whiten(&mut population, Variance::Population);
        assert_close(&population.concat(), &[-1.0, 1.0], 1e-7);
        let mut unbiased = [vec![2.0, 3.0]];
        whiten(&mut unbiased, Variance::Unbiased);
        assert_close(&unbiased.concat(), &[-0.5f64.sqrt(), 0.5f64.sqrt()], 1e-7);
    }
}
