use serde_json::json;

use super::super::models::Models;
use super::*;

fn run(rows: &[Value], events: &[Value]) -> Run {
    let object = |value: &Value| value.as_object().cloned();
    Run {
        name: "runs/x".into(),
        metrics: rows.iter().filter_map(object).collect(),
        history: events.iter().filter_map(object).collect(),
        finished: events.is_empty(),
        ..Run::default()
    }
}

fn said(run: &Run) -> String {
    of_run(run, &Facts::of(run, "")).sentences.join(" ")
}

fn evaluated(step: u64, score: f64, wins: f64) -> Value {
    json!({
        "step": step, "eval/score": score, "eval/score_low": score - 0.1, "eval/score_high": score + 0.1, "eval/reference_score": 0.5,
        "eval/kl": step as f64, "eval/win_rate": wins, "eval/win_rate_low": wins - 0.1, "eval/win_rate_high": wins + 0.1,
        "eval/prompts": 64
    })
}

#[test]
fn a_policy_rises_falls_or_does_not_move_beyond_its_interval() {
    let rising = run(&[evaluated(0, 0.5, 0.5), evaluated(2, 0.9, 0.8)], &[]);
    assert_eq!(
        said(&rising),
        "On 64 held-out prompts the score rose from 0.500 to 0.900 [0.800, 1.000], at a KL of 2.00 nats a response from the model it started \
         from. Its answers score above that model's on 80.0 % [70.0, 90.0] of them."
    );
    assert!(
        said(&run(&[evaluated(2, 0.3, 0.2)], &[])).contains("the score fell from 0.500 to 0.300")
    );
    let still = said(&run(&[evaluated(2, 0.55, 0.55)], &[]));
    assert!(
        still.contains("did not move beyond its interval, from 0.500 to 0.550"),
        "{still}"
    );
    assert!(still.contains("cannot be told from an even split"));
    let start = said(&run(&[evaluated(0, 0.5, 0.5)], &[]));
    assert!(start.contains("Before training, the score on 64 held-out prompts is 0.500; what was held out has not been measured since"), "{start}");
}

#[test]
fn the_verdict_is_about_the_policy_that_was_published() {
    let result = json!({"event": "finished", "result": {"published": 2, "stopped_by_kl": true}});
    let run = run(&[evaluated(2, 0.9, 0.8), evaluated(4, 0.2, 0.1)], &[result]);
    let said = said(&run);
    assert!(said.contains("rose from 0.500 to 0.900"), "{said}");
    assert!(
        said.contains("stopped after step 4")
            && said.contains("policy of step 2 of 4 was published"),
        "{said}"
    );
}

#[test]
fn a_run_that_did_not_end_well_says_so_last() {
    let started = json!({"event": "started", "steps": 9});
    let cut = run(
        &[evaluated(2, 0.9, 0.8)],
        &[started.clone(), json!({"event": "interrupted", "step": 2})],
    );
    assert!(
        said(&cut)
            .ends_with("It was interrupted after step 2 of 9, and can be resumed from there.")
    );
    let failed = run(
        &[],
        &[started, json!({"event": "failed", "error": "no <room>"})],
    );
    assert_eq!(
        said(&failed),
        "No numbers have been recorded yet. It stopped after step 0 of 9 with an error: no <room>"
    );
}

#[test]
fn a_judge_is_compared_with_guessing_with_length_and_with_its_start() {
    let row = |step: u64, accuracy: f64| {
        json!({"step": step, "eval/accuracy": accuracy, "eval/accuracy_low": accuracy - 0.1, "eval/accuracy_high": accuracy + 0.1,
               "eval/comparisons": 40.0, "eval/longer_wins": 0.25})
    };
    assert_eq!(
        said(&run(&[row(0, 0.5), row(5, 0.8)], &[])),
        "It agrees with the annotators on 80.0 % [70.0, 90.0] of 40 held-out comparisons, and on 50.0 % before training. The rule \"the longer \
         answer wins\" agrees on 25.0 % of them."
    );
    assert!(said(&run(&[row(5, 0.55)], &[])).contains("cannot be told from guessing"));
    let mut implicit = row(5, 0.8);
    implicit["rewards/margins"] = json!(0.25);
    let verdict = of_run(&run(&[implicit], &[]), &Facts::default());
    assert!(verdict.sentences[0].starts_with("Its implicit reward agrees"));
    assert!(
        verdict
            .tiles
            .iter()
            .any(|tile| tile.name == "margin" && tile.value == "0.250")
    );
}

#[test]
fn a_loss_fell_or_has_not_or_was_not_measured_before() {
    let row = |step: u64, loss: f64| json!({"step": step, "eval/loss": loss});
    assert_eq!(
        said(&run(&[row(0, 2.0), row(5, 1.5)], &[])),
        "The held-out loss fell from 2.000 to 1.500."
    );
    assert!(
        said(&run(&[row(0, 2.0), row(5, 2.5)], &[]))
            .contains("has not fallen: it went from 2.000 to 2.500")
    );
    assert!(said(&run(&[row(5, 2.5)], &[])).contains("not measured before training"));
    let nothing_held_out = run(
        &[
            json!({"step": 1, "loss": 3.0}),
            json!({"step": 2, "loss": 2.0}),
        ],
        &[],
    );
    assert!(
        said(&nothing_held_out).contains(
            "In 2 steps, the training loss went from 3.000 to 2.000. Nothing was measured"
        )
    );
    let rollouts = run(&[json!({"step": 1, "objective/scores": 0.1})], &[]);
    assert!(
        said(&rollouts)
            .contains("In its one step so far, the mean score of the sampled responses was 0.100")
    );
}

fn models(gold: [f64; 2], reward: f64, path: Value) -> Models {
    let around = |x: f64| [x - 0.05, x + 0.05];
    Models::of(&json!({
        "models": [
            {"name": "sft", "gold": gold[0], "gold_ci": around(gold[0]), "reward": 0.0, "kl": 0.0},
            {"name": "ppo", "gold": gold[1], "gold_ci": around(gold[1]), "reward": reward, "kl": 2.0, "win_rate": 0.75, "win_rate_ci": [0.7, 0.8]}
        ],
        "reference": "sft", "prompts": 90, "paths": [["ppo", path]]
    }))
}

#[test]
fn a_pipeline_tells_gold_reward_kl_and_wins() {
    let verdict = of_pipeline(&models([0.5, 0.75], 1.5, json!([])), &[]);
    assert_eq!(
        verdict.sentences,
        [
            "Against sft on 90 held-out prompts, ppo raised the gold score from 0.500 to 0.750 [0.700, 0.800] and raised the learned reward from \
          0.000 to 1.500, at a KL of 2.00 nats a response. It wins 75.0 % [70.0, 80.0] of them."
        ]
    );
    let names: Vec<_> = verdict.tiles.iter().map(|tile| tile.name).collect();
    assert_eq!(names, ["gold score", "learned reward", "KL", "wins"]);
    assert_eq!(verdict.tiles[0].value, "0.500 → 0.750");
    let still = of_pipeline(&models([0.5, 0.53], 1.5, json!([])), &[]).sentences;
    assert!(
        still[0].contains(
            "left the gold score where its interval is, 0.500 before and 0.530 [0.480, 0.580] now"
        ),
        "{still:?}"
    );
}

#[test]
fn over_optimisation_is_told_only_where_the_intervals_show_it() {
    let fooled = of_pipeline(&models([0.5, 0.3], 1.5, json!([])), &[]).sentences;
    assert!(fooled[1].contains("ppo is over-optimised"), "{fooled:?}");
    // A gold score that falls together with the learned reward is no over-optimisation.
    let worse = of_pipeline(&models([0.5, 0.3], -1.5, json!([])), &[]).sentences;
    assert_eq!(worse.len(), 1, "{worse:?}");
    let point = |step: u64, gold: f64| json!({"step": step, "kl": 1.0, "gold": gold, "gold_ci": [gold - 0.05, gold + 0.05]});
    let far = of_pipeline(
        &models([0.5, 0.6], 1.5, json!([point(4, 0.9), point(8, 0.6)])),
        &[],
    )
    .sentences;
    assert!(
        far[1].contains("went too far")
            && far[1].contains("highest after step 4, 0.900 at a KL of 1.00"),
        "{far:?}"
    );
    // A peak within the interval of the end may be chance.
    let near = of_pipeline(&models([0.5, 0.6], 1.5, json!([point(4, 0.62)])), &[]).sentences;
    assert_eq!(near.len(), 1, "{near:?}");
}

#[test]
fn what_cannot_be_known_is_not_claimed() {
    let unjudged = Models::of(&json!({
        "models": [{"name": "sft", "reward": 0.0, "kl": 0.0}, {"name": "ppo", "reward": 1.0, "kl": 2.0}], "reference": "sft"
    }));
    let said = of_pipeline(&unjudged, &[]).sentences;
    assert!(
        said[0].contains("raised the learned reward")
            && said[1].contains("whether people would agree is not known"),
        "{said:?}"
    );
    let run = run(&[], &[json!({"event": "started", "steps": 9})]);
    let waiting = of_pipeline(&Models::default(), &[(&run, Facts::of(&run, ""))]).sentences;
    assert!(
        waiting[0].contains("have not been compared yet. x: It ended after step 0 of 9"),
        "{waiting:?}"
    );
    assert!(of_pipeline(&Models::default(), &[]).sentences[0].contains("not been compared yet"));
}

/// An interrupted run knows only how it began.
#[test]
fn what_was_measured_before_training_is_not_taken_for_a_result() {
    let step = json!({"step": 1, "loss": 1.5});
    let loss = run(&[json!({"step": 0, "eval/loss": 2.0}), step.clone()], &[]);
    assert_eq!(
        said(&loss),
        "Before training, the held-out loss is 2.000; what was held out has not been measured since. In its one step so far, the training loss was \
         1.500."
    );
    let judge = run(
        &[
            json!({"step": 0, "eval/accuracy": 0.5, "eval/longer_wins": 0.4}),
            step,
        ],
        &[],
    );
    assert!(said(&judge).starts_with(
        "Before training, it agrees with the annotators on 50.0 %; what was held out"
    ));
    assert!(of_run(&judge, &Facts::default()).tiles.is_empty());
}
