//! An independent implementation computes the same logits: candle-transformers' models. (PyTorch's numbers, gradients and
//! training included, are compared in `crates/train/tests/hf_parity.rs`, since training takes an optimizer.)

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use rlhf_base::rng;
use rlhf_lm::{CausalLm, Head, ModelConfig, Packer, Params, SpecialIds};
use serde_json::json;

use crate::models::{VOCAB, assert_close, params, tokens};

/// Logits after the last of some tokens, u32 `[1, T]`.
type Last = Box<dyn FnMut(&Tensor) -> Result<Tensor>>;

/// The model of candle-transformers that `config` describes.
fn theirs(config: &ModelConfig, params: &Params) -> Last {
    let tensors: HashMap<_, _> = params.tensors().into_iter().collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let json = config.to_json(Head::CausalLm, "float32", SpecialIds::default());
    match config.model_type() {
        "llama" => {
            let config: llama::LlamaConfig = serde_json::from_value(json).unwrap();
            let config = config.into_config(false);
            let model = llama::Llama::load(vb, &config).unwrap();
            Box::new(move |ids| {
                let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu)?;
                model.forward(ids, 0, &mut cache)
            })
        }
        "mistral" => {
            let mut model =
                mistral::Model::new(&serde_json::from_value(json).unwrap(), vb).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        "qwen2" => {
            let config = serde_json::from_value(json).unwrap();
            let mut model = qwen2::ModelForCausalLM::new(&config, vb).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
        _ => {
            let config = serde_json::from_value(json).unwrap();
            let mut model = qwen3::ModelForCausalLM::new(&config, vb).unwrap();
            Box::new(move |ids| {
                model.clear_kv_cache();
                model.forward(ids, 0)
            })
        }
    }
}

#[test]
fn logits_are_those_of_candle_transformers() {
    // What their configurations need spelled out, and heads of hidden_size / heads where they assume it.
    let base = json!({"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "use_cache": false});
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 100});
    let windows =
        json!({"sliding_window": 64, "max_window_layers": 2, "use_sliding_window": false});
    for (model_type, extra) in [
        ("llama", json!({"tie_word_embeddings": true})),
        ("llama", json!({"rope_scaling": llama3})),
        ("mistral", json!({"sliding_window": 64})),
        ("qwen2", windows.clone()),
        ("qwen3", {
            let mut qwen3 = windows;
            qwen3["head_dim"] = json!(6);
            qwen3["attention_bias"] = json!(false);
            qwen3
        }),
    ] {
        let mut json = base.clone();
        let object = json.as_object_mut().unwrap();
        object.insert("model_type".into(), json!(model_type));
        object.extend(extra.as_object().unwrap().clone());
        let config = ModelConfig::from_json(json).unwrap();
        let params = params(&config, 3, DType::F32);
        let ids = tokens(&mut rng::stream(3, model_type, 0), 12);

        let model = CausalLm::new(&config, &params.frozen()).unwrap();
        let mut packer = Packer::new();
        packer.sequence(&ids);
        let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let ours = model.logits(&hidden).unwrap();
        let mut theirs = theirs(&config, &params);
        for end in 1..=ids.len() {
            let prefix = Tensor::new(&ids[..end], &Device::Cpu)
                .unwrap()
                .unsqueeze(0)
                .unwrap();
            let last = theirs(&prefix).unwrap().reshape((1, VOCAB)).unwrap();
            let ours = ours.narrow(0, end - 1, 1).unwrap();
            // f32, and sums in another order.
            assert_close(&ours, &last, 2e-5, &format!("{extra}, token {end}"));
        }
    }
}
