//! Faults that implementations of RLHF are known for, and cannot have here.
//!
//! | fault | held by |
//! |---|---|
//! | the number of minibatches changes no optimizer step | here |
//! | PPO's gradients are not clipped | here |
//! | entropy, KL and ratio are averaged over padding | here, for there is none; `ppo/src/loss.rs`: statistics are means over all tokens of the minibatch |
//! | the EOS token is masked because padding is the EOS token | here, by its effect: a model learns to stop |
//! | the price of a missing end ignores a custom stop | here |
//! | log-probabilities lack the sampling temperature | `ppo/src/trajectory.rs`: log-probabilities are those of the temperature |
//! | whitening adds the mean | `ppo/src/advantage.rs`: whitening centres and scales by the chosen variance |
//! | the loss depends on how a batch is cut | here; `train/src/feedback/loss_terms.rs`: all kinds of feedback in one batch weigh the same however it is cut |
//! | the reward head is lost or drawn anew on saving | here; `tests/score.rs` |
//! | scores are silently not normalised | here |
//! | over-long pairs are silently dropped | here; `reward/src/items.rs`: a cut keeps the EOS token and the end of the prompt |
//! | prompt tokens are trained by accident | here |
//! | two BOS tokens | `lm/tests/it/text.rs`: a plain prompt begins with one BOS token |
//! | a model does not stop after fine-tuning | here |

use serde_json::Value;

use crate::folder::Folder;

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    folder
}

const PPO: &str = "ppo --model base --prompts prompts.jsonl --reward length:4 --set ppo.missing_eos=none --quiet --overwrite";

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The metrics of PPO's steps.
fn steps(folder: &Folder) -> Vec<Value> {
    let mut all = lines(&folder.read("runs/ppo/metrics.jsonl"));
    all.retain(|line| line["lr"].is_number());
    all
}

fn rollouts(folder: &Folder) -> Vec<Value> {
    let mut all = lines(&folder.read("runs/ppo/samples.jsonl"));
    all.retain(|line| line["kind"] == "rollout");
    all
}

#[test]
fn every_minibatch_of_every_epoch_is_an_optimizer_step() {
    let folder = folder();
    for (minibatches, epochs) in [(1, 1), (4, 3)] {
        folder.done(&format!(
            "{PPO} --epochs {epochs} --set ppo.minibatches={minibatches}"
        ));
        for step in steps(&folder) {
            assert_eq!(step["optimizer_steps"], minibatches * epochs);
        }
    }
}

/// A norm of 1e-12 is far below AdamW's ε of 1e-5, so that nothing can move; without clipping everything does.
#[test]
fn the_gradients_of_ppo_are_clipped() {
    let folder = folder();
    let furthest = |norm: &str| {
        folder.done(&format!(
            "{PPO} --lr 1e-2 --epochs 3 --set ppo.max_grad_norm={norm}"
        ));
        let ratios = rollouts(&folder)
            .into_iter()
            .flat_map(|row| row["ratios"].as_array().unwrap().clone());
        ratios
            .map(|ratio| (ratio.as_f64().unwrap() - 1.0).abs())
            .fold(0.0, |a: f64, b| if a.is_nan() || a > b { a } else { b })
    };
    let (clipped, free) = (furthest("1e-12"), furthest("0.0"));
    assert!(clipped < 1e-4 && free > 1e-2, "{clipped} and {free}");
}

#[test]
fn a_custom_stop_ends_a_response_as_the_end_token_does() {
    let folder = folder();
    folder.write(
        "stop.toml",
        "[ppo]\nstop = [\"e\"]\nresponse_length = 40\nlog_samples = 4\nmissing_eos = { replace = -50.0 }\n",
    );
    folder.done(
        "ppo --model base --prompts prompts.jsonl --reward length:3 --quiet --config stop.toml",
    );
    let mut stopped = 0;
    for row in rollouts(&folder) {
        let finished = row["finished"].as_bool().unwrap();
        assert_eq!(finished, row["score"].as_f64().unwrap() != -50.0, "{row}");
        stopped += usize::from(finished && row["response"].as_str().unwrap().ends_with('e'));
    }
    assert!(stopped > 0, "no response was stopped by the text");
}

/// Sums in another order, in f32: five digits are left of a difference of log-probabilities.
#[test]
fn how_a_minibatch_is_cut_changes_no_loss_and_no_gradient() {
    let folder = folder();
    for aggregate in ["token", "sequence"] {
        let first = |micro: usize| {
            folder.done(&format!(
                "{PPO} --steps 1 --micro-batch-tokens {micro} --aggregate {aggregate}"
            ));
            steps(&folder).remove(0)
        };
        let (cut, whole) = (first(1), first(100_000));
        for name in [
            "loss/policy_avg",
            "loss/value_avg",
            "grad_norm/policy",
            "grad_norm/critic",
            "policy/entropy_avg",
        ] {
            let (a, b) = (cut[name].as_f64().unwrap(), whole[name].as_f64().unwrap());
            assert!(
                (a - b).abs() <= 1e-4 * b.abs().max(1e-2),
                "{aggregate}: {name}: {a} and {b}"
            );
        }
    }
}

/// As above, in the other stages.
#[test]
fn how_a_batch_is_cut_changes_no_loss_and_no_gradient() {
    let folder = folder();
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.write("corpus.txt", "the fox is red.\n\nthe crow is black.\n\nthe frog is green and small.\n\nthe fox eats meat.\n");
    for (stage, line) in [
        ("pretrain", "pretrain --data corpus.txt"),
        ("sft", "sft --model base --data demos.jsonl"),
        ("reward", "reward --model base --prefs prefs.jsonl"),
    ] {
        let first = |micro: usize| {
            folder.done(&format!(
                "{line} --steps 1 --micro-batch-tokens {micro} --quiet --overwrite"
            ));
            let lines = lines(&folder.read(&format!("runs/{stage}/metrics.jsonl")));
            lines.into_iter().find(|line| line["step"] == 1).unwrap()
        };
        let (cut, whole) = (first(1), first(100_000));
        for name in ["loss", "grad_norm"] {
            let (a, b) = (cut[name].as_f64().unwrap(), whole[name].as_f64().unwrap());
            assert!((a - b).abs() <= 1e-4 * b, "{stage}, {name}: {a} and {b}");
        }
    }
}

/// What the record says of a step is what its samples say, token by token: responses of any length, and no other token.
#[test]
fn the_statistics_of_a_step_are_those_of_its_response_tokens() {
    let folder = folder();
    folder.write(
        "all.toml",
        "[ppo]\nresponse_length = 30\nlog_samples = 4\nstop = [\"e\"]\n",
    );
    folder.done(&format!("{PPO} --config all.toml"));
    let samples = rollouts(&folder);
    let mut lengths = std::collections::BTreeSet::new();
    for step in steps(&folder) {
        let own = samples
            .iter()
            .filter(|sample| sample["step"] == step["step"]);
        let (mut tokens, mut kl, mut episodes) = (0.0, 0.0, 0.0);
        for sample in own {
            let numbers = |name: &str| -> Vec<f64> {
                let values = sample[name].as_array().unwrap().iter();
                values.map(|x| x.as_f64().unwrap()).collect()
            };
            let pairs = numbers("logprobs").into_iter().zip(numbers("ref_logprobs"));
            kl += pairs.map(|(p, r)| p - r).sum::<f64>();
            tokens += numbers("tokens").len() as f64;
            episodes += 1.0;
            lengths.insert(numbers("tokens").len());
        }
        assert_eq!(episodes, 4.0);
        for (name, want) in [
            ("objective/kl", kl / episodes),
            ("response/length", tokens / episodes),
        ] {
            let got = step[name].as_f64().unwrap();
            assert!((got - want).abs() < 1e-9, "{name}: {got} and {want}");
        }
    }
    assert!(lengths.len() > 2, "{lengths:?}");
}

/// The head of another run under this one's `reward.json`: its probes do not score what they did.
#[test]
fn a_reward_head_that_is_not_the_one_that_was_saved_is_refused() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    for seed in [1, 2] {
        folder.done(&format!(
            "reward --model base --prefs prefs.jsonl --quiet --seed {seed} --out runs/{seed}"
        ));
    }
    let weights = |run: &str| folder.path(&format!("runs/{run}/final/model.safetensors"));
    let line = "ppo --model base --prompts prompts.jsonl --reward runs/1 --quiet";
    folder.done(line);
    fs_err::copy(weights("2"), weights("1")).unwrap();
    let said = folder.refused(&format!("{line} --overwrite"));
    assert!(
        said.contains("reward.json") && said.contains("a probe scored"),
        "{said}"
    );
}

#[test]
fn pairs_that_are_too_long_are_cut_and_counted() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    let output = folder
        .command("reward --model base --prefs prefs.jsonl --max-length 12")
        .output()
        .unwrap();
    let said = crate::folder::stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("12 rows (the first is prefs.jsonl:1) cut to fit 12 tokens")
            && said.contains("reward.max_length"),
        "{said}"
    );
}

#[test]
fn a_reward_model_without_a_known_scale_is_refused_unless_asked_for() {
    let folder = folder();
    folder.pairs("prefs.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    let card = "runs/reward/final/reward.json";
    let mut json: Value = serde_json::from_str(&folder.read(card)).unwrap();
    json["calibration"] = Value::Null;
    folder.write(card, &json.to_string());
    let line = "ppo --model base --prompts prompts.jsonl --quiet";
    let said = folder.refused(line);
    assert!(
        said.contains("calibration") && said.contains("uncalibrated"),
        "{said}"
    );
    folder.done(&format!("{line} --uncalibrated"));
}

/// The bundled tokenizers pad with nothing, these with the EOS token: what stops the model is a label all the same. And the
/// prompts, each of which has a number of its own, are not learnt: their loss stays where it was.
#[test]
fn fine_tuning_teaches_to_stop_and_does_not_teach_prompts() {
    let folder = folder();
    folder.demonstrations("demos.jsonl");
    let tokenizer = "base/tokenizer_config.json";
    let mut json: Value = serde_json::from_str(&folder.read(tokenizer)).unwrap();
    json["pad_token"] = json["eos_token"].clone();
    folder.write(tokenizer, &json.to_string());
    folder.done("sft --model base --data demos.jsonl --steps 60 --lr 1e-2 --quiet");
    let line = "generate --model runs/sft --prompts prompts.jsonl --temperature 0 --max-new-tokens 40 --quiet";
    for row in lines(&folder.done(line)) {
        assert_eq!(
            (&row["response"], &row["finished"]),
            (&" red.".into(), &true.into()),
            "{row}"
        );
    }
    let row = "{\"prompt\": \"What colour is thing 1?\", \"completion\": \" red.\"}\n";
    folder.write("one.jsonl", row);
    let learnt = |flag: &str| {
        folder.done(&format!(
            "sft --model base --data demos.jsonl --steps 60 --lr 1e-2 --quiet --overwrite {flag}"
        ));
        let json = &lines(&folder.done("score --model runs/sft --data one.jsonl --quiet"))[0];
        let logprobs: Vec<f64> = json["logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        // The second token is the prompt's.
        logprobs[0] + logprobs[1]
    };
    let (context, target) = (learnt(""), learnt("--train-on-prompt"));
    assert!(
        target > context + 1.0,
        "{context} as context, {target} as target"
    );
}
