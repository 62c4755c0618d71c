//! A linear layer over the kernel in `ops`.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;

use crate::Result;

/// `y = x·W (+ b)`.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layout: WeightLayout,
}

impl Linear {
    /// `inputs` to `outputs`; the weight starts as N(0, `std`²), the bias as zeros.
    pub(crate) fn new(
        inputs: usize,
        outputs: usize,
        layout: WeightLayout,
        bias: bool,
        std: f64,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let shape = match layout {
            WeightLayout::OutIn => (outputs, inputs),
            WeightLayout::InOut => (inputs, outputs),
        };
        let bias = match bias {
            true => Some(vb.get_with_hints(outputs, "bias", Init::Const(0.0))?),
            false => None,
        };
        Ok(Self {
            weight: vb.get_with_hints(shape, "weight", normal(std))?,
            bias,
            layout,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        Ok(rlhf_ops::linear(x, &self.weight, self.layout, bias)?)
    }

    /// `residual + x·W (+ b)`.
    pub(crate) fn forward_add(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        Ok(match self.bias {
            Some(_) => (residual + self.forward(x)?)?,
            None => rlhf_ops::linear_add(residual, x, &self.weight, self.layout)?,
        })
    }
}

/// N(0, `std`²).
pub(crate) fn normal(std: f64) -> Init {
    Init::Randn {
        mean: 0.0,
        stdev: std,
    }
}
