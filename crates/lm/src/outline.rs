//! What can be known of a model without reading its weights: enough to plan with.

use std::path::Path;

use crate::lora::peft::is_adapter;
use crate::{
    Bases, CausalLm, ModelConfig, Result, Tokenizer, base_of, gguf, read_config, read_tokenizer,
};

/// A model's shape, tokenizer and size.
pub struct Outline {
    /// Its dimensions; of an adapter those of its base.
    pub config: ModelConfig,
    /// Its tokenizer, with the chat template.
    pub tokenizer: Tokenizer,
    /// What its weights come to; of an adapter those of its base.
    pub size: Size,
    /// Whether it lies in a GGUF file.
    pub is_gguf: bool,
}

/// What the weights of a model come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many numbers it has.
    pub parameters: u64,
    /// The linear layers in its blocks, as (outputs, inputs): what an adapter stands beside.
    pub linear: Vec<(u64, u64)>,
    /// Numbers in linear layers that an adapter leaves in the quantised blocks of a GGUF file, and the bytes of these blocks.
    pub quantised: (u64, u64),
}

impl Size {
    /// Of the shape that `config` describes, without a quantised layer.
    ///
    /// # Errors
    /// If there is no such model.
    pub fn of(config: &ModelConfig) -> Result<Self> {
        let modules = CausalLm::linear_modules(config)?;
        let is_layer = |name: &str| {
            let module = name.strip_suffix(".weight");
            module.is_some_and(|module| modules.contains_key(module))
        };
        let (mut parameters, mut linear) = (0, Vec::new());
        for (name, shape) in CausalLm::schema(config)?.iter() {
            parameters += shape.elem_count() as u64;
            if let (true, &[outputs, inputs]) = (is_layer(name), shape.dims()) {
                linear.push((outputs as u64, inputs as u64));
            }
        }
        Ok(Self {
            parameters,
            linear,
            quantised: (0, 0),
        })
    }

    /// Numbers of an adapter of this rank beside every linear layer of the blocks.
    pub fn adapter(&self, rank: u64) -> u64 {
        let of = |(outputs, inputs): &(u64, u64)| rank * (outputs + inputs);
        self.linear.iter().map(of).sum()
    }

    /// Bytes of the weights under an adapter: quantised layers as they are, the rest at `each` bytes a number.
    pub fn frozen_bytes(&self, each: u64) -> u64 {
        let (numbers, bytes) = self.quantised;
        bytes + each * (self.parameters - numbers)
    }
}

impl Outline {
    /// Of the model in `path`: a Hugging Face directory, a GGUF file, or an adapter.
    ///
    /// # Errors
    /// If configuration or tokenizer cannot be read.
    pub fn read(path: &Path, bases: &Bases) -> Result<Self> {
        let base = base_of(path, bases)?;
        let whole = base.as_deref().unwrap_or(path);
        let file = gguf::locate(whole)?;
        let (config, tokenizer, quantised) = match &file {
            Some(file) => gguf::read_outline(file)?,
            None => (read_config(whole)?, read_tokenizer(path, bases)?, (0, 0)),
        };
        let size = Size {
            quantised,
            ..Size::of(&config)?
        };
        Ok(Self {
            config,
            tokenizer,
            size,
            is_gguf: file.is_some(),
        })
    }

    /// Whether it is an adapter that `path` holds.
    pub fn is_adapter(path: &Path) -> bool {
        is_adapter(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LanguageModel, LoraConfig, Weights};
    use candle_core::{DType, Device};

    /// The oracle is the model itself, read whole.
    #[test]
    fn an_outline_says_what_the_whole_model_says() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
        let gguf = fixtures.join("gguf/llama.gguf");
        for path in [gguf.as_path(), &fixtures.join("../../data/model")] {
            let whole =
                LanguageModel::load(path, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
            let outline = Outline::read(path, &Bases::default()).unwrap();
            let size = &outline.size;
            assert_eq!(size.parameters, whole.params.num_parameters() as u64);
            assert!(outline.config.same_model(&whole.config));
            assert!(outline.tokenizer.encodes_like(&whole.tokenizer));
            let named = |(_, tensor): &(&String, &candle_core::Tensor)| tensor.dims().len() == 2;
            let tensors = whole.params.tensors();
            let matrices = tensors.iter().filter(named).count();
            // All matrices but the embedding, and the head where it is not the embedding.
            let outside = if whole.config.tied() { 1 } else { 2 };
            assert_eq!(size.linear.len(), matrices - outside);

            let lora = LoraConfig {
                rank: 16,
                alpha: None,
                targets: Vec::new(),
                rank_stabilised: false,
                merge: false,
            };
            let bases = Bases::default();
            let adapted = bases.adapted(path, &lora, 0, DType::F32, &Device::Cpu);
            let params = adapted.unwrap().params;
            assert_eq!(size.adapter(16), params.num_trainable() as u64);
            assert_eq!(size.frozen_bytes(4), params.frozen_bytes() as u64);
            assert_eq!(outline.is_gguf, path == gguf);
        }
    }
}
