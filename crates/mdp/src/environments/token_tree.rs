//! The token tree: language generation as a decision process.

use crate::environments::Environment;
use crate::error::{Error, Result};
use crate::mdp::{Mdp, Outcome};
use crate::policy::Policy;

/// Every prefix of at most `horizon` tokens is a state, every token an action; the reward comes with the last token.
///
/// State 0 is the empty prefix (the prompt). A response ends with the end token, if there is one, or at the horizon.
/// This is exactly the process that PPO optimises, small enough to enumerate.
#[derive(Debug, Clone)]
pub struct TokenTree {
    mdp: Mdp,
    start: Vec<f64>,
    prefixes: Vec<Vec<usize>>,
    end: Option<usize>,
}

impl TokenTree {
    /// A tree over the tokens 0 … `vocabulary` − 1, where `score` gives the reward S(y) of every finished response y.
    pub fn new(
        vocabulary: usize,
        horizon: usize,
        end: Option<usize>,
        discount: f64,
        score: impl Fn(&[usize]) -> f64,
    ) -> Result<Self> {
        for (name, size) in [("the vocabulary", vocabulary), ("the horizon", horizon)] {
            if size == 0 {
                return Err(Error::OutOfRange {
                    name,
                    range: "at least 1",
                    found: 0.0,
                });
            }
        }
        let finished =
            |y: &[usize]| y.len() == horizon || (!y.is_empty() && y.last() == end.as_ref());
        let mut prefixes: Vec<Vec<usize>> = vec![vec![]];
        let mut outcomes = Vec::new();
        // Breadth first: `prefixes` grows behind the state being expanded.
        while let Some(prefix) = prefixes.get(outcomes.len()).cloned() {
            let mut actions = Vec::new();
            if !finished(&prefix) {
                for token in 0..vocabulary {
                    let mut longer = prefix.clone();
                    longer.push(token);
                    let reward = if finished(&longer) {
                        score(&longer)
                    } else {
                        0.0
                    };
                    actions.push(Outcome::certain(prefixes.len(), reward));
                    prefixes.push(longer);
                }
            }
            outcomes.push(actions);
        }
        let mut start = vec![0.0; prefixes.len()];
        start[0] = 1.0;
        Ok(Self {
            mdp: Mdp::new(outcomes, discount)?,
            start,
            prefixes,
            end,
        })
    }

    /// Tokens a, b and the end token, three steps: +1 for ending, +½ for each a, −1 for "bb".
    pub fn example(discount: f64) -> Result<Self> {
        Self::new(3, 3, Some(2), discount, |y| {
            let ended = if y.last() == Some(&2) { 1.0 } else { 0.0 };
            let a = y.iter().filter(|&&t| t == 0).count() as f64;
            let bb = if y.windows(2).any(|w| w == [1, 1]) {
                1.0
            } else {
                0.0
            };
            ended + 0.5 * a - bb
        })
    }

    /// The tokens of a state.
    pub fn prefix(&self, state: usize) -> &[usize] {
        &self.prefixes[state]
    }

    /// The state of some tokens, if they are a prefix of a response.
    pub fn state(&self, tokens: &[usize]) -> Option<usize> {
        self.prefixes.iter().position(|p| p == tokens)
    }

    /// The states that are finished responses.
    pub fn responses(&self) -> Vec<usize> {
        (0..self.mdp.states())
            .filter(|&s| self.mdp.is_terminal(s))
            .collect()
    }

    /// `π(y) = Π_t π(y_t | y_<t)` of the response (or prefix) at `state`.
    pub fn probability(&self, policy: &Policy, state: usize) -> f64 {
        let mut node = 0;
        let mut probability = 1.0;
        for &token in self.prefix(state) {
            probability *= policy.row(node)[token];
            node = self.mdp.outcomes(node, token)[0].next;
        }
        probability
    }

    /// `½ Σ_y |π(y) − π'(y)|`: the total variation distance between two distributions of whole responses.
    pub fn total_variation(&self, policy: &Policy, other: &Policy) -> f64 {
        let gap = |&s: &usize| (self.probability(policy, s) - self.probability(other, s)).abs();
        0.5 * self.responses().iter().map(gap).sum::<f64>()
    }

    /// `S(y)`: the reward of the finished response at `state`; 0 for the empty prefix.
    pub fn score(&self, state: usize) -> f64 {
        let Some((&last, prefix)) = self.prefix(state).split_last() else {
            return 0.0;
        };
        self.state(prefix)
            .map_or(0.0, |s| self.mdp.outcomes(s, last)[0].reward)
    }
}

impl Environment for TokenTree {
    fn mdp(&self) -> &Mdp {
        &self.mdp
    }
    fn start(&self) -> &[f64] {
        &self.start
    }
    fn state_name(&self, state: usize) -> String {
        format!(
            "‹{}›",
            self.prefix(state)
                .iter()
                .map(|&t| self.action_name(t))
                .collect::<String>()
        )
    }
    fn action_name(&self, action: usize) -> String {
        match u8::try_from(action) {
            _ if self.end == Some(action) => ".".into(),
            Ok(letter) if letter < 26 => char::from(b'a' + letter).to_string(),
            _ => format!("[{action}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_every_prefix_once() {
        // Closed form: 1 + 3 + 9 + 27 prefixes; with an end token only two of three children go on: 1 + 3 + 6 + 12.
        let tree = TokenTree::new(3, 3, None, 1.0, |_| 0.0).unwrap();
        assert_eq!((tree.mdp().states(), tree.responses().len()), (40, 27));
        let tree = TokenTree::example(1.0).unwrap();
        assert_eq!((tree.mdp().states(), tree.responses().len()), (22, 15));
        for s in 0..22 {
            assert_eq!(tree.state(tree.prefix(s)), Some(s));
        }
    }

    #[test]
    fn the_score_is_paid_once_at_the_end() {
        let tree = TokenTree::example(1.0).unwrap();
        // By hand: one a and the end.
        let state = tree.state(&[0, 2]).unwrap();
        assert_eq!(
            (tree.score(state), tree.mdp().q_value(0, 0, &[0.0; 22])),
            (1.5, 0.0)
        );
        assert_eq!(tree.score(tree.state(&[1, 1, 0]).unwrap()), -0.5);
    }

    #[test]
    fn total_variation_counts_whole_responses() {
        // By hand: two tokens, two steps; a first against either first, then alike: the responses beginning with b are half.
        let tree = TokenTree::new(2, 2, None, 1.0, |_| 0.0).unwrap();
        let after = || {
            vec![
                vec![0.5, 0.5],
                vec![0.5, 0.5],
                vec![],
                vec![],
                vec![],
                vec![],
            ]
        };
        let table =
            |first: Vec<f64>| Policy::new(std::iter::once(first).chain(after()).collect()).unwrap();
        let (sure, even) = (table(vec![1.0, 0.0]), table(vec![0.5, 0.5]));
        assert!((tree.total_variation(&sure, &even) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn probabilities_of_responses_sum_to_one() {
        let tree = TokenTree::example(1.0).unwrap();
        let uniform = Policy::uniform(tree.mdp());
        let total: f64 = tree
            .responses()
            .iter()
            .map(|&s| tree.probability(&uniform, s))
            .sum();
        assert!((total - 1.0).abs() < 1e-15);
    }
}
