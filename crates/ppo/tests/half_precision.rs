//! A PPO step in bf16 or f16 moves policy and critic as it does in f32.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[path = "../../../tests/portable.rs"]
mod portable;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{CausalLm, Gradients, HeadInit, Params, ScalarModel, read_lm};
use rlhf_ppo::{policy_loss, value_loss};
use rlhf_rollout::{Episode, EpisodeBatch};
use rlhf_train::{AdamW, AdamWConfig};

const EPOCHS: usize = 4;
const TEMPERATURE: f64 = 0.7;
/// Small enough that the clip does not hold every token after the first update.
const LR: f64 = 1e-4;

/// Two answers to the first prompt, one to the second; what they are worth is made up, and the same for every dtype.
fn rollout() -> (Vec<Vec<u32>>, Vec<Episode>, Vec<f32>, Vec<f32>) {
    let episode = |prompt, response: &[u32]| Episode {
        prompt,
        response: response.to_vec(),
        finished: true,
    };
    (
        vec![vec![3, 14, 15], vec![9, 26]],
        vec![
            episode(0, &[5, 8, 2]),
            episode(0, &[9, 7, 9, 2]),
            episode(1, &[2]),
        ],
        vec![1.5, 0.8, 2.0, -0.5, 1.0, 1.2, 0.7, 1.6], // advantages
        vec![3.0, 2.5, 4.0, -2.0, 3.5, 2.2, 3.1, 2.8], // returns
    )
}

fn losses(dir: &Path, dtype: DType) -> (Vec<f64>, Vec<f64>) {
    let (config, tensors) = read_lm(dir).unwrap();
    let device = Device::Cpu;
    let policy_params = Params::load(&tensors, &device, dtype).unwrap();
    let policy = CausalLm::new(&config, &policy_params).unwrap();
    let head = HeadInit::Normal { seed: 1 };
    let tensors = ScalarModel::with_fresh_head(&config, &tensors, head, &device).unwrap();
    let critic_params = Params::load(&tensors, &device, dtype).unwrap();
    let critic = ScalarModel::new(&config, &critic_params).unwrap();
    let adam = || {
        AdamW::new(AdamWConfig {
            eps: 1e-5,
            ..AdamWConfig::default()
        })
    };
    let (mut policy_adam, mut critic_adam) = (adam(), adam());

    let (prompts, episodes, advantages, returns) = rollout();
    let batch = EpisodeBatch::pack(&prompts, &episodes, &device).unwrap();
    let advantages = Tensor::new(advantages, &device).unwrap();
    let returns = Tensor::new(returns, &device).unwrap();
    let logprobs = || {
        let hidden = batch.hidden(&policy).unwrap();
        let now = policy.logprobs(&hidden, &batch.targets, TEMPERATURE);
        now.unwrap().logprobs
    };
    let old_logprobs = logprobs().detach();
    let old_values = batch.values(&critic).unwrap().detach();

    let mut losses = (Vec::new(), Vec::new());
    for _ in 0..EPOCHS {
        let loss = policy_loss(&logprobs(), &old_logprobs, &advantages, 0.2).unwrap();
        let loss = loss.mean_all().unwrap();
        let mut gradients = Gradients::new();
        gradients.accumulate(&policy_params, &loss).unwrap();
        policy_adam
            .step(&policy_params, &gradients, LR, Some(1.0))
            .unwrap();
        losses.0.push(f64::from(loss.to_scalar::<f32>().unwrap()));

        let values = batch.values(&critic).unwrap();
        let loss = value_loss(&values, &old_values, &returns, 0.2).unwrap();
        let loss = (loss.mean_all().unwrap() * 0.1).unwrap();
        let mut gradients = Gradients::new();
        gradients.accumulate(&critic_params, &loss).unwrap();
        critic_adam
            .step(&critic_params, &gradients, LR, Some(1.0))
            .unwrap();
        losses.1.push(f64::from(loss.to_scalar::<f32>().unwrap()));
    }
    losses
}

fn families() -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf");
    ["gpt2", "llama3-tied", "mistral", "qwen2", "qwen3"]
        .map(|name| fixtures.join(name))
        .to_vec()
}

/// Oracle: the same step in f32, whose forward and backward passes equal PyTorch's (crates/train/tests/hf_parity.rs).
#[test]
fn the_losses_of_a_step_in_half_precision_stay_within_two_per_cent_of_f32() {
    for dir in families() {
        let expected = losses(&dir, DType::F32);
        assert!(expected.0[3] < expected.0[0] && expected.1[3] < expected.1[0]);
        for dtype in [DType::BF16, DType::F16] {
            let ours = losses(&dir, dtype);
            for (ours, expected) in [(&ours.0, &expected.0), (&ours.1, &expected.1)] {
                for (a, b) in ours.iter().zip(expected) {
                    assert!(
                        (a - b).abs() <= 0.02 * b.abs(),
                        "{} in {dtype:?}: {ours:?}, expected {expected:?}",
                        dir.display()
                    );
                }
            }
        }
    }
}
