//! The trunk of a language model: token ids in, hidden states out.

use candle_core::Tensor;

use crate::Result;
use crate::attend::Attend;

/// A stack of transformer blocks with its embeddings and final norm; heads sit on top.
pub(crate) trait Trunk: Send + Sync {
    /// Hidden states after the final norm, `[T, H]`, of `ids` and `positions`, both u32 `[T]`.
    fn forward(&self, ids: &Tensor, positions: &Tensor, attend: &mut Attend<'_>) -> Result<Tensor>;

    /// [`forward`](Self::forward), and of a mixture of experts the load-balancing loss.
    fn forward_balanced(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attend: &mut Attend<'_>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        Ok((self.forward(ids, positions, attend)?, None))
    }

    /// Turns gradient checkpointing on or off: a packed pass keeps the input of each block, and the backward pass computes the
    /// block again.
    fn set_checkpointing(&mut self, on: bool);

    /// The embedding of tokens, `[V, H]`.
    fn embedding(&self) -> &Tensor;
}
