//! How likely the model itself holds a token, and which it holds likelier.

/// A token with the log-probabilities of the model itself: at temperature 1, before any filter.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// The token.
    pub token: u32,
    /// `log softmax(z)[token]`.
    pub logprob: f32,
    /// The likeliest tokens with theirs, the likeliest first, equal ones by id.
    pub likeliest: Vec<(u32, f32)>,
}

/// `log p_t = z_t − log Σ_v exp z_v` of `token` and of the `n` likeliest tokens, from the logits `z` `[V]`.
pub(crate) fn score(z: &[f32], token: u32, n: usize) -> TokenScore {
    let peak = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = z.iter().map(|l| f64::from(l - peak).exp()).sum();
    let log_total = f64::from(peak) + total.ln();
    let logprob = |i: u32| (f64::from(z[i as usize]) - log_total) as f32;
    let descending = |a: &u32, b: &u32| z[*b as usize].total_cmp(&z[*a as usize]).then(a.cmp(b));
    let mut order: Vec<u32> = (0..z.len() as u32).collect();
    if n == 0 {
        order.clear();
    } else if n < order.len() {
        order.select_nth_unstable_by(n - 1, descending);
        order.truncate(n);
    }
    order.sort_unstable_by(descending);
    TokenScore {
        token,
        logprob: logprob(token),
        likeliest: order.into_iter().map(|i| (i, logprob(i))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::random_logits;

    /// By definition: every probability, sorted.
    #[test]
    fn scores_are_those_of_the_sorted_softmax() {
        for (index, vocabulary) in [(0, 1), (1, 7), (2, 300)] {
            let mut z = random_logits(vocabulary, index);
            z[0] += 90.0; // exp of it alone would be more than f32 holds
            let weights: Vec<f64> = z.iter().map(|l| f64::from(*l).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut all: Vec<(u32, f64)> = (0..)
                .zip(weights.iter().map(|w| (w / total).ln()))
                .collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            for n in [0, 1, 5, 300] {
                let token = (vocabulary / 2) as u32;
                let scored = score(&z, token, n);
                let expected = (weights[token as usize] / total).ln();
                assert!((f64::from(scored.logprob) - expected).abs() < 1e-4);
                assert_eq!(scored.likeliest.len(), n.min(vocabulary));
                for ((id, logprob), (other, expected)) in scored.likeliest.iter().zip(&all) {
                    assert_eq!(id, other);
                    assert!((f64::from(*logprob) - expected).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn equal_tokens_come_by_id() {
        let scored = score(&[1.0, 3.0, 3.0, 3.0], 0, 2);
        let ids: Vec<u32> = scored.likeliest.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 2]);
    }
}
