//! Supervised fine-tuning as a stage: what it reads, and how its rows come about.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rlhf_base::caption::Caption;
use rlhf_dataset::{Demonstration, Loaded, Placed, Reading, Tolerance, hold_out};
use rlhf_lm::SaveDtype;
use rlhf_train::{
    Bundled, LossMonitor, Makes, MayChange, Prepared, Session, Source, Stage, Training,
    read_and_tell, router_aux_loss_coef, row_limit, tell_skipped,
};
use serde_json::{Map, Value};

use crate::captions::CAPTIONS;
use crate::config::Config;
use crate::rows::Rows;
use crate::train::LanguageModelling;

/// `rlhf sft`.
pub struct Sft;

impl Stage for Sft {
    const NAME: &'static str = "sft";
    const TITLE: &'static str = "Supervised fine-tuning";
    const ABOUT: &'static str =
        "Fine-tune a language model on demonstrations: prompts and the answers it should give";
    const MANUAL: &'static str = "Only the answers carry loss (the prompt is context), each with the end-of-sequence (EOS) token, so that the model \
        learns to stop. The result is a Hugging Face directory in the run's final/. Without --data the bundled demonstrations are \
        used, without --model the bundled tiny model.";
    const EXAMPLE: &'static str = "rlhf sft --model gpt2 --data demos.jsonl --epochs 2";
    const SHORT_HELP: &'static [&'static str] = &[
        "model",
        "data",
        "eval_data",
        "epochs",
        "steps",
        "batch",
        "lr",
        "max_length",
        "eval_every",
    ];
    const MAY_CHANGE: MayChange = Training::MAY_CHANGE;
    const MAKES: Makes = Makes::Reference;
    const CAPTIONS: &'static [Caption] = CAPTIONS;
    const NEXT: (&'static str, &'static str) = ("rlhf reward --model {out}", " --prefs FILE");

    type Config = Config;

    fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        LossMonitor::findings(lines)
    }

    fn sources(config: &mut Config) -> Result<Vec<Source<'_>>> {
        Ok(vec![
            Source::Model {
                setting: "model",
                name: &mut config.model,
                made_by: "pretrain",
                stand_in: None,
            },
            Source::Data {
                setting: "data",
                files: &mut config.data,
                held_out: Some(&mut config.eval_data),
                bundled: Bundled::Demonstrations,
            },
        ])
    }

    fn prepare(config: &Config, session: &Session) -> Result<Box<dyn Prepared>> {
        let begun = Instant::now();
        let model = session.trainable(Path::new(&config.model));
        let mut model = model
            .with_context(|| format!("loading the model to fine-tune from {}", config.model))?;
        model.tokenizer = (model.tokenizer)
            .allow_special(config.allow_special)
            .take_raw(config.raw);
        tracing::info!("model loaded in {:.2} s", begun.elapsed().as_secs_f64());
        let loaded = Instant::now();
        let max_length = row_limit(Self::NAME, config.max_length, &model.config);
        let reading = Reading {
            liked_only: config.liked_only,
            ..config.training.data.reading()
        };
        let encode = |rows: &[Placed<Demonstration>], tolerance: &mut Tolerance| {
            Rows::from_demonstrations(
                &model.tokenizer,
                rows,
                max_length,
                config.train_on_prompt,
                tolerance,
            )
        };
        let Loaded {
            rows: mut trained,
            mut tolerance,
            ..
        } = read_and_tell::<Demonstration>(&config.data, &reading)?;
        let held_out = match config.eval_data.as_slice() {
            [] => {
                let (kept, held_out) =
                    hold_out(trained, config.eval_fraction, |row| row.prompt.clone())
                        .context("sft.eval_fraction")?;
                trained = kept;
                match held_out.as_slice() {
                    [] => Rows::default(),
                    rows => encode(rows, &mut tolerance)?,
                }
            }
            files => {
                let mut held_out = read_and_tell::<Demonstration>(files, &reading)?;
                let rows = encode(&held_out.rows, &mut held_out.tolerance)?;
                tell_skipped(&held_out.tolerance);
                rows
            }
        };
        ensure!(
            !trained.is_empty(),
            "no rows are left to train on: all were kept back for evaluation; lower sft.eval_fraction"
        );
        let rows = encode(&trained, &mut tolerance)?;
        tell_skipped(&tolerance);
        for warning in rows.warnings(Self::NAME, max_length) {
            tracing::warn!("{warning}");
        }
        let wanted = config.router_aux_loss_coef;
        let balance = router_aux_loss_coef(Self::NAME, &model.config, wanted)?;
        Ok(Box::new(LanguageModelling {
            stage: Self::NAME,
            extent: config.training.extent(
                Self::NAME,
                rows.rows.len(),
                &model.config,
                session.recompute,
                &session.device,
            )?,
            training: config.training.clone(),
            max_length,
            balance,
            model,
            rows,
            held_out: held_out.rows,
            save_dtype: SaveDtype::F32,
            loaded,
        }))
    }
}
