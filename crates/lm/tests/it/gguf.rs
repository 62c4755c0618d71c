//! GGUF files against what `transformers`, SentencePiece and the package `gguf` make of them.
//!
//! The fixtures and their numbers are from `scripts/oracle/gguf_files.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_base::{Chat, Message};
use rlhf_lm::{CausalLm, LanguageModel, Packer, RewardModel, SaveDtype, Weights, gguf};
use serde_json::{Value, json};

const CASES: [&str; 5] = ["gpt2", "llama", "llama3", "qwen2", "qwen3"];

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf");
    folder.join(name)
}

fn load(path: &Path) -> rlhf_lm::Result<LanguageModel> {
    LanguageModel::load(path, Weights::Trainable, DType::F32, &Device::Cpu)
}

fn case(name: &str) -> LanguageModel {
    load(&fixture(&format!("{name}.gguf"))).unwrap()
}

fn numbers(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture(&format!("{name}.safetensors")), &Device::Cpu).unwrap()
}

fn logits(model: &LanguageModel, ids: &[u32]) -> Vec<f32> {
    let mut packer = Packer::new();
    packer.sequence(ids);
    let lm = CausalLm::new(&model.config, &model.params).unwrap();
    let hidden = lm.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
    let logits = lm.logits(&hidden).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn tokens() -> Value {
    serde_json::from_slice(&fs_err::read(fixture("tokens.json")).unwrap()).unwrap()
}

/// The fixture `name`, changed by `change`, as a file of its own.
fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("changed.gguf");
    let mut bytes = fs_err::read(fixture(name)).unwrap();
    change(&mut bytes);
    fs_err::write(&path, bytes).unwrap();
    (dir, path)
}

/// Replaces the first `from` by `to`, of the same length.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|w| w == from.as_bytes())
        .unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
}

/// What loading says about the fixture `name`, changed by `change`: one line that names the file.
fn complaint(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let (_dir, path) = changed(name, change);
    let error = load(&path).err().unwrap().to_string();
    assert!(
        error.contains("changed.gguf") && !error.contains('\n'),
        "{error}"
    );
    error
}

#[test]
fn logits_are_those_of_transformers_with_the_same_file() {
    for name in CASES {
        let expected = numbers(name);
        let ids: Vec<u32> = expected["ids"].to_vec1().unwrap();
        let wanted: Vec<f32> = expected["logits"].flatten_all().unwrap().to_vec1().unwrap();
        let found = logits(&case(name), &ids);
        assert_eq!(found.len(), wanted.len(), "{name}");
        let largest = wanted.iter().fold(1.0f32, |m, x| m.max(x.abs()));
        for (found, wanted) in found.iter().zip(&wanted) {
            // Both sum in f32, in another order.
            assert!(
                (found - wanted).abs() <= 1e-5 * largest,
                "{name}: {found} {wanted}"
            );
        }
    }
}

#[test]
fn texts_become_the_ids_of_the_tokenizers_that_published_models_use() {
    let tokens = tokens();
    for name in CASES {
        let (model, expected) = (case(name), &tokens[name]);
        assert_eq!(
            json!(model.tokenizer.adds_bos()),
            expected["adds_bos"],
            "{name}"
        );
        for text in expected["ids"].as_array().unwrap() {
            let ids = model
                .tokenizer
                .encode(text["text"].as_str().unwrap())
                .unwrap();
            assert_eq!(json!(ids), text["ids"], "{name}: {}", text["text"]);
            let plain = !text["text"].as_str().unwrap().contains("<|");
            // SentencePiece's own decoding is not in question; Qwen2 composes characters.
            if plain && !["llama", "qwen2"].contains(&name) {
                assert_eq!(json!(model.tokenizer.decode(&ids).unwrap()), text["text"]);
            }
        }
    }
}

#[test]
fn special_tokens_and_the_chat_template_come_from_the_metadata() {
    let tokens = tokens();
    let chat = Chat::from(vec![Message::new("user", "What colour is the fox?")]);
    for name in ["llama3", "qwen2"] {
        let tokenizer = case(name).tokenizer;
        let chat = tokenizer.apply_chat_template(&chat, true).unwrap();
        assert_eq!(json!(chat), tokens[name]["chat"]);
    }
    let llama3 = case("llama3").tokenizer;
    assert_eq!((llama3.eos_id().unwrap(), llama3.bos_id()), (0, Some(0)));
    assert_eq!(llama3.end_ids(), [0, 2]); // the end of a text and of a turn
    assert_eq!(llama3.vocab_size(), 290); // six more rows stand for nothing
    let qwen2 = case("qwen2").tokenizer;
    assert_eq!((qwen2.eos_id().unwrap(), qwen2.pad_id()), (2, Some(0)));
    assert!(!case("gpt2").tokenizer.has_chat_template());
}

#[test]
fn a_model_from_gguf_is_saved_as_a_hugging_face_directory_of_the_same_model() {
    let tokens = tokens();
    for name in CASES {
        let model = case(name);
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), SaveDtype::F32).unwrap();
        let saved = load(dir.path()).unwrap();
        assert!(saved.config.same_model(&model.config), "{name}");
        let ids = [1, 2, 3];
        assert_eq!(logits(&saved, &ids), logits(&model, &ids), "{name}");
        assert_eq!(
            saved.tokenizer.end_ids(),
            model.tokenizer.end_ids(),
            "{name}"
        );
        assert_eq!(
            saved.tokenizer.adds_bos(),
            model.tokenizer.adds_bos(),
            "{name}"
        );
        for text in tokens[name]["ids"].as_array().unwrap() {
            let ids = saved
                .tokenizer
                .encode(text["text"].as_str().unwrap())
                .unwrap();
            assert_eq!(json!(ids), text["ids"], "{name}: {}", text["text"]);
        }
    }
    let config = |name: &str| {
        let dir = tempfile::tempdir().unwrap();
        case(name).save(dir.path(), SaveDtype::F32).unwrap();
        let text = fs_err::read(dir.path().join("config.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    // The divisors in rope_freqs.weight are found to be those of llama3 with these settings.
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 150});
    assert_eq!(config("llama3")["rope_scaling"], llama3);
    assert_eq!(
        config("qwen2")["rope_scaling"],
        json!({"rope_type": "linear", "factor": 4.0})
    );
    assert_eq!(config("gpt2")["tie_word_embeddings"], true); // the head in the file is the embedding
    assert_eq!(config("llama")["rms_norm_eps"], 1e-5); // not 9.999999747378752e-6
}

#[test]
fn a_directory_stands_for_the_one_gguf_file_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let add = |name: &str| fs_err::copy(fixture("gpt2.gguf"), dir.path().join(name)).unwrap();
    assert_eq!(gguf::locate(dir.path()).unwrap(), None);
    add("model.GGUF");
    let found = gguf::locate(dir.path()).unwrap().unwrap();
    assert!(found.ends_with("model.GGUF"));
    load(dir.path()).unwrap();
    add("other.gguf");
    let error = gguf::locate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("2 GGUF files"), "{error}");
    fs_err::write(dir.path().join("model.safetensors"), "").unwrap();
    assert_eq!(gguf::locate(dir.path()).unwrap(), None);
    assert_eq!(gguf::locate(Path::new("nowhere.gguf")).unwrap(), None);
}

#[test]
fn no_reward_model_is_read_from_a_gguf_file() {
    let error = RewardModel::load(&fixture("gpt2.gguf"), DType::F32, &Device::Cpu);
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("gpt2.gguf") && error.contains("rlhf reward"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_one_line_that_names_file_and_key_or_tensor() {
    let says = |name: &str, from: &str, to: &str, what: &[&str]| {
        let error = complaint(name, |bytes| replace(bytes, from, to));
        assert!(what.iter().all(|part| error.contains(part)), "{error}");
    };
    says("gpt2.gguf", "GGUF", "GGML", &["does not begin with GGUF"]);
    says("gpt2.gguf", "GGUF\u{3}", "GGUF\u{1}", &["version 1"]);
    says(
        "gpt2.gguf",
        "gpt2",
        "gpt9",
        &["general.architecture", "gpt9", "qwen3"],
    );
    says(
        "qwen3.gguf",
        "qwen3.block_count",
        "qwen3.block_cxunt",
        &["qwen3.block_count is missing"],
    );
    says(
        "llama.gguf",
        "blk.1.attn_k.weight",
        "blk.1.attn_x.weight",
        &[
            "missing: blk.1.attn_k.weight",
            "unexpected: blk.1.attn_x.weight",
        ],
    );
    says(
        "qwen2.gguf",
        "token_embd.weight",
        "token_exbd.weight",
        &["token_embd.weight", "missing"],
    );
    says(
        "qwen2.gguf",
        "linear",
        "xarnxx",
        &["rope.scaling.type", "xarnxx"],
    );
    let key = |key: &str| key.replace("ggml", "gglm");
    for (name, missing) in [
        ("qwen2.gguf", "tokenizer.ggml.model"),
        ("qwen2.gguf", "tokenizer.ggml.tokens"),
        ("qwen2.gguf", "tokenizer.ggml.merges"),
        ("qwen2.gguf", "tokenizer.ggml.eos_token_id"),
        ("llama.gguf", "tokenizer.ggml.scores"),
    ] {
        says(name, missing, &key(missing), &[missing, "missing"]);
    }
    says(
        "qwen3.gguf",
        "smollm",
        "smoxxm",
        &["tokenizer.ggml.pre", "smoxxm", "llama-bpe"],
    );
    says(
        "llama.gguf",
        "<0x41>",
        "<0x42>",
        &["tokenizer.ggml.tokens", "<0x42>", "twice"],
    );
}

#[test]
fn a_quantisation_we_do_not_read_is_named_with_its_tensor() {
    let error = complaint("qwen3.gguf", |bytes| {
        // Name, two dimensions of 8 bytes, and the type: Q4_1 (3) becomes IQ4_NL (20).
        let name = b"blk.0.ffn_up.weight";
        let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
        assert_eq!(bytes[at..at + 4], 3u32.to_le_bytes());
        bytes[at] = 20;
    });
    assert!(
        error.contains("blk.0.ffn_up.weight") && error.contains("IQ4_NL"),
        "{error}"
    );
}

#[test]
fn vocabularies_that_disagree_are_refused() {
    let error = complaint("qwen3.gguf", |bytes| {
        let key = b"qwen3.vocab_size";
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
        bytes[at] ^= 1;
    });
    assert!(
        error.contains("qwen3.vocab_size") && error.contains("token_embd.weight"),
        "{error}"
    );
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    for name in ["llama.gguf", "gpt2.gguf"] {
        let whole = fs_err::read(fixture(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.gguf");
        // Prime steps, so that every kind of field is cut within and between.
        for length in (0..whole.len())
            .step_by(61)
            .chain(0..64)
            .chain([whole.len() - 40])
        {
            fs_err::write(&path, &whole[..length]).unwrap();
            let error = load(&path).err().unwrap().to_string();
            assert!(
                error.contains("cut.gguf") && error.contains("downloaded"),
                "{length}: {error}"
            );
        }
    }
}

#[test]
fn a_damaged_file_is_a_model_or_an_error_but_never_a_panic() {
    let whole = fs_err::read(fixture("qwen3.gguf")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.gguf");
    let mut refused = 0;
    for round in 0..400usize {
        let mut bytes = whole.clone();
        // The metadata come first; most of them are the vocabulary.
        let at = (round * 7919) % 3000;
        bytes[at] = bytes[at].wrapping_add([1, 0x7f, 0x80, 0xff][round % 4]);
        fs_err::write(&path, &bytes).unwrap();
        refused += usize::from(load(&path).is_err());
    }
    assert!(refused > 0);
}
