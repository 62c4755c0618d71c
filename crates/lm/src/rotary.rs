//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864): the angles by which heads are turned.

mod frequencies;
mod scaling;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use crate::Result;
pub(crate) use frequencies::frequencies;
pub(crate) use scaling::RopeScaling;
use scaling::Yarn;

/// A rotary embedding: which frequencies, and of how much of a head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rope {
    /// The first numbers of every head that are turned, in most models all of them.
    pub(crate) dim: usize,
    /// θ, the base of the frequencies.
    pub(crate) theta: f64,
    /// How they were stretched.
    pub(crate) scaling: RopeScaling,
}

impl Rope {
    /// The value of `rope_parameters`, as `transformers` 5 spells it.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = match self.scaling.to_json() {
            Value::Object(scaling) => scaling,
            _ => Map::from_iter([("rope_type".into(), json!("default"))]),
        };
        json.insert("rope_theta".into(), json!(self.theta));
        Value::Object(json)
    }
}

/// The rotary frequencies of the part of a head that is turned.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    frequencies: Tensor,
    /// Factor of cosine and sine.
    magnitude: f64,
}

impl Rotary {
    /// The frequencies of `rope`.
    pub(crate) fn new(rope: &Rope, device: &Device) -> Result<Self> {
        let frequencies = frequencies(rope.dim, rope.theta, &rope.scaling);
        let shape = (1, frequencies.len());
        Ok(Self {
            frequencies: Tensor::from_vec(frequencies, shape, device)?,
            magnitude: rope.scaling.magnitude(),
        })
    }

    /// `m·cos(p·f_i)` and `m·sin(p·f_i)`, each f32 `[T, dim/2]`, for `positions` u32 `[T]`; m is 1 but for YaRN and LongRoPE.
    pub(crate) fn at(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        let positions = positions.to_dtype(DType::F32)?.unsqueeze(1)?;
        let angles = positions.matmul(&self.frequencies)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        match self.magnitude == 1.0 {
            true => Ok((cos, sin)),
            false => Ok(((cos * self.magnitude)?, (sin * self.magnitude)?)),
        }
    }
}
