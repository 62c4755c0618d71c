//! Hugging Face model directories.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use rlhf_base::tell;

use crate::config::{Head, SpecialIds};
use crate::families::text_tensor;
use crate::lora::peft;
use crate::scalar::SCORE;
use crate::{CausalLm, Error, ModelConfig, Params, Result, ScalarModel, bases, weights};

/// Configuration and weights of the language model in `dir`: exactly the tensors the model asks for,
/// under their canonical names, on the CPU, in the dtype they are stored in.
pub fn read_lm(dir: &Path) -> Result<(ModelConfig, BTreeMap<String, Tensor>)> {
    read(dir, Head::CausalLm)
}

/// Like [`read_lm`], for a `…ForSequenceClassification` with one label.
pub fn read_scalar(dir: &Path) -> Result<(ModelConfig, BTreeMap<String, Tensor>)> {
    read(dir, Head::Scalar)
}

/// Writes `config.json` and `model.safetensors` of a language model into `dir`, with weights of
/// `dtype`; of a model with an adapter that is not to be merged, the adapter's files instead.
pub fn write_lm(
    dir: &Path,
    config: &ModelConfig,
    params: &Params,
    special: SpecialIds,
    dtype: DType,
) -> Result<()> {
    write(dir, config, Head::CausalLm, params, special, dtype)
}

/// Like [`write_lm`], for a reward model.
pub fn write_scalar(
    dir: &Path,
    config: &ModelConfig,
    params: &Params,
    special: SpecialIds,
    dtype: DType,
) -> Result<()> {
    write(dir, config, Head::Scalar, params, special, dtype)
}

/// The configuration in `dir/config.json`.
pub fn read_config(dir: &Path) -> Result<ModelConfig> {
    let path = dir.join("config.json");
    if !path.is_file() {
        return Err(Error::file(
            dir,
            "holds no config.json, so it is not a Hugging Face model directory",
        ));
    }
    let text = fs_err::read_to_string(&path)?;
    let json = serde_json::from_str(&text)
        .map_err(|e| Error::file(&path, format!("expected JSON: {e}")))?;
    ModelConfig::from_json(json).map_err(|e| Error::file(&path, e.to_string()))
}

/// Checks that the embedding of `config` has a row for each of the tokenizer's `tokens`, and not many
/// more: sizes are rounded up for speed, by at most 3 % in published models (Phi-2: 50 295 to 51 200). `named` spells a token.
pub fn check_vocabulary(
    config: &ModelConfig,
    tokens: usize,
    named: impl Fn(u32) -> Option<String>,
    dir: &Path,
) -> Result<()> {
    let rows = config.vocab_size();
    if vocabulary_fits(rows, tokens) {
        return Ok(());
    }
    let cause = match tokens.checked_sub(rows) {
        Some(beyond @ 1..) => format!(
            "{beyond} of them, from {:?} on, have no row. Added tokens need rows of their own (resize_token_embeddings of transformers); \
             or tokenizer.json is that of another model",
            named(rows as u32).unwrap_or_default()
        ),
        _ => "tokenizer.json is that of another model, or lacks tokens that were added".to_owned(),
    };
    Err(Error::file(
        dir,
        format!(
            "the embedding has {rows} rows (vocab_size in config.json), and the tokenizer {tokens} tokens: {cause}"
        ),
    ))
}

/// Whether an embedding of `rows` rows is that of a tokenizer of `tokens`: see [`check_vocabulary`].
pub(crate) fn vocabulary_fits(rows: usize, tokens: usize) -> bool {
    rows >= tokens && rows - tokens < (tokens / 32).max(128)
}

fn schema(config: &ModelConfig, head: Head) -> Result<crate::Schema> {
    match head {
        Head::CausalLm => CausalLm::schema(config),
        Head::Scalar => ScalarModel::schema(config),
    }
}

fn read(dir: &Path, head: Head) -> Result<(ModelConfig, BTreeMap<String, Tensor>)> {
    let config = read_config(dir)?;
    let (path, stored) = weights::read(dir)?;
    let mut tensors = BTreeMap::new();
    let all = stored.len();
    let is_seen = |name: &String| !config.is_part() || text_tensor(name).is_some();
    let stored: BTreeMap<_, _> = stored
        .into_iter()
        .filter(|(name, _)| is_seen(name))
        .collect();
    if stored.len() < all {
        tell(format!(
            "{}: the text part of a model that also sees is loaded, and saved; {} tensors of the part that sees are left out",
            dir.display(),
            all - stored.len()
        ));
    }
    for (name, tensor) in stored {
        let Some(canonical) = canonical(&config, &name) else {
            continue;
        };
        if !tensor.dtype().is_float() {
            return Err(Error::file(
                &path,
                format!("tensor {name} holds whole numbers, expected F32, F16 or BF16"),
            ));
        }
        if tensors.insert(canonical, tensor).is_some() {
            return Err(Error::file(
                &path,
                format!("tensor {name} is there twice, with and without its prefix"),
            ));
        }
    }
    if config.tied() && head == Head::CausalLm {
        drop_tied_head(&config, &mut tensors).map_err(|e| Error::file(&path, e.to_string()))?;
    }
    let family = config.family();
    family
        .join_parts(&mut tensors)
        .map_err(|e| Error::file(&path, e.to_string()))?;
    let shapes = tensors.iter().map(|(n, t)| (n.as_str(), t.shape()));
    if let Some(what) = schema(&config, head)?.mismatch(shapes, true) {
        let what = match (head, tensors.contains_key(SCORE)) {
            (Head::CausalLm, true) => format!(
                "this is a reward model (it has {SCORE}), and a language model is needed here, such as the one it was trained from"
            ),
            (Head::Scalar, false) => format!(
                "this is a language model (it has no {SCORE}), and a reward model is needed here: train one with `rlhf reward`"
            ),
            _ => format!("does not hold a {}: {what}", described(&config, head)),
        };
        return Err(Error::file(&path, what));
    }
    check_weights(&path, &tensors)?;
    Ok((config, tensors))
}

/// Errors on NaN and infinity among the weights that `path` holds, naming the tensors.
pub(crate) fn check_weights(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut damaged = Vec::new();
    for (name, tensor) in tensors {
        if !rlhf_ops::is_finite(tensor)? {
            damaged.push(name.as_str());
        }
    }
    match damaged.as_slice() {
        [] => Ok(()),
        [first, rest @ ..] => {
            let more = match rest.len() {
                0 => String::new(),
                n => format!(" and {n} more tensors"),
            };
            Err(Error::file(
                path,
                format!(
                    "tensor {first}{more}: holds NaN or infinity, so the model can compute nothing; take an earlier checkpoint, or copy \
                     the file again"
                ),
            ))
        }
    }
}

fn described(config: &ModelConfig, head: Head) -> String {
    let kind = match head {
        Head::CausalLm => "language model",
        Head::Scalar => "reward model with one label",
    };
    format!("{} {kind}", config.model_type())
}

/// The name `transformers` saves a tensor under today: the trunk under its prefix, which older and
/// trunk-only files lack. `None` for constants that older files carry.
fn canonical(config: &ModelConfig, name: &str) -> Option<String> {
    let names = config.family().names();
    let name = match config.is_part() {
        true => &text_tensor(name)?,
        false => name,
    };
    if names.constants.iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let within = |module: &str| {
        let rest = name.strip_prefix(module);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    let whole = within(names.head) || within(names.trunk) || name == SCORE;
    Some(match whole {
        true => name.to_owned(),
        false => format!("{}.{name}", names.trunk),
    })
}

/// Removes a vocabulary projection that repeats the embedding it is tied to.
fn drop_tied_head(config: &ModelConfig, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let names = config.family().names();
    let (embedding, head_name) = (names.embedding_weight(), names.head_weight());
    let Some(head) = tensors.remove(&head_name) else {
        return Ok(());
    };
    let same = match tensors.get(&embedding) {
        Some(embedding) if embedding.shape() == head.shape() => {
            let difference = (embedding.to_dtype(DType::F32)? - head.to_dtype(DType::F32)?)?;
            // A sum, since a maximum skips NaN.
            difference.abs()?.sum_all()?.to_scalar::<f32>()? == 0.0
        }
        _ => false,
    };
    match same {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "{head_name} differs from {embedding}, but config.json ties them: set tie_word_embeddings to false"
        ))),
    }
}

fn write(
    dir: &Path,
    config: &ModelConfig,
    head: Head,
    params: &Params,
    special: SpecialIds,
    dtype: DType,
) -> Result<()> {
    match params.adapter() {
        Some(adapter) if adapter.merge => {
            let merged = bases::merged(params, adapter)?;
            return write(dir, config, head, &merged, special, dtype);
        }
        Some(adapter) => return peft::write(dir, head, params, adapter),
        None => {}
    }
    let name = match dtype {
        DType::F32 => "float32",
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        other => {
            return Err(Error::Invalid(format!(
                "weights cannot be saved as {other:?}; expected f32, bf16 or f16"
            )));
        }
    };
    // Only what the model asks for: a policy may share its parameters with a value head.
    let mut wanted = BTreeMap::new();
    let mut tensors = params.tensors();
    for (name, _) in schema(config, head)?.iter() {
        let Some(tensor) = tensors.remove(name) else {
            return Err(Error::Invalid(format!(
                "cannot save a {}: parameter {name} is missing",
                described(config, head)
            )));
        };
        wanted.insert(name.to_owned(), tensor);
    }
    config.family().split_parts(&mut wanted)?;
    fs_err::create_dir_all(dir)?;
    weights::write(dir, &wanted, dtype)?;
    let json = config.to_json(head, name, special);
    fs_err::write(dir.join("config.json"), format!("{json:#}\n"))?;
    Ok(())
}
