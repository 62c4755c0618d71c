//! Attention on the CPU: tiles of queries against all their keys, probabilities recomputed for the gradient.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp3, Layout as Strides, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::cpu::{
    Matrix, Operand, Shared, Target, Threads, elements, gradient, multiply_into, output,
};
use crate::layout::{Block, Layout};
use crate::simd::{exp, max, sum, sum2, vectorised};

/// Queries of a tile. Its scores, 64 by the number of keys, are all that ever exists of the T×T table.
const TILE: usize = 64;

pub(super) struct Attention {
    layout: Layout,
    scale: f32,
    /// `log Σ e^score` of each token and head, `[T, Hq]`, left by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
}

impl Attention {
    pub(super) fn new(layout: &Layout, scale: f64) -> Self {
        Self {
            layout: layout.clone(),
            scale: scale as f32,
            normalisers: OnceLock::new(),
        }
    }
}

/// `[T, H, D]` with a head's elements side by side, and any stride between heads and tokens: parts of one fused projection are read in place.
pub(crate) struct Heads<'a> {
    data: Cow<'a, [f32]>,
    token: usize,
    head: usize,
    d: usize,
}

impl<'a> Heads<'a> {
    fn new(storage: &'a CpuStorage, layout: &Strides) -> Result<Self> {
        let (_, heads, d) = layout.shape().dims3()?;
        Ok(match layout.stride() {
            &[token, head, 1] => Self {
                data: Cow::Borrowed(&storage.as_slice::<f32>()?[layout.start_offset()..]),
                token,
                head,
                d,
            },
            _ => Self {
                data: elements(storage, layout)?,
                token: heads * d,
                head: d,
                d,
            },
        })
    }

    pub(crate) fn of(operand: &'a Operand<'_>) -> Result<Self> {
        let (storage, layout) = operand.stored()?;
        Self::new(storage, layout)
    }

    /// One head of one token.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize, head: usize) -> &[f32] {
        &self.data[token * self.token + head * self.head..][..self.d]
    }

    /// One head of some tokens, a row each.
    fn rows(&self, tokens: &Range<usize>, head: usize) -> Matrix<'_> {
        let start = if tokens.is_empty() {
            0
        } else {
            tokens.start * self.token + head * self.head
        };
        Matrix::strided(&self.data[start..], tokens.len(), self.d, self.token)
    }
}

/// A contiguous `[T, H, D]` that tasks write, each to its own tokens and heads.
#[derive(Clone, Copy)]
struct Output {
    buffer: Shared,
    heads: usize,
    d: usize,
}

impl Output {
    fn rows(self, tokens: &Range<usize>, head: usize) -> Target {
        Target {
            buffer: self.buffer,
            at: (tokens.start * self.heads + head) * self.d,
            row_stride: self.heads * self.d,
        }
    }
}

/// Some queries of one block and head, with the keys they see.
struct Tile<'a> {
    queries: Range<usize>,
    prefix: &'a Range<usize>,
    /// Up to the last query's own; earlier queries see fewer.
    own: Range<usize>,
    head: usize,
    kv_head: usize,
}

/// The tiles of one block and head, in order.
fn tiles(block: &Block, head: usize, kv_head: usize) -> impl Iterator<Item = Tile<'_>> {
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
    fn seen(&self) -> usize {
        self.prefix.len() + self.own.len()
    }

    /// Keys that the `i`th query sees.
    fn visible(&self, i: usize) -> usize {
        self.seen() - self.queries.len() + i + 1
    }

    /// `scores = scale · queries·keysᵀ`, `[queries, seen]`; entries after a query's own token are left for the caller to clear.
    fn scores(&self, queries: &Heads<'_>, keys: &Heads<'_>, scale: f32, scores: &mut Vec<f32>) {
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
    unsafe fn gather(&self, target: Target, weights: &[f32], values: &Heads<'_>, scale: f32) {
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
    unsafe fn scatter(&self, target: Output, weights: &[f32], rows: Matrix<'_>, scale: f32) {
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

/// Blocks that share keys: a prefix and its continuations, or one block alone.
fn families(layout: &Layout) -> Vec<Vec<&Block>> {
    let mut of_root = HashMap::new();
    let mut families: Vec<Vec<&Block>> = Vec::new();
    for block in layout.blocks().iter().filter(|b| !b.tokens.is_empty()) {
        if block.prefix.is_empty() {
            of_root.insert(block.tokens.start, families.len());
            families.push(vec![block]);
        } else {
            families[of_root[&block.prefix.start]].push(block);
        }
    }
    families
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Strides,
        k: &CpuStorage,
        k_layout: &Strides,
        v: &CpuStorage,
        v_layout: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, heads, d) = q_layout.shape().dims3()?;
        let group = heads / k_layout.dims()[1];
        let (q, k, v) = (
            Heads::new(q, q_layout)?,
            Heads::new(k, k_layout)?,
            Heads::new(v, v_layout)?,
        );
        let mut out = vec![0.0; tokens * heads * d];
        let mut normalisers = vec![0.0; tokens * heads];
        let target = Output {
            buffer: Shared::new(&mut out),
            heads,
            d,
        };
        let shared_normalisers = Shared::new(&mut normalisers);
        let tasks: Vec<(&Block, usize)> = self
            .layout
            .blocks()
            .iter()
            .flat_map(|b| (0..heads).map(move |h| (b, h)))
            .collect();
        tasks
            .par_iter()
            .for_each_init(Vec::new, |scores, &(block, head)| {
                for tile in tiles(block, head, head / group) {
                    tile.scores(&q, &k, self.scale, scores);
                    for (i, row) in scores.chunks_exact_mut(tile.seen()).enumerate() {
                        let normaliser = soften(row, tile.visible(i));
                        // SAFETY: `normalisers` outlives the loop, and each token and head is one task's.
                        unsafe {
                            shared_normalisers.slice((tile.queries.start + i) * heads + head, 1)
                                [0] = normaliser
                        }
                    }
                    // SAFETY: `out` outlives the loop, and each token and head is one task's.
                    unsafe { tile.gather(target.rows(&tile.queries, head), scores, &v, 1.0) }
                }
            });
        // A second forward pass of one op does not happen; if it did, it would leave the same numbers.
        let _ = self.normalisers.set(normalisers);
        output(out, q_layout.shape())
    }

    /// With `p` the probabilities and `δ = g·o`: `dV = pᵀ·g`, `ds = p∘(g·vᵀ − δ)`, `dQ = scale·ds·k`, `dK = scale·dsᵀ·q`.
    ///
    /// A family's sums over its shared prefix run in one task, in order: no races, and one result for any number of threads.
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, heads, d) = q.dims3()?;
        let kv_heads = k.dim(1)?;
        let group = heads / kv_heads;
        let [qs, ks, vs, outs, gs] = &[q, k, v, out, g].map(Operand::of);
        let (qs, ks, vs, outs, gs) = (
            &Heads::of(qs)?,
            &Heads::of(ks)?,
            &Heads::of(vs)?,
            &Heads::of(outs)?,
            &Heads::of(gs)?,
        );
        let Some(normalisers) = self.normalisers.get() else {
            candle_core::bail!("attention: the gradient comes before the forward pass")
        };

        let (mut dq, mut dk, mut dv) = (
            vec![0.0; tokens * heads * d],
            vec![0.0; tokens * kv_heads * d],
            vec![0.0; tokens * kv_heads * d],
        );
        let dq_target = Output {
            buffer: Shared::new(&mut dq),
            heads,
            d,
        };
        let dk_target = Output {
            buffer: Shared::new(&mut dk),
            heads: kv_heads,
            d,
        };
        let dv_target = Output {
            buffer: Shared::new(&mut dv),
            heads: kv_heads,
            d,
        };
        let families = families(&self.layout);
        let tasks: Vec<(&Vec<&Block>, usize)> = families
            .iter()
            .flat_map(|f| (0..kv_heads).map(move |h| (f, h)))
            .collect();
        tasks.par_iter().for_each_init(
            || (Vec::new(), Vec::new()),
            |(weights, slopes), &(family, kv_head)| {
                let heads_of_key = kv_head * group..(kv_head + 1) * group;
                for tile in family.iter().flat_map(|b| {
                    heads_of_key
                        .clone()
                        .flat_map(move |head| tiles(b, head, kv_head))
                }) {
                    let head = tile.head;
                    tile.scores(qs, ks, self.scale, weights);
                    tile.scores(gs, vs, 1.0, slopes);
                    let rows = weights
                        .chunks_exact_mut(tile.seen())
                        .zip(slopes.chunks_exact_mut(tile.seen()));
                    for (i, (weights, slopes)) in rows.enumerate() {
                        let token = tile.queries.start + i;
                        recall(
                            weights,
                            slopes,
                            tile.visible(i),
                            normalisers[token * heads + head],
                            gs.row(token, head),
                            outs.row(token, head),
                        );
                    }
                    // SAFETY: the buffers outlive the loop; this task alone has the family's tokens of this key head and its query heads.
                    unsafe {
                        tile.gather(dq_target.rows(&tile.queries, head), slopes, ks, self.scale);
                        tile.scatter(dk_target, slopes, qs.rows(&tile.queries, head), self.scale);
                        tile.scatter(dv_target, weights, gs.rows(&tile.queries, head), 1.0);
                    }
                }
            },
        );
        let dq = if q.track_op() { gradient(dq, q)? } else { None };
        let dk = if k.track_op() { gradient(dk, k)? } else { None };
        let dv = if v.track_op() { gradient(dv, v)? } else { None };
        Ok((dq, dk, dv))
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
    fn recall(weights: &mut [f32], slopes: &mut [f32], visible: usize, normaliser: f32, g: &[f32], o: &[f32]) {
        let delta = sum2(g, o, |g, o| g * o);
        weights[visible..].fill(0.0);
        slopes[visible..].fill(0.0);
        for (weight, slope) in weights[..visible].iter_mut().zip(&mut slopes[..visible]) {
            *weight = exp(*weight - normaliser);
            *slope = *weight * (*slope - delta);
        }
    }
}
