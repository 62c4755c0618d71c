//! The gradients of an update, against finite differences.

mod adapters;
mod sampler;
mod token_tree;

use super::*;

use std::path::Path;

use candle_core::Device;
use rlhf_base::rng::normal;
use rlhf_lm::{Bases, LanguageModel, ModelConfig, Params, SaveDtype, train_bpe};
use rlhf_train::{Comm, Interrupt, ProgressStyle, Saving, Session};
use serde_json::json;

use crate::advantage::Advantage;
use crate::aggregate::Aggregate;
use crate::config::{Config, CriticKind};
use crate::kl::KlEstimator;
use crate::prepare::Inputs;

const TEMPERATURE: f64 = 0.7;

fn config(dir: &Path) -> Config {
    let tokenizer = train_bpe(["red fox, blue fox"].into_iter(), 260, &["<|end|>"]).unwrap();
    let model = ModelConfig::from_json(json!({
        "model_type": "gpt2", "vocab_size": tokenizer.vocab_size(), "n_positions": 32, "n_embd": 8, "n_layer": 2, "n_head": 2,
        "eos_token_id": tokenizer.eos_id().unwrap(), "bos_token_id": tokenizer.eos_id().unwrap(),
    }))
    .unwrap();
    let model = LanguageModel::fresh(model, tokenizer, 1, DType::F32, &Device::Cpu).unwrap();
    // Fresh embeddings are so small that a step of the finite differences would be a leap.
    for name in ["transformer.wte.weight", "transformer.wpe.weight"] {
        let var = model.params.get(name).unwrap();
        var.set(&(var.as_tensor() * 20.0).unwrap()).unwrap();
    }
    model.save(dir, SaveDtype::F32).unwrap();
    let prompts = dir.join("prompts.jsonl");
    fs_err::write(&prompts, "{\"prompt\": \"fox\"}\n{\"prompt\": \"red\"}\n").unwrap();
    Config {
        model: dir.display().to_string(),
        reward: "length:3".into(),
        prompts: vec![prompts],
        eval_fraction: 0.5,
        batch: 4,
        response_length: 16,
        temperature: TEMPERATURE,
        entropy_coef: 0.1,
        value_coef: 0.5,
        ..Config::default()
    }
}

pub(super) fn session() -> Session {
    Session {
        device: Device::Cpu,
        comm: Default::default(),
        dtype: DType::F32,
        recompute: false,
        lora: None,
        bases: Bases::default(),
        seed: 1,
        progress: ProgressStyle::Quiet,
        saving: Saving {
            keep: 2,
            every: None,
        },
        interrupt: Interrupt::new(),
    }
}

fn prepare(config: &Config, session: &Session) -> PolicyOptimization {
    PolicyOptimization::new(config, session, Inputs::load(config, session).unwrap()).unwrap()
}

/// Under π and V, episode by episode: `[log π, entropy, V]` of each response token; V is 0 without a critic.
fn now(ppo: &PolicyOptimization, t: &Trajectory) -> Vec<Vec<[f64; 3]>> {
    let vector = |x: Tensor| x.to_vec1::<f32>().unwrap();
    let one = |episode: &Episode| {
        let batch = EpisodeBatch::pack(&t.prompts, [episode], &Device::Cpu).unwrap();
        let policy = &ppo.policy.view;
        let hidden = batch.hidden(policy).unwrap();
        let policy = policy.logprobs(&hidden, &batch.targets, TEMPERATURE);
        let policy = policy.unwrap();
        let values = match &ppo.critic {
            Some(critic) => critic.values(
                &t.prompts,
                std::slice::from_ref(episode),
                100,
                &Comm::single(),
            ),
            None => Ok(vec![vec![0.0; episode.response.len()]]),
        };
        let values = values.unwrap().concat();
        let (logprobs, entropy) = (vector(policy.logprobs), vector(policy.entropy));
        (0..values.len())
            .map(|i| [logprobs[i], entropy[i], values[i]].map(f64::from))
            .collect()
    };
    t.episodes.iter().map(one).collect()
}

/// `L = L_π − c_e · entropy + β · k3 + c_v · L_V` written out in f64, over all episodes; k3 where the penalty stands in the loss. The value
/// loss is a mean over tokens, the rest a mean over what `aggregate` says.
fn loss(ppo: &PolicyOptimization, t: &Trajectory) -> f64 {
    let config = &ppo.config;
    let (clip, value_clip) = (config.clip, config.value_clip);
    let all = now(ppo, t);
    let count = all.iter().map(Vec::len).sum::<usize>() as f64;
    let mut total = 0.0;
    for (i, tokens) in all.iter().enumerate() {
        let share = match config.aggregate {
            Aggregate::Token => 1.0 / count,
            Aggregate::Sequence => 1.0 / (all.len() * tokens.len()) as f64,
        };
        for (j, [logprob, entropy, value]) in tokens.iter().enumerate() {
            let ratio = (logprob - f64::from(t.logprobs[i][j])).exp();
            let a = t.advantages[i][j];
            let policy = (-a * ratio).max(-a * ratio.clamp(1.0 - clip, 1.0 + clip));
            let mut loss = policy - config.entropy_coef * entropy;
            if config.kl_in == KlIn::Loss {
                let q = f64::from(t.ref_logprobs[i][j]) - logprob;
                loss += config.kl_coef * (q.exp() - 1.0 - q);
            }
            total += loss * share;
            if let Some(critic) = &t.critic {
                let (old, r) = (f64::from(critic.values[i][j]), critic.returns[i][j]);
                let near = old + (value - old).clamp(-value_clip, value_clip);
                let loss = 0.5 * (value - r).powi(2).max((near - r).powi(2));
                total += config.value_coef * loss / count;
            }
        }
    }
    total
}

/// Three responses to two prompts, with ratios and moves of the value on both sides of their clips, and away from the kinks.
fn trajectory(ppo: &PolicyOptimization) -> Trajectory {
    let episode = |prompt, response: &[u32]| Episode {
        prompt,
        response: response.to_vec(),
        finished: true,
    };
    let episodes = vec![
        episode(0, &[5, 8, 2]),
        episode(0, &[9, 7, 9, 2]),
        episode(1, &[2]),
    ];
    let mut t = Trajectory {
        prompts: vec![vec![3, 14, 15], vec![9, 26]],
        episodes,
        ..Trajectory::default()
    };
    let (ratios, moves) = ([1.0, 1.4, 0.6, 1.1, 0.9], [0.05, -0.4, 0.4, -0.1]);
    let (advantages, errors) = ([1.5, -0.8, 2.0, -0.5, 1.0, 1.2, -0.7], [0.7, -1.0, 1.3]);
    let mut critic = CriticTargets::default();
    let mut n = 0;
    for tokens in now(ppo, &t) {
        let mut rows = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut references = Vec::new();
        for [logprob, _, value] in tokens {
            rows.0.push((logprob - f64::ln(ratios[n % 5])) as f32);
            rows.1.push((value - moves[n % 4]) as f32);
            rows.2.push(advantages[n % 7]);
            rows.3.push(value + errors[n % 3]);
            references.push((logprob + moves[n % 4]) as f32);
            n += 1;
        }
        t.rewards.push(vec![0.0; rows.0.len()]);
        t.logprobs.push(rows.0);
        t.ref_logprobs.push(references);
        critic.values.push(rows.1);
        t.advantages.push(rows.2);
        critic.returns.push(rows.3);
    }
    t.critic = ppo.critic.is_some().then_some(critic);
    t
}

/// Finite differences of the loss written out, along the gradient turned by chance, in every parameter: one trunk under policy and value,
/// two of their own, and no critic with the KL penalty in the loss; means over tokens and over responses, however the minibatch is cut.
#[test]
fn the_gradients_of_policy_and_critic_equal_finite_differences_of_the_loss() {
    let without_critic = |config: Config| Config {
        advantage: Advantage::Rloo,
        samples_per_prompt: 2,
        kl_in: KlIn::Loss,
        kl_estimator: KlEstimator::K3,
        kl_coef: 0.7,
        ..config
    };
    for (objective, aggregate) in [
        ("shared critic", Aggregate::Token),
        ("shared critic", Aggregate::Sequence),
        ("separate critic", Aggregate::Token),
        ("no critic, KL in the loss", Aggregate::Token),
        ("no critic, KL in the loss", Aggregate::Sequence),
    ] {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = config(tmp.path());
        match objective {
            "shared critic" => config.critic = CriticKind::Shared,
            "separate critic" => config.critic = CriticKind::Separate,
            _ => config = without_critic(config),
        }
        config.aggregate = aggregate;
        let objective = format!("{objective}, {aggregate:?}");
        let mut ppo = prepare(&config, &session());
        // Under a head of zeros no value reaches the trunk.
        if let Some(critic) = &ppo.critic {
            let head = [[0.3f32, -0.5, 0.2, 0.6, -0.1, 0.4, -0.3, 0.5]];
            let var = critic.params().get("score.weight").unwrap();
            var.set(&Tensor::new(&head, &Device::Cpu).unwrap()).unwrap();
        }
        let t = trajectory(&ppo);
        for micro_batch_tokens in [1, 1000] {
            ppo.micro_batch_tokens = micro_batch_tokens;
            let minibatch = [0, 1, 2];
            let (of_policy, _) = ppo.gradients(&t, &minibatch, 0).unwrap();
            let of_critic = ppo.critic_gradients((&t, &minibatch)).unwrap();
            let mut all = vec![(&ppo.policy.params, of_policy)];
            if let Some((gradients, _)) = of_critic {
                all.push((ppo.critic.as_ref().unwrap().params(), gradients));
            }
            for (params, gradients) in &all {
                let reached = gradients.iter().map(|(name, _)| name);
                assert!(reached.eq(params.names()), "{objective}");
                for (name, gradient) in gradients.iter() {
                    let var = params.get(name).unwrap();
                    let at = var.as_tensor().copy().unwrap();
                    let unit = |x: &Tensor| {
                        let norm = x.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
                        x.broadcast_div(&norm).unwrap()
                    };
                    let mut rng = stream(1, name, 0);
                    let random: Vec<f32> = (0..gradient.elem_count())
                        .map(|_| normal(&mut rng) as f32)
                        .collect();
                    let random = Tensor::new(random, &Device::Cpu).unwrap();
                    let random = unit(&random.reshape(gradient.shape()).unwrap());
                    let direction = unit(&(random + unit(gradient)).unwrap());
                    let h = 1e-2;
                    let there = |h: f64| {
                        var.set(&(&at + (&direction * h).unwrap()).unwrap())
                            .unwrap();
                        let loss = loss(&ppo, &t);
                        var.set(&at).unwrap();
                        loss
                    };
                    let slope = |h: f64| (there(h) - there(-h)) / (2.0 * h);
                    // Richardson: the error in h² cancels.
                    let want = (4.0 * slope(h) - slope(2.0 * h)) / 3.0;
                    let got = (gradient * &direction).unwrap().sum_all().unwrap();
                    let got = f64::from(got.to_scalar::<f32>().unwrap());
                    // f32 keeps the losses to 1e-7, of which h makes 1e-5.
                    assert!(
                        (got - want).abs() < 1e-4,
                        "{objective}: {name}: {got} against {want}"
                    );
                }
            }
        }
    }
}

/// A reference of the same weights that says something else, and a ratio that is not 1 before the first update.
#[test]
fn forward_passes_that_disagree_are_refused_before_the_first_update() {
    let tmp = tempfile::tempdir().unwrap();
    let mut ppo = prepare(&config(tmp.path()), &session());
    let mut t = trajectory(&ppo);
    for (i, tokens) in now(&ppo, &t).iter().enumerate() {
        t.logprobs[i] = tokens.iter().map(|token| token[0] as f32).collect();
    }
    t.ref_logprobs = t.logprobs.clone();
    ppo.check_reference(&t).unwrap();
    t.ref_logprobs[1][2] += 0.01;
    let said = ppo.check_reference(&t).unwrap_err();
    assert!(
        said.to_string()
            .contains("policy and reference start from the same weights"),
        "{said}"
    );

    // Two minibatches of two: the check is about the first of a step, for the second has moved rightly.
    t.episodes.push(t.episodes[0].clone());
    let critic = t.critic.as_mut().unwrap();
    for rows in [&mut t.logprobs, &mut t.ref_logprobs, &mut critic.values] {
        rows.push(rows[0].clone());
    }
    for rows in [&mut t.advantages, &mut t.rewards, &mut critic.returns] {
        rows.push(rows[0].clone());
    }
    let mut moved = t.clone();
    moved.logprobs.iter_mut().flatten().for_each(|x| *x -= 0.1);
    let said = ppo.update(&moved, 0, 1e-3).err().unwrap().to_string();
    assert!(
        said.contains("before its first update") && said.contains("mean ratio 1.105"),
        "{said}"
    );
    ppo.update(&t, 0, 1e-3).unwrap();
}

/// The first minibatch of an epoch moves the policy, the second finds it too far away: what the first has done is recorded.
#[test]
fn an_epoch_that_target_kl_stops_is_recorded_with_what_was_done_of_it() {
    let tmp = tempfile::tempdir().unwrap();
    let mut config = config(tmp.path());
    config.minibatches = 2;
    config.target_kl = Some(1e-9);
    let mut ppo = prepare(&config, &session());
    let (mut t, _) = ppo.step(0).unwrap();
    // The policy has moved since the rollout: pretend that it is the one that sampled.
    t.logprobs = ppo
        .logprobs(&ppo.policy.view, &t.prompts, &t.episodes)
        .unwrap();
    let done = ppo.update(&t, 1, 1e-2).unwrap();
    assert!(done.stopped_early);
    assert_eq!((done.optimizer_steps, done.per_epoch.len()), (1, 1));
    assert!((done.per_epoch[0].ratio - 1.0).abs() < 1e-4);
    assert!(done.per_epoch[0].entropy > 0.0);
}

/// A number without a caption would be a curve that the report cannot explain.
#[test]
fn every_number_of_a_step_has_a_caption() {
    let tmp = tempfile::tempdir().unwrap();
    let demonstrations = tmp.path().join("demonstrations.jsonl");
    let row = json!({"prompt": "red", "completion": " fox"}).to_string();
    fs_err::write(&demonstrations, row).unwrap();
    for (kl_in, advantage) in [
        (KlIn::Reward, Advantage::Gae),
        (KlIn::Loss, Advantage::Gae),
        (KlIn::Reward, Advantage::Grpo),
    ] {
        let mut config = config(tmp.path());
        config.advantage = advantage;
        config.samples_per_prompt = 2;
        config.kl_estimator = KlEstimator::K3;
        config.kl_in = kl_in;
        config.ptx_coef = 0.5;
        config.ptx_data = vec![demonstrations.clone()];
        let (_, record) = prepare(&config, &session()).step(0).unwrap();
        let groups = record.contains_key("objective/equal_groups");
        assert_eq!(groups, advantage == Advantage::Grpo);
        for (name, _) in record.iter().filter(|(_, value)| value.is_number()) {
            let captioned = crate::CAPTIONS.iter().any(|c| c.metric == name.as_str());
            assert!(captioned, "{name}");
        }
    }
}
