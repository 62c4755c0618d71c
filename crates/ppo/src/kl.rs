//! The Kullback–Leibler penalty: its estimators, where it acts, and the controller of its coefficient β.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How `KL(π ‖ π_ref)` is estimated from one sampled token.
///
/// With `q = log π_ref(y) − log π(y)` for `y ~ π`:
///
/// | name | value | unbiased | always ≥ 0 | as a loss: `∂/∂ log π` |
/// |---|---|---|---|---|
/// | `k1` | `−q` | yes | no | `1`, whose mean is no gradient at all |
/// | `k2` | `q² / 2` | no | yes | `−q`, whose mean is the gradient of the KL |
/// | `k3` | `e^q − 1 − q` | yes | yes | `1 − e^q`, whose mean is the gradient of `KL(π_ref ‖ π)` |
///
/// Source: J. Schulman, "Approximating KL Divergence" (2020).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// `−q`: unbiased, may be negative for a single token.
    #[default]
    K1,
    /// `q² / 2`: low variance, biased.
    K2,
    /// `e^q − 1 − q`: unbiased and never negative.
    K3,
}

impl KlEstimator {
    /// The estimate for one token, in nats.
    pub fn estimate(self, logprob: f32, ref_logprob: f32) -> f64 {
        let q = f64::from(ref_logprob) - f64::from(logprob);
        match self {
            KlEstimator::K1 => -q,
            KlEstimator::K2 => 0.5 * q * q,
            // exp_m1 keeps the digits that e^q − 1 would cancel near q = 0.
            KlEstimator::K3 => q.exp_m1() - q,
        }
    }

    /// The estimate for every token, `[N]` f32, differentiable in `logprobs`; `ref_logprobs` records no graph.
    ///
    /// In f32 `k3` is right to 1e-7 nats and its gradient `1 − e^q` to 1e-7: what cancels near q = 0 is far below the loss beside it.
    pub fn losses(self, logprobs: &Tensor, ref_logprobs: &Tensor) -> candle_core::Result<Tensor> {
        let q = (ref_logprobs - logprobs)?;
        match self {
            KlEstimator::K1 => q.neg(),
            KlEstimator::K2 => q.sqr()? * 0.5,
            KlEstimator::K3 => (q.exp()? - 1.0)? - q,
        }
    }
}

/// Where the KL penalty acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlIn {
    /// In the reward of every token, `r_t = −β k_t`: InstructGPT's.
    #[default]
    Reward,
    /// In the loss, `L_π + β · mean_t k_t`, differentiated: GRPO's. The reward is the score alone.
    Loss,
}

impl KlIn {
    /// β as it acts in the reward.
    pub(crate) fn reward_coef(self, beta: f64) -> f64 {
        match self {
            Self::Reward => beta,
            Self::Loss => 0.0,
        }
    }
}

/// The coefficient β of the KL penalty: fixed, or steered towards a target.
///
/// Adaptive: `e = clip(KL / target − 1, ±0.2)`, `β ← β · (1 + e · episodes / horizon)`.
/// Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), §2.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct KlController {
    /// β as used by the next step.
    pub(crate) coef: f64,
    /// Target KL per episode in nats; `None` keeps β fixed.
    pub(crate) target: Option<f64>,
    /// Episodes over which a constant full error would change β by a factor e^0.2.
    pub(crate) horizon: f64,
}

impl KlController {
    /// Moves β after a step whose mean KL per episode was `kl` over `episodes` episodes.
    pub(crate) fn update(&mut self, kl: f64, episodes: usize) {
        if let Some(target) = self.target {
            let error = (kl / target - 1.0).clamp(-0.2, 0.2);
            self.coef *= 1.0 + error * episodes as f64 / self.horizon;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    const ALL: [KlEstimator; 3] = [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3];

    /// Values and gradients of the loss at `logprobs`.
    fn losses(e: KlEstimator, logprobs: &[f32], ref_logprobs: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let var = Var::from_tensor(&Tensor::new(logprobs, &Device::Cpu).unwrap()).unwrap();
        let reference = Tensor::new(ref_logprobs, &Device::Cpu).unwrap();
        let losses = e.losses(&var, &reference).unwrap();
        let gradients = losses.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&var).unwrap().to_vec1::<f32>().unwrap();
        (losses.to_vec1().unwrap(), gradient)
    }

    /// Closed forms, computed independently with NumPy (scripts/oracle/losses.py).
    #[test]
    fn estimators_match_their_closed_forms() {
        let k = |e: KlEstimator, q: f32| e.estimate(0.0, q);
        assert_eq!(k(KlEstimator::K1, 1.0), -1.0);
        assert_eq!(k(KlEstimator::K2, 1.0), 0.5);
        assert!((k(KlEstimator::K3, 1.0) - 0.718_282).abs() < 1e-6);
        // f32 holds 1e-4 to 8 digits, so the result is right to about 1e-7 relative.
        assert!((k(KlEstimator::K3, 1e-4) - 5.000_17e-9).abs() < 1e-14);
    }

    /// Computed independently with NumPy (shared/design/algorithms.md §5): log π = −1, log π_ref = −1.2.
    #[test]
    fn k3_as_a_loss_has_its_closed_form_and_gradient() {
        let (value, gradient) = losses(KlEstimator::K3, &[-1.0], &[-1.2]);
        assert!((value[0] - 0.018_731).abs() < 1e-6, "{value:?}");
        assert!((gradient[0] - 0.181_269).abs() < 1e-6, "{gradient:?}");
    }

    /// The value is that of the reward, the gradient that of finite differences of it, in f64.
    #[test]
    fn as_a_loss_an_estimator_has_the_same_value_and_the_gradient_of_finite_differences() {
        let (p, r) = ([-0.1f32, -1.0, -2.0, -5.0], [-0.1f32, -2.5, -1.0, -4.9]);
        for e in ALL {
            let (values, gradients) = losses(e, &p, &r);
            for i in 0..p.len() {
                let at = |p: f32| e.estimate(p, r[i]);
                assert!((f64::from(values[i]) - at(p[i])).abs() < 1e-5);
                // Exact in binary, so that the division makes no error.
                let h = 1.0 / 256.0;
                let want = (at(p[i] + h) - at(p[i] - h)) / f64::from(2.0 * h);
                // The third derivative leaves h²/6 · e^q.
                assert!((f64::from(gradients[i]) - want).abs() < 1e-4, "{e:?} {i}");
            }
        }
    }

    /// Exact, over a categorical π with logits z: the expected gradient `Σ_y π(y) ∂k/∂log π(y) ∂log π(y)/∂z` is that of the KL for
    /// k2, that of the reverse KL for k3, and nothing for k1, which is why k1 is refused as a loss.
    #[test]
    fn in_expectation_k2_moves_down_the_kl_and_k1_moves_nothing() {
        let (p, r) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.2, 0.6]);
        let logs = |x: &[f64; 3]| x.map(|x| x.ln() as f32);
        let expected = |e: KlEstimator| -> Vec<f64> {
            let (_, gradient) = losses(e, &logs(&p), &logs(&r));
            let weighted: Vec<f64> = p
                .iter()
                .zip(&gradient)
                .map(|(p, g)| p * f64::from(*g))
                .collect();
            let total: f64 = weighted.iter().sum();
            // ∂log π(y)/∂z_a = [a = y] − π(a).
            (0..3).map(|a| weighted[a] - p[a] * total).collect()
        };
        let kl: f64 = p.iter().zip(&r).map(|(p, r)| p * (p / r).ln()).sum();
        for a in 0..3 {
            assert!(expected(KlEstimator::K1)[a].abs() < 1e-6);
            let forward = p[a] * ((p[a] / r[a]).ln() - kl);
            assert!((expected(KlEstimator::K2)[a] - forward).abs() < 1e-6);
            let reverse = p[a] - r[a];
            assert!((expected(KlEstimator::K3)[a] - reverse).abs() < 1e-6);
        }
    }

    /// Closed form: KL 9, target 6, 512 episodes, horizon 10 000 → ×1.01024; KL 3 → ×0.98976.
    #[test]
    fn adaptive_beta_moves_by_the_clipped_error() {
        let base = KlController {
            coef: 0.1,
            target: Some(6.0),
            horizon: 10_000.0,
        };
        let (mut up, mut down) = (base, base);
        up.update(9.0, 512);
        down.update(3.0, 512);
        assert!((up.coef / 0.1 - 1.010_24).abs() < 1e-12);
        assert!((down.coef / 0.1 - 0.989_76).abs() < 1e-12);
    }

    #[test]
    fn fixed_beta_never_moves() {
        let mut fixed = KlController {
            coef: 0.05,
            target: None,
            horizon: 10_000.0,
        };
        fixed.update(100.0, 512);
        assert_eq!(fixed.coef, 0.05);
    }

    /// E_π[k1] and E_π[k3] are the KL itself, for any two distributions: summed here exactly.
    #[test]
    fn k1_and_k3_are_unbiased() {
        let p = [0.5f64, 0.3, 0.2];
        let r = [0.2f64, 0.2, 0.6];
        let exact: f64 = p.iter().zip(&r).map(|(p, r)| p * (p / r).ln()).sum();
        for e in [KlEstimator::K1, KlEstimator::K3] {
            let mean: f64 = p
                .iter()
                .zip(&r)
                .map(|(p, r)| p * e.estimate(p.ln() as f32, r.ln() as f32))
                .sum();
            assert!((mean - exact).abs() < 1e-6, "{e:?}: {mean} against {exact}");
        }
    }
}
