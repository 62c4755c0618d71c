//! Against TRL 1.16: losses, metrics and gradients of its DPO and KTO trainers on a fixed batch.
//!
//! Oracle: tests/fixtures/trl_dpo.json, made by scripts/oracle/trl_dpo.py.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rlhf_base::Text;
use rlhf_lm::{CausalLm, Gradients, Params, read_lm};
use rlhf_train::Comm;
use rlhf_train::feedback::{Item, Judgement};
use serde_json::Value;

use crate::batch::{Batch, response_logprobs};
use crate::config::Config;
use crate::judged::Judged;
use crate::loss::Loss;
use crate::metrics;
use crate::objective::{feedback_loss, reference_point, share};

/// Both in f32, theirs padded and without shared prompts.
const TOLERANCE: f64 = 1e-5;

fn tokens(row: &Value, name: &str) -> Vec<u32> {
    let ids = row[name].as_array().unwrap();
    ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn numbers(rows: &Value) -> Vec<f32> {
    let rows = rows.as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap())
        .map(|x| x.as_f64().unwrap() as f32)
        .collect()
}

fn close(what: &str, ours: f64, theirs: f64, scale: f64) {
    assert!(
        (ours - theirs).abs() < TOLERANCE * scale.max(1.0),
        "{what}: {ours} against {theirs}"
    );
}

/// Each number of the gradient and its place have a part in this.
fn fingerprint(gradient: &Tensor) -> [f64; 2] {
    let flat = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let norm = flat.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
    let spread = flat.iter().enumerate();
    let spread = spread.map(|(i, g)| f64::from(*g) * (i as f64).cos()).sum();
    [norm.sqrt(), spread]
}

#[test]
fn losses_metrics_and_gradients_are_those_of_trl() {
    let fixture: Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/trl_dpo.json")).unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/hf/llama3-tied");
    let (model, tensors) = read_lm(&dir).unwrap();
    let params = Params::load(&tensors, &Device::Cpu, DType::F32).unwrap();
    let policy = CausalLm::new(&model, &params).unwrap();
    let rows = fixture["rows"].as_array().unwrap();
    let item = |row: &Value| Item {
        prompt: tokens(row, "prompt"),
        responses: vec![tokens(row, "chosen"), tokens(row, "rejected")],
        judgement: Judgement::Ranks {
            ranks: vec![1.0, 2.0],
            margin: 0.0,
            preference: 1.0,
        },
        source: None,
        whole: true,
        texts: (Text::from("p"), Vec::new()),
    };
    let items: Vec<Item> = rows.iter().map(item).collect();
    let batch: Vec<&Item> = items.iter().collect();

    for case in fixture["cases"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64();
        let config = Config {
            loss: serde_json::from_value(case["loss"].clone()).unwrap(),
            beta: number("beta").unwrap(),
            // TRL's IPO takes means over tokens of what the reference and the policy say; its metrics stay sums.
            normalise: case["loss"] == "ipo",
            desirable_weight: number("desirable").unwrap_or(1.0),
            undesirable_weight: number("undesirable").unwrap_or(1.0),
            ..Config::default()
        };
        let mut reference = numbers(&case["ref"]);
        let sums = reference.clone();
        if config.normalise {
            let lengths = items.iter().flat_map(|item| &item.responses).map(Vec::len);
            reference
                .iter_mut()
                .zip(lengths)
                .for_each(|(r, n)| *r /= n as f32);
        }
        let judged = Judged::to_train_on(items.clone(), config.loss, 64).unwrap();
        let others =
            response_logprobs(&policy, &judged.mismatched, false, 64, &Comm::single()).unwrap();
        let others: Vec<f32> = others
            .iter()
            .zip(numbers(&case["ref_mismatched"]))
            .map(|(p, r)| p - r)
            .collect();
        let z0 = reference_point(&others);

        let packed = Batch::pack(&batch, &Device::Cpu).unwrap();
        let now = packed.logprobs(&policy, config.normalise).unwrap();
        let ratios = (&now - Tensor::new(reference, &Device::Cpu).unwrap()).unwrap();
        let share = share(&config, &batch);
        let loss = feedback_loss(&config, &ratios, &batch, share, z0).unwrap();
        let name = format!("{} β {}", config.loss.name(), config.beta);
        let value = f64::from(loss.to_scalar::<f32>().unwrap());
        close(&name, value, number("value").unwrap(), value);

        let summed = packed.logprobs(&policy, false).unwrap();
        let summed = summed.to_vec1::<f32>().unwrap();
        let ratios: Vec<f32> = summed.iter().zip(&sums).map(|(p, r)| p - r).collect();
        let mut line = metrics::of_step(&config, &batch, &ratios, &summed);
        if config.loss == Loss::Kto {
            line.insert("kl".to_owned(), z0.into());
        }
        let theirs = case["metrics"].as_object().unwrap();
        assert_eq!(theirs.len(), line.len(), "{line:?}");
        for (metric, theirs) in theirs {
            let (ours, theirs) = (line[metric].as_f64().unwrap(), theirs.as_f64().unwrap());
            close(&format!("{name} {metric}"), ours, theirs, theirs.abs());
        }

        let mut gradients = Gradients::new();
        gradients.accumulate(&params, &loss).unwrap();
        let theirs = case["gradients"].as_object().unwrap();
        assert_eq!(theirs.len(), params.names().count());
        for (parameter, theirs) in theirs {
            let ours = fingerprint(gradients.get(parameter).unwrap());
            let theirs = [0, 1].map(|i| theirs[i].as_f64().unwrap());
            for (ours, theirs_) in ours.into_iter().zip(theirs) {
                close(&format!("{name} ∂{parameter}"), ours, theirs_, theirs[0]);
            }
        }
    }
}
