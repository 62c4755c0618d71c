//! Attention over a cache on a GPU.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, DeviceLocation, Result, Tensor};

use super::DecodeRows;
use crate::attention::{AttentionConfig, HeadShape};
use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Kernel, Memory, blocks};

const TEXT: &str = include_str!("kernel.h");
/// Places that a block visits: few enough that long rows keep a GPU busy.
const PIECE: usize = 256;

/// The lists of rows as tables on a device.
#[derive(Debug)]
struct Tables {
    /// Row, first place and number of places of each piece.
    pieces: Tensor,
    /// The places of all rows, one after another.
    places: Tensor,
    /// The first piece of each row, and the end.
    firsts: Tensor,
    count: usize,
}

type Built = (DeviceLocation, Option<usize>, Arc<Tables>);

/// The tables that were needed so far, built and uploaded once for all layers.
#[derive(Debug, Default)]
pub(super) struct Cached(Mutex<Vec<Built>>);

impl Cached {
    fn of(&self, rows: &DecodeRows, window: Option<usize>, device: &Device) -> Result<Arc<Tables>> {
        let location = device.location();
        let mut built = match self.0.lock() {
            Ok(built) => built,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, _, tables)) = built.iter().find(|b| b.0 == location && b.1 == window) {
            return Ok(tables.clone());
        }
        let tables = Arc::new(Tables::new(rows, window, device)?);
        built.push((location, window, tables.clone()));
        Ok(tables)
    }
}

impl Tables {
    fn new(rows: &DecodeRows, window: Option<usize>, device: &Device) -> Result<Self> {
        let (mut pieces, mut places, mut firsts) = (Vec::new(), Vec::new(), vec![0u32]);
        for r in 0..rows.rows().len() {
            for piece in rows.visible(r, window).chunks(PIECE) {
                pieces.extend([r as u32, places.len() as u32, piece.len() as u32]);
                places.extend_from_slice(piece);
            }
            firsts.push((pieces.len() / 3) as u32);
        }
        let count = pieces.len() / 3;
        Ok(Self {
            pieces: Tensor::new(pieces, device)?,
            places: Tensor::new(places, device)?,
            firsts: Tensor::new(firsts, device)?,
            count,
        })
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
    let tables = rows.tables.of(rows, config.window, device)?;
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
