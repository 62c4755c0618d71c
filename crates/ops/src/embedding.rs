//! Rows of a table.

use candle_core::{Result, Tensor};

/// `y_t = table[ids_t]`: `ids` is `u32 [T]`, `table` is `[V, D]`, the result `[T, D]`.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    reference(ids, table)
}

/// [`embedding`](crate::embedding) as candle's `index_select`.
pub fn reference(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    table.index_select(ids, 0)
}
