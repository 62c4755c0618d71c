//! The losses: what the log-ratios `ℓ = log π(y|x) − log π_ref(y|x)` of responses are asked to explain.
//!
//! Log-ratios of a whole micro-batch arrive as one vector; every term says which entries it compares and how much it weighs, so that the
//! loss of a step does not depend on how the step is cut into micro-batches.

use candle_core::{Result, Tensor};
use rlhf_ops::{log_sigmoid, upload_lists};
use rlhf_train::feedback::Comparison;
use serde::{Deserialize, Serialize};

/// What is minimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// `−log σ(β h)`: DPO.
    #[default]
    Sigmoid,
    /// `(h − 1/(2β))²`: IPO, which does not push a gap beyond its target.
    Ipo,
    /// `max(0, 1 − β h)`.
    Hinge,
    /// Each answer by itself, liked or not: KTO, see [`kto_loss`].
    Kto,
}

impl Loss {
    /// As it is written in settings.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sigmoid => "sigmoid",
            Self::Ipo => "ipo",
            Self::Hinge => "hinge",
            Self::Kto => "kto",
        }
    }
}

/// `Σ w L(h)` over the comparisons, `h = ℓ_w − ℓ_l`, with margins m:
///
/// | loss | L |
/// |---|---|
/// | `sigmoid` | `−(1−ε) log σ(β h − m) − ε log σ(−(β h − m))` |
/// | `ipo` | `(h − 1/(2β))²` |
/// | `hinge` | `max(0, 1 − (β h − m))` |
///
/// `ratios`: `[R]` f32, one for each response. `smoothing` is ε. [`Loss::Kto`] compares nothing, and is an error here.
/// Source: Rafailov et al., "Direct Preference Optimization" (2023), eq. 7; ε: Mitchell, "A note on DPO with noisy preferences" (2023);
/// m: Amini et al., "Direct Preference Optimization with an Offset" (2024), eq. 7; Azar et al., "A General Theoretical Paradigm to
/// Understand Learning from Human Preferences" (2023), eq. 17; Zhao et al., "SLiC-HF" (2023), whose hinge is of log-probabilities.
pub fn preference_loss(
    loss: Loss,
    ratios: &Tensor,
    comparisons: &[Comparison],
    beta: f64,
    smoothing: f64,
) -> Result<Tensor> {
    let device = ratios.device();
    let winners: Vec<u32> = comparisons.iter().map(|c| c.winner as u32).collect();
    let losers: Vec<u32> = comparisons.iter().map(|c| c.loser as u32).collect();
    let [winners, losers] = upload_lists([&winners, &losers], device)?;
    let h = (ratios.index_select(&winners, 0)? - ratios.index_select(&losers, 0)?)?;
    let margins: Vec<f32> = comparisons.iter().map(|c| c.margin).collect();
    let weights: Vec<f32> = comparisons.iter().map(|c| c.weight).collect();
    let [margins, weights] = upload_lists([&margins, &weights], device)?;
    let rewarded = || (&h * beta)? - &margins;
    let losses = match loss {
        Loss::Sigmoid => {
            let gap = rewarded()?;
            let mut losses = (log_sigmoid(&gap)? * -(1.0 - smoothing))?;
            if smoothing > 0.0 {
                losses = (losses - (log_sigmoid(&gap.neg()?)? * smoothing)?)?;
            }
            losses
        }
        Loss::Ipo => (h - 0.5 / beta)?.sqr()?,
        Loss::Hinge => (1.0 - rewarded()?)?.relu()?,
        Loss::Kto => candle_core::bail!("kto judges each answer by itself"),
    };
    (losses * weights)?.sum_all()
}

/// `Σ w λ (1 − σ(±β(ℓ − z₀)))`: plus and λ_D for a liked answer, minus and λ_U for a disliked one.
///
/// `ratios`: `[R]` f32; `answers`: `[R]`, whether each is liked, and its weight w; `z0`: the reference point, through which no
/// gradient flows; `lambdas`: λ_D, λ_U. Source: Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization" (2024), eq. 8.
pub fn kto_loss(
    ratios: &Tensor,
    answers: &[(bool, f32)],
    z0: f64,
    beta: f64,
    (desirable, undesirable): (f64, f64),
) -> Result<Tensor> {
    let device = ratios.device();
    let sign = |liked: bool| if liked { beta } else { -beta } as f32;
    let lambda = |liked: bool| if liked { desirable } else { undesirable } as f32;
    let signs: Vec<f32> = answers.iter().map(|(liked, _)| sign(*liked)).collect();
    let weights = answers.iter().map(|(liked, w)| lambda(*liked) * w);
    let weights: Vec<f32> = weights.collect();
    let [signs, weights] = upload_lists([&signs, &weights], device)?;
    let gained = ((ratios - z0)? * signs)?;
    let losses = (1.0 - log_sigmoid(&gained)?.exp()?)?;
    (losses * weights)?.sum_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    const ONE: Comparison = Comparison {
        winner: 0,
        loser: 1,
        margin: 0.0,
        weight: 1.0,
    };

    fn tensor(x: &[f32]) -> Tensor {
        Tensor::new(x, &Device::Cpu).unwrap()
    }

    fn scalar(loss: Result<Tensor>) -> f64 {
        f64::from(loss.unwrap().to_scalar::<f32>().unwrap())
    }

    /// Computed independently with NumPy (shared/design/algorithms.md §5): log-probabilities −10, −12 under π and −11, −11.5 under π_ref, so
    /// that h = 1.5; with lengths 5 and 8 and means h = .2625.
    #[test]
    fn losses_of_a_pair_match_their_closed_forms() {
        let (sums, means) = (tensor(&[1.0, -0.5]), tensor(&[0.2, -0.0625]));
        for (loss, ratios, smoothing, want) in [
            (Loss::Sigmoid, &sums, 0.0, 0.620_957),
            (Loss::Sigmoid, &sums, 0.1, 0.635_957),
            (Loss::Ipo, &sums, 0.0, 12.25),
            (Loss::Hinge, &sums, 0.0, 0.85),
            (Loss::Sigmoid, &means, 0.0, 0.680_108),
            (Loss::Ipo, &means, 0.0, 22.443_906),
        ] {
            let got = scalar(preference_loss(loss, ratios, &[ONE], 0.1, smoothing));
            assert!(
                (got - want).abs() < 1e-5,
                "{loss:?} ε {smoothing}: {got} against {want}"
            );
        }
        assert!(preference_loss(Loss::Kto, &sums, &[ONE], 0.1, 0.0).is_err());
    }

    /// Computed independently with NumPy (shared/design/algorithms.md §5).
    #[test]
    fn kto_of_an_answer_matches_its_closed_form() {
        for (ratio, liked, want) in [(0.5, true, 0.492_501), (-0.3, false, 0.487_503)] {
            let answers = [(liked, 1.0)];
            let got = scalar(kto_loss(&tensor(&[ratio]), &answers, 0.2, 0.1, (1.0, 1.0)));
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }

    /// Closed forms at βh = .15: a margin moves the gap, a weight scales the term, and a hinge that is met is flat.
    #[test]
    fn margins_and_weights_act_within_the_term_they_belong_to() {
        let ratios = tensor(&[1.0, -0.5]);
        let term = Comparison {
            margin: 0.4,
            weight: 0.25,
            ..ONE
        };
        let got = scalar(preference_loss(Loss::Sigmoid, &ratios, &[term], 0.1, 0.0));
        assert!((got - 0.25 * 0.25f64.exp().ln_1p()).abs() < 1e-6);
        let got = scalar(preference_loss(Loss::Hinge, &ratios, &[term], 0.1, 0.0));
        assert!((got - 0.25 * 1.25).abs() < 1e-6);
        let met = scalar(preference_loss(Loss::Hinge, &ratios, &[ONE], 1.0, 0.0));
        assert_eq!(met, 0.0);
    }

    /// Finite differences of the scalar formulas, written out in f64.
    #[test]
    fn gradients_equal_finite_differences() {
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (beta, margin, z0) = (0.3, 0.2, 0.4);
        let by_hand = |loss: Loss, x: [f64; 2]| {
            let h = x[0] - x[1];
            let gap = beta * h - margin;
            match loss {
                Loss::Sigmoid => -0.9 * sigma(gap).ln() - 0.1 * sigma(-gap).ln(),
                Loss::Ipo => (h - 0.5 / beta).powi(2),
                Loss::Hinge => (1.0 - gap).max(0.0),
                Loss::Kto => {
                    let liked = 1.5 * (1.0 - sigma(beta * (x[0] - z0)));
                    liked + 0.5 * (1.0 - sigma(-beta * (x[1] - z0)))
                }
            }
        };
        let term = Comparison {
            margin: margin as f32,
            ..ONE
        };
        for loss in [Loss::Sigmoid, Loss::Ipo, Loss::Hinge, Loss::Kto] {
            for at in [[0.0, 0.0], [1.5, -0.5], [-2.0, 1.0]] {
                let var = Var::from_tensor(&tensor(&at.map(|x| x as f32))).unwrap();
                let smoothing = if loss == Loss::Sigmoid { 0.1 } else { 0.0 };
                let value = match loss {
                    Loss::Kto => kto_loss(&var, &[(true, 1.0), (false, 1.0)], z0, beta, (1.5, 0.5)),
                    loss => preference_loss(loss, &var, &[term], beta, smoothing),
                }
                .unwrap();
                let grads = value.backward().unwrap();
                let got = grads.get(&var).unwrap().to_vec1::<f32>().unwrap();
                assert!((scalar(Ok(value)) - by_hand(loss, at)).abs() < 1e-5);
                for (i, got) in got.into_iter().enumerate() {
                    let moved = |by: f64| {
                        let mut x = at;
                        x[i] += by;
                        by_hand(loss, x)
                    };
                    let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (f64::from(got) - want).abs() < 1e-4,
                        "{loss:?} {at:?}: {got} against {want}"
                    );
                }
            }
        }
    }
}
