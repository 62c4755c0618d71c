//! [`PolicyOptimization::step`] against its closed form: a tiny transformer as policy, another as critic, and the responses it samples itself.
//!
//! Where `tests/token_tree.rs` weighs every response by its probability, here all of the machinery takes part: sampling, packed batches
//! that share prompts, training forwards, a critic that must learn or responses that are each other's baseline, minibatches, gradients
//! through attention.

use super::*;

use rlhf_base::Text;
use rlhf_lm::{CausalLm, ModelConfig, Packer, Tokenizer};
use rlhf_mdp::environments::{Environment, TokenTree};
use rlhf_mdp::{Policy, regularised_evaluate, regularised_optimum};
use rlhf_rollout::{PromptRow, Scorer};
use rlhf_train::ScheduleKind;
use serde_json::json;

use crate::rewards::MissingEos;

/// The prompt is any token: the tree's own start.
const PROMPT: [u32; 1] = [2];

/// The tree's score of a response.
struct TreeScore(TokenTree);

impl Scorer for TreeScore {
    fn scores(&self, _: &Tokenizer, _: &[PromptRow], episodes: &[Episode]) -> Result<Vec<f64>> {
        let score = |episode: &Episode| {
            let tokens: Vec<usize> = episode.response.iter().map(|t| *t as usize).collect();
            self.0.score(self.0.state(&tokens).unwrap())
        };
        Ok(episodes.iter().map(score).collect())
    }
}

/// Three tokens: the tree's a, b and end.
fn language_model(seed: u64) -> LanguageModel {
    let vocabulary = json!({"a": 0, "b": 1, "<end>": 2});
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"},
    });
    let names = Map::from_iter([("eos_token".to_owned(), json!("<end>"))]);
    let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes(), names).unwrap();
    let config = ModelConfig::from_json(json!({
        "model_type": "gpt2", "vocab_size": 3, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.3
    }))
    .unwrap();
    LanguageModel::fresh(config, tokenizer, seed, DType::F32, &Device::Cpu).unwrap()
}

/// What the transformer does in every state of the tree, exactly.
fn table(model: &CausalLm, tree: &TokenTree) -> Policy {
    let rows: Vec<Vec<f64>> = (0..tree.mdp().states())
        .map(|state| {
            if tree.mdp().is_terminal(state) {
                return vec![];
            }
            let mut packer = Packer::new();
            let prefix = tree.prefix(state).iter().map(|t| *t as u32);
            let ids: Vec<u32> = PROMPT.into_iter().chain(prefix).collect();
            packer.sequence(&ids);
            let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            let logits = model.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
            let last = &logits[ids.len() - 1];
            last.iter().map(|z| f64::from(*z)).collect()
        })
        .collect();
    Policy::softmax(&rows)
}

/// PPO on the tree; the reference it started from, and what it became.
fn train(config: &Config, seed: u64) -> (Policy, Policy) {
    let tree = || TokenTree::example(1.0).unwrap();
    let row = PromptRow::new(Text::from("<end>"), PROMPT.to_vec());
    let inputs = Inputs {
        base: language_model(seed),
        reward: Box::new(TreeScore(tree())),
        prompts: vec![row.clone()],
        held_out: vec![row],
        demonstrations: None,
        warnings: Vec::new(),
    };
    config.validate().unwrap();
    let mut ppo = PolicyOptimization::new(config, &session(), inputs).unwrap();
    let start = table(&ppo.reference, &tree());
    for step in 0..config.steps {
        ppo.step(step).unwrap();
    }
    (start, table(&ppo.policy.view, &tree()))
}

fn config(beta: f64) -> Config {
    Config {
        reward: "length:1".into(), // unread: the tree scores
        steps: 80,
        batch: 256,
        samples_per_prompt: 4,
        minibatches: 2,
        epochs: 2,
        response_length: 3,
        temperature: 1.0,
        rollout_rows: 256,
        lr: 1e-2,
        kl_coef: beta,
        whiten_advantages: Some(false),
        missing_eos: MissingEos::None,
        ..Config::default()
    }
}

/// How far the policy is from the optimum, in total variation over whole responses, and its value below the best. The oracle is
/// `rlhf_mdp::regularised_optimum`.
fn distance_to_the_optimum(config: &Config, seed: u64) -> (f64, f64) {
    let tree = TokenTree::example(1.0).unwrap();
    let beta = config.kl_coef;
    let (reference, found) = train(config, seed);
    let optimum = regularised_optimum(tree.mdp(), &reference, beta, 1e-12).unwrap();
    let value = |policy: &Policy| {
        regularised_evaluate(tree.mdp(), policy, &reference, beta)
            .unwrap()
            .values[0]
    };
    let way = tree.total_variation(&reference, &optimum.policy);
    assert!(way > 0.1, "{config:?}: nowhere to go");
    let distance = tree.total_variation(&found, &optimum.policy);
    (distance, optimum.values[0] - value(&found))
}

/// The bounds are wider than those of the exact test: 256 responses a step estimate a probability to about 0.03, and the falling learning
/// rate averages over some tens of steps.
#[test]
fn steps_with_a_critic_come_close_to_the_closed_form_optimum() {
    for beta in [0.3, 1.0] {
        let (distance, lost) = distance_to_the_optimum(
            &Config {
                // Both terms of the loss matter here, and the critic starts from nothing.
                value_coef: 1.0,
                ..config(beta)
            },
            1,
        );
        assert!(distance < 0.03, "β {beta}: total variation {distance}");
        assert!(lost < 0.01, "β {beta}: {lost} below the optimum's value");
    }
}

/// Within the bound of the exact test, although the responses are sampled: the noise ends at the optimum, where every
/// response has the same reward, score and penalty together. Four starts were tried and all reach it; the two farthest are run here.
#[test]
fn rloo_reaches_the_closed_form_optimum() {
    for (beta, batch, samples_per_prompt, lr) in [(0.3, 256, 8, 1e-2), (1.0, 64, 4, 3e-3)] {
        for seed in 1..=2 {
            reaches_the_optimum(
                Config {
                    advantage: Advantage::Rloo,
                    steps: 400,
                    batch,
                    samples_per_prompt,
                    lr,
                    ..config(beta)
                },
                seed,
            );
        }
    }
}

/// Its baseline is the mean of the batch and not of the prompt, and it divides by the batch's deviation, so that noise remains at the optimum
/// and ends with the learning rate only. 1024 responses a step bring β = 1 within the bound from each of four starts (9.2e-4 to 4.2e-3; one is
/// run here), and β = 0.3 from two of four, the others to 8.0e-3.
#[test]
fn reinforce_plus_plus_reaches_the_closed_form_optimum() {
    let config = Config {
        advantage: Advantage::ReinforcePlusPlus,
        steps: 300,
        batch: 1024,
        rollout_rows: 1024,
        samples_per_prompt: 1,
        lr: 3e-3,
        ..config(1.0)
    };
    reaches_the_optimum(config, 1);
}

fn reaches_the_optimum(config: Config, seed: u64) {
    let config = Config {
        whiten_advantages: None,
        minibatches: 1,
        epochs: 1,
        schedule: ScheduleKind::Cosine,
        ..config
    };
    let (distance, lost) = distance_to_the_optimum(&config, seed);
    let case = format!("{:?}, β {}, seed {seed}", config.advantage, config.kl_coef);
    assert!(distance < 5e-3, "{case}: total variation {distance}");
    assert!(lost < 1e-2, "{case}: {lost} below the optimum's value");
}
