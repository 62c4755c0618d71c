//! What the policy is sampled with, what the old log-probabilities come from, and how what is frozen is held.

use rlhf_lm::{CausalLm, LoraConfig, WeightFormat};
use rlhf_rollout::{respond, response_logprobs};

use super::*;

/// The oracles: a model over the rounded weights for the responses, and a forward pass of the policy for their log-probabilities.
#[test]
fn responses_come_from_rounded_weights_and_log_probabilities_from_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        rollout_weights: WeightFormat::Q8_0,
        ..config(dir.path())
    };
    let session = session();
    let mut ppo = prepare(&config, &session);
    let prompts = ppo.next_prompts(0);
    let rounded = ppo
        .policy
        .params
        .rounded(&ppo.language_model.config, WeightFormat::Q8_0, None);
    let rounded = CausalLm::new(&ppo.language_model.config, &rounded.unwrap()).unwrap();
    let seed = stream(ppo.seed, "rollout", 0);
    let seed = rand::RngCore::next_u64(&mut { seed });
    let tokenizer = &ppo.language_model.tokenizer;
    let sampling = config.sampling(seed);
    let want = respond(&rounded, tokenizer, &prompts, 1, &sampling, &Comm::single()).unwrap();
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let of = |model: &CausalLm| {
        response_logprobs(model, &ids, &want, TEMPERATURE, 1000, &Comm::single()).unwrap()
    };
    let (ours, theirs) = (of(&ppo.policy.view), of(&rounded));
    assert_ne!(ours, theirs);

    let (t, record) = ppo.step(0).unwrap();
    assert_eq!(t.episodes, want);
    assert_eq!(t.logprobs, ours);
    let gaps = ours.iter().flatten().zip(theirs.iter().flatten());
    let gaps: Vec<f64> = gaps.map(|(a, b)| f64::from((a - b).abs())).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let most = gaps.iter().copied().fold(0.0, f64::max);
    // The sampler's numbers and a forward pass over the same weights agree to rounding.
    for (name, want) in [
        ("rollout/logprob_gap", mean),
        ("rollout/logprob_gap_max", most),
    ] {
        let found = record[name].as_f64().unwrap();
        assert!((found - want).abs() < 1e-5, "{name}: {found} and {want}");
    }
    assert!(!record.contains_key("rollout/guesses"));
}

/// The oracle is the same step without guesses.
#[test]
fn guesses_leave_a_step_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let plain = Config {
        response_length: 24,
        temperature: 0.05,
        max_prompt_length: 8,
        ..config(dir.path())
    };
    let guessing = Config {
        rollout_lookup: 6,
        ..plain.clone()
    };
    let session = session();
    let (plain, without) = prepare(&plain, &session).step(0).unwrap();
    let (guessing, with) = prepare(&guessing, &session).step(0).unwrap();
    assert_eq!(plain.episodes, guessing.episodes);
    assert_eq!(plain.logprobs, guessing.logprobs);
    assert!(with["rollout/guesses"].as_u64().unwrap() > 0);
    let hit = with["rollout/guesses_hit"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&hit));
    assert!(
        !without.contains_key("rollout/guesses") && !without.contains_key("rollout/logprob_gap")
    );
}

/// The oracle is the policy before it has moved, rounded: what the reference says is that before the updates and after.
#[test]
fn the_reference_is_the_first_policy_rounded_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        frozen_weights: WeightFormat::Bf16,
        lr: 1e-2,
        ..config(dir.path())
    };
    let session = session();
    let mut ppo = prepare(&config, &session);
    let model = &ppo.language_model.config;
    let first = ppo.policy.params.snapshot().unwrap();
    let rounded = first.rounded(model, WeightFormat::Bf16, None).unwrap();
    let [first, rounded] = [first, rounded].map(|it| CausalLm::new(model, &it).unwrap());
    let (t, _) = ppo.step(0).unwrap();
    let of = |model: &CausalLm| {
        let (prompts, episodes) = (&t.prompts, &t.episodes);
        response_logprobs(model, prompts, episodes, TEMPERATURE, 1000, &Comm::single()).unwrap()
    };
    assert_eq!(t.logprobs, of(&first));
    assert_eq!(t.ref_logprobs, of(&rounded));
    assert_ne!(t.ref_logprobs, t.logprobs);
    assert_ne!(of(&ppo.policy.view), of(&first), "the policy has moved");
    assert_eq!(of(&ppo.reference), t.ref_logprobs);
}

/// Adapters share their base, so that rounding it would hold it twice.
#[test]
fn under_an_adapter_there_is_nothing_to_round() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        frozen_weights: WeightFormat::Q8_0,
        ..config(dir.path())
    };
    let lora = LoraConfig {
        rank: 2,
        ..LoraConfig::default()
    };
    let session = Session {
        lora: Some(lora),
        ..session()
    };
    let said = Inputs::load(&config, &session).err().unwrap().to_string();
    assert!(said.contains("ppo.frozen_weights"), "{said}");
}
