//! How rotary frequencies were stretched to reach longer contexts, as `config.json` says it.

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// How a model's rotary frequencies were stretched to reach longer contexts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RopeScaling {
    /// Not at all.
    None,
    /// `f ← f / factor`.
    Linear {
        /// How much longer.
        factor: f64,
    },
    /// A larger base for sequences beyond the model's length, which are none of ours: up to it, nothing changes.
    Dynamic {
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
    /// YaRN.
    Yarn(Yarn),
    /// LongRoPE.
    LongRope(LongRope),
    /// Gemma 4: the fast frequencies alone, the first `part` of them, divided by `factor`; the others are 0.
    Proportional {
        /// `partial_rotary_factor`, at most 1.
        part: f64,
        /// How much longer.
        factor: f64,
    },
}

/// YaRN (Peng et al. 2023, arXiv:2309.00071): frequencies that turn less than `slow` times within the original length are divided by
/// `factor`, those that turn more than `fast` times kept, those between blended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Yarn {
    /// How much longer.
    pub(crate) factor: f64,
    /// `beta_fast`.
    pub(crate) fast: f64,
    /// `beta_slow`.
    pub(crate) slow: f64,
    /// The context length before stretching.
    pub(crate) original: f64,
    /// Factor of cosine and sine.
    pub(crate) magnitude: f64,
    /// Whether the blend begins and ends at whole numbers of frequencies.
    pub(crate) truncate: bool,
}

/// LongRoPE (Ding et al. 2024, arXiv:2402.13753): every frequency has a divisor for sequences up to the original length, and another for
/// longer ones. With the second, tokens would change when a sequence grows beyond that length: what a model sampled would have another
/// probability in training. So sequences end at the original length.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LongRope {
    /// The divisors up to the original length.
    pub(crate) short: Vec<f64>,
    /// The divisors beyond it, which are saved again.
    pub(crate) long: Vec<f64>,
    /// The context length before stretching.
    pub(crate) original: f64,
    /// Factor of cosine and sine.
    pub(crate) magnitude: f64,
}

impl RopeScaling {
    /// Reads the object that `transformers` 4 calls `rope_scaling` and 5 `rope_parameters`, of a model for `max_length` tokens.
    pub(crate) fn from_json(json: &Map<String, Value>, max_length: usize) -> Result<Self> {
        let keys = RopeKeys { json, max_length };
        let kind = json.get("rope_type").or_else(|| json.get("type"));
        match kind.and_then(Value::as_str) {
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: keys.positive("factor")?,
            }),
            Some("dynamic") => Ok(Self::Dynamic {
                factor: keys.positive("factor")?,
            }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: keys.positive("factor")?,
                low: keys.positive("low_freq_factor")?,
                high: keys.positive("high_freq_factor")?,
                original: keys.required("original_max_position_embeddings", keys.original()?)?,
            }),
            Some("yarn") => Ok(Self::Yarn(keys.yarn()?)),
            Some("longrope" | "su") => Ok(Self::LongRope(keys.long_rope()?)),
            Some("proportional") => Ok(keys.proportional()?),
            Some(other) => Err(Error::config(format!(
                "rope_type {other:?} is not known; expected default, linear, dynamic, llama3, yarn, longrope or proportional"
            ))),
        }
    }

    /// The value of `rope_scaling`.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Dynamic { factor } => json!({"rope_type": "dynamic", "factor": factor}),
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
                "original_max_position_embeddings": *original as u64,
            }),
            Self::Yarn(yarn) => json!({
                "rope_type": "yarn",
                "factor": yarn.factor,
                "beta_fast": yarn.fast,
                "beta_slow": yarn.slow,
                "original_max_position_embeddings": yarn.original as u64,
                "attention_factor": yarn.magnitude,
                "truncate": yarn.truncate,
            }),
            Self::LongRope(long) => json!({
                "rope_type": "longrope",
                "short_factor": long.short,
                "long_factor": long.long,
                "original_max_position_embeddings": long.original as u64,
                "attention_factor": long.magnitude,
            }),
            Self::Proportional { part, factor } => {
                let mut json = json!({"rope_type": "proportional", "partial_rotary_factor": part});
                if *factor != 1.0 {
                    json["factor"] = json!(factor);
                }
                json
            }
        }
    }

    /// Factor of cosine and sine: 1 but for YaRN and LongRoPE.
    pub(crate) fn magnitude(&self) -> f64 {
        match self {
            Self::Yarn(yarn) => yarn.magnitude,
            Self::LongRope(long) => long.magnitude,
            _ => 1.0,
        }
    }

    /// The longest sequence the frequencies are right for, if that is shorter than the model's `max_length`.
    pub(crate) fn longest(&self, max_length: usize) -> usize {
        match self {
            Self::LongRope(long) => max_length.min(long.original as usize),
            _ => max_length,
        }
    }

    /// Checks that there is a divisor for every frequency of `dim` numbers.
    pub(crate) fn check(&self, dim: usize) -> Result<()> {
        let Self::LongRope(long) = self else {
            return Ok(());
        };
        for (key, list) in [("short_factor", &long.short), ("long_factor", &long.long)] {
            if list.len() != dim / 2 {
                return Err(Error::config(format!(
                    "rope_scaling.{key} has {} numbers, expected {} (one for each frequency)",
                    list.len(),
                    dim / 2
                )));
            }
        }
        Ok(())
    }
}

/// The keys of one rotary embedding.
struct RopeKeys<'a> {
    json: &'a Map<String, Value>,
    max_length: usize,
}

impl RopeKeys<'_> {
    /// A positive number, where the key is there.
    fn optional(&self, key: &str) -> Result<Option<f64>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(found) => match found.as_f64() {
                Some(n) if n > 0.0 && n.is_finite() => Ok(Some(n)),
                _ => Err(Error::config(format!(
                    "rope_scaling.{key} = {found}, expected a number above 0"
                ))),
            },
        }
    }

    fn required(&self, key: &str, found: Option<f64>) -> Result<f64> {
        found.ok_or_else(|| {
            Error::config(format!("rope_scaling.{key} is missing, expected a number"))
        })
    }

    fn positive(&self, key: &str) -> Result<f64> {
        self.required(key, self.optional(key)?)
    }

    /// The context length before stretching, a number of tokens.
    fn original(&self) -> Result<Option<f64>> {
        let key = "original_max_position_embeddings";
        match self.optional(key)? {
            Some(n) if n < 1.0 || n > f64::from(u32::MAX) || n.fract() != 0.0 => {
                Err(Error::config(format!(
                    "rope_scaling.{key} = {n}, expected a number of tokens"
                )))
            }
            found => Ok(found),
        }
    }

    /// [`original`](Self::original), or what `transformers` takes for it.
    fn original_or_length(&self) -> Result<f64> {
        Ok(self.original()?.unwrap_or(self.max_length as f64))
    }

    /// How much longer the context is, from the lengths where no key says so.
    fn factor(&self, original: f64) -> Result<f64> {
        let stated = self.optional("factor")?;
        Ok(stated.unwrap_or(self.max_length as f64 / original))
    }

    fn yarn(&self) -> Result<Yarn> {
        let original = self.original_or_length()?;
        let factor = self.factor(original)?;
        // Peng et al. 2023, equation 22, and the two keys by which DeepSeek's models changed it.
        let magnitude = |weight: f64| match factor > 1.0 {
            true => 0.1 * weight * factor.ln() + 1.0,
            false => 1.0,
        };
        let scales = (self.optional("mscale")?, self.optional("mscale_all_dim")?);
        let usual = match scales {
            (Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
            _ => magnitude(1.0),
        };
        let truncate = match self.json.get("truncate") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(found) => {
                return Err(Error::config(format!(
                    "rope_scaling.truncate = {found}, expected true or false"
                )));
            }
        };
        Ok(Yarn {
            factor,
            fast: self.optional("beta_fast")?.unwrap_or(32.0),
            slow: self.optional("beta_slow")?.unwrap_or(1.0),
            original,
            magnitude: self.optional("attention_factor")?.unwrap_or(usual),
            truncate,
        })
    }

    fn proportional(&self) -> Result<RopeScaling> {
        let part = match self.json.get("partial_rotary_factor") {
            None | Some(Value::Null) => 1.0,
            Some(found) => found
                .as_f64()
                .filter(|part| (0.0..=1.0).contains(part))
                .ok_or_else(|| {
                    Error::config(format!(
                        "partial_rotary_factor = {found}, expected a number from 0 to 1"
                    ))
                })?,
        };
        let factor = self.optional("factor")?.unwrap_or(1.0);
        Ok(RopeScaling::Proportional { part, factor })
    }

    fn long_rope(&self) -> Result<LongRope> {
        let original = self.original_or_length()?;
        let factor = self.factor(original)?;
        let usual = match factor > 1.0 {
            true => (1.0 + factor.ln() / original.ln()).sqrt(),
            false => 1.0,
        };
        Ok(LongRope {
            short: self.divisors("short_factor")?,
            long: self.divisors("long_factor")?,
            original,
            magnitude: self.optional("attention_factor")?.unwrap_or(usual),
        })
    }

    fn divisors(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.json.get(key).and_then(Value::as_array);
        let divisor = |value: &Value| value.as_f64().filter(|n| *n > 0.0);
        let numbers = list.and_then(|list| list.iter().map(divisor).collect());
        numbers.ok_or_else(|| {
            Error::config(format!(
                "rope_scaling.{key}: expected a list of numbers above 0"
            ))
        })
    }
}
