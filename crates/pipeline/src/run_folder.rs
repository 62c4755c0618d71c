//! What lies in the folder of a run, as `--help` and the README tell it.

/// Names in `runs/STAGE/`, and what they hold.
pub(crate) const MANUAL: &[(&[&str], &str)] = &[
    (
        &["final/"],
        "the model as `transformers` reads it, or the adapter as PEFT does; the run can be named wherever a model can",
    ),
    (
        &["config.toml", "inputs.json"],
        "every setting, and the checksum of everything that was read",
    ),
    (
        &["metrics.jsonl", "timings.jsonl"],
        "numbers of every step; seconds apart from them, so that equal runs have equal files",
    ),
    (
        &["events.out.tfevents.*"],
        "the same for TensorBoard: `tensorboard --logdir runs`",
    ),
    (
        &["samples.jsonl"],
        "PPO: rollouts with their numbers token by token, and evaluations",
    ),
    (
        &["answers.jsonl"],
        "what the model answers to held-out prompts, beside what it started from",
    ),
    (
        &["checkpoints/"],
        "the newest ones, from which `--resume` goes on (docs/resume.md)",
    ),
    (
        &["reference.safetensors"],
        "DPO: the log-probabilities of the reference, computed once",
    ),
    (
        &["skipped/"],
        "batches that no step was made of, where there were any",
    ),
    (
        &["history.jsonl", "cost.json", "finished"],
        "when it ran, how long, with how much memory; that it is complete",
    ),
];

/// The folder as a section of help.
pub(crate) fn section(out: &str) -> String {
    let lines = MANUAL
        .iter()
        .map(|(names, holds)| format!("  {}\n          {holds}\n", names.join(", ")));
    format!("What {out}/ holds:\n{}", lines.collect::<String>())
}

/// The README's table: one Markdown row each.
pub(crate) fn table() -> String {
    let rows = MANUAL.iter().map(|(names, holds)| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        format!("| {} | {holds} |\n", names.join(", "))
    });
    format!(
        "| in `runs/STAGE/` | holds |\n|---|---|\n{}",
        rows.collect::<String>()
    )
}
