//! The Gaussian error linear unit, exact and approximated.

use candle_core::{Result, Tensor};

/// `y = x·½(1 + tanh(√(2/π)(x + 0.044715x³)))`: GPT-2's activation (`gelu_new`). Hendrycks, Gimpel 2016.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    reference_tanh(x)
}

/// `y = x·Φ(x) = x·½(1 + erf(x/√2))`. Hendrycks, Gimpel 2016.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    reference_erf(x)
}

/// [`gelu_tanh`](crate::gelu_tanh) as candle's own operation.
pub fn reference_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// [`gelu_erf`](crate::gelu_erf) as candle's own operation.
pub fn reference_erf(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}
