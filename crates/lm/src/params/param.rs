//! One parameter: its value, and what makes it trainable.

use candle_core::{DType, Shape, Tensor, Var};
use rlhf_ops::QuantisedWeight;

use crate::Result;

/// A parameter.
#[derive(Debug, Clone)]
pub(super) struct Param {
    /// What the model reads, in the compute dtype. Where trainable it is a variable, which records a graph. Of a quantised weight the blocks.
    pub(super) value: Tensor,
    /// The weight, where it stays in quantised blocks.
    pub(super) quantised: Option<QuantisedWeight>,
    /// Frozen where absent.
    pub(super) trainable: Option<Master>,
}

/// What makes a parameter trainable.
#[derive(Debug, Clone)]
pub(super) struct Master {
    /// What the optimizer changes, in f32: the variable behind the value itself where the model computes in f32.
    pub(super) weight: Var,
    /// The variable behind the value, of which gradients are taken.
    pub(super) read: Var,
}

impl Param {
    /// Copies `value`.
    pub(super) fn trainable(value: &Tensor, dtype: DType) -> Result<Self> {
        // Var::from_tensor keeps a tensor that already is a variable; detaching first makes it copy.
        let value = value.detach();
        let weight = Var::from_tensor(&value.to_dtype(DType::F32)?.contiguous()?)?;
        let read = match dtype {
            DType::F32 => weight.clone(),
            dtype => Var::from_tensor(&value.to_dtype(dtype)?.contiguous()?)?,
        };
        Ok(Self {
            value: read.as_tensor().clone(),
            quantised: None,
            trainable: Some(Master { weight, read }),
        })
    }

    /// Shares the storage of a `value` that has this dtype already.
    pub(super) fn frozen(value: &Tensor, dtype: DType) -> Result<Self> {
        Ok(Self {
            value: value.detach().to_dtype(dtype)?.contiguous()?,
            quantised: None,
            trainable: None,
        })
    }

    /// Shares the blocks of `weight`.
    pub(super) fn quantised(weight: &QuantisedWeight) -> Self {
        Self {
            value: weight.blocks().clone(),
            quantised: Some(weight.clone()),
            trainable: None,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        match &self.quantised {
            Some(weight) => weight.shape(),
            None => self.value.shape().clone(),
        }
    }

    /// The value as exactly as it is held; of a quantised weight the blocks.
    pub(super) fn exact(&self) -> Tensor {
        match &self.trainable {
            Some(master) => master.weight.as_detached_tensor(),
            None => self.value.clone(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let master = match &self.trainable {
            Some(master) if self.value.dtype() != DType::F32 => bytes(&master.weight),
            _ => 0,
        };
        bytes(&self.value) + master
    }
}
