//! What a step says of itself.

use rlhf_train::feedback::{Item, Ties};
use rlhf_train::statistics::mean;
use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::judged::liked;
use crate::loss::Loss;

/// The implicit rewards `β ℓ` of preferred and of other answers, and their log-probabilities, under TRL's names: means over what was
/// compared, or for `kto` over liked and disliked answers. What did not occur is absent.
///
/// `ratios`, `logprobs`: one for each response of `items`.
pub(crate) fn of_step(
    config: &Config,
    items: &[&Item],
    ratios: &[f32],
    logprobs: &[f32],
) -> Map<String, Value> {
    let (mut preferred, mut other) = (Vec::new(), Vec::new());
    let mut first = 0;
    for item in items {
        match config.loss {
            Loss::Kto => {
                for (i, liked) in liked(item).into_iter().enumerate() {
                    let side = if liked { &mut preferred } else { &mut other };
                    side.push(first + i);
                }
            }
            _ => {
                // A divided vote is written both ways; the majority's is the preference.
                let compared = item.comparisons(first, Ties::Skip, 1.0);
                let heaviest = compared.iter().map(|c| c.weight).fold(0.0, f32::max);
                for term in compared.iter().filter(|c| c.weight == heaviest) {
                    preferred.push(term.winner);
                    other.push(term.loser);
                }
            }
        }
        first += item.responses.len();
    }
    let rewards = |of: &[usize]| -> Vec<f64> {
        let reward = |&i: &usize| config.beta * f64::from(ratios[i]);
        of.iter().map(reward).collect()
    };
    let likely =
        |of: &[usize]| -> Vec<f64> { of.iter().map(|&i| f64::from(logprobs[i])).collect() };
    let (chosen, rejected) = (rewards(&preferred), rewards(&other));
    let mut line = Map::new();
    let mut put = |name: &str, numbers: &[f64]| {
        if !numbers.is_empty() {
            line.insert(name.to_owned(), json!(mean(numbers)));
        }
    };
    put("rewards/chosen", &chosen);
    put("rewards/rejected", &rejected);
    put("logps/chosen", &likely(&preferred));
    put("logps/rejected", &likely(&other));
    if config.loss == Loss::Kto {
        if !chosen.is_empty() && !rejected.is_empty() {
            put("rewards/margins", &[mean(&chosen) - mean(&rejected)]);
        }
        return line;
    }
    let gaps: Vec<f64> = chosen.iter().zip(&rejected).map(|(c, r)| c - r).collect();
    let right: Vec<f64> = gaps
        .iter()
        .map(|gap| f64::from(u8::from(*gap > 0.0)))
        .collect();
    put("rewards/margins", &gaps);
    put("rewards/accuracies", &right);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Text;
    use rlhf_train::feedback::Judgement;

    fn item(judgement: Judgement, responses: usize) -> Item {
        Item {
            prompt: vec![1],
            responses: vec![vec![2]; responses],
            judgement,
            source: None,
            whole: true,
            texts: (Text::from(""), Vec::new()),
        }
    }

    fn pair(preference: f64) -> Item {
        let ranks = Judgement::Ranks {
            ranks: vec![1.0, 2.0],
            margin: 0.0,
            preference,
        };
        item(ranks, 2)
    }

    /// By hand, β = ½: gaps 1 and −½, of which one is right.
    #[test]
    fn rewards_of_pairs_are_means_over_what_is_compared() {
        let config = Config {
            beta: 0.5,
            ..Config::default()
        };
        let items = [pair(1.0), pair(0.75)];
        let items: Vec<&Item> = items.iter().collect();
        let (ratios, logprobs) = ([1.0, -1.0, 0.0, 1.0], [-4.0, -5.0, -6.0, -8.0]);
        let line = of_step(&config, &items, &ratios, &logprobs);
        for (name, want) in [
            ("rewards/chosen", 0.25),
            ("rewards/rejected", 0.0),
            ("rewards/margins", 0.25),
            ("rewards/accuracies", 0.5),
            ("logps/chosen", -5.0),
            ("logps/rejected", -6.5),
        ] {
            assert_eq!(line[name], json!(want), "{name}");
        }
    }

    /// By hand, β = 1.
    #[test]
    fn of_thumbs_the_liked_are_the_chosen() {
        let config = Config {
            loss: Loss::Kto,
            beta: 1.0,
            ..Config::default()
        };
        let thumbs = |up| item(Judgement::Thumbs(up), 1);
        let items = [thumbs(true), thumbs(true), thumbs(false)];
        let items: Vec<&Item> = items.iter().collect();
        let line = of_step(&config, &items, &[1.0, 2.0, -1.0], &[-1.0, -2.0, -3.0]);
        assert_eq!(line["rewards/chosen"], json!(1.5));
        assert_eq!(line["rewards/margins"], json!(2.5));
        assert!(!line.contains_key("rewards/accuracies"));
        let ups = of_step(&config, &items[..2], &[1.0, 2.0], &[-1.0, -2.0]);
        assert!(!ups.contains_key("rewards/rejected") && !ups.contains_key("rewards/margins"));
    }
}
