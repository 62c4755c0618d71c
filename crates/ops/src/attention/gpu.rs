//! Attention on a GPU: the launches of `kernel.h`.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::plan::{Plan, PlanKey};
use super::{AttentionConfig, HeadShape, parts};
use crate::gpu::Argument::{Float, In, Int, Out, OutAt};
use crate::gpu::{Argument, Kernel, Memory, Rows, TILE, attach1, attach3, blocks};
use crate::layout::Layout;

const TEXT: &str = include_str!("kernel.h");

/// Sizes of tiles: `rows` of the one that stays, `columns` of those that pass, `head` elements of a head in memory.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
    columns: usize,
    head: usize,
    dtype: DType,
    /// Whether scores are capped, which takes registers.
    capped: bool,
}

/// Bytes of a head that the shared memory of a block has room for: 512 numbers in half precision, 256 in `f32`.
const LARGEST_HEAD: usize = 1024;

/// Bytes of shared memory that every GPU since 2020 gives a block.
const MOST_SHARED: usize = 99 << 10;

/// Whether there are kernels for heads of `d` elements of this type.
pub(super) fn has_heads_of(d: usize, dtype: DType) -> bool {
    d.next_multiple_of(16) * dtype.size_in_bytes() <= LARGEST_HEAD
}

impl Tiles {
    /// As large as [`MOST_SHARED`] has room for in all kernels.
    fn new(d: usize, dtype: DType, capped: bool) -> Self {
        let head = d.next_multiple_of(16);
        let (rows, columns) = match head * dtype.size_in_bytes() {
            ..=128 => (64, 64),
            129..=256 => (64, 32),
            257..=512 => (32, 32),
            // Products in f32 need room of their own.
            961.. if dtype == DType::F32 => (32, 8),
            _ => (32, 16),
        };
        Self {
            rows,
            columns,
            head,
            dtype,
            capped,
        }
    }

    /// A kernel of the text that keeps nothing in shared memory.
    fn kernel_without_tiles(self, name: &'static str) -> Kernel {
        Kernel {
            shared: 0,
            ..self.kernel(name, 0, 0, 0)
        }
    }

    /// A kernel with `staying` and `passing` matrices in shared memory, and `numbers` more in `f32` that pass. Where there is room, what passes has two
    /// places.
    fn kernel(self, name: &'static str, staying: usize, passing: usize, numbers: usize) -> Kernel {
        let (bytes, pad) = (self.dtype.size_in_bytes(), 16 / self.dtype.size_in_bytes());
        // On tensor cores no product leaves the registers.
        let scratch = match self.dtype {
            DType::F32 => self.rows * (self.columns + pad),
            _ => 8,
        };
        let of = |buffers: usize| {
            let rows = staying * self.rows + buffers * passing * self.columns;
            (rows * (self.head + pad) + scratch) * bytes + buffers * numbers * 4
        };
        let buffers = if of(2) <= MOST_SHARED { 2 } else { 1 };
        let mut kernel = Kernel::new(TILE, name, self.dtype);
        kernel.text.push(TEXT);
        kernel.constants = vec![
            ("HEAD", self.head),
            ("BC", self.columns),
            ("BUFFERS", buffers),
            ("CAPPED", self.capped.into()),
        ];
        kernel.threads = 2 * self.rows;
        kernel.shared = of(buffers);
        kernel
    }
}

/// What every kernel of one attention is told.
#[derive(Clone)]
struct Attention {
    plan: Arc<Plan>,
    tiles: Tiles,
    shape: HeadShape,
    config: AttentionConfig,
    /// `L`, `[T, Hq]`.
    normalisers: Tensor,
    /// What rounding took from `O`; without elements for `f32`, or where no gradient will be asked for.
    low: Tensor,
}

/// Where the gradients of queries, keys and values go: memory, first element, elements between tokens.
type Place<'a> = (&'a Memory, usize, usize);

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    shape: HeadShape,
    config: AttentionConfig,
) -> Result<Tensor> {
    let tracked = [q, k, v].iter().any(|t| t.track_op());
    let (attention, o) = forward([q, k, v], layout, shape, config, tracked)?;
    attach3("attention", [q, k, v], o, move |[q, k, v], o, g| {
        let [dq, dk, dv] = [Memory::like(q)?, Memory::like(k)?, Memory::like(v)?];
        let width = |t: &Tensor| t.dim(1);
        let places = [
            (&dq, 0, width(q)?),
            (&dk, 0, width(k)?),
            (&dv, 0, width(v)?),
        ];
        attention.backward([q, k, v], o, g, places)?;
        Ok([dq, dk, dv].map(|d| Some(d.tensor())))
    })
}

pub(super) fn fused_attention(
    qkv: &Tensor,
    layout: &Layout,
    shape: HeadShape,
    config: AttentionConfig,
) -> Result<Tensor> {
    let HeadShape { heads, kv_heads, d } = shape;
    let (q, k, v) = parts(qkv, kv_heads, d)?;
    let (attention, o) = forward([&q, &k, &v], layout, shape, config, qkv.track_op())?;
    attach1("fused_attention", qkv, o, move |qkv, o, g| {
        let (q, k, v) = parts(qkv, kv_heads, d)?;
        let dqkv = Memory::like(qkv)?;
        let firsts = [0, heads * d, (heads + kv_heads) * d];
        let width = qkv.dim(1)?;
        attention.backward(
            [&q, &k, &v],
            o,
            g,
            firsts.map(|first| (&dqkv, first, width)),
        )?;
        Ok(Some(dqkv.tensor()))
    })
}

fn forward(
    operands: [&Tensor; 3],
    layout: &Layout,
    shape: HeadShape,
    config: AttentionConfig,
    tracked: bool,
) -> Result<(Attention, Memory)> {
    let HeadShape { heads, d, .. } = shape;
    let (device, dtype) = (operands[0].device(), operands[0].dtype());
    let tokens = layout.tokens();
    let tiles = Tiles::new(d, dtype, config.softcap.is_some());
    let plan = Plan::of(
        layout,
        PlanKey {
            rows: tiles.rows,
            limit: 8 * tiles.columns,
            window: config.window,
        },
        device,
    )?;
    let kept = tracked && dtype != DType::F32;
    let o = Memory::new((tokens, heads * d), dtype, device)?;
    let low = Memory::new(if kept { tokens * heads * d } else { 0 }, dtype, device)?;
    let l = Memory::new((tokens, heads), DType::F32, device)?;
    let rows = strided(operands)?;
    let mut arguments = read(&rows);
    arguments.extend([
        In(&plan.queries.tensor),
        Out(&o),
        Out(&low),
        Int(kept.into()),
        Out(&l),
    ]);
    arguments.extend(sizes(shape, config));
    let kernel = tiles.kernel("attention_forward", 1, 2, 0);
    kernel.launch(device, [plan.queries.rows, heads], &arguments)?;
    let attention = Attention {
        plan,
        tiles,
        shape,
        config,
        normalisers: l.tensor(),
        low: low.tensor(),
    };
    Ok((attention, o))
}

/// Operands with the distances of their rows.
fn strided(operands: [&Tensor; 3]) -> Result<[Rows; 3]> {
    let [q, k, v] = operands;
    Ok([Rows::of(q)?, Rows::of(k)?, Rows::of(v)?])
}

fn read(rows: &[Rows; 3]) -> Vec<Argument<'_>> {
    rows.iter()
        .flat_map(|rows| [In(&rows.tensor), Int(rows.stride)])
        .collect()
}

/// The last arguments of every kernel: the sizes of heads, and how scores are made.
fn sizes(shape: HeadShape, config: AttentionConfig) -> [Argument<'static>; 6] {
    [
        Int(shape.heads),
        Int(shape.kv_heads),
        Int(shape.d),
        Float(config.scale),
        Int(config.window.unwrap_or(1 << 40)), // longer than any sequence
        Float(config.softcap.unwrap_or(0.0)),
    ]
}

impl Attention {
    /// Writes the gradients of the operands to their places.
    fn backward(
        &self,
        operands: [&Tensor; 3],
        o: &Tensor,
        g: &Tensor,
        [dq, dk, dv]: [Place<'_>; 3],
    ) -> Result<()> {
        let HeadShape { heads, kv_heads, d } = self.shape;
        let (device, plan) = (o.device(), &self.plan);
        let (rows, g) = (strided(operands)?, g.detach().contiguous()?);
        let count = o.dim(0)? * heads;
        let delta = Memory::new(count, DType::F32, device)?;
        let kernel = self.tiles.kernel_without_tiles("attention_delta");
        let arguments = [
            In(&g),
            In(o),
            In(&self.low),
            Int((self.low.elem_count() > 0).into()),
            Out(&delta),
            Int(count),
            Int(d),
        ];
        kernel.launch(device, blocks(count, kernel.threads / 32), &arguments)?;
        let delta = delta.tensor();
        let mut read = read(&rows);
        read.extend([In(&g), In(&self.normalisers), In(&delta)]);
        let sizes = || sizes(self.shape, self.config);
        let place = |(memory, at, stride)| [OutAt(memory, at), Int(stride)];

        let mut arguments = read.clone();
        arguments.push(In(&plan.queries.tensor));
        arguments.extend(place(dq));
        arguments.extend(sizes());
        let kernel = self.tiles.kernel("attention_backward_q", 2, 2, 0);
        kernel.launch(device, [plan.queries.rows, heads], &arguments)?;

        let parts = (plan.slots * self.tiles.rows, kv_heads, 2, d);
        let parts = Memory::new(parts, DType::F32, device)?;
        let mut arguments = read;
        arguments.extend([In(&plan.keys.tensor), In(&plan.ranges.tensor)]);
        arguments.extend(place(dk));
        arguments.extend(place(dv));
        arguments.push(Out(&parts));
        arguments.extend(sizes());
        let numbers = 2 * self.tiles.columns;
        let kernel = self.tiles.kernel("attention_backward_kv", 2, 2, numbers);
        kernel.launch(device, [plan.keys.rows, kv_heads], &arguments)?;

        let parts = parts.tensor();
        let mut arguments = vec![In(&parts), In(&plan.shared.tensor)];
        arguments.extend(place(dk));
        arguments.extend(place(dv));
        arguments.extend([Int(kv_heads), Int(d)]);
        let kernel = self.tiles.kernel_without_tiles("attention_add_parts");
        kernel.launch(device, [plan.shared.rows, kv_heads], &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the table of compute capabilities in the CUDA C++ Programming Guide: 99 KiB a block on 8.6, 8.9 and 12.0, more on the others
    /// from 8.0 on.
    #[test]
    fn every_head_fits_the_shared_memory_of_every_gpu() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for d in (1..=512).filter(|&d| has_heads_of(d, dtype)) {
                let tiles = Tiles::new(d, dtype, false);
                let kernel = tiles.kernel("attention_backward_kv", 2, 2, 2 * tiles.columns);
                assert!(
                    kernel.shared <= MOST_SHARED,
                    "{dtype:?} {d}: {}",
                    kernel.shared
                );
            }
        }
    }
}
