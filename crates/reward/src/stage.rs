//! Reward modelling as a stage: what it reads, the hold-out split, the scale of ratings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rlhf_base::caption::Caption;
use rlhf_dataset::{Feedback, Reading};
use rlhf_lm::{HeadInit, LanguageModel, ScalarModel};
use rlhf_train::feedback::{Divided, Item, Items, Judgement};
use rlhf_train::{
    Bundled, LossMonitor, Makes, MayChange, Prepared, Session, Source, Stage, Training,
    read_and_tell, row_limit, statistics, tell_skipped,
};
use serde_json::{Map, Value};

use crate::captions::CAPTIONS;
use crate::config::Config;
use crate::train::RewardModelling;

/// `rlhf reward`.
pub struct Reward;

impl Stage for Reward {
    const NAME: &'static str = "reward";
    const TITLE: &'static str = "Reward model";
    const ABOUT: &'static str =
        "Train a reward model on human feedback: which answer people prefer";
    const MANUAL: &'static str = "Starts from the fine-tuned model in runs/sft with a scalar head in place of the vocabulary. Takes \
        pairs, rankings of several answers, choices of the best, ratings and thumbs, mixed as one likes, each with its own loss. \
        Reports accuracy on held-out prompts with a 95 % interval beside what \"the longer answer wins\" would get, and measures the \
        scale of the scores, which PPO needs. Without --prefs the bundled rankings are used.";
    const EXAMPLE: &'static str = "rlhf reward --prefs prefs.jsonl --lr 1e-5";
    const SHORT_HELP: &'static [&'static str] = &[
        "model",
        "prefs",
        "eval_prefs",
        "epochs",
        "steps",
        "batch",
        "lr",
        "max_length",
        "eval_every",
        "rating_field",
    ];
    const MAY_CHANGE: MayChange = Training::MAY_CHANGE;
    const MAKES: Makes = Makes::RewardModel;
    const CAPTIONS: &'static [Caption] = CAPTIONS;
    const NEXT: (&'static str, &'static str) =
        ("rlhf ppo --model {model} --reward {out}", " --prompts FILE");

    type Config = Config;

    fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        LossMonitor::findings(lines)
    }

    fn sources(config: &mut Config) -> Result<Vec<Source<'_>>> {
        Ok(vec![
            Source::Model {
                setting: "model",
                name: &mut config.model,
                made_by: "sft",
                stand_in: None,
            },
            Source::Data {
                setting: "prefs",
                files: &mut config.prefs,
                held_out: Some(&mut config.eval_prefs),
                bundled: Bundled::Preferences,
            },
        ])
    }

    fn prepare(config: &Config, session: &Session) -> Result<Box<dyn Prepared>> {
        ensure!(
            config.heads != 1,
            "reward.heads is 1, and one head has none to disagree with: set it to 0 for none, or to 16"
        );
        let base = session.trainable(Path::new(&config.model));
        let mut base =
            base.with_context(|| format!("loading the model to start from at {}", config.model))?;
        base.tokenizer = (base.tokenizer)
            .allow_special(config.allow_special)
            .take_raw(config.raw);
        let described = base.describe()?;
        let max_length = row_limit(Self::NAME, config.max_length, &base.config);
        let reading = Reading {
            rating_field: config.rating_field.clone(),
            ..config.training.data.reading()
        };
        let read = |files: &[PathBuf]| -> Result<Items> {
            let mut feedback = read_and_tell::<Feedback>(files, &reading)?;
            let items = Items::from_feedback(
                &base.tokenizer,
                &feedback.rows,
                max_length,
                config.margin_per_strength,
                &mut feedback.tolerance,
            )?;
            tell_skipped(&feedback.tolerance);
            Ok(items)
        };
        let own = match config.eval_prefs.as_slice() {
            [] => None,
            files => Some(read(files)?),
        };
        let Divided {
            trained: mut items,
            mut held_out,
            counts,
            warnings,
        } = Divided::of(
            Self::NAME,
            read(&config.prefs)?,
            own,
            config.eval_fraction,
            max_length,
            &base.tokenizer,
        )?;
        ensure!(
            !held_out.is_empty(),
            "no feedback is held out, and the reward model's scale is measured on held-out responses: raise reward.eval_fraction or \
             name reward.eval_prefs"
        );
        standardise_ratings(&mut items, &mut held_out);

        // The head replaces the vocabulary projection; the trunk goes on learning.
        let head = HeadInit::Normal { seed: session.seed };
        let LanguageModel {
            config: model,
            params,
            tokenizer,
            ..
        } = base;
        let params = ScalarModel::params_over(&model, &params, head)?;
        let extent = config.training.extent(
            Self::NAME,
            items.len(),
            &model,
            session.recompute,
            &session.device,
        )?;
        Ok(Box::new(RewardModelling {
            config: config.clone(),
            extent,
            model,
            params,
            tokenizer,
            items,
            held_out,
            counts,
            described,
            warnings,
        }))
    }
}

/// Ratings become (rating − mean) / standard deviation of those of the same source, both measured on the training items: one
/// file may rate from 1 to 5 and another from −4 to 4. A source without ratings to train on takes those of all sources.
fn standardise_ratings(items: &mut [Item], held_out: &mut [Item]) {
    let mut by_source: BTreeMap<Option<String>, Vec<f64>> = BTreeMap::new();
    let mut all = Vec::new();
    for item in &*items {
        if let Judgement::Rating(rating) = item.judgement {
            by_source
                .entry(item.source.clone())
                .or_default()
                .push(rating);
            all.push(rating);
        }
    }
    if all.is_empty() {
        return;
    }
    let overall = scale(&all);
    let scales: BTreeMap<_, _> = by_source
        .into_iter()
        .map(|(source, ratings)| (source, scale(&ratings)))
        .collect();
    for item in items.iter_mut().chain(held_out) {
        if let Judgement::Rating(rating) = &mut item.judgement {
            let (mean, deviation) = scales.get(&item.source).copied().unwrap_or(overall);
            *rating = (*rating - mean) / deviation;
        }
    }
}

/// Mean and population standard deviation; the latter is 1 where all ratings are equal.
fn scale(ratings: &[f64]) -> (f64, f64) {
    let mean = statistics::mean(ratings);
    let variance = ratings.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / ratings.len() as f64;
    (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Text;

    fn rated(source: Option<&str>, rating: f64) -> Item {
        Item {
            prompt: vec![1],
            responses: vec![vec![2]],
            judgement: Judgement::Rating(rating),
            source: source.map(str::to_owned),
            whole: true,
            texts: (Text::from(""), Vec::new()),
        }
    }

    fn ratings(items: &[Item]) -> Vec<f64> {
        let rating = |item: &Item| match item.judgement {
            Judgement::Rating(rating) => rating,
            _ => f64::NAN,
        };
        items.iter().map(rating).collect()
    }

    /// By hand: 1 and 5 have mean 3 and deviation 2; −4 and 4 mean 0 and deviation 4; all four mean 1.5 and deviation √12.25 = 3.5.
    #[test]
    fn each_source_has_a_scale_of_its_own() {
        let mut items = [
            ("stars", 1.0),
            ("signed", -4.0),
            ("stars", 5.0),
            ("signed", 4.0),
        ]
        .map(|(source, rating)| rated(Some(source), rating));
        let mut held_out = [
            rated(Some("stars"), 3.0),
            rated(Some("signed"), 2.0),
            rated(None, 5.0),
        ];
        standardise_ratings(&mut items, &mut held_out);
        assert_eq!(ratings(&items), [-1.0, -1.0, 1.0, 1.0]);
        assert_eq!(ratings(&held_out), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn equal_ratings_become_zeros() {
        let mut items = [rated(None, 4.0), rated(None, 4.0)];
        standardise_ratings(&mut items, &mut []);
        assert_eq!(ratings(&items), [0.0, 0.0]);
    }
}
