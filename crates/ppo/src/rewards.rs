//! Rewards per token: the score of a response, shaped, at its end, and a KL penalty on every token.

use serde::{Deserialize, Serialize};

use crate::kl::KlEstimator;

/// Clips the normalised score, then applies the rule for responses without an EOS token.
pub fn shape_score(score: f64, finished: bool, clip: Option<f64>, missing_eos: MissingEos) -> f64 {
    let score = clip.map_or(score, |bound| score.clamp(-bound, bound));
    match missing_eos {
        _ if finished => score,
        MissingEos::Replace(value) => value,
        MissingEos::Subtract(penalty) => score - penalty,
        MissingEos::None => score,
    }
}

/// Rewards of one response: `r_t = −β k_t + [t = n] S`, t = 1…n.
///
/// `logprobs`, `ref_logprobs`: `[n]`, natural log, under π_old and π_ref at the sampling temperature;
/// `score`: S(x, y) after normalisation, clipping and the rule for a missing EOS token.
/// Source: Ziegler et al. (2019), eq. 2, spread over tokens; Ouyang et al. (2022), eq. 2.
pub fn rewards(
    logprobs: &[f32],
    ref_logprobs: &[f32],
    score: f64,
    beta: f64,
    estimator: KlEstimator,
) -> Vec<f64> {
    rewards_over(
        logprobs.len(),
        logprobs,
        ref_logprobs,
        score,
        beta,
        estimator,
    )
}

/// [`rewards`] with the score in the last of `slots`: n of them, or one more, which has no token and so no penalty.
pub fn rewards_over(
    slots: usize,
    logprobs: &[f32],
    ref_logprobs: &[f32],
    score: f64,
    beta: f64,
    estimator: KlEstimator,
) -> Vec<f64> {
    let penalty = |t: usize| match (logprobs.get(t), ref_logprobs.get(t)) {
        (Some(p), Some(r)) => -beta * estimator.estimate(*p, *r),
        _ => 0.0,
    };
    (0..slots)
        .map(|t| penalty(t) + if t + 1 == slots { score } else { 0.0 })
        .collect()
}

/// What happens to the score of a response that did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MissingEos {
    /// The score becomes this value, whatever the reward model said (the "EOS trick").
    Replace(f64),
    /// This much is taken off the score.
    Subtract(f64),
    /// The score stands.
    None,
}

/// Where a response's score stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreSlot {
    /// On its last token: OpenAI's, and ours.
    #[default]
    Last,
    /// One slot later, where a response is shorter than the longest, and a value is learnt there too: TRL's.
    After,
}

impl ScoreSlot {
    /// Number of rewards and values of a response of `tokens` tokens, where the longest may have `longest`.
    pub fn slots(self, tokens: usize, longest: usize) -> usize {
        tokens + usize::from(self == Self::After && tokens < longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < tolerance, "{got:?} against {want:?}");
        }
    }

    /// By hand.
    #[test]
    fn only_unfinished_responses_meet_the_rule_for_a_missing_eos_token() {
        for (score, finished, clip, rule, want) in [
            (3.0, true, Some(2.0), MissingEos::Replace(-1.0), 2.0),
            (3.0, false, Some(2.0), MissingEos::Replace(-1.0), -1.0),
            (3.0, false, Some(2.0), MissingEos::Subtract(0.5), 1.5),
            (-3.0, false, None, MissingEos::None, -3.0),
        ] {
            assert_eq!(shape_score(score, finished, clip, rule), want);
        }
    }

    /// Derived by hand and checked with NumPy (scripts/oracle/losses.py).
    #[test]
    fn rewards_are_the_kl_penalty_with_the_score_on_the_last_token() {
        let logprobs = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.6, 0.7, 0.8]];
        let references = [[0.2, 0.3, 0.4], [0.6, 0.7, 0.8], [0.9, 1.0, 1.1]];
        let expected = [[0.05, 0.05, 1.05], [0.1, 0.1, 2.1], [0.15, 0.15, 3.15]];
        for (i, want) in expected.iter().enumerate() {
            let got = rewards(
                &logprobs[i],
                &references[i],
                (i + 1) as f64,
                0.5,
                KlEstimator::K1,
            );
            assert_close(&got, want, 1e-6); // f32 inputs
        }
    }

    /// By hand: a response of 2 tokens where 3 are the most: the score moves to a third slot, which has no penalty.
    #[test]
    fn a_score_after_the_end_has_a_slot_of_its_own_where_there_is_room() {
        assert_eq!(ScoreSlot::After.slots(2, 3), 3);
        assert_eq!(ScoreSlot::After.slots(3, 3), 3);
        assert_eq!(ScoreSlot::Last.slots(2, 3), 2);
        let (p, r) = ([-1.0, -1.0], [-2.0, -1.5]);
        let got = rewards_over(3, &p, &r, 4.0, 0.5, KlEstimator::K1);
        assert_close(&got, &[-0.5, -0.25, 4.0], 1e-12);
    }
}
