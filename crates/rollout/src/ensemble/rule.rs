//! Rules that choose what a person should judge next.

use std::str::FromStr;

use rand::RngCore;

use super::disagreement::{delta_ucb, differences, infomax, thompson};

/// κ of [`delta_ucb`].
const KAPPA: f64 = 1.0;

/// What makes a pair of answers worth a person's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Heads are sure of different winners: [`infomax`].
    Infomax,
    /// The answers may lie far apart: [`delta_ucb`].
    DeltaUcb,
    /// Two heads name different best answers: [`thompson`].
    Thompson,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 3] = [Self::Infomax, Self::DeltaUcb, Self::Thompson];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infomax => "infomax",
            Self::DeltaUcb => "deltaucb",
            Self::Thompson => "thompson",
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|rule| rule.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}")
        })
    }
}

/// Every head's score of every answer of a pool, ready to choose from.
#[derive(Clone, Debug)]
pub struct Opinions {
    /// `[H][N]`.
    scores: Vec<Vec<f64>>,
}

impl Opinions {
    /// Of `scores` `[H][N]`.
    pub fn new(scores: Vec<Vec<f64>>) -> Self {
        Self { scores }
    }

    /// The most useful pair among the answers to several prompts, those for which `open` is true: which prompt, and which two of its answers. Of equals the first.
    /// `None` where the rule has no use for any.
    pub fn pair(
        &self,
        rule: Rule,
        prompts: &[Vec<usize>],
        open: impl Fn(usize, usize, usize) -> bool,
        rng: &mut impl RngCore,
    ) -> Option<(usize, [usize; 2])> {
        if rule == Rule::Thompson {
            return prompts.iter().enumerate().find_map(|(prompt, rows)| {
                let own = |head: &Vec<f64>| rows.iter().map(|&row| head[row]).collect();
                let own: Vec<Vec<f64>> = self.scores.iter().map(own).collect();
                let (i, j) = thompson(&own, rng)?;
                open(prompt, i, j).then_some((prompt, [i, j]))
            });
        }
        let mut best: Option<(f64, (usize, [usize; 2]))> = None;
        for (prompt, rows) in prompts.iter().enumerate() {
            for i in 0..rows.len() {
                for j in i + 1..rows.len() {
                    if !open(prompt, i, j) {
                        continue;
                    }
                    let d = differences(&self.scores, rows[i], rows[j]);
                    let value = match rule {
                        Rule::DeltaUcb => delta_ucb(&d, KAPPA),
                        _ => infomax(&d),
                    };
                    if best.is_none_or(|(known, _)| value > known) {
                        best = Some((value, (prompt, [i, j])));
                    }
                }
            }
        }
        best.map(|(_, pair)| pair)
    }

    /// Of answers judged one by one, the place in `rows` of the one whose score the heads disagree about most.
    pub fn single(&self, rows: &[usize]) -> Option<usize> {
        let sd = |row: usize| {
            let by_head: Vec<f64> = self.scores.iter().map(|own| own[row]).collect();
            super::mean_and_sd(&by_head).1
        };
        let all = rows.iter().enumerate().map(|(i, &row)| (sd(row), i));
        let most = all.reduce(|best, it| if it.0 > best.0 { it } else { best });
        most.map(|(_, i)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::rng::stream;

    /// Four heads over two prompts: of answers 0 to 2 as in shared/design/algorithms.md §7, and of 3 and 4, about which all agree.
    fn opinions() -> (Opinions, [Vec<usize>; 2]) {
        let scores = [
            [1.0, 0.2, 0.5, 0.3, 0.1],
            [0.8, 0.6, 0.1, 0.3, 0.1],
            [1.2, 0.0, 0.6, 0.3, 0.1],
            [0.9, 0.4, 0.2, 0.3, 0.1],
        ];
        let scores = scores.map(|own| own.to_vec()).to_vec();
        let prompts = [vec![3, 4], vec![0, 1, 2]];
        (Opinions::new(scores), prompts)
    }

    /// The pairs that the numbers of algorithms.md §7 name: the two rules disagree. No head prefers another first answer, so Thompson finds nothing.
    #[test]
    fn each_rule_shows_its_pair() {
        let (opinions, prompts) = opinions();
        let pick = |rule, open: fn(usize, usize, usize) -> bool| {
            opinions.pair(rule, &prompts, open, &mut stream(0, "test", 1))
        };
        assert_eq!(pick(Rule::Infomax, |_, _, _| true), Some((1, [1, 2])));
        assert_eq!(pick(Rule::DeltaUcb, |_, _, _| true), Some((1, [0, 1])));
        assert_eq!(pick(Rule::Infomax, |_, _, j| j < 2), Some((1, [0, 1])));
        assert_eq!(pick(Rule::Thompson, |_, _, _| true), None);
        assert_eq!(pick(Rule::Infomax, |_, _, _| false), None);
        // By hand: the deviations over the heads of answers 0, 1, 2 are .148, .224, .206.
        assert_eq!(opinions.single(&[2, 0, 1, 3]), Some(2));
    }

    #[test]
    fn rules_are_known_by_their_names() {
        for rule in Rule::ALL {
            assert_eq!(rule.name().parse(), Ok(rule));
        }
        assert!("bald".parse::<Rule>().unwrap_err().contains("infomax"));
    }
}
