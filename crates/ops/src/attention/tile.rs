//! Tiles: the unit of work of attention, some queries of one head with those of a block of keys that they see.

use std::ops::Range;

use super::heads::{Heads, Output};
use crate::cpu::buffer::SharedMut;
use crate::cpu::gemm::{Packed, Part, Threads, multiply_into};
use crate::cpu::matrix::{Matrix, Target};
use crate::layout::Segment;

/// Queries of a tile. Of the T×T scores only those of a tile and a block of keys exist at a time.
const TILE: usize = 64;

/// Keys of a block, at most: a second-level cache holds them with the scores of a tile, and [`Packed`] takes no deeper operand.
const BLOCK: usize = 256;

/// Some keys of a segment and of the prefix that it continues. Their places count from the start of the prefix.
pub(super) struct Block {
    places: Range<usize>,
    /// The tokens in the prefix.
    prefix: Range<usize>,
    /// The tokens in the segment itself.
    own: Range<usize>,
    /// Queries of its tiles, at most.
    queries: usize,
}

/// The keys that the tokens of a segment see, in blocks that are as equal as may be.
pub(super) fn blocks(segment: &Segment) -> impl Iterator<Item = Block> {
    let Segment { tokens, prefix } = segment.clone();
    let keys = match tokens.is_empty() {
        true => 0,
        false => prefix.len() + tokens.len(),
    };
    let size = keys.div_ceil(keys.div_ceil(BLOCK).max(1)).max(1);
    (0..keys).step_by(size).map(move |first| {
        let places = first..keys.min(first + size);
        let [in_prefix, own] = parts(&places, prefix.len());
        Block {
            places,
            prefix: moved(in_prefix, prefix.start),
            own: moved(own, tokens.start),
            queries: TILE.min(tokens.len()),
        }
    })
}

/// What of a range lies before `middle`, and what from there on, counted from there.
fn parts(range: &Range<usize>, middle: usize) -> [Range<usize>; 2] {
    let Range { start, end } = *range;
    [
        start.min(middle)..end.min(middle),
        start.saturating_sub(middle)..end.saturating_sub(middle),
    ]
}

fn moved(range: Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Keys or values of a block, copied once for all of its tiles: those of the prefix, and those of the segment.
pub(super) struct OfBlock<'a>([Packed<'a>; 2]);

impl Block {
    /// With a row for each key.
    pub(super) fn rows<'a>(&self, of: &'a Heads<'_>, kv_head: usize) -> OfBlock<'a> {
        OfBlock([&self.prefix, &self.own].map(|t| Packed::new(of.rows(t, kv_head), self.queries)))
    }

    /// With a column for each key.
    pub(super) fn columns<'a>(&self, of: &'a Heads<'_>, kv_head: usize) -> OfBlock<'a> {
        OfBlock(
            [&self.prefix, &self.own].map(|t| Packed::new(of.rows(t, kv_head).t(), self.queries)),
        )
    }

    /// The tiles of one head over this block, in order. Keys before the `window` of a tile's first query are in no tile's range, so neither
    /// memory nor time is spent on them.
    pub(super) fn tiles(
        &self,
        Segment { tokens, prefix }: &Segment,
        head: usize,
        window: Option<usize>,
    ) -> impl Iterator<Item = Tile> {
        tokens.clone().step_by(TILE).filter_map(move |first| {
            let queries = first..tokens.end.min(first + TILE);
            let place = prefix.len() + first - tokens.start;
            let seen = first_seen(place, window)..place + queries.len();
            let places = self.places.start.max(seen.start)..self.places.end.min(seen.end);
            let [in_prefix, in_own] = parts(
                &(places.start - self.places.start
                    ..places.end.max(places.start) - self.places.start),
                self.prefix.len(),
            );
            (!places.is_empty()).then(|| Tile {
                queries,
                place,
                first_key: places.start,
                is_first: places.start == seen.start,
                tokens: [
                    moved(in_prefix.clone(), self.prefix.start),
                    moved(in_own.clone(), self.own.start),
                ],
                in_block: [in_prefix, in_own],
                head,
                window,
            })
        })
    }
}

/// The first place that a query at `place` sees.
fn first_seen(place: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (place + 1).saturating_sub(window))
}

/// Some queries of one segment and head, with the keys of a block that at least one of them sees.
pub(super) struct Tile {
    pub(super) queries: Range<usize>,
    /// Of the first query.
    place: usize,
    /// The place of the first key.
    first_key: usize,
    /// Whether these queries see no keys before those.
    pub(super) is_first: bool,
    /// The keys in the shared prefix and in the segment itself: as tokens,
    tokens: [Range<usize>; 2],
    /// and counted from the first of the block.
    in_block: [Range<usize>; 2],
    pub(super) head: usize,
    window: Option<usize>,
}

impl Tile {
    /// Keys of the tile: the columns of its scores.
    pub(super) fn keys(&self) -> usize {
        self.tokens.iter().map(Range::len).sum()
    }

    /// The columns that the `i`th query sees: up to its own, and no more than the window; maybe none.
    pub(super) fn visible(&self, i: usize) -> Range<usize> {
        let place = self.place + i;
        let column = |place: usize| place.saturating_sub(self.first_key).min(self.keys());
        column(first_seen(place, self.window))..column(place + 1)
    }

    /// The keys in the prefix, then those in the segment, where there are any: their number in the arrays, and their first column.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let columns = [0, self.tokens[0].len()];
        (0..2)
            .zip(columns)
            .filter(|(part, _)| !self.tokens[*part].is_empty())
    }

    /// `scores = scale · queries·keysᵀ`, `[queries, keys]`, those that a query does not see included. The block's `keys` are columns.
    pub(super) fn scores(
        &self,
        queries: &Heads<'_>,
        keys: &OfBlock<'_>,
        scale: f32,
        scores: &mut Vec<f32>,
    ) {
        scores.resize(self.queries.len() * self.keys(), 0.0);
        let (buffer, row_stride) = (SharedMut::new(scores), self.keys());
        let rows = queries.rows(&self.queries, self.head);
        for (part, at) in self.parts() {
            let columns = Part::Columns(self.in_block[part].clone());
            let target = Target {
                buffer,
                at,
                row_stride,
            };
            // SAFETY: `scores` is initialised and borrowed exclusively.
            unsafe { keys.0[part].multiply(columns, target, rows, scale, false) }
        }
    }

    /// `target = scale · weights·values`, or `target += …` where the tile is not the first of its queries, summed over its keys; `weights` is
    /// `[queries, keys]`, and the block's `values` are rows.
    ///
    /// # Safety
    /// Nothing else accesses the target's rows meanwhile. They need not be initialised for the first tile.
    pub(super) unsafe fn weighted_sum(
        &self,
        target: Target<'_>,
        weights: &[f32],
        values: &OfBlock<'_>,
        scale: f32,
    ) {
        let mut accumulate = !self.is_first;
        for (part, at) in self.parts() {
            let rows = Part::Rows(self.in_block[part].clone());
            let weights = self.columns_of(weights, part, at);
            // SAFETY: the caller's promise; this accumulates only to what was written before.
            unsafe { values.0[part].multiply(rows, target, weights, scale, accumulate) }
            accumulate = true;
        }
    }

    /// `target += scale · weightsᵀ·rows` at the tile's keys: its part of the gradient of keys or values.
    ///
    /// # Safety
    /// The target is initialised, and nothing else accesses the tile's keys of its key head meanwhile.
    pub(super) unsafe fn add_to_keys(
        &self,
        target: Output<'_>,
        kv_head: usize,
        weights: &[f32],
        rows: Matrix<'_>,
        scale: f32,
    ) {
        for (part, at) in self.parts() {
            let weights = self.columns_of(weights, part, at).t();
            let target = target.rows(&self.tokens[part], kv_head);
            // SAFETY: the caller's promise.
            unsafe { multiply_into(target, weights, rows, scale, true, Threads::One) }
        }
    }

    /// The columns of a part of the keys.
    fn columns_of<'a>(&self, weights: &'a [f32], part: usize, at: usize) -> Matrix<'a> {
        let (rows, columns) = (self.queries.len(), self.tokens[part].len());
        Matrix::strided(&weights[at..], rows, columns, self.keys())
    }
}
