//! GGUF files of every family of `decoder` and of GPT-NeoX.
//!
//! The fixtures and their numbers are from `scripts/oracle/gguf_families.py`: random models of `transformers`, and the logits they had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_lm::gguf::{Quantisation, export};
use rlhf_lm::{Bases, CausalLm, LanguageModel, Packer, SaveDtype, Weights};

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
    assert_eq!(cases.len(), 12);
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

/// The oracle is the file that was written from `transformers`' model with llama.cpp's names: the same tensors of the same shapes, and logits as far off as
/// weights of 11 bits in two to six blocks make them.
#[test]
fn what_is_written_is_the_file_that_was_read() {
    for (name, path, ids, wanted) in cases() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
        load(&path).save(&from, SaveDtype::F32).unwrap();
        export(&from, &Bases::default(), Quantisation::F16, &name, &to)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (theirs, ours) = (shapes(&path), shapes(&to));
        assert_eq!(ours, theirs, "{name}");
        // Phi's windows, which llama.cpp does not have, bound the length.
        let model = load(&to);
        let length = model.config.max_length().min(ids.len());
        let wanted = wanted.narrow(0, 0, length).unwrap();
        assert_close(&logits(&model, &ids[..length]), &wanted, 0.02, &name);
    }
}

/// The shape of every tensor of a file.
fn shapes(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let mut file = fs_err::File::open(path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut file).unwrap();
    let infos = content.tensor_infos.into_iter();
    infos
        .map(|(name, info)| (name, info.shape.into_dims()))
        .collect()
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
