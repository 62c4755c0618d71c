//! A linear layer over the kernel in `ops`: the one place where a weight meets an input, and an adapter joins it.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::{QuantisedWeight, WeightLayout};

use crate::Result;
use crate::lora::layer::LowRank;
use crate::quantised;

/// `y = x·W (+ b)`, and `+ s·B(Ax)` where it has an adapter.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    layout: WeightLayout,
    adapter: Option<LowRank>,
}

/// A weight as it is held.
#[derive(Debug, Clone)]
enum Weight {
    Plain(Tensor),
    /// In blocks of fewer bits, frozen.
    Quantised(QuantisedWeight),
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
        let weight = match quantised::of(&vb, "weight")? {
            Some(blocks) => Weight::Quantised(blocks),
            None => Weight::Plain(vb.get_with_hints(shape, "weight", normal(std))?),
        };
        Ok(Self {
            weight,
            bias,
            layout,
            adapter: LowRank::of(inputs, outputs, layout, &vb)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let y = match &self.weight {
            Weight::Plain(weight) => rlhf_ops::linear(x, weight, self.layout, bias)?,
            Weight::Quantised(weight) => rlhf_ops::quantised_linear(x, weight, bias)?,
        };
        self.adapted(y, x)
    }

    /// `residual + x·W (+ b)`.
    pub(crate) fn forward_add(&self, residual: &Tensor, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref();
        let y = match &self.weight {
            Weight::Plain(weight) => rlhf_ops::linear_add(residual, x, weight, self.layout, bias)?,
            Weight::Quantised(weight) => rlhf_ops::quantised_linear_add(residual, x, weight, bias)?,
        };
        self.adapted(y, x)
    }

    /// `residual + factor · (x·W (+ b))`.
    pub(crate) fn forward_add_scaled(
        &self,
        residual: &Tensor,
        x: &Tensor,
        factor: f64,
    ) -> Result<Tensor> {
        if factor == 1.0 {
            return self.forward_add(residual, x);
        }
        match self.bias {
            Some(_) => Ok(rlhf_ops::add(residual, &(self.forward(x)? * factor)?)?),
            None => self.forward_add(residual, &(x * factor)?),
        }
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
