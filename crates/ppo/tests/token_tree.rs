//! PPO against its closed form: on a token tree the KL-regularised optimum is known exactly, and a table of logits
//! trained with this crate's own rewards, advantages and loss must reach it.
//!
//! Every response enters with its probability instead of being sampled, so no noise can hide a wrong sign, a lost
//! factor or a KL taken in the wrong direction.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

#[path = "../../../tests/portable.rs"]
mod portable;

use candle_core::{D, DType, Device, Tensor};
use rlhf_lm::{Gradients, Params};
use rlhf_mdp::environments::{Environment, TokenTree};
use rlhf_mdp::{Policy, regularised_evaluate, regularised_optimum};
use rlhf_ppo::{KlEstimator, gae, policy_loss, rewards};
use rlhf_train::{AdamW, AdamWConfig};

const VOCABULARY: usize = 3;
const STEPS: usize = 600;
const EPOCHS: usize = 4;

/// The states a response passes through and the token taken in each.
fn path(tree: &TokenTree, response: usize) -> Vec<(usize, usize)> {
    let tokens = tree.prefix(response);
    (0..tokens.len())
        .map(|t| (tree.state(&tokens[..t]).unwrap(), tokens[t]))
        .collect()
}

fn table(params: &Params, tree: &TokenTree) -> Policy {
    let logits = params.get("logits").unwrap().to_vec2::<f32>().unwrap();
    let rows: Vec<Vec<f64>> = logits
        .iter()
        .enumerate()
        .map(|(s, row)| match tree.mdp().is_terminal(s) {
            true => vec![],
            false => row.iter().map(|z| f64::from(*z)).collect(),
        })
        .collect();
    Policy::softmax(&rows)
}

/// PPO with exact expectations: π_old's every response, weighted by its probability.
fn train(tree: &TokenTree, reference: &Policy, beta: f64) -> Policy {
    let (states, device) = (tree.mdp().states(), Device::Cpu);
    let start: Vec<f32> = (0..states)
        .flat_map(|s| match tree.mdp().is_terminal(s) {
            true => vec![0.0; VOCABULARY],
            false => reference.row(s).iter().map(|p| p.ln() as f32).collect(),
        })
        .collect();
    let mut params = Params::new(&device, DType::F32);
    let start = Tensor::from_vec(start, (states, VOCABULARY), &device).unwrap();
    params.insert("logits", &start).unwrap();
    let mut adam = AdamW::new(AdamWConfig::default());
    let responses: Vec<(usize, Vec<(usize, usize)>)> = tree
        .responses()
        .into_iter()
        .map(|y| (y, path(tree, y)))
        .collect();

    for step in 0..STEPS {
        let old = table(&params, tree);
        let shaped: Vec<(f64, Vec<f32>, Vec<f64>)> = responses
            .iter()
            .map(|(y, path)| {
                let log = |policy: &Policy| -> Vec<f32> {
                    path.iter()
                        .map(|&(s, a)| policy.row(s)[a].ln() as f32)
                        .collect()
                };
                let logprobs = log(&old);
                let r = rewards(
                    &logprobs,
                    &log(reference),
                    tree.score(*y),
                    beta,
                    KlEstimator::K1,
                );
                (tree.probability(&old, *y), logprobs, r)
            })
            .collect();
        // The exact critic: the expected reward to go from each state.
        let (mut value, mut visits) = (vec![0.0; states], vec![0.0; states]);
        for ((_, path), (p, _, r)) in responses.iter().zip(&shaped) {
            for (t, &(s, _)) in path.iter().enumerate() {
                value[s] += p * r[t..].iter().sum::<f64>();
                visits[s] += p;
            }
        }
        value
            .iter_mut()
            .zip(&visits)
            .filter(|(_, n)| **n > 0.0)
            .for_each(|(v, n)| *v /= n);

        let (mut rows, mut old_logprobs, mut advantages, mut weights) =
            (vec![], vec![], vec![], vec![]);
        for ((_, path), (p, logprobs, r)) in responses.iter().zip(&shaped) {
            let values: Vec<f32> = path.iter().map(|&(s, _)| value[s] as f32).collect();
            let (a, _) = gae(r, &values, 1.0, 1.0);
            rows.extend(
                path.iter()
                    .map(|&(s, token)| (s * VOCABULARY + token) as u32),
            );
            old_logprobs.extend(logprobs);
            advantages.extend(a.into_iter().map(|a| a as f32));
            weights.extend(vec![*p as f32; path.len()]);
        }
        let tensor = |x: Vec<f32>| Tensor::new(x, &device).unwrap();
        let (old_logprobs, advantages, weights) =
            (tensor(old_logprobs), tensor(advantages), tensor(weights));
        let rows = Tensor::new(rows, &device).unwrap();
        let lr = 0.1 * (1.0 - step as f64 / STEPS as f64);
        for _ in 0..EPOCHS {
            let logits = params.get("logits").unwrap();
            let all = candle_nn::ops::log_softmax(logits.as_tensor(), D::Minus1).unwrap();
            let logprobs = all.flatten_all().unwrap().index_select(&rows, 0).unwrap();
            let losses = policy_loss(&logprobs, &old_logprobs, &advantages, 0.2).unwrap();
            let loss = (losses * &weights).unwrap().sum_all().unwrap();
            let mut gradients = Gradients::new();
            gradients.accumulate(&params, &loss).unwrap();
            adam.step(&params, &gradients, lr, Some(1.0)).unwrap();
        }
    }
    table(&params, tree)
}

/// The oracle is `rlhf_mdp::regularised_optimum`, itself checked against enumeration. Total variation below 5e-3 and
/// the value within 1e-2: what 600 steps of Adam with a falling step leave in f32.
#[test]
fn ppo_reaches_the_closed_form_optimum_of_a_token_tree() {
    let tree = TokenTree::example(1.0).unwrap();
    let mdp = tree.mdp();
    let logits: Vec<Vec<f64>> = (0..mdp.states())
        .map(|s| {
            (0..mdp.actions(s))
                .map(|a| 0.3 * ((7 * s + 3 * a) % 5) as f64)
                .collect()
        })
        .collect();
    let reference = Policy::softmax(&logits);
    for beta in [0.1, 0.3, 1.0, 10.0] {
        let optimum = regularised_optimum(mdp, &reference, beta, 1e-12).unwrap();
        let found = train(&tree, &reference, beta);
        let distance = tree.total_variation(&found, &optimum.policy);
        let value = regularised_evaluate(mdp, &found, &reference, beta)
            .unwrap()
            .values[0];
        assert!(distance < 5e-3, "β {beta}: total variation {distance}");
        assert!(
            (value - optimum.values[0]).abs() < 1e-2,
            "β {beta}: value {value}, optimum {}",
            optimum.values[0]
        );
        // And it had somewhere to go: the reference is not already the answer.
        assert!(beta > 1.0 || tree.total_variation(&reference, &optimum.policy) > 0.05);
    }
}
