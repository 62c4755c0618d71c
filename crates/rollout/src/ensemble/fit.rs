//! Fitting the heads to judgements.

use anyhow::{Result, ensure};
use candle_core::{Tensor, Var};
use rand::RngCore;
use rlhf_base::rng::{stream, uniform};
use rlhf_dataset::order::step_rows;
use rlhf_ops::{AdamWStep, adamw, parallel_map};
use rlhf_train::feedback::{Judgement, LossTerms, Ties};

use super::head::{Ensemble, Head};

// Chosen by the accuracy on held-out rankings of the Tiny World after 30 to 1000 judgements. It hardly depends on them: rates of 1e-3 and
// 3e-3, 40 to 100 steps, ReLU, GELU and tanh, and a pull to the random start as strong as the start's own variance says, differ by less than
// a point. So the fewest steps that are safe, and no further setting.

/// Optimizer steps of a head, at least.
const STEPS: u64 = 60;
/// Passes over the judgements, at least.
const PASSES: u64 = 2;
/// Judgements of an optimizer step, at most.
const BATCH: usize = 512;
/// Peak learning rate; it falls linearly to 0.
const LR: f64 = 1e-3;

/// A judgement, and where the features of its responses are.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What was said.
    pub judgement: Judgement,
    /// For each of its responses, in order, its row of the features.
    pub rows: Vec<usize>,
}

impl Ensemble {
    /// Fits every head anew, from its random start, to `judged` over `features` `[N, D]`: the loss of a reward model
    /// ([`LossTerms`]), in which each judgement weighs Poisson(1) in each head, a bootstrap (Oza and Russell 2001). A function of its
    /// arguments and of nothing else: the number of threads and earlier fits do not matter, and a further judgement leaves the weights of
    /// the others as they are.
    pub fn fit(
        &self,
        features: &Tensor,
        judged: &[Judged],
        ties: Ties,
        smoothing: f64,
        seed: u64,
    ) -> Result<Self> {
        ensure!(!judged.is_empty(), "no judgement to fit the heads to");
        let features = self.standardise(features)?;
        let fitted = parallel_map(self.heads.len(), |index| {
            fit_head(
                &self.heads[index],
                &features,
                judged,
                (ties, smoothing),
                (seed, index as u64),
            )
        });
        Ok(Self {
            heads: fitted.into_iter().collect::<Result<_>>()?,
            ..self.clone()
        })
    }
}

fn fit_head(
    start: &Head,
    features: &Tensor,
    judged: &[Judged],
    (ties, smoothing): (Ties, f64),
    (seed, index): (u64, u64),
) -> Result<Head> {
    let mut rng = stream(seed, "ensemble/weights", index);
    let weights: Vec<f32> = judged.iter().map(|_| poisson(&mut rng) as f32).collect();
    let order = stream(seed, "ensemble/order", index).next_u64();
    let params = start.trainable()?;
    let zeros = |var: &Var| Var::from_tensor(&var.zeros_like()?);
    let moments = params.iter().map(|var| Ok((zeros(var)?, zeros(var)?)));
    let moments: Vec<(Var, Var)> = moments.collect::<Result<_>>()?;
    let steps = STEPS.max((PASSES * judged.len() as u64).div_ceil(BATCH as u64));
    for step in 0..steps {
        let batch = step_rows(order, judged.len(), BATCH.min(judged.len()), true, step);
        let mut terms = LossTerms::default();
        let mut rows = Vec::new();
        for &i in &batch {
            let Judged {
                judgement,
                rows: own,
            } = &judged[i];
            let weight = weights[i] / batch.len() as f32;
            terms.push(judgement, own.len(), ties, weight);
            rows.extend(own.iter().map(|&row| row as u32));
        }
        let rows = Tensor::new(rows, features.device())?;
        let weights = params.each_ref().map(|var| var.as_tensor());
        let scores = Head::scores(weights, &features.index_select(&rows, 0)?)?;
        let loss = terms.loss(&scores, smoothing, 0.0)?;
        let gradients = loss.backward()?;
        let update = AdamWStep {
            lr: LR * (1.0 - step as f64 / steps as f64),
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: step + 1,
            grad_scale: 1.0,
        };
        for (param, (m, v)) in params.iter().zip(&moments) {
            if let Some(gradient) = gradients.get(param) {
                adamw(param, gradient, m, v, &update)?;
            }
        }
    }
    Ok(Head {
        weights: params.map(|var| var.as_detached_tensor()),
    })
}

/// k ~ Poisson(1): how many uniform draws can be multiplied before the product falls below 1/e (Knuth).
fn poisson(rng: &mut impl RngCore) -> u32 {
    let mut product = uniform(rng);
    let mut k = 0;
    while product > (-1f64).exp() {
        product *= uniform(rng);
        k += 1;
    }
    k
}

#[cfg(test)]
mod tests;
