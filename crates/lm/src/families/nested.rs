//! Models of which a language model is one part, described by `text_config`: of a Gemma 3 or 4 or a Qwen3.5 that also sees, what reads and writes.

use serde_json::{Map, Value, json};

use crate::gguf::object;
use crate::{Error, Result};

/// The `model_type` of a whole, and that of the language model in it.
const WHOLES: [(&str, &str); 3] = [
    ("gemma3", "gemma3_text"),
    ("gemma4", "gemma4_text"),
    ("qwen3_5", "qwen3_5_text"),
];
/// Modules of what is left out: what sees or hears, and what guesses several tokens ahead.
const LEFT_OUT: [&str; 7] = [
    "vision_tower.",
    "multi_modal_projector.",
    "audio_tower.",
    "embed_vision.",
    "embed_audio.",
    "visual.",
    "mtp.",
];

/// The configuration of the language model within the whole that `json` describes; `None` where `json` is that of a language model.
pub(crate) fn text_part(json: &Map<String, Value>) -> Result<Option<Map<String, Value>>> {
    let name = json.get("model_type").and_then(Value::as_str);
    let Some((whole, part)) = WHOLES.into_iter().find(|(whole, _)| name == Some(whole)) else {
        return Ok(None);
    };
    let Some(Value::Object(text)) = json.get("text_config") else {
        return Err(Error::config(format!(
            "model_type {whole:?} without text_config: one that reads texts alone is {part:?}"
        )));
    };
    let mut text = text.clone();
    match text.get("model_type").and_then(Value::as_str) {
        None => {}
        Some(known) if known == part => {}
        Some(other) => {
            return Err(Error::config(format!(
                "text_config.model_type {other:?} is not supported; expected {part:?}"
            )));
        }
    }
    text.insert("model_type".into(), part.into());
    // What the whole says of both, and what the absence of a key means to `transformers`.
    let both = [
        "architectures",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
    ];
    for key in both {
        if let Some(value) = json.get(key).filter(|value| !value.is_null()) {
            text.insert(key.into(), value.clone());
        }
    }
    let usual = match part {
        "gemma3_text" => {
            json!({"vocab_size": 262_208, "num_attention_heads": 8, "max_position_embeddings": 131_072})
        }
        "gemma4_text" => {
            json!({"vocab_size": 262_144, "num_attention_heads": 8, "max_position_embeddings": 131_072})
        }
        _ => {
            json!({"vocab_size": 248_320, "num_attention_heads": 16, "max_position_embeddings": 32_768})
        }
    };
    for (key, value) in object(usual) {
        text.entry(key).or_insert(value);
    }
    Ok(Some(text))
}

/// The name that a tensor of the whole has in the language model alone, in the spellings of `transformers` 4 and 5; `None` for what is left out.
pub(crate) fn text_tensor(name: &str) -> Option<String> {
    let within = name.strip_prefix("model.").unwrap_or(name);
    if LEFT_OUT.iter().any(|module| within.starts_with(module)) {
        return None;
    }
    let text = name.strip_prefix("language_model.").map(str::to_owned);
    let newer = || {
        Some(format!(
            "model.{}",
            name.strip_prefix("model.language_model.")?
        ))
    };
    Some(text.or_else(newer).unwrap_or_else(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, from names of published files.
    #[test]
    fn tensors_of_the_language_model_are_found_in_both_spellings_and_the_others_left_out() {
        for (whole, text) in [
            (
                "language_model.model.norm.weight",
                Some("model.norm.weight"),
            ),
            (
                "model.language_model.norm.weight",
                Some("model.norm.weight"),
            ),
            ("language_model.lm_head.weight", Some("lm_head.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("score.weight", Some("score.weight")),
            ("vision_tower.vision_model.post_layernorm.bias", None),
            ("model.vision_tower.post_layernorm.bias", None),
            ("multi_modal_projector.mm_soft_emb_norm.weight", None),
            ("model.audio_tower.output_proj.weight", None),
            ("model.embed_vision.embedding_projection.weight", None),
            ("model.visual.merger.norm.weight", None),
            ("mtp.norm.weight", None),
        ] {
            assert_eq!(text_tensor(whole).as_deref(), text, "{whole}");
        }
    }

    #[test]
    fn the_language_model_within_is_the_one_that_its_own_file_describes() {
        let inner = json!({"hidden_size": 2560, "num_hidden_layers": 34});
        let whole =
            object(json!({"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": inner}));
        let text = text_part(&whole).unwrap().unwrap();
        assert_eq!(text["model_type"], "gemma3_text");
        assert_eq!(text["eos_token_id"], json!([1, 106]));
        // configuration_gemma3.py
        let usual = (&text["vocab_size"], &text["num_attention_heads"]);
        assert_eq!(usual, (&json!(262_208), &json!(8)));
        assert_eq!(text_part(&text).unwrap(), None);
        let refused = |json| text_part(&object(json)).unwrap_err().to_string();
        assert!(refused(json!({"model_type": "gemma3"})).contains("text_config"));
        let other = json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3n_text"}});
        assert!(refused(other).contains("gemma3n_text"));
    }
}
