//! Some queries of one head against all the keys they see: the pieces that attention is worked off in.

use std::ops::Range;

use super::heads::{Heads, Output};
use crate::cpu::{Matrix, Shared, Target, Threads, multiply_into};
use crate::layout::Block;
use crate::simd::{exp, max, sum, sum2, vectorised};

/// Queries of a tile. Its scores, 64 by the number of keys, are all that ever exists of the T×T table.
const TILE: usize = 64;

/// Some queries of one block and head, with the keys they see.
pub(super) struct Tile<'a> {
    pub(super) queries: Range<usize>,
    pub(super) prefix: &'a Range<usize>,
    /// Up to the last query's own; earlier queries see fewer.
    pub(super) own: Range<usize>,
    pub(super) head: usize,
    pub(super) kv_head: usize,
}

/// The tiles of one block and head, in order.
pub(super) fn tiles(block: &Block, head: usize, kv_head: usize) -> impl Iterator<Item = Tile<'_>> {
    let Block { tokens, prefix } = block;
    tokens.clone().step_by(TILE).map(move |first| {
        let queries = first..tokens.end.min(first + TILE);
        Tile {
            own: tokens.start..queries.end,
            queries,
            prefix,
            head,
            kv_head,
        }
    })
}

impl Tile<'_> {
    pub(super) fn seen(&self) -> usize {
        self.prefix.len() + self.own.len()
    }

    /// Keys that the `i`th query sees.
    pub(super) fn visible(&self, i: usize) -> usize {
        self.seen() - self.queries.len() + i + 1
    }

    /// `scores = scale · queries·keysᵀ`, `[queries, seen]`; entries after a query's own token are left for the caller to clear.
    pub(super) fn scores(
        &self,
        queries: &Heads<'_>,
        keys: &Heads<'_>,
        scale: f32,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(self.queries.len() * self.seen(), 0.0);
        let (buffer, row_stride) = (Shared::new(scores), self.seen());
        let rows = queries.rows(&self.queries, self.head);
        for (at, tokens) in [(0, self.prefix), (self.prefix.len(), &self.own)] {
            if !tokens.is_empty() {
                let target = Target {
                    buffer,
                    at,
                    row_stride,
                };
                // SAFETY: `scores` is this task's own.
                unsafe {
                    multiply_into(
                        target,
                        rows,
                        keys.rows(tokens, self.kv_head).t(),
                        scale,
                        false,
                        Threads::One,
                    )
                }
            }
        }
    }

    /// `target (+)= scale · weights·values` over the prefix and the tile's own keys, with `weights` as [`scores`](Self::scores) lays them out.
    ///
    /// # Safety
    /// No other task touches the target's rows.
    pub(super) unsafe fn gather(
        &self,
        target: Target,
        weights: &[f32],
        values: &Heads<'_>,
        scale: f32,
    ) {
        let (rows, seen) = (self.queries.len(), self.seen());
        if !self.prefix.is_empty() {
            let weights = Matrix::strided(weights, rows, self.prefix.len(), seen);
            // SAFETY: the caller's promise.
            unsafe {
                multiply_into(
                    target,
                    weights,
                    values.rows(self.prefix, self.kv_head),
                    scale,
                    false,
                    Threads::One,
                )
            }
        }
        let weights = Matrix::strided(&weights[self.prefix.len()..], rows, self.own.len(), seen);
        // SAFETY: the caller's promise.
        unsafe {
            multiply_into(
                target,
                weights,
                values.rows(&self.own, self.kv_head),
                scale,
                !self.prefix.is_empty(),
                Threads::One,
            )
        }
    }

    /// `target += scale · weightsᵀ·rows`: what the tile's queries add to the prefix and its own keys.
    ///
    /// # Safety
    /// No other task touches these tokens of this key head.
    pub(super) unsafe fn scatter(
        &self,
        target: Output,
        weights: &[f32],
        rows: Matrix<'_>,
        scale: f32,
    ) {
        for (at, tokens) in [(0, self.prefix), (self.prefix.len(), &self.own)] {
            if !tokens.is_empty() {
                let weights = Matrix::strided(
                    &weights[at..],
                    self.queries.len(),
                    tokens.len(),
                    self.seen(),
                );
                // SAFETY: the caller's promise.
                unsafe {
                    multiply_into(
                        target.rows(tokens, self.kv_head),
                        weights.t(),
                        rows,
                        scale,
                        true,
                        Threads::One,
                    )
                }
            }
        }
    }
}

vectorised! {
    /// Turns the first `visible` scores into probabilities and the others into zeros; returns `log Σ e^score`.
    pub(crate) fn soften(row: &mut [f32], visible: usize) -> f32 {
        let (seen, unseen) = row.split_at_mut(visible);
        unseen.fill(0.0);
        let top = max(seen);
        for x in seen.iter_mut() {
            *x = exp(*x - top);
        }
        let total = sum(seen, |x| x);
        let share = 1.0 / total;
        for x in seen.iter_mut() {
            *x *= share;
        }
        top + total.ln()
    }
}

vectorised! {
    /// Scores back to probabilities `p = e^(score − normaliser)`, and `g·vᵀ` to `p∘(g·vᵀ − g·o)`.
    pub(super) fn recall(weights: &mut [f32], slopes: &mut [f32], visible: usize, normaliser: f32, g: &[f32], o: &[f32]) {
        let delta = sum2(g, o, |g, o| g * o);
        weights[visible..].fill(0.0);
        slopes[visible..].fill(0.0);
        for (weight, slope) in weights[..visible].iter_mut().zip(&mut slopes[..visible]) {
            *weight = exp(*weight - normaliser);
            *slope = *weight * (*slope - delta);
        }
    }
}
