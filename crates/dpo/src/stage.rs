//! Learning from preferences as a stage: what it reads, and what it refuses.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rlhf_base::caption::Caption;
use rlhf_train::feedback::{Divided, Item};
use rlhf_train::{
    Bundled, LossMonitor, Makes, MayChange, Prepared, Session, Source, Stage, Training,
    router_aux_loss_coef, row_limit,
};
use serde_json::{Map, Value};

use crate::captions::CAPTIONS;
use crate::config::Config;
use crate::judged::{self, Judged, liked};
use crate::loss::Loss;
use crate::train::PreferenceLearning;

/// `rlhf dpo`.
pub struct Dpo;

impl Stage for Dpo {
    const NAME: &'static str = "dpo";
    const TITLE: &'static str = "Direct preference optimisation";
    const ABOUT: &'static str =
        "Learn from human feedback without a reward model: DPO, IPO, hinge, KTO";
    const MANUAL: &'static str = "Starts from the fine-tuned model in runs/sft, which is also the frozen reference; its log-probabilities are computed \
        once and kept beside the run, so that one model is held. Takes pairs, rankings (all their pairs) and choices of the best; \
        with --loss kto thumbs, and pairs as a good and a bad answer. The answers to a prompt share its computation. Reports how often the \
        policy's implicit reward β log π/π_ref agrees with people on held-out prompts. Without --prefs the bundled rankings are used.";
    const EXAMPLE: &'static str = "rlhf dpo --prefs prefs.jsonl --beta 0.1 --lr 1e-5";
    const SHORT_HELP: &'static [&'static str] = &[
        "model",
        "prefs",
        "eval_prefs",
        "loss",
        "beta",
        "epochs",
        "steps",
        "batch",
        "lr",
        "max_length",
        "eval_every",
    ];
    const MAY_CHANGE: MayChange = Training::MAY_CHANGE;
    const MAKES: Makes = Makes::Policy;
    const CAPTIONS: &'static [Caption] = CAPTIONS;
    const NEXT: (&'static str, &'static str) = ("rlhf chat --model {out}", "");

    type Config = Config;

    fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        LossMonitor::findings(lines)
    }

    fn validate(config: &Config) -> Result<()> {
        config.validate()
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
        let model = session.trainable(Path::new(&config.model));
        let mut model =
            model.with_context(|| format!("loading the policy from {}", config.model))?;
        model.tokenizer = (model.tokenizer)
            .allow_special(config.allow_special)
            .take_raw(config.raw);
        let max_length = row_limit(Self::NAME, config.max_length, &model.config);
        let reading = config.training.data.reading();
        let read =
            |files: &[PathBuf]| judged::read(config, files, &reading, &model.tokenizer, max_length);
        let own = match config.eval_prefs.as_slice() {
            [] => None,
            files => Some(read(files)?),
        };
        let Divided {
            trained,
            held_out,
            counts,
            mut warnings,
        } = Divided::of(
            Self::NAME,
            read(&config.prefs)?,
            own,
            config.eval_fraction,
            max_length,
            &model.tokenizer,
        )?;
        ensure!(
            trained.iter().any(|item| teaches(config, item)),
            "every row is a tie, so that no answer is better than another: there is nothing to learn"
        );
        if let Some(warning) = one_sided(config, &trained) {
            tracing::warn!("{warning}");
            warnings.push(warning);
        }
        let extent = config.training.extent(
            Self::NAME,
            trained.len(),
            &model.config,
            session.recompute,
            &session.device,
        )?;
        let held_out = Judged::held_out(held_out, &trained, config.loss, max_length)?;
        Ok(Box::new(PreferenceLearning {
            config: config.clone(),
            balance: router_aux_loss_coef(Self::NAME, &model.config, config.router_aux_loss_coef)?,
            extent,
            model,
            trained: Judged::to_train_on(trained, config.loss, max_length)?,
            held_out,
            counts,
            warnings,
        }))
    }
}

/// Whether an item prefers an answer to another, or likes or dislikes one.
pub(crate) fn teaches(config: &Config, item: &Item) -> bool {
    let ranks = item.ranks();
    config.loss == Loss::Kto || ranks.iter().any(|rank| *rank != ranks[0])
}

/// What is to be said of thumbs that all point one way, or mostly.
fn one_sided(config: &Config, items: &[Item]) -> Option<String> {
    if config.loss != Loss::Kto {
        return None;
    }
    let flags: Vec<bool> = items.iter().flat_map(liked).collect();
    let up = flags.iter().filter(|liked| **liked).count();
    let down = flags.len() - up;
    let (desirable, undesirable) = (
        config.desirable_weight * up as f64,
        config.undesirable_weight * down as f64,
    );
    let balance = desirable / undesirable;
    if up == 0 || down == 0 {
        let way = if down == 0 { "liked" } else { "disliked" };
        return Some(format!(
            "all {} answers are {way}: kto learns from both kinds",
            flags.len()
        ));
    }
    // The authors' range, with some room for rounding.
    (!(0.9..=1.5).contains(&balance)).then(|| {
        format!(
            "{up} answers are liked and {down} disliked: λ_D·{up} / λ_U·{down} is {balance:.2}, and KTO's authors advise 1 to 4/3: set \
             dpo.desirable_weight or dpo.undesirable_weight"
        )
    })
}
