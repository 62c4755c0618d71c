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
    let n = values.len() as f64;
    bootstrap_interval_of(values.len(), seed, |drawn| {
        drawn.iter().map(|&i| values[i]).sum::<f64>() / n
    })
}

/// The same interval of any statistic of `n` independent units: it is given the indices that were drawn. Resamples in which the statistic is
/// not defined (NaN) are left out; where that is more than half of them, so is the interval.
pub fn bootstrap_interval_of(
    n: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> (f64, f64) {
    let mut draws = rng::stream(seed, "bootstrap", 0);
    let mut drawn = vec![0; n];
    let mut found = Vec::with_capacity(RESAMPLES);
    for _ in 0..if n == 0 { 0 } else { RESAMPLES } {
        drawn.fill_with(|| rng::below(&mut draws, n));
        found.push(statistic(&drawn));
    }
    found.retain(|value| !value.is_nan());
    if found.len() <= RESAMPLES / 2 {
        return (f64::NAN, f64::NAN);
    }
    found.sort_by(f64::total_cmp);
    (quantile(&found, 0.025), quantile(&found, 0.975))
}

/// The 95 % quantile of the standard normal distribution, both sides.
const Z: f64 = 1.959_963_984_540_054;

/// The 95 % Wilson interval of a share: the p₀ with `|p − p₀| ≤ z √(p₀ (1 − p₀) / n)`, so
/// `(p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)`. All or none of a few leaves it wide, where the bootstrap has no width.
///
/// `n` counts independent trials and may be an effective number. Source: Wilson, Probable inference, the law of succession, and
/// statistical inference, 1927.
pub fn wilson_interval(share: f64, n: f64) -> (f64, f64) {
    let z2 = Z * Z / n;
    let centre = share + z2 / 2.0;
    let reach = (share * (1.0 - share) * z2 + z2 * z2 / 4.0).sqrt();
    let end = |x: f64| (x / (1.0 + z2)).clamp(0.0, 1.0);
    (end(centre - reach), end(centre + reach))
}

/// The Wilson interval of a share over groups of unequal size, `p = Σ aᵢ / Σ bᵢ`: group i has bᵢ trials, of which aᵢ succeeded.
///
/// Trials of a group are not independent, so n is the number of independent trials whose share varies as much as this one:
/// `p (1 − p) / v` with `v = Σ (aᵢ − p bᵢ)² / (Σ bᵢ)²`, and no more than there are trials; where nothing varies, the number of groups.
/// Source: Kish, Survey Sampling, 1965 (effective sample size); Franco et al., Comparative study of confidence intervals for
/// proportions in complex sample surveys, 2019.
pub fn grouped_wilson_interval(successes: &[f64], trials: &[f64]) -> (f64, f64) {
    debug_assert_eq!(successes.len(), trials.len());
    let all: f64 = trials.iter().sum();
    let share = successes.iter().sum::<f64>() / all;
    let squares = successes.iter().zip(trials);
    let squares = squares.map(|(a, b)| (a - share * b).powi(2)).sum::<f64>();
    let variance = squares / (all * all);
    let n = if variance > 0.0 {
        (share * (1.0 - share) / variance).min(all)
    } else {
        successes.len() as f64
    };
    wilson_interval(share, n)
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

    /// By hand: both ends p₀ solve (p − p₀)² = z² p₀ (1 − p₀) / n; of all or none of n one end is n / (n + z²), or what it lacks of 1.
    #[test]
    fn the_ends_of_a_wilson_interval_solve_its_equation() {
        for (share, n) in [(0.5, 10.0), (0.9, 40.0), (0.03, 200.0), (0.25, 3.5)] {
            let (low, high) = wilson_interval(share, n);
            assert!(low < share && share < high);
            for end in [low, high] {
                close((share - end).powi(2), Z * Z * end * (1.0 - end) / n);
            }
        }
        let (low, high) = wilson_interval(1.0, 2.0);
        close(low, 2.0 / (2.0 + Z * Z));
        assert_eq!((high, (low * 100.0).round()), (1.0, 34.0));
        let (low, high) = wilson_interval(0.0, 2.0);
        close(high, Z * Z / (2.0 + Z * Z));
        assert_eq!(low, 0.0);
        assert!(wilson_interval(f64::NAN, 0.0).0.is_nan());
    }

    /// By hand: single trials are independent; trials of a group that all agree count as one; a single group too.
    #[test]
    fn trials_of_a_group_that_agree_count_as_one() {
        let single = grouped_wilson_interval(&[1.0, 0.0, 1.0, 1.0], &[1.0; 4]);
        let plain = wilson_interval(0.75, 4.0);
        close(single.0, plain.0);
        close(single.1, plain.1);
        let agreeing = grouped_wilson_interval(&[6.0, 0.0, 6.0, 6.0], &[6.0; 4]);
        close(agreeing.0, plain.0);
        close(agreeing.1, plain.1);
        assert_eq!(
            grouped_wilson_interval(&[6.0, 6.0], &[6.0; 2]),
            wilson_interval(1.0, 2.0)
        );
        assert_eq!(
            grouped_wilson_interval(&[2.0], &[3.0]),
            wilson_interval(2.0 / 3.0, 1.0)
        );
        // Ties, half a success each, vary less than coins, and still are no more than there are of them.
        assert_eq!(
            grouped_wilson_interval(&[0.5, 0.5, 1.0, 0.0], &[1.0; 4]),
            wilson_interval(0.5, 4.0)
        );
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
