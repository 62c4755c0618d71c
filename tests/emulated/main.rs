//! Stages on the emulated grid: fine-tuning, a reward model and a step of PPO, with every kernel that a GPU would run, are those of the CPU. A target of
//! its own, because the whole process is switched.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[allow(dead_code)] // shared with the end-to-end tests
#[path = "../folder.rs"]
mod folder;

use candle_core::{DType, Device};
use rlhf_lm::{CausalLm, LanguageModel, Sampled, SamplingConfig, Weights, generate};
use rlhf_train::{Interrupt, OnExisting, ProgressStyle, RunDir, Saving, Session, Stage, Training};
use serde_json::Value;

use folder::Folder;

/// Runs the stage; the lines of its file `name`.
fn lines<S: Stage>(run: &std::path::Path, config: &S::Config, name: &str) -> Vec<Value> {
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
            keep: 1,
            every: None,
        },
        interrupt: Interrupt::new(),
    };
    let dir = RunDir::open(run, OnExisting::Refuse).unwrap();
    let mut prepared = S::prepare(config, &session).unwrap();
    prepared.run(&session, &dir).unwrap();
    let text = fs_err::read_to_string(run.join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Responses under every filter, of rows that start at different times.
fn responses(folder: &Folder) -> Vec<Sampled> {
    let base = folder.path("base");
    let base = LanguageModel::load(&base, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
    let model = CausalLm::new(&base.config, &base.params).unwrap();
    let prompts: Vec<Vec<u32>> = ["What colour is thing 1?", "Question: what"]
        .iter()
        .map(|text| base.tokenizer.encode(text).unwrap())
        .collect();
    let config = SamplingConfig {
        temperature: 0.8,
        top_k: Some(50),
        top_p: Some(0.9),
        repetition_penalty: 1.2,
        min_new_tokens: 3,
        max_new_tokens: 8,
        max_rows: 4,
        ..Default::default()
    };
    generate(&model, &base.tokenizer, &prompts, 3, &config, &mut |_| ()).unwrap()
}

/// What the stages leave: losses and gradient norms of SFT, of the reward model; those and the responses of PPO.
fn all(folder: &Folder, name: &str) -> (Vec<f64>, Vec<Value>) {
    let of = |stage: &str| folder.path(&format!("{name}-{stage}"));
    let (base, demos) = (
        folder.path("base").display().to_string(),
        folder.path("demos.jsonl"),
    );
    let (prefs, prompts) = (folder.path("prefs.jsonl"), folder.path("prompts.jsonl"));
    let training = |steps| Training {
        batch: 4,
        micro_batch_tokens: 40, // several micro-batches a step: gradients are added up
        lr: 1e-3,
        steps,
        ..Default::default()
    };
    let sft = rlhf_sft::Config {
        model: base.clone(),
        data: vec![demos],
        training: training(3),
        ..Default::default()
    };
    let reward = rlhf_reward::Config {
        model: base.clone(),
        prefs: vec![prefs],
        training: training(2),
        ..Default::default()
    };
    let ppo = rlhf_ppo::Config {
        model: base,
        reward: of("reward").join("final").display().to_string(),
        prompts: vec![prompts],
        steps: 1,
        batch: 4,
        minibatches: 2,
        micro_batch_tokens: 40,
        epochs: 1,
        response_length: 4,
        log_samples: 4,
        keep_going: true,
        ..Default::default()
    };
    let mut numbers = Vec::new();
    let mut take = |lines: Vec<Value>, keys: &[&str]| {
        let before = numbers.len();
        for line in lines {
            numbers.extend(keys.iter().filter_map(|key| line[*key].as_f64()));
        }
        assert!(numbers.len() > before, "{keys:?}");
    };
    let trained = ["loss", "grad_norm"];
    take(
        lines::<rlhf_sft::Sft>(&of("sft"), &sft, "metrics.jsonl"),
        &trained,
    );
    take(
        lines::<rlhf_reward::Reward>(&of("reward"), &reward, "metrics.jsonl"),
        &trained,
    );
    let samples = lines::<rlhf_ppo::Ppo>(&of("ppo"), &ppo, "samples.jsonl");
    let metrics = folder.read(&format!("{name}-ppo/metrics.jsonl"));
    let metrics = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let learned = [
        "objective/kl",
        "objective/entropy",
        "objective/scores",
        "loss/policy_avg",
        "loss/value_avg",
        "grad_norm/policy",
        "grad_norm/critic",
    ];
    take(metrics.collect(), &learned);
    let responses = samples.iter().map(|sample| sample["response"].clone());
    (numbers, responses.collect())
}

/// What fine-tuning copies to the device in so many steps of one pass each. A step has two copies: the batch, and the plan of its attention.
/// `BENCHMARKS.md` has the number.
fn uploads(folder: &Folder, steps: u64) -> u64 {
    let config = rlhf_sft::Config {
        model: folder.path("base").display().to_string(),
        data: vec![folder.path("demos.jsonl")],
        training: Training {
            batch: 4,
            micro_batch_tokens: 4096,
            steps,
            ..Default::default()
        },
        ..Default::default()
    };
    let before = rlhf_ops::host_uploads();
    let run = folder.path(&format!("uploads-{steps}"));
    lines::<rlhf_sft::Sft>(&run, &config, "metrics.jsonl");
    rlhf_ops::host_uploads() - before
}

#[test]
fn stages_on_the_grid_learn_and_say_what_they_do_on_the_cpu() {
    if !rlhf_grid::AVAILABLE || rlhf_ops::reference_only() {
        return; // the emulation is for Linux, and of kernels
    }
    let folder = Folder::empty();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    let (want, said) = all(&folder, "cpu");
    let on_cpu = responses(&folder);
    assert_eq!(rlhf_ops::kernel_launches(), 0);
    rlhf_ops::emulate_everywhere(rlhf_grid::launch);
    let (got, says) = all(&folder, "grid");
    assert!(rlhf_ops::kernel_launches() > 0);
    assert_eq!(said, says);
    for (got, want) in responses(&folder).iter().zip(&on_cpu) {
        assert_eq!((&got.tokens, got.finished), (&want.tokens, want.finished));
        let pairs = got.logprobs.iter().zip(&want.logprobs);
        assert!(
            pairs
                .into_iter()
                .all(|(got, want)| (got - want).abs() < 1e-5)
        );
    }
    assert_eq!(uploads(&folder, 5) - uploads(&folder, 2), 3 * 2);
    assert_eq!(want.len(), got.len());
    // Sums in f32 in another order; the policy's loss is a mean of advantages, which cancel.
    for (got, want) in got.iter().zip(&want) {
        let apart = (got - want).abs();
        assert!(
            apart <= 1e-5 * want.abs().max(0.1),
            "{got}, on the CPU {want}"
        );
    }
}
