//! Agreement between annotators, corrected for what chance alone gives: pure functions of values.

use std::collections::BTreeMap;

/// What a difference between two values counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// All differences are alike.
    Nominal,
    /// Values have an order, and a difference counts the more the more values lie between.
    Ordinal,
}

/// Cohen's `κ = (p_o − p_e) / (1 − p_e)` of pairs of values, one of each annotator: p_o is the share of equal pairs, `p_e = Σ_v p(v) q(v)`
/// what it would be by chance. NaN where chance alone agrees always.
///
/// Source: Cohen, A coefficient of agreement for nominal scales, 1960.
pub(crate) fn cohen_kappa(pairs: &[(f64, f64)]) -> f64 {
    let n = pairs.len() as f64;
    let mut margins: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    let mut equal = 0.0;
    for (a, b) in pairs {
        margins.entry(a.to_bits()).or_default().0 += 1.0;
        margins.entry(b.to_bits()).or_default().1 += 1.0;
        equal += f64::from(u8::from(a == b));
    }
    let chance = margins.values().map(|(a, b)| a * b).sum::<f64>() / (n * n);
    (equal / n - chance) / (1.0 - chance)
}

/// Krippendorff's `α = 1 − D_o / D_e` of units, each with the values that annotators gave to it.
///
/// With the coincidences `o_ck = Σ_units (ordered pairs of c and k) / (m_u − 1)`, `n_c = Σ_k o_ck` and `n = Σ_c n_c`:
/// `D_o = Σ o_ck δ²(c, k) / n`, `D_e = Σ n_c n_k δ²(c, k) / (n (n − 1))`, over c ≠ k. δ² is 1 on the nominal level, and on the ordinal one
/// `(Σ_{c ≤ g ≤ k} n_g − (n_c + n_k)/2)²`. Units with one value say nothing. NaN where all values are equal.
///
/// Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
pub(crate) fn krippendorff_alpha<'a>(
    units: impl IntoIterator<Item = &'a Vec<f64>>,
    level: Level,
) -> f64 {
    let units: Vec<&Vec<f64>> = units.into_iter().filter(|unit| unit.len() > 1).collect();
    let mut values: Vec<f64> = units.iter().flat_map(|unit| unit.iter().copied()).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let v = values.len();
    let place = |value: &f64| values.partition_point(|other| other < value);
    let mut together = vec![0.0; v * v];
    for unit in &units {
        let places: Vec<usize> = unit.iter().map(place).collect();
        for (i, a) in places.iter().enumerate() {
            for (j, b) in places.iter().enumerate() {
                if i != j {
                    together[a * v + b] += 1.0 / (unit.len() - 1) as f64;
                }
            }
        }
    }
    let counts: Vec<f64> = (0..v)
        .map(|c| together[c * v..(c + 1) * v].iter().sum())
        .collect();
    let n: f64 = counts.iter().sum();
    let (mut observed, mut expected) = (0.0, 0.0);
    for c in 0..v {
        for k in c + 1..v {
            let between = counts[c..=k].iter().sum::<f64>() - (counts[c] + counts[k]) / 2.0;
            let difference = match level {
                Level::Nominal => 1.0,
                Level::Ordinal => between * between,
            };
            observed += together[c * v + k] * difference;
            expected += counts[c] * counts[k] * difference;
        }
    }
    1.0 - (n - 1.0) * observed / expected
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: f64 = f64::NAN;
    /// The example of Krippendorff 2011, part C: four annotators, twelve units.
    const EXAMPLE: [[f64; 12]; 4] = [
        [1., 2., 3., 3., 2., 1., 4., 1., 2., N, N, N],
        [1., 2., 3., 3., 2., 2., 4., 1., 2., 5., N, 3.],
        [N, 3., 3., 3., 2., 3., 4., 2., 2., 5., 1., N],
        [1., 2., 3., 3., 2., 4., 4., 1., 2., 5., 1., N],
    ];
    const TWO: [[f64; 8]; 2] = [
        [1., 2., 3., 4., 5., 5., 1., 2.],
        [2., 2., 4., 4., 4., 5., 1., 3.],
    ];

    fn units<const N: usize>(table: &[[f64; N]]) -> Vec<Vec<f64>> {
        let unit = |u: usize| table.iter().map(move |row| row[u]).filter(|x| !x.is_nan());
        (0..N).map(|u| unit(u).collect()).collect()
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-12,
            "{found}, expected {expected}"
        );
    }

    /// scripts/oracle/agreement.py, by the package `krippendorff`.
    #[test]
    fn alpha_is_that_of_the_package() {
        let (example, two) = (units(&EXAMPLE), units(&TWO));
        close(krippendorff_alpha(&example, Level::Nominal), 0.743421052632);
        close(krippendorff_alpha(&example, Level::Ordinal), 0.815387503755);
        close(krippendorff_alpha(&two, Level::Nominal), 0.405940594059);
        close(krippendorff_alpha(&two, Level::Ordinal), 0.877592165899);
    }

    /// The first: shared/design/algorithms.md §7; the second: scripts/oracle/agreement.py, by scikit-learn.
    #[test]
    fn kappa_is_that_of_the_books() {
        let a = [1., 1., 2., 2., 3., 1., 2., 1.];
        let b = [1., 2., 2., 2., 3., 1., 1., 1.];
        let pairs: Vec<(f64, f64)> = a.into_iter().zip(b).collect();
        assert!((cohen_kappa(&pairs) - 0.578947).abs() < 5e-7);
        let pairs: Vec<(f64, f64)> = TWO[0].into_iter().zip(TWO[1]).collect();
        close(cohen_kappa(&pairs), 0.384615384615);
    }

    #[test]
    fn what_chance_alone_explains_is_not_defined() {
        assert!(cohen_kappa(&[(1.0, 1.0), (1.0, 1.0)]).is_nan());
        assert!(krippendorff_alpha(&[vec![1.0, 1.0]], Level::Nominal).is_nan());
        assert!(krippendorff_alpha(&[vec![1.0], vec![2.0]], Level::Ordinal).is_nan());
        close(
            krippendorff_alpha(&[vec![1.0, 1.0], vec![2.0, 2.0]], Level::Nominal),
            1.0,
        );
    }
}
