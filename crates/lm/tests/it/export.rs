//! Models written as GGUF files: what is read back is what was there, as far as the types of the file allow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_base::{Chat, Message};
use rlhf_lm::gguf::{Exported, Quantisation, export};
use rlhf_lm::{Bases, LanguageModel, ModelConfig, SaveDtype, Weights, read_lm};
use serde_json::{Value, json};

/// Those of `scripts/oracle/gguf_files.py`: every family with a tokenizer of its own.
const CASES: [&str; 5] = ["gpt2", "llama", "llama3", "qwen2", "qwen3"];
const ALL: [Quantisation; 4] = [
    Quantisation::F16,
    Quantisation::Q8_0,
    Quantisation::Q4_0,
    Quantisation::Q4KM,
];

fn load(path: &Path) -> LanguageModel {
    LanguageModel::load(path, Weights::Frozen, DType::F32, &Device::Cpu).unwrap()
}

fn case(name: &str) -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf");
    load(&folder.join(format!("{name}.gguf")))
}

/// `model` in a Hugging Face directory, and its GGUF file.
struct Written {
    dir: tempfile::TempDir,
}

impl Written {
    fn of(model: &LanguageModel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        model.save(&dir.path().join("hf"), SaveDtype::F32).unwrap();
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("model.gguf")
    }

    fn export(&self, quantisation: Quantisation) -> rlhf_lm::Result<Exported> {
        let from = self.dir.path().join("hf");
        export(
            &from,
            &Bases::default(),
            quantisation,
            "a model",
            &self.file(),
        )
    }

    /// The weights before and after, by name.
    fn weights(&self) -> BTreeMap<String, (Tensor, Tensor)> {
        let back = self.dir.path().join("back");
        load(&self.file()).save(&back, SaveDtype::F32).unwrap();
        let (_, mut after) = read_lm(&back).unwrap();
        let (_, before) = read_lm(&self.dir.path().join("hf")).unwrap();
        assert_eq!(after.len(), before.len());
        let pair = |(name, before)| {
            let after = after.remove(&name).unwrap();
            (name, (before, after))
        };
        before.into_iter().map(pair).collect()
    }
}

fn fresh(config: Value, tokenizer: &LanguageModel) -> LanguageModel {
    let config = ModelConfig::from_json(config).unwrap();
    let tokenizer = tokenizer.tokenizer.clone();
    LanguageModel::fresh(config, tokenizer, 1, DType::F32, &Device::Cpu).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A matrix of which the file holds the rows that a block runs along.
fn rows(name: &str, tensor: &Tensor) -> Tensor {
    match name.starts_with("transformer.h.") {
        true => tensor.t().unwrap().contiguous().unwrap(),
        false => tensor.clone(),
    }
}

#[test]
fn weights_come_back_rounded_to_f16_and_everything_else_as_it_was() {
    let texts = [
        "The fox isn't 1234 years old.",
        "  Fuchs \n\n naïve 日本 <|im_end|>x",
    ];
    let chat = Chat::from(vec![Message::new("user", "Which colour?")]);
    for name in CASES {
        let model = case(name);
        let written = Written::of(&model);
        let exported = written.export(Quantisation::F16).unwrap();
        assert!(
            exported.notes.is_empty() && exported.fallbacks.is_empty(),
            "{name}: {exported:?}"
        );
        for (parameter, (before, after)) in written.weights() {
            let kept = before.rank() < 2 || parameter == "transformer.wpe.weight";
            let expected = match kept {
                true => before,
                false => before
                    .to_dtype(DType::F16)
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap(),
            };
            assert_eq!(numbers(&after), numbers(&expected), "{name}: {parameter}");
        }
        let back = load(&written.file());
        assert!(back.config.same_model(&model.config), "{name}");
        let (ours, theirs) = (&model.tokenizer, &back.tokenizer);
        for text in texts {
            assert_eq!(
                ours.encode(text).unwrap(),
                theirs.encode(text).unwrap(),
                "{name}"
            );
        }
        assert_eq!(ours.vocab_size(), theirs.vocab_size(), "{name}");
        assert_eq!(ours.adds_bos(), theirs.adds_bos(), "{name}");
        assert_eq!(ours.end_ids(), theirs.end_ids(), "{name}");
        assert_eq!(
            (ours.bos_id(), ours.pad_id()),
            (theirs.bos_id(), theirs.pad_id()),
            "{name}"
        );
        assert_eq!(ours.has_chat_template(), theirs.has_chat_template());
        if ours.has_chat_template() {
            let render =
                |model: &LanguageModel| model.tokenizer.apply_chat_template(&chat, true).unwrap();
            assert_eq!(render(&model), render(&back), "{name}");
        }
    }
}

/// The bounds are those of the formats. `Q8_0`: values are rounded to multiples of d = max/127, and d to f16, which moves 127·d by
/// 127/2048·d. `Q4_0`: d = max/8, and of ±max one is cut off at 7·d.
#[test]
fn no_weight_moves_further_than_its_block_allows() {
    for name in CASES {
        let written = Written::of(&case(name));
        for (quantisation, levels, steps) in [
            (Quantisation::Q8_0, 127.0, 0.5),
            (Quantisation::Q4_0, 8.0, 1.0),
        ] {
            let exported = written.export(quantisation).unwrap();
            for (parameter, (before, after)) in written.weights() {
                // Rows of 16 (GPT-2's) fill no block; the projection has blocks of its own.
                let other = before.rank() < 2
                    || parameter.contains("embed")
                    || parameter.contains("lm_head");
                if other || name == "gpt2" {
                    continue;
                }
                let (before, after) = (
                    numbers(&rows(&parameter, &before)),
                    numbers(&rows(&parameter, &after)),
                );
                for (before, after) in before.chunks(32).zip(after.chunks(32)) {
                    let d = before.iter().fold(0f32, |most, x| most.max(x.abs())) / levels;
                    let allowed = d * (steps + levels / 2048.0) * 1.000_01;
                    for (before, after) in before.iter().zip(after) {
                        assert!(
                            (before - after).abs() <= allowed,
                            "{name} {parameter}: {before} {after} {d}"
                        );
                    }
                }
            }
            // Widths of 16 take half precision instead, and every one of them is named.
            let halves = exported
                .fallbacks
                .iter()
                .filter(|fallback| fallback.row == 16);
            assert!(name != "gpt2" || halves.clone().all(|fallback| fallback.used == "F16"));
            assert_eq!(halves.count() > 0, name == "gpt2");
        }
    }
}

/// The bounds: a uniform quantiser of step s errs by s/√12 (root mean square). Of 32 normal numbers the range is 4.1σ on average, so that
/// `Q4_K` with 15 steps errs by 0.08σ; of 16 numbers the largest is 1.8σ, so that `Q6_K` with 32 steps errs by 0.016σ. Scales are
/// rounded too, hence a quarter more.
#[test]
fn blocks_of_256_are_used_where_rows_are_long_enough() {
    let tokens = case("qwen3");
    let model = fresh(
        json!({"model_type": "llama", "vocab_size": 290, "hidden_size": 256, "intermediate_size": 288, "num_hidden_layers": 2,
            "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": false}),
        &tokens,
    );
    let written = Written::of(&model);
    let exported = written.export(Quantisation::Q4KM).unwrap();
    // Of two layers the second has more bits; rows of 288 are no multiple of 256.
    let expected = [
        ("F32", 5),
        ("Q4_K", 12),
        ("Q5_0", 1),
        ("Q6_K", 2),
        ("Q8_0", 1),
    ];
    assert_eq!(exported.tensors, BTreeMap::from(expected));
    let down: Vec<_> = exported
        .fallbacks
        .iter()
        .map(|f| (&*f.tensor, f.row, f.wanted, f.used))
        .collect();
    assert_eq!(
        down,
        [
            ("blk.0.ffn_down.weight", 288, "Q4_K", "Q5_0"),
            ("blk.1.ffn_down.weight", 288, "Q6_K", "Q8_0")
        ]
    );
    for (parameter, (before, after)) in written.weights() {
        if before.rank() < 2 {
            continue;
        }
        let square = |tensor: &Tensor| {
            tensor
                .sqr()
                .unwrap()
                .mean_all()
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let error = (square(&(&before - &after).unwrap()) / square(&before)).sqrt();
        let six =
            ["lm_head.weight", "model.layers.1.self_attn.v_proj.weight"].contains(&&*parameter);
        let allowed = if six { 0.02 } else { 0.1 };
        assert!(error > 0.0 && error < allowed, "{parameter}: {error}");
    }
}

#[test]
fn a_window_bounds_the_context_that_a_file_promises() {
    let tokens = case("qwen3");
    let mistral = |window: Value| {
        json!({"model_type": "mistral", "vocab_size": 290, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": window})
    };
    for (window, length) in [(json!(40), 40), (Value::Null, 64)] {
        let written = Written::of(&fresh(mistral(window), &tokens));
        let exported = written.export(Quantisation::F16).unwrap();
        assert_eq!(exported.context_length, length);
        assert_eq!(
            exported.notes.len(),
            usize::from(length == 40),
            "{:?}",
            exported.notes
        );
        let back = load(&written.file()).config;
        assert_eq!((back.model_type(), back.max_length()), ("llama", length));
    }
}

#[test]
fn what_llama_cpp_does_not_have_is_refused_before_anything_is_written() {
    let tokens = case("gpt2");
    let gpt2 = json!({"model_type": "gpt2", "vocab_size": 280, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1,
        "activation_function": "gelu"});
    let qwen3 = json!({"model_type": "qwen3", "vocab_size": 280, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 8, "attention_bias": true});
    for (config, what) in [(gpt2, "activation_function"), (qwen3, "attention_bias")] {
        let written = Written::of(&fresh(config, &tokens));
        for quantisation in ALL {
            let error = written.export(quantisation).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("hf"), "{error}");
        }
        assert!(!written.file().exists());
    }
}

#[test]
fn numbers_too_large_for_f16_are_refused_by_name() {
    let written = Written::of(&case("qwen2"));
    let (_, mut tensors) = read_lm(&written.dir.path().join("hf")).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let large = (tensors[name].clone() * 1e6).unwrap();
    tensors.insert(name.into(), large);
    rlhf_lm::save_tensors(&written.dir.path().join("hf/model.safetensors"), &tensors).unwrap();
    let error = written.export(Quantisation::F16).unwrap_err().to_string();
    assert!(
        error.contains("blk.0.ffn_up.weight") && error.contains("q8_0"),
        "{error}"
    );
    assert!(!written.file().exists());
    written.export(Quantisation::Q8_0).unwrap();
}

#[test]
fn a_tokenizer_that_llama_cpp_does_not_have_is_refused() {
    let written = Written::of(&case("gpt2"));
    let path = written.dir.path().join("hf/tokenizer.json");
    let json: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    let changes: [(&str, Value); 3] = [
        (
            "pre_tokenizer",
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ),
        ("normalizer", json!({"type": "Lowercase"})),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+|\p{N}+"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]}),
        ),
    ];
    for (key, value) in changes {
        let mut json = json.clone();
        json[key] = value;
        fs_err::write(&path, json.to_string()).unwrap();
        let error = written.export(Quantisation::F16).unwrap_err().to_string();
        assert!(
            error.contains("splits texts") && error.contains("convert_hf_to_gguf.py"),
            "{error}"
        );
    }
}
