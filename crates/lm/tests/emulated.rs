//! Whole models with the GPU's kernels, on the emulated grid: every family's loss and gradients are those of the CPU's kernels, in another order of
//! sums; and how many kernels a block launches.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[allow(dead_code)] // shared with the other tests, of which each uses its part
#[path = "it/models.rs"]
mod models;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{CausalLm, Gradients, KvCache, ModelConfig, Packed, Packer};
use rlhf_ops::{
    DecodeRows, SampleRow, host_reads, kernel_launches, on_the_emulated_grid, sample,
    samples_on_device,
};

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

/// A token of each of two rows, in a Llama of two blocks: what is launched, and how often the host waits. `BENCHMARKS.md` has these counts.
#[test]
fn a_decoded_token_is_read_once_and_launches_sixteen_kernels_a_block() {
    if !rlhf_grid::AVAILABLE {
        return;
    }
    let all = configs();
    let (_, config) = all.iter().find(|it| it.0 == "llama, tied").unwrap();
    let params = models::params(config, 3, DType::F32);
    let model = CausalLm::new(config, &params).unwrap();
    let mut packer = Packer::new();
    let prompts = [tokens(&mut rng::stream(1, "emulated", 0), 4), vec![1, 2]];
    let places = prompts.map(|ids| packer.sequence(&ids));
    let step = || {
        let mut cache = KvCache::new(2);
        let batch = packer.finish(&Device::Cpu).unwrap();
        model.prefill(&batch, &mut cache).unwrap();
        let before = (kernel_launches(), host_reads());
        let first = cache.len() as u32;
        let with_newest = |(r, rows): (usize, &std::ops::Range<usize>)| {
            let mut seen: Vec<u32> = rows.clone().map(|place| place as u32).collect();
            seen.push(first + r as u32);
            seen
        };
        let rows = DecodeRows::new(places.iter().enumerate().map(with_newest).collect());
        let of = |numbers: [u32; 2]| Tensor::new(&numbers, &Device::Cpu).unwrap();
        let hidden = model.decode(&of([3, 4]), &of([4, 2]), &rows, &mut cache);
        let logits = model.logits(&hidden.unwrap()).unwrap();
        let way = SampleRow {
            temperature: 1.0,
            top_k: Some(5),
            top_p: Some(0.9),
            penalty: 1.0,
            seen: &[],
            forbidden: &[],
            uniform: 0.5,
        };
        assert!(samples_on_device(&logits));
        sample(&logits, &[way, way]).unwrap();
        (kernel_launches() - before.0, host_reads() - before.1)
    };
    // A block: two norms, seven products, two copies of the residual stream, two rotations, attention in two, the activation. Then the embedding, the
    // last norm, the head and the draw.
    let found = on_the_emulated_grid(rlhf_grid::launch, step);
    assert_eq!(found, (2 * (2 + 7 + 2 + 2 + 2 + 1) + 4, 1));
}
