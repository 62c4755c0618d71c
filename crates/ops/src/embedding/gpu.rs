//! Rows of a table by index, on a GPU.

use candle_core::{DType, Result, Tensor};

use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{Change, In, Int, Out};
use crate::gpu::{Kernel, Memory, attach1, blocks};

const TEXT: &str = include_str!("kernel.h");

pub(super) fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (rows, d) = table.dims2()?;
    let (ids, stored, n) = (ids.contiguous()?, table.detach().contiguous()?, ids.dim(0)?);
    let y = Memory::new((n, d), table.dtype(), table.device())?;
    let kernel = Kernel::new(TEXT, "embedding", table.dtype());
    let arguments = [In(&ids), In(&stored), Out(&y), Int(n), Int(rows), Int(d)];
    kernel.launch(table.device(), blocks(n, kernel.threads / 32), &arguments)?;
    attach1("embedding", table, y, move |table, _, g| {
        gradient(&ids, table, g)
    })
}

/// Sums over the occurrences of an id in their order, found by a pass over all pairs of ids: sorting them takes more launches than it saves.
fn gradient(ids: &Tensor, table: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
    let ((rows, d), n, g) = (table.dims2()?, ids.dim(0)?, g.detach().contiguous()?);
    let links = Memory::new(2 * n, DType::U32, table.device())?;
    let kernel = Kernel::new(TEXT, "embedding_links", table.dtype());
    kernel.launch(
        table.device(),
        blocks(n, kernel.threads / 32),
        &[In(ids), Out(&links), Int(n)],
    )?;
    let links = links.tensor();
    let kernel = Kernel::new(TEXT, "embedding_backward", table.dtype());
    sum_on_gpu(table, |dtable, add| {
        if !add {
            dtable.zero_set()?;
        }
        let arguments = [
            In(ids),
            In(&links),
            In(&g),
            Change(dtable),
            Int(n),
            Int(rows),
            Int(d),
        ];
        let [tokens, _] = blocks(n, kernel.threads / 32);
        kernel.launch(table.device(), [tokens, d.div_ceil(32)], &arguments)
    })
}
