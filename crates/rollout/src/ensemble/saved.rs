//! The heads of a reward model as a file beside it, `heads.safetensors`; `reward.json` has their scale and what they say of the probes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use rlhf_lm::{HeadsCard, RewardModel, ScoreGroup, save_tensors};

use super::disagreement::mean_and_sd;
use super::head::{Ensemble, Head};

const FILE: &str = "heads.safetensors";

/// How far mean and deviation of a probe may be from those noted: hidden states in bf16 and f16 move them by more than rounding in f32, and heads of
/// another model are off by whole numbers.
const PROBE_TOLERANCE: [f64; 2] = [1e-2, 1e-1];

/// Writes the heads into the folder of their reward model.
pub fn save_heads(folder: &Path, ensemble: &Ensemble) -> Result<()> {
    let mut tensors = BTreeMap::from([
        ("features.shift".to_owned(), ensemble.shift.clone()),
        ("features.scale".to_owned(), ensemble.scale.clone()),
    ]);
    for (index, head) in ensemble.heads.iter().enumerate() {
        for (name, weight) in Head::NAMES.iter().zip(&head.weights) {
            tensors.insert(format!("heads.{index}.{name}"), weight.clone());
        }
    }
    Ok(save_tensors(&folder.join(FILE), &tensors)?)
}

/// The heads of the reward model in `folder` with their card, checked against the probes.
///
/// # Errors
/// If it has none, or they are not the ones that were saved with it; the message says what to do.
pub fn load_heads(folder: &Path, reward: &RewardModel) -> Result<(Ensemble, HeadsCard)> {
    let card = reward.card().heads.clone().with_context(|| {
        format!(
            "the reward model {} has no ensemble of heads, which say how sure its scores are: train it again with reward.heads = 16",
            folder.display()
        )
    })?;
    let path = folder.join(FILE);
    let read = || -> Result<Ensemble> {
        ensure!(
            path.is_file(),
            "reward.json names heads and the file is missing: copy the whole folder again"
        );
        let ensemble = parse(&fs_err::read(&path)?, reward.config().hidden_size())?;
        check_probes(&ensemble, &card, reward)?;
        Ok(ensemble)
    };
    let ensemble = read().with_context(|| path.display().to_string())?;
    Ok((ensemble, card))
}

fn parse(bytes: &[u8], width: usize) -> Result<Ensemble> {
    let mut tensors: BTreeMap<String, Tensor> =
        candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?
            .into_iter()
            .collect();
    let heads = tensors.keys().filter(|name| name.ends_with("score.bias"));
    let heads = heads.count();
    let mut take = |name: &str, shape: &[usize]| -> Result<Tensor> {
        let Some(found) = tensors.remove(name) else {
            bail!("the tensor {name} is missing: copy the whole folder again");
        };
        ensure!(
            found.dims() == shape,
            "the tensor {name} has the shape {:?} and should have {shape:?}: these heads belong to another model",
            found.dims()
        );
        Ok(found.to_dtype(DType::F32)?)
    };
    let shift = take("features.shift", &[width])?;
    let scale = take("features.scale", &[width])?;
    let mut all = Vec::with_capacity(heads);
    for index in 0..heads {
        let names = Head::NAMES.iter().zip(Head::shapes(width));
        let weights: Vec<Tensor> = names
            .map(|(name, shape)| take(&format!("heads.{index}.{name}"), &shape))
            .collect::<Result<_>>()?;
        all.push(Head::of(weights)?);
    }
    ensure!(
        heads > 1 && tensors.is_empty(),
        "these are not the tensors of an ensemble of heads"
    );
    Ok(Ensemble {
        shift,
        scale,
        heads: all,
    })
}

fn check_probes(ensemble: &Ensemble, card: &HeadsCard, reward: &RewardModel) -> Result<()> {
    let scale = card.calibration;
    ensure!(
        scale.mean.is_finite() && scale.std.is_finite() && scale.std > 0.0,
        "mean {} and std {} are not a scale; train the reward model again",
        scale.mean,
        scale.std
    );
    let probes = &reward.card().probes;
    ensure!(
        probes.len() == card.probes.len(),
        "reward.json has {} probes and the heads {}: train the reward model again",
        probes.len(),
        card.probes.len()
    );
    if probes.is_empty() {
        return Ok(());
    }
    let mut groups = Vec::with_capacity(probes.len());
    for probe in probes {
        let encoded = reward
            .tokenizer()
            .encode_demonstration(&probe.prompt, &probe.response)?;
        groups.push(ScoreGroup {
            prompt: encoded.prompt,
            responses: vec![encoded.completion],
        });
    }
    let tolerance =
        PROBE_TOLERANCE[usize::from(!rlhf_ops::computes_in_f32(reward.params().dtype()))];
    let found = ensemble.mean_and_sd(&reward.hidden_states(&groups)?)?;
    for ((mean, sd), noted) in found.into_iter().zip(&card.probes) {
        let close = |found: f64, noted: f64| {
            // Not `gap > …`, which a NaN would pass.
            (found - noted).abs() <= tolerance * noted.abs().max(1.0)
        };
        ensure!(
            close(mean, noted[0]) && close(sd, noted[1]),
            "the heads gave a probe {} ± {} when they were saved and give it {mean} ± {sd} now: they are not the ones of this model. \
             Copy the whole folder again, or train the reward model again",
            noted[0],
            noted[1]
        );
    }
    Ok(())
}

impl Ensemble {
    /// Mean and standard deviation over the heads for every row of `features` `[N, D]`.
    pub fn mean_and_sd(&self, features: &Tensor) -> Result<Vec<(f64, f64)>> {
        let scores = self.scores(features)?;
        let of = |row: usize| {
            let by_head: Vec<f64> = scores.iter().map(|own| own[row]).collect();
            mean_and_sd(&by_head)
        };
        Ok((0..features.dim(0)?).map(of).collect())
    }
}
