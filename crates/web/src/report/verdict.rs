//! What came of a run, in words: only what its numbers show, and where they show nothing, that.

mod pipeline;

use serde_json::{Map, Value};

use super::ending::Ending;
use super::facts::Facts;
use crate::number::{fixed, interval, percent, percents, short};
use crate::run::Run;

pub(crate) use pipeline::of_pipeline;

/// One number for the eye, with its name and what it is measured on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tile {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
}

/// The sentences, the first of which matters most, and the numbers they are about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) sentences: Vec<String>,
    pub(crate) tiles: Vec<Tile>,
}

impl Verdict {
    fn say(&mut self, sentence: impl Into<String>) {
        self.sentences.push(sentence.into());
    }

    fn show(&mut self, name: &'static str, value: String, note: impl Into<String>) {
        let note = note.into();
        self.tiles.push(Tile { name, value, note });
    }
}

/// Of one run of a stage.
pub(crate) fn of_run(run: &Run, facts: &Facts) -> Verdict {
    let mut verdict = Verdict::default();
    if let Some(row) = published(run) {
        of_policy(&mut verdict, run, row);
    } else if run.last("eval/accuracy").is_some() {
        of_judge(&mut verdict, run);
    } else if run.last("eval/loss").is_some() {
        of_loss(&mut verdict, run);
    } else if let Some(trained) = trained(run) {
        verdict.say(format!(
            "{trained} Nothing was measured on what was held out, so it is not known what was learnt and what was memorised."
        ));
    } else {
        verdict.say("No numbers have been recorded yet.");
    }
    stopping(&mut verdict, run, facts);
    verdict
}

/// What the steps of training themselves show.
fn trained(run: &Run) -> Option<String> {
    let of = |metric: &str, what: &str| {
        let curve = run.curve(metric);
        let (first, last) = ends(&curve)?;
        Some(match curve.len() {
            1 => format!("In its one step so far, {what} was {}.", fixed(last)),
            n => format!(
                "In {n} steps, {what} went from {} to {}.",
                fixed(first),
                fixed(last)
            ),
        })
    };
    of(
        "objective/scores",
        "the mean score of the sampled responses",
    )
    .or_else(|| of("loss", "the training loss"))
}

/// Whether a metric was measured before training and not since.
fn only_before(curve: &[(f64, f64)]) -> bool {
    curve.len() == 1 && curve[0].0 == 0.0
}

/// That a number is the one of before training, and what training shows since.
fn say_before(verdict: &mut Verdict, run: &Run, what: String) {
    let since = trained(run).map_or_else(String::new, |trained| format!(" {trained}"));
    verdict.say(format!(
        "Before training, {what}; what was held out has not been measured since.{since}"
    ));
}

/// The first and the last value of a curve.
fn ends(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    Some((points.first()?.1, points.last()?.1))
}

/// The result that a finished run recorded.
pub(crate) fn result(run: &Run) -> Option<&Value> {
    let last = run.history.last()?;
    (last.get("event")? == "finished").then(|| last.get("result"))?
}

/// The step whose model was published, where the run says it.
pub(crate) fn published_step(run: &Run) -> Option<u64> {
    result(run)?.get("published")?.as_u64()
}

/// The evaluation of the model that was published; without one, the last.
fn published(run: &Run) -> Option<&Map<String, Value>> {
    let evaluations = || {
        let rows = run.metrics.iter().rev();
        rows.filter(|row| row.get("eval/score").is_some_and(Value::is_number))
    };
    let step = published_step(run);
    let published =
        evaluations().find(|row| step.is_some() && row.get("step").and_then(Value::as_u64) == step);
    published.or_else(|| evaluations().next())
}

/// The policy against the model it started from, on held-out prompts.
fn of_policy(verdict: &mut Verdict, run: &Run, row: &Map<String, Value>) {
    let number = |name: &str| row.get(&format!("eval/{name}")).and_then(Value::as_f64);
    let ends = |name: &str| {
        Some((
            number(&format!("{name}_low"))?,
            number(&format!("{name}_high"))?,
        ))
    };
    let (Some(score), Some(kl)) = (number("score"), number("kl")) else {
        return;
    };
    let prompts = number("prompts").map_or_else(|| "the".to_owned(), |n| format!("{n:.0}"));
    if row.get("step").and_then(Value::as_u64) == Some(0) {
        let what = format!(
            "the score on {prompts} held-out prompts is {}",
            fixed(score)
        );
        say_before(verdict, run, what);
        return;
    }
    let before = number("reference_score");
    let around = ends("score");
    let spread = around.map_or_else(String::new, |ends| format!(" {}", interval(ends)));
    verdict.say(match before {
        Some(before) => format!(
            "On {prompts} held-out prompts the score {} from {} to {}{spread}, at a KL of {kl:.2} nats a response from the model it \
             started from.",
            direction(before, score, around),
            fixed(before),
            fixed(score),
        ),
        None => format!(
            "On {prompts} held-out prompts the score is {}{spread}, at a KL of {kl:.2} nats a response from the model it started from.",
            fixed(score)
        ),
    });
    let change = before.map_or_else(|| fixed(score), |before| arrow(before, score));
    verdict.show(
        "held-out score",
        change,
        around.map_or_else(String::new, interval),
    );
    verdict.show("KL", format!("{kl:.2}"), "nats a response");
    if let Some(wins) = number("win_rate") {
        let around = ends("win_rate");
        let even = around.is_some_and(|(low, high)| low <= 0.5 && high >= 0.5);
        verdict.say(format!(
            "Its answers score above that model's on {}{} of them{}.",
            percent(wins),
            around.map_or_else(String::new, |ends| format!(" {}", percents(ends))),
            if even {
                ", which cannot be told from an even split"
            } else {
                ""
            }
        ));
        verdict.show(
            "wins",
            percent(wins),
            around.map_or_else(String::new, percents),
        );
    }
}

/// A reward model, or the implicit reward of a policy, against annotators.
fn of_judge(verdict: &mut Verdict, run: &Run) {
    let curve = run.curve("eval/accuracy");
    let Some(&(_, accuracy)) = curve.last() else {
        return;
    };
    if only_before(&curve) {
        let what = format!("it agrees with the annotators on {}", percent(accuracy));
        return say_before(verdict, run, what);
    }
    let ends = run
        .last("eval/accuracy_low")
        .zip(run.last("eval/accuracy_high"));
    let spread = ends.map_or_else(String::new, |ends| format!(" {}", percents(ends)));
    let n = run
        .last("eval/comparisons")
        .map_or_else(|| "the".to_owned(), |n| format!("{n:.0}"));
    let implicit = run.last("rewards/margins").is_some();
    let who = if implicit {
        "Its implicit reward"
    } else {
        "It"
    };
    let before = match curve.as_slice() {
        [(step, before), _, ..] if *step == 0.0 => {
            format!(", and on {} before training", percent(*before))
        }
        _ => String::new(),
    };
    let guess = match ends {
        Some((low, high)) if low <= 0.5 && high >= 0.5 => ", which cannot be told from guessing",
        _ => "",
    };
    verdict.say(format!(
        "{who} agrees with the annotators on {}{spread} of {n} held-out comparisons{guess}{before}.",
        percent(accuracy)
    ));
    verdict.show(
        "held-out accuracy",
        percent(accuracy),
        ends.map_or_else(String::new, percents),
    );
    if let Some(longer) = run.last("eval/longer_wins") {
        verdict.say(format!(
            "The rule \"the longer answer wins\" agrees on {} of them.",
            percent(longer)
        ));
        verdict.show(
            "the longer answer",
            percent(longer),
            "of the same comparisons",
        );
    }
    if let (true, Some(margin)) = (implicit, run.last("rewards/margins")) {
        verdict.show(
            "margin",
            fixed(margin),
            "of the implicit rewards, in training",
        );
    }
}

/// A loss on held-out rows.
fn of_loss(verdict: &mut Verdict, run: &Run) {
    let curve = run.curve("eval/loss");
    let Some((before, after)) = ends(&curve) else {
        return;
    };
    if only_before(&curve) {
        return say_before(
            verdict,
            run,
            format!("the held-out loss is {}", fixed(after)),
        );
    }
    if curve.len() < 2 || curve[0].0 != 0.0 {
        verdict.say(format!(
            "The held-out loss is {}; it was not measured before training.",
            fixed(after)
        ));
        verdict.show("held-out loss", fixed(after), "nats a token");
    } else {
        let change = match after < before {
            true => "fell",
            false => "has not fallen: it went",
        };
        verdict.say(format!(
            "The held-out loss {change} from {} to {}.",
            fixed(before),
            fixed(after)
        ));
        verdict.show("held-out loss", arrow(before, after), "nats a token");
    }
    let perplexity = run.curve("eval/perplexity");
    if let Some((before, after)) = ends(&perplexity) {
        let change = match perplexity.len() {
            1 => format!("{after:.2}"),
            _ => format!("{before:.2} → {after:.2}"),
        };
        verdict.show("perplexity", change, "equally likely tokens");
    }
}

/// How it came to an end, where that needs saying.
fn stopping(verdict: &mut Verdict, run: &Run, facts: &Facts) {
    let ending = Ending::of(run);
    let result = result(run);
    let flag = |name: &str| result.and_then(|it| it.get(name)?.as_bool()) == Some(true);
    if ending != Ending::Finished {
        verdict.say(facts.ending(run));
        return;
    }
    if flag("stopped_by_kl") {
        verdict.say(format!(
            "Training stopped after step {}, when the KL went beyond its budget (ppo.max_kl).",
            facts.done
        ));
    }
    if let Some(step) = published_step(run).filter(|step| *step != facts.done) {
        verdict.say(format!(
            "The policy of step {step} of {} was published: the highest held-out score within the KL budget.",
            facts.done
        ));
    }
}

/// In which direction a mean has moved, if its interval shows one.
fn direction(before: f64, after: f64, around: Option<(f64, f64)>) -> &'static str {
    match around {
        Some((low, high)) if low <= before && before <= high => "did not move beyond its interval,",
        _ if after > before => "rose",
        _ if after < before => "fell",
        _ => "stayed,",
    }
}

fn arrow(before: f64, after: f64) -> String {
    let before = if before == 0.0 {
        short(before)
    } else {
        fixed(before)
    };
    format!("{before} → {}", fixed(after))
}

#[cfg(test)]
mod tests;
