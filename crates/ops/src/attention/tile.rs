//! Tiles: the unit of work of attention, some queries of one head with all the keys that they see.

use std::ops::Range;

use super::heads::{Heads, Output};
use crate::cpu::buffer::SharedMut;
use crate::cpu::gemm::{Threads, multiply_into};
use crate::cpu::matrix::{Matrix, Target};
use crate::layout::Segment;

/// Queries of a tile. Of the T×T scores only those of a tile, 64 by the number of its keys, exist at a time.
const TILE: usize = 64;

/// Some queries of one segment and head, with the keys that at least one of them sees.
pub(super) struct Tile {
    pub(super) queries: Range<usize>,
    /// Keys in the shared prefix.
    prefix: Range<usize>,
    /// Keys in the segment itself, up to the last query.
    own: Range<usize>,
    pub(super) head: usize,
    kv_head: usize,
    window: Option<usize>,
}

/// The tiles of one segment and head, in order. Keys before the `window` of a tile's first query are in no tile's range, so neither memory
/// nor time is spent on them.
pub(super) fn tiles(
    Segment { tokens, prefix }: &Segment,
    head: usize,
    kv_head: usize,
    window: Option<usize>,
) -> impl Iterator<Item = Tile> {
    tokens.clone().step_by(TILE).map(move |first| {
        let queries = first..tokens.end.min(first + TILE);
        // Positions count from the start of the prefix; the first query sees those from `start` to its own.
        let position = prefix.len() + first - tokens.start;
        let start = window.map_or(0, |window| (position + 1).saturating_sub(window));
        let in_prefix = start.min(prefix.len());
        Tile {
            prefix: prefix.start + in_prefix..prefix.end,
            own: tokens.start + (start - in_prefix)..queries.end,
            queries,
            head,
            kv_head,
            window,
        }
    })
}

impl Tile {
    /// Keys of the tile: the columns of its scores.
    pub(super) fn keys(&self) -> usize {
        self.prefix.len() + self.own.len()
    }

    /// The columns that the `i`th query sees: up to its own, and no more than the window.
    pub(super) fn visible(&self, i: usize) -> Range<usize> {
        let end = self.keys() - self.queries.len() + i + 1;
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        start..end
    }

    /// `scores = scale · queries·keysᵀ`, `[queries, keys]`, those that a query does not see included.
    pub(super) fn scores(
        &self,
        queries: &Heads<'_>,
        keys: &Heads<'_>,
        scale: f32,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(self.queries.len() * self.keys(), 0.0);
        let (buffer, row_stride) = (SharedMut::new(scores), self.keys());
        let rows = queries.rows(&self.queries, self.head);
        for (at, tokens) in [(0, &self.prefix), (self.prefix.len(), &self.own)] {
            if !tokens.is_empty() {
                let target = Target {
                    buffer,
                    at,
                    row_stride,
                };
                // SAFETY: `scores` is initialised and borrowed exclusively.
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

    /// `target = scale · weights·values`, summed over the tile's keys; `weights` is `[queries, keys]`.
    ///
    /// # Safety
    /// Nothing else accesses the target's rows meanwhile. They need not be initialised.
    pub(super) unsafe fn weighted_sum(
        &self,
        target: Target<'_>,
        weights: &[f32],
        values: &Heads<'_>,
        scale: f32,
    ) {
        let (rows, keys) = (self.queries.len(), self.keys());
        if !self.prefix.is_empty() {
            let weights = Matrix::strided(weights, rows, self.prefix.len(), keys);
            // SAFETY: the caller's promise; this does not accumulate.
            unsafe {
                multiply_into(
                    target,
                    weights,
                    values.rows(&self.prefix, self.kv_head),
                    scale,
                    false,
                    Threads::One,
                )
            }
        }
        let weights = Matrix::strided(&weights[self.prefix.len()..], rows, self.own.len(), keys);
        // SAFETY: the caller's promise; this accumulates only to what was written above.
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

    /// `target += scale · weightsᵀ·rows` at the tile's keys: its part of the gradient of keys or values.
    ///
    /// # Safety
    /// The target is initialised, and nothing else accesses the tile's keys of its key head meanwhile.
    pub(super) unsafe fn add_to_keys(
        &self,
        target: Output<'_>,
        weights: &[f32],
        rows: Matrix<'_>,
        scale: f32,
    ) {
        for (at, tokens) in [(0, &self.prefix), (self.prefix.len(), &self.own)] {
            if !tokens.is_empty() {
                let weights = Matrix::strided(
                    &weights[at..],
                    self.queries.len(),
                    tokens.len(),
                    self.keys(),
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
