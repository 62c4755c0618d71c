//! The softmax of attention: one row of scores, of which a range is visible.

use std::ops::Range;

use crate::cpu::simd::{exp, max, sum, sum2, vectorised};

vectorised! {
    /// Replaces the visible scores with probabilities and all others with 0; returns the normaliser `log Σ e^score`.
    pub(crate) fn softmax_row(row: &mut [f32], visible: Range<usize>) -> f32 {
        row[..visible.start].fill(0.0);
        row[visible.end..].fill(0.0);
        let row = &mut row[visible];
        let top = max(row);
        for x in row.iter_mut() {
            *x = exp(*x - top);
        }
        let total = sum(row, |x| x);
        let scale = 1.0 / total;
        for x in row.iter_mut() {
            *x *= scale;
        }
        top + total.ln()
    }
}

/// Joins the softmax over one block of keys, its probabilities and its normaliser `of_block`, to that over the blocks before, of which there are the
/// normaliser and the sum `o` of weighted values: scales both to the softmax over all, whose normaliser it returns.
pub(super) fn join(before: f32, o: &mut [f32], of_block: f32, probabilities: &mut [f32]) -> f32 {
    // Of no keys, which is all that a window may leave of a block, it is −∞, but never of two blocks on end.
    let (larger, smaller) = (before.max(of_block), before.min(of_block));
    let all = larger + (smaller - larger).exp().ln_1p();
    scale_row(o, (before - all).exp());
    scale_row(probabilities, (of_block - all).exp());
    all
}

vectorised! {
    /// `δ = g·o`.
    pub(super) fn delta(g: &[f32], o: &[f32]) -> f32 {
        sum2(g, o, |g, o| g * o)
    }
}

vectorised! {
    fn scale_row(row: &mut [f32], by: f32) {
        for x in row.iter_mut() {
            *x *= by;
        }
    }
}

vectorised! {
    /// Replaces scores with probabilities `p = e^(score − normaliser)`, and `dp = g·vᵀ` with the gradient of the scores,
    /// `p∘(g·vᵀ − δ)`; both are 0 where not visible.
    pub(super) fn softmax_backward(scores: &mut [f32], dp: &mut [f32], visible: Range<usize>, normaliser: f32, delta: f32) {
        for row in [&mut *scores, &mut *dp] {
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
        }
        for (score, dp) in scores[visible.clone()].iter_mut().zip(&mut dp[visible]) {
            *score = exp(*score - normaliser);
            *dp = *score * (*dp - delta);
        }
    }
}
