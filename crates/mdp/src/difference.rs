//! How far two tables of numbers lie apart.

/// `max_s |a(s) − b(s)|`, or NaN if a difference is NaN: `f64::max` would skip it, and so would a bound on the result.
pub fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, larger)
}

/// The larger number, or NaN if either is.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_is_nan_wherever_one_is() {
        let (a, b) = ([1.0, 5.0, 2.0], [1.5, 3.0, 2.0]);
        assert_eq!(largest_difference(&a, &b), 2.0);
        for place in 0..3 {
            let mut broken = a;
            broken[place] = f64::NAN;
            assert!(largest_difference(&broken, &b).is_nan());
        }
    }
}
