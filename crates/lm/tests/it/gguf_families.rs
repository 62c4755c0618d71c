//! GGUF files of every family of `decoder` and of GPT-NeoX.
//!
//! The fixtures and their numbers are from `scripts/oracle/gguf_families.py`: random models of `transformers`, and the logits they had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_lm::gguf::{Quantisation, export};
use rlhf_lm::{
    Bases, CausalLm, LanguageModel, LoraConfig, ModelConfig, Outline, Packer, SaveDtype, Weights,
};

use crate::models::assert_close;

/// The model and what it should compute: tokens and logits.
fn cases() -> Vec<(String, PathBuf, Vec<u32>, Tensor)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf-families");
    let mut cases = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "gguf") {
            let numbers = path.with_extension("safetensors");
            let numbers = candle_core::safetensors::load(numbers, &Device::Cpu).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let ids = numbers["ids"].to_vec1().unwrap();
            cases.push((name, path, ids, numbers["logits"].clone()));
        }
    }
    assert_eq!(cases.len(), 16);
    cases
}

fn load(path: &Path) -> LanguageModel {
    LanguageModel::load(path, Weights::Trainable, DType::F32, &Device::Cpu).unwrap()
}

fn logits(model: &LanguageModel, ids: &[u32]) -> Tensor {
    let mut packer = Packer::new();
    packer.sequence(ids);
    let lm = CausalLm::new(&model.config, &model.params).unwrap();
    let hidden = lm.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
    lm.logits(&hidden).unwrap()
}

#[test]
fn logits_are_those_of_the_model_that_was_written() {
    for (name, path, ids, wanted) in cases() {
        // Both sum in f32, in another order.
        assert_close(&logits(&load(&path), &ids), &wanted, 1e-5, &name);
    }
}

/// The oracle is the file that was written from `transformers`' model with llama.cpp's names: the same tensors, but for those that nothing reads, of the same
/// numbers, rounded to 11 bits.
#[test]
fn what_is_written_is_the_file_that_was_read() {
    for (name, path, ids, wanted) in cases() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
        load(&path).save(&from, SaveDtype::F32).unwrap();
        export(&from, &Bases::default(), Quantisation::F16, &name, &to)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (mut theirs, ours) = (tensors(&path), tensors(&to));
        theirs.retain(|tensor, _| !is_unread(&name, tensor));
        let names = |tensors: &BTreeMap<String, Tensor>| -> Vec<String> {
            tensors.keys().cloned().collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{name}");
        for (tensor, theirs) in &theirs {
            let what = format!("{name}: {tensor}");
            assert_eq!(ours[tensor].dims(), theirs.dims(), "{what}");
            // The divisors of frequencies that do not turn are 1e30.
            let bound = |x: &Tensor| x.clamp(-1e3f32, 1e3).unwrap();
            assert_close(&bound(&ours[tensor]), &bound(theirs), 1e-3, &what);
        }
        // Phi's windows, which llama.cpp does not have, bound the length.
        let model = load(&to);
        let length = model.config.max_length().min(ids.len());
        let wanted = wanted.narrow(0, 0, length).unwrap();
        assert_close(&logits(&model, &ids[..length]), &wanted, 0.02, &name);
    }
}

/// Every tensor of a file, by candle's reader.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let mut file = fs_err::File::open(path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    let names: Vec<String> = content.tensor_infos.keys().cloned().collect();
    let mut numbers = |name: String| {
        let tensor = content.tensor(&mut file, &name, &Device::Cpu).unwrap();
        (name, tensor.dequantize(&Device::Cpu).unwrap())
    };
    names.into_iter().map(&mut numbers).collect()
}

/// Whether no language model reads `tensor`: the block of Qwen3.5 that guesses further tokens ahead, and of Gemma 4 the keys and values of layers that take
/// those of others.
fn is_unread(case: &str, tensor: &str) -> bool {
    let borrows = |layer: &str| {
        let within = tensor.strip_prefix(layer);
        within.is_some_and(|name| name.starts_with("attn_k") || name.starts_with("attn_v"))
    };
    match case {
        "qwen3_5" => tensor.starts_with("blk.3."),
        "gemma4" => borrows("blk.2.") || borrows("blk.3."),
        _ => false,
    }
}

/// The oracle is `transformers`' GemmaTokenizer over the same vocabulary.
#[test]
fn gemma_4_texts_become_the_ids_of_its_tokenizer_before_and_after_they_are_written() {
    let (_, path, ..) = cases().into_iter().find(|case| case.0 == "gemma4").unwrap();
    let texts = fs_err::read_to_string(path.with_file_name("tokens.json")).unwrap();
    let texts: Vec<serde_json::Value> = serde_json::from_str(&texts).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
    load(&path).save(&from, SaveDtype::F32).unwrap();
    let written = export(&from, &Bases::default(), Quantisation::F16, "gemma", &to).unwrap();
    assert_eq!(written.notes, [""; 0]);
    for file in [&path, &from, &to] {
        let tokenizer = load(file).tokenizer;
        assert!(tokenizer.adds_bos());
        for case in &texts {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(serde_json::json!(ids), case["ids"], "{text:?}");
        }
    }
}

/// Under an adapter, the weights of recurrent layers stay in their quantised blocks, in the order of `transformers`; one whose blocks hold numbers of several
/// heads is read as numbers. The oracle is the same file without blocks, to the last bit as long as the adapter adds nothing.
#[test]
fn recurrent_layers_compute_the_same_from_quantised_blocks() {
    let (_, path, ids, _) = cases()
        .into_iter()
        .find(|case| case.0 == "qwen3_5")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
    let original = load(&path);
    original.save(&from, SaveDtype::F32).unwrap();
    let text = fs_err::read_to_string(from.join("config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    // All rows are whole numbers of blocks of 32.
    for key in ["hidden_size", "intermediate_size"] {
        json[key] = 32.into();
    }
    json["initializer_range"] = 0.3.into();
    // What is torn of two layers: their projections out, with 32 rows for 6 heads of 16.
    for (dim, torn) in [(32, 0), (16, 2 * 32 * 6 * 16)] {
        for key in ["linear_key_head_dim", "linear_value_head_dim"] {
            json[key] = dim.into();
        }
        let config = ModelConfig::from_json(json.clone()).unwrap();
        let tokenizer = original.tokenizer.clone();
        let model = LanguageModel::fresh(config, tokenizer, 5, DType::F32, &Device::Cpu).unwrap();
        model.save(&from, SaveDtype::F32).unwrap();
        let written = export(&from, &Bases::default(), Quantisation::Q8_0, "blocks", &to).unwrap();
        assert_eq!(written.fallbacks, []);
        let adapter = LoraConfig {
            rank: 2,
            ..LoraConfig::default()
        };
        let over_blocks = Bases::default()
            .adapted(&to, &adapter, 3, DType::F32, &Device::Cpu)
            .unwrap();
        let bits = |model: &LanguageModel| -> Vec<u32> {
            let rows: Vec<f32> = logits(model, &ids)
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            rows.into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&over_blocks), bits(&load(&to)), "heads of {dim}");
        let outline = Outline::read(&to, &Bases::default()).unwrap();
        let linear = outline
            .size
            .linear
            .iter()
            .map(|(outputs, inputs)| outputs * inputs);
        let (in_blocks, _) = outline.size.quantised;
        assert_eq!(linear.sum::<u64>() - in_blocks, torn, "heads of {dim}");
    }
}

/// What llama.cpp has no key for is refused, and nothing is written.
#[test]
fn a_model_that_llama_cpp_would_run_otherwise_is_refused() {
    let (_, path, ..) = cases()
        .into_iter()
        .find(|case| case.0 == "smollm3")
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
    load(&path).save(&from, SaveDtype::F32).unwrap();
    let config = from.join("config.json");
    let text = fs_err::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["no_rope_layers"] = serde_json::json!([1, 0, 1, 1]);
    fs_err::write(&config, json.to_string()).unwrap();
    let said = export(&from, &Bases::default(), Quantisation::F16, "odd", &to);
    let said = said.unwrap_err().to_string();
    assert!(said.contains("llama.cpp's smollm3 would run it"), "{said}");
    assert!(!to.exists());
}

/// What comes of writing a fresh model like `case`, but for what `change` makes of its `config.json`: the configuration that is read again.
fn written(
    case: &str,
    change: impl FnOnce(&mut serde_json::Value),
) -> rlhf_lm::Result<(ModelConfig, ModelConfig)> {
    let (_, path, ..) = cases().into_iter().find(|(name, ..)| name == case).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
    let original = load(&path);
    original.save(&from, SaveDtype::F32).unwrap();
    let text = fs_err::read_to_string(from.join("config.json")).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    change(&mut json);
    let config = ModelConfig::from_json(json).unwrap();
    let tokenizer = original.tokenizer.clone();
    let fresh = LanguageModel::fresh(config, tokenizer, 5, DType::F32, &Device::Cpu).unwrap();
    fresh.save(&from, SaveDtype::F32).unwrap();
    export(&from, &Bases::default(), Quantisation::F16, case, &to)?;
    Ok((fresh.config, load(&to).config))
}

#[test]
fn layers_of_two_kinds_are_written_in_any_order_that_llama_cpp_knows() {
    let kinds = ["full_attention", "linear_attention", "sliding_attention"];
    let [full, linear, slides] = kinds;
    for (case, types) in [
        // The last of two attends; the first and the last do, for which there is no such number; none does.
        ("qwen3_5", &[linear, full, linear][..]),
        ("qwen3_5", &[full, linear, full]),
        ("qwen3_5", &[linear, linear, linear]),
        ("gemma4-dense", &[full, slides, full]),
    ] {
        let same = written(case, |json| {
            json["layer_types"] = types.into();
            json["num_hidden_layers"] = types.len().into();
        });
        let (wanted, found) = same.unwrap_or_else(|error| panic!("{case} {types:?}: {error}"));
        assert!(found.same_model(&wanted), "{case} {types:?}");
    }
}

#[test]
fn layers_that_llama_cpp_would_run_otherwise_are_refused_by_the_name_of_the_setting() {
    let refused = |case, key: &str, value: serde_json::Value| {
        let said = written(case, |json| json[key] = value).unwrap_err();
        said.to_string()
    };
    let (full, slides) = ("full_attention", "sliding_attention");
    // It takes the keys of the last but one layer that has some, of those with a window.
    let types = serde_json::json!([full, slides, slides, full]);
    let said = refused("gemma4", "layer_types", types);
    assert!(said.contains("num_kv_shared_layers"), "{said}");
    let none = serde_json::json!([full, full]);
    let said = refused("gemma4-dense", "layer_types", none);
    assert!(said.contains("layer_types without"), "{said}");
    let said = refused("gemma4", "vocab_size_per_layer_input", 1000.into());
    assert!(said.contains("vocab_size_per_layer_input"), "{said}");
    let said = refused("gemma4-dense", "attention_bias", true.into());
    assert!(said.contains("attention_bias"), "{said}");
    let said = refused("qwen3_5", "linear_value_head_dim", 4.into());
    assert!(said.contains("linear_value_head_dim"), "{said}");
}

#[test]
fn what_is_saved_is_the_same_model() {
    for (name, path, ids, _) in cases() {
        let model = load(&path);
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), SaveDtype::F32).unwrap();
        let saved = load(dir.path());
        assert!(saved.config.same_model(&model.config), "{name}");
        let bits = |t: Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(
            bits(logits(&saved, &ids)),
            bits(logits(&model, &ids)),
            "{name}"
        );
    }
}
