//! The linear layer.

use candle_core::{Result, Tensor};

/// How a weight matrix lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[out, in]`: PyTorch's `Linear`.
    OutIn,
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
}

/// `y = x·Wᵀ + b` ([`OutIn`](WeightLayout::OutIn)) or `y = x·W + b` ([`InOut`](WeightLayout::InOut)).
///
/// `x` is `[.., in]`, `bias` is `[out]`, the result `[.., out]`. A weight that records no graph gets no gradient, and none is computed
/// for it; the same holds for the input and the bias.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    reference(x, w, layout, bias)
}

/// [`linear`](crate::linear) as a matrix product and an addition.
pub fn reference(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let w = match layout {
        WeightLayout::OutIn => w.t()?,
        WeightLayout::InOut => w.clone(),
    };
    let (inputs, outputs) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let y = x.reshape(((), inputs))?.matmul(&w)?;
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    y.reshape(shape)
}
