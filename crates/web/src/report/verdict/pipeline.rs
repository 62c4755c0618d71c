//! What came of a pipeline: what each policy gained over the model that all are measured against.

use super::super::ending::Ending;
use super::super::facts::Facts;
use super::super::models::{Model, Models};
use super::{Verdict, arrow, stopping};
use crate::number::{fixed, interval, percent, percents};
use crate::run::Run;

/// Of a whole pipeline: what each policy gained over the reference, by what its models said to held-out prompts.
pub(crate) fn of_pipeline(models: &Models, inside: &[(&Run, Facts)]) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(reference) = models.reference() else {
        let unfinished = inside
            .iter()
            .find(|(run, _)| Ending::of(run) != Ending::Finished);
        verdict.say(match unfinished {
            Some((run, facts)) => {
                format!(
                    "The models have not been compared yet. {}: {}",
                    run.label(),
                    facts.ending(run)
                )
            }
            None => "The models have not been compared yet.".to_owned(),
        });
        return verdict;
    };
    let mut policies = models.policies();
    if models.in_rounds {
        // The table of the rounds has the others.
        policies.drain(..policies.len().saturating_sub(1));
    }
    for policy in &policies {
        verdict.say(gained(reference, policy, models));
        if let Some(sentence) = over_optimised(reference, policy) {
            verdict.say(sentence);
        }
        let run = inside.iter().find(|(run, _)| run.label() == policy.name);
        if let Some((run, facts)) = run {
            stopping(&mut verdict, run, facts);
        }
    }
    if policies.is_empty() {
        verdict.say("No policy was trained on feedback yet.");
    } else if reference.gold.is_none() && reference.judge.is_none() {
        verdict.say(
            "No program knows the truth about these prompts: the wins are those of the learned reward, and whether people would agree is not \
             known.",
        );
    }
    if let [policy] = policies[..] {
        if let (Some(before), Some(after)) = (reference.gold, policy.gold) {
            let note = policy.gold_ci.map_or_else(String::new, interval);
            verdict.show("gold score", arrow(before, after), note);
        }
        if let (Some(before), Some(after)) = (reference.judge, policy.judge) {
            let note = policy.judge_ci.map_or_else(String::new, interval);
            verdict.show("second opinion", arrow(before, after), note);
        }
        if let (Some(before), Some(after)) = (reference.reward, policy.reward) {
            verdict.show(
                "learned reward",
                arrow(before, after),
                "of the reward model",
            );
        }
        verdict.show("KL", format!("{:.2}", policy.kl), "nats a response");
        if let Some(wins) = policy.wins {
            let note = policy.wins_ci.map_or_else(String::new, percents);
            verdict.show("wins", percent(wins), note);
        }
    }
    verdict
}

fn gained(reference: &Model, policy: &Model, models: &Models) -> String {
    let scores = [
        ("gold score", reference.gold, policy.gold, policy.gold_ci),
        (
            "second opinion",
            reference.judge,
            policy.judge,
            policy.judge_ci,
        ),
        (
            "learned reward",
            reference.reward,
            policy.reward,
            policy.reward_ci,
        ),
    ];
    let changes: Vec<String> = (scores.into_iter())
        .filter_map(|(name, before, after, around)| Some(changed(name, before?, after?, around)))
        .collect();
    let wins = policy.wins.map_or_else(String::new, |wins| {
        let around = policy
            .wins_ci
            .map_or_else(String::new, |ends| format!(" {}", percents(ends)));
        format!(" It wins {}{around} of them.", percent(wins))
    });
    format!(
        "Against {} on {} held-out prompts, {} {}, at a KL of {:.2} nats a response.{wins}",
        reference.name,
        models.prompts,
        policy.name,
        match changes.is_empty() {
            true => "was compared by nothing but its KL".to_owned(),
            false => changes.join(" and "),
        },
        policy.kl
    )
}

/// What a policy did to a mean, if its interval shows that it did anything.
fn changed(name: &str, before: f64, after: f64, around: Option<(f64, f64)>) -> String {
    let spread = around.map_or_else(String::new, |ends| format!(" {}", interval(ends)));
    let (before_text, after_text) = (fixed(before), fixed(after));
    let within = around.is_some_and(|(low, high)| low <= before && before <= high);
    match after > before {
        _ if within || after == before => {
            format!(
                "left the {name} where its interval is, {before_text} before and {after_text}{spread} now"
            )
        }
        true => format!("raised the {name} from {before_text} to {after_text}{spread}"),
        false => format!("lowered the {name} from {before_text} to {after_text}{spread}"),
    }
}

/// What shows that a policy gains learned reward and loses by the truth.
fn over_optimised(reference: &Model, policy: &Model) -> Option<String> {
    let (name, before, (low, high)) = match (reference.gold, policy.gold_ci) {
        (Some(before), Some(ends)) => ("gold score", before, ends),
        _ => ("second opinion", reference.judge?, policy.judge_ci?),
    };
    let rises = policy.reward? > reference.reward?;
    if rises && high < before {
        return Some(format!(
            "{} is over-optimised: its learned reward rose while its {name} fell, so it has found answers that only the reward model likes.",
            policy.name
        ));
    }
    // On the way there was a policy whose score was higher, beyond both intervals.
    let best = (policy.path.iter())
        .filter_map(|point| match name {
            "gold score" => Some((point, point.gold?, point.gold_ci?)),
            _ => Some((point, point.judge?, point.judge_ci?)),
        })
        .filter(|(_, _, ci)| ci[0] > high)
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (low < best.1).then(|| {
        format!(
            "{} went too far: its {name} was highest after step {}, {} at a KL of {:.2}.",
            policy.name,
            best.0.step,
            fixed(best.1),
            best.0.kl
        )
    })
}
