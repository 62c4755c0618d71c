//! The files of an adapter, in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Written and read for language models (`CAUSAL_LM`) and for reward models (`SEQ_CLS`, whose head `score` is among the `modules_to_save`).
//! Options that change what is computed and that we do not have are refused by name.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::{Adapter, LoraConfig, base, targeted};
use crate::bases::Base;
use crate::config::Head;
use crate::hub::HubSettings;
use crate::pretrained::check_weights;
use crate::scalar::SCORE;
use crate::{CausalLm, Error, ModelConfig, Params, Result, weights};

pub(crate) const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's wrappers around the model, in the name of every tensor.
const PREFIX: &str = "base_model.model.";

/// Keys that change nothing of what is computed with the adapter, or that are read.
const KNOWN: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    // For merging alone, and we know from the model which of its layers are `[in, out]`.
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    // While it is trained alone.
    "lora_dropout",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Ways to draw the first A and B that leave the base as it is. Others (PiSSA, OLoRA, LoftQ, …) change the base's weights too.
const PLAIN_STARTS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// Whether `dir` holds an adapter rather than a whole model.
pub fn is_adapter(dir: &Path) -> bool {
    let there = |name: &str| dir.join(name).is_file();
    there(CONFIG) && !weights::is_there(dir)
}

/// The files of an adapter, read.
pub(crate) struct AdapterFiles {
    dir: PathBuf,
    lora: LoraConfig,
    /// `target_modules`, where it is a regular expression instead of a list.
    pattern: Option<regex::Regex>,
    head: Head,
    base: String,
    revision: Option<String>,
    /// The share of its inputs that training elsewhere has dropped.
    dropout: f64,
    /// A and B of every layer, under our names.
    values: BTreeMap<String, Tensor>,
    /// The head of a reward model.
    pub(crate) score: Option<Tensor>,
}

impl AdapterFiles {
    /// Reads the adapter in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut files = Self::read_config(dir)?;
        let path = dir.join(WEIGHTS);
        if !path.is_file() {
            return Err(Error::file(
                dir,
                format!(
                    "holds {CONFIG}, but not the adapter itself, {WEIGHTS}; only safetensors are loaded"
                ),
            ));
        }
        for (name, tensor) in weights::read_one(&path)? {
            match name.strip_prefix(PREFIX) {
                Some(SCORE) => files.score = Some(tensor),
                Some(name) => {
                    files.values.insert(name.to_owned(), tensor);
                }
                None => {
                    return Err(Error::file(
                        &path,
                        format!("tensor {name}: expected a name that begins with {PREFIX}"),
                    ));
                }
            }
        }
        check_weights(&path, &files.values)?;
        Ok(files)
    }

    /// Reads `adapter_config.json` alone: no tensor is touched.
    pub(crate) fn read_config(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let wrong = |what: String| Error::file(&path, what);
        let text = fs_err::read_to_string(&path)?;
        let json: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| wrong(format!("expected the JSON object of an adapter: {e}")))?;
        refuse_unknown(&json).map_err(wrong)?;
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        let number = |key: &str| json.get(key).and_then(Value::as_f64);
        let rank = number("r").filter(|r| *r >= 1.0 && r.fract() == 0.0 && *r <= 1e6);
        let rank = rank.ok_or_else(|| {
            let found = json.get("r").unwrap_or(&Value::Null);
            wrong(format!("r = {found}, expected a rank of 1 or more"))
        })? as usize;
        let alpha = number("lora_alpha").filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| wrong("lora_alpha is missing".into()))?;
        let (mut targets, mut pattern) = (Vec::new(), None);
        match json.get("target_modules") {
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                targets.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
                targets.sort();
            }
            Some(Value::String(all)) if all == "all-linear" => {}
            Some(Value::String(text)) => {
                let whole = regex::Regex::new(&format!("^(?:{text})$"));
                let whole = whole.map_err(|e| wrong(format!("target_modules {text:?}: {e}")))?;
                pattern = Some(whole);
            }
            other => {
                let found = other.unwrap_or(&Value::Null);
                return Err(wrong(format!(
                    "target_modules = {found}, expected a list of names"
                )));
            }
        }
        let head = match text("task_type") {
            Some("SEQ_CLS") => Head::Scalar,
            Some("CAUSAL_LM") | None => Head::CausalLm,
            Some(other) => {
                return Err(wrong(format!(
                    "task_type {other} is not supported: expected CAUSAL_LM, or SEQ_CLS for a reward model"
                )));
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            lora: LoraConfig {
                rank,
                alpha: Some(alpha),
                targets,
                rank_stabilised: json.get("use_rslora") == Some(&json!(true)),
                merge: false,
            },
            pattern,
            head,
            base: text("base_model_name_or_path")
                .unwrap_or_default()
                .to_owned(),
            revision: text("revision").map(str::to_owned),
            dropout: number("lora_dropout").unwrap_or(0.0),
            values: BTreeMap::new(),
            score: None,
        })
    }

    /// Errors on an adapter that was trained with dropout, which its training would go on without.
    pub(crate) fn require_no_dropout(&self) -> Result<()> {
        if self.dropout == 0.0 {
            return Ok(());
        }
        Err(Error::file(
            self.dir.join(CONFIG),
            format!(
                "lora_dropout is {}, and no input is dropped in training here: set it to 0 to go on without, or merge the adapter first with \
                 `rlhf merge`",
                self.dropout
            ),
        ))
    }

    /// Errors on the adapter of a model with the other head.
    pub(crate) fn require(&self, head: Head) -> Result<()> {
        let what = match (head, self.head) {
            (Head::CausalLm, Head::Scalar) => {
                "this is the adapter of a reward model (SEQ_CLS), and a language model is needed here, such as the one it was trained from"
            }
            (Head::Scalar, Head::CausalLm) => {
                "this is the adapter of a language model, and a reward model is needed here: train one with `rlhf reward`"
            }
            _ => return Ok(()),
        };
        Err(Error::file(self.dir.join(CONFIG), what))
    }

    /// Where its base model lies.
    pub(crate) fn find_base(&self, hub: Option<&HubSettings>) -> Result<PathBuf> {
        base::find(&self.dir, &self.base, self.revision.as_deref(), hub)
    }

    /// An error about the base at `path`, as one about this adapter.
    pub(crate) fn of_base(&self, path: &Path, error: &Error) -> Error {
        Error::file(
            self.dir.join(CONFIG),
            format!("its base model {}: {error}", path.display()),
        )
    }

    /// The adapter of a base that `config` describes, and its values.
    ///
    /// # Errors
    /// If they do not fit.
    pub(crate) fn fitted(
        &self,
        config: &ModelConfig,
        (base, path): (Option<Arc<Base>>, &Path),
    ) -> Result<(Adapter, &BTreeMap<String, Tensor>)> {
        let misfit = |what: String| {
            Error::file(
                self.dir.join(WEIGHTS),
                format!(
                    "this adapter does not fit its base model {}: {what}. Is base_model_name_or_path in {CONFIG} the model that it was trained on?",
                    path.display()
                ),
            )
        };
        let mut lora = self.lora.clone();
        if let Some(pattern) = &self.pattern {
            let (_, all) = targeted(&[], config)?;
            lora.targets = all
                .into_keys()
                .filter(|name| pattern.is_match(name))
                .collect();
            if lora.targets.is_empty() {
                return Err(misfit(format!("target_modules {pattern} names no layer")));
            }
        }
        let adapter =
            Adapter::new(&lora, config, base).map_err(|error| misfit(error.to_string()))?;
        let schema = CausalLm::adapter_schema(config, &adapter)?;
        let shapes = self.values.iter().map(|(n, t)| (n.as_str(), t.shape()));
        if let Some(what) = schema.mismatch(shapes, true) {
            return Err(misfit(what));
        }
        if let Some(score) = &self.score
            && score.dims() != [1, config.hidden_size()]
        {
            return Err(misfit(format!(
                "{SCORE} has shape {:?}, expected {:?}: a reward model has one label",
                score.dims(),
                [1, config.hidden_size()]
            )));
        }
        Ok((adapter, &self.values))
    }

    /// The head of the model that it belongs to.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The folder it was read from.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Errors on the first option that would change what is computed and that we do not have.
fn refuse_unknown(json: &Map<String, Value>) -> Result<(), String> {
    let kind = json.get("peft_type").and_then(Value::as_str);
    if kind != Some("LORA") {
        let found = json.get("peft_type").unwrap_or(&Value::Null);
        return Err(format!("peft_type = {found}, expected LORA"));
    }
    let plain_start = match json.get("init_lora_weights") {
        None | Some(Value::Bool(_) | Value::Null) => true,
        Some(Value::String(start)) => PLAIN_STARTS.contains(&start.as_str()),
        Some(_) => false,
    };
    let saved = json.get("modules_to_save").unwrap_or(&Value::Null);
    let only_score = match saved {
        Value::Null => true,
        // What PEFT itself puts there for a sequence classifier.
        Value::Array(names) => names
            .iter()
            .all(|name| name == "score" || name == "classifier"),
        _ => false,
    };
    for (key, plain) in [
        ("init_lora_weights", plain_start),
        ("modules_to_save", only_score),
    ] {
        if !plain {
            return Err(unsupported(key, &json[key]));
        }
    }
    for (key, value) in json {
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(values) => values.is_empty(),
            Value::Object(values) => values.is_empty(),
            Value::String(text) => key == "bias" && text == "none",
            _ => false,
        };
        if !off && !KNOWN.contains(&key.as_str()) {
            return Err(unsupported(key, value));
        }
    }
    Ok(())
}

fn unsupported(key: &str, value: &Value) -> String {
    format!(
        "{key} = {value} is an option of PEFT that is not supported here: merge the adapter with PEFT's merge_and_unload and name the \
         merged model"
    )
}

/// Writes the adapter among `params` into `dir`.
pub(crate) fn write(dir: &Path, head: Head, params: &Params, adapter: &Adapter) -> Result<()> {
    let Some(base) = &adapter.base else {
        return Err(Error::Invalid(
            "the adapter cannot be saved by itself, because the model under it was never read from a file: save the merged model \
             (lora.merge = true)"
                .into(),
        ));
    };
    fs_err::create_dir_all(dir)?;
    let (name, revision) = base::named(base.path(), dir)?;
    let scalar = head == Head::Scalar;
    let fan_in_fan_out = adapter
        .modules
        .values()
        .all(|layout| *layout == rlhf_ops::WeightLayout::InOut);
    // PEFT's type is a whole number, though it takes any.
    let alpha = match adapter.alpha.fract() == 0.0 {
        true => json!(adapter.alpha as i64),
        false => json!(adapter.alpha),
    };
    let config = json!({
        "base_model_name_or_path": name,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": if scalar { json!(["score"]) } else { Value::Null },
        "peft_type": "LORA",
        "r": adapter.rank,
        "revision": revision,
        "target_modules": adapter.targets,
        "task_type": if scalar { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_rslora": adapter.rank_stabilised,
    });
    let values = params.tensors();
    let wanted = adapter.names().chain(scalar.then(|| SCORE.to_owned()));
    let tensors = wanted
        .map(|name| {
            let value = values.get(&name).ok_or_else(|| {
                Error::Invalid(format!("cannot save the adapter: {name} is missing"))
            })?;
            let value = value.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
            Ok((format!("{PREFIX}{name}"), value.contiguous()?))
        })
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    weights::serialize(&dir.join(WEIGHTS), &tensors, Some(metadata))?;
    Ok(fs_err::write(dir.join(CONFIG), format!("{config:#}\n"))?)
}
