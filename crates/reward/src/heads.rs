//! The ensemble of heads that says how sure a reward model is.

use anyhow::Result;
use rlhf_lm::{HeadsCard, ScalarModel};
use rlhf_rollout::{Ensemble, Judged};
use rlhf_train::feedback::{Counts, Item, Share, report};
use rlhf_train::statistics;
use serde_json::{Map, Value, json};

use crate::calibrate::{probed, scale_of};
use crate::config::Config;
use crate::scores::hidden_states;

/// Heads that were fitted to the hidden states of a trained reward model.
pub(crate) struct FittedHeads {
    pub(crate) ensemble: Ensemble,
    pub(crate) card: HeadsCard,
    /// The share of held-out comparisons that their mean orders as people did.
    accuracy: Option<Share>,
    /// Mean standard deviation over the heads of a held-out response, on the calibrated scale.
    sd: f64,
}

impl FittedHeads {
    /// Fits `config.heads` heads to the judgements that the model was trained on, over the hidden states that its own head reads.
    pub(crate) fn fit(
        model: &ScalarModel,
        (items, held_out): (&[Item], &[Item]),
        config: &Config,
        micro_batch_tokens: usize,
        seed: u64,
    ) -> Result<Self> {
        let features = hidden_states(model, items, micro_batch_tokens)?;
        let mut first = 0;
        let judged = items.iter().map(|item| {
            let rows = first..first + item.responses.len();
            first = rows.end;
            Judged {
                judgement: item.judgement.clone(),
                rows: rows.collect(),
            }
        });
        let judged: Vec<Judged> = judged.collect();
        let fresh = Ensemble::fresh(&features, config.heads, seed)?;
        let ensemble = fresh.fit(
            &features,
            &judged,
            config.ties,
            config.label_smoothing,
            seed,
        )?;
        let (card, scores) = heads_card(&ensemble, model, held_out, micro_batch_tokens)?;
        let by_item = |pick: fn(&(f64, f64)) -> f64| -> Vec<Vec<f64>> {
            let scores = scores.iter();
            scores.map(|own| own.iter().map(pick).collect()).collect()
        };
        let means = by_item(|(mean, _)| *mean);
        let deviations = by_item(|(_, sd)| *sd).concat();
        Ok(Self {
            ensemble,
            accuracy: report(held_out, &means, Counts::default()).accuracy,
            sd: statistics::mean(&deviations) / card.calibration.std,
            card,
        })
    }

    /// Under their names in `metrics.jsonl`.
    pub(crate) fn metrics(&self) -> Map<String, Value> {
        let accuracy = self.accuracy.map(|it| ("eval/heads_accuracy", it.value));
        let all = accuracy.into_iter().chain([("eval/heads_sd", self.sd)]);
        all.map(|(name, number)| (name.to_owned(), json!(number)))
            .collect()
    }

    /// A line for people.
    pub(crate) fn describe(&self) -> String {
        let accuracy = self.accuracy.map_or(String::new(), |it| {
            format!("their mean has an accuracy of {:.1} %, ", 100.0 * it.value)
        });
        format!(
            "{} heads: {accuracy}a held-out score has a standard deviation of {:.2} over them\n",
            self.ensemble.heads(),
            self.sd
        )
    }
}

/// Mean and standard deviation over the heads, for each response of each item.
pub type ByResponse = Vec<Vec<(f64, f64)>>;

/// What `reward.json` says of the heads, measured on held-out items, and mean and standard deviation over the heads for each response.
pub fn heads_card(
    ensemble: &Ensemble,
    model: &ScalarModel,
    held_out: &[Item],
    micro_batch_tokens: usize,
) -> Result<(HeadsCard, ByResponse)> {
    let hidden = hidden_states(model, held_out, micro_batch_tokens)?;
    let mut all = ensemble.mean_and_sd(&hidden)?.into_iter();
    let scores = held_out.iter();
    let scores = scores.map(|item| all.by_ref().take(item.responses.len()).collect());
    let scores: ByResponse = scores.collect();
    let means: Vec<f64> = scores.iter().flatten().map(|(mean, _)| *mean).collect();
    let probes = probed(held_out).flat_map(|i| &scores[i]);
    let card = HeadsCard {
        calibration: scale_of(&means)?,
        probes: probes.map(|&(mean, sd)| [mean, sd]).collect(),
    };
    Ok((card, scores))
}
