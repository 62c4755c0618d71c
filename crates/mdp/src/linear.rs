//! Dense linear systems, small enough for the tables of this crate.

/// Pivots below this are rounding errors: the entries of I − γP are of order 1.
const SINGULAR: f64 = 1e-13;

/// `x` with `A x = b`, by Gaussian elimination with partial pivoting; `A` is `[n][n]`, `b` is `[n]`.
///
/// `None` if A is singular to working precision. (Golub & Van Loan, *Matrix Computations*, §3.4.)
pub(crate) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs()))?;
        if a[pivot][k].abs() < SINGULAR {
            return None;
        }
        a.swap(k, pivot);
        b.swap(k, pivot);
        let (above, below) = a.split_at_mut(k + 1);
        let row = &above[k];
        for (i, other) in below.iter_mut().enumerate() {
            let factor = other[k] / row[k];
            if factor != 0.0 {
                for j in k..n {
                    other[j] -= factor * row[j];
                }
                b[k + 1 + i] -= factor * b[k];
            }
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - known) / a[k][k];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Oracle: the definition. The diagonal dominates, so that the condition number stays near 1.
        #[test]
        fn the_solution_reproduces_the_right_hand_side(
            entries in prop::collection::vec(-1.0f64..1.0, 36), b in prop::collection::vec(-5.0f64..5.0, 6),
        ) {
            let a: Vec<Vec<f64>> = (0..6).map(|i| (0..6).map(|j| entries[6 * i + j] + if i == j { 8.0 } else { 0.0 }).collect()).collect();
            let x = solve(a.clone(), b.clone()).unwrap();
            for i in 0..6 {
                let back: f64 = (0..6).map(|j| a[i][j] * x[j]).sum();
                prop_assert!((back - b[i]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn rows_are_exchanged_when_the_pivot_is_zero() {
        // Closed form: the permutation matrix is its own inverse.
        assert_eq!(
            solve(vec![vec![0.0, 1.0], vec![1.0, 0.0]], vec![3.0, 4.0]),
            Some(vec![4.0, 3.0])
        );
    }

    #[test]
    fn a_singular_system_has_no_solution() {
        assert_eq!(
            solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 2.0]),
            None
        );
    }
}
