//! `--dtype bf16` and `f16` from end to end.

use serde_json::Value;

use crate::folder::Folder;

/// A number of every line of a run's metrics that has it.
fn metric(folder: &Folder, run: &str, key: &str) -> Vec<f64> {
    let text = folder.read(&format!("runs/{run}/metrics.jsonl"));
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()[key].as_f64())
        .collect()
}

/// Oracle: the same ten steps in f32, whose arithmetic is held to PyTorch's by crates/train/tests/hf_parity.rs.
#[test]
fn ten_steps_of_sft_reward_and_dpo_in_half_precision_stay_within_two_per_cent_of_f32() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    for (stage, data) in [
        ("sft", "--data demos.jsonl"),
        ("reward", "--prefs prefs.jsonl"),
        ("dpo", "--prefs prefs.jsonl"),
    ] {
        for dtype in ["f32", "bf16", "f16"] {
            folder.done(&format!(
                "{stage} --model base {data} --steps 10 --dtype {dtype} --quiet --out runs/{stage}-{dtype}"
            ));
        }
        let expected = metric(&folder, &format!("{stage}-f32"), "loss");
        assert_eq!(expected.len(), 10);
        for dtype in ["bf16", "f16"] {
            let ours = metric(&folder, &format!("{stage}-{dtype}"), "loss");
            for (a, b) in ours.iter().zip(&expected) {
                assert!(
                    (a - b).abs() <= 0.02 * b,
                    "{stage} in {dtype}: {ours:?}, expected {expected:?}"
                );
            }
        }
    }
}

/// Rollout, scoring and update each compute the same log-probabilities in another batch; PPO refuses to go on where they differ.
#[test]
fn ppo_and_generation_run_in_half_precision() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    for dtype in ["bf16", "f16"] {
        folder.done(&format!(
            "ppo --model base --prompts prompts.jsonl --samples-per-prompt 2 --set ppo.micro_batch_tokens=40 --dtype {dtype} --quiet --out runs/{dtype}"
        ));
        for key in [
            "objective/kl",
            "loss/policy_avg",
            "loss/value_avg",
            "grad_norm/policy",
        ] {
            let found = metric(&folder, dtype, key);
            assert!(
                found.len() == 3 && found.iter().all(|x| x.is_finite()),
                "{key}: {found:?}"
            );
        }
        let said = folder.done(&format!(
            "generate --model runs/{dtype} --prompt red --max-new-tokens 5 --dtype {dtype} --quiet"
        ));
        assert!(said.contains("\"response\""), "{said}");
    }
}
