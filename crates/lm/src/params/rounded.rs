//! Weight matrices in fewer bits, for a model that is only sampled from.

use candle_core::quantized::GgmlDType;
use rlhf_ops::{QuantisedWeight, WeightLayout};
use serde::{Deserialize, Serialize};

use super::{Param, Params};
use crate::quantised::LOGITS;
use crate::{CausalLm, Error, ModelConfig, Result};

/// How the weight matrices of a model are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// As they were loaded, or are trained.
    #[default]
    F32,
    /// Rounded to bfloat16, 16 bits a weight.
    Bf16,
    /// Blocks of 32 weights with one scale, 8.5 bits a weight: llama.cpp's Q8_0.
    Q8_0,
    /// Blocks of 32 weights with one scale, 4.5 bits a weight, llama.cpp's Q4_0; the vocabulary projection in Q8_0.
    Q4_0,
}

impl WeightFormat {
    /// The types of the blocks of layers and of the vocabulary projection, on which every logit depends.
    fn kinds(self) -> Option<(GgmlDType, GgmlDType)> {
        match self {
            Self::F32 => None,
            Self::Bf16 => Some((GgmlDType::BF16, GgmlDType::BF16)),
            Self::Q8_0 => Some((GgmlDType::Q8_0, GgmlDType::Q8_0)),
            Self::Q4_0 => Some((GgmlDType::Q4_0, GgmlDType::Q8_0)),
        }
    }
}

/// A weight to round.
struct Matrix<'a> {
    /// What its blocks are to be called.
    name: &'a str,
    param: &'a Param,
    layout: WeightLayout,
    kind: GgmlDType,
}

impl Matrix<'_> {
    fn round(&self) -> Result<QuantisedWeight> {
        Ok(QuantisedWeight::of(
            &self.param.value,
            self.kind,
            self.layout,
        )?)
    }

    fn bytes(&self) -> usize {
        self.param.shape().elem_count() / self.kind.block_size() * self.kind.type_size()
    }
}

impl Params {
    /// The present values as `format` holds them, frozen: the matrices of linear layers, of experts, and the vocabulary projection, by which hidden
    /// states become logits. Embeddings, norms, biases and adapters are shared as they are, and so is a weight that is in blocks already, or whose
    /// rows are no whole number of blocks. Of a rounding of `earlier` values it takes over what is frozen here.
    ///
    /// # Errors
    /// If the store is not on the CPU.
    pub fn rounded(
        &self,
        config: &ModelConfig,
        format: WeightFormat,
        earlier: Option<&Self>,
    ) -> Result<Self> {
        let mut rounded = self.frozen();
        for matrix in self.to_round(config, format)? {
            let known = match matrix.param.trainable {
                None => earlier.and_then(|earlier| earlier.quantised(matrix.name)),
                Some(_) => None,
            };
            match known {
                Some(weight) => rounded.insert_quantised(matrix.name, weight),
                None => rounded.insert_quantised(matrix.name, &matrix.round()?),
            }
        }
        Ok(rounded)
    }

    /// Bytes that [`rounded`](Self::rounded) adds to those of this store.
    pub fn rounded_bytes(&self, config: &ModelConfig, format: WeightFormat) -> Result<usize> {
        let matrices = self.to_round(config, format)?;
        Ok(matrices.iter().map(Matrix::bytes).sum())
    }

    /// The matrices within the blocks that `format` rounds, and the vocabulary projection.
    fn to_round<'a>(
        &'a self,
        config: &ModelConfig,
        format: WeightFormat,
    ) -> Result<Vec<Matrix<'a>>> {
        let Some((kind, of_head)) = format.kinds() else {
            return Ok(Vec::new());
        };
        if !self.device.is_cpu() {
            return Err(Error::Invalid(
                "weights are held in fewer bits on the CPU alone: leave them as they are on a GPU"
                    .into(),
            ));
        }
        let (linear, names) = (CausalLm::linear_modules(config)?, config.family().names());
        let experts = config.family().mixture();
        let experts = experts.map(|mixture| [mixture.names.gate_up, mixture.names.down]);
        let layout_of = |name: &str| {
            let module = name.strip_suffix(".weight");
            let layer = module.and_then(|module| linear.get(module).copied());
            let is_expert = experts.iter().flatten().any(|end| name.ends_with(end));
            layer.or(is_expert.then_some(WeightLayout::OutIn))
        };
        let fits = |matrix: &Matrix<'_>| {
            let shape = matrix.param.shape();
            let inputs = match matrix.layout {
                WeightLayout::OutIn => shape.dims().last(),
                WeightLayout::InOut => shape.dims().first(),
            };
            let whole =
                inputs.is_some_and(|inputs| inputs.is_multiple_of(matrix.kind.block_size()));
            whole && matrix.param.quantised.is_none()
        };
        let matrices = self.store.iter().filter_map(|(name, param)| {
            let layout = layout_of(name)?;
            Some(Matrix {
                name,
                param,
                layout,
                kind,
            })
        });
        let head = match config.dimensions().tied {
            true => names.embedding_weight(),
            false => names.head_weight(),
        };
        let head = self.store.get(&head).map(|param| Matrix {
            name: LOGITS,
            param,
            layout: WeightLayout::OutIn,
            kind: of_head,
        });
        Ok(matrices.chain(head).filter(fits).collect())
    }
}
