//! Whatever their number, the ranks make the same model.

use std::path::Path;

use candle_core::{Device, safetensors};
use serde_json::{Map, Value};

use crate::folder::{Folder, assert_same_run, files};
use crate::mpirun::{copy, done, metrics};

/// What the loss may differ by: the order in which f32 numbers are added, over three steps.
const LOSS: f64 = 1e-6;
/// AdamW divides a gradient by its own size, so that of a gradient near zero the rounding shows in the weight.
const WEIGHT: f32 = 1e-5;
/// Sums over many tokens, and quotients of small numbers, such as an explained variance.
const OTHER: f64 = 1e-4;

/// The largest difference between numbers that are near 1 or smaller, relative to larger ones.
fn distance(a: f64, b: f64) -> f64 {
    (a - b).abs() / a.abs().max(b.abs()).max(1.0)
}

fn assert_near(a: &Map<String, Value>, b: &Map<String, Value>) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, x) in a {
        assert_near_values(name, x, &b[name]);
    }
}

fn assert_near_values(name: &str, a: &Value, b: &Value) {
    let bound = if name.contains("loss") { LOSS } else { OTHER };
    match (a.as_f64(), b.as_f64(), a.as_array(), b.as_array()) {
        (Some(x), Some(y), ..) => assert!(distance(x, y) <= bound, "{name}: {x} and {y}"),
        (.., Some(a), Some(b)) => {
            assert_eq!(a.len(), b.len(), "{name}");
            let pairs = a.iter().zip(b);
            pairs.for_each(|(x, y)| assert_near_values(name, x, y));
        }
        _ => assert_eq!(a, b, "{name}"),
    }
}

/// That two runs say the same in `metrics.jsonl` and have the same weights, to within rounding.
fn assert_equal_runs(a: &Path, b: &Path) {
    let (of_a, of_b) = (metrics(a), metrics(b));
    assert_eq!(of_a.len(), of_b.len());
    of_a.iter().zip(&of_b).for_each(|(a, b)| assert_near(a, b));
    let names = |run: &Path| {
        files(&run.join("final"))
            .into_iter()
            .map(|it| it.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(a), names(b));
    let weights = |run: &Path| {
        let whole = run.join("final/model.safetensors");
        let adapter = run.join("final/adapter_model.safetensors");
        let file = if whole.exists() { whole } else { adapter };
        safetensors::load(file, &Device::Cpu).unwrap()
    };
    let (of_a, of_b) = (weights(a), weights(b));
    for (name, x) in &of_a {
        let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (x, y) in flat(x).into_iter().zip(flat(&of_b[name])) {
            assert!((x - y).abs() <= WEIGHT, "{name}: {x} and {y}");
        }
    }
}

/// Every stage on one, two and three ranks; three make the same bytes twice.
#[test]
fn every_stage_is_the_same_on_any_number_of_ranks_and_the_same_bytes_each_time() {
    let folder = Folder::pipeline();
    folder.done("sft --model base --data demos.jsonl --out runs/sft");
    folder.done("reward --model runs/sft --prefs prefs.jsonl --out runs/reward");
    folder.write(
        "corpus.txt",
        &"the fox is red. the ant is tiny.\n".repeat(40),
    );
    let ppo = "ppo --model runs/sft --reward runs/reward --prompts prompts.jsonl --eval-prompts prompts.jsonl --eval-every 2";
    for (name, line) in [
        ("pretrain", "pretrain --data corpus.txt".to_owned()),
        (
            "sft",
            "sft --model base --data demos.jsonl --eval-every 2".to_owned(),
        ),
        (
            "reward",
            "reward --model runs/sft --prefs prefs.jsonl --eval-every 2".to_owned(),
        ),
        ("dpo", "dpo --model runs/sft --prefs prefs.jsonl".to_owned()),
        (
            "kto",
            "dpo --model runs/sft --prefs prefs.jsonl --loss kto".to_owned(),
        ),
        (
            "lora",
            "sft --model base --data demos.jsonl --lora 4".to_owned(),
        ),
        (
            "ppo",
            format!("{ppo} --ptx-coef 0.1 --ptx-data demos.jsonl"),
        ),
        ("ppo-lora", format!("{ppo} --lora 4")),
        ("shared", format!("{ppo} --critic shared --whiten-rewards")),
        (
            "grpo",
            format!("{ppo} --advantage grpo --samples-per-prompt 2 --kl-in loss --kl-estimator k3"),
        ),
    ] {
        folder.done(&format!("{line} --out runs/{name}-1"));
        for (ranks, out) in [(2, "2"), (3, "3"), (3, "again")] {
            done(&folder, ranks, &format!("{line} --out runs/{name}-{out}"));
        }
        let of = |out: &str| folder.path(&format!("runs/{name}-{out}"));
        assert_equal_runs(&of("1"), &of("2"));
        assert_equal_runs(&of("1"), &of("3"));
        assert_same_run(&of("3"), &of("again"));
    }
}

/// The optimizer shared out: the same bytes as without, also from a checkpoint that another number of ranks wrote; a share ends within a
/// parameter, and half precision and adapters have masters to share.
#[test]
fn a_shared_optimizer_makes_the_very_same_bytes() {
    let folder = Folder::pipeline();
    let sft =
        "sft --model base --data demos.jsonl --weight-decay 0.1 --save-every 2 --schedule constant";
    let ppo =
        "ppo --model base --reward length:3 --prompts prompts.jsonl --eval-prompts prompts.jsonl";
    for (name, line) in [
        ("sft", sft.to_owned()),
        ("bf16", format!("{sft} --dtype bf16")),
        ("lora", format!("{sft} --lora 4")),
        ("ppo", ppo.to_owned()),
    ] {
        for (out, shared) in [("whole", ""), ("shared", "--shard-optimizer")] {
            done(
                &folder,
                3,
                &format!("{line} {shared} --out runs/{name}-{out}"),
            );
        }
        let of = |out: &str| folder.path(&format!("runs/{name}-{out}"));
        assert_same_run(&of("whole"), &of("shared"));
    }
    // Two ranks write shares, three go on, sharing or not.
    done(
        &folder,
        2,
        &format!("{sft} --steps 2 --shard-optimizer --out runs/begun"),
    );
    for (out, shared) in [("on-whole", "false"), ("on-shared", "true")] {
        let run = folder.path(&format!("runs/{out}"));
        copy(&folder.path("runs/begun"), &run);
        done(
            &folder,
            3,
            &format!("sft --resume --steps 5 --set run.shard_optimizer={shared} --out runs/{out}"),
        );
    }
    assert_same_run(
        &folder.path("runs/on-whole"),
        &folder.path("runs/on-shared"),
    );
}

/// The order of events in the trace of the first step that sends by the order of the one before.
#[test]
fn gradients_are_sent_before_the_backward_pass_ends() {
    let folder = Folder::pipeline();
    done(
        &folder,
        2,
        "sft --model base --data demos.jsonl --out runs/2",
    );
    let text = folder.read("runs/2/timings.jsonl");
    let traces = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line.get("time/overlap").cloned()
    });
    let traces: Vec<Value> = traces.collect();
    assert_eq!(traces.len(), 1, "{text}");
    let at = |it: &Value, what: &str| it[what].as_f64().unwrap();
    let end = at(&traces[0]["backward"][0], "end");
    let buckets = traces[0]["buckets"].as_array().unwrap();
    assert!(at(&buckets[0], "ready") < end, "{}", traces[0]);
    assert!(at(&buckets[buckets.len() - 1], "ready") >= end);
    for bucket in buckets {
        assert!(at(bucket, "ready") <= at(bucket, "begin"));
        assert!(at(bucket, "begin") <= at(bucket, "end"));
    }
    for (bucket, next) in buckets.iter().zip(&buckets[1..]) {
        assert!(
            at(bucket, "end") <= at(next, "begin"),
            "one after the other"
        );
    }
}

/// Gradients sent in bf16 are near those that are not, and every rank has the same.
#[test]
fn gradients_in_bf16_change_little() {
    let folder = Folder::pipeline();
    let line = "sft --model base --data demos.jsonl";
    folder.done(&format!("{line} --out runs/1"));
    for out in ["2", "again"] {
        done(
            &folder,
            2,
            &format!("{line} --set run.sum_dtype=bf16 --out runs/{out}"),
        );
    }
    let last = |out: &str| {
        let lines = metrics(&folder.path(&format!("runs/{out}")));
        let mut losses = lines.iter().filter_map(|line| line.get("loss"));
        losses.next_back().unwrap().as_f64().unwrap()
    };
    // Three steps of 1e-3 with gradients that are off by 2⁻⁹ of themselves.
    assert!((last("1") - last("2")).abs() < 1e-3);
    assert!(last("1") != last("2"), "rounded");
    assert_same_run(&folder.path("runs/2"), &folder.path("runs/again"));
}

/// Steps with fewer rows than ranks: some have nothing to compute, and take part all the same.
#[test]
fn ranks_without_rows_change_nothing() {
    let folder = Folder::pipeline();
    let line = "sft --model base --data demos.jsonl --batch 2";
    folder.done(&format!("{line} --out runs/1"));
    done(&folder, 4, &format!("{line} --out runs/4"));
    assert_equal_runs(&folder.path("runs/1"), &folder.path("runs/4"));
}

/// Stage after stage and the table at the end; the second time nothing is left to do.
#[test]
fn a_whole_pipeline_runs_on_two_ranks_and_speaks_with_one_voice() {
    let folder = Folder::pipeline();
    let table = |text: &str| -> Value {
        let mut table: Value = serde_json::from_str(text).unwrap();
        for of_the_run in ["seconds", "out"] {
            table.as_object_mut().unwrap().remove(of_the_run);
        }
        table
    };
    let one = table(&folder.done("run all.toml --out runs/one --json"));
    let two = done(&folder, 2, "run all.toml --out runs/two --json");
    assert_eq!(two.lines().count(), 1, "{two}");
    let two = table(&two);
    for (a, b) in one["models"]
        .as_array()
        .unwrap()
        .iter()
        .zip(two["models"].as_array().unwrap())
    {
        assert_near(a.as_object().unwrap(), b.as_object().unwrap());
    }
    assert_eq!(one["prompts"], two["prompts"]);
    let again = done(&folder, 2, "run all.toml --out runs/two --json");
    assert_eq!(table(&again), two);
}
