//! The losses of human feedback: what a scalar score per response is asked to explain.
//!
//! Scores of a whole micro-batch arrive as one vector; every term says which entries it compares and how
//! much it weighs, so that a step over any mixture of feedback is a handful of vector operations and its
//! loss does not depend on how the step is cut into micro-batches. [`LossTerms`](super::LossTerms) gathers the terms.

use candle_core::{D, Device, Result, Tensor};
use rlhf_ops::{log_sigmoid, upload, upload_lists};

use super::Comparison;

/// `Σ w [−(1−ε) log σ(r_w − r_l − m) − ε log σ(−(r_w − r_l − m))]` over the comparisons.
///
/// `scores`: `[R]` f32. `smoothing` is ε, the share of labels believed to be flipped.
/// Source: Bradley–Terry; Ouyang et al. (2022), eq. 1; margins as in Touvron et al., "Llama 2" (2023), eq. 2.
pub fn comparison_loss(
    scores: &Tensor,
    comparisons: &[Comparison],
    smoothing: f64,
) -> Result<Tensor> {
    let device = scores.device();
    let [winners, losers] = rows(comparisons, device)?;
    let gap = (scores.index_select(&winners, 0)? - scores.index_select(&losers, 0)?)?;
    let margins: Vec<f32> = comparisons.iter().map(|c| c.margin).collect();
    let weights: Vec<f32> = comparisons.iter().map(|c| c.weight).collect();
    let [margins, weights] = upload_lists([&margins, &weights], device)?;
    let gap = (gap - margins)?;
    let mut loss = (log_sigmoid(&gap)? * -(1.0 - smoothing))?;
    if smoothing > 0.0 {
        loss = (loss - (log_sigmoid(&gap.neg()?)? * smoothing)?)?;
    }
    (loss * weights)?.sum_all()
}

/// Centering: `Σ w (r_w + r_l)²`, which keeps scores near zero without touching their differences.
///
/// Source: Eisenstein et al., "Helping or Herding?" (2023), eq. 2.
pub fn centering_loss(scores: &Tensor, comparisons: &[Comparison]) -> Result<Tensor> {
    let device = scores.device();
    let [winners, losers] = rows(comparisons, device)?;
    let sum = (scores.index_select(&winners, 0)? + scores.index_select(&losers, 0)?)?;
    let weights: Vec<f32> = comparisons.iter().map(|c| c.weight).collect();
    (sum.sqr()? * upload(&weights, weights.len(), device)?)?.sum_all()
}

/// `Σ w [−(1−ε) log softmax(r)_best − ε · mean over the others of log softmax(r)]` over choices among K responses.
///
/// `scores`: `[N, K]` f32, the K scores of each prompt; `best`: `[N]`, which of them is the best. `smoothing` is ε, as for comparisons:
/// with K = 2 both are the same.
/// Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), eq. 1.
pub fn best_of_loss(
    scores: &Tensor,
    best: &[u32],
    weights: &[f32],
    smoothing: f64,
) -> Result<Tensor> {
    let (rows, responses) = scores.dims2()?;
    let weights = upload(weights, rows, scores.device())?;
    let log_softmax = candle_nn::ops::log_softmax(scores, D::Minus1)?;
    let best = upload(best, (rows, 1), scores.device())?;
    let chosen = log_softmax.gather(&best, 1)?.squeeze(1)?;
    if smoothing == 0.0 {
        return (chosen * weights)?.sum_all()?.neg();
    }
    let others = ((log_softmax.sum(1)? - &chosen)? * (smoothing / (responses - 1) as f64))?;
    (((chosen * (1.0 - smoothing))? + others)? * weights)?
        .sum_all()?
        .neg()
}

/// `Σ w ½ (r − z)²`: scores `[R]` against standardised ratings `[R]`.
pub fn rating_loss(scores: &Tensor, ratings: &Tensor, weights: &Tensor) -> Result<Tensor> {
    ((scores - ratings)?.sqr()? * weights)?.sum_all()? * 0.5
}

/// `Σ w [−y log σ(r) − (1−y) log σ(−r)]`: binary cross-entropy with logits, `labels` in {0, 1}.
pub fn thumbs_loss(scores: &Tensor, labels: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let up = (log_sigmoid(scores)? * labels)?;
    let down = (log_sigmoid(&scores.neg()?)? * (1.0 - labels)?)?;
    ((up + down)? * weights)?.sum_all()?.neg()
}

/// Where the scores of winners and of losers are.
fn rows(comparisons: &[Comparison], device: &Device) -> Result<[Tensor; 2]> {
    let winners: Vec<u32> = comparisons.iter().map(|c| c.winner as u32).collect();
    let losers: Vec<u32> = comparisons.iter().map(|c| c.loser as u32).collect();
    upload_lists([&winners, &losers], device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feedback::{Ties, ranking_comparisons, split_vote};

    fn tensor(x: &[f32]) -> Tensor {
        Tensor::new(x, &Device::Cpu).unwrap()
    }

    fn pair(gap: f32, margin: f32) -> f32 {
        let term = Comparison {
            winner: 0,
            loser: 1,
            margin,
            weight: 1.0,
        };
        comparison_loss(&tensor(&[gap, 0.0]), &[term], 0.0)
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    /// Closed form `log(1 + e^{−(Δ−m)})`, computed with NumPy (scripts/oracle/losses.py).
    #[test]
    fn pair_loss_matches_bradley_terry() {
        for (gap, margin, want) in [
            (0.0, 0.0, std::f32::consts::LN_2),
            (1.0, 0.0, 0.313_262),
            (1.0, 0.5, 0.474_077),
            (-100.0, 0.0, 100.0),
        ] {
            let got = pair(gap, margin);
            assert!(
                (got - want).abs() < 1e-5,
                "Δ {gap} m {margin}: {got} against {want}"
            );
        }
    }

    /// Computed with NumPy from the definition (scripts/oracle/losses.py).
    /// The cross-entropy written out in f64: two of three judges, a gap of 0.5 and a margin of 0.2.
    #[test]
    fn a_split_vote_is_a_soft_label() {
        let terms = ranking_comparisons(&[1.0, 2.0], 0, Ties::Skip, 2.0);
        let terms: Vec<_> = terms
            .into_iter()
            .map(|term| Comparison {
                margin: 0.2,
                ..term
            })
            .collect();
        let voted = split_vote(&terms, 2.0 / 3.0);
        let got = comparison_loss(&tensor(&[1.0, 0.5]), &voted, 0.0).unwrap();
        let got = f64::from(got.to_scalar::<f32>().unwrap());
        let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
        let want = -2.0 * (2.0 / 3.0 * log_sigmoid(0.3) + 1.0 / 3.0 * log_sigmoid(-0.3));
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }

    #[test]
    fn ranking_loss_is_the_mean_over_pairs_with_the_chosen_rule_for_ties() {
        let scores = tensor(&[2.0, 1.0, 0.5, -1.0]);
        for (ties, want) in [(Ties::Skip, 0.178_321f32), (Ties::Half, 0.269_280)] {
            let terms = ranking_comparisons(&[1.0, 2.0, 2.0, 4.0], 0, ties, 1.0);
            let got: f32 = comparison_loss(&scores, &terms, 0.0)
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!((got - want).abs() < 1e-5, "{ties:?}: {got} against {want}");
        }
    }

    /// Closed form `log Σ e^{r_i} − r_best` (scripts/oracle/losses.py); K equal scores give ln K.
    #[test]
    fn best_of_k_is_softmax_cross_entropy() {
        let loss = |rows: &[&[f32]], best: &[u32], weights: &[f32], smoothing: f64| -> f32 {
            let scores = tensor(&rows.concat()).reshape((rows.len(), ())).unwrap();
            let loss = best_of_loss(&scores, best, weights, smoothing).unwrap();
            loss.to_scalar().unwrap()
        };
        let (apart, equal) = ([2.0, 1.0, 0.5, -1.0], [0.3; 4]);
        assert!((loss(&[&apart], &[0], &[1.0], 0.0) - 0.495_182).abs() < 1e-5);
        assert!((loss(&[&equal], &[2], &[1.0], 0.0) - 4f32.ln()).abs() < 1e-6);
        let both = loss(&[&apart, &equal], &[0, 2], &[0.5, 2.0], 0.0);
        assert!((both - (0.5 * 0.495_182 + 2.0 * 4f32.ln())).abs() < 1e-5);
        // Of two it is the smoothed pair, (1−ε)·.313262 + ε·1.313262.
        let two = loss(&[&[1.0, 2.0]], &[1], &[1.0], 0.1);
        assert!((two - (0.9 * 0.313_262 + 0.1 * 1.313_262)).abs() < 1e-5);
    }

    /// Closed form `log(1 + e^{r}) − y r`, stable at ±50 (scripts/oracle/losses.py).
    #[test]
    fn thumbs_loss_is_stable_binary_cross_entropy() {
        for (r, y, want) in [
            (2.0, 1.0, 0.126_928),
            (2.0, 0.0, 2.126_928),
            (-50.0, 1.0, 50.0),
        ] {
            let got: f32 = thumbs_loss(&tensor(&[r]), &tensor(&[y]), &tensor(&[1.0]))
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!((got - want).abs() < 1e-5, "r {r} y {y}: {got}");
        }
    }

    /// Closed form: ½(1−3)² · ½ + ½(2−0)² · ¼ = 1.5.
    #[test]
    fn rating_loss_is_weighted_half_squared_error() {
        let got = rating_loss(
            &tensor(&[1.0, 2.0]),
            &tensor(&[3.0, 0.0]),
            &tensor(&[0.5, 0.25]),
        )
        .unwrap();
        assert_eq!(got.to_scalar::<f32>().unwrap(), 1.5);
    }

    /// Closed forms at Δ = 1: (1−ε)·.313262 + ε·1.313262; centering (r_w + r_l)² = 9.
    #[test]
    fn smoothing_and_centering_match_their_closed_forms() {
        let term = [Comparison {
            winner: 0,
            loser: 1,
            margin: 0.0,
            weight: 1.0,
        }];
        let scores = tensor(&[2.0, 1.0]);
        let smoothed: f32 = comparison_loss(&scores, &term, 0.1)
            .unwrap()
            .to_scalar()
            .unwrap();
        assert!((smoothed - (0.9 * 0.313_262 + 0.1 * 1.313_262)).abs() < 1e-5);
        assert_eq!(
            centering_loss(&scores, &term)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap(),
            9.0
        );
    }
}
