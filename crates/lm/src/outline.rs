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
    /// How many numbers it has; of an adapter its base.
    pub parameters: u64,
    /// Those of the linear layers in its blocks, as (outputs, inputs): what an adapter stands beside.
    pub linear: Vec<(u64, u64)>,
    /// Bytes of the GGUF file that it lies in, whose blocks may stay as they are.
    pub gguf_bytes: Option<u64>,
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
        let (config, tokenizer) = match &file {
            Some(file) => gguf::read_outline(file)?,
            None => (read_config(whole)?, read_tokenizer(path, bases)?),
        };
        let schema = CausalLm::schema(&config)?;
        let layers = CausalLm::linear_modules(&config)?;
        let is_layer = |name: &str| {
            let module = name.strip_suffix(".weight");
            module.is_some_and(|module| layers.contains_key(module))
        };
        let (mut parameters, mut linear) = (0, Vec::new());
        for (name, shape) in schema.iter() {
            parameters += shape.elem_count() as u64;
            if let (true, &[outputs, inputs]) = (is_layer(name), shape.dims()) {
                linear.push((outputs as u64, inputs as u64));
            }
        }
        let gguf_bytes = file.map(|file| fs_err::metadata(file).map(|it| it.len()));
        Ok(Self {
            config,
            tokenizer,
            parameters,
            linear,
            gguf_bytes: gguf_bytes.transpose()?,
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
    use crate::{LanguageModel, Weights};
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
            assert_eq!(outline.parameters, whole.params.num_parameters() as u64);
            assert!(outline.config.same_model(&whole.config));
            assert!(outline.tokenizer.encodes_like(&whole.tokenizer));
            let named = |(_, tensor): &(&String, &candle_core::Tensor)| tensor.dims().len() == 2;
            let tensors = whole.params.tensors();
            let matrices = tensors.iter().filter(named).count();
            // All matrices but the embedding, and the head where it is not the embedding.
            let outside = if whole.config.tied() { 1 } else { 2 };
            assert_eq!(outline.linear.len(), matrices - outside);
        }
        assert!(Outline::read(&gguf, &Bases::default()).unwrap().gguf_bytes > Some(0));
    }
}
