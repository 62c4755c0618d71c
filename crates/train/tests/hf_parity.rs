//! Every model family computes what `transformers` computes: logits, loss, every gradient, ten AdamW steps.
//!
//! Oracle: tests/fixtures/hf and hf-reward, made by scripts/oracle/hf_parity.py, which runs each sequence alone through PyTorch. Here
//! they go through packed together, so packing is under test as well. With `--nocapture` every comparison prints how far apart the two were, which
//! `scripts/parity` makes a table of.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[path = "../../../tests/portable.rs"]
mod portable;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{CausalLm, Gradients, ModelConfig, Packed, Packer, Params, ScalarModel};
use rlhf_ops::Recording;
use rlhf_train::{AdamW, AdamWConfig, Schedule, ScheduleKind};

/// f32 keeps seven digits; two blocks of sums and exponentials lose one of them, so this leaves room for another.
const VALUES: f64 = 1e-5;
/// Of a gradient's norm: a backward pass adds as many sums again, with cancellation between tokens.
const GRADIENTS: f64 = 1e-4;
/// Of the loss along a trajectory: every step starts from the rounding of the last.
const TRAJECTORY: f64 = 1e-4;
/// Of the loss along a trajectory in bf16 (8 bits, 0.4 %) or f16: ten steps of weights and activations rounded so, sums in f32.
const HALF_PRECISION: f64 = 0.02;

fn cases(kind: &str) -> Vec<PathBuf> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let mut cases: Vec<_> = fs_err::read_dir(fixtures.join(kind))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no fixtures in {kind}");
    cases
}

/// Runs `check` on every case, and reports all complaints together.
fn for_every_case(kind: &str, check: impl Fn(&Path, &Expected) -> Vec<String>) {
    let mut complaints = Vec::new();
    for dir in cases(kind) {
        let name = dir.file_name().unwrap().to_string_lossy();
        let found = check(&dir, &Expected::read(&dir));
        complaints.extend(found.iter().map(|c| format!("{name}: {c}")));
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// What PyTorch computed for one case.
struct Expected {
    tensors: HashMap<String, Tensor>,
    made_by: serde_json::Value,
    /// The rows of each sequence in the stream.
    sequences: Vec<Range<usize>>,
}

impl Expected {
    fn read(dir: &Path) -> Self {
        let file = dir.join("expected.safetensors");
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let bytes = fs_err::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let made_by = header["__metadata__"]["made_by"].as_str().unwrap();
        let mut start = 0;
        let sequences = tensors["lengths"]
            .to_vec1::<u32>()
            .unwrap()
            .into_iter()
            .map(|n| {
                let rows = start..start + n as usize;
                start = rows.end;
                rows
            });
        Self {
            made_by: serde_json::from_str(made_by).unwrap(),
            sequences: sequences.collect(),
            tensors,
        }
    }

    fn setting(&self, name: &str) -> f64 {
        self.made_by[name].as_f64().unwrap()
    }

    fn values(&self, name: &str) -> Vec<f32> {
        values(&self.tensors[name])
    }

    fn ids(&self) -> Vec<u32> {
        self.tensors["ids"].to_vec1().unwrap()
    }

    /// All sequences end to end in one batch.
    fn packed(&self) -> Packed {
        let ids = self.ids();
        let mut packer = Packer::new();
        for rows in &self.sequences {
            assert_eq!(packer.sequence(&ids[rows.clone()]), *rows);
        }
        packer.finish(&Device::Cpu).unwrap()
    }

    /// −mean log p(next token), over every next token of every sequence.
    fn loss(&self, model: &CausalLm) -> Tensor {
        let ids = self.ids();
        let predicting: Vec<u32> = self
            .sequences
            .iter()
            .flat_map(|rows| rows.start as u32..rows.end as u32 - 1)
            .collect();
        let next: Vec<u32> = predicting
            .iter()
            .map(|&row| ids[row as usize + 1])
            .collect();
        let rows = Tensor::new(predicting, &Device::Cpu).unwrap();
        let next = Tensor::new(next, &Device::Cpu).unwrap();
        let hidden = model
            .hidden(&self.packed())
            .unwrap()
            .index_select(&rows, 0)
            .unwrap();
        let logprobs = model.logprobs(&hidden, &next, 1.0).unwrap().logprobs;
        logprobs.mean_all().unwrap().neg().unwrap()
    }
}

fn language_model(dir: &Path, dtype: DType) -> (CausalLm, Params) {
    let (config, tensors) = rlhf_lm::read_lm(dir).unwrap();
    let params = Params::load(&tensors, &Device::Cpu, dtype).unwrap();
    (CausalLm::new(&config, &params).unwrap(), params)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Prints for `scripts/parity` how far `what` of a case is from what `transformers` computed.
#[allow(clippy::print_stdout)] // only shown with --nocapture
fn measured(dir: &Path, what: &str, error: f64) {
    let case = dir.file_name().unwrap().to_string_lossy();
    println!("parity\t{case}\t{what}\t{error:e}");
}

/// max |ours − expected| / max |expected|.
fn distance(ours: &[f32], expected: &[f32]) -> f64 {
    let largest = expected
        .iter()
        .fold(0f64, |max, x| max.max(f64::from(x.abs())));
    let each = ours.iter().zip(expected);
    let each = each.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    each.fold(0.0, f64::max) / largest
}

/// A complaint when max |ours − expected| exceeds `tolerance` · max |expected|.
fn differ(what: &str, ours: &[f32], expected: &[f32], tolerance: f64) -> Option<String> {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let largest = expected
        .iter()
        .fold(0f64, |max, x| max.max(f64::from(x.abs())));
    let error = ours
        .iter()
        .zip(expected)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0f64, |max, e| {
            if e.is_nan() {
                f64::INFINITY
            } else {
                max.max(e)
            }
        });
    (error > tolerance * largest)
        .then(|| format!("{what} differ by {:.1e} of {largest:.3}", error / largest))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn logits_and_loss_equal_those_of_transformers() {
    for_every_case("hf", |dir, expected| {
        let (model, _) = language_model(dir, DType::F32);
        let logits = model
            .logits(&model.hidden(&expected.packed()).unwrap())
            .unwrap();
        let loss = expected.loss(&model);
        let apart = distance(&values(&logits), &expected.values("logits"));
        measured(dir, "logits", apart);
        [
            differ(
                "logits",
                &values(&logits),
                &expected.values("logits"),
                VALUES,
            ),
            differ("loss", &values(&loss), &expected.values("loss"), VALUES),
        ]
        .into_iter()
        .flatten()
        .collect()
    });
}

#[test]
fn the_gradient_of_every_parameter_equals_that_of_transformers() {
    for_every_case("hf", |dir, expected| {
        let (model, params) = language_model(dir, DType::F32);
        let mut gradients = Gradients::new();
        let _recording = Recording::start();
        gradients
            .accumulate(&params, &expected.loss(&model))
            .unwrap();
        gradients.check_all(&params).unwrap();
        let names = expected
            .tensors
            .keys()
            .filter_map(|key| key.strip_prefix("grad."));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        let learnt = params.trainable().map(|(name, _)| name);
        assert_eq!(learnt.collect::<Vec<_>>(), names);
        let errors = names
            .iter()
            .map(|name| gradient_error("grad", name, &gradients, expected));
        measured(dir, "gradients", errors.fold(0.0, f64::max));
        let wrong = |name: &&str| gradient_differs("grad", name, &gradients, expected);
        names.iter().filter_map(wrong).collect()
    });
}

/// A complaint when the gradient of `name` is far from the one that is stored as `kind`.
fn gradient_differs(
    kind: &str,
    name: &str,
    gradients: &Gradients,
    expected: &Expected,
) -> Option<String> {
    let error = gradient_error(kind, name, gradients, expected);
    (error.is_nan() || error > GRADIENTS)
        .then(|| format!("{kind}: gradient of {name} is off by {error:.1e} of its norm"))
}

/// How far the gradient of `name` is from the one that is stored as `kind`, of that one's norm.
fn gradient_error(kind: &str, name: &str, gradients: &Gradients, expected: &Expected) -> f64 {
    let ours = values(gradients.get(name).unwrap());
    let expected = expected.values(&format!("{kind}.{name}"));
    let pairs = ours.iter().zip(&expected);
    let error = norm(pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    error / norm(expected.iter().map(|x| f64::from(*x)))
}

/// With gradient checkpointing and without: there the loads of experts are results of blocks that are computed twice.
#[test]
fn the_load_balancing_loss_of_a_mixture_of_experts_equals_that_of_transformers() {
    let mixtures = std::cell::Cell::new(0);
    for_every_case("hf", |dir, expected| {
        if !expected.tensors.contains_key("balance") {
            return Vec::new();
        }
        mixtures.set(mixtures.get() + 1);
        let complaints = [false, true].map(|recompute| {
            let (model, params) = language_model(dir, DType::F32);
            let model = model.gradient_checkpointing(recompute);
            let _recording = Recording::start();
            let (_, balance) = model.hidden_balanced(&expected.packed()).unwrap();
            let balance = balance.unwrap();
            let mut gradients = Gradients::new();
            gradients.accumulate(&params, &balance).unwrap();
            let wanted = expected.values("balance");
            let apart = distance(&[balance.to_scalar().unwrap()], &wanted);
            measured(dir, "load balancing", apart);
            let value = differ("balance", &[balance.to_scalar().unwrap()], &wanted, VALUES);
            let names = expected.tensors.keys();
            let names = names.filter_map(|key| key.strip_prefix("balance."));
            let wrong =
                names.filter_map(|name| gradient_differs("balance", name, &gradients, expected));
            value.into_iter().chain(wrong).collect::<Vec<_>>()
        });
        complaints.concat()
    });
    assert_eq!(mixtures.get(), 3);
}

/// Ten steps of AdamW, clipped and scheduled: the loss before each, the norm of its gradient, the learning rate.
fn ten_steps(dir: &Path, expected: &Expected, dtype: DType) -> [Vec<f32>; 3] {
    let (model, params) = language_model(dir, dtype);
    let mut optimizer = AdamW::new(AdamWConfig {
        beta1: expected.setting("beta1"),
        beta2: expected.setting("beta2"),
        eps: expected.setting("eps"),
        weight_decay: expected.setting("weight_decay"),
    });
    let schedule = Schedule {
        kind: ScheduleKind::Linear,
        warmup_steps: expected.setting("warmup") as u64,
        total_steps: expected.setting("steps") as u64,
    };
    let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..schedule.total_steps {
        let _recording = Recording::start();
        let loss = expected.loss(&model);
        let mut gradients = Gradients::new();
        gradients.accumulate(&params, &loss).unwrap();
        let lr = schedule.lr(expected.setting("lr"), step);
        let clip = Some(expected.setting("max_grad_norm"));
        norms.push(optimizer.step(&params, &gradients, lr, clip).unwrap() as f32);
        losses.push(loss.to_scalar::<f32>().unwrap());
        rates.push(lr as f32);
    }
    [losses, norms, rates]
}

/// A complaint at the first step where a number is off by more than `tolerance` of the expected one; later steps follow from it.
fn first_difference(what: &str, ours: &[f32], expected: &[f32], tolerance: f64) -> Option<String> {
    let each = ours.iter().zip(expected).enumerate();
    let mut found = each.filter_map(|(step, (a, b))| {
        differ(&format!("{what} at step {step}"), &[*a], &[*b], tolerance)
    });
    found.next()
}

#[test]
fn ten_adamw_steps_take_the_path_of_pytorch() {
    for_every_case("hf", |dir, expected| {
        let [losses, norms, rates] = ten_steps(dir, expected, DType::F32);
        let each = losses.iter().zip(expected.values("losses"));
        let apart = each.map(|(a, b)| distance(&[*a], &[b]));
        measured(dir, "ten steps", apart.fold(0.0, f64::max));
        let relative = |what, ours: &[f32], key, tolerance| {
            first_difference(what, ours, &expected.values(key), tolerance)
        };
        [
            relative("learning rates", &rates, "lrs", 1e-6), // f64 here and there, stored in f32
            relative("losses", &losses, "losses", TRAJECTORY),
            relative("gradient norms", &norms, "grad_norms", TRAJECTORY),
        ]
        .into_iter()
        .flatten()
        .collect()
    });
}

#[test]
fn ten_steps_in_half_precision_stay_within_two_per_cent_of_pytorch_in_f32() {
    for_every_case("hf", |dir, expected| {
        [DType::BF16, DType::F16]
            .into_iter()
            .filter_map(|dtype| {
                let [losses, ..] = ten_steps(dir, expected, dtype);
                let what = format!("losses in {dtype:?}");
                first_difference(&what, &losses, &expected.values("losses"), HALF_PRECISION)
            })
            .collect()
    });
}

#[test]
fn the_configurations_of_transformers_4_and_5_describe_the_same_model() {
    for dir in cases("hf") {
        let read = |file| {
            let json = fs_err::read_to_string(dir.join(file)).unwrap();
            ModelConfig::from_json(serde_json::from_str(&json).unwrap()).unwrap()
        };
        let (new, old) = (read("config.json"), read("config.v4.json"));
        assert!(old.same_model(&new), "{}", dir.display());
        assert_eq!(old.special_ids(), new.special_ids());
    }
}

#[test]
fn scores_equal_those_of_transformers_for_sequence_classification() {
    for_every_case("hf-reward", |dir, expected| {
        let (config, tensors) = rlhf_lm::read_scalar(dir).unwrap();
        let params = Params::load(&tensors, &Device::Cpu, DType::F32).unwrap();
        let model = ScalarModel::new(&config, &params).unwrap();
        let last: Vec<u32> = expected
            .sequences
            .iter()
            .map(|rows| rows.end as u32 - 1)
            .collect();
        let last = Tensor::new(last, &Device::Cpu).unwrap();
        let hidden = model
            .hidden(&expected.packed())
            .unwrap()
            .index_select(&last, 0)
            .unwrap();
        let scores = values(&model.scores(&hidden).unwrap());
        let apart = distance(&scores, &expected.values("scores"));
        measured(dir, "scores", apart);
        differ("scores", &scores, &expected.values("scores"), VALUES)
            .into_iter()
            .collect()
    });
}
