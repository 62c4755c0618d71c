//! The ordered, named store of a model's parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;
use rlhf_ops::QuantisedWeight;

use crate::families::is_constant;
use crate::lora::Adapter;
use crate::{Error, Result};

mod adapted;
mod builder;
mod param;
mod rounded;
#[cfg(test)]
mod tests;

use param::{Master, Param};
pub use rounded::WeightFormat;

/// What weights are loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// To be trained: f32 masters are kept where the model computes in half precision.
    Trainable,
    /// To be read only: in the dtype the model computes in, and no graph is recorded.
    Frozen,
}

/// The ordered, named store of a model's parameters, each of them trainable or frozen.
///
/// Models read it through [`Params::var_builder`]; optimizers change the f32 masters of
/// [`Params::trainable`] in place, after which [`Params::refresh`] brings the copies in the compute dtype up
/// to date. A frozen parameter is held once, in the compute dtype, records no graph and gets no gradient. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct Params {
    store: BTreeMap<String, Param>,
    device: Device,
    dtype: DType,
    /// The adapter among the parameters, if there is one.
    adapter: Option<Arc<Adapter>>,
}

impl Params {
    /// An empty store on `device`, for a model that computes in `dtype`.
    pub fn new(device: &Device, dtype: DType) -> Self {
        Self {
            store: BTreeMap::new(),
            device: device.clone(),
            dtype,
            adapter: None,
        }
    }

    /// A store of the values of `tensors`, each given back as soon as it is copied.
    pub(crate) fn take(
        tensors: BTreeMap<String, Tensor>,
        weights: Weights,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut params = Self::new(device, dtype);
        for (name, tensor) in tensors {
            match weights {
                Weights::Trainable => params.insert(&name, &tensor)?,
                Weights::Frozen => params.insert_frozen(&name, &tensor)?,
            }
        }
        Ok(params)
    }

    /// A store of trainable copies of `tensors`.
    pub fn load(tensors: &BTreeMap<String, Tensor>, device: &Device, dtype: DType) -> Result<Self> {
        let mut params = Self::new(device, dtype);
        for (name, tensor) in tensors {
            params.insert(name, tensor)?;
        }
        Ok(params)
    }

    /// Adds a trainable parameter, or a frozen one where it is a constant of its family, or replaces one, with a copy of `value`. Models and views made before do not
    /// see a replaced parameter; to change a value in place use [`Var::set`] on what [`Params::get`]
    /// returns, then [`Params::refresh`].
    pub fn insert(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.to_device(&self.device)?;
        let param = match is_constant(name) {
            true => Param::frozen(&value.copy()?, self.dtype)?,
            false => Param::trainable(&value, self.dtype)?,
        };
        self.store.insert(name.to_owned(), param);
        Ok(())
    }

    /// Adds a frozen parameter, or replaces one. It shares the storage of a `value` that lies on the store's device in its dtype, so
    /// several stores can share one frozen model.
    pub fn insert_frozen(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.to_device(&self.device)?;
        let param = Param::frozen(&value, self.dtype)?;
        self.store.insert(name.to_owned(), param);
        Ok(())
    }

    /// Adds a frozen parameter that stays in quantised blocks, which it shares.
    pub(crate) fn insert_quantised(&mut self, name: &str, weight: &QuantisedWeight) {
        self.store.insert(name.to_owned(), Param::quantised(weight));
    }

    /// The weight `name`, where it is held in quantised blocks.
    fn quantised(&self, name: &str) -> Option<&QuantisedWeight> {
        self.store.get(name)?.quantised.as_ref()
    }

    /// Freezes the parameters whose names `chosen` picks: their masters are given back. Models made before still record a graph for
    /// them.
    pub fn freeze(&mut self, chosen: impl Fn(&str) -> bool) {
        for (name, param) in &mut self.store {
            if chosen(name) {
                param.trainable = None;
                param.value = param.value.detach();
            }
        }
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.store.keys().map(String::as_str)
    }

    /// Whether there is a parameter `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.store.contains_key(name)
    }

    /// Every trainable parameter's name with its f32 master, in order of name.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.masters().map(|(name, master)| (name, &master.weight))
    }

    /// The f32 master of `name`; none where it is frozen.
    pub fn get(&self, name: &str) -> Option<&Var> {
        let master = self.store.get(name)?.trainable.as_ref()?;
        Some(&master.weight)
    }

    /// `name` as the model reads it: in the compute dtype, and recorded in the graph unless frozen. None where it is missing or held in
    /// quantised blocks.
    pub fn compute(&self, name: &str) -> Option<Tensor> {
        let param = self.store.get(name)?;
        param.quantised.is_none().then(|| param.value.clone())
    }

    /// The dtype the model computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether nothing is trainable.
    pub fn is_frozen(&self) -> bool {
        self.masters().next().is_none()
    }

    /// Scalars in all parameters together.
    pub fn num_parameters(&self) -> usize {
        self.store.values().map(|p| p.shape().elem_count()).sum()
    }

    /// Bytes of the values in `stores` together: memory that several of them share counts once.
    pub fn bytes_together<'a>(stores: impl IntoIterator<Item = &'a Self>) -> usize {
        let mut seen = BTreeSet::new();
        let mut total = 0;
        for param in stores.into_iter().flat_map(|store| store.store.values()) {
            // What a value shares is the place of its storage in memory.
            let place = std::ptr::from_ref(&*param.value.storage_and_layout().0).addr();
            if seen.insert(place) {
                total += param.bytes();
            }
        }
        total
    }

    /// Bytes of the frozen parameters, which several stores can share.
    pub fn frozen_bytes(&self) -> usize {
        let frozen = self.store.values().filter(|p| p.trainable.is_none());
        frozen.map(Param::bytes).sum()
    }

    /// Scalars in the trainable parameters.
    pub fn num_trainable(&self) -> usize {
        self.trainable().map(|(_, w)| w.elem_count()).sum()
    }

    /// Bytes of all values, masters and copies in the compute dtype included.
    pub fn bytes(&self) -> usize {
        self.store.values().map(Param::bytes).sum()
    }

    /// All values, detached: the masters of trainable parameters, and the frozen ones in the compute dtype. They share storage, so
    /// they always hold the current values. Weights in quantised blocks are left out.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let plain = self.store.iter().filter(|(_, p)| p.quantised.is_none());
        plain
            .map(|(name, param)| (name.clone(), param.exact()))
            .collect()
    }

    /// The masters of the trainable parameters, detached: what a checkpoint holds. They share storage.
    pub fn trained(&self) -> BTreeMap<String, Tensor> {
        self.trainable()
            .map(|(name, weight)| (name.to_owned(), weight.as_detached_tensor()))
            .collect()
    }

    /// A view that shares storage with this store and records no graph: a model built on it always
    /// computes with the current values, and costs no memory.
    pub fn frozen(&self) -> Self {
        let mut view = self.clone();
        view.freeze(|_| true);
        view
    }

    /// The present values, frozen, in the compute dtype: what is trainable is copied, what is frozen is shared. An adapter that has not
    /// begun to learn is left out, since it adds nothing: of a fresh one the snapshot is the base itself.
    pub fn snapshot(&self) -> Result<Self> {
        let mut copy = match self.adapter_is_off()? {
            true => self.without_adapter(),
            false => self.clone(),
        };
        for param in copy.store.values_mut() {
            if param.trainable.take().is_some() {
                param.value = param.value.copy()?.detach();
            }
        }
        Ok(copy)
    }

    /// A store of copies of what is trainable, which shares what is frozen.
    pub(crate) fn copy(&self) -> Result<Self> {
        let mut copy = self.clone();
        for param in copy.store.values_mut() {
            if param.trainable.is_some() {
                *param = Param::trainable(&param.exact(), self.dtype)?;
            }
        }
        Ok(copy)
    }

    /// Takes a parameter out.
    pub(crate) fn remove(&mut self, name: &str) {
        self.store.remove(name);
    }

    /// Copies the masters into their copies in the compute dtype; call it after each optimizer step.
    pub fn refresh(&self) -> Result<()> {
        if self.dtype == DType::F32 {
            return Ok(()); // the values are the masters
        }
        let pairs = self
            .masters()
            .map(|(_, Master { weight, read })| (weight, read));
        Ok(rlhf_ops::round_all(&pairs.collect::<Vec<_>>())?)
    }

    /// Sets every trainable parameter to the value of its name in `values`, in place: models built on the store see it.
    pub fn restore(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, weight) in self.trainable() {
            let value = values
                .get(name)
                .filter(|value| value.shape() == weight.shape());
            let Some(value) = value else {
                return Err(Error::Invalid(format!(
                    "the checkpoint does not fit the model: parameter {name} of shape {:?} is missing or has another shape",
                    weight.shape()
                )));
            };
            weight.set(&value.to_device(&self.device)?.to_dtype(DType::F32)?)?;
        }
        self.refresh()
    }

    /// A `VarBuilder` over the store. A name that is missing or has another shape is an error that
    /// names it.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// Every name with its shape, in order of name.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.store
            .iter()
            .map(|(name, param)| (name.as_str(), param.shape()))
    }

    /// Every trainable name with the variable that gradients are taken of.
    pub(crate) fn read_vars(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.masters().map(|(name, master)| (name, &master.read))
    }

    fn masters(&self) -> impl Iterator<Item = (&str, &Master)> {
        self.store
            .iter()
            .filter_map(|(name, param)| Some((name.as_str(), param.trainable.as_ref()?)))
    }
}
