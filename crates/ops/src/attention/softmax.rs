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

vectorised! {
    /// Replaces scores with probabilities `p = e^(score − normaliser)`, and `dp = g·vᵀ` with the gradient of the scores,
    /// `p∘(g·vᵀ − g·o)`; both are 0 where not visible.
    pub(super) fn softmax_backward(scores: &mut [f32], dp: &mut [f32], visible: Range<usize>, normaliser: f32, g: &[f32], o: &[f32]) {
        let delta = sum2(g, o, |g, o| g * o);
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
