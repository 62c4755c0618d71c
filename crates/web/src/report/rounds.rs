//! The rounds of judging of a pipeline, one below the other.

use serde_json::Value;

use super::models::{Model, Models, measured};
use crate::html::escape;
use crate::number::{fixed, percent};
use crate::table::Table;

/// A cell of a round and its policy, in HTML; nothing where it is not known.
type Cell = fn(&Value, Option<&Model>) -> Option<String>;

/// A section with what was judged in each round, and what its models came to; nothing where there were none.
pub(crate) fn rounds(evaluation: &Value, models: &Models) -> String {
    let rounds = evaluation.get("rounds").and_then(Value::as_array);
    let Some(rounds) = rounds.filter(|rounds| !rounds.is_empty()) else {
        return String::new();
    };
    let columns: [(&str, Cell); 6] = [
        ("Judgements so far", |round, _| {
            Some(round.get("labels")?.as_u64()?.to_string())
        }),
        ("Reward accuracy", |round, _| {
            Some(percent(round.get("accuracy")?.as_f64()?))
        }),
        ("Gold", |_, model| {
            let model = model?;
            Some(measured(model.gold?, model.gold_ci))
        }),
        ("Second opinion", |_, model| {
            let model = model?;
            Some(measured(model.judge?, model.judge_ci))
        }),
        ("Learned reward", |_, model| {
            let model = model?;
            Some(measured(model.reward?, model.reward_ci))
        }),
        ("KL, nats", |_, model| Some(fixed(model?.kl))),
    ];
    let policy = |round: &Value| models.named(round.get("policy")?.as_str()?);
    let shown: Vec<_> = (columns.iter())
        .filter(|(_, cell)| rounds.iter().any(|it| cell(it, policy(it)).is_some()))
        .collect();
    let titles = shown.iter().map(|(title, _)| (*title, "number"));
    let mut table = Table::new("Round", titles);
    for round in rounds {
        let number = round.get("round").and_then(Value::as_u64);
        let name = number.map_or_else(String::new, |number| number.to_string());
        let cells = shown.iter().map(|(_, cell)| cell(round, policy(round)));
        table.row(&escape(&name), cells);
    }
    format!(
        "<section>\n<h2>The rounds</h2>\n{}<p class=\"soft\">In each round the newest policy answered and its answers were judged; the reward model \
         learned from all judgements so far and made the next policy. Reward accuracy: of the round's own reward model, on judgements held out \
         from it. Learned reward: by the reward model of the last round.</p>\n</section>\n",
        table.html()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_round_has_its_judgements_and_the_numbers_of_its_policy() {
        let evaluation = json!({
            "models": [{"name": "sft", "kl": 0.0}, {"name": "ppo 1", "kl": 1.5, "gold": 0.75}],
            "reference": "sft", "prompts": 8,
            "rounds": [
                {"round": 1, "labels": 200, "accuracy": 0.625, "policy": "ppo 1"},
                {"round": 2, "labels": 400, "policy": "ppo 2"}
            ]
        });
        let page = rounds(&evaluation, &Models::of(&evaluation));
        for cell in [">200<", ">62.5 %<", ">0.750<", ">1.500<", ">400<", ">–<"] {
            assert!(page.contains(cell), "{cell} in {page}");
        }
        assert!(!page.contains("<th scope=\"col\" class=\"number\">Learned reward"));
        assert_eq!(rounds(&json!({}), &Models::default()), "");
    }
}
