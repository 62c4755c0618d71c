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
    let n = logprobs.len();
    let penalty = |t: usize| -beta * estimator.estimate(logprobs[t], ref_logprobs[t]);
    (0..n)
        .map(|t| penalty(t) + if t + 1 == n { score } else { 0.0 })
        .collect()
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

/// Whitens in place over all response tokens of a step: `A ← (A − mean) / sqrt(var + 1e-8)`.
pub fn whiten(advantages: &mut [f64], variance: Variance) {
    let n = advantages.len() as f64;
    let mean = advantages.iter().sum::<f64>() / n;
    let degrees = match variance {
        Variance::Population => n,
        Variance::Unbiased => (n - 1.0).max(1.0),
    };
    let var = advantages.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / degrees;
    let scale = 1.0 / (var + 1e-8).sqrt();
    advantages.iter_mut().for_each(|a| *a = (*a - mean) * scale);
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

    /// Closed form: two values a distance 1 apart have population deviation ½ and unbiased √½.
    #[test]
    fn whitening_centres_and_scales_by_the_chosen_variance() {
        let mut population = [2.0, 3.0];
        whiten(&mut population, Variance::Population);
        assert_close(&population, &[-1.0, 1.0], 1e-7);
        let mut unbiased = [2.0, 3.0];
        whiten(&mut unbiased, Variance::Unbiased);
        assert_close(&unbiased, &[-0.5f64.sqrt(), 0.5f64.sqrt()], 1e-7);
    }
}
