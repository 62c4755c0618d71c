//! How often training waits for the device: once per optimizer step, in every stage. Run in this process, where reads are counted.

use std::path::Path;

use candle_core::{DType, Device};
use rlhf_train::{Interrupt, OnExisting, ProgressStyle, RunDir, Saving, Session, Stage, Training};

use crate::folder::Folder;

/// Reads from the device while the stage runs in a new run directory.
fn reads<S: Stage>(run: &Path, config: &S::Config) -> u64 {
    let session = Session {
        device: Device::Cpu,
        comm: Default::default(),
        dtype: DType::F32,
        recompute: false,
        lora: None,
        bases: Default::default(),
        seed: 0,
        progress: ProgressStyle::Quiet,
        saving: Saving {
            keep: 2,
            every: None,
        },
        interrupt: Interrupt::new(),
    };
    let dir = RunDir::open(run, OnExisting::Refuse).unwrap();
    let mut prepared = S::prepare(config, &session).unwrap();
    let before = rlhf_ops::host_reads();
    prepared.run(&session, &dir).unwrap();
    rlhf_ops::host_reads() - before
}

/// Evaluations and rollouts read too. They stay the same, so the difference is what the additional optimizer steps read.
#[test]
fn an_optimizer_step_reads_from_the_device_once() {
    let folder = Folder::empty();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    let base = folder.path("base").display().to_string();

    let sft = |steps| {
        let config = rlhf_sft::Config {
            model: base.clone(),
            data: vec![folder.path("demos.jsonl")],
            training: Training {
                batch: 4,
                // Several micro-batches a step.
                micro_batch_tokens: 16,
                steps,
                ..Default::default()
            },
            ..Default::default()
        };
        reads::<rlhf_sft::Sft>(&folder.path(&format!("sft-{steps}")), &config)
    };
    assert_eq!(sft(5) - sft(2), 3);

    let reward = |steps| {
        let config = rlhf_reward::Config {
            model: base.clone(),
            prefs: vec![folder.path("prefs.jsonl")],
            training: Training {
                batch: 4,
                micro_batch_tokens: 16,
                lr: 1e-3,
                steps,
                ..Default::default()
            },
            ..Default::default()
        };
        reads::<rlhf_reward::Reward>(&folder.path(&format!("reward-{steps}")), &config)
    };
    assert_eq!(reward(5) - reward(2), 3);

    let dpo = |steps| {
        let config = rlhf_dpo::Config {
            model: base.clone(),
            prefs: vec![folder.path("prefs.jsonl")],
            training: Training {
                batch: 4,
                micro_batch_tokens: 16,
                lr: 1e-3,
                steps,
                ..Default::default()
            },
            ..Default::default()
        };
        reads::<rlhf_dpo::Dpo>(&folder.path(&format!("dpo-{steps}")), &config)
    };
    assert_eq!(dpo(5) - dpo(2), 3);

    let ppo = |epochs| {
        let config = rlhf_ppo::Config {
            model: base.clone(),
            reward: folder.path("reward-2/final").display().to_string(),
            prompts: vec![folder.path("prompts.jsonl")],
            steps: 1,
            batch: 4,
            minibatches: 2,
            micro_batch_tokens: 16,
            epochs,
            // No end before two tokens and none after three: of one length, so that sampling reads equally often whatever the policy.
            response_length: 3,
            min_response_length: 2,
            ..Default::default()
        };
        reads::<rlhf_ppo::Ppo>(&folder.path(&format!("ppo-{epochs}")), &config)
    };
    // Two minibatches an epoch, one optimizer step each of policy and critic.
    assert_eq!(ppo(4) - ppo(1), 3 * 2 * 2);
}
