//! Directories come back as they were saved, and what is wrong with one is said in one error.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{
    CausalLm, Head, HeadInit, ModelConfig, Packer, Params, ScalarModel, SpecialIds,
    check_vocabulary, read_lm, read_scalar, write_lm, write_scalar,
};
use serde_json::{Value, json};

use crate::models::{configs, params, weights};

const SPECIAL: SpecialIds = SpecialIds {
    bos: None,
    eos: Some(2),
    pad: Some(0),
};

fn load(tensors: &BTreeMap<String, Tensor>) -> Params {
    Params::load(tensors, &Device::Cpu, DType::F32).unwrap()
}

fn files(dir: &Path) -> [Vec<u8>; 2] {
    ["config.json", "model.safetensors"].map(|f| fs_err::read(dir.join(f)).unwrap())
}

fn logits(config: &ModelConfig, params: &Params) -> Vec<f32> {
    let mut packer = Packer::new();
    packer.sequence(&[3, 1, 4, 1, 5]);
    let model = CausalLm::new(config, params).unwrap();
    let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
    let logits = model.logits(&hidden).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// Replaces the weights of `dir` by `change`d ones.
fn rewrite(dir: &Path, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    let path = dir.join("model.safetensors");
    let tensors =
        candle_core::safetensors::load_buffer(&fs_err::read(&path).unwrap(), &Device::Cpu);
    let mut tensors: BTreeMap<_, _> = tensors.unwrap().into_iter().collect();
    change(&mut tensors);
    let tensors = tensors.into_iter().collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn zeros(shape: impl Into<candle_core::Shape>) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_language_model_comes_back_with_the_same_bits_and_is_saved_to_the_same_bytes() {
    for (name, config) in configs() {
        let params = params(&config, 1, DType::F32);
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write_lm(dirs[0].path(), &config, &params, SPECIAL, DType::F32).unwrap();
        let (read_config, tensors) = read_lm(dirs[0].path()).unwrap();
        assert!(read_config.same_model(&config), "{name}");
        let read = load(&tensors);
        assert_eq!(
            logits(&read_config, &read),
            logits(&config, &params),
            "{name}"
        );
        write_lm(dirs[1].path(), &read_config, &read, SPECIAL, DType::F32).unwrap();
        assert_eq!(files(dirs[0].path()), files(dirs[1].path()), "{name}");
    }
}

#[test]
fn weights_saved_in_half_precision_are_those_weights_rounded() {
    let (_, config) = configs().remove(0);
    let params = params(&config, 1, DType::F32);
    for (dtype, torch) in [(DType::BF16, "bfloat16"), (DType::F16, "float16")] {
        let dir = tempfile::tempdir().unwrap();
        write_lm(dir.path(), &config, &params, SPECIAL, dtype).unwrap();
        let json: Value = serde_json::from_slice(&files(dir.path())[0]).unwrap();
        assert_eq!(json["torch_dtype"], torch);
        for (name, found) in read_lm(dir.path()).unwrap().1 {
            assert_eq!(found.dtype(), dtype);
            let rounded = params.get(&name).unwrap().to_dtype(dtype).unwrap();
            let bits = |t: &Tensor| {
                t.to_dtype(DType::F32)
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap()
            };
            assert_eq!(bits(&found), bits(&rounded), "{name}");
        }
    }
    let error = write_lm(Path::new("unused"), &config, &params, SPECIAL, DType::F64).unwrap_err();
    assert!(error.to_string().contains("F64"), "{error}");
}

#[test]
fn a_reward_model_comes_back_under_the_names_of_sequence_classification() {
    for (name, config) in configs() {
        let params = load(&weights(&ScalarModel::schema(&config).unwrap(), 2));
        let dir = tempfile::tempdir().unwrap();
        write_scalar(dir.path(), &config, &params, SPECIAL, DType::F32).unwrap();
        let json: Value = serde_json::from_slice(&files(dir.path())[0]).unwrap();
        let class = json["architectures"][0].as_str().unwrap();
        assert!(class.ends_with("ForSequenceClassification"), "{class}");
        let (_, tensors) = read_scalar(dir.path()).unwrap();
        assert_eq!(tensors["score.weight"].dims(), [1, config.hidden_size()]);
        assert!(!tensors.contains_key("lm_head.weight"), "{name}");
        let error = read_lm(dir.path()).unwrap_err().to_string();
        assert!(error.contains("this is a reward model"), "{error}");
        write_lm(
            dir.path(),
            &config,
            &load(&weights(&CausalLm::schema(&config).unwrap(), 2)),
            SPECIAL,
            DType::F32,
        )
        .unwrap();
        let error = read_scalar(dir.path()).unwrap_err().to_string();
        assert!(error.contains("this is a language model"), "{error}");
    }
}

#[test]
fn everything_wrong_with_the_tensors_is_one_error_that_names_them_and_the_file() {
    let (_, config) = configs().remove(0);
    let dir = tempfile::tempdir().unwrap();
    write_lm(
        dir.path(),
        &config,
        &params(&config, 1, DType::F32),
        SPECIAL,
        DType::F32,
    )
    .unwrap();
    rewrite(dir.path(), |tensors| {
        tensors.remove("transformer.h.1.mlp.c_fc.bias").unwrap();
        tensors.insert("transformer.ln_f.weight".into(), zeros(13));
        tensors.insert("transformer.h.7.ln_1.weight".into(), zeros(12));
    });
    let error = read_lm(dir.path()).unwrap_err().to_string();
    for part in [
        "model.safetensors",
        "missing: transformer.h.1.mlp.c_fc.bias",
        "wrong shape: transformer.ln_f.weight (expected [12], found [13])",
        "unexpected: transformer.h.7.ln_1.weight",
    ] {
        assert!(error.contains(part), "{part} not in: {error}");
    }
    rewrite(dir.path(), |tensors| {
        let whole = zeros(12).to_dtype(DType::U8).unwrap();
        tensors.insert("transformer.ln_f.weight".into(), whole);
    });
    let error = read_lm(dir.path()).unwrap_err().to_string();
    assert!(error.contains("ln_f.weight holds whole numbers"), "{error}");
    let error = read_lm(tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
    fs_err::write(dir.path().join("config.json"), r#"{"model_type": "t5"}"#).unwrap();
    let error = read_lm(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains("t5"),
        "{error}"
    );
}

#[test]
fn older_files_without_prefix_and_with_constants_are_read_as_the_same_model() {
    for ((name, config), constant) in configs().into_iter().zip([
        "h.0.attn.bias",
        "h.1.attn.masked_bias",
        "layers.0.self_attn.rotary_emb.inv_freq",
    ]) {
        let params = params(&config, 1, DType::F32);
        let dir = tempfile::tempdir().unwrap();
        write_lm(dir.path(), &config, &params, SPECIAL, DType::F32).unwrap();
        rewrite(dir.path(), |tensors| {
            let bare = |name: String| match name.split_once('.') {
                Some(("transformer" | "model", rest)) => rest.to_owned(),
                _ => name,
            };
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(n, t)| (bare(n), t))
                .collect();
            tensors.insert(constant.into(), zeros(5));
        });
        let (config, tensors) = read_lm(dir.path()).unwrap();
        assert_eq!(
            logits(&config, &load(&tensors)),
            logits(&config, &params),
            "{name}"
        );
    }
}

#[test]
fn a_tied_head_is_not_saved_twice_and_one_that_differs_is_refused() {
    let (_, config) = configs().remove(2);
    assert!(config.tied());
    let dir = tempfile::tempdir().unwrap();
    write_lm(
        dir.path(),
        &config,
        &params(&config, 1, DType::F32),
        SPECIAL,
        DType::F32,
    )
    .unwrap();
    rewrite(dir.path(), |tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        assert!(tensors.insert("lm_head.weight".into(), embedding).is_none());
    });
    read_lm(dir.path()).unwrap();
    rewrite(dir.path(), |tensors| {
        let other = (&tensors["lm_head.weight"] + 1.0).unwrap();
        tensors.insert("lm_head.weight".into(), other);
    });
    let error = read_lm(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tie_word_embeddings"), "{error}");
}

#[test]
fn a_fresh_head_keeps_the_trunk_and_starts_as_asked() {
    let config = ModelConfig::from_json(
        json!({"model_type": "llama", "vocab_size": 10, "hidden_size": 1023,
        "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 2,
        "max_position_embeddings": 8}),
    )
    .unwrap();
    let lm = CausalLm::init(&config, 0, &Device::Cpu).unwrap();
    let fresh = |head| ScalarModel::with_fresh_head(&config, &lm, head, &Device::Cpu).unwrap();
    let score = |head| {
        fresh(head)["score.weight"]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    assert!(score(HeadInit::Zeros).iter().all(|w| *w == 0.0));
    let drawn = score(HeadInit::Normal { seed: 1 });
    assert_ne!(drawn, score(HeadInit::Normal { seed: 2 }));
    // Σ w² of 1023 draws of N(0, 1/1024) is 1 ± √(2/1023); five standard errors.
    let sum: f32 = drawn.iter().map(|w| w * w).sum();
    assert!((sum - 1.0).abs() < 0.23, "{sum}");
    let names = |t: &BTreeMap<String, Tensor>| t.keys().cloned().collect::<Vec<_>>();
    let mut expected = names(&lm);
    expected.retain(|name| name != "lm_head.weight");
    expected.push("score.weight".into());
    assert_eq!(names(&fresh(HeadInit::Zeros)), expected);
    ScalarModel::new(&config, &load(&fresh(HeadInit::Zeros))).unwrap();
}

#[test]
fn fresh_weights_have_the_spread_their_family_starts_with() {
    let config = ModelConfig::from_json(
        json!({"model_type": "gpt2", "vocab_size": 50, "n_positions": 8,
        "n_embd": 64, "n_layer": 8, "n_head": 2}),
    )
    .unwrap();
    let fresh = CausalLm::init(&config, 0, &Device::Cpu).unwrap();
    let std = |name: &str| {
        let mean = fresh[name].sqr().unwrap().mean_all().unwrap();
        mean.to_scalar::<f32>().unwrap().sqrt()
    };
    // N(0, .02²), and .02 / √(2·8) = .005 into the residual stream; 4096 draws or more each, so a
    // standard deviation is known to 1.1 %: five standard errors are 6 %.
    for (name, expected) in [
        ("transformer.h.0.attn.c_attn.weight", 0.02),
        ("transformer.h.0.attn.c_proj.weight", 0.005),
        ("transformer.h.7.mlp.c_proj.weight", 0.005),
    ] {
        assert!(
            (std(name) / expected - 1.0).abs() < 0.06,
            "{name}: {}",
            std(name)
        );
    }
    assert_eq!(
        (std("transformer.ln_f.weight"), std("transformer.ln_f.bias")),
        (1.0, 0.0)
    );
}

#[test]
fn a_tokenizer_of_another_model_is_refused_but_rounded_up_embeddings_are_not() {
    let config = |rows| {
        let json = json!({"model_type": "gpt2", "vocab_size": rows, "n_positions": 8, "n_embd": 2, "n_layer": 1, "n_head": 1});
        ModelConfig::from_json(json).unwrap()
    };
    let check = |rows, tokens| {
        let named = |id| Some(format!("<{id}>"));
        check_vocabulary(&config(rows), tokens, named, Path::new("some/dir"))
    };
    check(50257, 50257).unwrap();
    check(151936, 151665).unwrap(); // Qwen2.5 0.5B
    check(51200, 50295).unwrap(); // Phi-2
    for (rows, tokens) in [(50257, 50258), (50257, 300), (512, 300)] {
        let error = check(rows, tokens).unwrap_err().to_string();
        assert!(
            error.contains(&rows.to_string()) && error.contains("some/dir"),
            "{error}"
        );
    }
    let error = check(512, 514).unwrap_err().to_string();
    assert!(
        error.contains("2 of them, from \"<512>\" on, have no row"),
        "{error}"
    );
}

#[test]
fn saving_takes_only_what_the_model_asks_for() {
    let (_, config) = configs().remove(0);
    let mut params = params(&config, 1, DType::F32);
    params.insert("score.weight", &zeros((1, 12))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_lm(dir.path(), &config, &params, SPECIAL, DType::F32).unwrap();
    read_lm(dir.path()).unwrap();
    let json: Value = serde_json::from_slice(&files(dir.path())[0]).unwrap();
    assert_eq!(json["architectures"], json!(["GPT2LMHeadModel"]));
    assert_eq!(json, config.to_json(Head::CausalLm, "float32", SPECIAL));
}

/// The oracle is `transformers`' own file: the same tensors under the same names, experts one by one where it has them so.
#[test]
fn what_is_saved_holds_the_tensors_that_transformers_saves() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf");
    for entry in fs_err::read_dir(&fixtures).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap().to_string_lossy().into_owned();
        let (config, tensors) = rlhf_lm::read_lm(&from).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let special = SpecialIds::default();
        write_lm(dir.path(), &config, &load(&tensors), special, DType::F32).unwrap();
        let stored = |dir: &Path| -> BTreeMap<String, Tensor> {
            let file = dir.join("model.safetensors");
            candle_core::safetensors::load(file, &Device::Cpu)
                .unwrap()
                .into_iter()
                .collect()
        };
        let (ours, theirs) = (stored(dir.path()), stored(&from));
        if name.ends_with("-nested") {
            // The text part is a model of its own.
            assert!(config.is_part() && ours.len() < theirs.len());
            let (again, _) = rlhf_lm::read_lm(dir.path()).unwrap();
            assert!(again.same_model(&config) && !again.is_part());
            let of = name.trim_end_matches("-nested");
            assert_eq!(again.model_type(), format!("{of}_text"));
            continue;
        }
        if name == "gpt2-bare-names" {
            continue; // names of old, and constants
        }
        assert!(ours.keys().eq(theirs.keys()), "{name}");
        for (tensor, ours) in &ours {
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(ours), bits(&theirs[tensor]), "{name}: {tensor}");
        }
    }
}
