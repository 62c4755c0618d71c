//! What changes a distribution before a token is drawn from it: repetition penalty, top-k, top-p.

/// `out_t = z_t / c` where z_t > 0, `z_t · c` where z_t < 0, for each t in `seen`, once however
/// often t was seen (Keskar et al. 2019, CTRL, eq. in §4.1, with the sign rule of `transformers`).
pub(crate) fn penalise(out: &mut [f32], z: &[f32], seen: &[u32], penalty: f32) {
    for &token in seen {
        if let Some(&logit) = z.get(token as usize) {
            out[token as usize] = if logit < 0.0 {
                logit * penalty
            } else {
                logit / penalty
            };
        }
    }
}

/// The support after the filters, into `kept`: the `top_k` largest weights (ties with the last
/// included), and of these the fewest largest whose share is at least `top_p` (Holtzman et al.
/// 2020: nucleus sampling). Never empty.
pub(crate) fn keep(weights: &[f32], top_k: Option<usize>, top_p: Option<f64>, kept: &mut Vec<u32>) {
    let descending = |a: &u32, b: &u32| {
        weights[*b as usize]
            .total_cmp(&weights[*a as usize])
            .then(a.cmp(b))
    };
    kept.clear();
    kept.extend(0..weights.len() as u32);
    if let Some(k) = top_k.filter(|k| *k < weights.len()) {
        let (_, &mut last, _) = kept.select_nth_unstable_by(k - 1, descending);
        let threshold = weights[last as usize];
        kept.retain(|&i| weights[i as usize] >= threshold);
    }
    let Some(p) = top_p.filter(|p| *p < 1.0) else {
        kept.sort_unstable(); // selection leaves an arbitrary order; the draw must not depend on it
        return;
    };
    kept.sort_unstable_by(descending);
    let total: f64 = kept.iter().map(|&i| f64::from(weights[i as usize])).sum();
    let mut before = 0.0;
    let mut length = 0;
    while length < kept.len() && (length == 0 || before < p * total) {
        before += f64::from(weights[kept[length] as usize]);
        length += 1;
    }
    kept.truncate(length);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rlhf_base::rng::{normal, stream};

    pub(crate) fn random_logits(n: usize, index: u64) -> Vec<f32> {
        let mut rng = stream(1, "logits", index);
        (0..n).map(|_| 2.0 * normal(&mut rng) as f32).collect()
    }

    /// By definition: rank all tokens; k-th largest is the threshold; then add tokens until the
    /// share reaches p.
    pub(crate) fn support_by_brute_force(
        weights: &[f32],
        top_k: Option<usize>,
        top_p: Option<f64>,
    ) -> Vec<u32> {
        let rank = |i: usize| weights.iter().filter(|w| **w > weights[i]).count();
        let in_k: Vec<usize> = (0..weights.len())
            .filter(|i| top_k.is_none_or(|k| rank(*i) < k))
            .collect();
        let total: f64 = in_k.iter().map(|i| f64::from(weights[*i])).sum();
        let share_above = |i: usize| -> f64 {
            let above = in_k.iter().filter(|j| weights[**j] > weights[i]);
            above.map(|j| f64::from(weights[*j])).sum::<f64>() / total
        };
        let support = in_k
            .iter()
            .filter(|i| top_p.is_none_or(|p| share_above(**i) < p));
        support.map(|i| *i as u32).collect()
    }

    #[test]
    fn top_k_and_top_p_keep_the_tokens_of_their_definitions() {
        for index in 0..50 {
            let weights: Vec<f32> = random_logits(40, index).iter().map(|l| l.exp()).collect();
            for top_k in [None, Some(1), Some(3), Some(17), Some(40), Some(99)] {
                for top_p in [None, Some(0.01), Some(0.3), Some(0.9), Some(1.0)] {
                    let mut kept = Vec::new();
                    keep(&weights, top_k, top_p, &mut kept);
                    kept.sort_unstable();
                    assert_eq!(
                        kept,
                        support_by_brute_force(&weights, top_k, top_p),
                        "k {top_k:?} p {top_p:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn ties_with_the_k_th_token_are_all_kept() {
        let mut kept = Vec::new();
        keep(&[1.0, 3.0, 2.0, 2.0, 2.0], Some(2), None, &mut kept);
        assert_eq!(kept, [1, 2, 3, 4]);
    }

    #[test]
    fn repetition_penalty_follows_the_formula_once_per_seen_token() {
        let z = [2.0, -2.0, 1.0, -1.0, 0.0];
        let mut out = z;
        penalise(&mut out, &z, &[0, 1, 0, 1, 4, 99], 2.0);
        assert_eq!(out, [1.0, -4.0, 1.0, -1.0, 0.0]);
    }
}
