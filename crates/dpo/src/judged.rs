//! Feedback that is to be learnt from, and what of it a loss cannot learn from.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use rlhf_base::Text;
use rlhf_dataset::{Feedback, Loaded, Placed, Reading};
use rlhf_lm::Tokenizer;
use rlhf_train::feedback::{Item, Items, Judgement};
use rlhf_train::{read_and_tell, tell_skipped};

use crate::config::Config;
use crate::loss::Loss;

/// Prompts with judged responses, and for `kto` the same prompts with responses to others.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) items: Vec<Item>,
    /// Of each item its prompt with the responses of the next item that has another prompt; empty but for `kto`.
    pub(crate) mismatched: Vec<Item>,
}

/// Reads feedback and tokenises it. A row whose judgement the loss cannot use is a bad row.
pub(crate) fn read(
    config: &Config,
    files: &[PathBuf],
    reading: &Reading,
    tokenizer: &Tokenizer,
    max_length: usize,
) -> Result<Items> {
    let Loaded {
        rows,
        mut tolerance,
        ..
    } = read_and_tell::<Feedback>(files, reading)?;
    let mut usable = Vec::with_capacity(rows.len());
    for Placed { record, place } in rows {
        let record = tolerance.keep(&place, usable_by(config.loss, record))?;
        usable.extend(record.map(|record| Placed { record, place }));
    }
    let items = Items::from_feedback(
        tokenizer,
        &usable,
        max_length,
        config.margin_per_strength,
        &mut tolerance,
    )?;
    tell_skipped(&tolerance);
    Ok(items)
}

/// `record` if `loss` can learn from it, or why not.
fn usable_by(loss: Loss, record: Feedback) -> Result<Feedback, String> {
    let name = loss.name();
    match (&record, loss) {
        (Feedback::Rating(_), _) => Err(
            "a rating says neither which of two answers is better nor whether one is good; a reward model learns from it (`rlhf reward`)".to_owned(),
        ),
        (Feedback::Thumbs(_), Loss::Kto) => Ok(record),
        (Feedback::Thumbs(_), _) => Err(format!(
            "a thumb judges one answer by itself, and dpo.loss = \"{name}\" compares two: set dpo.loss to \"kto\""
        )),
        (Feedback::Ranking(ranking), Loss::Kto) if ranking.all_bad => Ok(record),
        (Feedback::Ranking(ranking), Loss::Kto) if ranking.responses.len() > 2 => Err(format!(
            "a ranking of {} answers does not say which of them are good, as dpo.loss = \"kto\" needs to know: use another loss",
            ranking.responses.len()
        )),
        (Feedback::Ranking(ranking), Loss::Kto)
            if ranking.ranks.iter().all(|rank| *rank == ranking.ranks[0]) =>
        {
            Err("a tie does not say which answer is good, as dpo.loss = \"kto\" needs to know: use another loss".to_owned())
        }
        (Feedback::Pair(pair), Loss::Ipo | Loss::Kto) if pair.margin.is_some_and(|m| m != 0.0) => {
            Err(format!(
                "the pair has a margin, and dpo.loss = \"{name}\" knows none: remove the field, or set dpo.loss to \"sigmoid\" or \"hinge\""
            ))
        }
        (Feedback::Pair(pair), Loss::Kto) if pair.preference.is_some_and(|share| share < 1.0) => {
            Err("the judges of the pair disagree, and dpo.loss = \"kto\" knows no divided votes: set dpo.loss to \"sigmoid\"".to_owned())
        }
        _ => Ok(record),
    }
}

impl Judged {
    /// `items` to train on, with what `loss` needs besides.
    pub(crate) fn to_train_on(items: Vec<Item>, loss: Loss, max_length: usize) -> Result<Self> {
        let mismatched = match loss {
            Loss::Kto => mismatched(&items, &items, max_length)?,
            _ => Vec::new(),
        };
        Ok(Self { items, mismatched })
    }

    /// `items` held out; answers to other prompts come from what is trained on, since few are held out.
    pub(crate) fn held_out(
        items: Vec<Item>,
        trained: &[Item],
        loss: Loss,
        max_length: usize,
    ) -> Result<Self> {
        let mismatched = match loss {
            Loss::Kto => mismatched(&items, trained, max_length)?,
            _ => Vec::new(),
        };
        Ok(Self { items, mismatched })
    }
}

/// The prompt of each of `items` with the responses of an item of `pool` that has another prompt: the next one in order, after the
/// last the first. What does not fit behind the prompt within `max_length` tokens is cut off.
fn mismatched(items: &[Item], pool: &[Item], max_length: usize) -> Result<Vec<Item>> {
    let n = pool.len();
    let mut all = Vec::with_capacity(items.len());
    // The next item with another prompt is the same for a run of equal prompts: it is looked for once.
    let mut next = 0;
    for (i, item) in items.iter().enumerate() {
        let other = |j: &usize| pool[j % n].prompt != item.prompt;
        if next <= i || !other(&next) {
            let found = (i + 1..=i + n).find(other);
            ensure!(
                found.is_some(),
                "dpo.loss = \"kto\" compares an answer with answers to other prompts, and all {n} rows have the same one"
            );
            next = found.unwrap_or_default();
        }
        let room = max_length.saturating_sub(item.prompt.len()).max(1);
        let mut responses = pool[next % n].responses.clone();
        responses.iter_mut().for_each(|it| it.truncate(room));
        all.push(Item {
            prompt: item.prompt.clone(),
            responses,
            judgement: Judgement::Thumbs(false),
            source: None,
            whole: true,
            texts: (Text::from(""), Vec::new()),
        });
    }
    Ok(all)
}

/// Whether each response is liked, as `kto` sees it: the better of two, the best of several, a thumb up; of answers that are all bad none.
pub(crate) fn liked(item: &Item) -> Vec<bool> {
    match &item.judgement {
        Judgement::Thumbs(up) => vec![*up; item.responses.len()],
        Judgement::AllBad(ranks) => vec![false; ranks.len()],
        _ => {
            let ranks = item.ranks();
            let best = ranks.iter().copied().fold(f64::INFINITY, f64::min);
            ranks.iter().map(|rank| *rank == best).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(prompt: u32, response: u32) -> Item {
        Item {
            prompt: vec![prompt],
            responses: vec![vec![response]],
            judgement: Judgement::Thumbs(true),
            source: None,
            whole: true,
            texts: (Text::from("p"), Vec::new()),
        }
    }

    /// By hand: prompts 1, 1, 2, 1 with the answers 10 to 13.
    #[test]
    fn a_mismatched_answer_is_that_of_the_next_other_prompt() {
        let items = [item(1, 10), item(1, 11), item(2, 12), item(1, 13)];
        let found = mismatched(&items, &items, 9).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|item| (item.prompt[0], item.responses[0][0]))
            .collect();
        assert_eq!(found, [(1, 12), (1, 12), (2, 13), (1, 12)]);
        let same = [item(1, 10), item(1, 11)];
        assert!(
            mismatched(&same, &same, 9)
                .unwrap_err()
                .to_string()
                .contains("all 2 rows")
        );
    }

    /// A prompt was cut to leave room for its own answer, and the next one's may be longer.
    #[test]
    fn a_mismatched_answer_is_cut_to_the_room_behind_the_prompt() {
        let mut items = [item(1, 10), item(2, 11)];
        items[0].prompt = vec![1; 6];
        items[1].responses = vec![vec![11, 12, 13, 14]];
        let found = mismatched(&items, &items, 8).unwrap();
        assert_eq!(found[0].responses, [vec![11, 12]]);
        assert_eq!(found[1].responses, [vec![10]]);
    }

    #[test]
    fn a_lone_prompt_meets_the_answers_of_the_training_data() {
        let trained = [item(1, 10), item(2, 11), item(3, 12)];
        let found = mismatched(&[item(9, 20), item(3, 21)], &trained, 9).unwrap();
        let responses: Vec<_> = found.iter().map(|item| item.responses[0][0]).collect();
        assert_eq!(responses, [11, 10]);
    }

    #[test]
    fn the_better_of_two_and_the_best_of_several_are_liked() {
        let of = |judgement, n: usize| Item {
            responses: vec![vec![1]; n],
            judgement,
            ..item(1, 1)
        };
        let pair = Judgement::Ranks {
            ranks: vec![2.0, 1.0],
            margin: 0.0,
            preference: 1.0,
        };
        assert_eq!(liked(&of(pair, 2)), [false, true]);
        assert_eq!(liked(&of(Judgement::Best(0), 3)), [true, false, false]);
        let bad = Judgement::AllBad(vec![1.0, 1.0]);
        assert_eq!(liked(&of(bad, 2)), [false, false]);
        assert_eq!(liked(&of(Judgement::Thumbs(false), 1)), [false]);
    }
}
