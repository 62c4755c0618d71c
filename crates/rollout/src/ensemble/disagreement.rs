//! How useful a judgement would be, from what the heads of an ensemble disagree about.
//!
//! For two answers i and j and heads h = 1…H, d_h = r_h(i) − r_h(j), and σ(d_h) is the probability with which head h expects i to win.

use rand::RngCore;
use rlhf_base::rng::below;

/// `d_h = r_h(i) − r_h(j)` of every head; `scores` is `[H][answers]`.
pub fn differences(scores: &[Vec<f64>], i: usize, j: usize) -> Vec<f64> {
    scores.iter().map(|own| own[i] - own[j]).collect()
}

/// Mean and population standard deviation over the heads.
pub fn mean_and_sd(by_head: &[f64]) -> (f64, f64) {
    let n = by_head.len() as f64;
    let mean = by_head.iter().sum::<f64>() / n;
    let variance = by_head.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// `H(mean_h σ(d_h)) − mean_h H(σ(d_h))` in nats, with the entropy `H(p) = −p log p − (1−p) log(1−p)`: the mutual information of the
/// judgement and the head. Zero where all heads expect the same, also where all expect a coin toss.
///
/// Source: Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning" (2011), eq. 2 (BALD); named `infomax` in
/// Dwaracherla et al., "Efficient Exploration for LLMs" (2024).
pub fn infomax(differences: &[f64]) -> f64 {
    let n = differences.len() as f64;
    let wins: Vec<f64> = differences.iter().map(|d| sigmoid(*d)).collect();
    let mean = wins.iter().sum::<f64>() / n;
    let own = wins.iter().map(|p| entropy(*p)).sum::<f64>() / n;
    entropy(mean) - own
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn entropy(p: f64) -> f64 {
    surprise(p) + surprise(1.0 - p)
}

/// `−p log p`, and 0 where rounding has left nothing of p.
fn surprise(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

/// `|mean_h d_h| + κ·sd_h d_h`: pairs that may lie far apart, so that their better answer is a good one and their worse a bad one.
///
/// Source: `deltaucb` of ActiveUltraFeedback (2026).
pub fn delta_ucb(differences: &[f64], kappa: f64) -> f64 {
    let (mean, sd) = mean_and_sd(differences);
    mean.abs() + kappa * sd
}

/// The best answers of two heads drawn at random, drawn again while they agree; `None` where all heads agree. `scores` is `[H][answers]`.
///
/// Source: double Thompson sampling (Wu and Liu 2016) over the heads, as in Dwaracherla et al. (2024).
pub fn thompson(scores: &[Vec<f64>], rng: &mut impl RngCore) -> Option<(usize, usize)> {
    let best_of = |own: &Vec<f64>| {
        let better = |best: usize, i: usize| if own[i] > own[best] { i } else { best };
        (1..own.len()).fold(0, better)
    };
    let best: Vec<usize> = scores.iter().map(best_of).collect();
    if best.iter().all(|one| *one == best[0]) {
        return None;
    }
    loop {
        let (first, second) = (best[below(rng, best.len())], best[below(rng, best.len())]);
        if first != second {
            return Some((first, second));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::rng::stream;

    /// Four heads over three answers.
    fn scores() -> Vec<Vec<f64>> {
        [
            [1.0, 0.2, 0.5],
            [0.8, 0.6, 0.1],
            [1.2, 0.0, 0.6],
            [0.9, 0.4, 0.2],
        ]
        .map(|own| own.to_vec())
        .to_vec()
    }

    const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];

    fn assert_of_pairs(of: impl Fn(&[f64]) -> f64, want: [f64; 3]) {
        for ((i, j), want) in PAIRS.into_iter().zip(want) {
            let got = of(&differences(&scores(), i, j));
            assert!((got - want).abs() < 1e-6, "({i}, {j}): {got}, {want}");
        }
    }

    /// The numbers of shared/design/algorithms.md §7, from NumPy (scripts/oracle/losses.py).
    #[test]
    fn means_deviations_and_information_are_those_of_the_definition() {
        for (answer, want) in [0.975, 0.3, 0.35].into_iter().enumerate() {
            let own: Vec<f64> = scores().iter().map(|own| own[answer]).collect();
            assert!((mean_and_sd(&own).0 - want).abs() < 1e-12);
        }
        assert_of_pairs(|d| mean_and_sd(d).1, [0.369_966, 0.082_916, 0.427_200]);
        assert_of_pairs(infomax, [0.014_752, 0.000_786, 0.022_077]);
        assert_of_pairs(|d| delta_ucb(d, 1.0), [1.044_966, 0.707_916, 0.477_200]);
    }

    /// Closed forms: heads that are sure of opposite winners leave ln 2 to learn, heads that agree leave nothing, whatever they expect.
    #[test]
    fn information_is_a_bit_where_sure_heads_disagree_and_nothing_where_all_agree() {
        assert!((infomax(&[900.0, -900.0]) - std::f64::consts::LN_2).abs() < 1e-12);
        for agreed in [0.0, 2.0, -900.0] {
            assert!(infomax(&[agreed; 5]).abs() < 1e-12);
        }
    }

    /// By enumeration: the best answers of the heads are 0, 0, 1 and 2, so of two draws that differ {0, 1} and {0, 2} come 2·2 times in 10
    /// each, and {1, 2} 2 times in 10.
    #[test]
    fn thompson_draws_the_answers_that_two_heads_name() {
        let heads = [
            [3.0, 1.0, 0.0],
            [2.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 1.0, 2.0],
        ]
        .map(|own| own.to_vec());
        let mut rng = stream(3, "test", 0);
        let mut counts = [0.0; 3];
        let draws = 20_000;
        for _ in 0..draws {
            let (i, j) = thompson(&heads, &mut rng).unwrap();
            counts[i.min(j) + i.max(j) - 1] += 1.0 / f64::from(draws);
        }
        // Four standard errors of a share are at most 4·√(¼/20 000) = .0142.
        for (got, want) in counts.into_iter().zip([0.4, 0.4, 0.2]) {
            assert!((got - want).abs() < 0.0142, "{counts:?}");
        }
        assert_eq!(thompson(&heads[..2], &mut rng), None);
    }
}
