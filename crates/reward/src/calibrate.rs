//! Calibration: the scale of a reward model's scores, and probe texts by which a loader verifies the model.

use anyhow::{Result, ensure};
use rlhf_lm::{Calibration, Probe};
use rlhf_train::{feedback::Item, statistics};

/// Number of rows that become probes.
const PROBED: usize = 4;

/// Mean and standard deviation (population) of the raw scores of all responses of `held_out`, so that PPO can use
/// `(r − mean) / std`; and the first few rows' texts with their raw scores.
///
/// `scores` are those of [`raw_scores`](crate::raw_scores), computed in f32: a loader in f32 checks the probes.
///
/// # Errors
/// When there are fewer than two responses, or every response gets the same score.
pub fn calibrate(held_out: &[Item], scores: &[Vec<f64>]) -> Result<(Calibration, Vec<Probe>)> {
    let calibration = scale_of(&scores.concat())?;
    let probes = probed(held_out).flat_map(|i| {
        let (prompt, responses) = &held_out[i].texts;
        responses
            .iter()
            .zip(&scores[i])
            .map(|(response, score)| Probe {
                prompt: prompt.clone(),
                response: response.clone(),
                score: *score,
            })
    });
    Ok((calibration, probes.collect()))
}

/// Mean and standard deviation (population) of raw scores.
pub(crate) fn scale_of(scores: &[f64]) -> Result<Calibration> {
    ensure!(
        scores.len() > 1,
        "the scale of scores is measured on held-out responses, and there are {}: hold out more rows",
        scores.len()
    );
    let mean = statistics::mean(scores);
    let variance = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / scores.len() as f64;
    let std = variance.sqrt();
    ensure!(
        std > 0.0,
        "every held-out response gets the same score ({mean}): the reward model tells no two of them apart; train it longer or at a higher learning rate"
    );
    Ok(Calibration {
        mean,
        std,
        responses: scores.len(),
    })
}

/// The items whose responses become probes. A loader tokenises the probes' texts, so texts that were cut cannot be probes.
pub(crate) fn probed(held_out: &[Item]) -> impl Iterator<Item = usize> + '_ {
    let whole = held_out.iter().enumerate().filter(|(_, item)| item.whole);
    whole.map(|(i, _)| i).take(PROBED)
}
