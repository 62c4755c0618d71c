//! GGUF files of every family of `decoder` and of GPT-NeoX.
//!
//! The fixtures and their numbers are from `scripts/oracle/gguf_families.py`: random models of `transformers`, and the logits they had.

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

/// They are read; llama.cpp's own converter writes them.
#[test]
fn writing_such_a_file_is_refused_with_a_way_out() {
    for (name, path, ..) in cases() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("hf"), dir.path().join("model.gguf"));
        load(&path).save(&from, SaveDtype::F32).unwrap();
        let said = export(&from, &Bases::default(), Quantisation::F16, &name, &to);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("convert_hf_to_gguf.py"), "{name}: {said}");
        assert!(!to.exists(), "{name}");
    }
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
