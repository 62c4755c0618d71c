//! The scale of a reward model's scores, and texts by which a loader knows the model again.

use anyhow::{Result, ensure};
use rlhf_lm::{Calibration, Probe, ScalarModel};
use rlhf_train::statistics;

use crate::eval::raw_scores;
use crate::items::Item;

/// Rows whose answers become probes.
const PROBED: usize = 4;

/// Mean and standard deviation (population) of the raw scores of all responses of `held_out`, so that PPO can use
/// `(r − mean) / std`; and the first few rows' texts with their raw scores.
///
/// `model` should record no graph, and compute in f32: a loader in f32 checks the probes.
///
/// # Errors
/// When there are fewer than two responses, or every response gets the same score.
pub fn calibrate(
    model: &ScalarModel,
    held_out: &[Item],
    micro_tokens: usize,
) -> Result<(Calibration, Vec<Probe>)> {
    let by_item = raw_scores(model, held_out, micro_tokens)?;
    let scores = by_item.concat();
    ensure!(
        scores.len() > 1,
        "the scale of scores is measured on held-out responses, and there are {}: hold out more with reward.eval_fraction, or give more rows",
        scores.len()
    );
    let mean = statistics::mean(&scores);
    let std = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / scores.len() as f64).sqrt();
    ensure!(
        std > 0.0,
        "every held-out response gets the same score ({mean}): the reward model has learned nothing; raise --lr or --epochs"
    );
    // A loader tokenises the probes' texts, so texts that were cut cannot serve.
    let whole = held_out.iter().filter(|item| item.whole).take(PROBED);
    let whole: Vec<Item> = whole.cloned().collect();
    let probes = raw_scores(model, &whole, micro_tokens)?
        .iter()
        .zip(&whole)
        .flat_map(|(scores, item)| {
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
        responses: scores.len(),
    };
    Ok((calibration, probes))
}
