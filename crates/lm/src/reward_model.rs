//! A reward model as a directory: `…ForSequenceClassification` with one label, and `reward.json` beside it.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bases::LoadedModel;
use crate::language_model::special_ids;
use crate::score_group::{at_the_ends, for_each_batch};
use crate::{
    Bases, Error, Head, LoraConfig, ModelConfig, Packed, Params, Result, ScalarModel, ScoreGroup,
    Tokenizer, WeightFormat, Weights, last_hidden, write_scalar,
};
use rlhf_base::Text;

const CARD: &str = "reward.json";

/// The scale of raw scores, measured on held-out responses: PPO uses `(r − mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean raw score.
    pub mean: f64,
    /// Standard deviation (population) of raw scores.
    pub std: f64,
    /// Responses measured.
    pub responses: usize,
}

/// A text whose raw score was noted when the model was saved, and is checked when it is loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The prompt.
    pub prompt: Text,
    /// The response.
    pub response: Text,
    /// Its raw score.
    pub score: f64,
}

/// The content of `reward.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RewardCard {
    /// The scale, where it was measured.
    pub calibration: Option<Calibration>,
    /// How the model was trained, for people to read.
    pub trained: Value,
    /// Texts with known scores.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// The ensemble of heads beside the model, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<HeadsCard>,
}

/// What `reward.json` says of an ensemble of heads: its file holds the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadsCard {
    /// The scale of the heads' mean score, measured where that of the model was.
    pub calibration: Calibration,
    /// For each probe of the card, mean and standard deviation (population) over the heads, before calibration.
    pub probes: Vec<[f64; 2]>,
}

/// A frozen reward model, ready to score.
pub struct RewardModel {
    model: ScalarModel,
    params: Params,
    tokenizer: Tokenizer,
    card: RewardCard,
}

/// How far a probe's score may be from the one noted, in f32; a wrong head or tokenizer is off by whole numbers.
const PROBE_TOLERANCE: f64 = 1e-2;

impl RewardModel {
    /// Reads a directory and checks its probes. A directory without `reward.json` has no calibration. The base of an adapter must be on this
    /// machine.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        Self::load_over(dir, dtype, device, &Bases::default())
    }

    /// Like [`RewardModel::load`]. An adapter is laid over its base if that is among the `bases` in use, and else merged into it.
    pub fn load_over(dir: &Path, dtype: DType, device: &Device, bases: &Bases) -> Result<Self> {
        let LoadedModel {
            config,
            params,
            tokenizer,
            ..
        } = bases.load(dir, Head::Scalar, Weights::Frozen, dtype, device)?;
        let path = dir.join(CARD);
        let card = match path.is_file() {
            true => serde_json::from_str(&fs_err::read_to_string(&path)?)
                .map_err(|e| Error::file(&path, e.to_string()))?,
            false => RewardCard::default(),
        };
        let model = Self {
            model: ScalarModel::new(&config, &params)?,
            params,
            tokenizer,
            card,
        };
        model
            .check_card(dtype)
            .map_err(|what| Error::file(&path, what.to_string()))?;
        Ok(model)
    }

    /// Its parameters as the start of another model that an adapter trains: the weights are shared, head and adapter are copies that are
    /// trainable. Where it has no adapter yet, one as `lora` asks for is drawn from `seed`.
    pub fn adapted(&self, lora: &LoraConfig, seed: u64) -> Result<Params> {
        self.params.adapted_copy(self.config(), lora, seed)
    }

    /// Rounds its weights as [`Params::rounded`] does.
    pub fn round(&mut self, format: WeightFormat) -> Result<()> {
        self.params = self.params.rounded_scalar(self.config(), format)?;
        self.model = ScalarModel::new(self.config(), &self.params)?;
        Ok(())
    }

    /// Writes the directory: configuration, weights in f32 or the adapter alone, tokenizer, `reward.json`.
    pub fn save(
        dir: &Path,
        config: &ModelConfig,
        params: &Params,
        tokenizer: &Tokenizer,
        card: &RewardCard,
    ) -> Result<()> {
        write_scalar(dir, config, params, special_ids(tokenizer), DType::F32)?;
        tokenizer.save(dir)?;
        Self::save_card(dir, card)
    }

    /// Writes `reward.json` alone, replacing one that is there: a model is calibrated anew.
    pub fn save_card(dir: &Path, card: &RewardCard) -> Result<()> {
        let text = serde_json::to_string_pretty(card).map_err(|e| Error::Invalid(e.to_string()))?;
        let aside = dir.join(CARD).with_extension("json.new");
        fs_err::write(&aside, text + "\n")?;
        Ok(fs_err::rename(&aside, dir.join(CARD))?)
    }

    fn check_card(&self, dtype: DType) -> Result<()> {
        if let Some(c) = &self.card.calibration
            && !(c.mean.is_finite() && c.std.is_finite() && c.std > 0.0)
        {
            return Err(Error::Invalid(format!(
                "calibration: mean {} and std {} are not a scale; calibrate the model again",
                c.mean, c.std
            )));
        }
        // In bf16 and f16 a score moves by more than rounding in f32 would explain.
        let tolerance = if rlhf_ops::computes_in_f32(dtype) {
            PROBE_TOLERANCE
        } else {
            10.0 * PROBE_TOLERANCE
        };
        let mut groups = Vec::with_capacity(self.card.probes.len());
        for probe in &self.card.probes {
            let encoded = self
                .tokenizer
                .encode_demonstration(&probe.prompt, &probe.response)?;
            groups.push(ScoreGroup {
                prompt: encoded.prompt,
                responses: vec![encoded.completion],
            });
        }
        for (probe, found) in self.card.probes.iter().zip(self.raw_scores(&groups)?) {
            let found = found[0];
            let gap = (found - probe.score).abs();
            // Not `gap > …`, which a NaN would pass.
            let close = gap <= tolerance * probe.score.abs().max(1.0);
            if !close {
                return Err(Error::Invalid(format!(
                    "a probe scored {} when the model was saved and scores {found} now: weights, head or tokenizer are \
                     not the ones that were saved. Copy the whole folder again, or train the reward model again",
                    probe.score
                )));
            }
        }
        Ok(())
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// How text becomes tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What `reward.json` says.
    pub fn card(&self) -> &RewardCard {
        &self.card
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Raw scores of every response, one list per group.
    pub fn raw_scores(&self, groups: &[ScoreGroup]) -> Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(groups.len());
        let forward = |batch: &Packed| self.model.hidden(batch);
        for_each_batch(
            groups,
            self.params.device(),
            forward,
            |hidden, spans, part| {
                let hidden = at_the_ends(&hidden, spans)?;
                let scores = rlhf_ops::read_to_host(&self.model.scores(&hidden)?)?;
                let mut scores = scores.into_iter().map(f64::from);
                all.extend(
                    part.iter()
                        .map(|group| scores.by_ref().take(group.responses.len()).collect()),
                );
                Ok(())
            },
        )?;
        Ok(all)
    }

    /// The hidden states that the head reads, f32 `[R, H]` on the CPU: one for each response, group after group.
    pub fn hidden_states(&self, groups: &[ScoreGroup]) -> Result<Tensor> {
        last_hidden(groups, self.params.device(), |batch| {
            self.model.hidden(batch)
        })
    }

    /// Scores on the calibrated scale, `(r − mean) / std`; raw where there is no calibration.
    pub fn scores(&self, groups: &[ScoreGroup]) -> Result<Vec<Vec<f64>>> {
        let mut scores = self.raw_scores(groups)?;
        if let Some(c) = self.card.calibration {
            scores
                .iter_mut()
                .flatten()
                .for_each(|score| *score = (*score - c.mean) / c.std);
        }
        Ok(scores)
    }
}
