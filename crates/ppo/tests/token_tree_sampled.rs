//! PPO by sampling against its closed form: a tiny transformer as policy, another as critic, and the responses it draws
//! itself.
//!
//! Where `token_tree` weighs every response by its probability, here all of the machinery takes part: packed batches that
//! share the prompt, training forwards, a critic that must learn, minibatches, gradients through attention.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

#[path = "../../../tests/portable.rs"]
mod portable;

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng::{shuffle, stream, uniform};
use rlhf_lm::{CausalLm, Gradients, HeadInit, ModelConfig, Packer, Params, ScalarModel};
use rlhf_mdp::environments::{Environment, TokenTree};
use rlhf_mdp::{Policy, regularised_evaluate, regularised_optimum};
use rlhf_ppo::{Batch, Episode, KlEstimator, gae, policy_loss, rewards, value_loss};
use rlhf_train::{AdamW, AdamWConfig};

const STEPS: usize = 80;
const EPISODES: usize = 256;
const EPOCHS: usize = 2;
const MINIBATCHES: usize = 2;
/// The prompt is any token: the tree's own start.
const PROMPT: [u32; 1] = [2];
/// Both terms of the loss matter here, and the critic starts from nothing.
const LR: f64 = 1e-2;

fn config() -> ModelConfig {
    // Three tokens: the tree's a, b and end.
    ModelConfig::from_json(serde_json::json!({
        "model_type": "gpt2", "vocab_size": 3, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.3
    }))
    .unwrap()
}

/// What the transformer does in every state of the tree, exactly.
fn table(model: &CausalLm, tree: &TokenTree) -> Policy {
    let rows: Vec<Vec<f64>> = (0..tree.mdp().states())
        .map(|state| {
            if tree.mdp().is_end(state) {
                return vec![];
            }
            let mut packer = Packer::new();
            let prefix = tree.prefix(state).iter().map(|t| *t as u32);
            let ids: Vec<u32> = PROMPT.into_iter().chain(prefix).collect();
            packer.sequence(&ids);
            let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            let logits = model.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
            logits[ids.len() - 1]
                .iter()
                .map(|z| f64::from(*z))
                .collect()
        })
        .collect();
    Policy::softmax(&rows)
}

/// One response drawn from `policy`.
fn draw(policy: &Policy, tree: &TokenTree, rng: &mut impl rand::RngCore) -> (usize, Episode) {
    let mut tokens: Vec<usize> = vec![];
    let mut state = 0;
    while !tree.mdp().is_end(state) {
        let mut left = uniform(rng);
        let row = policy.row(state);
        let token = row.iter().position(|p| {
            left -= p;
            left < 0.0
        });
        tokens.push(token.unwrap_or(row.len() - 1));
        state = tree.state(&tokens).unwrap();
    }
    let response = tokens.iter().map(|t| *t as u32).collect();
    (
        state,
        Episode {
            prompt: 0,
            response,
            finished: true,
        },
    )
}

fn ragged(flat: &Tensor, episodes: &[Episode]) -> Vec<Vec<f32>> {
    let mut rest = flat.to_vec1::<f32>().unwrap().into_iter();
    episodes
        .iter()
        .map(|e| rest.by_ref().take(e.response.len()).collect())
        .collect()
}

/// PPO from the transformer with `seed`; the reference it started from, and what it became.
fn train(tree: &TokenTree, beta: f64, seed: u64) -> (Policy, Policy) {
    let (config, device) = (config(), Device::Cpu);
    let fresh = CausalLm::init(&config, seed, &device).unwrap();
    let params = Params::load(&fresh, &device, DType::F32).unwrap();
    let policy = CausalLm::new(&config, &params).unwrap();
    let head = HeadInit::Zeros;
    let critic = ScalarModel::with_fresh_head(&config, &fresh, head, &device).unwrap();
    let critic_params = Params::load(&critic, &device, DType::F32).unwrap();
    let critic = ScalarModel::new(&config, &critic_params).unwrap();
    let adam = || {
        AdamW::new(AdamWConfig {
            eps: 1e-5,
            ..AdamWConfig::default()
        })
    };
    let (mut policy_adam, mut critic_adam) = (adam(), adam());
    let reference = CausalLm::new(&config, &params.snapshot().unwrap()).unwrap();
    let start = table(&reference, tree);
    let prompts = [PROMPT.to_vec()];

    for step in 0..STEPS {
        let old = table(&policy, tree);
        let mut rng = stream(seed, "rollout", step as u64);
        let (states, episodes): (Vec<usize>, Vec<Episode>) =
            (0..EPISODES).map(|_| draw(&old, tree, &mut rng)).unzip();
        let all: Vec<&Episode> = episodes.iter().collect();
        let batch = Batch::pack(&prompts, &all, &device).unwrap();
        let logprobs =
            |model: &CausalLm| ragged(&batch.logprobs(model, 1.0).unwrap().logprobs, &episodes);
        let (old_logprobs, ref_logprobs) = (logprobs(&policy), logprobs(&reference));
        let old_values = ragged(&batch.values(&critic).unwrap(), &episodes);
        let (advantages, returns): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (0..EPISODES)
            .map(|i| {
                let score = tree.score(states[i]);
                let r = rewards(
                    &old_logprobs[i],
                    &ref_logprobs[i],
                    score,
                    beta,
                    KlEstimator::K1,
                );
                gae(&r, &old_values[i], 1.0, 0.95)
            })
            .unzip();

        let lr = LR * (1.0 - step as f64 / STEPS as f64);
        for epoch in 0..EPOCHS {
            let mut order: Vec<usize> = (0..EPISODES).collect();
            let index = (step * EPOCHS + epoch) as u64;
            shuffle(&mut stream(seed, "minibatches", index), &mut order);
            for minibatch in order.chunks(EPISODES / MINIBATCHES) {
                let chosen: Vec<&Episode> = minibatch.iter().map(|&i| &episodes[i]).collect();
                let batch = Batch::pack(&prompts, &chosen, &device).unwrap();
                let flat = |of: &dyn Fn(usize) -> Vec<f32>| {
                    let all: Vec<f32> = minibatch.iter().flat_map(|&i| of(i)).collect();
                    Tensor::new(all, &device).unwrap()
                };
                let narrow = |row: &[f64]| row.iter().map(|x| *x as f32).collect::<Vec<_>>();
                let now = batch.logprobs(&policy, 1.0).unwrap().logprobs;
                let old = flat(&|i| old_logprobs[i].clone());
                let advantage = flat(&|i| narrow(&advantages[i]));
                let loss = policy_loss(&now, &old, &advantage, 0.2)
                    .unwrap()
                    .mean_all()
                    .unwrap();
                let mut gradients = Gradients::new();
                gradients.accumulate(&params, &loss).unwrap();
                policy_adam
                    .step(&params, &gradients, lr, Some(1.0))
                    .unwrap();

                let values = batch.values(&critic).unwrap();
                let (old, returned) = (
                    flat(&|i| old_values[i].clone()),
                    flat(&|i| narrow(&returns[i])),
                );
                let loss = value_loss(&values, &old, &returned, 0.2)
                    .unwrap()
                    .mean_all()
                    .unwrap();
                let mut gradients = Gradients::new();
                gradients.accumulate(&critic_params, &loss).unwrap();
                critic_adam
                    .step(&critic_params, &gradients, lr, Some(1.0))
                    .unwrap();
            }
        }
    }
    (start, table(&policy, tree))
}

/// The oracle is `rlhf_mdp::regularised_optimum`. The bound is wider than that of the exact test: 256 responses a step
/// estimate a probability to about 0.03, and the falling learning rate averages over some tens of steps.
#[test]
fn a_transformer_that_samples_comes_close_to_the_closed_form_optimum() {
    let tree = TokenTree::example(1.0).unwrap();
    for beta in [0.3, 1.0] {
        let (reference, found) = train(&tree, beta, 1);
        let optimum = regularised_optimum(tree.mdp(), &reference, beta, 1e-12).unwrap();
        let value = |policy: &Policy| {
            regularised_evaluate(tree.mdp(), policy, &reference, beta)
                .unwrap()
                .values[0]
        };
        let distance = tree.total_variation(&found, &optimum.policy);
        let way = tree.total_variation(&reference, &optimum.policy);
        let (best, reached) = (optimum.values[0], value(&found));
        assert!(
            distance < 0.03,
            "β {beta}: total variation {distance}, at the start {way}"
        );
        assert!(
            best - reached < 0.01,
            "β {beta}: value {reached}, optimum {best}"
        );
        assert!(way > 0.1, "β {beta}: nowhere to go");
    }
}
