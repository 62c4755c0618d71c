//! Attention on the CPU: tiles of queries against all their keys, probabilities recomputed for the gradient.

use std::collections::HashMap;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout as Strides, Result, Shape, Tensor};
use rayon::prelude::*;

use super::heads::{HeadShape, Heads, Output};
use super::tile::{recall, soften, tiles};
use crate::cpu::{Operand, Shared, gradient, output, unwritten};
use crate::layout::{Block, Layout};

pub(super) struct Attention {
    layout: Layout,
    shape: HeadShape,
    scale: f32,
    /// `log Σ e^score` of each token and head, `[T, Hq]`, left by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
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

impl Attention {
    pub(super) fn new(layout: &Layout, shape: HeadShape, scale: f64) -> Self {
        Self {
            layout: layout.clone(),
            shape,
            scale: scale as f32,
            normalisers: OnceLock::new(),
        }
    }

    fn forward(&self, q: &Heads<'_>, k: &Heads<'_>, v: &Heads<'_>) -> Result<(CpuStorage, Shape)> {
        let HeadShape { heads, d, .. } = self.shape;
        let (tokens, group) = (self.layout.tokens(), self.shape.group());
        let mut out = unwritten(tokens * heads * d);
        let mut normalisers = unwritten(tokens * heads);
        let target = Output {
            buffer: Shared::new(&mut out),
            first: 0,
            stride: heads * d,
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
                    tile.scores(q, k, self.scale, scores);
                    for (i, row) in scores.chunks_exact_mut(tile.seen()).enumerate() {
                        let normaliser = soften(row, tile.visible(i));
                        // SAFETY: `normalisers` outlives the loop, and each token and head is one task's.
                        unsafe {
                            shared_normalisers.slice((tile.queries.start + i) * heads + head, 1)
                                [0] = normaliser
                        }
                    }
                    // SAFETY: `out` outlives the loop, and each token and head is one task's.
                    unsafe { tile.gather(target.rows(&tile.queries, head), scores, v, 1.0) }
                }
            });
        // A second forward pass of one op does not happen; if it did, it would leave the same numbers.
        let _ = self.normalisers.set(normalisers);
        output(out, (tokens, heads * d))
    }

    /// With `p` the probabilities and `δ = g·o`: `dV = pᵀ·g`, `ds = p∘(g·vᵀ − δ)`, `dQ = scale·ds·k`, `dK = scale·dsᵀ·q`.
    ///
    /// A family's sums over its shared prefix run in one task, in order: no races, and one result for any number of threads.
    fn backward(
        &self,
        [q, k, v]: [&Heads<'_>; 3],
        out: &Tensor,
        g: &Tensor,
        [dq, dk, dv]: [Output; 3],
    ) -> Result<()> {
        let HeadShape { heads, kv_heads, d } = self.shape;
        let group = self.shape.group();
        let (out, g) = (Operand::of(out), Operand::of(g));
        let (out, g) = (&Heads::of(&out, d)?, &Heads::of(&g, d)?);
        let Some(normalisers) = self.normalisers.get() else {
            candle_core::bail!("attention: the gradient comes before the forward pass")
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
                    tile.scores(q, k, self.scale, weights);
                    tile.scores(g, v, 1.0, slopes);
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
                            g.row(token, head),
                            out.row(token, head),
                        );
                    }
                    // SAFETY: the buffers outlive the loop; this task alone has the family's tokens of this key head and its query heads.
                    unsafe {
                        tile.gather(dq.rows(&tile.queries, head), slopes, k, self.scale);
                        tile.scatter(dk, slopes, q.rows(&tile.queries, head), self.scale);
                        tile.scatter(dv, weights, g.rows(&tile.queries, head), 1.0);
                    }
                }
            },
        );
        Ok(())
    }
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
        let d = self.shape.d;
        self.forward(
            &Heads::new(q, q_layout, 0, d)?,
            &Heads::new(k, k_layout, 0, d)?,
            &Heads::new(v, v_layout, 0, d)?,
        )
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = self.shape.d;
        let [qs, ks, vs] = &[q, k, v].map(Operand::of);
        let inputs = [&Heads::of(qs, d)?, &Heads::of(ks, d)?, &Heads::of(vs, d)?];
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|t| vec![0.0; t.elem_count()]);
        let target = |buffer: &mut Vec<f32>, of: &Tensor| -> Result<Output> {
            Ok(Output {
                buffer: Shared::new(buffer),
                first: 0,
                stride: of.dim(1)?,
                d,
            })
        };
        let targets = [
            target(&mut dq, q)?,
            target(&mut dk, k)?,
            target(&mut dv, v)?,
        ];
        self.backward(inputs, out, g, targets)?;
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}

/// Attention over one projection that holds queries, keys and values side by side.
pub(super) struct FusedAttention(pub(super) Attention);

impl FusedAttention {
    /// The columns at which queries, keys and values begin, and the width of a row.
    fn columns(&self) -> ([usize; 3], usize) {
        let HeadShape { heads, kv_heads, d } = self.0.shape;
        let (keys, values) = (heads * d, (heads + kv_heads) * d);
        ([0, keys, values], values + kv_heads * d)
    }
}

impl CustomOp1 for FusedAttention {
    fn name(&self) -> &'static str {
        "fused_attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Strides) -> Result<(CpuStorage, Shape)> {
        let (columns, _) = self.columns();
        let heads = |first| Heads::new(qkv, layout, first, self.0.shape.d);
        let [q, k, v] = columns.map(heads);
        self.0.forward(&q?, &k?, &v?)
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (columns, width) = self.columns();
        let d = self.0.shape.d;
        let operand = Operand::of(qkv);
        let [q, k, v] = columns.map(|first| Heads::from(&operand, first, d));
        let mut dqkv = vec![0.0; qkv.elem_count()];
        let buffer = Shared::new(&mut dqkv);
        let targets = columns.map(|first| Output {
            buffer,
            first,
            stride: width,
            d,
        });
        self.0.backward([&q?, &k?, &v?], out, g, targets)?;
        gradient(dqkv, qkv)
    }
}
