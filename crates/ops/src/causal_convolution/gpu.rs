//! The causal convolution on a GPU.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor};

use super::Past;
use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach2, column_sums, elementwise, rows_per_part};
use crate::layout::Layout;
use crate::upload_lists;

const TEXT: &str = include_str!("kernel.h");

/// A packed batch's past and future as tables on a device.
#[derive(Debug)]
struct Tables {
    /// u32 `[T, L]`.
    past: Tensor,
    /// Where each token's list begins in `seen_by`, and the end.
    starts: Tensor,
    /// The tokens that see a token, each with how far back it is.
    seen_by: Tensor,
}

type Built = (DeviceLocation, usize, Arc<Tables>);

/// The tables that were needed so far, by device and number of weights: built and uploaded once for all layers, forward and backward.
#[derive(Debug, Default)]
pub(crate) struct Cached(Mutex<Vec<Built>>);

impl Cached {
    fn of(&self, layout: &Layout, taps: usize, device: &Device) -> Result<Arc<Tables>> {
        let location = device.location();
        let mut built = match self.0.lock() {
            Ok(built) => built,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, _, tables)) = built.iter().find(|b| b.0 == location && b.1 == taps) {
            return Ok(tables.clone());
        }
        let past = Past::of(layout, taps);
        let (starts, seen_by) = past.future();
        let starts: Vec<u32> = starts.iter().map(|&n| n as u32).collect();
        let seen_by: Vec<u32> = seen_by.iter().flat_map(|&(t, j)| [t, j]).collect();
        let [past, starts, seen_by] = upload_lists([&past.tokens, &starts, &seen_by], device)?;
        let tables = Arc::new(Tables {
            past,
            starts,
            seen_by,
        });
        built.push((location, taps, tables.clone()));
        Ok(tables)
    }
}

pub(super) fn causal_convolution(
    x: &Tensor,
    w: &Tensor,
    layout: &Layout,
    taps: usize,
) -> Result<Tensor> {
    let tables = layout.pasts.of(layout, taps, x.device())?;
    let y = convolve(x, w, &tables.past)?;
    attach2("causal_convolution", [x, w], y, move |operands, _, g| {
        gradient(operands, g, &tables)
    })
}

/// The convolution of the tokens that `past`, u32 of L for each, names in `x`.
pub(super) fn convolve(x: &Tensor, w: &Tensor, past: &Tensor) -> Result<Memory> {
    let (rows, w) = (Rows::of(x)?, w.detach().contiguous()?);
    let (channels, taps) = w.dims2()?;
    let tokens = past.elem_count() / taps;
    let y = Memory::new((tokens, channels), x.dtype(), x.device())?;
    let kernel = Kernel::new(TEXT, "convolve", x.dtype());
    let arguments = [
        In(&rows.tensor),
        Int(rows.stride),
        In(&w),
        In(past),
        Out(&y),
        Int(tokens),
        Int(channels),
        Int(taps),
    ];
    let blocks = elementwise(tokens * channels, &kernel);
    kernel.launch(x.device(), blocks, &arguments)?;
    Ok(y)
}

fn gradient([x, w]: [&Tensor; 2], g: &Tensor, tables: &Tables) -> Result<[Option<Tensor>; 2]> {
    let (device, g) = (x.device(), g.detach().contiguous()?);
    let ((tokens, channels), taps) = (x.dims2()?, w.dim(1)?);
    let (mut dx, mut dw) = (None, None);
    if x.track_op() {
        let (new, weights) = (Memory::like(x)?, w.detach().contiguous()?);
        let kernel = Kernel::new(TEXT, "convolve_backward", x.dtype());
        let arguments = [
            In(&g),
            In(&weights),
            In(&tables.starts),
            In(&tables.seen_by),
            Out(&new),
            Int(tokens),
            Int(channels),
            Int(taps),
        ];
        let blocks = elementwise(tokens * channels, &kernel);
        kernel.launch(device, blocks, &arguments)?;
        dx = Some(new.tensor());
    }
    if w.track_op() {
        let (rows, chunk) = (Rows::of(x)?, rows_per_part(tokens, 1));
        let count = tokens.div_ceil(chunk);
        let parts = Memory::new((count, channels * taps), DType::F32, device)?;
        let kernel = Kernel::new(TEXT, "convolve_weights", x.dtype());
        let arguments = [
            In(&rows.tensor),
            Int(rows.stride),
            In(&g),
            In(&tables.past),
            Out(&parts),
            Int(tokens),
            Int(channels),
            Int(taps),
            Int(chunk),
        ];
        let blocks = [(channels * taps).div_ceil(kernel.threads), count];
        kernel.launch(device, blocks, &arguments)?;
        let parts = parts.tensor();
        dw = sum_on_gpu(w, |sum, add| column_sums(&parts, 0, sum, add))?;
    }
    Ok([dx, dw])
}
