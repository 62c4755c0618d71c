//! Loading models whole, merged with their adapter, or as adapters over one base that is held once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};

use crate::config::Head;
use crate::hub::HubSettings;
use crate::lora::base::canonical;
use crate::lora::peft::{AdapterFiles, is_adapter};
use crate::lora::{self, Adapter, LoraConfig};
use crate::scalar::SCORE;
use crate::stored::{Stored, read_generation};
use crate::{
    Error, LanguageModel, ModelConfig, Params, Result, Tokenizer, Weights, check_vocabulary,
};

/// A frozen model under adapters. Parameters of stores with adapters share its storage.
pub(crate) struct Base {
    path: PathBuf,
    config: ModelConfig,
    tokenizer: Tokenizer,
    generation: Map<String, Value>,
    params: Params,
}

impl Base {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Base").field(&self.path).finish()
    }
}

/// Loads models, and lends each base under adapters to all who need it at the same time. Clones lend the same bases.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// Where the base of an adapter may be fetched from; without it, from local folders alone.
    hub: Option<HubSettings>,
    /// Those in use: a base goes when the last model over it does.
    lent: Arc<Mutex<Vec<Weak<Base>>>>,
}

/// A model as it is put into memory, whatever its head.
pub(crate) struct LoadedModel {
    pub(crate) config: ModelConfig,
    pub(crate) params: Params,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) generation: Map<String, Value>,
}

impl From<LoadedModel> for LanguageModel {
    fn from(model: LoadedModel) -> Self {
        let LoadedModel {
            config,
            params,
            tokenizer,
            generation,
        } = model;
        Self {
            config,
            params,
            tokenizer,
            generation,
        }
    }
}

impl Bases {
    /// Bases that may be fetched from the hub.
    pub fn new(hub: HubSettings) -> Self {
        Self {
            hub: Some(hub),
            ..Self::default()
        }
    }

    /// The language model in `path`, a Hugging Face directory, a GGUF file or the folder of an adapter; it will compute in `dtype` on
    /// `device`. An adapter is merged into its base, or, where it is only used and its base is in memory, laid over it.
    pub fn language_model(
        &self,
        path: &Path,
        weights: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<LanguageModel> {
        let model = self.load(path, Head::CausalLm, weights, dtype, device)?;
        Ok(model.into())
    }

    /// Like [`Bases::language_model`], for the configuration and the weights of a reward model.
    pub fn scalar(
        &self,
        path: &Path,
        weights: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<(ModelConfig, Params)> {
        let model = self.load(path, Head::Scalar, weights, dtype, device)?;
        Ok((model.config, model.params))
    }

    /// The language model in `path` with a trainable adapter over its frozen weights: the one found there, or a fresh one drawn from
    /// `seed`.
    ///
    /// # Errors
    /// If the adapter that was found is another than `lora` asks for, or the model has no such layers.
    pub fn adapted(
        &self,
        path: &Path,
        lora: &LoraConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<LanguageModel> {
        if !is_adapter(path) {
            let base = self.base(path, dtype, device)?;
            let mut model = base.language_model(path)?;
            let adapter = Adapter::new(lora, &model.config, Some(base))?;
            let values = adapter.init(&model.config, seed, device)?;
            let adapter = Arc::new(adapter);
            model.params.adapt(adapter, &values, Weights::Trainable)?;
            return Ok(model.into());
        }
        let files = AdapterFiles::read(path)?;
        files.require(Head::CausalLm)?;
        files.require_no_dropout()?;
        let at = files.find_base(self.hub.as_ref())?;
        let base = self.base(&at, dtype, device);
        let base = base.map_err(|error| files.of_base(&at, &error))?;
        let mut model = laid_over(&base, &files, Head::CausalLm, Weights::Trainable)?;
        if let Some(found) = model.params.adapter() {
            found.refuse_other(lora, path)?;
            let merge = lora.merge;
            let adapter = Arc::new(Adapter {
                merge,
                ..found.clone()
            });
            model.params.set_adapter(adapter);
        }
        Ok(model.into())
    }

    /// The language model in `path` as a run has trained it: all of its weights trainable, or of an adapter those alone. What a
    /// checkpoint of that run holds fits into it.
    pub fn as_trained(&self, path: &Path, dtype: DType, device: &Device) -> Result<LanguageModel> {
        if !is_adapter(path) {
            return self.language_model(path, Weights::Trainable, dtype, device);
        }
        let files = AdapterFiles::read(path)?;
        let at = files.find_base(self.hub.as_ref())?;
        let base = self.base(&at, dtype, device);
        let base = base.map_err(|error| files.of_base(&at, &error))?;
        Ok(laid_over(&base, &files, Head::CausalLm, Weights::Trainable)?.into())
    }

    pub(crate) fn load(
        &self,
        path: &Path,
        head: Head,
        weights: Weights,
        dtype: DType,
        device: &Device,
    ) -> Result<LoadedModel> {
        if !is_adapter(path) {
            return Stored::read(path, head)?.into_memory(weights, dtype, device);
        }
        let files = AdapterFiles::read(path)?;
        files.require(head)?;
        let at = files.find_base(self.hub.as_ref())?;
        if weights == Weights::Frozen
            && let Some(base) = self.in_use(&at, dtype, device)?
        {
            return laid_over(&base, &files, head, weights);
        }
        merged_files(&files, &at, head)?.into_memory(weights, dtype, device)
    }

    /// The whole model in `path`, an adapter merged into its base, on the CPU and in the dtype it is stored in.
    pub(crate) fn stored(&self, path: &Path, head: Head) -> Result<Stored> {
        if !is_adapter(path) {
            return Stored::read(path, head);
        }
        let files = AdapterFiles::read(path)?;
        files.require(head)?;
        let at = files.find_base(self.hub.as_ref())?;
        merged_files(&files, &at, head)
    }

    /// The base in `path`: the one in use, or read now.
    fn base(&self, path: &Path, dtype: DType, device: &Device) -> Result<Arc<Base>> {
        if let Some(base) = self.in_use(path, dtype, device)? {
            return Ok(base);
        }
        let stored = Stored::read_frozen(path)?;
        let mut params = Params::take(stored.tensors, Weights::Frozen, device, dtype)?;
        for (name, weight) in &stored.quantised {
            params.insert_quantised(name, weight);
        }
        let base = Arc::new(Base {
            path: canonical(path)?,
            config: stored.config,
            tokenizer: stored.tokenizer,
            generation: stored.generation,
            params,
        });
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|base| base.strong_count() > 0);
        lent.push(Arc::downgrade(&base));
        Ok(base)
    }

    /// The base in `path`, if a model over it is in memory.
    fn in_use(&self, path: &Path, dtype: DType, device: &Device) -> Result<Option<Arc<Base>>> {
        let path = canonical(path)?;
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |base: &Arc<Base>| {
            let params = &base.params;
            base.path == path && params.dtype() == dtype && params.device().same_device(device)
        };
        Ok(lent.iter().filter_map(Weak::upgrade).find(fits))
    }
}

impl Stored {
    fn into_memory(self, weights: Weights, dtype: DType, device: &Device) -> Result<LoadedModel> {
        Ok(LoadedModel {
            config: self.config,
            params: Params::take(self.tensors, weights, device, dtype)?,
            tokenizer: self.tokenizer,
            generation: self.generation,
        })
    }
}

/// The whole model that the adapter of `files` and its base in `at` are.
fn merged_files(files: &AdapterFiles, at: &Path, head: Head) -> Result<Stored> {
    let mut stored = Stored::read_any(at).map_err(|error| files.of_base(at, &error))?;
    let (adapter, values) = files.fitted(&stored.config, (None, at))?;
    lora::merge(&mut stored.tensors, &adapter, values)?;
    with_head(&stored.config, head, files, &mut stored.tensors)?;
    (stored.tokenizer, stored.generation) =
        own_texts(files, &stored.config, stored.tokenizer, stored.generation)?;
    Ok(stored)
}

impl Base {
    /// The language model without an adapter; `path` is what messages call it.
    fn language_model(&self, path: &Path) -> Result<LoadedModel> {
        if self.params.contains(SCORE) {
            return Err(Error::file(
                path,
                format!(
                    "this is a reward model (it has {SCORE}), and a language model is needed here, such as the one it was trained from"
                ),
            ));
        }
        Ok(LoadedModel {
            config: self.config.clone(),
            params: self.params.clone(),
            tokenizer: self.tokenizer.clone(),
            generation: self.generation.clone(),
        })
    }
}

/// The model with this head of an adapter over `base`, whose storage it shares. The head of a reward model is as trainable as the adapter.
fn laid_over(
    base: &Arc<Base>,
    files: &AdapterFiles,
    head: Head,
    weights: Weights,
) -> Result<LoadedModel> {
    let config = &base.config;
    let (adapter, values) = files.fitted(config, (Some(base.clone()), &base.path))?;
    let mut params = base.params.clone();
    params.adapt(Arc::new(adapter), values, weights)?;
    match (head, &files.score) {
        (Head::Scalar, Some(score)) => match weights {
            Weights::Trainable => params.insert(SCORE, score)?,
            Weights::Frozen => params.insert_frozen(SCORE, score)?,
        },
        (Head::Scalar, None) if !params.contains(SCORE) => return Err(headless(files)),
        _ => {}
    }
    let (tokenizer, generation) = own_texts(
        files,
        config,
        base.tokenizer.clone(),
        base.generation.clone(),
    )?;
    Ok(LoadedModel {
        config: config.clone(),
        params,
        tokenizer,
        generation,
    })
}

/// Gives the tensors of a base the head that the adapter brings, and takes away the one that is not wanted.
fn with_head(
    config: &ModelConfig,
    head: Head,
    files: &AdapterFiles,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<()> {
    match (head, &files.score) {
        (Head::CausalLm, _) => {}
        (Head::Scalar, Some(score)) => {
            tensors.remove(&config.family().names().head_weight());
            tensors.insert(SCORE.to_owned(), score.clone());
        }
        (Head::Scalar, None) if !tensors.contains_key(SCORE) => return Err(headless(files)),
        (Head::Scalar, None) => {}
    }
    Ok(())
}

fn headless(files: &AdapterFiles) -> Error {
    Error::file(
        files.dir(),
        format!(
            "neither this adapter nor its base model has {SCORE}, the head of a reward model: train it with `rlhf reward`, or under PEFT with \
             task_type SEQ_CLS"
        ),
    )
}

/// Tokenizer and `generation_config.json` of an adapter's folder, where it has its own; else those of the base.
fn own_texts(
    files: &AdapterFiles,
    config: &ModelConfig,
    tokenizer: Tokenizer,
    generation: Map<String, Value>,
) -> Result<(Tokenizer, Map<String, Value>)> {
    let dir = files.dir();
    if !dir.join("tokenizer.json").is_file() {
        return Ok((tokenizer, generation));
    }
    let own = Tokenizer::from_dir(dir)?;
    check_vocabulary(config, own.vocab_size(), |id| own.token(id), dir)?;
    let generation = match read_generation(dir)? {
        own if own.is_empty() => generation,
        own => own,
    };
    Ok((own, generation))
}

/// The whole model that `params` with their adapter compute, in f32 on the CPU. The base is read once more: in memory it may be in half
/// precision.
pub(crate) fn merged(params: &Params, adapter: &Adapter) -> Result<Params> {
    let own = params.tensors();
    let mut tensors = match &adapter.base {
        Some(base) => Stored::read_any(&base.path)?.tensors,
        None => own.clone(),
    };
    if let Some(score) = own.get(SCORE) {
        tensors.insert(SCORE.to_owned(), score.clone());
    }
    let mut values = BTreeMap::new();
    for name in adapter.names() {
        if let Some(value) = own.get(&name) {
            values.insert(name, value.to_device(&Device::Cpu)?);
        }
    }
    lora::merge(&mut tensors, adapter, &values)?;
    Params::take(tensors, Weights::Frozen, &Device::Cpu, DType::F32)
}

/// The tokenizer of the model in `path`, which may be an adapter that has none of its own.
pub fn read_tokenizer(path: &Path, bases: &Bases) -> Result<Tokenizer> {
    if crate::gguf::locate(path)?.is_some() {
        return Ok(Stored::read(path, Head::CausalLm)?.tokenizer);
    }
    if is_adapter(path) && !path.join("tokenizer.json").is_file() {
        let base = AdapterFiles::read_config(path)?.find_base(bases.hub.as_ref())?;
        return read_tokenizer(&base, bases);
    }
    Tokenizer::from_dir(path)
}

/// Whether the adapter in `path` is that of a reward model.
pub fn is_reward_adapter(path: &Path) -> Result<bool> {
    Ok(AdapterFiles::read_config(path)?.head() == Head::Scalar)
}

/// Where the base of the adapter in `path` lies; `None` where there is no adapter.
pub fn base_of(path: &Path, bases: &Bases) -> Result<Option<PathBuf>> {
    match is_adapter(path) {
        true => Ok(Some(
            AdapterFiles::read_config(path)?.find_base(bases.hub.as_ref())?,
        )),
        false => Ok(None),
    }
}
