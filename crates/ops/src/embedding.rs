//! Rows of a table.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::{
    Operand, Shared, add, clear, elements, fill, fused, gradient, output, unwritten, wide,
};
use crate::sums::give;

/// `y_t = table[ids_t]`: `ids` is `u32 [T]`, `table` is `[V, D]`, the result `[T, D]`. Also picks, of a batch's hidden states, those that
/// carry loss.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (rows, _) = table.dims2()?;
    if ids.rank() != 1 || ids.dtype() != DType::U32 {
        bail!(
            "embedding: expected u32 ids of one dimension, found {:?} {:?}",
            ids.dtype(),
            ids.dims()
        )
    }
    if !fused(&[table]) {
        return reference(ids, table);
    }
    let ids = ids.to_vec1::<u32>()?;
    if let Some((at, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= rows) {
        bail!("embedding: id {id} at place {at} is beyond the table's {rows} rows")
    }
    table.apply_op1(Embedding { ids })
}

/// [`embedding`](crate::embedding) as candle's `index_select`, from a table in `f32` at least: its gradient is a sum over a token's readers.
pub fn reference(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let rows = table.to_dtype(wide(table))?.index_select(ids, 0)?;
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
            for (y, &id) in y.chunks_exact_mut(d.max(1)).zip(&self.ids[at / d.max(1)..]) {
                y.copy_from_slice(&table[id as usize * d..][..d]);
            }
        });
        output(y, (self.ids.len(), d))
    }

    /// Each row that was read gets the sum of its readers' gradients, in the order of the readers.
    fn bwd(&self, table: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (_, d) = table.dims2()?;
        let g = Operand::of(g);
        let g = g.elements()?;
        let mut readers: Vec<usize> = (0..self.ids.len()).collect();
        readers.sort_by_key(|&t| self.ids[t]);
        let by_row: Vec<&[usize]> = readers
            .chunk_by(|&a, &b| self.ids[a] == self.ids[b])
            .collect();
        let into = |dtable: &mut [f32], accumulate: bool| {
            if !accumulate {
                clear(dtable);
            }
            let shared = Shared::new(dtable);
            by_row.par_iter().for_each(|readers| {
                // SAFETY: `dtable` outlives the loop, and every row belongs to one task.
                let row = unsafe { shared.slice(self.ids[readers[0]] as usize * d, d) };
                readers.iter().for_each(|&t| add(row, &g[t * d..][..d]));
            });
        };
        if give(table, into)? {
            return Ok(None);
        }
        let mut dtable = unwritten(table.elem_count());
        into(&mut dtable, false);
        gradient(dtable, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, hold};
    use candle_core::Device;

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut chance = Chance::new(1);
        for (tokens, rows, d) in [(1, 1, 1), (7, 3, 5), (0, 4, 8), (400, 50, 64)] {
            let ids = chance.ids(tokens, rows);
            let operands = [chance.tensor(&[rows, d])];
            hold(
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
        assert!(error.contains("id 3 at place 1"), "{error}");
    }
}
