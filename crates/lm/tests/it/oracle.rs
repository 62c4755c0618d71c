//! Independent implementations compute the same logits: candle-transformers' models, and PyTorch's
//! through the fixtures of `scripts/oracle/hf_parity.py`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, mistral, qwen2, qwen3};
use rlhf_lm::{
    CausalLm, Gradients, Head, ModelConfig, Packer, Params, ScalarModel, SpecialIds, read_lm,
    read_scalar, rng,
};
use serde_json::{Value, json};

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

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures")
        .join(kind);
    let mut cases: Vec<_> = fs_err::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

struct Expected(HashMap<String, Tensor>);

impl Expected {
    fn read(case: &Path) -> Self {
        let bytes = fs_err::read(case.join("expected.safetensors")).unwrap();
        Self(candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap())
    }

    /// The sequences, which the fixture keeps end to end.
    fn sequences(&self) -> Vec<Vec<u32>> {
        let vec = |name: &str| {
            let t = self.0[name].to_dtype(DType::U32).unwrap();
            t.to_vec1::<u32>().unwrap()
        };
        let ids = vec("ids");
        let mut start = 0;
        let lengths = vec("lengths").into_iter();
        lengths
            .map(|n| {
                let sequence = ids[start..start + n as usize].to_vec();
                start += n as usize;
                sequence
            })
            .collect()
    }
}

#[test]
fn logits_and_every_gradient_are_those_of_transformers() {
    for case in fixtures("hf") {
        let what = case.display().to_string();
        let (config, tensors) = read_lm(&case).unwrap();
        let params = Params::load(&tensors, &Device::Cpu, DType::F32).unwrap();
        let model = CausalLm::new(&config, &params).unwrap();
        let expected = Expected::read(&case);

        let mut packer = Packer::new();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for sequence in expected.sequences() {
            let range = packer.sequence(&sequence);
            rows.extend(range.start as u32..range.end as u32 - 1);
            targets.extend_from_slice(&sequence[1..]);
        }
        let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let logits = model.logits(&hidden).unwrap();
        assert_close(&logits, &expected.0["logits"], 1e-5, &what);

        let rows = Tensor::new(rows, &Device::Cpu).unwrap();
        let targets = Tensor::new(targets, &Device::Cpu).unwrap();
        let hidden = hidden.index_select(&rows, 0).unwrap();
        let logprobs = model.logprobs(&hidden, &targets, 1.0).unwrap().logprobs;
        let mut grads = Gradients::new();
        let loss = logprobs.mean_all().unwrap().neg().unwrap();
        grads.accumulate(&params, &loss).unwrap();
        // Files without the prefix have gradients without it.
        let bare = |name: &str| name.trim_start_matches("transformer.").to_owned();
        let theirs: BTreeMap<_, _> = expected
            .0
            .iter()
            .filter_map(|(name, grad)| Some((bare(name.strip_prefix("grad.")?), grad)))
            .collect();
        assert_eq!(grads.iter().count(), theirs.len(), "{what}");
        for (name, grad) in grads.iter() {
            assert_close(grad, theirs[&bare(name)], 2e-5, &format!("{what}, {name}"));
        }
    }
}

#[test]
fn both_spellings_of_a_configuration_are_the_same_model() {
    for case in fixtures("hf") {
        let read = |name: &str| {
            let text = fs_err::read_to_string(case.join(name)).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            ModelConfig::from_json(json).unwrap().family().clone()
        };
        assert_eq!(
            read("config.json"),
            read("config.v4.json"),
            "{}",
            case.display()
        );
    }
}

#[test]
fn scores_are_those_of_transformers() {
    for case in fixtures("hf-reward") {
        let (config, tensors) = read_scalar(&case).unwrap();
        let params = Params::load(&tensors, &Device::Cpu, DType::F32).unwrap();
        let model = ScalarModel::new(&config, &params.frozen()).unwrap();
        let expected = Expected::read(&case);
        let mut packer = Packer::new();
        let last: Vec<_> = expected
            .sequences()
            .iter()
            .map(|ids| packer.sequence(ids).end as u32 - 1)
            .collect();
        let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let rows = Tensor::new(last, &Device::Cpu).unwrap();
        let scores = model
            .scores(&hidden.index_select(&rows, 0).unwrap())
            .unwrap();
        assert_close(
            &scores,
            &expected.0["scores"],
            1e-5,
            &case.display().to_string(),
        );
    }
}
