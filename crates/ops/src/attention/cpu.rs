//! Attention on the CPU: by blocks of keys and tiles of queries (Dao 2023, FlashAttention-2, algorithms 1 and 2, in another order of the loops);
//! probabilities are recomputed for the gradient.

use std::collections::HashMap;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout as Strides, Result, Shape, Tensor};
use rayon::prelude::*;

use super::AttentionConfig;
use super::heads::{HeadShape, Heads, Output};
use super::softmax::{delta, join, softmax_backward, softmax_row};
use super::tile::blocks;
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
                for block in blocks(segment) {
                    let keys = block.columns(k, head / group);
                    let values = block.rows(v, head / group);
                    for tile in block.tiles(segment, head, self.window) {
                        tile.scores(q, &keys, self.scale, scores);
                        for (i, row) in scores.chunks_exact_mut(tile.keys()).enumerate() {
                            let (token, visible) = (tile.queries.start + i, tile.visible(i));
                            if let Some(cap) = self.softcap {
                                cap_row(&mut row[visible.clone()], cap);
                            }
                            let of_block = softmax_row(row, visible.clone());
                            // SAFETY: `normalisers` is initialised, and so is what the first tile of a query wrote to `out`; each token
                            // and head is one task's.
                            unsafe {
                                let normaliser =
                                    &mut shared_normalisers.slice(token * heads + head, 1)[0];
                                *normaliser = match tile.is_first {
                                    true => of_block,
                                    false => {
                                        let o = target.row(token, head);
                                        join(*normaliser, o, of_block, &mut row[visible])
                                    }
                                }
                            }
                        }
                        // SAFETY: each token and head of `out` is one task's.
                        unsafe {
                            tile.weighted_sum(
                                target.rows(&tile.queries, head),
                                scores,
                                &values,
                                1.0,
                            )
                        }
                    }
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
        let mut deltas = vec![0.0; normalisers.len()];
        deltas
            .par_chunks_mut(heads)
            .enumerate()
            .for_each(|(token, deltas)| {
                for (head, at) in deltas.iter_mut().enumerate() {
                    *at = delta(g.row(token, head), out.row(token, head));
                }
            });
        let families = families(&self.layout);
        let tasks: Vec<(&Vec<&Segment>, usize)> = families
            .iter()
            .flat_map(|f| (0..kv_heads).map(move |h| (f, h)))
            .collect();
        tasks.par_iter().for_each_init(
            || (Vec::new(), Vec::new(), Vec::new()),
            |(weights, dscores, capped), &(family, kv_head)| {
                let heads_of_key = kv_head * group..(kv_head + 1) * group;
                let of_segments = family
                    .iter()
                    .flat_map(|s| blocks(s).map(move |block| (s, block)));
                for (segment, block) in of_segments {
                    let [keys, values] = [k, v].map(|x| block.columns(x, kv_head));
                    let rows_of_keys = block.rows(k, kv_head);
                    let tiles = heads_of_key
                        .clone()
                        .flat_map(|head| block.tiles(segment, head, self.window));
                    for tile in tiles {
                        let head = tile.head;
                        tile.scores(q, &keys, self.scale, weights);
                        tile.scores(g, &values, 1.0, dscores);
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
                                deltas[token * heads + head],
                            );
                            if let Some(cap) = self.softcap {
                                uncap_gradient(&mut dscores[visible], capped, cap);
                            }
                        }
                        // SAFETY: the buffers are initialised; this task alone has the family's tokens of this key head and its query heads.
                        unsafe {
                            let [q, g] = [q, g].map(|x| x.rows(&tile.queries, head));
                            let target = dq.rows(&tile.queries, head);
                            tile.weighted_sum(target, dscores, &rows_of_keys, self.scale);
                            tile.add_to_keys(dk, kv_head, dscores, q, self.scale);
                            tile.add_to_keys(dv, kv_head, weights, g, 1.0);
                        }
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
