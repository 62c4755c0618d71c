//! The model card of a model: what its run recorded, and the runs that it started from.

use std::path::{Path, PathBuf};

use rlhf_lm::is_adapter;
use rlhf_web::{Card, CardStage, Run, card, curves_picture};
use serde_json::Value;
use toml::Table;

use crate::bundled;
use crate::commands::report::sections;
use crate::models;

/// The card's file name, as the hub knows it.
pub(crate) const CARD: &str = "README.md";
const PICTURE: &str = "curves.svg";
/// More runs than ever led to a model; runs that name each other do not lead on.
const MOST: usize = 16;

/// A file that is published beside a model.
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) text: String,
}

/// The form in which a model is published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it lies there.
    AsItIs,
    /// An adapter merged into its base.
    Whole,
}

/// The runs that led to a model, the first one first.
#[derive(Default)]
struct Descent {
    stages: Vec<CardStage>,
    /// What the first one started from.
    base: Option<String>,
    /// The version of this program that made the last one.
    version: Option<String>,
}

/// The card of the model in `folder`, and the picture in it where there is something to draw.
pub(crate) fn files(
    folder: &Path,
    name: &str,
    license: Option<&str>,
    form: Form,
) -> anyhow::Result<Vec<File>> {
    let run = run_of(folder);
    let descent = run
        .as_deref()
        .map(Descent::of)
        .transpose()?
        .unwrap_or_default();
    let last = descent.stages.last();
    let picture = last.and_then(|last| curves_picture(&last.run, last.section.captions));
    let base = descent.base.or_else(|| base_of(folder));
    let text = card(&Card {
        name,
        base: base
            .as_deref()
            .filter(|base| rlhf_lm::hub::is_id(base) && *base != bundled::NAME),
        license,
        version: descent
            .version
            .as_deref()
            .unwrap_or(env!("CARGO_PKG_VERSION")),
        scores: models::is_reward_model(folder)?,
        adapter: is_adapter(folder) && form == Form::AsItIs,
        picture: picture.is_some().then_some(PICTURE),
        stages: descent.stages,
        evaluation: run.and_then(|run| evaluation(&run)),
    });
    let picture = picture.map(|text| File {
        name: PICTURE,
        text,
    });
    Ok([Some(File { name: CARD, text }), picture]
        .into_iter()
        .flatten()
        .collect())
}

/// The run whose model lies in `folder`.
fn run_of(folder: &Path) -> Option<PathBuf> {
    let is_final = folder.file_name().is_some_and(|name| name == "final");
    let run = folder.parent().filter(|_| is_final)?;
    run.join("config.toml").is_file().then(|| run.to_owned())
}

impl Descent {
    /// The runs that led to `run`, which is the last one.
    fn of(run: &Path) -> anyhow::Result<Self> {
        let sections = sections();
        let mut found = Self::default();
        let mut next = Some(run.to_owned());
        while let Some(at) = next.take().filter(|_| found.stages.len() < MOST) {
            let runs = Run::read(&at)?;
            let Some(run) = runs.into_iter().find(|run| Path::new(&run.name) == at) else {
                break;
            };
            let config: Table = run.config.parse().unwrap_or_default();
            let mut known = sections.iter();
            let Some(section) = known.find(|section| config.contains_key(section.table)) else {
                break;
            };
            let inputs = fs_err::read_to_string(at.join("inputs.json")).unwrap_or_default();
            let inputs: Value = serde_json::from_str(&inputs).unwrap_or_default();
            let sums = inputs["sha256"].as_object().into_iter().flatten();
            let sums =
                sums.filter_map(|(name, sum)| Some((name.clone(), sum.as_str()?.to_owned())));
            let version = inputs["rlhf"].as_str().map(str::to_owned);
            found.version = found.version.or(version);
            found.stages.push(CardStage {
                section: *section,
                run,
                files: sums.collect(),
            });
            let model = config[section.table]
                .get("model")
                .and_then(toml::Value::as_str);
            let Some(model) = model else {
                break;
            };
            // Where the run says, or, if all have moved together, beside the run.
            let name = Path::new(model).file_name().unwrap_or_default();
            let mut places = [PathBuf::from(model), at.with_file_name(name)].into_iter();
            next = places.find(|place| *place != at && place.join("config.toml").is_file());
            if next.is_none() {
                found.base = Some(model.to_owned());
            }
        }
        found.stages.reverse();
        Ok(found)
    }
}

/// The base that an adapter names.
fn base_of(folder: &Path) -> Option<String> {
    let text = fs_err::read_to_string(folder.join("adapter_config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    Some(config["base_model_name_or_path"].as_str()?.to_owned())
}

/// The comparison of the pipeline's models, if `run` was part of one.
fn evaluation(run: &Path) -> Option<Value> {
    let name = run.file_name()?.to_str()?;
    let text = fs_err::read_to_string(run.with_file_name("evaluation.json")).ok()?;
    let evaluation: Value = serde_json::from_str(&text).ok()?;
    let mut models = evaluation["models"].as_array()?.iter();
    models
        .any(|model| model["name"] == name)
        .then_some(evaluation)
}
