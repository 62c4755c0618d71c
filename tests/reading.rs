//! Commands that read and print: generate, score, eval, data, mdp.

use serde_json::Value;

use crate::folder::Folder;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn responses_do_not_depend_on_how_many_are_sampled_side_by_side() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.prompts("prompts.jsonl");
    let line =
        "generate --model base --prompts prompts.jsonl --samples 3 --max-new-tokens 8 --quiet";
    let one = folder.done(&format!("{line} --batch 1"));
    assert_eq!(one, folder.done(&format!("{line} --batch 64")));
    let rows = lines(&one);
    assert_eq!(rows.len(), 24);
    assert!(
        rows.iter()
            .all(|row| row["response"].is_string() && row["finished"].is_boolean())
    );
}

#[test]
fn scores_of_a_language_model_are_one_per_predicted_token_and_make_its_perplexity() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.write(
        "texts.jsonl",
        "{\"text\": \"the fox is red.\"}\n{\"text\": \"red. blue. green.\"}\n",
    );
    let rows = lines(&folder.done("score --model base --data texts.jsonl --quiet"));
    assert_eq!(rows.len(), 2);
    for (i, row) in rows.iter().enumerate() {
        let logprobs: Vec<f64> = row["logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_f64)
            .collect();
        assert_eq!(row["index"], i);
        assert_eq!(logprobs.len() + 1, row["tokens"].as_array().unwrap().len());
        assert_eq!(logprobs.len(), row["entropy"].as_array().unwrap().len());
        let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
        assert!((row["perplexity"].as_f64().unwrap() - (-mean).exp()).abs() < 1e-9);
        assert!(logprobs.iter().all(|p| *p <= 0.0));
    }
}

#[test]
fn a_reward_model_scores_each_answer_of_a_pair_and_eval_counts_the_same_wins() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.pairs("prefs.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    let rows = lines(&folder.done("score --model runs/reward --data prefs.jsonl --quiet"));
    assert_eq!(rows.len(), 24);
    let right = rows
        .chunks(2)
        .inspect(|pair| {
            assert_eq!(
                (&pair[0]["answer"], &pair[1]["answer"]),
                (&"chosen".into(), &"rejected".into())
            )
        })
        .filter(|pair| pair[0]["score"].as_f64() > pair[1]["score"].as_f64())
        .count();
    let report: Value = serde_json::from_str(
        &folder.done("eval --reward runs/reward --data prefs.jsonl --json --quiet"),
    )
    .unwrap();
    assert!((report["accuracy"]["value"].as_f64().unwrap() - right as f64 / 12.0).abs() < 1e-12);
}

/// Three sampled responses of a run, checked against what PPO defines: the KL, the reward's sum, a ratio above 0.
#[test]
fn explain_shows_a_rollout_whose_columns_keep_ppos_identities() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder.done("reward --model base --prefs prefs.jsonl --quiet");
    folder.done("ppo --model base --prompts prompts.jsonl --lr 1e-2 --quiet --set ppo.log_samples=2 --set ppo.epochs=3");
    let line = "explain runs/ppo --step 2 --episode 1";
    let json: Value = serde_json::from_str(&folder.done(&format!("{line} --json"))).unwrap();
    let tokens = json["tokens"].as_array().unwrap();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
    let sum = |key: &str| tokens.iter().map(|t| number(t, key)).sum::<f64>();
    for token in tokens {
        let kl = number(token, "logprob") - number(token, "ref_logprob");
        assert!((number(token, "kl") - kl).abs() < 1e-9);
        assert!(number(token, "ratio") > 0.0);
    }
    // k1, the default: Σ r = S − β Σ KL, in f64 from f32 log-probabilities.
    let expected = number(&json, "score") - number(&json, "kl_coef") * sum("kl");
    assert!((sum("reward") - expected).abs() < 1e-6, "{json}");
    assert!(
        tokens.iter().any(|t| number(t, "ratio") != 1.0),
        "the updates moved nothing"
    );
    let text = folder.done(line);
    assert!(
        text.contains("advantage") && !text.contains('\x1b'),
        "{text}"
    );

    assert!(folder.refused("explain runs/nowhere").contains("rlhf ppo"));
    assert!(
        folder
            .refused("explain runs/reward")
            .contains("log_samples")
    );
    assert!(
        folder
            .refused("explain runs/ppo --step 9")
            .contains("steps 1 to 3")
    );
}

#[test]
fn data_says_what_a_file_holds() {
    let folder = Folder::empty();
    folder.pairs("prefs.jsonl");
    let text = folder.done("data prefs.jsonl --show 1");
    assert!(
        text.contains("pair") && text.contains("12") && text.contains("[chosen]"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&folder.done("data prefs.jsonl --json")).unwrap();
    assert_eq!(json["summary"]["rows"], 12);
}

/// Sutton & Barto, Example 4.1, top row.
#[test]
fn mdp_prints_the_values_of_the_textbook() {
    let folder = Folder::empty();
    let json: Value =
        serde_json::from_str(&folder.done("mdp small-grid --method evaluate --json")).unwrap();
    let values: Vec<f64> = json["values"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_f64)
        .collect();
    for (found, expected) in values.iter().zip([0.0, -14.0, -20.0, -22.0]) {
        assert!((found - expected).abs() < 1e-9, "{values:?}");
    }
}

#[test]
fn with_a_model_rows_are_shown_in_its_tokens() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let text = folder.done("data demos.jsonl --model base");
    assert!(
        text.contains("tokens, answer") && text.contains("<|endoftext|>"),
        "{text}"
    );
    assert!(!folder.done("data demos.jsonl").contains("<|endoftext|>"));
    let json: Value =
        serde_json::from_str(&folder.done("data demos.jsonl --model base --json")).unwrap();
    // A scorer's line has one log-probability for every token but the first of prompt and completion together.
    let scored = folder.done("score --model base --data demos.jsonl --quiet");
    let lengths = scored.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["logprobs"].as_array().unwrap().len() + 1
    });
    let lengths: Vec<usize> = lengths.collect();
    let mean = lengths.iter().sum::<usize>() as f64 / lengths.len() as f64;
    let tokens = &json["tokens"];
    let told =
        tokens["prompt"]["mean"].as_f64().unwrap() + tokens["answer"]["mean"].as_f64().unwrap();
    assert!((told - mean).abs() < 1e-9, "{told} and {mean}");
    assert!(
        folder
            .refused("data demos.jsonl --model runs/nowhere")
            .contains("runs/nowhere")
    );
}
