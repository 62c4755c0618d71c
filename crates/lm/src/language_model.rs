//! A language model as a stage holds it: configuration, parameters, tokenizer.

use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Bases, CausalLm, ModelConfig, Params, Result, SpecialIds, Tokenizer, Weights, write_lm,
};

/// A language model, to be trained, sampled from and saved.
pub struct LanguageModel {
    /// What the model is.
    pub config: ModelConfig,
    /// Its weights.
    pub params: Params,
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// `generation_config.json` as it was found; saved again.
    pub generation: Map<String, Value>,
}

/// The number format of saved weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// 32-bit floats: nothing is lost.
    #[default]
    F32,
    /// bfloat16: half the size, 8 bits of precision.
    Bf16,
    /// IEEE half precision: half the size, 11 bits of precision, largest value 65 504.
    F16,
}

impl From<SaveDtype> for DType {
    fn from(dtype: SaveDtype) -> Self {
        match dtype {
            SaveDtype::F32 => DType::F32,
            SaveDtype::Bf16 => DType::BF16,
            SaveDtype::F16 => DType::F16,
        }
    }
}

impl LanguageModel {
    /// Reads a Hugging Face directory, a GGUF file ([`crate::gguf::locate`]), or the folder of an adapter whose base is on this machine; the model will compute in
    /// `dtype` on `device`. Frozen weights take as many bytes as `dtype` has, trainable ones four more where that is half precision.
    pub fn load(path: &Path, weights: Weights, dtype: DType, device: &Device) -> Result<Self> {
        Bases::default().language_model(path, weights, dtype, device)
    }

    /// A model with fresh weights drawn from `seed`.
    pub fn fresh(
        config: ModelConfig,
        tokenizer: Tokenizer,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let params = Params::load(&CausalLm::init(&config, seed, device)?, device, dtype)?;
        Ok(Self {
            config,
            params,
            tokenizer,
            generation: Map::new(),
        })
    }

    /// Family, size, EOS token and chat template, in words; a tokenizer without EOS token is an error.
    pub fn describe(&self) -> Result<String> {
        let end = self.tokenizer.eos_id()?;
        let template = match self.tokenizer.has_chat_template() {
            true => "has a",
            false => "no",
        };
        let token = |id| self.tokenizer.token(id).unwrap_or_default();
        let turn = match self.tokenizer.turn_end().filter(|turn| *turn != end) {
            Some(turn) => format!(", an answer in its chat template with {}", token(turn)),
            None => String::new(),
        };
        Ok(format!(
            "{}, {} parameters, ends with {}{turn}, {template} chat template",
            self.config.model_type(),
            self.params.num_parameters(),
            token(end),
        ))
    }

    /// Writes a directory that `transformers`, vLLM and llama.cpp load as it is; of a model with an adapter that is not to be merged, the
    /// adapter in PEFT's layout, with the tokenizer beside it.
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<()> {
        write_lm(
            dir,
            &self.config,
            &self.params,
            special_ids(&self.tokenizer),
            dtype.into(),
        )?;
        self.tokenizer.save(dir)?;
        let mut generation = self.generation.clone();
        generation
            .entry("bos_token_id")
            .or_insert(json!(self.tokenizer.bos_id()));
        // Whatever ended a response in training ends it for those who load the model.
        if let Some(ends) = self.tokenizer.end_ids_json() {
            generation.insert("eos_token_id".to_owned(), ends);
        }
        generation.retain(|_, value| !value.is_null());
        let text = format!("{:#}\n", Value::Object(generation));
        Ok(fs_err::write(dir.join("generation_config.json"), text)?)
    }
}

/// The ids that `config.json` names, as the tokenizer has them.
pub(crate) fn special_ids(tokenizer: &Tokenizer) -> SpecialIds {
    let eos = tokenizer.eos_id().ok();
    SpecialIds {
        bos: tokenizer.bos_id(),
        eos,
        pad: tokenizer.pad_id().filter(|pad| Some(*pad) != eos),
    }
}
