//! Models whose weights are held in fewer bits.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rlhf_lm::{CausalLm, HeadInit, ModelConfig, Packer, Params, ScalarModel, WeightFormat};
use serde_json::json;

use crate::models::params;

/// Models of which every matrix is a whole number of blocks: weights `[out, in]`, `[in, out]`, and experts; heads tied and not.
fn configs() -> Vec<ModelConfig> {
    let sizes = json!({"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 40});
    let with = |extra: serde_json::Value| {
        let mut json = sizes.clone();
        let extra = extra.as_object().unwrap().clone();
        json.as_object_mut().unwrap().extend(extra);
        ModelConfig::from_json(json).unwrap()
    };
    vec![
        ModelConfig::from_json(json!({"model_type": "gpt2", "vocab_size": 50, "n_positions": 40, "n_embd": 64, "n_layer": 2, "n_head": 4}))
            .unwrap(),
        with(json!({"model_type": "llama", "tie_word_embeddings": false})),
        with(json!({"model_type": "llama", "tie_word_embeddings": true})),
        with(json!({"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32})),
    ]
}

fn logits(config: &ModelConfig, params: &Params) -> Tensor {
    let model = CausalLm::new(config, params).unwrap();
    let mut packer = Packer::new();
    packer.sequence(&[3, 1, 4, 1, 5]);
    packer.sequence(&[9, 2]);
    let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
    model.logits(&hidden).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    let differences = flat(a).into_iter().zip(flat(b)).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// `w` after it has been in blocks of `kind`, by candle.
fn through(w: &Tensor, kind: GgmlDType) -> Tensor {
    let rounded = QTensor::quantize(w, kind).unwrap();
    rounded.dequantize(&Device::Cpu).unwrap()
}

/// The oracle is the same model whose matrices candle has rounded and restored before they were loaded: they are few enough to be listed by their
/// names' ends. Logits agree to the rounding of f32, where the vocabulary projection is rounded too and the embedding is not.
#[test]
fn logits_are_those_of_a_model_with_rounded_matrices() {
    for config in configs() {
        let params = params(&config, 5, DType::F32);
        let is_matrix = |name: &str| {
            let parts = [
                "attn.c_attn.weight",
                "c_proj.weight",
                "c_fc.weight",
                "_proj.weight",
                "experts.gate_up_proj",
                "experts.down_proj",
            ];
            parts.iter().any(|end| name.ends_with(end))
        };
        let in_out = config.model_type() == "gpt2";
        for (format, kind, of_head) in [
            (WeightFormat::Bf16, GgmlDType::BF16, GgmlDType::BF16),
            (WeightFormat::Q8_0, GgmlDType::Q8_0, GgmlDType::Q8_0),
            (WeightFormat::Q4_0, GgmlDType::Q4_0, GgmlDType::Q8_0),
        ] {
            let what = format!("{} {format:?}", config.model_type());
            let mut numbers = params.tensors();
            let mut bytes = 0;
            for (name, value) in &mut numbers {
                if is_matrix(name) {
                    let matrix = match in_out {
                        true => value.t().unwrap().contiguous().unwrap(),
                        false => value.clone(),
                    };
                    let restored = through(&matrix, kind);
                    *value = match in_out {
                        true => restored.t().unwrap().contiguous().unwrap(),
                        false => restored,
                    };
                    bytes += matrix.elem_count() / kind.block_size() * kind.type_size();
                }
            }
            let model = CausalLm::new(&config, &params).unwrap();
            let vocabulary = through(model.vocab_weight(), of_head);
            bytes += vocabulary.elem_count() / of_head.block_size() * of_head.type_size();

            let oracle = Params::load(&numbers, &Device::Cpu, DType::F32).unwrap();
            let oracle = CausalLm::new(&config, &oracle).unwrap();
            let mut packer = Packer::new();
            packer.sequence(&[3, 1, 4, 1, 5]);
            packer.sequence(&[9, 2]);
            let hidden = oracle.hidden(&packer.finish(&Device::Cpu).unwrap());
            let want = hidden.unwrap().matmul(&vocabulary.t().unwrap()).unwrap();

            let rounded = params.rounded(&config, format, None).unwrap();
            let found = logits(&config, &rounded);
            assert!(largest_difference(&found, &want) < 1e-4, "{what}");
            assert!(
                largest_difference(&found, &logits(&config, &params)) > 1e-4,
                "{what}"
            );
            assert_eq!(
                params.rounded_bytes(&config, format).unwrap(),
                bytes,
                "{what}"
            );
            assert!(rounded.is_frozen());
        }
        let same = params.rounded(&config, WeightFormat::F32, None).unwrap();
        assert_eq!(
            flat(&logits(&config, &same)),
            flat(&logits(&config, &params))
        );
        assert_eq!(params.rounded_bytes(&config, WeightFormat::F32).unwrap(), 0);
    }
}

/// What is trained is rounded anew, with the values of now; what is frozen under an adapter is taken over.
#[test]
fn trained_weights_are_rounded_anew_and_frozen_ones_are_shared() {
    let config = &configs()[2];
    let name = "model.layers.0.mlp.down_proj.weight";
    let base = params(config, 5, DType::F32);
    let first = base.rounded(config, WeightFormat::Q8_0, None).unwrap();
    let before = flat(&logits(config, &first));
    let weight = base.get(name).unwrap();
    weight.set(&(weight.as_tensor() * 2.0).unwrap()).unwrap();
    let second = base.rounded(config, WeightFormat::Q8_0, Some(&first));
    assert_ne!(flat(&logits(config, &second.unwrap())), before);
    assert_eq!(flat(&logits(config, &first)), before);

    let frozen = base.frozen();
    let first = frozen.rounded(config, WeightFormat::Q8_0, None).unwrap();
    let second = frozen
        .rounded(config, WeightFormat::Q8_0, Some(&first))
        .unwrap();
    assert_eq!(
        Params::bytes_together([&first, &second]),
        Params::bytes_together([&first])
    );
}

/// The oracle is the rounded language model: the same hidden states come to a scalar head, and no vocabulary is held for it.
#[test]
fn a_scalar_model_is_rounded_without_a_vocabulary() {
    for config in configs() {
        let base = params(&config, 5, DType::F32);
        let head = HeadInit::Normal { seed: 1 };
        let scalar = ScalarModel::params_over(&config, &base, head).unwrap();
        let format = WeightFormat::Q8_0;
        let rounded = scalar.rounded_scalar(&config, format).unwrap();
        let mut packer = Packer::new();
        packer.sequence(&[3, 1, 4, 1, 5]);
        let batch = packer.finish(&Device::Cpu).unwrap();
        let found = ScalarModel::new(&config, &rounded).unwrap();
        let found = found.hidden(&batch).unwrap();
        let whole = base.rounded(&config, format, None).unwrap();
        let want = CausalLm::new(&config, &whole).unwrap();
        assert_eq!(flat(&found), flat(&want.hidden(&batch).unwrap()));
        assert!(rounded.bytes() < scalar.bytes());
        assert!(rounded.bytes() < whole.bytes(), "no logits");
        assert!(rounded.is_frozen());
    }
}
