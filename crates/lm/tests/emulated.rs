//! Whole models with the GPU's kernels, on the emulated grid: every family's loss and gradients are those of the CPU's kernels, in another order of
//! sums; and how many kernels a block launches.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[allow(dead_code)] // shared with the other tests, of which each uses its part
#[path = "it/models.rs"]
mod models;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{
    CausalLm, Gradients, ModelConfig, Packed, Packer, SamplingConfig, Tokenizer, generate,
    train_bpe,
};
use rlhf_ops::{Recording, host_reads, host_uploads, kernel_launches, on_the_emulated_grid};

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
    let _recording = Recording::start();
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
        // Two blocks of five kernels (two norms, rotation of queries and keys, attention, activation), seven products and two copies of the
        // residual stream that products are added to; the embedding, the last norm, the head's product and statistics. Backward nine kernels a
        // block (norms take two each, attention three), two products for each of its seven weights, and five sums where gradients meet: of queries,
        // keys and values, of gate and up, and twice with the residual stream.
        if name == "llama, tied" {
            assert_eq!(launches, [2 * (5 + 7 + 2) + 4, 2 * (9 + 14 + 5) + 8]);
        }
    }
}

/// Of more tokens than the models have, whose 23 are the first bytes that can be seen: `!` to `7`.
fn tokenizer() -> Tokenizer {
    train_bpe(["ab ab ab cd"].iter(), 258, &["<|endoftext|>"]).unwrap()
}

/// Rows that stop within the tokens that are read together, others that reach the model's longest sequence, and more of them than run side by side.
#[test]
fn responses_are_those_of_the_cpu_wherever_rows_end() {
    if !rlhf_grid::AVAILABLE {
        return;
    }
    let (rng, tokenizer) = (&mut rng::stream(2, "emulated", 0), tokenizer());
    let prompts = [3, 1, 30].map(|length| tokens(rng, length));
    let sampling = SamplingConfig {
        temperature: 0.9,
        top_k: Some(20),
        top_p: Some(0.95),
        repetition_penalty: 1.2,
        min_new_tokens: 2,
        max_new_tokens: 21,
        stop: vec!["#".into()],
        max_rows: 4,
        ..Default::default()
    };
    let mut all = Vec::new();
    for name in [
        "gpt2",
        "llama, tied",
        "mistral, sliding window",
        "gemma2",
        "lfm2",
        "qwen3_5, recurrent",
    ] {
        let (_, config) = configs().into_iter().find(|it| it.0 == name).unwrap();
        let model = CausalLm::new(&config, &models::params(&config, 3, DType::F32)).unwrap();
        let run = || {
            let reads = host_reads();
            let rows = generate(&model, &tokenizer, &prompts, 3, &sampling, &mut |_| ()).unwrap();
            (rows, host_reads() - reads)
        };
        let (want, read_on_cpu) = run();
        let (got, read) = on_the_emulated_grid(rlhf_grid::launch, run);
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            assert_eq!(
                got.tokens, want.tokens,
                "{name}: {}, {}",
                want.prompt, want.sample
            );
            assert_eq!(got.finished, want.finished, "{name}");
            let pairs = got.logprobs.iter().zip(&want.logprobs);
            let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-4, "{name}: {apart}");
        }
        all.extend(want);
        // Every token of a model with recurrent layers is read before the next.
        let together = name != "qwen3_5, recurrent";
        assert!(
            !together || 2 * read < read_on_cpu,
            "{name}: {read} reads, on the CPU {read_on_cpu}"
        );
    }
    let ended = |finished: bool, lengths: std::ops::Range<usize>| {
        let mut rows = all.iter();
        rows.any(|row| row.finished == finished && lengths.contains(&row.tokens.len()))
    };
    assert!(ended(true, 1..16) && ended(true, 17..21) && ended(false, 21..22));
    assert!(ended(false, 10..11), "the longest sequence has 40 tokens");
}

/// Tokens of two rows, in a Llama of two blocks: what is launched and uploaded, and how often the host waits. `BENCHMARKS.md` has these counts.
#[test]
fn sixteen_decoded_tokens_are_read_once_and_launch_fifteen_kernels_a_block_each() {
    if !rlhf_grid::AVAILABLE {
        return;
    }
    let all = configs();
    let (_, config) = all.iter().find(|it| it.0 == "llama, tied").unwrap();
    let params = models::params(config, 3, DType::F32);
    let model = CausalLm::new(config, &params).unwrap();
    let tokenizer = tokenizer();
    let prompts = [tokens(&mut rng::stream(1, "emulated", 0), 4), vec![1, 2]];
    let counts = |tokens: usize| {
        let sampling = SamplingConfig {
            top_k: Some(5),
            top_p: Some(0.9),
            repetition_penalty: 1.1,
            min_new_tokens: tokens,
            max_new_tokens: tokens,
            ..Default::default()
        };
        let before = [kernel_launches(), host_reads(), host_uploads()];
        let found = generate(&model, &tokenizer, &prompts, 1, &sampling, &mut |_| ()).unwrap();
        assert!(found.iter().all(|row| row.tokens.len() == tokens));
        let after = [kernel_launches(), host_reads(), host_uploads()];
        [0, 1, 2].map(|i| after[i] - before[i])
    };
    let [one, after_one, twice] =
        on_the_emulated_grid(rlhf_grid::launch, || [counts(1), counts(17), counts(33)]);
    // A block: two norms, seven products, two copies of the residual stream, one that rotates and fills the cache, attention in two, the activation.
    // Then the embedding, the last norm, the head and the draw. What is uploaded: how to draw, ids and positions, what rows see.
    let a_token = 2 * (2 + 7 + 2 + 1 + 2 + 1) + 4;
    let sixteen = [16 * a_token, 1, 3];
    assert_eq!([0, 1, 2].map(|i| after_one[i] - one[i]), sixteen);
    assert_eq!([0, 1, 2].map(|i| twice[i] - after_one[i]), sixteen);
}
