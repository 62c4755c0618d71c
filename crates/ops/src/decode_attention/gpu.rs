//! Attention over a cache on a GPU.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor};

use super::{DecodeRows, Steps};
use crate::attention::{AttentionConfig, HeadShape};
use crate::causal_convolution::NONE;
use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, blocks};
use crate::upload;

const TEXT: &str = include_str!("kernel.h");
/// Places that a block visits: few enough that long rows keep a GPU busy.
const PIECE: usize = 256;

/// The lists of rows as tables on a device, parts of one upload for all steps.
#[derive(Debug, Clone)]
struct Tables {
    /// Row, first place and number of places of each piece.
    pieces: Tensor,
    /// The places of all rows, one after another.
    places: Tensor,
    /// The first piece of each row, and the end.
    firsts: Tensor,
    count: usize,
}

/// By device and window, the tables of each step.
type Built = (DeviceLocation, Option<usize>, Arc<Vec<Tables>>);

/// The tables that were needed so far, built and uploaded once for all layers and steps.
#[derive(Debug, Default)]
pub(super) struct Cached(Mutex<Vec<Built>>);

impl Cached {
    fn of(
        &self,
        steps: &Steps,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Arc<Vec<Tables>>> {
        let location = device.location();
        let mut built = match self.0.lock() {
            Ok(built) => built,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, _, tables)) = built.iter().find(|b| b.0 == location && b.1 == window) {
            return Ok(tables.clone());
        }
        let tables = Arc::new(Tables::of_steps(steps, window, device)?);
        built.push((location, window, tables.clone()));
        Ok(tables)
    }
}

/// By device and number of indices, u32 `[steps, R, taps]`.
type Past = (DeviceLocation, usize, Tensor);

/// The last indices that rows see, as far as they were needed: [`DecodeRows::past`].
#[derive(Debug, Default)]
pub(super) struct Pasts(Mutex<Vec<Past>>);

impl Pasts {
    pub(super) fn of(&self, steps: &Steps, taps: usize, device: &Device) -> Result<Tensor> {
        let location = device.location();
        let mut built = match self.0.lock() {
            Ok(built) => built,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, _, past)) = built.iter().find(|b| b.0 == location && b.1 == taps) {
            return Ok(past.clone());
        }
        let (count, rows) = (steps.lengths.len(), steps.rows.len());
        let mut past = Vec::with_capacity(count * rows * taps);
        for step in 0..count {
            for r in 0..rows {
                let row = steps.row(step, r);
                let back = |j: usize| row.len().checked_sub(j + 1).map_or(NONE, |at| row[at]);
                past.extend((0..taps).map(back));
            }
        }
        let past = upload(&past, (count, rows, taps), device)?;
        built.push((location, taps, past.clone()));
        Ok(past)
    }
}

impl Tables {
    fn of_steps(steps: &Steps, window: Option<usize>, device: &Device) -> Result<Vec<Self>> {
        // What a row sees at a step is a part of what it sees in the end, so that its places are there once.
        let (mut starts, mut all) = (Vec::new(), Vec::new());
        for row in &steps.rows {
            starts.push(all.len());
            all.extend_from_slice(row);
        }
        let places = all.len();
        let mut counts = Vec::with_capacity(steps.lengths.len());
        for (step, lengths) in steps.lengths.iter().enumerate() {
            let (mut firsts, mut count) = (vec![0], 0);
            for (r, &length) in lengths.iter().enumerate() {
                for from in (steps.unseen(step, r, window)..length).step_by(PIECE) {
                    let piece = [r, starts[r] + from, PIECE.min(length - from)];
                    all.extend(piece.map(|n| n as u32));
                    count += 1;
                }
                firsts.push(count);
            }
            all.extend(firsts);
            counts.push(count as usize);
        }
        let (all, mut from) = (upload(&all, all.len(), device)?, places);
        let places = all.narrow(0, 0, places)?;
        let mut next = |length: usize| {
            from += length;
            all.narrow(0, from - length, length)
        };
        let rows = steps.rows.len();
        let of = |count: usize| -> Result<Self> {
            Ok(Self {
                pieces: next(3 * count)?,
                places: places.clone(),
                firsts: next(rows + 1)?,
                count,
            })
        };
        counts.into_iter().map(of).collect()
    }
}

pub(super) fn decode_attention(
    q: &Tensor,
    pool_k: &Tensor,
    pool_v: &Tensor,
    rows: &DecodeRows,
    HeadShape { heads, kv_heads, d }: HeadShape,
    config: AttentionConfig,
) -> Result<Tensor> {
    let device = q.device();
    let contiguous = |t: &Tensor| t.detach().contiguous();
    let (q, k, v) = (contiguous(q)?, contiguous(pool_k)?, contiguous(pool_v)?);
    let r = q.dim(0)?;
    let o = Memory::new((r, heads * d), q.dtype(), device)?;
    if r == 0 {
        return Ok(o.tensor());
    }
    let tables = rows.steps.tables.of(&rows.steps, config.window, device)?;
    let tables = &tables[rows.step];
    let parts = Memory::new((tables.count, heads, d + 2), DType::F32, device)?;
    let mut kernel = Kernel::new(TEXT, "decode_pieces", q.dtype());
    kernel.constants = vec![("HEAD", d)];
    kernel.shared = kernel.threads / 32 * (d + 2) * 4;
    let arguments = [
        In(&q),
        In(&k),
        In(&v),
        In(&tables.pieces),
        In(&tables.places),
        Out(&parts),
        Int(heads),
        Int(kv_heads),
        Int(d),
        Float(config.scale),
        Float(config.softcap.unwrap_or(0.0)),
    ];
    kernel.launch(device, [tables.count, heads], &arguments)?;
    let parts = parts.tensor();
    let join = Kernel {
        name: "decode_join",
        shared: 0,
        ..kernel
    };
    let arguments = [
        In(&parts),
        In(&tables.firsts),
        Out(&o),
        Int(r),
        Int(heads),
        Int(d),
    ];
    join.launch(device, blocks(r * heads, join.threads / 32), &arguments)?;
    Ok(o.tensor())
}
