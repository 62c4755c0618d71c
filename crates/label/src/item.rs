//! What can be judged: a prompt with its answers.

use rlhf_base::{Text, rng::fnv1a};
use serde::{Deserialize, Serialize};

use crate::Kind;

/// An answer that can be judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What it says.
    pub text: Text,
    /// The model that gave it, where that is known. It is written down, and never shown before the judgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether it ended by itself, and was not cut off at the longest length.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub finished: bool,
}

fn yes() -> bool {
    true
}

fn is_yes(finished: &bool) -> bool {
    *finished
}

/// A prompt and all answers to it that there are: an item is made of some of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidates {
    /// The prompt; empty where there is none.
    pub prompt: Text,
    /// Its answers, no two alike.
    pub answers: Vec<Answer>,
    /// Where the row comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Candidates {
    /// The answers without repetitions, in their order.
    pub fn new(prompt: Text, answers: Vec<Answer>, source: Option<String>) -> Self {
        let mut distinct: Vec<Answer> = Vec::with_capacity(answers.len());
        for answer in answers {
            if distinct.iter().all(|known| known.text != answer.text) {
                distinct.push(answer);
            }
        }
        Self {
            prompt,
            answers: distinct,
            source,
        }
    }

    /// A name for them: the same wherever the same answers to the same prompt come from.
    pub(crate) fn name(&self) -> String {
        let all: Vec<usize> = (0..self.answers.len()).collect();
        self.item(Kind::Ranking, &all).id
    }

    /// What a session of `kind` can ask about them: where answers are judged one by one each stands alone, where they are compared all
    /// stay together. Nothing where there is nothing to compare.
    pub fn for_kind(self, kind: Kind) -> Vec<Self> {
        match kind.compares() {
            true if self.answers.len() < 2 => Vec::new(),
            true => vec![self],
            false => {
                let (prompt, source) = (self.prompt, self.source);
                let alone = |answer| Self {
                    prompt: prompt.clone(),
                    answers: vec![answer],
                    source: source.clone(),
                };
                self.answers.into_iter().map(alone).collect()
            }
        }
    }

    /// The item that shows these of the answers.
    pub fn item(&self, kind: Kind, answers: &[usize]) -> Item {
        let mut answers = answers.to_vec();
        answers.sort_unstable();
        let answers: Vec<Answer> = answers.iter().map(|&i| self.answers[i].clone()).collect();
        Item {
            id: id(kind, &self.prompt, &answers),
            prompt: self.prompt.clone(),
            answers,
            source: self.source.clone(),
        }
    }

    /// Every item that a strategy could make of them.
    pub(crate) fn items(&self, kind: Kind) -> Vec<Item> {
        let n = self.answers.len();
        match kind {
            Kind::Pair => {
                let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| [i, j]));
                pairs.map(|pair| self.item(kind, &pair)).collect()
            }
            _ => vec![self.item(kind, &(0..n).collect::<Vec<_>>())],
        }
    }
}

/// What one judgement is about. The order of the answers says nothing; [`Shown`](crate::Shown) has the order on a screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name, the same after a restart and in any order of the rows: a hash of the kind, the prompt and the answers.
    pub id: String,
    /// The prompt.
    pub prompt: Text,
    /// The answers that are judged.
    pub answers: Vec<Answer>,
    /// Where the row comes from.
    pub source: Option<String>,
}

fn id(kind: Kind, prompt: &Text, answers: &[Answer]) -> String {
    let mut bytes = kind.name().as_bytes().to_vec();
    for text in std::iter::once(prompt).chain(answers.iter().map(|answer| &answer.text)) {
        bytes.push(0);
        // A text has nothing that JSON lacks.
        bytes.extend(serde_json::to_vec(text).unwrap_or_default());
    }
    format!("{:016x}", fnv1a(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(answers: &[&str]) -> Candidates {
        let answer = |text: &&str| Answer {
            text: Text::from(*text),
            model: None,
            finished: true,
        };
        let answers = answers.iter().map(answer).collect();
        Candidates::new(Text::from("q"), answers, None)
    }

    #[test]
    fn answers_that_are_alike_count_once_and_one_alone_cannot_be_compared() {
        let three = candidates(&["a", "b", "a", "c"]);
        assert_eq!(three.answers.len(), 3);
        assert_eq!(three.clone().for_kind(Kind::Rating).len(), 3);
        assert_eq!(three.for_kind(Kind::Pair).len(), 1);
        assert!(candidates(&["a", "a"]).for_kind(Kind::Pair).is_empty());
    }

    #[test]
    fn an_item_is_known_by_kind_prompt_and_answers() {
        let all = candidates(&["a", "b", "c"]);
        let item = all.item(Kind::Pair, &[2, 0]);
        assert_eq!(item.id, all.item(Kind::Pair, &[0, 2]).id);
        assert_eq!(item.answers[0].text, Text::from("a"));
        assert_ne!(item.id, all.item(Kind::Pair, &[0, 1]).id);
        assert_ne!(item.id, all.item(Kind::Ranking, &[0, 2]).id);
        assert_eq!(all.items(Kind::Pair).len(), 3);
        assert!(all.items(Kind::Pair).contains(&item));
        assert_eq!(all.items(Kind::Ranking)[0].answers.len(), 3);
    }
}
