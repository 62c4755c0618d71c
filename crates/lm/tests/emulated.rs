//! Whole models with the GPU's kernels, on the emulated grid: every family's loss and gradients are those of the CPU's kernels, in another order of
//! sums; and how many kernels a block launches.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[allow(dead_code)] // shared with the other tests, of which each uses its part
#[path = "it/models.rs"]
mod models;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{CausalLm, Gradients, ModelConfig, Packed, Packer};
use rlhf_ops::{kernel_launches, on_the_emulated_grid};

use models::{configs, tokens};

/// A prompt with two responses that share it, and a sequence that stands alone.
fn batch() -> Packed {
    let rng = &mut rng::stream(0, "emulated", 0);
    let mut packer = Packer::new();
    let prefix = packer.prefix(&tokens(rng, 5));
    for length in [3, 6] {
        packer.continuation(prefix, &tokens(rng, length));
    }
    packer.sequence(&tokens(rng, 7));
    packer.finish(&Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    t.to_vec1().unwrap()
}

/// The loss of a batch and the gradient of every parameter; and the kernels launched forward and backward.
fn step(config: &ModelConfig) -> (BTreeMap<String, Vec<f64>>, [u64; 2]) {
    let params = models::params(config, 3, DType::F32);
    let model = CausalLm::new(config, &params).unwrap();
    let (batch, start) = (batch(), kernel_launches());
    let hidden = model.hidden(&batch).unwrap();
    let found = model.logprobs(&hidden, &batch.ids, 0.7).unwrap();
    let loss = (found.logprobs.sum_all().unwrap() + found.entropy.sum_all().unwrap()).unwrap();
    let forward = kernel_launches();
    let mut gradients = Gradients::new();
    gradients.accumulate(&params, &loss).unwrap();
    let launches = [forward - start, kernel_launches() - forward];
    let mut all: BTreeMap<_, _> = gradients
        .iter()
        .map(|(name, g)| (name.to_owned(), numbers(g)))
        .collect();
    all.insert("loss".into(), numbers(&loss));
    (all, launches)
}

#[test]
fn every_family_has_the_loss_and_gradients_of_the_cpu() {
    if !rlhf_grid::AVAILABLE {
        return; // the emulation is for Linux
    }
    for (name, config) in configs() {
        let (want, none) = step(&config);
        let (got, launches) = on_the_emulated_grid(rlhf_grid::launch, || step(&config));
        assert_eq!(none, [0, 0], "{name}: the CPU launches no kernels");
        assert!(launches[0] > 0 && launches[1] > 0, "{name}: {launches:?}");
        assert_eq!(
            got.keys().collect::<Vec<_>>(),
            want.keys().collect::<Vec<_>>()
        );
        for (parameter, want) in &want {
            let norm = want.iter().map(|x| x * x).sum::<f64>().sqrt();
            let apart = got[parameter]
                .iter()
                .zip(want)
                .map(|(a, b)| (a - b).powi(2));
            let apart = apart.sum::<f64>().sqrt();
            assert!(
                apart <= 1e-4 * norm.max(1e-3),
                "{name}: {parameter}: {apart} of {norm}"
            );
        }
        // Two blocks of six kernels (two norms, rotation of queries and of keys, attention, activation), seven products and two copies of the
        // residual stream that products are added to; the embedding, the last norm, the head's product and statistics. Backward ten kernels a
        // block (norms take two each, attention three) and two products for each of its seven weights.
        if name == "llama, tied" {
            assert_eq!(launches, [2 * (6 + 7 + 2) + 4, 2 * (10 + 14) + 8]);
        }
    }
}
