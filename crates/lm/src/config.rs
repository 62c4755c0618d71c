//! `config.json`: which model a directory holds.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::families::{self, Dimensions, Family, GgufSpelling, ModelType};
use crate::{Error, Result};

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
#[derive(Clone)]
pub struct ModelConfig {
    model_type: &'static ModelType,
    family: Arc<dyn Family>,
    json: Map<String, Value>,
    /// Whether the file describes more than the language model.
    is_part: bool,
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
        let Value::Object(json) = json else {
            return Err(Error::config("expected a JSON object"));
        };
        if json
            .get("quantization_config")
            .is_some_and(|q| !q.is_null())
        {
            return Err(Error::config(
                "quantization_config: quantised weights cannot be trained; use the unquantised model",
            ));
        }
        let part = families::text_part(&json)?;
        let is_part = part.is_some();
        let json = part.unwrap_or(json);
        let Some(name) = json.get("model_type").and_then(Value::as_str) else {
            return Err(Error::config(format!(
                "model_type is missing; expected one of {}",
                families::known()
            )));
        };
        let model_type = families::model_type(name).map_err(|known| {
            Error::config(format!(
                "model_type {name:?} is not known; expected one of {known}"
            ))
        })?;
        Ok(Self {
            model_type,
            family: (model_type.parse)(&json)?,
            json,
            is_part,
        })
    }

    /// The content of the `config.json` to save beside weights of `dtype` (`float32`, `bfloat16` or
    /// `float16`) under `head`.
    ///
    /// It is written in the spelling of `transformers` 4, which version 5 and other programs read too.
    pub fn to_json(&self, head: Head, dtype: &str, special: SpecialIds) -> Value {
        let mut json = self.json.clone();
        let spelled_out = self.family.spelled_out();
        for stale in [
            "_name_or_path",
            "dtype",
            "rope_parameters",
            "per_layer_config",
            "num_labels",
            "id2label",
            "label2id",
        ] {
            if !spelled_out.contains_key(stale) {
                json.shift_remove(stale);
            }
        }
        json.extend(spelled_out);
        let (causal, scalar) = self.model_type.classes;
        let class = match head {
            Head::CausalLm => causal,
            Head::Scalar => scalar,
        };
        let known = json!({
            "architectures": [class],
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

    /// Whether both describe the same model, however their files spell it.
    pub fn same_model(&self, other: &Self) -> bool {
        self.model_type() == other.model_type()
            && format!("{:?}", self.family) == format!("{:?}", other.family)
    }

    /// `model_type`.
    pub fn model_type(&self) -> &'static str {
        self.model_type.name
    }

    /// Whether `architectures` says that the model scores sequences instead of predicting tokens.
    pub(crate) fn is_classifier(&self) -> bool {
        let names = self.json.get("architectures").and_then(Value::as_array);
        let mut names = names.into_iter().flatten().filter_map(Value::as_str);
        names.any(|name| name.ends_with("ForSequenceClassification"))
    }

    /// H, the width of the trunk.
    pub fn hidden_size(&self) -> usize {
        self.dimensions().hidden
    }

    /// V, the rows of the embedding. A tokenizer may use fewer.
    pub fn vocab_size(&self) -> usize {
        self.dimensions().vocab
    }

    /// The number of blocks.
    pub fn layers(&self) -> usize {
        self.dimensions().layers
    }

    /// Numbers that decoding keeps for a token: keys and values of every layer with attention, and what other layers reach back to.
    pub fn cache_width(&self) -> usize {
        self.family.cache_width()
    }

    /// Numbers that decoding keeps of a row, however many tokens it has: what recurrent layers have come to.
    pub fn state_width(&self) -> usize {
        self.family.state_width()
    }

    /// About how many numbers the MLP of a block keeps of a token for the gradient: gate, up and their product, of a mixture of experts once for
    /// each of the token's experts, with what goes into it and comes out.
    pub fn mlp_activations(&self) -> usize {
        let size = self.dimensions();
        match self.family.mixture() {
            Some(mixture) => {
                let experts = mixture.chosen * (3 * mixture.inner + 2 * size.hidden);
                let beside = mixture.names.beside.is_some();
                experts
                    + if beside {
                        3 * self.family.mlp_width()
                    } else {
                        0
                    }
            }
            None => 3 * self.family.mlp_width(),
        }
    }

    /// Numbers that every block is given of a token beside the residual stream: 0 of most models.
    pub fn input_width(&self) -> usize {
        self.family.input_width()
    }

    /// The coefficient of the load-balancing loss that `transformers` trains a mixture of experts with: `router_aux_loss_coef`, where
    /// `output_router_logits` is on. `None` for other models.
    pub fn router_aux_loss_coef(&self) -> Option<f64> {
        self.family.mixture()?;
        let on = self.json.get("output_router_logits") == Some(&json!(true));
        let coefficient = self
            .json
            .get("router_aux_loss_coef")
            .and_then(Value::as_f64);
        Some(if on {
            coefficient.unwrap_or(0.001)
        } else {
            0.0
        })
    }

    /// The longest sequence the model takes, in tokens.
    pub fn max_length(&self) -> usize {
        self.dimensions().max_length
    }

    /// Whether the embedding is also the weight of the vocabulary projection.
    pub fn tied(&self) -> bool {
        self.dimensions().tied
    }

    /// Parameters that shift all scores of a scalar model alike, so that a loss of differences between scores has no gradient for
    /// them: what [`Gradients::check_all_but`](crate::Gradients::check_all_but) is to leave out.
    pub fn shared_shifts(&self) -> &'static [&'static str] {
        self.family.names().shared_shifts
    }

    /// The sizes of the model.
    pub(crate) fn dimensions(&self) -> Dimensions {
        self.family.dimensions()
    }

    /// The family's own side of it.
    pub(crate) fn family(&self) -> &dyn Family {
        &*self.family
    }

    /// Whether it is the language model within one that also sees, of which nothing else is loaded and saved.
    pub fn is_part(&self) -> bool {
        self.is_part
    }

    /// How llama.cpp spells such a model.
    pub(crate) fn gguf_spelling(&self) -> &'static GgufSpelling {
        self.model_type.gguf
    }

    /// The tokens with a role, as the file names them; of several EOS tokens the first.
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
}

impl std::fmt::Debug for ModelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ModelConfig").field(&self.family).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn parsed(extra: Value) -> ModelConfig {
        ModelConfig::from_json(llama(extra)).unwrap()
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
        assert!(old.same_model(&new));
        assert!(!old.same_model(&parsed(json!({"rope_scaling": scaling}))));
        assert!(!old.same_model(&parsed(json!({"rope_theta": 5e5}))));
        let linear = |kind: &str| parsed(json!({"rope_scaling": {kind: "linear", "factor": 2.0}}));
        assert!(linear("type").same_model(&linear("rope_type")));
        let plain = parsed(json!({"rope_theta": 1e4, "rope_scaling": null}));
        assert!(plain.same_model(&parsed(json!({}))) && !plain.same_model(&linear("type")));
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
            json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1}),
            json!({"model_type": "qwen3", "dtype": "bfloat16"}),
        ] {
            let config = ModelConfig::from_json(llama(extra)).unwrap();
            for head in [Head::CausalLm, Head::Scalar] {
                let saved = config.to_json(head, "float32", SpecialIds::default());
                let read = ModelConfig::from_json(saved).unwrap();
                assert!(read.same_model(&config), "{read:?} {config:?}");
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
        let giants = [
            ("num_hidden_layers", 5000),
            ("head_dim", 1 << 21),
            ("vocab_size", 1 << 32),
            ("intermediate_size", u64::MAX),
        ];
        for (key, value) in giants {
            let said = error(llama(json!({key: value})));
            assert!(
                said.contains(&format!("{key} = {value}, expected at most")),
                "{said}"
            );
        }
        let wide = json!({"model_type": "gpt2", "vocab_size": 2, "n_positions": 2, "n_embd": 1u64 << 63, "n_layer": 1, "n_head": 1});
        assert!(error(wide).contains("n_embd"));
        let partial = |factor| llama(json!({"partial_rotary_factor": factor}));
        assert!(error(partial(json!(0.5))).contains("partial_rotary_factor"));
        ModelConfig::from_json(partial(json!(1))).unwrap();
        let other = error(llama(json!({"rope_scaling": {"rope_type": "fast"}})));
        assert!(other.contains("fast") && other.contains("yarn"), "{other}");
        let without = json!({"rope_scaling": {"rope_type": "yarn", "factor": 0}});
        assert!(error(llama(without)).contains("rope_scaling.factor = 0"));
        let three = json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0, 1.0, 1.0], "long_factor": [1.0, 1.0]}});
        assert!(error(llama(three)).contains("short_factor has 3 numbers, expected 2"));
        let half = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 0.5});
        assert!(error(llama(json!({"rope_scaling": half}))).contains("a number of tokens"));
    }
}
