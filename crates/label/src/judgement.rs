//! A judgement as rows of a file of feedback, and such rows as a judgement again.
//!
//! A judgement is one row: a pair with the better answer as `chosen`, a ranking where it is a tie or an order, a rating, a thumb. A
//! rewritten answer adds a second row, a pair in which it is preferred to the answer that it replaces. Besides the record a row
//! holds how it came about:
//!
//! | field | holds |
//! |---|---|
//! | `id` | the item, the same wherever it is judged again |
//! | `annotator` | who judged; also the `source`, where the item has none |
//! | `seconds` | from when it was on the screen to the judgement |
//! | `side` | the place of each answer on the screen, from 0, in the order in which the row has the answers |
//! | `models` | the model of each answer, in the same order |
//! | `finished` | whether each answer ended by itself, in the same order; only where one was cut at the longest length |
//! | `strategy` | how the item was chosen |
//! | `shown_at` | when it came on the screen |
//! | `repeat` | `true` where the annotator had judged the item before |
//! | `rewritten` | `true` in the row of a rewritten answer |

use rlhf_base::Text;
use rlhf_dataset::{Demonstration, Feedback, Pair, Ranking, Rating, Thumbs};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::item::Item;
use crate::verdict::{Rewritten, Verdict, competition_ranks};

/// An item as one annotator sees it. It holds the models' names, which nothing may show before the judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Its name on the screen: the item, and how often this annotator has judged it before.
    pub id: String,
    /// What is judged.
    pub item: Item,
    /// Which answer stands where: the answer at place `p` of the screen is `item.answers[sides[p]]`.
    pub sides: Vec<usize>,
    /// Whether this annotator has judged the item before.
    pub repeat: bool,
    /// How the item was chosen.
    pub strategy: String,
}

impl Shown {
    /// The answers in the order of the screen.
    pub fn texts(&self) -> Vec<&Text> {
        let answers = self.sides.iter().map(|&i| &self.item.answers[i].text);
        answers.collect()
    }

    /// The place of each answer of the item on the screen.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![0; self.sides.len()];
        for (place, &answer) in self.sides.iter().enumerate() {
            places[answer] = place;
        }
        places
    }
}

/// What one annotator said about one item.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// What was on the screen.
    pub shown: Shown,
    /// What was said.
    pub verdict: Verdict,
    /// The answer that was written in place of one.
    pub rewritten: Option<Rewritten>,
    /// Who said it.
    pub annotator: String,
    /// How long it took; nothing where a program judged.
    pub seconds: Option<f64>,
    /// When the item came on the screen, RFC 3339; nothing where a program judged.
    pub shown_at: Option<String>,
}

/// A record with how it came about: one line of the file.
#[derive(Serialize)]
struct Row<'a, R> {
    #[serde(flatten)]
    record: R,
    annotator: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    side: Vec<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<Option<&'a str>>,
    #[serde(skip_serializing_if = "all")]
    finished: Vec<bool>,
    strategy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    shown_at: Option<&'a str>,
    #[serde(skip_serializing_if = "no")]
    repeat: bool,
    #[serde(skip_serializing_if = "no")]
    rewritten: bool,
}

fn no(flag: &bool) -> bool {
    !*flag
}

fn all(flags: &[bool]) -> bool {
    flags.iter().all(|flag| *flag)
}

impl Judgement {
    /// The rows of a file of feedback; a skipped item has none.
    pub fn rows(&self) -> Vec<Value> {
        let item = &self.shown.item;
        let n = item.answers.len();
        let in_order: Vec<usize> = (0..n).collect();
        let (record, answers) = match &self.verdict {
            Verdict::Skip => return Vec::new(),
            Verdict::Better { side, strength } => {
                let chosen = self.shown.sides[*side];
                let answers = vec![chosen, 1 - chosen];
                let text = |i: usize| item.answers[answers[i]].text.clone();
                let mut pair = self.pair(text(0), text(1));
                pair.strength = Some(f64::from(*strength));
                (Feedback::Pair(pair), answers)
            }
            Verdict::Tie => (self.ranking(vec![1; n], false), in_order),
            Verdict::BothBad => (self.ranking(vec![1; n], true), in_order),
            Verdict::Ranks(by_side) => {
                let places = self.shown.places();
                let ranks: Vec<u32> = places.iter().map(|&place| by_side[place]).collect();
                (self.ranking(competition_ranks(&ranks), false), in_order)
            }
            Verdict::Rating(rating) => {
                let rating = Rating {
                    prompt: item.prompt.clone(),
                    response: item.answers[0].text.clone(),
                    rating: f64::from(*rating),
                    source: self.source(),
                    id: Some(item.id.clone()),
                };
                (Feedback::Rating(rating), in_order)
            }
            Verdict::Thumbs(label) => {
                let thumbs = Thumbs {
                    prompt: item.prompt.clone(),
                    completion: item.answers[0].text.clone(),
                    label: *label,
                    source: self.source(),
                    id: Some(item.id.clone()),
                };
                (Feedback::Thumbs(thumbs), in_order)
            }
        };
        let mut rows = vec![self.row(record, &answers, false)];
        if let Some((old, new)) = self.replaced()
            && n > 1
        {
            let pair = self.pair(new, item.answers[old].text.clone());
            rows.push(self.row(Feedback::Pair(pair), &[old], true));
        }
        rows
    }

    /// The rewritten answer as a demonstration, a row of another file.
    pub fn demonstration(&self) -> Option<Value> {
        let (_, completion) = self.replaced()?;
        let record = Demonstration {
            prompt: self.shown.item.prompt.clone(),
            completion,
            source: self.source(),
            id: Some(self.shown.item.id.clone()),
        };
        Some(self.row(record, &[], true))
    }

    /// Which answer was replaced, and by what.
    fn replaced(&self) -> Option<(usize, Text)> {
        let rewritten = self.rewritten.as_ref()?;
        let old = self.shown.sides[rewritten.side];
        let new = rewritten.in_place_of(&self.shown.item.answers[old].text);
        Some((old, new))
    }

    fn source(&self) -> Option<String> {
        let own = self.shown.item.source.clone();
        own.or_else(|| Some(self.annotator.clone()))
    }

    fn pair(&self, chosen: Text, rejected: Text) -> Pair {
        Pair {
            prompt: self.shown.item.prompt.clone(),
            chosen,
            rejected,
            margin: None,
            strength: None,
            preference: None,
            source: self.source(),
            id: Some(self.shown.item.id.clone()),
        }
    }

    fn ranking(&self, ranks: Vec<u32>, all_bad: bool) -> Feedback {
        let item = &self.shown.item;
        Feedback::Ranking(Ranking {
            prompt: item.prompt.clone(),
            responses: item.answers.iter().map(|it| it.text.clone()).collect(),
            ranks,
            all_bad,
            source: self.source(),
            id: Some(item.id.clone()),
        })
    }

    /// One line: `record`, whose answers are these of the item, in its order.
    fn row(&self, record: impl Serialize, answers: &[usize], rewritten: bool) -> Value {
        let (item, places) = (&self.shown.item, self.shown.places());
        let models = answers.iter().map(|&i| item.answers[i].model.as_deref());
        let models: Vec<Option<&str>> = models.collect();
        let known = models.iter().any(Option::is_some);
        let row = Row {
            record,
            annotator: &self.annotator,
            seconds: self.seconds.map(|s| (s * 1000.0).round() / 1000.0),
            side: answers.iter().map(|&i| places[i]).collect(),
            models: if known { models } else { Vec::new() },
            finished: answers.iter().map(|&i| item.answers[i].finished).collect(),
            strategy: &self.shown.strategy,
            shown_at: self.shown_at.as_deref(),
            repeat: self.shown.repeat,
            rewritten,
        };
        // Texts, numbers and names: nothing that JSON lacks.
        json!(row)
    }
}

/// What a row of the file says of the judgement behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Past {
    /// The item.
    pub item: String,
    /// Who judged.
    pub annotator: String,
    /// Each answer as text with its place on the screen.
    pub answers: Vec<(String, usize)>,
    /// What was said of them.
    pub said: Said,
    /// Whether none of them was any good.
    pub all_bad: bool,
    /// How long it took, where it is known.
    pub seconds: Option<f64>,
    /// Whether the annotator had judged the item before.
    pub repeat: bool,
    /// How the item was chosen.
    pub strategy: String,
}

/// A verdict by answers rather than by sides.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The rank of each answer, 1 the best.
    Ranks(Vec<u32>),
    /// A rating.
    Rating(f64),
    /// Good or not.
    Thumbs(bool),
}

impl Past {
    /// The judgement behind a row; nothing where the row was not written by a session, or only adds a rewritten answer.
    pub fn of(row: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| Some(row.get(name)?.as_str()?.to_owned());
        let flag = |name: &str| row.get(name) == Some(&Value::Bool(true));
        if flag("rewritten") {
            return None;
        }
        let side = row.get("side")?.as_array()?;
        let side: Option<Vec<usize>> = side.iter().map(|it| Some(it.as_u64()? as usize)).collect();
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let (answers, said) = if let (Some(chosen), Some(rejected)) =
            (row.get("chosen"), row.get("rejected"))
        {
            (
                vec![shown(chosen), shown(rejected)],
                Said::Ranks(vec![1, 2]),
            )
        } else if let (Some(responses), Some(ranks)) = (row.get("responses"), row.get("ranks")) {
            let ranks = ranks.as_array()?.iter().map(|it| Some(it.as_u64()? as u32));
            let ranks: Option<Vec<u32>> = ranks.collect();
            let responses = responses.as_array()?.iter().map(shown).collect();
            (responses, Said::Ranks(ranks?))
        } else if let Some(rating) = row.get("rating") {
            (
                vec![shown(row.get("response")?)],
                Said::Rating(rating.as_f64()?),
            )
        } else {
            let label = row.get("label")?.as_bool()?;
            (vec![shown(row.get("completion")?)], Said::Thumbs(label))
        };
        let side = side.filter(|side| side.len() == answers.len())?;
        let counted = match &said {
            Said::Ranks(ranks) => ranks.len() == answers.len(),
            _ => true,
        };
        counted.then_some(Self {
            item: text("id")?,
            annotator: text("annotator")?,
            answers: answers.into_iter().zip(side).collect(),
            said,
            all_bad: flag("all_bad"),
            seconds: row.get("seconds").and_then(Value::as_f64),
            repeat: flag("repeat"),
            strategy: text("strategy")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::item::{Answer, Candidates};

    fn judged(kind: Kind, texts: &[&str], sides: &[usize], verdict: Verdict) -> Judgement {
        let answers = texts.iter().enumerate().map(|(i, text)| Answer {
            text: Text::from(*text),
            model: Some(format!("m{i}")),
            finished: true,
        });
        let all = Candidates::new(Text::from("q"), answers.collect(), None);
        let item = all.item(kind, &(0..texts.len()).collect::<Vec<_>>());
        Judgement {
            shown: Shown {
                id: format!("{}.0", item.id),
                item,
                sides: sides.to_vec(),
                repeat: false,
                strategy: "random".to_owned(),
            },
            verdict,
            rewritten: None,
            annotator: "ann".to_owned(),
            seconds: Some(1.23456),
            shown_at: None,
        }
    }

    fn past(row: &Value) -> Past {
        Past::of(row.as_object().unwrap()).unwrap()
    }

    /// By hand: "b" stands on the left and is chosen.
    #[test]
    fn a_pair_names_the_better_answer_and_where_it_stood() {
        let better = Verdict::Better {
            side: 0,
            strength: 2,
        };
        let judgement = judged(Kind::Pair, &["a", "b"], &[1, 0], better);
        let rows = judgement.rows();
        let id = &judgement.shown.item.id;
        let want = json!({
            "prompt": "q", "chosen": "b", "rejected": "a", "strength": 2.0, "source": "ann", "id": id,
            "annotator": "ann", "seconds": 1.235, "side": [0, 1], "models": ["m1", "m0"], "strategy": "random",
        });
        assert_eq!(rows, [want]);
        let past = past(&rows[0]);
        assert_eq!(past.answers, [("b".to_owned(), 0), ("a".to_owned(), 1)]);
        assert_eq!(past.said, Said::Ranks(vec![1, 2]));
        assert_eq!(past.seconds, Some(1.235));
    }

    #[test]
    fn an_answer_that_was_cut_is_marked() {
        let better = Verdict::Better {
            side: 0,
            strength: 2,
        };
        let mut judgement = judged(Kind::Pair, &["a", "b"], &[1, 0], better);
        assert!(judgement.rows()[0].get("finished").is_none());
        judgement.shown.item.answers[1].finished = false;
        let row = &judgement.rows()[0];
        assert_eq!(
            (&row["chosen"], &row["finished"]),
            (&json!("b"), &json!([false, true]))
        );
    }

    /// By hand: the screen shows c, a, b; ranked 2, 1, 2 there, so a is first and the two others share the second rank.
    #[test]
    fn ranks_by_side_become_ranks_by_answer() {
        let verdict = Verdict::Ranks(vec![5, 1, 5]);
        let judgement = judged(Kind::Ranking, &["a", "b", "c"], &[2, 0, 1], verdict);
        let row = &judgement.rows()[0];
        assert_eq!(row["responses"], json!(["a", "b", "c"]));
        assert_eq!(row["ranks"], json!([1, 2, 2]));
        assert_eq!(row["side"], json!([1, 2, 0]));
        assert_eq!(past(row).said, Said::Ranks(vec![1, 2, 2]));
    }

    #[test]
    fn ties_ratings_and_thumbs_are_rows_of_their_own_kinds() {
        let tie = judged(Kind::Pair, &["a", "b"], &[0, 1], Verdict::Tie).rows();
        assert_eq!(tie[0]["ranks"], json!([1, 1]));
        assert_eq!(tie[0].get("all_bad"), None);
        let bad = judged(Kind::Pair, &["a", "b"], &[0, 1], Verdict::BothBad).rows();
        assert_eq!(bad[0]["ranks"], json!([1, 1]));
        assert_eq!(bad[0]["all_bad"], json!(true));
        let rating = judged(Kind::Rating, &["a"], &[0], Verdict::Rating(4)).rows();
        assert_eq!(past(&rating[0]).said, Said::Rating(4.0));
        let thumbs = judged(Kind::Thumbs, &["a"], &[0], Verdict::Thumbs(false)).rows();
        assert_eq!(past(&thumbs[0]).said, Said::Thumbs(false));
        let skip = judged(Kind::Pair, &["a", "b"], &[0, 1], Verdict::Skip);
        assert!(skip.rows().is_empty());
    }

    #[test]
    fn a_rewritten_answer_is_preferred_to_what_it_replaces_and_is_a_demonstration() {
        let better = Verdict::Better {
            side: 1,
            strength: 1,
        };
        let mut judgement = judged(Kind::Pair, &["a", "b"], &[1, 0], better);
        judgement.rewritten = Some(Rewritten {
            side: 0,
            text: "c".to_owned(),
        });
        let rows = judgement.rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(
            (&rows[0]["chosen"], &rows[0]["rejected"]),
            (&json!("a"), &json!("b"))
        );
        assert_eq!(
            (&rows[1]["chosen"], &rows[1]["rejected"]),
            (&json!("c"), &json!("b"))
        );
        assert_eq!(Past::of(rows[1].as_object().unwrap()), None);
        let demonstration = judgement.demonstration().unwrap();
        assert_eq!(demonstration["completion"], json!("c"));
        let alone = Judgement {
            rewritten: Some(Rewritten {
                side: 0,
                text: "c".to_owned(),
            }),
            ..judged(Kind::Thumbs, &["a"], &[0], Verdict::Thumbs(false))
        };
        assert_eq!(alone.rows().len(), 1);
    }

    #[test]
    fn rows_of_others_are_no_judgements_of_ours() {
        for row in [
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            json!({"prompt": "q", "chosen": "a", "rejected": "b", "id": "1", "annotator": "x", "side": "left"}),
            json!({"id": "1", "annotator": "x", "side": [0]}),
        ] {
            assert_eq!(Past::of(row.as_object().unwrap()), None, "{row}");
        }
    }
}
