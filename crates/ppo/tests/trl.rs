//! Against TRL: its own statements on fixed numbers, and ours under `ppo.compat = "trl"`.
//!
//! Oracle: tests/fixtures/trl_ppo.json, made by scripts/oracle/trl_ppo.py with TRL 0.24.

#![allow(clippy::unwrap_used)] // in tests a panic is the report

#[path = "../../../tests/portable.rs"]
mod portable;

use candle_core::{Device, Tensor, Var};
use rlhf_ppo::{
    Compat, Config, Conventions, KlEstimator, gae, is_clipped, policy_loss, rewards_over,
    shape_score, value_loss, value_sums, whiten, whiten_keeping_mean,
};
use serde_json::Value;

/// Ours in f32 on numbers of three decimals, theirs in f64.
const TOLERANCE: f64 = 1e-5;

fn cases() -> Vec<Value> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/trl_ppo.json"
    );
    let fixture: Value = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    fixture["cases"].as_array().unwrap().clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    let all = value.as_array().unwrap();
    all.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(numbers).collect()
}

/// The first entries of each row: as many as the response has tokens, or slots.
fn cut(rows: &[Vec<f64>], lengths: &[usize]) -> Vec<Vec<f32>> {
    let row = |(row, &n): (&Vec<f64>, &usize)| row[..n].iter().map(|x| *x as f32).collect();
    rows.iter().zip(lengths).map(row).collect()
}

/// That each of our rows is the beginning of theirs, and the rest of theirs is zero.
fn assert_rows(name: &str, ours: &[Vec<f64>], theirs: &Value) {
    for (i, (ours, theirs)) in ours.iter().zip(matrix(theirs)).enumerate() {
        for (t, their) in theirs.iter().enumerate() {
            let our = ours.get(t).copied().unwrap_or(0.0);
            assert!(
                (our - their).abs() < TOLERANCE,
                "{name}[{i}][{t}]: {our} against {their}"
            );
        }
    }
}

fn assert_number(name: &str, ours: f64, theirs: &Value) {
    let theirs = theirs.as_f64().unwrap();
    assert!(
        (ours - theirs).abs() < TOLERANCE,
        "{name}: {ours} against {theirs}"
    );
}

fn var(rows: &[Vec<f32>]) -> Var {
    Var::from_tensor(&Tensor::new(rows.concat(), &Device::Cpu).unwrap()).unwrap()
}

fn flat<T: Copy + Into<f64>>(rows: &[Vec<T>]) -> Tensor {
    let flat: Vec<f32> = rows.iter().flatten().map(|x| (*x).into() as f32).collect();
    Tensor::new(flat, &Device::Cpu).unwrap()
}

/// A flat gradient as rows again.
fn rows(gradient: &Tensor, lengths: &[usize]) -> Vec<Vec<f64>> {
    let flat = gradient.to_vec1::<f32>().unwrap();
    let mut rest = flat.into_iter().map(f64::from);
    lengths
        .iter()
        .map(|&n| rest.by_ref().take(n).collect())
        .collect()
}

fn check(case: &Value, conventions: &Conventions) {
    let (settings, inputs, outputs) = (&case["settings"], &case["inputs"], &case["outputs"]);
    let setting = |name: &str| settings[name].as_f64().unwrap();
    let matrix_of = |name: &str| matrix(&inputs[name]);
    let tokens: Vec<usize> = numbers(&inputs["tokens"])
        .iter()
        .map(|n| *n as usize)
        .collect();
    let longest = matrix_of("logprobs")[0].len();
    let slots: Vec<usize> = tokens
        .iter()
        .map(|&n| conventions.score_slot.slots(n, longest))
        .collect();
    let estimator = match settings["kl_estimator"].as_str().unwrap() {
        "k1" => KlEstimator::K1,
        _ => KlEstimator::K3,
    };

    let scores: Vec<f64> = numbers(&inputs["scores"])
        .iter()
        .zip(inputs["ended"].as_array().unwrap())
        .map(|(score, ended)| {
            shape_score(
                *score,
                ended.as_bool().unwrap(),
                None,
                conventions.missing_eos,
            )
        })
        .collect();
    assert_rows(
        "scores",
        std::slice::from_ref(&scores),
        &serde_json::json!([outputs["scores"]]),
    );

    let logprobs = cut(&matrix_of("logprobs"), &tokens);
    let ref_logprobs = cut(&matrix_of("ref_logprobs"), &tokens);
    let values = cut(&matrix_of("values"), &slots);
    let kl: Vec<Vec<f64>> = logprobs
        .iter()
        .zip(&ref_logprobs)
        .map(|(p, r)| {
            p.iter()
                .zip(r)
                .map(|(p, r)| estimator.estimate(*p, *r))
                .collect()
        })
        .collect();
    assert_rows("kl", &kl, &outputs["kl"]);
    let mut rewards: Vec<Vec<f64>> = (0..tokens.len())
        .map(|i| {
            rewards_over(
                slots[i],
                &logprobs[i],
                &ref_logprobs[i],
                scores[i],
                setting("kl_coef"),
                estimator,
            )
        })
        .collect();
    if settings["whiten_rewards"].as_bool().unwrap() {
        whiten_keeping_mean(&mut rewards, conventions.variance);
    }
    assert_rows("rewards", &rewards, &outputs["rewards"]);

    let (mut advantages, returns): (Vec<_>, Vec<_>) = rewards
        .iter()
        .zip(&values)
        .map(|(r, v)| gae(r, v, setting("gamma"), setting("lam")))
        .unzip();
    assert_rows("returns", &returns, &outputs["returns"]);
    assert_rows(
        "advantages before whitening",
        &advantages,
        &outputs["advantages_before_whitening"],
    );
    advantages
        .iter_mut()
        .zip(&tokens)
        .for_each(|(a, &n)| a.truncate(n));
    whiten(&mut advantages, conventions.variance);
    assert_rows("advantages", &advantages, &outputs["advantages"]);

    let new_logprobs = cut(&matrix_of("new_logprobs"), &tokens);
    let (now, new_values) = (
        var(&new_logprobs),
        var(&cut(&matrix_of("new_values"), &slots)),
    );
    let losses = policy_loss(
        &now,
        &flat(&logprobs),
        &flat(&advantages),
        setting("cliprange"),
    )
    .unwrap();
    let policy = losses.mean_all().unwrap();
    let errors = value_loss(
        &new_values,
        &flat(&values),
        &flat(&returns),
        setting("cliprange_value"),
    )
    .unwrap();
    let value = errors.mean_all().unwrap();
    let loss = (&policy + (&value * setting("vf_coef")).unwrap()).unwrap();
    let number = |x: &Tensor| f64::from(x.to_scalar::<f32>().unwrap());
    assert_number("policy loss", number(&policy), &outputs["policy_loss"]);
    assert_number("value loss", number(&value), &outputs["value_loss"]);
    assert_number("loss", number(&loss), &outputs["loss"]);

    let clipped = new_logprobs
        .concat()
        .iter()
        .zip(logprobs.concat())
        .zip(advantages.concat())
        .filter(|((new, old), a)| {
            is_clipped(f64::from(**new - old).exp(), *a, setting("cliprange"))
        })
        .count();
    let share = clipped as f64 / tokens.iter().sum::<usize>() as f64;
    assert_number("clip fraction", share, &outputs["policy_clipfrac"]);
    let sums = value_sums(
        &new_values,
        &flat(&values),
        &flat(&returns),
        &errors,
        setting("cliprange_value"),
    );
    let clipped = sums.unwrap().to_vec1::<f32>().unwrap()[1];
    let share = f64::from(clipped) / slots.iter().sum::<usize>() as f64;
    assert_number("value clip fraction", share, &outputs["value_clipfrac"]);

    let gradients = loss.backward().unwrap();
    let gradient = |of: &Var, lengths: &[usize]| rows(gradients.get(of).unwrap(), lengths);
    assert_rows(
        "∂loss/∂logprob",
        &gradient(&now, &tokens),
        &outputs["grad_new_logprobs"],
    );
    assert_rows(
        "∂loss/∂value",
        &gradient(&new_values, &slots),
        &outputs["grad_new_values"],
    );
}

#[test]
fn rewards_advantages_losses_and_gradients_are_those_of_trl() {
    let config = Config {
        compat: Some(Compat::Trl),
        ..Config::default()
    };
    let cases = cases();
    assert_eq!(cases.len(), 2);
    for case in &cases {
        check(case, &config.conventions());
    }
}

/// The same numbers by our own conventions are others: the switch does something.
#[test]
#[should_panic(expected = "against")]
fn without_the_switch_they_are_not() {
    check(&cases()[0], &Config::default().conventions());
}
