//! The angles of rotary position embedding.

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// How a model's rotary frequencies were stretched to reach longer contexts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    None,
    /// `f ← f / factor`.
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, those between blended.
    Llama3 {
        /// How much longer.
        factor: f64,
        /// Wavelengths above `original / low` are slow.
        low: f64,
        /// Wavelengths below `original / high` are fast.
        high: f64,
        /// The context length before stretching.
        original: f64,
    },
}

impl RopeScaling {
    /// Reads the object that `transformers` 4 calls `rope_scaling` and 5 `rope_parameters`.
    pub(crate) fn from_json(json: &Map<String, Value>) -> Result<Self> {
        let kind = json.get("rope_type").or_else(|| json.get("type"));
        let number = |key: &str| {
            json.get(key).and_then(Value::as_f64).ok_or_else(|| {
                Error::config(format!("rope_scaling.{key} is missing, expected a number"))
            })
        };
        let whole = |key: &str| match number(key)? {
            n if n >= 1.0 && n <= f64::from(u32::MAX) && n.fract() == 0.0 => Ok(n),
            n => Err(Error::config(format!(
                "rope_scaling.{key} = {n}, expected a number of tokens"
            ))),
        };
        match kind.and_then(Value::as_str) {
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: number("factor")?,
            }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: number("factor")?,
                low: number("low_freq_factor")?,
                high: number("high_freq_factor")?,
                original: whole("original_max_position_embeddings")?,
            }),
            Some(other) => Err(Error::config(format!(
                "rope_type {other:?} is not known; expected default, linear or llama3"
            ))),
        }
    }

    /// The value of `rope_scaling`.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            }),
        }
    }
}

/// The rotary frequencies of the part of a head that is rotated.
#[derive(Debug, Clone)]
pub(crate) struct Rotary {
    frequencies: Tensor,
}

impl Rotary {
    /// Frequencies for the first `rotary_dim` numbers of every head, in most models all of them.
    pub(crate) fn new(
        rotary_dim: usize,
        theta: f64,
        scaling: RopeScaling,
        device: &Device,
    ) -> Result<Self> {
        let frequencies = frequencies(rotary_dim, theta, scaling);
        let shape = (1, frequencies.len());
        Ok(Self {
            frequencies: Tensor::from_vec(frequencies, shape, device)?,
        })
    }

    /// `cos(p·f_i)` and `sin(p·f_i)`, each f32 `[T, rotary_dim/2]`, for `positions` u32 `[T]`.
    pub(crate) fn at(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        let positions = positions.to_dtype(DType::F32)?.unsqueeze(1)?;
        let angles = positions.matmul(&self.frequencies)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}

/// `f_i = θ^(−2i/dim)` for i < dim/2 (Su et al. 2021, arXiv:2104.09864, §3.2.2), stretched by `scaling`.
///
/// In f32 throughout, as `transformers` does: at position 8192 one unit in the last place of a
/// frequency turns a head by 5e-4.
pub(crate) fn frequencies(dim: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    (0..dim)
        .step_by(2)
        .map(|i| {
            let f = 1.0 / (theta as f32).powf(i as f32 / dim as f32);
            match scaling {
                RopeScaling::None => f,
                RopeScaling::Linear { factor } => f / factor as f32,
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let (factor, low, high) = (factor as f32, low as f32, high as f32);
                    let periods = original as f32 * f / std::f32::consts::TAU;
                    if periods > high {
                        f
                    } else if periods < low {
                        f / factor
                    } else {
                        let fast = (periods - low) / (high - low);
                        (1.0 - fast) * f / factor + fast * f
                    }
                }
            }
        })
        .collect()
}
