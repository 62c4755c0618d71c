//! One seed, one result: whatever the number of threads, wherever the run directory.

use crate::folder::{Folder, assert_same_run, stderr};

#[test]
fn the_same_seed_gives_the_same_bytes_with_one_thread_and_with_two() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder.write("corpus.txt", "the fox is red.\n\nthe crow is black.\n\nthe frog is green and small.\n\nthe fox eats meat.\n");
    for (line, stage) in [
        (
            "pretrain --data corpus.txt --set pretrain.eval_fraction=0",
            "pretrain",
        ),
        ("sft --model base --data demos.jsonl", "sft"),
        ("reward --model base --prefs prefs.jsonl", "reward"),
        ("dpo --model base --prefs prefs.jsonl", "dpo"),
        ("dpo --model base --prefs prefs.jsonl --loss kto", "kto"),
        (
            "ppo --model base --reward runs/reward-1 --prompts prompts.jsonl",
            "ppo",
        ),
    ] {
        for threads in [1, 2] {
            folder.done(&format!(
                "{line} --quiet --seed 3 --threads {threads} --out runs/{stage}-{threads}"
            ));
        }
        assert_same_run(
            &folder.path(&format!("runs/{stage}-1")),
            &folder.path(&format!("runs/{stage}-2")),
        );
    }
}

#[test]
fn recomputed_activations_change_no_byte() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    folder.pairs("prefs.jsonl");
    folder.prompts("prompts.jsonl");
    folder.write("corpus.txt", "the fox is red.\n\nthe crow is black.\n\nthe frog is green and small.\n\nthe fox eats meat.\n");
    for (line, stage) in [
        (
            "pretrain --data corpus.txt --set pretrain.eval_fraction=0",
            "pretrain",
        ),
        ("sft --model base --data demos.jsonl", "sft"),
        ("reward --model base --prefs prefs.jsonl", "reward"),
        ("dpo --model base --prefs prefs.jsonl", "dpo"),
        ("dpo --model base --prefs prefs.jsonl --loss kto", "kto"),
        (
            "ppo --model base --reward runs/reward-kept --prompts prompts.jsonl",
            "ppo",
        ),
    ] {
        folder.done(&format!("{line} --quiet --out runs/{stage}-kept"));
        let again = format!("{line} --recompute --out runs/{stage}-again");
        let output = folder.command(&again).output().unwrap();
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("recomputed activations"), "{said}");
        assert_same_run(
            &folder.path(&format!("runs/{stage}-kept")),
            &folder.path(&format!("runs/{stage}-again")),
        );
    }
}

#[test]
fn another_seed_gives_another_model() {
    let folder = Folder::quick();
    folder.tiny_gpt2("base");
    folder.demonstrations("demos.jsonl");
    let weights = |seed: u64| {
        folder.done(&format!(
            "sft --model base --data demos.jsonl --quiet --seed {seed} --out runs/{seed}"
        ));
        fs_err::read(folder.path(&format!("runs/{seed}/final/model.safetensors"))).unwrap()
    };
    assert!(weights(1) != weights(2));
}
