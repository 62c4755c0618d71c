//! A reward model that learns in bf16 or f16 takes the path it takes in f32.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[path = "../../../tests/portable.rs"]
mod portable;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{Gradients, Packer, Params, ScalarModel, read_scalar};
use rlhf_train::feedback::{Ties, comparison_loss, ranking_comparisons};
use rlhf_train::{AdamW, AdamWConfig};

/// The losses of ten steps over two prompts with three ranked responses each.
fn losses(model: &str, dtype: DType) -> Vec<f64> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/hf-reward")
        .join(model);
    let (config, tensors) = read_scalar(&dir).unwrap();
    let params = Params::load(&tensors, &Device::Cpu, dtype).unwrap();
    let model = ScalarModel::new(&config, &params).unwrap();
    let mut adam = AdamW::new(AdamWConfig::default());

    let mut packer = Packer::new();
    let (mut last, mut comparisons) = (Vec::new(), Vec::new());
    for (prompt, responses) in [
        ([5u32, 9, 30], [vec![7, 8, 2], vec![2], vec![31, 7, 2]]),
        ([11, 11, 3], [vec![20, 2], vec![21, 22, 23, 2], vec![6, 2]]),
    ] {
        let prefix = packer.prefix(&prompt);
        comparisons.extend(ranking_comparisons(
            &[1.0, 2.0, 2.0],
            last.len(),
            Ties::Half,
            0.5,
        ));
        for response in responses {
            last.push(packer.continuation(prefix, &response).end as u32 - 1);
        }
    }
    let batch = packer.finish(&Device::Cpu).unwrap();
    let last = Tensor::new(last, &Device::Cpu).unwrap();
    (0..10)
        .map(|_| {
            let hidden = model
                .hidden(&batch)
                .unwrap()
                .index_select(&last, 0)
                .unwrap();
            let scores = model.scores(&hidden).unwrap();
            let loss = comparison_loss(&scores, &comparisons, 0.1).unwrap();
            let mut gradients = Gradients::new();
            gradients.accumulate(&params, &loss).unwrap();
            adam.step(&params, &gradients, 1e-3, Some(1.0)).unwrap();
            f64::from(loss.to_scalar::<f32>().unwrap())
        })
        .collect()
}

/// Oracle: the same ten steps in f32, whose forward pass equals PyTorch's (crates/train/tests/hf_parity.rs).
#[test]
fn ten_steps_in_half_precision_stay_within_two_per_cent_of_f32() {
    for model in ["gpt2", "mistral"] {
        let expected = losses(model, DType::F32);
        assert!(
            expected[9] < 0.95 * expected[0],
            "nothing is learned: {expected:?}"
        );
        for dtype in [DType::BF16, DType::F16] {
            let ours = losses(model, dtype);
            for (a, b) in ours.iter().zip(&expected) {
                assert!(
                    (a - b).abs() <= 0.02 * b,
                    "{model} in {dtype:?}: {ours:?}, expected {expected:?}"
                );
            }
        }
    }
}
