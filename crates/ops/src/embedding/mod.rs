//! Rows of a table by index.

mod gpu;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::apply::apply1;
use crate::backend::{Backend, backend, reference_dtype};
use crate::backward::sum_gradient;
use crate::cpu::buffer::{SharedMut, add, assume_init, fill, write_copy};
use crate::cpu::operand::{Operand, elements, output};

/// `y_t = table[ids_t]`: `ids` is `u32 [T]`, `table` is `[V, D]`, the result `[T, D]`.
///
/// Besides token embeddings this also selects the rows of a batch's hidden states that contribute to the loss.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    if ids.rank() != 1 || ids.dtype() != DType::U32 {
        bail!(
            "embedding: expected u32 ids of one dimension, found {:?} {:?}",
            ids.dtype(),
            ids.dims()
        )
    }
    match backend(&[table]) {
        Backend::Fused => {}
        Backend::Kernel => return gpu::embedding(ids, table),
        Backend::Reference => return reference(ids, table),
    }
    let ids = ids.to_vec1::<u32>()?;
    if let Some((at, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= rows) {
        bail!("embedding: id {id} at index {at}, expected ids below the table's {rows} rows")
    }
    apply1(table, Embedding { ids })
}

/// [`embedding`](crate::embedding) as candle's `index_select`, from a table in `f32` at least: its gradient sums over all occurrences of an id.
pub fn reference(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let rows = table
        .to_dtype(reference_dtype(table))?
        .index_select(ids, 0)?;
    rows.to_dtype(table.dtype())
}

struct Embedding {
    ids: Vec<u32>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = layout.shape().dims2()?;
        let table = elements(table, layout)?;
        let y = fill(self.ids.len() * d, d, |at, y| {
            let ids = &self.ids[at / d.max(1)..][..y.len() / d.max(1)];
            assert_eq!(y.len(), ids.len() * d);
            for (y, &id) in y.chunks_exact_mut(d.max(1)).zip(ids) {
                write_copy(y, &table[id as usize * d..][..d]);
            }
            // SAFETY: `y` is one row of `d` for each id, and each was written.
            unsafe { assume_init(y) }
        });
        output(y, (self.ids.len(), d))
    }

    /// `dtable_v = Σ g_t` over the `t` with `ids_t = v`, summed in the order of `t`. Rows that no id names are not visited.
    fn bwd(&self, table: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (_, d) = table.dims2()?;
        let g = Operand::of(g);
        let g = g.elements()?;
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        order.sort_by_key(|&t| self.ids[t]);
        let by_id: Vec<&[usize]> = order
            .chunk_by(|&a, &b| self.ids[a] == self.ids[b])
            .collect();
        sum_gradient(table, |sum| {
            let dtable = SharedMut::new(sum.add_to(table.elem_count()));
            by_id.par_iter().for_each(|tokens| {
                // SAFETY: each id is one task's, so each row of the table is too.
                let row = unsafe { dtable.slice(self.ids[tokens[0]] as usize * d, d) };
                tokens.iter().for_each(|&t| add(row, &g[t * d..][..d]));
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};
    use candle_core::Device;

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (tokens, rows, d) in [(1, 1, 1), (7, 3, 5), (0, 4, 8), (400, 50, 64)] {
            let ids = rng.ids(tokens, rows);
            let operands = [rng.tensor(&[rows, d])];
            check_op(
                &format!("embedding {tokens} of {rows}×{d}"),
                &operands,
                |t| embedding(&ids, &t[0]),
                &|t| reference(&ids, &t[0]),
            );
        }
    }

    #[test]
    fn an_id_beyond_the_table_is_named() {
        let table = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
        let error = embedding(&Tensor::new(&[0u32, 3], &Device::Cpu).unwrap(), &table)
            .unwrap_err()
            .to_string();
        assert!(error.contains("id 3 at index 1"), "{error}");
    }
}
