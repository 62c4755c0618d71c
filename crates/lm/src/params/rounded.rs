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

    /// Whether it is a tensor whose rows are whole blocks.
    fn fits(&self) -> bool {
        let shape = self.param.shape();
        let inputs = match self.layout {
            WeightLayout::OutIn => shape.dims().last(),
            WeightLayout::InOut => shape.dims().first(),
        };
        let whole = inputs.is_some_and(|inputs| inputs.is_multiple_of(self.kind.block_size()));
        whole && self.param.quantised.is_none()
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
        let mut matrices = self.layers_to_round(config, format)?;
        matrices.extend(self.head_to_round(config, format));
        self.with_rounded(&matrices, earlier)
    }

    /// [`rounded`](Self::rounded) of a scalar model, which has no vocabulary projection.
    pub fn rounded_scalar(&self, config: &ModelConfig, format: WeightFormat) -> Result<Self> {
        self.with_rounded(&self.layers_to_round(config, format)?, None)
    }

    fn with_rounded(&self, matrices: &[Matrix<'_>], earlier: Option<&Self>) -> Result<Self> {
        let mut rounded = self.frozen();
        for matrix in matrices {
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
        let layers = self.layers_to_round(config, format)?.into_iter();
        let head = self.head_to_round(config, format);
        Ok(layers.chain(head).map(|matrix| matrix.bytes()).sum())
    }

    /// The matrices within the blocks that `format` rounds.
    fn layers_to_round<'a>(
        &'a self,
        config: &ModelConfig,
        format: WeightFormat,
    ) -> Result<Vec<Matrix<'a>>> {
        let Some((kind, _)) = format.kinds() else {
            return Ok(Vec::new());
        };
        if !self.device.is_cpu() {
            return Err(Error::Invalid(
                "weights are held in fewer bits on the CPU alone: leave them as they are on a GPU"
                    .into(),
            ));
        }
        let linear = CausalLm::linear_modules(config)?;
        let experts = config.family().mixture();
        let experts = experts.map(|mixture| [mixture.names.gate_up, mixture.names.down]);
        let layout_of = |name: &str| {
            let module = name.strip_suffix(".weight");
            let layer = module.and_then(|module| linear.get(module).copied());
            let is_expert = experts.iter().flatten().any(|end| name.ends_with(end));
            layer.or(is_expert.then_some(WeightLayout::OutIn))
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
        Ok(matrices.filter(Matrix::fits).collect())
    }

    /// The vocabulary projection, if `format` rounds it.
    fn head_to_round<'a>(
        &'a self,
        config: &ModelConfig,
        format: WeightFormat,
    ) -> Option<Matrix<'a>> {
        let ((_, kind), names) = (format.kinds()?, config.family().names());
        let head = match config.dimensions().tied {
            true => names.embedding_weight(),
            false => names.head_weight(),
        };
        let head = Matrix {
            name: LOGITS,
            param: self.store.get(&head)?,
            layout: WeightLayout::OutIn,
            kind,
        };
        head.fits().then_some(head)
    }
}
