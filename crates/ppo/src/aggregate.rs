//! The mean of a minibatch: how the losses of single tokens become one loss.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// What the policy's loss is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregate {
    /// The response tokens of the minibatch, `Σ_i Σ_t L_it / Σ_i n_i`: every token counts alike.
    #[default]
    Token,
    /// The responses of the minibatch, `1/B Σ_i 1/n_i Σ_t L_it`: every response counts alike, so a token of a long one less. Source: Shao
    /// et al., "DeepSeekMath" (2024), eq. 3.
    Sequence,
}

/// The size of a minibatch, which its losses are divided by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinibatchSize {
    /// Σ_i n_i.
    pub(crate) tokens: usize,
    /// B.
    pub(crate) responses: usize,
}

impl Aggregate {
    /// What a micro-batch contributes to the mean over its minibatch, a scalar with a graph; the sum over the micro-batches is the mean,
    /// however the minibatch is cut between responses.
    ///
    /// `losses`: `[N]` f32, response after response; `lengths`: n_i of each of them, N in all; `whole`: the minibatch.
    pub(crate) fn mean(
        self,
        losses: &Tensor,
        lengths: &[usize],
        whole: MinibatchSize,
    ) -> Result<Tensor> {
        match self {
            Self::Token => losses.sum_all()? / whole.tokens as f64,
            Self::Sequence => {
                let weight = |&n: &usize| std::iter::repeat_n(1.0 / n as f32, n);
                let weights: Vec<f32> = lengths.iter().flat_map(weight).collect();
                let weights = rlhf_ops::upload(&weights, weights.len(), losses.device())?;
                (losses * weights)?.sum_all()? / whole.responses as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Rows [1 2], [3 4 5], [7] (scripts/oracle/losses.py): over tokens 22/6, over responses (1.5 + 4 + 7)/3, and the gradient is the
    /// share of each token.
    #[test]
    fn a_mean_is_over_tokens_or_over_responses_however_the_minibatch_is_cut() {
        let rows: [&[f32]; 3] = [&[1.0, 2.0], &[3.0, 4.0, 5.0], &[7.0]];
        let whole = MinibatchSize {
            tokens: 6,
            responses: 3,
        };
        let third = 1.0 / 3.0;
        for (aggregate, want, shares) in [
            (Aggregate::Token, 3.666_667, [0.5 * third; 3]),
            (
                Aggregate::Sequence,
                4.166_667,
                [third / 2.0, third / 3.0, third],
            ),
        ] {
            for cut in 1..=3 {
                let (mut total, mut gradients) = (0.0, Vec::new());
                for part in [&rows[..cut], &rows[cut..]] {
                    if part.is_empty() {
                        continue;
                    }
                    let lengths: Vec<usize> = part.iter().map(|row| row.len()).collect();
                    let losses = Tensor::new(part.concat(), &Device::Cpu).unwrap();
                    let losses = Var::from_tensor(&losses).unwrap();
                    let mean = aggregate.mean(&losses, &lengths, whole).unwrap();
                    let gradient = mean.backward().unwrap().remove(&losses).unwrap();
                    gradients.extend(gradient.to_vec1::<f32>().unwrap());
                    total += mean.to_scalar::<f32>().unwrap();
                }
                assert!((total - want).abs() < 1e-6, "{aggregate:?} {total}");
                let shares = rows
                    .iter()
                    .zip(shares)
                    .flat_map(|(row, x)| vec![x; row.len()]);
                for (got, want) in gradients.iter().zip(shares) {
                    assert!((got - want).abs() < 1e-7, "{aggregate:?} {gradients:?}");
                }
            }
        }
    }
}
