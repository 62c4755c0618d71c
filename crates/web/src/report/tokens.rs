//! Rollouts of PPO, token by token: where the distance to the reference comes from, and what the step reinforced.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::html::escape;
use crate::number::fixed;
use crate::run::Run;

/// Rollouts shown: the newest.
const MOST: usize = 4;
/// Shades on each side of zero.
const SHADES: f64 = 4.0;
/// The KL of a token, in nats, from which on it has the strongest shade.
const STRONG: f64 = 2.0;

/// The rollouts of the last step that has any; nothing where there are none.
pub(crate) fn rollouts(run: &Run) -> String {
    let mut whole: Vec<&Map<String, Value>> = (run.samples.iter())
        .filter(|sample| tokens(sample).is_some())
        .collect();
    let Some(last) = whole.last().and_then(|sample| sample.get("step")?.as_u64()) else {
        return String::new();
    };
    whole.retain(|sample| sample.get("step").and_then(Value::as_u64) == Some(last));
    let mut out = String::new();
    for sample in whole.iter().take(MOST) {
        rollout(&mut out, sample);
    }
    let _ = writeln!(
        out,
        "<p class=\"soft\">Sampled in step {last}. The pointer on a token shows its numbers; <code>rlhf explain {}</code> prints them.</p>",
        escape(&run.name)
    );
    out
}

/// One token of a rollout.
struct Token<'a> {
    text: &'a str,
    logprob: f64,
    reference: f64,
    advantage: f64,
}

/// The tokens of a rollout; nothing where its lists do not fit together.
fn tokens(sample: &Map<String, Value>) -> Option<Vec<Token<'_>>> {
    let list = |key: &str| sample.get(key)?.as_array();
    let (texts, logprobs, references, advantages) = (
        list("texts")?,
        list("logprobs")?,
        list("ref_logprobs")?,
        list("advantages")?,
    );
    let lengths = [logprobs.len(), references.len(), advantages.len()];
    if lengths.iter().any(|length| *length != texts.len()) {
        return None;
    }
    let token = |i: usize| {
        Some(Token {
            text: texts[i].as_str()?,
            logprob: logprobs[i].as_f64()?,
            reference: references[i].as_f64()?,
            advantage: advantages[i].as_f64()?,
        })
    };
    (0..texts.len()).map(token).collect()
}

fn rollout(out: &mut String, sample: &Map<String, Value>) {
    let Some(tokens) = tokens(sample) else {
        return;
    };
    let text = |key: &str| sample.get(key).and_then(Value::as_str).unwrap_or_default();
    let score = sample
        .get("score")
        .and_then(Value::as_f64)
        .map_or_else(|| "–".to_owned(), fixed);
    let kl: f64 = tokens
        .iter()
        .map(|token| token.logprob - token.reference)
        .sum();
    let most = tokens
        .iter()
        .map(|token| token.advantage.abs())
        .fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "<article class=\"card rollout\">\n<p class=\"prompt text\" dir=\"auto\">{}</p>\n<p class=\"soft\">score {score} · KL {}</p>",
        escape(text("prompt").trim()),
        fixed(kl)
    );
    type Shading<'a> = &'a dyn Fn(&Token<'_>) -> f64;
    let rows: [(&str, &str, Shading<'_>); 2] = [
        ("KL", "k", &|token| {
            (token.logprob - token.reference) / STRONG
        }),
        ("advantage", "a", &|token| {
            if most > 0.0 {
                token.advantage / most
            } else {
                0.0
            }
        }),
    ];
    for (name, class, value) in rows {
        let _ = write!(
            out,
            "<p class=\"strip text\"><span class=\"what\">{name}</span> "
        );
        for token in &tokens {
            let title = format!(
                "log π {}, reference {}, KL {}, advantage {}",
                fixed(token.logprob),
                fixed(token.reference),
                fixed(token.logprob - token.reference),
                fixed(token.advantage)
            );
            let _ = write!(
                out,
                "<span class=\"{class}{}\" title=\"{}\">{}</span>",
                shade(value(token)),
                escape(&title),
                escape(token.text)
            );
        }
        out.push_str("</p>\n");
    }
    out.push_str("</article>\n");
}

/// The shade of a value from −1 to 1: 0, or the sign (`p`, `m`) and how strong it is.
fn shade(value: f64) -> String {
    let strength = (value.abs().min(1.0) * SHADES).round();
    match (strength as u64, value > 0.0) {
        (0, _) => "0".to_owned(),
        (strength, true) => format!("p{strength}"),
        (strength, false) => format!("m{strength}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(samples: &[Value]) -> Run {
        Run {
            name: "runs/<ppo>".into(),
            samples: samples
                .iter()
                .filter_map(|row| row.as_object().cloned())
                .collect(),
            ..Run::default()
        }
    }

    #[test]
    fn a_token_is_shaded_by_its_sign_and_size() {
        let cases = [
            (0.0, "0"),
            (0.1, "0"),
            (0.13, "p1"),
            (0.5, "p2"),
            (9.0, "p4"),
            (-0.6, "m2"),
        ];
        for (value, expected) in cases {
            assert_eq!(shade(value), expected, "{value}");
        }
    }

    #[test]
    fn the_last_step_is_shown_escaped_and_lists_that_do_not_fit_are_left_out() {
        let rollout = |step: u64, text: &str| {
            json!({"step": step, "prompt": "<q>", "score": 0.5, "texts": [text, "b"], "logprobs": [-1.0, -1.0],
                   "ref_logprobs": [-3.0, -1.0], "advantages": [-0.5, 0.25]})
        };
        let page = rollouts(&run(&[rollout(1, "old"), rollout(2, "<b>x")]));
        assert!(page.contains("&lt;b&gt;x") && !page.contains("old") && page.contains("&lt;q&gt;"));
        assert!(page.contains("score 0.500 · KL 2.000"), "{page}");
        assert!(
            page.contains("class=\"kp4\"")
                && page.contains("class=\"am4\"")
                && page.contains("class=\"ap2\"")
        );
        assert!(page.contains("rlhf explain runs/&lt;ppo&gt;"));
        let broken = json!({"step": 3, "texts": ["a"], "logprobs": [], "ref_logprobs": [], "advantages": []});
        assert_eq!(rollouts(&run(&[broken])), "");
        assert_eq!(rollouts(&run(&[json!({"step": 1, "response": "x"})])), "");
    }
}
