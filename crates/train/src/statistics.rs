//! The numbers in reports: averages with their uncertainty, and how well two lists agree.
//!
//! A number that is not defined (no values, or no variation to explain) is NaN, which `metrics.jsonl` writes as `null`.

use rlhf_base::rng;

/// `x̄ = Σ xᵢ / n`.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// `√(Σ (xᵢ − x̄)² / (n − 1) / n)`: how far the mean of a sample is from the truth, typically. Needs two values.
pub fn standard_error(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let centre = mean(values);
    (values.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt()
}

/// How many times [`bootstrap_interval`] draws: the ends of the interval settle to a few percent of its width.
const RESAMPLES: usize = 2000;

/// The 95 % percentile bootstrap interval of the mean: the 2.5 % and 97.5 % quantiles of the means of resamples drawn with replacement
/// from the stream `(seed, "bootstrap", 0)`.
///
/// Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
pub fn bootstrap_interval(values: &[f64], seed: u64) -> (f64, f64) {
    bootstrap_ratio_interval(values, &vec![1.0; values.len()], seed)
}

/// The same for a ratio of sums, `Σ aᵢ / Σ bᵢ`, whose pairs (aᵢ, bᵢ) are drawn together: the mean over groups of unequal size.
pub fn bootstrap_ratio_interval(numerators: &[f64], denominators: &[f64], seed: u64) -> (f64, f64) {
    debug_assert_eq!(numerators.len(), denominators.len());
    if numerators.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mut draws = rng::stream(seed, "bootstrap", 0);
    let n = numerators.len();
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let (mut above, mut below) = (0.0, 0.0);
            for _ in 0..n {
                let i = rng::below(&mut draws, n);
                above += numerators[i];
                below += denominators[i];
            }
            above / below
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    (quantile(&ratios, 0.025), quantile(&ratios, 0.975))
}

/// The `q`-quantile of ascending values, linear between neighbours.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    below + (above - below) * place.fract()
}

/// Kendall's `τ_b = (C − D) / √((P − T_x)(P − T_y))`: of all P pairs, C in the same order, D in opposite orders, T_x and T_y tied in one list.
///
/// Both lists of the same length. Source: Kendall, The treatment of ties in ranking problems, 1945.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> f64 {
    debug_assert_eq!(x.len(), y.len());
    let (mut difference, mut untied_x, mut untied_y) = (0.0, 0.0, 0.0);
    for i in 0..x.len() {
        for j in 0..i {
            let (dx, dy) = (order(x[i], x[j]), order(y[i], y[j]));
            difference += dx * dy;
            untied_x += dx * dx;
            untied_y += dy * dy;
        }
    }
    difference / (untied_x * untied_y).sqrt()
}

/// 1, 0 or −1 as `a` is above, equal to or below `b`.
fn order(a: f64, b: f64) -> f64 {
    f64::from(i8::from(a > b) - i8::from(a < b))
}

/// Pearson's `r = Σ (xᵢ − x̄)(yᵢ − ȳ) / √(Σ (xᵢ − x̄)² Σ (yᵢ − ȳ)²)`. Both lists of the same length.
pub fn pearson(x: &[f64], y: &[f64]) -> f64 {
    debug_assert_eq!(x.len(), y.len());
    let (mx, my) = (mean(x), mean(y));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xy += (a - mx) * (b - my);
        xx += (a - mx).powi(2);
        yy += (b - my).powi(2);
    }
    xy / (xx * yy).sqrt()
}

/// Spearman's ρ: Pearson's r of the ranks, where equal values share the average of theirs.
pub fn spearman(x: &[f64], y: &[f64]) -> f64 {
    pearson(&ranks(x), &ranks(y))
}

/// The area under the ROC curve, `P(s₊ > s₋) + ½ P(s₊ = s₋)`: how often a positive scores above a negative.
///
/// By the rank sum of the positives (Mann and Whitney, 1947). Both lists of the same length.
pub fn auc(scores: &[f64], positive: &[bool]) -> f64 {
    debug_assert_eq!(scores.len(), positive.len());
    let positives = positive.iter().filter(|&&p| p).count() as f64;
    let negatives = positive.len() as f64 - positives;
    let rank_sum: f64 = ranks(scores)
        .iter()
        .zip(positive)
        .filter(|(_, p)| **p)
        .map(|(r, _)| r)
        .sum();
    (rank_sum - positives * (positives + 1.0) / 2.0) / (positives * negatives)
}

/// Ranks from 1; equal values share the average of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut by_value: Vec<usize> = (0..values.len()).collect();
    by_value.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in by_value.chunk_by(|&a, &b| values[a] == values[b]) {
        let average = start as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = average);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two lists with ties in each, and the answers of SciPy 1.17 and scikit-learn:
    //   stats.kendalltau(x, y), stats.spearmanr(x, y), stats.pearsonr(x, y), stats.sem(x), roc_auc_score(labels, y)
    const X: [f64; 8] = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
    const Y: [f64; 8] = [2.0, 7.0, 1.0, 8.0, 2.0, 8.0, 1.0, 8.0];
    const LABELS: [bool; 8] = [true, false, true, false, false, true, false, true];

    #[track_caller]
    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got}, expected {want}");
    }

    #[test]
    fn the_measures_are_those_of_scipy() {
        close(kendall_tau_b(&X, &Y), 0.16051447078102563);
        close(spearman(&X, &Y), 0.19885368120992467);
        close(pearson(&X, &Y), 0.2096553190730121);
        close(standard_error(&X), 0.9716977043151993);
        close(auc(&Y, &LABELS), 0.5625);
    }

    #[test]
    fn perfect_agreement_is_one_and_perfect_disagreement_minus_one() {
        let up = [1.0, 2.0, 4.0, 8.0];
        let down = [8.0, 4.0, 2.0, 1.0];
        for measure in [kendall_tau_b, spearman] {
            close(measure(&up, &up), 1.0);
            close(measure(&up, &down), -1.0);
        }
        close(pearson(&up, &up.map(|x| 3.0 * x - 7.0)), 1.0);
        close(auc(&up, &[false, false, true, true]), 1.0);
        close(auc(&down, &[false, false, true, true]), 0.0);
    }

    #[test]
    fn auc_is_the_share_of_pairs_won_with_ties_counted_half() {
        let mut won = 0.0;
        let mut pairs = 0.0;
        for i in (0..8).filter(|&i| LABELS[i]) {
            for j in (0..8).filter(|&j| !LABELS[j]) {
                won += (order(X[i], X[j]) + 1.0) / 2.0;
                pairs += 1.0;
            }
        }
        close(auc(&X, &LABELS), won / pairs);
    }

    #[test]
    fn what_is_not_defined_is_nan() {
        let constant = [2.0; 3];
        for measure in [kendall_tau_b, spearman, pearson] {
            assert!(measure(&constant, &[1.0, 2.0, 3.0]).is_nan());
        }
        assert!(auc(&constant, &[true; 3]).is_nan());
        assert!(mean(&[]).is_nan() && standard_error(&[1.0]).is_nan());
        assert!(bootstrap_interval(&[], 0).0.is_nan());
    }

    #[test]
    fn the_interval_holds_the_quantiles_of_all_possible_resamples() {
        // All 5⁵ resamples of five values, by brute force.
        let values = [0.0, 1.0, 3.0, 7.0, 15.0];
        let mut means: Vec<f64> = (0..3125usize)
            .map(|code| {
                (0..5)
                    .map(|d| values[code / 5usize.pow(d) % 5])
                    .sum::<f64>()
                    / 5.0
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let (low, high) = bootstrap_interval(&values, 1);
        // The level of a quantile of 2000 draws has standard deviation √(.025 · .975 / 2000) = .0035: three of them either side.
        assert!(
            (quantile(&means, 0.0145)..=quantile(&means, 0.0355)).contains(&low),
            "{low}"
        );
        assert!(
            (quantile(&means, 0.9645)..=quantile(&means, 0.9855)).contains(&high),
            "{high}"
        );
        assert_eq!(bootstrap_interval(&values, 1), (low, high));
    }

    #[test]
    fn the_interval_of_many_values_is_the_normal_one() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i * 37 % 400)).collect();
        let (low, high) = bootstrap_interval(&values, 7);
        let (centre, error) = (mean(&values), standard_error(&values));
        // The ends of the interval of 2000 draws vary by √(.025 · .975 / 2000) / φ(1.96) = .06 standard errors.
        assert!(
            ((centre - low) / error - 1.96).abs() < 0.2
                && ((high - centre) / error - 1.96).abs() < 0.2
        );
    }
}
