//! The norms of transformer blocks over the kernels in `ops`.

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::Result;

/// `y = (x − mean) / √(var + ε) · weight + bias`, over the last dimension (Ba et al. 2016).
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, epsilon: f64, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
            epsilon,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (&self.weight, &self.bias);
        Ok(rlhf_ops::layer_norm(x, weight, bias, self.epsilon)?)
    }
}

/// `y = x / √(mean(x²) + ε) · weight`, over each stretch of `width` numbers (Zhang and Sennrich 2019).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    epsilon: f64,
    around_one: bool,
}

impl RmsNorm {
    pub(crate) fn new(width: usize, epsilon: f64, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            epsilon,
            around_one: false,
        })
    }

    /// Gemma's: the factor is `1 + weight`, so that weight decay pulls it to 1.
    pub(crate) fn around_one(width: usize, epsilon: f64, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(0.0))?,
            epsilon,
            around_one: true,
        })
    }

    /// One without weights, in the device and number format of `vb`.
    pub(crate) fn unweighted(width: usize, epsilon: f64, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: Tensor::ones(width, vb.dtype(), vb.device())?,
            epsilon,
            around_one: false,
        })
    }

    /// [`forward`](Self::forward) of an `x` in f32, whatever the weights are in.
    pub(crate) fn forward_in_f32(&self, x: &Tensor) -> Result<Tensor> {
        let wide = Self {
            weight: self.weight.to_dtype(DType::F32)?,
            ..*self
        };
        wide.forward(x)
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.around_one {
            true => rlhf_ops::rms_norm_around_one(x, &self.weight, self.epsilon)?,
            false => rlhf_ops::rms_norm(x, &self.weight, self.epsilon)?,
        })
    }
}
