//! What stands behind the verdict: the learned reward, and what the models say.

use std::fmt::Write as _;

use super::answers::Answers;
use super::models::readable;
use crate::html::{escape, fold};
use crate::run::Run;

/// How the learned reward is spread and how well it is `judged`, and cards of what models said.
pub(crate) fn evidence(run: &Run, reference: &str, policies: &[&str], judged: &str) -> String {
    let answers = Answers::of(run);
    let mut body = String::new();
    let histograms = answers.histograms(reference, policies) + judged;
    // Writing to a String cannot fail, so the results here and below carry nothing.
    if !histograms.is_empty() {
        let _ = writeln!(
            body,
            "<section>\n<h2>The learned reward</h2>\n<div class=\"grid\">\n{histograms}</div>\n</section>"
        );
    }
    let mut sections = String::new();
    for (i, policy) in policies.iter().enumerate() {
        let cards = answers.cards(policy);
        match (cards.is_empty(), i) {
            (true, _) => {}
            (false, 0) => sections.push_str(&cards),
            (false, _) => fold(
                &mut sections,
                &format!("cards-{}-{policy}", run.name),
                &format!("Answers of {}", readable(policy)),
                &cards,
            ),
        }
    }
    if !sections.is_empty() {
        let of = match policies {
            [_] => String::new(),
            [first, ..] => format!(", by the scores of {}", readable(first)),
            [] => String::new(),
        };
        let _ = writeln!(
            body,
            "<section>\n<h2>What they say{}</h2>\n{sections}</section>",
            escape(&of)
        );
    }
    body
}
