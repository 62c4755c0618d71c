//! What the steps of PPO record, and what its settings do to them.

use serde_json::{Map, Value};

use crate::folder::{Folder, stderr};

const PPO: &str = "ppo --model base --prompts prompts.jsonl --reward length:4 --set ppo.missing_eos=none --quiet --overwrite";

fn folder() -> Folder {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    folder
}

fn lines(folder: &Folder, name: &str) -> Vec<Map<String, Value>> {
    let text = folder.read(&format!("runs/ppo/{name}"));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The records of the steps, without those of evaluations.
fn steps(folder: &Folder, flags: &str) -> Vec<Map<String, Value>> {
    folder.done(&format!("{PPO} {flags}"));
    let mut all = lines(folder, "metrics.jsonl");
    all.retain(|line| line.contains_key("lr"));
    all
}

/// The names are those of TRL's PPO, which TensorBoards are set up for.
#[test]
fn a_step_is_recorded_under_the_names_people_know() {
    let folder = folder();
    let step = &steps(&folder, "--steps 1")[0];
    for name in [
        "objective/kl",
        "objective/kl_k3",
        "objective/kl_k3_se",
        "objective/entropy",
        "objective/non_score_reward",
        "objective/rlhf_reward",
        "objective/scores",
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
        "policy/entropy_avg",
        "loss/policy_avg",
        "loss/value_avg",
        "val/clipfrac_avg",
        "val/ratio",
        "val/ratio_var",
        "val/num_eos_tokens",
        "val/explained_variance",
        "lr",
        "episode",
        "kl_coef",
        "grad_norm/policy",
        "grad_norm/critic",
        "response/length",
        "response/eos_fraction",
    ] {
        assert!(step[name].as_f64().is_some(), "{name}: {:?}", step[name]);
    }
    // Step 0 is the evaluation before training.
    let timings = &lines(&folder, "timings.jsonl")[1];
    for name in [
        "time/rollout",
        "time/score",
        "time/forward",
        "time/update",
        "tokens_per_second",
    ] {
        assert!(timings[name].as_f64().is_some(), "{name}");
    }
}

/// The first minibatch of a step meets the policy that sampled, the second one that has moved.
#[test]
fn beyond_the_target_kl_no_further_update_of_a_step_is_made() {
    let folder = folder();
    for (target, updates, early) in [("", 8, false), ("--set ppo.target_kl=1e-9", 1, true)] {
        for step in steps(&folder, &format!("--lr 1e-3 --epochs 4 {target}")) {
            assert_eq!(step["optimizer_steps"], updates, "{step:?}");
            assert_eq!(step["stopped_early"], early, "{step:?}");
        }
    }
}

/// Source: Ziegler et al., "Fine-Tuning Language Models from Human Preferences" (2019), §2.2: β ← β(1 + clip(KL/target − 1, ±.2)·n/horizon).
#[test]
fn an_adaptive_beta_follows_the_recorded_kl() {
    let folder = folder();
    let flags = "--steps 5 --lr 1e-2 --set ppo.kl_target=0.05 --set ppo.kl_horizon=100";
    let steps = steps(&folder, flags);
    let number = |step: usize, name: &str| steps[step][name].as_f64().unwrap();
    for next in 1..5 {
        let error = (number(next - 1, "objective/kl") / 0.05 - 1.0).clamp(-0.2, 0.2);
        let want = number(next - 1, "kl_coef") * (1.0 + error * 4.0 / 100.0);
        assert!((number(next, "kl_coef") - want).abs() < 1e-12);
    }
    assert!(
        number(1, "kl_coef") < number(0, "kl_coef"),
        "no KL, and no less of it wanted"
    );
    // Linearly to 0: the last of five steps has a fifth.
    for (step, share) in [(0, 1.0), (4, 0.2)] {
        assert!(
            (number(step, "lr") - 1e-2 * share).abs() < 1e-12,
            "{:?}",
            steps[step]
        );
    }
}

#[test]
fn each_prompt_is_answered_as_often_as_asked_and_scores_stay_within_their_clip() {
    let folder = folder();
    let flags = "--set ppo.samples_per_prompt=2 --set ppo.log_samples=4 --set ppo.score_clip=0.25";
    steps(&folder, flags);
    let samples = lines(&folder, "samples.jsonl");
    let mut clipped = 0;
    for step in 1..=3 {
        let own = samples
            .iter()
            .filter(|s| s["kind"] == "rollout" && s["step"] == step);
        let own: Vec<_> = own.collect();
        let prompts: Vec<&Value> = own.iter().map(|sample| &sample["prompt"]).collect();
        assert_eq!(prompts.len(), 4);
        assert!(prompts[0] == prompts[1] && prompts[2] == prompts[3] && prompts[0] != prompts[2]);
        for sample in own {
            let score = sample["score"].as_f64().unwrap();
            assert!(score.abs() <= 0.25, "{score}");
            clipped += usize::from(score.abs() == 0.25);
        }
    }
    assert!(clipped > 0);
}

/// Of each advantage: what it needs, and whether it has a critic. A reward that tells responses apart, for without a difference there is
/// nothing to learn; `--max-kl` so that checkpoints hold the best policy so far.
const ADVANTAGES: [(&str, &str, bool); 5] = [
    ("gae", "", true),
    ("rloo", "--samples-per-prompt 2", false),
    ("grpo", "--samples-per-prompt 2 --aggregate sequence", false),
    (
        "dr-grpo",
        "--samples-per-prompt 2 --kl-in loss --set ppo.kl_estimator=k3",
        false,
    ),
    ("reinforce++", "--gamma 0.9", false),
];

/// What a kill after the second of four steps and before the end leaves is resumed to the same bytes, with every advantage. Without a
/// critic there is nothing of one in the record, in the samples, in the explanation and in the checkpoint.
#[test]
fn every_advantage_runs_and_resumes_to_the_same_bytes_and_only_gae_has_a_critic() {
    let folder = folder();
    let ppo = PPO.replace("length:4", "regex:[aeiou]");
    for (advantage, needs, critic) in ADVANTAGES {
        let line = format!(
            "{ppo} --steps 4 --save-every 2 --set ppo.log_samples=4 --max-kl 1000 --advantage {advantage} {needs}"
        );
        folder.done(&line);
        let mut steps = lines(&folder, "metrics.jsonl");
        steps.retain(|line| line.contains_key("lr"));
        let norms = steps
            .iter()
            .map(|s| s["grad_norm/policy"].as_f64().unwrap());
        assert!(norms.sum::<f64>() > 0.0, "{advantage}");
        let grouped = needs.contains("samples");
        for step in &steps {
            for name in [
                "loss/value_avg",
                "val/clipfrac_avg",
                "val/explained_variance",
                "grad_norm/critic",
            ] {
                assert_eq!(step.contains_key(name), critic, "{advantage}: {name}");
            }
            let equal = step.get("objective/equal_groups");
            let equal = equal.map(|equal| equal.as_u64().unwrap());
            assert_eq!(equal.is_some(), grouped, "{advantage}");
            // Two prompts a step; where none teaches anything, their scores have no range.
            let range = step["objective/score_range"].as_f64().unwrap();
            assert!(equal.is_none_or(|n| n <= 2 && (n == 2) == (range == 0.0)));
        }
        let samples = lines(&folder, "samples.jsonl");
        let rollouts = samples.iter().filter(|s| s["kind"] == "rollout");
        for sample in rollouts {
            for name in ["values", "returns"] {
                assert_eq!(sample.contains_key(name), critic, "{advantage}: {name}");
            }
            // One advantage for all tokens of a response, where responses are compared.
            let advantages = sample["advantages"].as_array().unwrap();
            let same = advantages.iter().all(|a| *a == advantages[0]);
            assert!(!grouped || same, "{advantage}");
        }
        let table = folder.done("explain runs/ppo --step 1");
        assert!(table.contains("advantage"), "{table}");
        assert_eq!(table.contains("return"), critic, "{table}");
        folder.done("report runs/ppo --out report.html");
        let page = folder.read("report.html");
        assert_eq!(page.contains("Prompts that teach nothing"), grouped);

        let (whole, cut) = (folder.path("runs/ppo"), folder.path("runs/cut"));
        for (name, _) in crate::folder::files(&whole) {
            let keep = !name.starts_with("final") && name != "finished";
            assert!(critic || !name.contains("critic"), "{name}");
            if keep {
                let to = cut.join(&name);
                fs_err::create_dir_all(to.parent().unwrap()).unwrap();
                fs_err::copy(whole.join(name), to).unwrap();
            }
        }
        folder.done(&format!("{line} --out runs/cut").replace("--overwrite", "--resume"));
        crate::folder::assert_same_run(&whole, &cut);
        fs_err::remove_dir_all(cut).unwrap();
    }
}

#[test]
fn advantages_are_refused_by_name_what_they_cannot_use() {
    let folder = folder();
    for (flags, setting) in [
        ("--advantage rloo", "ppo.samples_per_prompt"),
        ("--advantage grpo", "ppo.samples_per_prompt"),
        ("--advantage dr-grpo", "ppo.samples_per_prompt"),
        (
            "--advantage dr-grpo --samples-per-prompt 2 --gamma 0.9",
            "ppo.gamma",
        ),
        ("--advantage reinforce++ --critic shared", "ppo.critic"),
        ("--advantage reinforce++ --lambda 0.9", "ppo.lambda"),
        (
            "--advantage grpo --samples-per-prompt 2 --variance unbiased",
            "ppo.variance",
        ),
        (
            "--advantage grpo --samples-per-prompt 2 --kl-in loss",
            "ppo.kl_estimator",
        ),
        ("--advantage ppo", "dr-grpo"),
        ("--aggregate response", "sequence"),
        ("--whiten-advantages perhaps", "ppo.whiten_advantages"),
    ] {
        let said = folder.refused(&format!("{PPO} {flags}"));
        assert!(said.contains(setting), "{flags}: {said}");
    }
}

/// Scores that depend on the prompt alone: nothing is learnt from a comparison of its responses, with the other estimators something is.
#[test]
fn prompts_whose_responses_score_alike_stop_a_run_that_compares_them() {
    let folder = folder();
    folder.write(
        "score.sh",
        "while read -r line; do echo \"${line%%,*}\" | wc -c; done\n",
    );
    folder.write("reward.toml", "[ppo]\nreward = \"command:sh score.sh\"\n");
    folder.write(
        "prompts.jsonl",
        "{\"prompt\": \"a\"}\n{\"prompt\": \"bbb\"}\n{\"prompt\": \"ccccc\"}\n{\"prompt\": \"d\"}\n",
    );
    let ppo = PPO.replace(" --reward length:4", " --config reward.toml") + " --steps 4";
    let line = format!("{ppo} --set ppo.keep_going=false --advantage");
    let compared = format!("{line} grpo --samples-per-prompt 2");
    let output = folder.command(&compared).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("PPO step 3: 3 steps in a row have had nothing to learn from")
            && said.contains("the responses to each of the 2 prompts have one and the same score"),
        "{said}"
    );
    folder.done(&format!("{line} reinforce++"));
}

/// With one update a step, which meets the policy that sampled, the penalty in the loss is the mean over tokens of the k3 that is recorded
/// per episode; the reward is the score alone.
#[test]
fn a_kl_penalty_in_the_loss_is_recorded_there_and_not_in_the_reward() {
    let folder = folder();
    let flags = "--lr 1e-2 --set ppo.minibatches=1 --set ppo.kl_in=loss";
    let said = folder.refused(&format!("{PPO} {flags}"));
    assert!(said.contains("ppo.kl_estimator"), "{said}");
    let steps = steps(&folder, &format!("{flags} --set ppo.kl_estimator=k3"));
    let number = |step: usize, name: &str| steps[step][name].as_f64().unwrap();
    for step in 0..3 {
        let want = number(step, "objective/kl_k3") / number(step, "response/length");
        // f32 keeps a k3 to 1e-7.
        assert!((number(step, "loss/kl_avg") - want).abs() < 1e-6);
        assert_eq!(number(step, "objective/non_score_reward"), 0.0);
        assert_eq!(
            number(step, "objective/rlhf_reward"),
            number(step, "objective/scores")
        );
    }
    assert!(number(2, "loss/kl_avg") > 1e-4);
}

/// Sampling from less than the whole distribution would make π_old another policy than the one that sampled.
#[test]
fn a_truncated_distribution_cannot_be_asked_for() {
    let folder = folder();
    for setting in ["top_k=5", "top_p=0.9"] {
        let said = folder.refused(&format!("{PPO} --set ppo.{setting}"));
        assert!(said.contains("top_"), "{said}");
    }
}
