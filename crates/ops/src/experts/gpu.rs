//! Experts on a GPU: rows by kernels of our own, and a product for each expert with its rows, however many these are.

use std::sync::{Arc, Mutex};

use candle_core::{Device, DeviceLocation, Result, Tensor};

use super::Routing;
use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{Destination, Kernel, Memory, attach1, attach2, blocks, product};
use crate::upload_lists;

const TEXT: &str = include_str!("kernel.h");

/// The lists of a routing on a device.
#[derive(Debug)]
pub(super) struct Tables {
    /// By token, then by rank: the row.
    rows: Tensor,
    /// By row: the token and rank.
    slots: Tensor,
}

/// The tables that were needed so far, uploaded once for all operations.
#[derive(Debug, Default)]
pub(super) struct Cached(Mutex<Vec<(DeviceLocation, Arc<Tables>)>>);

impl Cached {
    pub(super) fn of(&self, routing: &Routing, device: &Device) -> Result<Arc<Tables>> {
        let location = device.location();
        let mut built = match self.0.lock() {
            Ok(built) => built,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, tables)) = built.iter().find(|b| b.0 == location) {
            return Ok(tables.clone());
        }
        let mut slots = vec![0; routing.rows().len()];
        for (slot, &row) in routing.rows().iter().enumerate() {
            slots[row as usize] = slot as u32;
        }
        let [rows, slots] = upload_lists([routing.rows(), &slots], device)?;
        let tables = Arc::new(Tables { rows, slots });
        built.push((location, tables.clone()));
        Ok(tables)
    }
}

pub(super) fn dispatch(x: &Tensor, routing: &Routing) -> Result<Tensor> {
    let y = rows(x, None, routing)?;
    let routing = routing.clone();
    attach1("dispatch", x, y, move |_, _, g| {
        Ok(Some(sums(g, None, &routing)?.tensor()))
    })
}

pub(super) fn combine(x: &Tensor, weights: &Tensor, routing: &Routing) -> Result<Tensor> {
    let y = sums(x, Some(weights), routing)?;
    let routing = routing.clone();
    attach2("combine", [x, weights], y, move |[x, weights], _, g| {
        let dx = x.track_op().then(|| rows(g, Some(weights), &routing));
        let dweights = weights.track_op().then(|| dots(g, x, weights, &routing));
        Ok([
            dx.transpose()?.map(Memory::tensor),
            dweights.transpose()?.map(Memory::tensor),
        ])
    })
}

/// `y[r] = weight · x[token of r]`.
fn rows(x: &Tensor, weights: Option<&Tensor>, routing: &Routing) -> Result<Memory> {
    let count = routing.rows().len();
    let tables = routing.tables(x.device())?;
    gather("expert_rows", x, (&tables.slots, count), weights, routing)
}

/// `y[t] = Σ_k weight · x[row of (t, k)]`.
fn sums(x: &Tensor, weights: Option<&Tensor>, routing: &Routing) -> Result<Memory> {
    let count = routing.num_tokens();
    let tables = routing.tables(x.device())?;
    gather("expert_sums", x, (&tables.rows, count), weights, routing)
}

fn gather(
    name: &'static str,
    x: &Tensor,
    (list, count): (&Tensor, usize),
    weights: Option<&Tensor>,
    routing: &Routing,
) -> Result<Memory> {
    let (x, width) = (x.detach().contiguous()?, x.dim(1)?);
    let weights = weights.map(|w| w.detach().contiguous()).transpose()?;
    let y = Memory::new((count, width), x.dtype(), x.device())?;
    let kernel = Kernel::new(TEXT, name, x.dtype());
    let arguments = [
        In(&x),
        In(list),
        In(weights.as_ref().unwrap_or(&x)), // not read without weights
        Int(weights.is_some().into()),
        Out(&y),
        Int(count),
        Int(routing.chosen()),
        Int(width),
    ];
    kernel.launch(x.device(), blocks(count, kernel.threads / 32), &arguments)?;
    Ok(y)
}

fn dots(g: &Tensor, x: &Tensor, weights: &Tensor, routing: &Routing) -> Result<Memory> {
    let (g, x) = (g.detach().contiguous()?, x.detach().contiguous()?);
    let (tables, slots) = (routing.tables(x.device())?, routing.rows().len());
    let y = Memory::like(weights)?;
    let kernel = Kernel::new(TEXT, "expert_dots", x.dtype());
    let arguments = [
        In(&g),
        In(&x),
        In(&tables.rows),
        Out(&y),
        Int(slots),
        Int(routing.chosen()),
        Int(x.dim(1)?),
    ];
    kernel.launch(x.device(), blocks(slots, kernel.threads / 32), &arguments)?;
    Ok(y)
}

pub(super) fn expert_linear(x: &Tensor, w: &Tensor, routing: &Routing) -> Result<Tensor> {
    let y = products(x, w, routing, |w| w.t())?;
    let routing = routing.clone();
    attach2("expert_linear", [x, w], y, move |[x, w], _, g| {
        let dx = x.track_op().then(|| products(g, w, &routing, Ok));
        let dx = dx.transpose()?.map(Memory::tensor);
        let dw = match w.track_op() {
            true => weight_gradient(x, w, g, &routing)?,
            false => None,
        };
        Ok([dx, dw])
    })
}

/// The rows of each expert times its matrix, `matrix` of `[out, in]`.
fn products(
    x: &Tensor,
    w: &Tensor,
    routing: &Routing,
    matrix: impl Fn(Tensor) -> Result<Tensor>,
) -> Result<Memory> {
    let (x, w) = (x.detach().contiguous()?, w.detach());
    let width = matrix(w.get(0)?)?.dim(1)?;
    let mut y = Memory::new((x.dim(0)?, width), x.dtype(), x.device())?;
    for (expert, rows) in routing.groups() {
        let own = x.narrow(0, rows.start, rows.len())?;
        let into = Destination::Memory(&mut y);
        product(
            &own,
            &matrix(w.get(expert)?)?,
            into,
            rows.start * width,
            0.0,
        )?;
    }
    Ok(y)
}

/// `dW = Gᵀ·X` of each expert, with its own rows; zero for one without any.
fn weight_gradient(
    x: &Tensor,
    w: &Tensor,
    g: &Tensor,
    routing: &Routing,
) -> Result<Option<Tensor>> {
    let (x, g) = (x.detach().contiguous()?, g.detach().contiguous()?);
    let (_, outputs, inputs) = w.dims3()?;
    sum_on_gpu(w, |sum, add| {
        if !add {
            sum.zero_set()?;
        }
        for (expert, rows) in routing.groups() {
            let own = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            let into = Destination::Tensor(sum);
            let at = expert * outputs * inputs;
            product(&own(&g)?.t()?, &own(&x)?, into, at, 1.0)?;
        }
        Ok(())
    })
}
