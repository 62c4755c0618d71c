//! Steps that have nothing to learn from: no response ends, or all scores are equal.

use serde_json::{Map, Value};

use crate::guards::SIGNAL;

/// Steps with nothing to learn from, in a row, after which a run stops that has never had any other: a first one may be an accident of
/// its prompts, three with hundreds of responses are not, and cost little.
const FROM_THE_START: usize = 3;

/// The same for a run that has had something to learn from: a rule that few responses meet leaves a step without any now and then.
const LATER: usize = 20;

/// Why a step has nothing to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// No response ended, and the rule for those that do not gives all the same score.
    NoneEnds,
    /// The reward does not tell the responses apart.
    AllEqual,
}

/// Counts the steps in a row that have nothing to learn from.
///
/// All follows from the lines of `metrics.jsonl`, so a resumed run, fed with those it has, counts on where it was.
#[derive(Default)]
pub(crate) struct SignalMonitor {
    first_score: Option<f64>,
    has_learnt: bool,
    in_a_row: usize,
    /// The latest cause, in words.
    found: String,
    told: Vec<Cause>,
    told_of_the_end: bool,
}

impl SignalMonitor {
    /// What the line of the next step shows; each thing once.
    pub(crate) fn observe(&mut self, line: &Map<String, Value>) -> Option<String> {
        let number = |name: &str| line.get(name).and_then(Value::as_f64);
        let score = number("objective/scores")?;
        let ended = number("response/eos_fraction")?;
        let first = *self.first_score.get_or_insert(score);
        let equal = number("objective/score_range").is_some_and(|range| range <= SIGNAL);
        // Where responses are compared with those to the same prompt, the scores of two prompts may differ.
        let groups = number("objective/equal_groups");
        // What a step does about a missing end is recorded where there is a rule for it.
        let none_ends = ended == 0.0 && number("objective/missing_eos").is_some();
        // A mean over prompts also rises with the prompts that were drawn: it says something once they have been told apart.
        let risen = score > first + SIGNAL && (groups.is_none() || self.has_learnt);
        if equal && !none_ends && risen {
            self.in_a_row = 0;
            let told = std::mem::replace(&mut self.told_of_the_end, true);
            return (!told).then(|| {
                format!(
                    "{}, above the {first:.3} of the first step: the policy has learnt all that the reward can tell it, and only the KL \
                     penalty moves it now",
                    all_equal(score, groups)
                )
            });
        }
        let cause = match (none_ends, equal) {
            (true, _) => Cause::NoneEnds,
            (false, true) => Cause::AllEqual,
            (false, false) => {
                self.in_a_row = 0;
                self.has_learnt = true;
                return None;
            }
        };
        let found = match cause {
            Cause::NoneEnds => {
                none_ended(number("response/length").unwrap_or(f64::NAN), score, equal)
            }
            Cause::AllEqual => format!(
                "{}: the reward does not tell the responses apart, and only the KL penalty moves the policy. Look at the responses in \
                 samples.jsonl: if they are alike, raise ppo.temperature; if not, ppo.reward needs to tell good ones from bad ones",
                all_equal(score, groups)
            ),
        };
        // Where all scores are lowered alike, what is left of them still differs.
        self.in_a_row = if equal { self.in_a_row + 1 } else { 0 };
        self.has_learnt |= !equal;
        self.found.clone_from(&found);
        let told = self.told.contains(&cause);
        self.told.push(cause);
        (!told).then_some(found)
    }

    /// Why the run should stop, if it should.
    pub(crate) fn nothing_to_learn(&self) -> Option<String> {
        let enough = match self.has_learnt {
            true => LATER,
            false => FROM_THE_START,
        };
        (self.in_a_row >= enough).then(|| {
            format!(
                "{} steps in a row have had nothing to learn from: {}",
                self.in_a_row, self.found
            )
        })
    }
}

/// What the scores of a step are that teaches nothing; `groups`: the number of its prompts, where responses are compared with those to the
/// same prompt.
fn all_equal(score: f64, groups: Option<f64>) -> String {
    match groups {
        None => format!("all scores are {score:.3}"),
        Some(groups) => format!(
            "the responses to each of the {groups:.0} prompts have one and the same score, on average {score:.3}"
        ),
    }
}

fn none_ended(length: f64, score: f64, equal: bool) -> String {
    let effect = match equal {
        true => {
            format!("ppo.missing_eos gives all of them the score {score:.3}, whatever they say")
        }
        false => "ppo.missing_eos lowers the scores of all of them".to_owned(),
    };
    format!(
        "no response has ended after {length:.0} tokens, so {effect}. If answers are cut short, raise ppo.response_length; if the model does \
         not end its answers, fine-tune it first on answers that end (`rlhf sft`); or let responses that do not end keep their scores, with \
         ppo.missing_eos = \"none\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A step's mean score, its range, and the share of responses that end; with a rule for those that do not.
    fn step(score: f64, range: f64, ended: f64) -> Map<String, Value> {
        let line = json!({
            "objective/scores": score, "objective/score_range": range, "response/eos_fraction": ended, "response/length": 40.0,
            "objective/missing_eos": -0.5,
        });
        line.as_object().unwrap().clone()
    }

    /// What each step says, and the step at which the run should first stop.
    fn said(steps: impl IntoIterator<Item = Map<String, Value>>) -> (Vec<String>, Option<usize>) {
        let (mut monitor, mut all, mut stop) = (SignalMonitor::default(), Vec::new(), None);
        for (i, line) in steps.into_iter().enumerate() {
            all.extend(monitor.observe(&line));
            if monitor.nothing_to_learn().is_some() {
                stop = stop.or(Some(i + 1));
            }
        }
        (all, stop)
    }

    #[test]
    fn responses_that_never_end_are_told_at_the_first_step_and_stop_the_third() {
        let (said, stop) = said(vec![step(-1.0, 0.0, 0.0); 5]);
        assert_eq!((said.len(), stop), (1, Some(3)));
        assert!(
            said[0].starts_with("no response has ended after 40 tokens")
                && said[0].contains("the score -1.000")
                && said[0].contains("ppo.response_length"),
            "{said:?}"
        );
    }

    #[test]
    fn scores_that_are_all_equal_are_told_at_the_first_step_and_stop_the_third() {
        let (said, stop) = said(vec![step(0.0, 0.0, 0.9); 5]);
        assert_eq!((said.len(), stop), (1, Some(3)));
        assert!(said[0].contains("does not tell the responses apart"));
    }

    #[test]
    fn scores_that_differ_are_no_cause_for_words() {
        let (said, stop) = said((0..40).map(|i| step(f64::from(i % 5), 0.5, 0.1)));
        assert!(said.is_empty() && stop.is_none(), "{said:?}");
    }

    /// A rule that takes the same off every score leaves their differences; without a rule a missing end changes nothing.
    #[test]
    fn where_scores_still_differ_a_missing_end_does_not_stop_a_run() {
        let (words, stop) = said(vec![step(-0.3, 0.5, 0.0); 9]);
        assert_eq!((words.len(), stop), (1, None));
        assert!(words[0].contains("lowers the scores"));
        let mut without_rule = step(-0.3, 0.5, 0.0);
        without_rule.remove("objective/missing_eos");
        assert_eq!(said(vec![without_rule; 9]), (Vec::new(), None));
    }

    /// A rare success comes after steps without any; a reward that is met by all is not a fault.
    #[test]
    fn a_run_that_has_learnt_has_more_patience_and_may_reach_the_top() {
        let rare = |n: usize| {
            let mut steps = vec![step(0.1, 1.0, 0.9)];
            steps.extend(vec![step(0.0, 0.0, 0.9); n]);
            said(steps).1
        };
        assert_eq!((rare(19), rare(20)), (None, Some(21)));
        let mut solved = vec![step(0.2, 1.0, 0.9)];
        solved.extend(vec![step(1.0, 0.0, 1.0); 50]);
        let (words, stop) = said(solved);
        assert_eq!((words.len(), stop), (1, None));
        assert!(words[0].contains("all that the reward can tell"));
    }

    /// Prompts that score differently, each with responses that score alike, drawn in another order: the mean rises, and nothing is learnt.
    #[test]
    fn where_responses_are_compared_by_prompt_a_mean_that_rises_by_chance_is_no_success() {
        let by_prompt = |score: f64, range: f64, equal: usize| {
            let mut line = step(score, range, 0.9);
            line.insert("objective/equal_groups".into(), json!(equal));
            line
        };
        let (words, stop) = said([1.0, 2.0, 1.5, 2.5].map(|score| by_prompt(score, 0.0, 8)));
        assert_eq!((words.len(), stop), (1, Some(3)));
        assert!(
            words[0].starts_with("the responses to each of the 8 prompts have one and the same"),
            "{words:?}"
        );
        // One prompt of eight is enough to learn from, and then the top may be reached.
        let (words, stop) = said(vec![by_prompt(1.0, 0.5, 7); 9]);
        assert_eq!((words.len(), stop), (0, None));
        let mut solved = vec![by_prompt(1.0, 0.5, 7)];
        solved.extend(vec![by_prompt(2.0, 0.0, 8); 50]);
        let (words, stop) = said(solved);
        assert_eq!((words.len(), stop), (1, None));
        assert!(
            words[0].contains("all that the reward can tell"),
            "{words:?}"
        );
    }

    /// Evaluations stand between the steps, and a single response is compared with nothing.
    #[test]
    fn other_lines_and_single_responses_do_not_count() {
        let mut monitor = SignalMonitor::default();
        let evaluation = json!({"eval/score": 0.5}).as_object().unwrap().clone();
        let mut single = step(0.0, 0.0, 1.0);
        single.remove("objective/score_range");
        for line in [&evaluation, &single].repeat(9) {
            assert_eq!(monitor.observe(line), None);
            assert_eq!(monitor.nothing_to_learn(), None);
        }
    }
}
