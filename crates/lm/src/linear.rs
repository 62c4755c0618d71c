//! A linear layer over the kernel in `ops`: the one place where a weight meets an input, and an adapter joins it.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;

use crate::Result;
use crate::lora::layer::LowRank;

/// `y = x·W (+ b)`, and `+ s·B(Ax)` where it has an adapter.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layout: WeightLayout,
    adapter: Option<LowRank>,
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
            adapter: LowRank::of(inputs, outputs, layout, &vb)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let y = rlhf_ops::linear(x, &self.weight, self.layout, bias)?;
        self.adapted(y, x)
    }

    /// `residual + x·W (+ b)`.
    pub(crate) fn forward_add(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        if self.bias.is_some() {
            return Ok((residual + self.forward(x)?)?);
        }
        let y = rlhf_ops::linear_add(residual, x, &self.weight, self.layout)?;
        self.adapted(y, x)
    }

    fn adapted(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        match &self.adapter {
            Some(adapter) => adapter.add_to(&y, x),
            None => Ok(y),
        }
    }
}

/// N(0, `std`²).
pub(crate) fn normal(std: f64) -> Init {
    Init::Randn {
        mean: 0.0,
        stdev: std,
    }
}
