//! The gated delta rule on the CPU: heads side by side, each along the sequences and their prefixes.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Device, Layout as Strides, Result, Shape, Tensor};
use rayon::prelude::*;

use super::DeltaHeads;
use super::chunk::{Chunk, Operands, TOKENS};
use crate::cpu::buffer::{fill, write_zeros};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::layout::Layout;

pub(super) struct GatedDeltaRule {
    pub(super) heads: DeltaHeads,
    pub(super) layout: Layout,
}

/// The chunks of a segment.
fn chunks(tokens: &Range<usize>) -> impl DoubleEndedIterator<Item = Range<usize>> {
    let Range { start, end } = *tokens;
    let count = tokens.len().div_ceil(TOKENS);
    (0..count).map(move |i| start + i * TOKENS..(start + (i + 1) * TOKENS).min(end))
}

/// Walks `head` along the stream: `visit` gets every chunk with its tokens and the state before it. The state after every segment, in order.
fn walk(
    operands: Operands<'_>,
    head: usize,
    layout: &Layout,
    mut visit: impl FnMut(&Chunk, Range<usize>, &[f32]),
) -> Vec<Vec<f32>> {
    let size = operands.heads.key_dim * operands.heads.value_dim;
    let mut ends: Vec<Vec<f32>> = Vec::with_capacity(layout.segments().len());
    let mut of_root: HashMap<usize, usize> = HashMap::new();
    for (i, segment) in layout.segments().iter().enumerate() {
        let mut s = match segment.prefix.is_empty() {
            true => vec![0.0; size],
            false => ends[of_root[&segment.prefix.start]].clone(),
        };
        for tokens in chunks(&segment.tokens) {
            let chunk = Chunk::new(operands, head, tokens.clone(), &s);
            visit(&chunk, tokens, &s);
            chunk.advance(&mut s);
        }
        if segment.prefix.is_empty() && !segment.tokens.is_empty() {
            of_root.insert(segment.tokens.start, i);
        }
        ends.push(s);
    }
    ends
}

impl GatedDeltaRule {
    fn forward(&self, operands: Operands<'_>) -> Vec<f32> {
        let (heads, layout) = (self.heads, &self.layout);
        let width = heads.value_dim;
        let of_head = |head: usize| {
            let mut o = vec![0.0; layout.tokens() * width];
            walk(operands, head, layout, |chunk, tokens, s| {
                o[tokens.start * width..tokens.end * width].copy_from_slice(&chunk.output(s));
            });
            o
        };
        let parts: Vec<Vec<f32>> = (0..heads.values).into_par_iter().map(of_head).collect();
        side_by_side(&parts, layout.tokens(), width)
    }
}

/// The rows of each part, of `width`, next to each other.
fn side_by_side(parts: &[Vec<f32>], rows: usize, width: usize) -> Vec<f32> {
    let row = parts.len() * width;
    fill(rows * row, row, |at, piece| {
        let piece = write_zeros(piece);
        for (i, out) in piece.chunks_exact_mut(row.max(1)).enumerate() {
            let from = (at / row + i) * width;
            for (out, part) in out.chunks_exact_mut(width.max(1)).zip(parts) {
                out.copy_from_slice(&part[from..][..width]);
            }
        }
        piece
    })
}

/// Gradients of what one head of keys and its heads of values read.
struct HeadGradients {
    /// `[T, D]`.
    q: Vec<f32>,
    k: Vec<f32>,
    /// By head of values, `[T, Dv]`.
    v: Vec<Vec<f32>>,
    /// By head of values, `[T]`.
    g: Vec<Vec<f32>>,
    beta: Vec<Vec<f32>>,
}

impl GatedDeltaRule {
    fn backward(&self, operands: Operands<'_>, d_o: &[f32], key: usize) -> HeadGradients {
        let (heads, tokens) = (self.heads, self.layout.tokens());
        let mut all = HeadGradients {
            q: vec![0.0; tokens * heads.key_dim],
            k: vec![0.0; tokens * heads.key_dim],
            v: Vec::new(),
            g: Vec::new(),
            beta: Vec::new(),
        };
        let group = heads.group();
        for head in key * group..(key + 1) * group {
            self.backward_head(operands, d_o, head, &mut all);
        }
        all
    }

    /// The states are computed once more, and kept before every chunk; then the chunks are visited from the last to the first.
    fn backward_head(
        &self,
        operands: Operands<'_>,
        d_o: &[f32],
        head: usize,
        all: &mut HeadGradients,
    ) {
        let (heads, layout) = (self.heads, &self.layout);
        let (dim, width, tokens) = (heads.key_dim, heads.value_dim, layout.tokens());
        let mut before: Vec<Vec<f32>> = Vec::new();
        walk(operands, head, layout, |_, _, s| before.push(s.to_vec()));
        let mut v = vec![0.0; tokens * width];
        let (mut g, mut beta) = (vec![0.0; tokens], vec![0.0; tokens]);
        // Of the state at the end of a prefix: the sum over what continues it.
        let mut d_ends: HashMap<usize, Vec<f32>> = HashMap::new();
        let scale = heads.scale() as f32;
        for segment in layout.segments().iter().rev() {
            let d_s = match segment.prefix.is_empty() {
                true => d_ends.remove(&segment.tokens.start),
                false => None,
            };
            let mut d_s = d_s.unwrap_or_else(|| vec![0.0; dim * width]);
            for rows in chunks(&segment.tokens).rev() {
                let s = before.pop().unwrap_or_default();
                let chunk = Chunk::new(operands, head, rows.clone(), &s);
                let mut d_rows = Vec::with_capacity(rows.len() * width);
                for row in rows.clone() {
                    let at = row * heads.values * width + head * width;
                    d_rows.extend_from_slice(&d_o[at..][..width]);
                }
                let found = chunk.backward(&s, &d_rows, &mut d_s);
                let keys = rows.start * dim..rows.end * dim;
                let into_q = all.q[keys.clone()].iter_mut();
                into_q.zip(&found.q).for_each(|(sum, d)| *sum += scale * d);
                let into_k = all.k[keys].iter_mut();
                into_k.zip(&found.k).for_each(|(sum, d)| *sum += d);
                v[rows.start * width..rows.end * width].copy_from_slice(&found.v);
                g[rows.clone()].copy_from_slice(&found.g);
                beta[rows].copy_from_slice(&found.beta);
            }
            if !segment.prefix.is_empty() {
                let sum = d_ends.entry(segment.prefix.start);
                let sum = sum.or_insert_with(|| vec![0.0; dim * width]);
                sum.iter_mut().zip(&d_s).for_each(|(sum, d)| *sum += d);
            }
        }
        all.v.push(v);
        all.g.push(g);
        all.beta.push(beta);
    }
}

impl CustomOp3 for GatedDeltaRule {
    fn name(&self) -> &'static str {
        "gated_delta_rule"
    }

    fn cpu_fwd(
        &self,
        qk: &CpuStorage,
        qk_strides: &Strides,
        v: &CpuStorage,
        v_strides: &Strides,
        gates: &CpuStorage,
        gates_strides: &Strides,
    ) -> Result<(CpuStorage, Shape)> {
        let operands = Operands {
            qk: &elements(qk, qk_strides)?,
            v: &elements(v, v_strides)?,
            gates: &elements(gates, gates_strides)?,
            heads: self.heads,
        };
        output(self.forward(operands), v_strides.shape())
    }

    fn bwd(
        &self,
        qk: &Tensor,
        v: &Tensor,
        gates: &Tensor,
        _o: &Tensor,
        d_o: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let all = [qk, v, gates, d_o].map(Operand::of);
        let [qk_values, v_values, gate_values, d_o] = Operand::all(&all)?;
        let operands = Operands {
            qk: &qk_values,
            v: &v_values,
            gates: &gate_values,
            heads: self.heads,
        };
        let (heads, tokens) = (self.heads, self.layout.tokens());
        let keys = (0..heads.keys).into_par_iter();
        let found: Vec<_> = keys.map(|key| self.backward(operands, &d_o, key)).collect();
        let (mut d_qk, mut d_v, mut d_gates) = (Vec::new(), Vec::new(), Vec::new());
        let mut d_k = Vec::new();
        let mut d_beta = Vec::new();
        for of_key in found {
            d_qk.push(of_key.q);
            d_k.push(of_key.k);
            d_v.extend(of_key.v);
            d_gates.extend(of_key.g);
            d_beta.extend(of_key.beta);
        }
        d_qk.append(&mut d_k);
        d_gates.append(&mut d_beta);
        Ok((
            gradient(side_by_side(&d_qk, tokens, heads.key_dim), qk)?,
            gradient(side_by_side(&d_v, tokens, heads.value_dim), v)?,
            gradient(side_by_side(&d_gates, tokens, 1), gates)?,
        ))
    }
}

/// [`delta_states`](super::delta_states).
pub(super) fn states(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Vec<Tensor>> {
    let all = [qk, v, gates].map(Operand::of);
    let [qk, v, gates] = Operand::all(&all)?;
    let operands = Operands {
        qk: &qk,
        v: &v,
        gates: &gates,
        heads,
    };
    let of_heads = (0..heads.values).into_par_iter();
    let of_heads: Vec<_> = of_heads
        .map(|head| walk(operands, head, layout, |_, _, _| {}))
        .collect();
    let shape = (heads.values, heads.key_dim, heads.value_dim);
    let of_segment = |segment: usize| {
        let values = of_heads
            .iter()
            .flat_map(|ends| ends[segment].iter().copied());
        Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu)
    };
    (0..layout.segments().len()).map(of_segment).collect()
}
