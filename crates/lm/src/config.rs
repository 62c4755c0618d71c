//! `config.json`: which model a directory holds.

use serde_json::{Map, Value, json};

use crate::gpt2::Gpt2Config;
use crate::llama::{LlamaConfig, Variant};
use crate::{Error, Result};

/// The values of `model_type` that we can run.
pub const MODEL_TYPES: [&str; 5] = ["gpt2", "llama", "mistral", "qwen2", "qwen3"];

/// A parsed `config.json`, in the spelling of `transformers` 4 or 5.
///
/// Everything the file says is kept, also what we do not read, so that a model is saved with the
/// configuration it came with.
///
/// ```
/// let config = rlhf_lm::ModelConfig::from_json(serde_json::json!({
///     "model_type": "gpt2", "vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4
/// }))?;
/// assert_eq!((config.hidden_size(), config.tied()), (32, true));
/// # Ok::<_, rlhf_lm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    family: Family,
    json: Map<String, Value>,
}

/// The architectures, each with what its code reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Family {
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// Llama and its relatives.
    Llama(LlamaConfig),
}

/// What sits on the trunk: decides `architectures` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Predicts the next token: `…ForCausalLM` (GPT-2: `GPT2LMHeadModel`).
    CausalLm,
    /// One number per sequence: `…ForSequenceClassification`.
    Scalar,
}

/// The tokens with a role, as `config.json` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Fills up batches in `transformers`; we never use it. A reward model's must not be `eos`:
    /// `transformers` reads the score at the last token that is not `pad`.
    pub pad: Option<u32>,
}

impl ModelConfig {
    /// Reads the content of a `config.json`.
    pub fn from_json(json: Value) -> Result<Self> {
        let Value::Object(object) = json else {
            return Err(invalid("expected a JSON object"));
        };
        if object
            .get("quantization_config")
            .is_some_and(|q| !q.is_null())
        {
            return Err(invalid(
                "quantization_config: quantised weights cannot be trained; use the unquantised model",
            ));
        }
        let Some(model_type) = object.get("model_type").and_then(Value::as_str) else {
            return Err(invalid(format!(
                "model_type is missing; expected one of {}",
                MODEL_TYPES.join(", ")
            )));
        };
        let llama = |variant| LlamaConfig::from_json(variant, &object).map(Family::Llama);
        let family = match model_type {
            "gpt2" => Family::Gpt2(Gpt2Config::from_json(&object)?),
            "llama" => llama(Variant::Llama)?,
            "mistral" => llama(Variant::Mistral)?,
            "qwen2" => llama(Variant::Qwen2)?,
            "qwen3" => llama(Variant::Qwen3)?,
            other => {
                return Err(invalid(format!(
                    "model_type {other:?} is not known; expected one of {}",
                    MODEL_TYPES.join(", ")
                )));
            }
        };
        Ok(Self {
            family,
            json: object,
        })
    }

    /// The content of the `config.json` to save beside weights of `dtype` (`float32`, `bfloat16` or
    /// `float16`) under `head`.
    ///
    /// It is written in the spelling of `transformers` 4, which version 5 and other programs read too.
    pub fn to_json(&self, head: Head, dtype: &str, special: SpecialIds) -> Value {
        let mut json = self.json.clone();
        for stale in [
            "_name_or_path",
            "dtype",
            "rope_parameters",
            "num_labels",
            "id2label",
            "label2id",
        ] {
            json.remove(stale);
        }
        let resolved = match &self.family {
            Family::Gpt2(config) => config.to_json(),
            Family::Llama(config) => config.to_json(),
        };
        json.extend(resolved);
        let known = json!({
            "architectures": [self.architecture(head)],
            "torch_dtype": dtype,
            "bos_token_id": special.bos,
            "eos_token_id": special.eos,
            "pad_token_id": special.pad,
        });
        let scalar =
            json!({"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}});
        let more = [Some(known), (head == Head::Scalar).then_some(scalar)];
        for object in more.into_iter().flatten() {
            if let Value::Object(object) = object {
                json.extend(object);
            }
        }
        Value::Object(json)
    }

    /// The architecture and what its code reads.
    pub fn family(&self) -> &Family {
        &self.family
    }

    /// `model_type`, one of [`MODEL_TYPES`].
    pub fn model_type(&self) -> &'static str {
        match &self.family {
            Family::Gpt2(_) => "gpt2",
            Family::Llama(config) => config.variant.model_type(),
        }
    }

    /// H, the width of the trunk.
    pub fn hidden_size(&self) -> usize {
        match &self.family {
            Family::Gpt2(config) => config.n_embd,
            Family::Llama(config) => config.hidden_size,
        }
    }

    /// V, the rows of the embedding. A tokenizer may use fewer.
    pub fn vocab_size(&self) -> usize {
        match &self.family {
            Family::Gpt2(config) => config.vocab_size,
            Family::Llama(config) => config.vocab_size,
        }
    }

    /// The number of blocks.
    pub fn layers(&self) -> usize {
        match &self.family {
            Family::Gpt2(config) => config.n_layer,
            Family::Llama(config) => config.num_hidden_layers,
        }
    }

    /// Inner size of the MLP.
    pub fn intermediate_size(&self) -> usize {
        match &self.family {
            Family::Gpt2(config) => config.n_inner.unwrap_or(4 * config.n_embd),
            Family::Llama(config) => config.intermediate_size,
        }
    }

    /// The longest sequence the model takes, in tokens.
    pub fn max_length(&self) -> usize {
        match &self.family {
            Family::Gpt2(config) => config.n_positions,
            Family::Llama(config) => config.max_length(),
        }
    }

    /// Whether the embedding is also the weight of the vocabulary projection.
    pub fn tied(&self) -> bool {
        match &self.family {
            Family::Gpt2(config) => config.tie_word_embeddings,
            Family::Llama(config) => config.tie_word_embeddings,
        }
    }

    /// The tokens with a role, as the file names them; of several end tokens the first.
    pub fn special_ids(&self) -> SpecialIds {
        let id = |key| {
            let value = match self.json.get(key)? {
                Value::Array(several) => several.first()?,
                one => one,
            };
            u32::try_from(value.as_u64()?).ok()
        };
        SpecialIds {
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            pad: id("pad_token_id"),
        }
    }

    /// Parameters whose gradient is zero under a loss of differences between scores, for they move all scores alike.
    pub fn unmoved_by_comparisons(&self) -> &'static [&'static str] {
        match &self.family {
            Family::Gpt2(_) => &["transformer.ln_f.bias"],
            Family::Llama(_) => &[],
        }
    }

    /// Standard deviation of fresh weights.
    pub(crate) fn initializer_range(&self) -> f64 {
        match &self.family {
            Family::Gpt2(config) => config.initializer_range,
            Family::Llama(config) => config.initializer_range,
        }
    }

    fn architecture(&self, head: Head) -> String {
        match (&self.family, head) {
            (Family::Gpt2(_), Head::CausalLm) => "GPT2LMHeadModel".into(),
            (Family::Gpt2(_), Head::Scalar) => "GPT2ForSequenceClassification".into(),
            (Family::Llama(config), Head::CausalLm) => {
                format!("{}ForCausalLM", config.variant.class())
            }
            (Family::Llama(config), Head::Scalar) => {
                format!("{}ForSequenceClassification", config.variant.class())
            }
        }
    }
}

/// An error about `config.json`, for whoever knows its path to complete.
pub(crate) fn invalid(what: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("model configuration: {what}"))
}

/// Refuses a switch we do not implement, unless it stands where it usually does.
pub(crate) fn refuse(json: &Map<String, Value>, key: &str, unless: Value) -> Result<()> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(found) if *found == unless => Ok(()),
        Some(found) if found.is_number() && found.as_f64() == unless.as_f64() => Ok(()),
        Some(found) => Err(invalid(format!(
            "{key} = {found} is not supported (only {unless} is)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotary::RopeScaling;

    fn llama(extra: Value) -> Value {
        let mut json = json!({
            "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
        });
        json.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json
    }

    fn parsed(extra: Value) -> LlamaConfig {
        match ModelConfig::from_json(llama(extra)).unwrap().family {
            Family::Llama(config) => config,
            Family::Gpt2(_) => unreachable!("model_type says otherwise"),
        }
    }

    fn error(json: Value) -> String {
        ModelConfig::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn both_spellings_of_rope_say_the_same() {
        // The keys as written by transformers 4 (top level, `rope_scaling`) and 5 (`rope_parameters`).
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
        let mut v5 = scaling.clone();
        v5["rope_theta"] = json!(5e5);
        let old = parsed(json!({"rope_theta": 5e5, "rope_scaling": scaling}));
        let new = parsed(json!({"rope_parameters": v5}));
        assert_eq!(old, new);
        assert_eq!(old.rope_theta, 5e5);
        let linear = parsed(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}));
        assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.0 });
        let plain = parsed(json!({"rope_scaling": null}));
        assert_eq!(
            (plain.rope_theta, plain.rope_scaling),
            (1e4, RopeScaling::None)
        );
    }

    #[test]
    fn a_saved_configuration_is_read_back_as_the_same_model() {
        for extra in [
            json!({}),
            json!({"tie_word_embeddings": true, "num_key_value_heads": 2, "head_dim": 8}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 3e4}}),
            json!({"model_type": "mistral", "num_key_value_heads": 2}),
            json!({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": null}),
            json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": false}),
            json!({"model_type": "qwen3", "dtype": "bfloat16"}),
        ] {
            let config = ModelConfig::from_json(llama(extra)).unwrap();
            for head in [Head::CausalLm, Head::Scalar] {
                let saved = config.to_json(head, "float32", SpecialIds::default());
                let read = ModelConfig::from_json(saved).unwrap();
                assert_eq!(read.family, config.family);
            }
        }
    }

    #[test]
    fn the_saved_configuration_names_architecture_labels_and_special_tokens() {
        let config = ModelConfig::from_json(llama(json!({"dtype": "float16"}))).unwrap();
        let special = SpecialIds {
            eos: Some(3),
            pad: Some(1),
            bos: None,
        };
        let lm = config.to_json(Head::CausalLm, "bfloat16", special);
        assert_eq!(lm["architectures"], json!(["LlamaForCausalLM"]));
        assert_eq!(
            (&lm["torch_dtype"], lm.get("dtype")),
            (&json!("bfloat16"), None)
        );
        assert_eq!((&lm["eos_token_id"], lm.get("id2label")), (&json!(3), None));
        let reward = config.to_json(Head::Scalar, "float32", special);
        assert_eq!(
            reward["architectures"],
            json!(["LlamaForSequenceClassification"])
        );
        assert_eq!(
            (&reward["num_labels"], &reward["pad_token_id"]),
            (&json!(1), &json!(1))
        );
        let read = ModelConfig::from_json(reward).unwrap();
        assert_eq!(read.special_ids(), special);
    }

    #[test]
    fn what_we_cannot_run_is_refused_by_name() {
        let unknown = error(json!({"model_type": "mamba"}));
        assert!(
            unknown.contains("mamba") && unknown.contains("qwen3"),
            "{unknown}"
        );
        assert!(error(json!({})).contains("model_type is missing"));
        assert!(error(json!({"model_type": "gpt2"})).contains("vocab_size"));
        assert!(error(llama(json!({"hidden_act": "gelu"}))).contains("hidden_act"));
        assert!(error(llama(json!({"num_key_value_heads": 3}))).contains("num_key_value_heads"));
        let partial = |factor| llama(json!({"partial_rotary_factor": factor}));
        assert!(error(partial(json!(0.5))).contains("partial_rotary_factor"));
        ModelConfig::from_json(partial(json!(1))).unwrap();
        let yarn = error(llama(
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}),
        ));
        assert!(yarn.contains("yarn") && yarn.contains("llama3"), "{yarn}");
    }

    #[test]
    fn a_sliding_window_bounds_the_length_only_where_it_is_in_use() {
        let length = |extra| ModelConfig::from_json(llama(extra)).unwrap().max_length();
        let mistral = |window| {
            length(
                json!({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": window}),
            )
        };
        assert_eq!((mistral(json!(40)), mistral(Value::Null)), (40, 128));
        let qwen = |used| {
            length(
                json!({"model_type": "qwen2", "sliding_window": 40, "max_window_layers": 0, "use_sliding_window": used}),
            )
        };
        assert_eq!((qwen(true), qwen(false)), (40, 128));
    }
}
