//! A small training loop, written as the stages write theirs, ends with the same bytes however often it is killed.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

#[path = "../../../tests/portable.rs"]
mod portable;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{Gradients, Params};
use rlhf_train::{AdamW, AdamWConfig, Checkpoint, OnExisting, RunDir, Schedule, ScheduleKind};
use serde_json::{Map, Value, json};

const STEPS: u64 = 20;
const SAVE_EVERY: u64 = 4;
const ROWS: usize = 7;

/// Row `i` of the data: the line y = 2x − 1 at three points.
fn row(i: usize) -> (f32, f32) {
    let x = i as f32 / 3.0;
    (x, 2.0 * x - 1.0)
}

/// The row that is read n-th, in an order that differs from epoch to epoch: 3 is prime to the 7 rows.
fn read(n: u64) -> usize {
    let (epoch, i) = (n as usize / ROWS, n as usize % ROWS);
    (i * 3 + epoch) % ROWS
}

/// Trains until the end, or until `dies_after` steps have been taken here.
fn train(out: &Path, existing: OnExisting, dies_after: Option<u64>) -> rlhf_train::Result<()> {
    let dir = RunDir::open(out, existing)?;
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let mut params = Params::load(
        &BTreeMap::from([("w".into(), zeros(&[1])?), ("b".into(), zeros(&[1])?)]),
        &Device::Cpu,
        DType::F32,
    )?;
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut step = 0;
    if let Some(checkpoint) = dir.checkpoint_latest()? {
        params = Params::load(&checkpoint.group("params"), &Device::Cpu, DType::F32)?;
        optimizer.load_state(&params, &checkpoint.group("adam"))?;
        step = checkpoint.step;
    }
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        warmup_steps: 3,
        total_steps: STEPS,
    };
    let mut metrics = dir.metrics()?;
    let mut taken = 0;
    while step < STEPS {
        if dies_after == Some(taken) {
            return Ok(());
        }
        let (x, y): (Vec<f32>, Vec<f32>) = (0..3).map(|i| row(read(3 * step + i))).unzip();
        let (x, y) = (Tensor::new(x, &Device::Cpu)?, Tensor::new(y, &Device::Cpu)?);
        let (w, b) = (params.compute("w").unwrap(), params.compute("b").unwrap());
        let loss = (x.broadcast_mul(&w)?.broadcast_add(&b)? - y)?
            .sqr()?
            .mean_all()?;
        let mut grads = Gradients::new();
        grads.accumulate(&params, &loss)?;
        let lr = schedule.lr(0.1, step);
        let norm = optimizer.step(&params, &grads, lr, Some(1.0))?;
        step += 1;
        taken += 1;
        let loss = loss.to_scalar::<f32>()?;
        let entries = [
            ("loss", json!(loss)),
            ("grad_norm", json!(norm)),
            ("lr", json!(lr)),
            ("time/step", json!(taken)),
        ];
        metrics.log(
            step,
            &Map::from_iter(entries.map(|(k, v)| (k.to_owned(), v))),
        )?;
        dir.append_sample(&json!({"step": step, "w": params.get("w").unwrap().to_vec1::<f32>()?}))?;
        if step % SAVE_EVERY == 0 {
            let mut checkpoint = Checkpoint {
                step,
                tensors: BTreeMap::new(),
                state: Value::Null,
            };
            checkpoint.insert_group("params", params.tensors());
            checkpoint.insert_group("adam", optimizer.state()?);
            dir.checkpoint_save(&checkpoint, 2)?;
        }
    }
    dir.publish(|tmp| {
        let tensors = params.tensors().into_iter().collect();
        candle_core::safetensors::save(&tensors, tmp.join("model.safetensors"))
            .map_err(rlhf_train::Error::from)
    })
}

/// Every file that must not depend on where the run was killed, by its path inside the run.
fn bytes(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(run).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("events.") && name != "timings.jsonl" && name != "run.lock"
            {
                files.insert(name, fs_err::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_run_killed_between_checkpoints_and_resumed_ends_with_the_same_bytes() {
    let tmp = tempfile::tempdir().unwrap();
    let whole = tmp.path().join("whole");
    train(&whole, OnExisting::Refuse, None).unwrap();
    let expected = bytes(&whole);
    assert_eq!(expected.len(), 2 + 2 * 3 + 1, "{:?}", expected.keys());

    // Every phase between two checkpoints is among these.
    for first in (0..=STEPS).step_by(3) {
        let run = tmp.path().join(format!("killed-{first}"));
        train(&run, OnExisting::Refuse, Some(first)).unwrap();
        // Killed again, three steps later, in the middle of a checkpoint and of a line.
        train(&run, OnExisting::Resume, Some(3)).unwrap();
        let torn = run.join("checkpoints/step-000020.aside");
        fs_err::create_dir_all(&torn).unwrap();
        fs_err::write(torn.join("tensors.safetensors"), [0u8; 9]).unwrap();
        let mut metrics = fs_err::read(run.join("metrics.jsonl")).unwrap();
        metrics.extend(b"{\"step\":");
        fs_err::write(run.join("metrics.jsonl"), metrics).unwrap();
        train(&run, OnExisting::Resume, None).unwrap();
        assert!(bytes(&run) == expected, "killed after {first} steps");
    }
}

#[test]
fn the_loop_learns_the_line() {
    let tmp = tempfile::tempdir().unwrap();
    train(tmp.path(), OnExisting::Refuse, None).unwrap();
    let lines = |name: &str| -> Vec<serde_json::Value> {
        let text = fs_err::read_to_string(tmp.path().join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let metrics = lines("metrics.jsonl");
    let loss = |i: usize| metrics[i]["loss"].as_f64().unwrap();
    assert_eq!(metrics.len(), STEPS as usize);
    assert!(loss(19) < loss(0) / 2.0, "{} → {}", loss(0), loss(19));
    assert_eq!(lines("timings.jsonl")[19]["time/step"], STEPS);
}
