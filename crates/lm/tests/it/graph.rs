//! What training records: every operation is a launch forward and one or more backward on an accelerator.
//! Counted with the fused operations; a reference form records everything it is made of.

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use rlhf_lm::{CausalLm, ModelConfig, Packed, Packer, Params, ScalarModel};
use rlhf_ops::Recording;

use crate::models::{configs_of, params, weights};

/// Most operations a block may record: four more where a norm follows attention and MLP, which keeps the addition out of the product; with
/// experts those of the router's softmax, and rows that go and come back; with a recurrence those of its gates; with inputs of every layer the
/// cut, the gate and a norm, a factor of the result and the copy that ends a block; with experts beside an MLP both of these, and norms of either.
fn most_nodes(name: &str) -> usize {
    if name.ends_with("experts beside") {
        49
    } else if name.ends_with("moe") || name.starts_with("qwen3_5") || name.starts_with("gemma4") {
        32
    } else if name.starts_with("gemma") || name.starts_with("olmo") {
        20
    } else {
        16
    }
}

/// A prompt with two responses.
fn batch() -> Packed {
    let mut packer = Packer::new();
    let prefix = packer.prefix(&[1, 2, 3]);
    packer.continuation(prefix, &[4, 5]);
    packer.continuation(prefix, &[6]);
    packer.finish(&Device::Cpu).unwrap()
}

/// Operations of the trunk.
fn operations(config: &ModelConfig) -> usize {
    let params = params(config, 0, DType::F32);
    let model = CausalLm::new(config, &params).unwrap();
    let recording = Recording::start();
    recording.operations(&model.hidden(&batch()).unwrap())
}

#[test]
fn a_block_records_no_more_than_its_kernels_need() {
    if rlhf_ops::reference_only() {
        return;
    }
    let count = |layers| -> BTreeMap<&str, usize> {
        let configs = configs_of(layers).into_iter();
        configs.map(|(name, c)| (name, operations(&c))).collect()
    };
    let (two, three) = (count(2), count(3));
    for (name, n) in &two {
        let found = three[name] - n;
        assert!(found <= most_nodes(name), "{name}: {found}");
    }
}

#[test]
fn a_head_records_at_most_three_operations() {
    if rlhf_ops::reference_only() {
        return;
    }
    for (name, config) in configs_of(1) {
        let language = params(&config, 0, DType::F32);
        let model = CausalLm::new(&config, &language).unwrap();
        let recording = Recording::start();
        let hidden = model.hidden(&batch()).unwrap();
        let trunk = recording.operations(&hidden);
        let found = model.logprobs(&hidden, &batch().ids, 1.0).unwrap();
        let vocabulary = recording.operations(&found.logprobs) - trunk;
        drop(recording);

        let scalar = weights(&ScalarModel::schema(&config).unwrap(), 0);
        let scalar = Params::load(&scalar, &Device::Cpu, DType::F32).unwrap();
        let model = ScalarModel::new(&config, &scalar).unwrap();
        let recording = Recording::start();
        let hidden = model.hidden(&batch()).unwrap();
        let trunk = recording.operations(&hidden);
        let scores = recording.operations(&model.scores(&hidden).unwrap()) - trunk;
        assert!(
            vocabulary.max(scores) <= 3,
            "{name}: {vocabulary}, {scores}"
        );
    }
}
