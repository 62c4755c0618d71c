//! Advantages: how much better a token was than expected, from the rewards of a rollout.
//!
//! To add an estimator: a function with its formula, an arm in each `match` of [`Advantage`], and its numbers from an oracle.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The estimator of the advantages A_t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advantage {
    /// Generalised advantage estimation, see [`gae`]: from the values of a critic.
    #[default]
    Gae,
    /// Leave-one-out (RLOO): the reward of a response minus the mean of the others to its prompt. Without a critic, as those below.
    Rloo,
    /// Group-relative (GRPO): the reward of a response minus the mean of all to its prompt, divided by their standard deviation.
    Grpo,
    /// GRPO without the division (Dr. GRPO).
    DrGrpo,
    /// REINFORCE++: the return of each token, whitened over the step.
    #[serde(rename = "reinforce++")]
    ReinforcePlusPlus,
}

/// What an estimator makes of the rewards of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Estimated {
    /// `[B][m_i]` A_t.
    pub(crate) advantages: Vec<Vec<f64>>,
    /// `[B][m_i]` R_t, which a critic is trained towards, where there is one.
    pub(crate) returns: Option<Vec<Vec<f64>>>,
}

impl Advantage {
    /// As it is written in settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gae => "gae",
            Self::Rloo => "rloo",
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr-grpo",
            Self::ReinforcePlusPlus => "reinforce++",
        }
    }

    /// Whether a critic must be trained for it.
    pub fn needs_critic(self) -> bool {
        self == Self::Gae
    }

    /// Whether a response is compared with the others to the same prompt, by the sum of its rewards.
    pub(crate) fn compares_responses(self) -> bool {
        match self {
            Self::Rloo | Self::Grpo | Self::DrGrpo => true,
            Self::Gae | Self::ReinforcePlusPlus => false,
        }
    }

    /// Whether its advantages are whitened over the step where nothing else is asked for: OpenAI's PPO does it, and REINFORCE++ has no
    /// other baseline. The papers of the others do not.
    pub(crate) fn whitens(self) -> bool {
        !self.compares_responses()
    }

    /// The advantages of every response, and returns where there is a critic.
    ///
    /// `rewards`: `[B][m_i]`, the `samples` responses to a prompt adjacent; `values`: `[B][m_i]`, of the critic.
    pub(crate) fn estimate(
        self,
        rewards: &[Vec<f64>],
        values: Option<&[Vec<f32>]>,
        samples: usize,
        (gamma, lambda): (f64, f64),
    ) -> Result<Estimated> {
        let advantages = match self {
            Self::Gae => {
                let values =
                    values.context("gae needs the values of a critic, and there is none")?;
                let pairs = rewards.iter().zip(values);
                let (advantages, returns) = pairs.map(|(r, v)| gae(r, v, gamma, lambda)).unzip();
                return Ok(Estimated {
                    advantages,
                    returns: Some(returns),
                });
            }
            Self::Rloo => over_tokens(rewards, samples, rloo),
            Self::Grpo => over_tokens(rewards, samples, grpo),
            Self::DrGrpo => over_tokens(rewards, samples, dr_grpo),
            Self::ReinforcePlusPlus => rewards.iter().map(|r| returns(r, gamma)).collect(),
        };
        Ok(Estimated {
            advantages,
            returns: None,
        })
    }
}

/// An advantage for each of the responses to a prompt, by the sum of its rewards, given to every token of it.
fn over_tokens(
    rewards: &[Vec<f64>],
    samples: usize,
    estimator: fn(&[f64]) -> Vec<f64>,
) -> Vec<Vec<f64>> {
    let totals: Vec<f64> = rewards.iter().map(|r| r.iter().sum()).collect();
    let advantages = totals.chunks(samples).flat_map(estimator);
    let pairs = advantages.zip(rewards);
    pairs.map(|(a, r)| vec![a; r.len()]).collect()
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

/// Advantages of the n responses to one prompt: `A_i = R_i − 1/(n−1) Σ_{j≠i} R_j`, the same for every token of a response.
///
/// `totals`: `[n]`, R_i the sum of the KL-shaped rewards of response i; n ≥ 2. The baseline does not depend on response i, so the policy
/// gradient stays unbiased. Source: Ahmadian et al., "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human
/// Feedback in LLMs" (2024), §3.3; Kool et al. (2019).
pub(crate) fn rloo(totals: &[f64]) -> Vec<f64> {
    let (n, sum) = (totals.len() as f64, totals.iter().sum::<f64>());
    let others = |total: &f64| (sum - total) / (n - 1.0);
    totals.iter().map(|total| total - others(total)).collect()
}

/// Added to the standard deviation that [`grpo`] divides by, so that responses with equal rewards have the advantage 0.
const GRPO_EPS: f64 = 1e-4;

/// Advantages of the n responses to one prompt: `A_i = (R_i − mean R) / (s + 1e-4)`, `s² = Σ_j (R_j − mean R)² / (n − 1)`.
///
/// `totals`: `[n]`, R_i the sum of the rewards of response i; n ≥ 2. A prompt whose rewards lie close together counts as much as one whose
/// rewards lie far apart, so that the expected gradient is that of another objective. Source: Shao et al., "DeepSeekMath: Pushing the
/// Limits of Mathematical Reasoning in Open Language Models" (2024), §4.1.2.
pub(crate) fn grpo(totals: &[f64]) -> Vec<f64> {
    let centred = dr_grpo(totals);
    let squares: f64 = centred.iter().map(|a| a * a).sum();
    let deviation = (squares / (totals.len() as f64 - 1.0)).sqrt();
    centred.iter().map(|a| a / (deviation + GRPO_EPS)).collect()
}

/// Advantages of the n responses to one prompt: `A_i = R_i − mean R`.
///
/// `totals`: `[n]`, R_i the sum of the rewards of response i; n ≥ 2. The mean has R_i in it, so that this is (n − 1)/n of [`rloo`], and the
/// expected gradient (n − 1)/n of the true one. Source: Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective" (2025),
/// §3.2, whose mean over tokens divides by a constant.
pub(crate) fn dr_grpo(totals: &[f64]) -> Vec<f64> {
    let mean = totals.iter().sum::<f64>() / totals.len() as f64;
    totals.iter().map(|total| total - mean).collect()
}

/// Returns of one response: `G_t = Σ_{l ≥ t} γ^{l−t} r_l`.
///
/// `rewards`: `[n]`, KL-shaped. The advantages of REINFORCE++ before they are whitened over the step. Source: Hu, "REINFORCE++: A Simple and
/// Efficient Approach for Aligning Large Language Models" (2025), §3.
pub(crate) fn returns(rewards: &[f64], gamma: f64) -> Vec<f64> {
    let mut returns = rewards.to_vec();
    for t in (0..rewards.len().saturating_sub(1)).rev() {
        returns[t] += gamma * returns[t + 1];
    }
    returns
}

#[cfg(test)]
mod expected_gradient;

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < tolerance, "{got:?} against {want:?}");
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

    /// Computed independently with NumPy (shared/design/algorithms.md §5).
    #[test]
    fn rloo_compares_a_response_with_the_mean_of_the_others() {
        let got = rloo(&[1.0, 2.0, 4.0, 5.0]);
        assert_close(&got, &[-2.666_667, -1.333_333, 1.333_333, 2.666_667], 1e-6);
    }

    /// By hand: two prompts with totals (1, 2) and (5, 3), so that nothing of one prompt reaches the other.
    #[test]
    fn rloo_gives_every_token_of_a_response_its_whole_advantage_within_its_prompt() {
        let rewards = [
            vec![-0.5, 1.5],
            vec![2.0],
            vec![0.0, 1.0, 4.0],
            vec![1.0, 2.0],
        ];
        let estimate = |advantage: Advantage| advantage.estimate(&rewards, None, 2, (1.0, 1.0));
        let found = estimate(Advantage::Rloo).unwrap();
        let want = [vec![-1.0; 2], vec![1.0], vec![2.0; 3], vec![-2.0; 2]];
        assert_eq!((found.advantages, found.returns), (want.to_vec(), None));
        assert!(estimate(Advantage::Gae).is_err());
    }

    /// Computed independently with NumPy (shared/design/algorithms.md §5; scripts/oracle/losses.py).
    #[test]
    fn grpo_divides_by_the_deviation_of_the_group_and_dr_grpo_does_not() {
        let rewards = [1.0, 2.0, 4.0, 5.0];
        let divided = [-1.095_385, -0.547_693, 0.547_693, 1.095_385];
        assert_close(&grpo(&rewards), &divided, 1e-6);
        assert_close(&dr_grpo(&rewards), &[-2.0, -1.0, 1.0, 2.0], 1e-12);
    }

    #[test]
    fn a_group_of_equal_rewards_has_no_advantage() {
        for estimator in [rloo, grpo, dr_grpo] {
            assert_close(&estimator(&[0.3; 3]), &[0.0; 3], 1e-12);
        }
    }

    /// Computed independently with NumPy (shared/design/algorithms.md §5; scripts/oracle/losses.py): k1 .2, −.1, .3, β .1, score 1.
    #[test]
    fn returns_are_the_sums_of_the_shaped_rewards_from_each_token_on() {
        let rewards = crate::rewards(
            &[-1.0, -1.0, -1.0],
            &[-1.2, -0.9, -1.3],
            1.0,
            0.1,
            crate::KlEstimator::K1,
        );
        assert_close(&returns(&rewards, 1.0), &[0.96, 0.98, 0.97], 1e-7); // f32 inputs
        assert_close(&returns(&rewards, 0.5), &[0.2275, 0.495, 0.97], 1e-7);
        // One response to a prompt is enough.
        let estimated = Advantage::ReinforcePlusPlus.estimate(&[rewards], None, 1, (1.0, 1.0));
        assert_close(&estimated.unwrap().advantages[0], &[0.96, 0.98, 0.97], 1e-7);
    }

    /// The names that errors speak of are those that settings are written in.
    #[test]
    fn every_advantage_is_called_as_it_is_written() {
        for advantage in [
            Advantage::Gae,
            Advantage::Rloo,
            Advantage::Grpo,
            Advantage::DrGrpo,
            Advantage::ReinforcePlusPlus,
        ] {
            assert_eq!(serde_json::to_value(advantage).unwrap(), advantage.name());
        }
    }
}
