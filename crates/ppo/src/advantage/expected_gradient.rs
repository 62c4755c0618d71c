//! The expected gradient of every estimator against the exact policy gradient, on the token tree: all groups of responses, each weighted
//! by its probability, so that nothing is left to chance.
//!
//! The policy is a table of logits, so `∂ log π(a|s) / ∂z_{s,b} = [a = b] − π(b|s)`, and at ρ = 1 the gradient of the policy loss is
//! `−Σ_t w_t A_t ∇ log π(y_t)`, w_t the weight of a token in the mean. The exact gradient is that of the KL-regularised value of the crate
//! `mdp`, by finite differences.

use rlhf_mdp::environments::{Environment, TokenTree};
use rlhf_mdp::{Policy, regularised_evaluate};

use super::*;
use crate::kl::KlEstimator;
use crate::rewards::rewards;
use crate::whiten::{Variance, whiten};

const BETA: f64 = 0.3;

/// What a token's gradient is multiplied by.
#[derive(Clone, Copy)]
enum Weights {
    /// 1 over the responses: the estimator as theory has it.
    Responses,
    /// 1 over the tokens of the group, `ppo.aggregate = "token"` with the smallest possible minibatch.
    Token,
    /// 1 over responses and tokens of the own response, `ppo.aggregate = "sequence"`.
    Sequence,
}

/// A response with its probability under the policy, its states and tokens, and its KL-shaped rewards.
struct Response {
    probability: f64,
    steps: Vec<(usize, usize)>,
    rewards: Vec<f64>,
}

/// The tree, a policy and a reference that is not the policy.
struct Ground {
    tree: TokenTree,
    logits: Vec<Vec<f64>>,
    reference: Policy,
}

impl Ground {
    fn new() -> Self {
        let tree = TokenTree::example(1.0).unwrap();
        let table = |a: usize, b: usize| -> Vec<Vec<f64>> {
            let row =
                |s| (0..tree.mdp().actions(s)).map(move |x| 0.3 * ((a * s + b * x) % 5) as f64);
            (0..tree.mdp().states()).map(|s| row(s).collect()).collect()
        };
        let (logits, reference) = (table(3, 2), Policy::softmax(&table(7, 3)));
        Self {
            tree,
            logits,
            reference,
        }
    }

    fn policy(&self) -> Policy {
        Policy::softmax(&self.logits)
    }

    /// `∂J/∂z`, one number a logit, `J = E[S − β log π/π_ref]`: central differences, Richardson-extrapolated.
    fn exact(&self) -> Vec<f64> {
        let value = |logits: &[Vec<f64>]| {
            let policy = Policy::softmax(logits);
            let plan = regularised_evaluate(self.tree.mdp(), &policy, &self.reference, BETA);
            plan.unwrap().values[0]
        };
        let mut gradient = Vec::new();
        for s in 0..self.logits.len() {
            for a in 0..self.logits[s].len() {
                let at = |h: f64| {
                    let mut moved = self.logits.clone();
                    moved[s][a] += h;
                    value(&moved)
                };
                let slope = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                gradient.push((4.0 * slope(1e-3) - slope(2e-3)) / 3.0);
            }
        }
        gradient
    }

    fn responses(&self) -> Vec<Response> {
        let (tree, policy) = (&self.tree, self.policy());
        let response = |y: usize| {
            let tokens = tree.prefix(y);
            let steps: Vec<(usize, usize)> = (0..tokens.len())
                .map(|t| (tree.state(&tokens[..t]).unwrap(), tokens[t]))
                .collect();
            let log = |p: &Policy| -> Vec<f32> {
                let each = steps.iter();
                each.map(|&(s, a)| p.row(s)[a].ln() as f32).collect()
            };
            let (own, reference) = (log(&policy), log(&self.reference));
            Response {
                probability: tree.probability(&policy, y),
                rewards: rewards(&own, &reference, tree.score(y), BETA, KlEstimator::K1),
                steps,
            }
        };
        tree.responses().into_iter().map(response).collect()
    }

    /// The expectation, over all groups of `n` responses, of the gradient that is climbed, one number a logit.
    fn expected(
        &self,
        n: usize,
        estimate: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
        weights: Weights,
    ) -> Vec<f64> {
        let (policy, responses) = (self.policy(), self.responses());
        let mut gradient: Vec<Vec<f64>> =
            self.logits.iter().map(|row| vec![0.0; row.len()]).collect();
        let count = responses.len();
        for number in 0..count.pow(n as u32) {
            let group: Vec<&Response> = (0..n)
                .map(|i| &responses[number / count.pow(i as u32) % count])
                .collect();
            let probability: f64 = group.iter().map(|y| y.probability).product();
            let rewards: Vec<Vec<f64>> = group.iter().map(|y| y.rewards.clone()).collect();
            let tokens: usize = rewards.iter().map(Vec::len).sum();
            for (y, advantages) in group.iter().zip(estimate(&rewards)) {
                let weight = match weights {
                    Weights::Responses => 1.0 / n as f64,
                    Weights::Token => 1.0 / tokens as f64,
                    Weights::Sequence => 1.0 / (n * advantages.len()) as f64,
                };
                for (&(s, taken), a) in y.steps.iter().zip(advantages) {
                    for (b, p) in policy.row(s).iter().enumerate() {
                        let slope = f64::from(u8::from(b == taken)) - p;
                        gradient[s][b] += probability * weight * a * slope;
                    }
                }
            }
        }
        gradient.concat()
    }
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The sine of the angle between two gradients: 0 where only the length differs, which a learning rate undoes.
fn turned(found: &[f64], exact: &[f64]) -> f64 {
    let dot: f64 = found.iter().zip(exact).map(|(f, e)| f * e).sum();
    let factor = dot / norm(exact).powi(2);
    let rest = found.iter().zip(exact).map(|(f, e)| f - factor * e);
    norm(&Vec::from_iter(rest)) / norm(found)
}

/// An estimator of groups of `n` responses, whitened over the group or not.
fn estimate(
    advantage: Advantage,
    n: usize,
    whitened: bool,
) -> impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>> {
    move |rewards| {
        let estimated = advantage.estimate(rewards, None, n, (1.0, 1.0));
        let mut advantages = estimated.unwrap().advantages;
        if whitened {
            whiten(&mut advantages, Variance::Population);
        }
        advantages
    }
}

/// With a sum over the tokens of each response. Rewards come from log-probabilities in f32, which keeps 1e-7 of them.
#[test]
fn the_expected_gradient_is_the_policy_gradient_where_theory_says_so() {
    let ground = Ground::new();
    let exact = ground.exact();
    for n in [2, 3] {
        let (whole, part) = (1.0, (n as f64 - 1.0) / n as f64);
        for (advantage, factor) in [
            (Advantage::Rloo, whole),
            (Advantage::DrGrpo, part),
            (Advantage::ReinforcePlusPlus, whole),
        ] {
            let estimator = estimate(advantage, n, false);
            let found = ground.expected(n, estimator, Weights::Responses);
            for (found, exact) in found.iter().zip(&exact) {
                let gap = (found - factor * exact).abs();
                assert!(gap < 1e-6, "{advantage:?} of {n}: {gap}");
            }
        }
    }
    assert!(norm(&exact) > 0.1, "nothing to climb");
}

/// Whitening over a step of many responses subtracts and divides by constants, here those of infinitely many: the gradient has another
/// length and the same direction. In a small step the constants depend on the response, see the table in README.md.
#[test]
fn whitening_over_a_large_step_scales_the_policy_gradient() {
    let ground = Ground::new();
    let (mut tokens, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for Response {
        probability,
        rewards,
        ..
    } in ground.responses()
    {
        for g in returns(&rewards, 1.0) {
            tokens += probability;
            sum += probability * g;
            squares += probability * g * g;
        }
    }
    let mean = sum / tokens;
    let deviation = (squares / tokens - mean * mean).sqrt();
    let whitened = |rewards: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let one = |r: &Vec<f64>| {
            let returns = returns(r, 1.0).into_iter();
            returns.map(|g| (g - mean) / deviation).collect()
        };
        rewards.iter().map(one).collect()
    };
    let found = ground.expected(1, whitened, Weights::Responses);
    for (found, exact) in found.iter().zip(&ground.exact()) {
        assert!((found * deviation - exact).abs() < 1e-6);
    }
}

/// The table of README.md, whose figures are those of NumPy (scripts/oracle/expected_gradients.py).
#[test]
fn the_readme_says_by_how_much_an_expected_gradient_is_turned() {
    let ground = Ground::new();
    let exact = ground.exact();
    let readme = include_str!("../../README.md");
    for (name, advantage, whitened) in [
        ("`rloo`", Advantage::Rloo, false),
        ("`dr-grpo`", Advantage::DrGrpo, false),
        ("`grpo`", Advantage::Grpo, false),
        (
            "`reinforce++`, not whitened",
            Advantage::ReinforcePlusPlus,
            false,
        ),
        ("`reinforce++`", Advantage::ReinforcePlusPlus, true),
    ] {
        let row = readme
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("| {name} | ")))
            .find(|row| row.contains("0."))
            .unwrap();
        let mut published = row
            .split(['|', ','])
            .filter_map(|cell| cell.trim().parse::<f64>().ok());
        for weights in [Weights::Responses, Weights::Token, Weights::Sequence] {
            for n in [2, 3] {
                let found = ground.expected(n, estimate(advantage, n, whitened), weights);
                let want = published.next().unwrap();
                let got = turned(&found, &exact);
                // Half a unit of the last place printed, and what f32 log-probabilities lose.
                assert!((got - want).abs() < 5.1e-4, "{name} of {n}: {got}, {want}");
            }
        }
    }
}
