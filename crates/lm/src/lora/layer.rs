//! What an adapter adds to the output of a linear layer.

use candle_core::{Device, Tensor};
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;

use super::Adapter;
use crate::{Error, Result};

/// A layer asks its `VarBuilder` for the first of these to learn whether it has an adapter, and says by it how its weight lies in memory.
const ASKED: [(&str, WeightLayout); 2] = [
    ("lora_out_in", WeightLayout::OutIn),
    ("lora_in_out", WeightLayout::InOut),
];
/// Under this name it finds the rank and the scale: a `VarBuilder` has nothing but tensors to give.
const SHAPE: &str = "lora_shape";

/// `s·B(Ax)`: A `[r, in]`, B `[out, r]`.
#[derive(Debug, Clone)]
pub(crate) struct LowRank {
    a: Tensor,
    b: Tensor,
    scale: f64,
}

impl LowRank {
    /// The adapter of the layer at `vb`, if it has one.
    pub(crate) fn of(
        inputs: usize,
        outputs: usize,
        layout: WeightLayout,
        vb: &VarBuilder<'_>,
    ) -> Result<Option<Self>> {
        let asked = ASKED.iter().find(|(_, known)| *known == layout);
        if !asked.is_some_and(|(name, _)| vb.contains_tensor(name)) {
            return Ok(None);
        }
        // On the CPU, whatever the model computes on: reading it does not wait for the device.
        let shape = vb.get(2, SHAPE)?.to_vec1::<f64>()?;
        let (rank, scale) = (shape[0] as usize, shape[1]);
        let bound = 1.0 / (inputs as f64).sqrt();
        let kaiming = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        Ok(Some(Self {
            a: vb.get_with_hints((rank, inputs), "lora_A.weight", kaiming)?,
            b: vb.get_with_hints((outputs, rank), "lora_B.weight", Init::Const(0.0))?,
            scale,
        }))
    }

    /// `y + s·B(Ax)`. The scale goes to the narrow product in the middle.
    pub(crate) fn add_to(&self, y: &Tensor, x: &Tensor) -> Result<Tensor> {
        let inner = rlhf_ops::linear(x, &self.a, WeightLayout::OutIn, None)?;
        let inner = (inner * self.scale)?;
        let out_in = WeightLayout::OutIn;
        Ok(rlhf_ops::linear_add(y, &inner, &self.b, out_in, None)?)
    }
}

/// The module and the layout of the layer that asks for `name` whether it has an adapter; `None` for any other name.
pub(crate) fn asking(name: &str) -> Option<(&str, WeightLayout)> {
    ASKED.iter().find_map(|(asked, layout)| {
        let module = name.strip_suffix(asked)?.strip_suffix('.')?;
        Some((module, *layout))
    })
}

/// Whether `adapter` stands beside the layer that asks for `name`; `None` where `name` is no such question.
pub(crate) fn answer(adapter: Option<&Adapter>, name: &str) -> Option<bool> {
    let (module, _) = asking(name)?;
    Some(adapter.is_some_and(|adapter| adapter.modules.contains_key(module)))
}

/// Rank and scale, where `name` asks for them.
pub(crate) fn shape(adapter: Option<&Adapter>, name: &str) -> Option<candle_core::Result<Tensor>> {
    if name.rsplit('.').next() != Some(SHAPE) {
        return None;
    }
    Some(match adapter {
        Some(adapter) => Tensor::new(&[adapter.rank as f64, adapter.scale()], &Device::Cpu),
        None => Err(Error::Invalid(format!("{name}: there is no adapter")).into()),
    })
}
