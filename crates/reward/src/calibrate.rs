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
    let all = scores.concat();
    ensure!(
        all.len() > 1,
        "the scale of scores is measured on held-out responses, and there are {}: hold out more rows",
        all.len()
    );
    let mean = statistics::mean(&all);
    let std = (all.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    ensure!(
        std > 0.0,
        "every held-out response gets the same score ({mean}): the reward model tells no two of them apart; train it longer or at a higher learning rate"
    );
    // A loader tokenises the probes' texts, so texts that were cut cannot be probes.
    let whole = held_out.iter().zip(scores).filter(|(item, _)| item.whole);
    let probes = whole
        .take(PROBED)
        .flat_map(|(item, scores)| {
            let (prompt, responses) = &item.texts;
            responses.iter().zip(scores).map(|(response, score)| Probe {
                prompt: prompt.clone(),
                response: response.clone(),
                score: *score,
            })
        })
        .collect();
    let calibration = Calibration {
        mean,
        std,
        responses: all.len(),
    };
    Ok((calibration, probes))
}
