//! Whitening: numbers of a step shifted and scaled to mean 0 and variance 1, or scaled alone.
//!
//! Everything here is ragged: one slice per response, exactly as long as the response. There is no mask, so nothing outside a response
//! can reach a result.

use serde::{Deserialize, Serialize};

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
    let (mean, scale) = mean_and_scale(advantages, variance);
    let all = advantages.iter_mut().flatten();
    all.for_each(|a| *a = (*a - mean) * scale);
}

/// Scales in place to variance 1 and leaves the mean: `r ← (r − mean) / sqrt(var + 1e-8) + mean`.
///
/// What OpenAI and TRL do to rewards on request, where a shift would change what is rewarded.
pub fn whiten_keeping_mean(rewards: &mut [Vec<f64>], variance: Variance) {
    let (mean, scale) = mean_and_scale(rewards, variance);
    let all = rewards.iter_mut().flatten();
    all.for_each(|r| *r = (*r - mean) * scale + mean);
}

/// The mean over all rows as one list, and `1 / sqrt(var + 1e-8)`.
fn mean_and_scale(rows: &[Vec<f64>], variance: Variance) -> (f64, f64) {
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

    fn assert_close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-7, "{got:?} against {want:?}");
        }
    }

    /// By hand: 1 and 3 have mean 2 and population deviation 1.
    #[test]
    fn whitening_rewards_keeps_their_mean() {
        let mut rewards = [vec![0.0], vec![4.0]];
        whiten_keeping_mean(&mut rewards, Variance::Population);
        assert_close(&rewards.concat(), &[1.0, 3.0]);
    }

    /// Closed form: two values a distance 1 apart have population deviation ½ and unbiased √½.
    #[test]
    fn whitening_centres_and_scales_by_the_chosen_variance() {
        let mut population = [vec![2.0], vec![3.0]];
        whiten(&mut population, Variance::Population);
        assert_close(&population.concat(), &[-1.0, 1.0]);
        let mut unbiased = [vec![2.0, 3.0]];
        whiten(&mut unbiased, Variance::Unbiased);
        assert_close(&unbiased.concat(), &[-0.5f64.sqrt(), 0.5f64.sqrt()]);
    }
}
