//! Model cards: the `README.md` that a model is published with, in Markdown with a head in YAML, from what its runs recorded.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::number::{duration, short};
use crate::run::Run;
use crate::section::Section;

/// What a card is about.
pub struct Card<'a> {
    /// The heading.
    pub name: &'a str,
    /// The model that training started from, where it is one of the hub.
    pub base: Option<&'a str>,
    /// The licence's name on the hub, if whoever publishes has chosen one.
    pub license: Option<&'a str>,
    /// The version of this program.
    pub version: &'a str,
    /// Whether it gives a score instead of text.
    pub scores: bool,
    /// Whether it is an adapter beside its base.
    pub adapter: bool,
    /// The picture that lies beside the card, where there is one.
    pub picture: Option<&'a str>,
    /// How it was made, the first stage first; the last one made it.
    pub stages: Vec<CardStage>,
    /// `evaluation.json` of the pipeline, where it was one.
    pub evaluation: Option<Value>,
}

/// A stage on the way to a model.
pub struct CardStage {
    /// The stage's name and captions.
    pub section: Section,
    /// What it recorded.
    pub run: Run,
    /// Every file that it read, with its SHA-256.
    pub files: Vec<(String, String)>,
}

/// The card in Markdown.
pub fn card(card: &Card<'_>) -> String {
    let mut out = head(card);
    let _ = writeln!(out, "\n# {}\n\n{}", card.name, sentence(card));
    if let Some(last) = card.stages.last() {
        results(&mut out, last, card.evaluation.as_ref());
    }
    if let Some(picture) = card.picture {
        let _ = writeln!(
            out,
            "\n![What was measured while it was trained]({picture})"
        );
    }
    if card.stages.is_empty() {
        return out;
    }
    out += "\n## How it was made\n";
    for (i, stage) in card.stages.iter().enumerate() {
        made(&mut out, i + 1, stage);
    }
    out
}

/// The YAML that the hub reads.
fn head(card: &Card<'_>) -> String {
    let library = if card.adapter { "peft" } else { "transformers" };
    let task = if card.scores {
        "text-classification"
    } else {
        "text-generation"
    };
    let mut out = format!("---\nlibrary_name: {library}\npipeline_tag: {task}\n");
    if let Some(base) = card.base {
        let _ = writeln!(out, "base_model: {base}");
    }
    if let Some(license) = card.license {
        let _ = writeln!(out, "license: {license}");
    }
    out += "tags:\n- rlhf\n";
    let mut seen = BTreeSet::new();
    for stage in card
        .stages
        .iter()
        .filter(|stage| seen.insert(stage.section.table))
    {
        let _ = writeln!(out, "- {}", stage.section.table);
    }
    out + "---\n"
}

/// What it is.
fn sentence(card: &Card<'_>) -> String {
    let what = match (card.scores, card.adapter) {
        (true, false) => "A reward model",
        (true, true) => "An adapter that makes a reward model of its base",
        (false, false) => "A language model",
        (false, true) => "An adapter of a language model",
    };
    let trained: Vec<_> = card
        .stages
        .iter()
        .map(|stage| within_a_sentence(stage.section.title))
        .collect();
    let mut text = what.to_owned();
    if !trained.is_empty() {
        let _ = write!(text, ", made by {}", trained.join(", then "));
    }
    if let Some(base) = card.base {
        let _ = write!(text, " from [{base}](https://huggingface.co/{base})");
    }
    if let Some(n) = card
        .stages
        .last()
        .and_then(|stage| started(&stage.run)?.get("parameters")?.as_u64())
    {
        let _ = write!(text, "; {n} parameters were trained");
    }
    let _ = write!(text, ". Made with rlhf {}.", card.version);
    text
}

/// A heading as it stands in a sentence: names such as PPO keep their capitals.
fn within_a_sentence(title: &str) -> String {
    match title.chars().nth(1).is_some_and(char::is_uppercase) {
        true => title.to_owned(),
        false => title.to_lowercase(),
    }
}

/// The record of the first start of a run.
fn started(run: &Run) -> Option<&serde_json::Map<String, Value>> {
    run.history
        .iter()
        .find(|line| line.get("event").is_some_and(|event| event == "started"))
}

/// A value with its interval as two cells of a table.
fn cells(value: f64, interval: Option<(f64, f64)>) -> String {
    let interval = interval.map_or_else(String::new, |(low, high)| {
        format!("{} to {}", short(low), short(high))
    });
    format!("{} | {interval}", short(value))
}

/// What was measured on held-out rows at the end.
fn results(out: &mut String, stage: &CardStage, evaluation: Option<&Value>) {
    let run = &stage.run;
    let mut rows = Vec::new();
    for caption in stage
        .section
        .captions
        .iter()
        .filter(|caption| caption.metric.starts_with("eval/"))
        // The ends of an interval stand beside what they are around.
        .filter(|caption| !caption.metric.ends_with("_low") && !caption.metric.ends_with("_high"))
    {
        let Some(value) = run.last(caption.metric) else {
            continue;
        };
        let bound = |end: &str| run.last(&format!("{}_{end}", caption.metric));
        rows.push(format!(
            "| {} | {} |",
            caption.title,
            cells(value, bound("low").zip(bound("high")))
        ));
    }
    if !rows.is_empty() {
        let _ = writeln!(
            out,
            "\n## Results\n\nOn held-out rows, after the last step.\n\n| | value | 95 % interval |\n|---|---|---|\n{}",
            rows.join("\n")
        );
    }
    let models = evaluation.and_then(|evaluation| evaluation["models"].as_array());
    let Some(models) = models.filter(|models| !models.is_empty()) else {
        return;
    };
    let prompts = evaluation
        .and_then(|evaluation| evaluation["prompts"].as_u64())
        .unwrap_or_default();
    let gold = models.iter().any(|model| model["gold"].is_number());
    let _ = writeln!(
        out,
        "\nBeside the other models of the pipeline, on {prompts} held-out prompts:\n"
    );
    let head = if gold {
        "| model | truth | learned reward | KL | wins |\n|---|---|---|---|---|"
    } else {
        "| model | learned reward | KL | wins |\n|---|---|---|---|"
    };
    let _ = writeln!(out, "{head}");
    for model in models {
        let number = |key: &str| model[key].as_f64().map_or_else(String::new, short);
        let truth = if gold {
            format!(" {} |", number("gold"))
        } else {
            String::new()
        };
        let bound = |i: usize| model["win_rate_ci"][i].as_f64();
        let wins = match (model["win_rate"].as_f64(), bound(0), bound(1)) {
            (Some(rate), Some(low), Some(high)) => {
                format!("{} ({} to {})", short(rate), short(low), short(high))
            }
            (Some(rate), ..) => short(rate),
            _ => String::new(),
        };
        let name = model["name"].as_str().unwrap_or_default().replace('_', " ");
        let _ = writeln!(
            out,
            "| {name} |{truth} {} | {} | {wins} |",
            number("reward"),
            number("kl")
        );
    }
}

/// One stage: its data, its cost, its settings and the command.
fn made(out: &mut String, place: usize, stage: &CardStage) {
    let (run, table) = (&stage.run, stage.section.table);
    let _ = writeln!(out, "\n### {place}. {}\n", stage.section.title);
    let mut facts = Vec::new();
    if let Some(started) = started(run) {
        let text = |key: &str| started.get(key).and_then(Value::as_str).unwrap_or_default();
        if let Some(day) = text("time").get(..10) {
            facts.push(format!("begun {day}"));
        }
        for (what, amount) in started
            .get("data")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            facts.push(format!("{what}: {}", amount.as_str().unwrap_or_default()));
        }
        facts.push(format!("on {}, {}", text("device"), text("machine")));
    }
    if let Some(step) = run.last("step") {
        facts.push(format!("{} steps", short(step)));
    }
    let cost = |key: &str| run.cost.get(key).and_then(Value::as_f64);
    if let Some(seconds) = cost("seconds") {
        facts.push(duration(seconds));
    }
    if let Some(bytes) = cost("peak_bytes") {
        facts.push(format!("{:.1} GB of memory at most", bytes / 1e9));
    }
    if !facts.is_empty() {
        let _ = writeln!(out, "{}.\n", facts.join("; "));
    }
    let files = worth_naming(&stage.files);
    if !files.is_empty() {
        out.push_str("| what was read | SHA-256 |\n|---|---|\n");
        for (name, sum) in files {
            let _ = writeln!(out, "| `{name}` | `{sum}` |");
        }
        out.push('\n');
    }
    if !run.config.is_empty() {
        let _ = writeln!(
            out,
            "With these settings in `{table}.toml`, `rlhf {table} --config {table}.toml` makes it again:\n\n<details><summary>{table}.toml</summary>\n\n```toml\n{}\n```\n\n</details>",
            run.config.trim_end()
        );
    }
}

/// Of the folders with weights the weights alone, and every other file.
fn worth_naming(files: &[(String, String)]) -> Vec<(&str, &str)> {
    let folder = |name: &str| Path::new(name).parent().map(Path::to_owned);
    let weights = |name: &str| name.ends_with(".safetensors");
    let models: BTreeSet<_> = files
        .iter()
        .filter(|(name, _)| weights(name))
        .map(|(name, _)| folder(name))
        .collect();
    let named = files
        .iter()
        .filter(|(name, _)| weights(name) || !models.contains(&folder(name)));
    named.map(|(name, sum)| (&**name, &**sum)).collect()
}

#[cfg(test)]
mod tests {
    use rlhf_base::caption::Caption;
    use serde_json::{Map, json};

    use super::*;

    const CAPTIONS: &[Caption] = &[
        Caption::main("eval/score", "Held-out score", ""),
        Caption::main("eval/score_low", "Lower end", ""),
        Caption::main("loss", "Loss", ""),
    ];

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn run() -> Run {
        Run {
            config: "[ppo]\nsteps = 2\n".into(),
            metrics: vec![
                object(json!({"step": 1, "eval/score": 0.5})),
                object(
                    json!({"step": 2, "eval/score": 1.25, "eval/score_low": 1.0, "eval/score_high": 1.5}),
                ),
            ],
            history: vec![object(
                json!({"time": "2026-01-02T03:04:05Z", "event": "started", "parameters": 42, "data": {"prompts": "7"},
                "device": "cpu, f32", "machine": "a machine"}),
            )],
            cost: object(json!({"seconds": 90.0, "peak_bytes": 2e9})),
            ..Run::default()
        }
    }

    fn section() -> Section {
        Section {
            table: "ppo",
            title: "PPO",
            captions: CAPTIONS,
            findings: |_| Vec::new(),
        }
    }

    #[test]
    fn a_card_says_what_was_recorded_and_nothing_else() {
        let files = [
            "base/config.json",
            "base/model.safetensors",
            "prompts.jsonl",
        ];
        let stage = CardStage {
            section: section(),
            run: run(),
            files: files.map(|name| (name.to_owned(), "ab".to_owned())).into(),
        };
        let text = card(&Card {
            name: "mine",
            base: Some("org/base"),
            license: None,
            version: "1.0",
            scores: false,
            adapter: false,
            picture: Some("curves.svg"),
            stages: vec![stage],
            evaluation: Some(
                json!({"prompts": 8, "models": [{"name": "ppo", "reward": 1.5, "kl": 2.0, "win_rate": 0.75, "win_rate_ci": [0.5, 0.9]}]}),
            ),
        });
        let head = "---\nlibrary_name: transformers\npipeline_tag: text-generation\nbase_model: org/base\ntags:\n- rlhf\n- ppo\n---\n\n# mine\n\n\
                    A language model, made by PPO from [org/base](https://huggingface.co/org/base); 42 parameters were trained. Made with rlhf 1.0.\n";
        assert!(text.starts_with(head), "{text}");
        for line in [
            "| Held-out score | 1.250 | 1 to 1.500 |",
            "| ppo | 1.500 | 2 | 0.750 (0.500 to 0.900) |",
            "![What was measured while it was trained](curves.svg)",
            "begun 2026-01-02; prompts: 7; on cpu, f32, a machine; 2 steps; 1 min 30 s; 2.0 GB of memory at most.",
            "| `base/model.safetensors` | `ab` |",
            "| `prompts.jsonl` | `ab` |",
            "steps = 2\n```",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(
            !text.contains("config.json")
                && !text.contains("license")
                && !text.contains("Loss")
                && !text.contains("Lower end"),
            "{text}"
        );
    }

    #[test]
    fn a_model_of_which_nothing_is_recorded_has_a_short_card() {
        let text = card(&Card {
            name: "m",
            base: None,
            license: Some("apache-2.0"),
            version: "1.0",
            scores: true,
            adapter: true,
            picture: None,
            stages: Vec::new(),
            evaluation: None,
        });
        let expected = "---\nlibrary_name: peft\npipeline_tag: text-classification\nlicense: apache-2.0\ntags:\n- rlhf\n---\n\n# m\n\n\
                        An adapter that makes a reward model of its base. Made with rlhf 1.0.\n";
        assert_eq!(text, expected);
    }
}
