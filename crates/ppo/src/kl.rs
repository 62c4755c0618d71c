//! The Kullback–Leibler penalty: its estimators and the controller of its coefficient β.

use serde::{Deserialize, Serialize};

/// How `KL(π ‖ π_ref)` is estimated from one sampled token.
///
/// With `q = log π_ref(y) − log π(y)` for `y ~ π`:
///
/// | name | value | unbiased | always ≥ 0 |
/// |---|---|---|---|
/// | `k1` | `−q` | yes | no |
/// | `k2` | `q² / 2` | no | yes |
/// | `k3` | `e^q − 1 − q` | yes | yes |
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
}

/// The coefficient β of the KL penalty: fixed, or steered towards a target.
///
/// Adaptive: `e = clip(KL / target − 1, ±0.2)`, `β ← β · (1 + e · episodes / horizon)`.
/// Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), §2.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlController {
    /// β as used by the next step.
    pub coef: f64,
    /// Target KL per episode in nats; `None` keeps β fixed.
    pub target: Option<f64>,
    /// Episodes over which a constant full error would change β by a factor e^0.2.
    pub horizon: f64,
}

impl KlController {
    /// Moves β after a step whose mean KL per episode was `kl` over `episodes` episodes.
    pub fn update(&mut self, kl: f64, episodes: usize) {
        if let Some(target) = self.target {
            let error = (kl / target - 1.0).clamp(-0.2, 0.2);
            self.coef *= 1.0 + error * episodes as f64 / self.horizon;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
