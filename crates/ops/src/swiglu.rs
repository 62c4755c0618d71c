//! The gated activation of Llama's MLP.

use candle_core::{Result, Tensor};

/// `y = silu(gate)·up`, where `silu(g) = g·σ(g)`. Both operands and the result have one shape. Shazeer 2020, equation 6.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    reference(gate, up)
}

/// [`swiglu`](crate::swiglu) in tensor operations.
pub fn reference(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}
