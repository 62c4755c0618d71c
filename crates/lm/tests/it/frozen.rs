//! Frozen parameters: they cost no gradient and no master, and change no number.

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{
    CausalLm, Gradients, LanguageModel, ModelConfig, Packed, Packer, Params, SaveDtype, Weights,
};
use rlhf_ops::Recording;

use crate::models::{configs, configs_of, params, tokens};

fn batch() -> Packed {
    let rng = &mut rng::stream(0, "frozen", 0);
    let mut packer = Packer::new();
    let prefix = packer.prefix(&tokens(rng, 4));
    packer.continuation(prefix, &tokens(rng, 5));
    packer.continuation(prefix, &tokens(rng, 3));
    packer.finish(&Device::Cpu).unwrap()
}

fn loss(config: &ModelConfig, params: &Params, checkpointing: bool) -> Tensor {
    let model = CausalLm::new(config, params).unwrap();
    let model = model.gradient_checkpointing(checkpointing);
    let hidden = model.hidden(&batch()).unwrap();
    model
        .negative_log_likelihood(&hidden, &batch().ids, 0.1)
        .unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The oracle is the same model with every parameter trainable.
#[test]
fn the_gradient_of_a_trainable_block_does_not_depend_on_what_is_frozen_around_it() {
    for ((name, config), (_, one_block)) in configs().into_iter().zip(configs_of(1)) {
        for dtype in [DType::F32, DType::BF16] {
            let alone = {
                let recording = Recording::start();
                loss(&one_block, &params(&one_block, 2, dtype), false);
                recording.bytes()
            };
            let mut params = params(&config, 2, dtype);
            let mut full = Gradients::new();
            {
                let _recording = Recording::start();
                let whole = loss(&config, &params, false);
                full.accumulate(&params, &whole).unwrap();
            }
            // Of the two blocks, the second learns.
            params.freeze(|name| !name.contains(".1."));
            for checkpointing in [false, true] {
                let what = format!("{name}, {dtype:?}, checkpointing {checkpointing}");
                let recording = Recording::start();
                let some = loss(&config, &params, checkpointing);
                let kept = recording.bytes();
                let mut found = Gradients::new();
                found.accumulate(&params, &some).unwrap();
                found.check_all(&params).unwrap();
                let names: Vec<_> = found.iter().map(|(name, _)| name).collect();
                let trainable: Vec<_> = params.trainable().map(|(name, _)| name).collect();
                assert!(!names.is_empty() && names == trainable, "{what}");
                for (name, grad) in found.iter() {
                    assert_eq!(bits(grad), bits(full.get(name).unwrap()), "{what}: {name}");
                }
                if !checkpointing && !rlhf_ops::reference_only() {
                    // Neither the embedding nor the first block keeps anything.
                    assert!(kept <= alone, "{what}: {kept}, {alone}");
                    // What candle computes it keeps itself: in half precision nearly all.
                    assert!(kept > 0 || dtype != DType::F32, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_frozen_model_costs_the_bytes_of_its_dtype_computes_and_saves_what_was_loaded() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let read = |path: &std::path::Path, weights, dtype| {
        LanguageModel::load(path, weights, dtype, &Device::Cpu).unwrap()
    };
    let logits = |model: &LanguageModel| {
        let mut packer = Packer::new();
        packer.sequence(&[1, 2, 3, 4]);
        let lm = CausalLm::new(&model.config, &model.params).unwrap();
        let hidden = lm.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let logits = lm.logits(&hidden).unwrap();
        assert_eq!(logits.track_op(), !model.params.is_frozen());
        bits(&logits.to_dtype(DType::F32).unwrap())
    };
    let bytes_saved = |model: &LanguageModel, dtype| {
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path(), dtype).unwrap();
        let bytes = fs_err::read(dir.path().join("model.safetensors")).unwrap();
        (dir, bytes)
    };
    let source = read(
        &fixtures.join("gguf/qwen3.gguf"),
        Weights::Trainable,
        DType::F32,
    );
    for (saved, dtype) in [
        (SaveDtype::F32, DType::F32),
        (SaveDtype::Bf16, DType::BF16),
        (SaveDtype::F16, DType::F16),
    ] {
        let (dir, bytes) = bytes_saved(&source, saved);
        let trainable = read(dir.path(), Weights::Trainable, dtype);
        let frozen = read(dir.path(), Weights::Frozen, dtype);
        let scalars = frozen.params.num_parameters();
        assert_eq!(frozen.params.bytes(), scalars * dtype.size_in_bytes());
        let master = if dtype == DType::F32 { 0 } else { 4 };
        let expected = scalars * (dtype.size_in_bytes() + master);
        assert_eq!(trainable.params.bytes(), expected);
        assert_eq!(logits(&frozen), logits(&trainable), "{dtype:?}");
        assert!(bytes_saved(&frozen, saved).1 == bytes, "{dtype:?}");
    }
}
