//! Holding out rows for evaluation, by prompt.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::error::{Error, Result};

/// Splits `rows` into training and held-out rows so that rows with the same key (the prompt; where there is none, the text)
/// are on the same side. Both sides keep the order of `rows`.
///
/// Of the distinct keys, in order of first appearance, key n (from 0) is held out when `⌊(n+1)·fraction⌋ > ⌊n·fraction⌋`
/// (Bresenham's line): of N keys `⌊N·fraction⌋` are held out, evenly spread over the file, and more rows at its end move no row
/// to the other side. `fraction` must lie in [0, 1).
pub fn hold_out<T, K: Hash + Eq>(
    rows: Vec<T>,
    fraction: f64,
    key: impl Fn(&T) -> K,
) -> Result<(Vec<T>, Vec<T>)> {
    check_eval_fraction(fraction)?;
    let mut keys = HashMap::new();
    Ok(rows.into_iter().partition(|row| {
        let next = keys.len();
        let n: usize = *keys.entry(key(row)).or_insert(next);
        ((n + 1) as f64 * fraction).floor() == (n as f64 * fraction).floor()
    }))
}

/// As [`hold_out`], but where the share of few keys is none, the rows with the last key are held out, unless `fraction` is 0: where something
/// must be measured there is something to measure on.
pub fn hold_out_some<T, K: Hash + Eq>(
    rows: Vec<T>,
    fraction: f64,
    key: impl Fn(&T) -> K,
) -> Result<(Vec<T>, Vec<T>)> {
    let (trained, held_out) = hold_out(rows, fraction, &key)?;
    Ok(match trained.last().map(&key) {
        Some(last) if held_out.is_empty() && fraction > 0.0 => {
            trained.into_iter().partition(|row| key(row) != last)
        }
        _ => (trained, held_out),
    })
}

/// Errors on a share that [`hold_out`] does not take. Settings are checked with it where files of their own make the share unused, too.
pub fn check_eval_fraction(fraction: f64) -> Result<()> {
    match (0.0..1.0).contains(&fraction) {
        true => Ok(()),
        false => Err(Error::EvalFraction(fraction)),
    }
}

/// The number of held-out rows, given by their keys, whose key is also that of a training row: where the two come from
/// separate files, these rows measure memory.
pub fn count_shared<K: Hash + Eq>(
    train: impl IntoIterator<Item = K>,
    held_out: impl IntoIterator<Item = K>,
) -> usize {
    let train: HashSet<K> = train.into_iter().collect();
    held_out
        .into_iter()
        .filter(|key| train.contains(key))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::rng::{below, stream};

    /// Rows (key, place) with keys drawn from `0..keys`.
    fn rows(n: usize, keys: usize) -> Vec<(usize, usize)> {
        let mut rng = stream(n as u64, "test", keys as u64);
        (0..n).map(|place| (below(&mut rng, keys), place)).collect()
    }

    fn distinct(rows: &[(usize, usize)]) -> HashSet<usize> {
        rows.iter().map(|row| row.0).collect()
    }

    #[test]
    fn no_key_is_on_both_sides_the_share_is_that_of_the_keys_and_order_is_kept() {
        for (n, keys) in [(0, 1), (1, 1), (50, 7), (200, 40), (300, 100_000)] {
            for fraction in [0.0, 0.02, 0.25, 1.0 / 3.0, 0.5, 0.7, 0.999] {
                let all = rows(n, keys);
                let (train, held_out) = hold_out(all.clone(), fraction, |row| row.0).unwrap();
                assert!(distinct(&train).is_disjoint(&distinct(&held_out)));
                let expected = (distinct(&all).len() as f64 * fraction).floor();
                assert_eq!(distinct(&held_out).len(), expected as usize);
                assert_eq!(train.len() + held_out.len(), n);
                for side in [&train, &held_out] {
                    assert!(side.is_sorted_by_key(|row| row.1));
                }
                assert_eq!(
                    hold_out(all, fraction, |row| row.0).unwrap(),
                    (train, held_out)
                );
            }
        }
    }

    #[test]
    fn every_stretch_of_the_file_has_its_share() {
        let (_, held_out) = hold_out((0..1000).collect(), 0.1, |&row: &usize| row).unwrap();
        for first in (0..1000).step_by(100) {
            let here = held_out
                .iter()
                .filter(|row| (first..first + 100).contains(*row));
            assert_eq!(here.count(), 10);
        }
    }

    #[test]
    fn rows_at_the_end_move_no_row_to_the_other_side() {
        let all = rows(200, 60);
        let side = |n: usize| hold_out(all[..n].to_vec(), 0.3, |row| row.0).unwrap().1;
        let long = side(200);
        let short = side(150);
        assert_eq!(long[..short.len()], short);
        assert!(long[short.len()..].iter().all(|row| row.1 >= 150));
    }

    #[test]
    fn a_fraction_outside_zero_to_one_is_an_error_that_names_it() {
        for fraction in [1.0, 1.5, -0.1, f64::NAN, f64::INFINITY] {
            let error = hold_out(vec![1, 2], fraction, |&row| row).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{fraction} is no share to hold out: it must be at least 0 and below 1")
            );
        }
    }

    #[test]
    fn of_few_keys_the_last_is_held_out_wherever_it_occurs() {
        let split = |rows: &[&'static str], share| hold_out_some(rows.to_vec(), share, |&key| key);
        let few = ["a", "b", "c", "b"];
        let expected = (vec!["a", "c"], vec!["b", "b"]);
        assert_eq!(split(&few, 0.1).unwrap(), expected);
        assert_eq!(split(&few, 0.0).unwrap(), (few.to_vec(), vec![]));
        assert_eq!(split(&[], 0.1).unwrap(), (vec![], vec![]));
        // ⌊3·0.5⌋ = 1 of three keys is held out anyway.
        let enough = hold_out(few.to_vec(), 0.5, |&key| key).unwrap();
        assert_eq!(split(&few, 0.5).unwrap(), enough);
    }

    #[test]
    fn held_out_rows_with_a_training_key_are_counted() {
        // 2 and 2 again are also trained on; 9 is not.
        assert_eq!(count_shared([1, 2, 2], [2, 9, 2]), 2);
        assert_eq!(count_shared::<u8>([], [1]), 0);
    }
}
