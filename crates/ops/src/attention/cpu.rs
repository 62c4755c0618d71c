//! Attention on the CPU: by tiles of queries; probabilities are recomputed for the gradient.

use std::collections::HashMap;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout as Strides, Result, Shape, Tensor};
use rayon::prelude::*;

use super::AttentionConfig;
use super::heads::{HeadShape, Heads, Output};
use super::softmax::{softmax_backward, softmax_row};
use super::tile::tiles;
use crate::cpu::buffer::{SharedMut, zeros};
use crate::cpu::operand::{Operand, gradient, output};
use crate::layout::{Layout, Segment};
use crate::softcap::{cap_row, uncap_gradient};

pub(super) struct Attention {
    layout: Layout,
    shape: HeadShape,
    scale: f32,
    window: Option<usize>,
    softcap: Option<f32>,
    /// `log Σ e^score` of each token and head, `[T, Hq]`, stored by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
}

/// Segments that share keys: a prefix with its continuations, or a segment alone.
fn families(layout: &Layout) -> Vec<Vec<&Segment>> {
    let mut of_root = HashMap::new();
    let mut families: Vec<Vec<&Segment>> = Vec::new();
    for segment in layout.segments().iter().filter(|s| !s.tokens.is_empty()) {
        if segment.prefix.is_empty() {
            of_root.insert(segment.tokens.start, families.len());
            families.push(vec![segment]);
        } else {
            families[of_root[&segment.prefix.start]].push(segment);
        }
    }
    families
}

impl Attention {
    pub(super) fn new(layout: &Layout, shape: HeadShape, config: AttentionConfig) -> Self {
        Self {
            layout: layout.clone(),
            shape,
            scale: config.scale as f32,
            window: config.window,
            softcap: config.softcap.map(|cap| cap as f32),
            normalisers: OnceLock::new(),
        }
    }

    fn forward(&self, q: &Heads<'_>, k: &Heads<'_>, v: &Heads<'_>) -> Result<(CpuStorage, Shape)> {
        let HeadShape { heads, d, .. } = self.shape;
        let (tokens, group) = (self.layout.tokens(), self.shape.group());
        let len = tokens * heads * d;
        let mut out = Vec::with_capacity(len);
        let mut normalisers = vec![0.0; tokens * heads];
        let target = Output {
            buffer: SharedMut::uninit(&mut out.spare_capacity_mut()[..len]),
            first: 0,
            stride: heads * d,
            d,
        };
        let shared_normalisers = SharedMut::new(&mut normalisers);
        let tasks: Vec<(&Segment, usize)> = self
            .layout
            .segments()
            .iter()
            .flat_map(|s| (0..heads).map(move |h| (s, h)))
            .collect();
        tasks
            .par_iter()
            .for_each_init(Vec::new, |scores, &(segment, head)| {
                for tile in tiles(segment, head, head / group, self.window) {
                    tile.scores(q, k, self.scale, scores);
                    for (i, row) in scores.chunks_exact_mut(tile.keys()).enumerate() {
                        let at = (tile.queries.start + i) * heads + head;
                        if let Some(cap) = self.softcap {
                            cap_row(&mut row[tile.visible(i)], cap);
                        }
                        let normaliser = softmax_row(row, tile.visible(i));
                        // SAFETY: `normalisers` is initialised, and each token and head is one task's.
                        unsafe { shared_normalisers.slice(at, 1)[0] = normaliser }
                    }
                    // SAFETY: each token and head of `out` is one task's.
                    unsafe { tile.weighted_sum(target.rows(&tile.queries, head), scores, v, 1.0) }
                }
            });
        // SAFETY: the layout's segments cover all tokens, their tiles cover the segments, and `check` saw `heads` heads of `d`: every
        // element of `out` was written.
        unsafe { out.set_len(len) }
        // Already set only by an earlier forward pass of this op, to the same numbers.
        let _ = self.normalisers.set(normalisers);
        output(out, (tokens, heads * d))
    }

    /// With `p` the probabilities and `δ = g·o`: `dV = pᵀ·g`, `ds = p∘(g·vᵀ − δ)`, `dQ = scale·ds·k`, `dK = scale·dsᵀ·q`. A cap multiplies `ds`
    /// by its own derivative.
    ///
    /// One task has a whole family, because all of it adds to the gradient of the shared prefix: no two tasks write the same element, and the
    /// order of the sums does not depend on the number of threads.
    fn backward(
        &self,
        [q, k, v]: [&Heads<'_>; 3],
        out: &Tensor,
        g: &Tensor,
        [dq, dk, dv]: [Output<'_>; 3],
    ) -> Result<()> {
        let HeadShape { heads, kv_heads, d } = self.shape;
        let group = self.shape.group();
        let (out, g) = (Operand::of(out), Operand::of(g));
        let (out, g) = (&Heads::of(&out, d)?, &Heads::of(&g, d)?);
        let Some(normalisers) = self.normalisers.get() else {
            candle_core::bail!("attention: the backward pass ran before the forward pass")
        };
        let families = families(&self.layout);
        let tasks: Vec<(&Vec<&Segment>, usize)> = families
            .iter()
            .flat_map(|f| (0..kv_heads).map(move |h| (f, h)))
            .collect();
        tasks.par_iter().for_each_init(
            || (Vec::new(), Vec::new(), Vec::new()),
            |(weights, dscores, capped), &(family, kv_head)| {
                let heads_of_key = kv_head * group..(kv_head + 1) * group;
                for tile in family.iter().flat_map(|s| {
                    heads_of_key
                        .clone()
                        .flat_map(move |head| tiles(s, head, kv_head, self.window))
                }) {
                    let head = tile.head;
                    tile.scores(q, k, self.scale, weights);
                    tile.scores(g, v, 1.0, dscores);
                    let rows = weights
                        .chunks_exact_mut(tile.keys())
                        .zip(dscores.chunks_exact_mut(tile.keys()));
                    for (i, (weights, dscores)) in rows.enumerate() {
                        let (token, visible) = (tile.queries.start + i, tile.visible(i));
                        if let Some(cap) = self.softcap {
                            cap_row(&mut weights[visible.clone()], cap);
                            capped.clear();
                            capped.extend_from_slice(&weights[visible.clone()]);
                        }
                        softmax_backward(
                            weights,
                            dscores,
                            visible.clone(),
                            normalisers[token * heads + head],
                            g.row(token, head),
                            out.row(token, head),
                        );
                        if let Some(cap) = self.softcap {
                            uncap_gradient(&mut dscores[visible], capped, cap);
                        }
                    }
                    // SAFETY: the buffers are initialised; this task alone has the family's tokens of this key head and its query heads.
                    unsafe {
                        tile.weighted_sum(dq.rows(&tile.queries, head), dscores, k, self.scale);
                        tile.add_to_keys(dk, dscores, q.rows(&tile.queries, head), self.scale);
                        tile.add_to_keys(dv, weights, g.rows(&tile.queries, head), 1.0);
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
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|t| zeros(t.elem_count()));
        let widths = [q.dim(1)?, k.dim(1)?, v.dim(1)?];
        let target = |buffer, stride| Output {
            buffer: SharedMut::new(buffer),
            first: 0,
            stride,
            d,
        };
        let targets = [
            target(&mut dq, widths[0]),
            target(&mut dk, widths[1]),
            target(&mut dv, widths[2]),
        ];
        self.backward(inputs, out, g, targets)?;
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}

/// Attention over one projection that holds queries, keys and values side by side.
pub(super) struct FusedAttention(pub(super) Attention);

impl FusedAttention {
    /// The first columns of queries, keys and values, and the width of a row.
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
        let mut dqkv = zeros(qkv.elem_count());
        let buffer = SharedMut::new(&mut dqkv);
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
