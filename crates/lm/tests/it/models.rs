//! Tiny models of every family, with weights large enough that attention matters.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rlhf_base::rng;
use rlhf_lm::{CausalLm, ModelConfig, Params, Schema};
use serde_json::{Value, json};

pub(crate) const VOCAB: usize = 23;

/// Both families, tied and untied, grouped queries, biases, q/k norms, heads that are not H / heads.
pub(crate) fn configs() -> Vec<(&'static str, ModelConfig)> {
    configs_of(2)
}

/// [`configs`] with `layers` blocks.
pub(crate) fn configs_of(layers: usize) -> Vec<(&'static str, ModelConfig)> {
    let gpt2 = |extra| {
        let base = json!({"model_type": "gpt2", "vocab_size": VOCAB, "n_positions": 40, "n_embd": 12,
            "n_layer": layers, "n_head": 3});
        config(base, extra)
    };
    let llama = |extra| {
        let base = json!({"model_type": "llama", "vocab_size": VOCAB, "hidden_size": 12, "intermediate_size": 20,
            "num_hidden_layers": layers, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 2,
            "max_position_embeddings": 40, "rms_norm_eps": 1e-5});
        config(base, extra)
    };
    let gemma = |model_type: &str, extra: Value| {
        let mut json = json!({"model_type": model_type, "head_dim": 4, "query_pre_attn_scalar": 3, "sliding_window": 3});
        json.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json
    };
    let gemma4 = |extra: Value| {
        let mut json = json!({"model_type": "gemma4_text", "head_dim": 4, "global_head_dim": 8, "sliding_window": 3, "attention_bias": true,
            "vocab_size_per_layer_input": 280, "final_logit_softcapping": 3.0});
        json.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json
    };
    let neox = |extra| {
        let base = json!({"model_type": "gpt_neox", "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 20,
            "num_hidden_layers": layers, "num_attention_heads": 3, "max_position_embeddings": 40});
        config(base, extra)
    };
    let delta = |kind: &str| {
        json!({"model_type": "qwen3_5_text", "head_dim": 8, "layer_types": vec![kind; layers], "linear_num_key_heads": 1,
            "linear_num_value_heads": 2, "linear_key_head_dim": 12, "linear_value_head_dim": 10})
    };
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    vec![
        ("gpt2", gpt2(json!({}))),
        (
            "gpt2, untied, erf",
            gpt2(
                json!({"tie_word_embeddings": false, "activation_function": "gelu", "n_inner": 17}),
            ),
        ),
        ("llama, tied", llama(json!({"tie_word_embeddings": true}))),
        (
            "llama 3.1, biases",
            llama(
                json!({"head_dim": 8, "rope_scaling": llama3, "attention_bias": true, "mlp_bias": true}),
            ),
        ),
        (
            "mistral, linear rope",
            llama(
                json!({"model_type": "mistral", "rope_scaling": {"type": "linear", "factor": 2.0}}),
            ),
        ),
        (
            "mistral, sliding window",
            llama(json!({"model_type": "mistral", "sliding_window": 3})),
        ),
        (
            "qwen2",
            llama(
                json!({"model_type": "qwen2", "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}),
            ),
        ),
        (
            "qwen3",
            llama(json!({"model_type": "qwen3", "head_dim": 4})),
        ),
        (
            "qwen3, yarn",
            llama(
                json!({"model_type": "qwen3", "head_dim": 8, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0,
                    "original_max_position_embeddings": 10}}),
            ),
        ),
        (
            "smollm3",
            llama(
                json!({"model_type": "smollm3", "no_rope_layer_interval": 2, "use_sliding_window": true, "sliding_window": 3}),
            ),
        ),
        (
            "granite",
            llama(
                json!({"model_type": "granite", "embedding_multiplier": 3.0, "attention_multiplier": 0.4, "residual_multiplier": 0.5,
                    "logits_scaling": 0.7}),
            ),
        ),
        (
            "gemma2",
            llama(gemma(
                "gemma2",
                json!({"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
            )),
        ),
        (
            "gemma3",
            llama(gemma(
                "gemma3_text",
                json!({"sliding_window_pattern": 2, "rope_theta": 100.0, "rope_local_base_freq": 10.0}),
            )),
        ),
        (
            "gemma4, shared keys",
            llama(gemma4(
                json!({"layer_types": vec!["full_attention"; layers], "num_kv_shared_layers": layers / 2, "use_double_wide_mlp": true,
                    "hidden_size_per_layer_input": 12}),
            )),
        ),
        (
            "gemma4, keys as values",
            llama(gemma4(
                json!({"layer_types": kinds(layers), "attention_k_eq_v": true, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0}),
            )),
        ),
        (
            "gemma4, experts beside",
            llama(gemma4(
                json!({"layer_types": kinds(layers), "hidden_size_per_layer_input": 0, "enable_moe_block": true, "num_experts": 4, "top_k_experts": 2,
                    "moe_intermediate_size": 9}),
            )),
        ),
        ("gpt_neox", neox(json!({}))),
        (
            "gpt_neox, one after the other",
            neox(
                json!({"use_parallel_residual": false, "rotary_pct": 1.0, "hidden_act": "gelu_new", "tie_word_embeddings": true}),
            ),
        ),
        ("olmo2", llama(json!({"model_type": "olmo2"}))),
        ("qwen3_5, recurrent", llama(delta("linear_attention"))),
        ("qwen3_5, gated attention", llama(delta("full_attention"))),
        (
            "lfm2",
            llama(
                json!({"model_type": "lfm2", "block_auto_adjust_ff_dim": false, "conv_L_cache": 4, "full_attn_idxs": [0]}),
            ),
        ),
        (
            "qwen3_moe",
            llama(
                json!({"model_type": "qwen3_moe", "head_dim": 4, "num_experts": 5, "num_experts_per_tok": 2, "norm_topk_prob": true,
                "moe_intermediate_size": 9, "mlp_only_layers": [1]}),
            ),
        ),
        (
            "olmoe",
            llama(json!({"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2})),
        ),
        (
            "granitemoe",
            llama(
                json!({"model_type": "granitemoe", "num_local_experts": 4, "num_experts_per_tok": 2, "embedding_multiplier": 3.0,
                "attention_multiplier": 0.4, "residual_multiplier": 0.5, "logits_scaling": 0.7}),
            ),
        ),
        (
            "olmo3",
            llama(
                json!({"model_type": "olmo3", "sliding_window": 3, "layer_types": kinds(layers)}),
            ),
        ),
        (
            "phi3",
            llama(
                json!({"model_type": "phi3", "head_dim": 8, "partial_rotary_factor": 0.5, "sliding_window": 5, "rope_scaling": {"type": "longrope",
                    "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}, "original_max_position_embeddings": 40}),
            ),
        ),
    ]
}

/// Layers with a window and without, in turn.
fn kinds(layers: usize) -> Vec<&'static str> {
    let kinds = ["sliding_attention", "full_attention"].into_iter().cycle();
    kinds.take(layers).collect()
}

fn config(mut base: Value, extra: Value) -> ModelConfig {
    let object = base.as_object_mut().unwrap();
    object.extend(extra.as_object().unwrap().clone());
    ModelConfig::from_json(base).unwrap()
}

/// Weights N(0, 0.4²), the factors of norms around 1, drawn by (seed, name).
pub(crate) fn weights(schema: &Schema, seed: u64) -> BTreeMap<String, Tensor> {
    // Gemma, which has norms before and after, adds their weights to 1, but for Gemma 4; and so does Qwen3.5.
    let has = |module: &str| schema.iter().any(|(name, _)| name.contains(module));
    let around_one = has("linear_attn") || has("pre_feedforward") && !has("layer_scalar");
    let draw = |(name, shape): (&str, &candle_core::Shape)| {
        let mut rng = rng::stream(seed, name, 0);
        let is_norm = ["norm", "ln_", "layer_scalar"];
        let is_norm = is_norm.iter().any(|part| name.contains(part));
        let centre = if is_norm && !around_one { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| centre + 0.4 * rng::normal(&mut rng) as f32)
            .collect();
        let tensor = Tensor::from_vec(values, shape.clone(), &Device::Cpu).unwrap();
        (name.to_owned(), tensor)
    };
    schema.iter().map(draw).collect()
}

pub(crate) fn params(config: &ModelConfig, seed: u64, dtype: DType) -> Params {
    let weights = weights(&CausalLm::schema(config).unwrap(), seed);
    Params::load(&weights, &Device::Cpu, dtype).unwrap()
}

/// `n` random tokens.
pub(crate) fn tokens(rng: &mut ChaCha8Rng, n: usize) -> Vec<u32> {
    (0..n).map(|_| rng::below(rng, VOCAB) as u32).collect()
}

/// The larger number, or NaN if either is NaN. `f64::max` and candle's `max` skip NaN, so an assertion on their result would too.
pub(crate) fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// max |t|, or NaN if there is one.
pub(crate) fn largest(t: &Tensor) -> f64 {
    let values = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let values = values.to_vec1::<f32>().unwrap();
    values.iter().map(|x| f64::from(x.abs())).fold(0.0, larger)
}

/// Asserts that |found − expected| ≤ tolerance · max |expected|, element by element.
pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_within(found, expected, tolerance * largest(expected), what);
}

/// Asserts that |found − expected| ≤ bound, element by element.
pub(crate) fn assert_within(found: &Tensor, expected: &Tensor, bound: f64, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let found = found.to_dtype(DType::F32).unwrap();
    let error = largest(&(found - expected.to_dtype(DType::F32).unwrap()).unwrap());
    assert!(error <= bound, "{what}: error {error:e}, allowed {bound:e}");
}

#[test]
fn nan_anywhere_is_the_largest_element() {
    let tensor = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap();
    assert_eq!(largest(&tensor([1.0, -3.0, 2.0])), 3.0);
    for at in 0..3 {
        let mut values = [1.0, -3.0, 2.0];
        values[at] = f32::NAN;
        assert!(largest(&tensor(values)).is_nan(), "NaN at {at}");
    }
}

#[test]
#[should_panic(expected = "error NaN")]
fn nan_is_within_no_bound() {
    let found = Tensor::new(&[0f32, f32::NAN, 0.0], &Device::Cpu).unwrap();
    assert_within(&found, &found.zeros_like().unwrap(), 1e9, "one of three");
}
