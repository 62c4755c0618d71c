//! The ordered, named store of a model's parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rlhf_ops::QuantisedWeight;

use crate::lora::{self, Adapter, LoraConfig, layer};
use crate::scalar::SCORE;
use crate::{Error, ModelConfig, Result, quantised};

/// What weights are loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// To be trained: f32 masters are kept where the model computes in half precision.
    Trainable,
    /// To be read only: in the dtype the model computes in, and no graph is recorded.
    Frozen,
}

/// A parameter.
#[derive(Debug, Clone)]
struct Param {
    /// What the model reads, in the compute dtype. Where trainable it is a variable, which records a graph. Of a quantised weight the blocks.
    value: Tensor,
    /// The weight, where it stays in quantised blocks.
    quantised: Option<QuantisedWeight>,
    /// Frozen where absent.
    trainable: Option<Master>,
}

/// What makes a parameter trainable.
#[derive(Debug, Clone)]
struct Master {
    /// What the optimizer changes, in f32: the variable behind the value itself where the model computes in f32.
    weight: Var,
    /// The variable behind the value, of which gradients are taken.
    read: Var,
}

impl Param {
    /// Copies `value`.
    fn trainable(value: &Tensor, dtype: DType) -> Result<Self> {
        // Var::from_tensor keeps a tensor that already is a variable; detaching first makes it copy.
        let value = value.detach();
        let weight = Var::from_tensor(&value.to_dtype(DType::F32)?.contiguous()?)?;
        let read = match dtype {
            DType::F32 => weight.clone(),
            dtype => Var::from_tensor(&value.to_dtype(dtype)?.contiguous()?)?,
        };
        Ok(Self {
            value: read.as_tensor().clone(),
            quantised: None,
            trainable: Some(Master { weight, read }),
        })
    }

    /// Shares the storage of a `value` that has this dtype already.
    fn frozen(value: &Tensor, dtype: DType) -> Result<Self> {
        Ok(Self {
            value: value.detach().to_dtype(dtype)?.contiguous()?,
            quantised: None,
            trainable: None,
        })
    }

    /// Shares the blocks of `weight`.
    fn quantised(weight: &QuantisedWeight) -> Self {
        Self {
            value: weight.blocks().clone(),
            quantised: Some(weight.clone()),
            trainable: None,
        }
    }

    fn shape(&self) -> Shape {
        match &self.quantised {
            Some(weight) => weight.shape(),
            None => self.value.shape().clone(),
        }
    }

    /// The value as exactly as it is held; of a quantised weight the blocks.
    fn exact(&self) -> Tensor {
        match &self.trainable {
            Some(master) => master.weight.as_detached_tensor(),
            None => self.value.clone(),
        }
    }

    fn bytes(&self) -> usize {
        let bytes = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let master = match &self.trainable {
            Some(master) if self.value.dtype() != DType::F32 => bytes(&master.weight),
            _ => 0,
        };
        bytes(&self.value) + master
    }
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

    /// Adds a trainable parameter, or replaces one, with a copy of `value`. Models and views made before do not
    /// see a replaced parameter; to change a value in place use [`Var::set`] on what [`Params::get`]
    /// returns, then [`Params::refresh`].
    pub fn insert(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.to_device(&self.device)?;
        let param = Param::trainable(&value, self.dtype)?;
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

    /// The adapter among the parameters, if there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_deref()
    }

    /// Puts `adapter` beside the weights, all of which are frozen, with these `values` for its parameters.
    pub(crate) fn adapt(
        &mut self,
        adapter: Arc<Adapter>,
        values: &BTreeMap<String, Tensor>,
        weights: Weights,
    ) -> Result<()> {
        self.freeze(|_| true);
        for name in adapter.names() {
            let Some(value) = values.get(&name) else {
                return Err(Error::Invalid(format!("the adapter lacks {name}")));
            };
            match weights {
                Weights::Trainable => self.insert(&name, value)?,
                Weights::Frozen => self.insert_frozen(&name, value)?,
            }
        }
        self.adapter = Some(adapter);
        Ok(())
    }

    /// The frozen weights, shared, under a trainable copy of the adapter and of the head of a reward model; where there is no adapter yet,
    /// under a fresh one as `lora` asks for, drawn from `seed`.
    pub(crate) fn adapted_copy(
        &self,
        config: &ModelConfig,
        lora: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        let (adapter, values) = match &self.adapter {
            Some(adapter) => (adapter.clone(), self.tensors()),
            None => {
                let adapter = Adapter::new(lora, config, None)?;
                let values = adapter.init(config, seed, &self.device)?;
                (Arc::new(adapter), values)
            }
        };
        let mut copy = self.clone();
        copy.adapt(adapter, &values, Weights::Trainable)?;
        if let Some(score) = self.store.get(SCORE) {
            copy.insert(SCORE, &score.exact())?;
        }
        Ok(copy)
    }

    /// Says of the adapter among the parameters what `adapter` says.
    pub(crate) fn set_adapter(&mut self, adapter: Arc<Adapter>) {
        self.adapter = Some(adapter);
    }

    /// The same parameters without those of the adapter; they share storage.
    pub(crate) fn without_adapter(&self) -> Self {
        let mut base = self.clone();
        if let Some(adapter) = base.adapter.take() {
            base.store.retain(|name, _| !adapter.owns(name));
        }
        base
    }

    /// Whether there is an adapter that adds nothing: every B is zero. Reads from the device.
    fn adapter_is_off(&self) -> Result<bool> {
        let Some(adapter) = &self.adapter else {
            return Ok(false);
        };
        for module in adapter.modules.keys() {
            if !self.is_zero(&format!("{module}{}", lora::B))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether parameter `name` is A of an adapter whose B is still zero: then its gradient, which goes through B, is exactly zero.
    pub(crate) fn waits_for_b(&self, name: &str) -> Result<bool> {
        match (&self.adapter, name.strip_suffix(lora::A)) {
            (Some(adapter), Some(module)) if adapter.modules.contains_key(module) => {
                self.is_zero(&format!("{module}{}", lora::B))
            }
            _ => Ok(false),
        }
    }

    fn is_zero(&self, name: &str) -> Result<bool> {
        let Some(param) = self.store.get(name) else {
            return Ok(false);
        };
        // A sum, since a maximum skips NaN.
        let sum = param.exact().to_dtype(DType::F32)?.abs()?.sum_all()?;
        Ok(rlhf_ops::read_to_host(&sum)? == [0.0])
    }

    /// Copies the masters into their copies in the compute dtype; call it after each optimizer step.
    pub fn refresh(&self) -> Result<()> {
        if self.dtype == DType::F32 {
            return Ok(()); // the values are the masters
        }
        for (_, Master { weight, read }) in self.masters() {
            read.set(&weight.as_detached_tensor().to_dtype(self.dtype)?)?;
        }
        Ok(())
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

impl SimpleBackend for Params {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let Some(answer) = layer::shape(self.adapter(), name) {
            return answer;
        }
        if let Some(weight) = quantised::asking(name) {
            return quantised::answer(name, self.quantised(&weight));
        }
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!(
                "parameter {name}: expected shape {:?}, found {:?}",
                shape.dims(),
                tensor.dims()
            )
        }
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.compute(name) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("parameter {name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        if let Some(weight) = quantised::asking(name) {
            return self.quantised(&weight).is_some();
        }
        layer::answer(self.adapter(), name).unwrap_or_else(|| self.store.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(dtype: DType) -> Params {
        let mut params = Params::new(&Device::Cpu, dtype);
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        params.insert("b.w", &w).unwrap();
        params.insert("a.w", &w.i(0).unwrap()).unwrap();
        params
    }

    use candle_core::IndexOp;

    #[test]
    fn names_come_in_order_and_scalars_are_counted() {
        let params = params(DType::F32);
        assert_eq!(params.names().collect::<Vec<_>>(), ["a.w", "b.w"]);
        assert_eq!((params.num_parameters(), params.num_trainable()), (6, 6));
    }

    /// By definition: 6 scalars, of which 2 (`a.w`) or 4 (`b.w`) are frozen.
    #[test]
    fn a_frozen_scalar_costs_one_value_in_the_compute_dtype_and_a_trainable_one_a_master_besides() {
        for (dtype, value, master) in [(DType::F32, 4, 0), (DType::BF16, 2, 4), (DType::F16, 2, 4)]
        {
            let mut params = params(dtype);
            assert_eq!(params.bytes(), 6 * (value + master));
            assert_eq!(params.snapshot().unwrap().bytes(), 6 * value);
            params.freeze(|name| name == "b.w");
            assert_eq!(params.bytes(), 6 * value + 2 * master);
            assert_eq!((params.num_parameters(), params.num_trainable()), (6, 2));
            assert!(!params.is_frozen());
            params.freeze(|_| true);
            assert_eq!(params.bytes(), 6 * value);
            assert!(params.is_frozen());
        }
    }

    #[test]
    fn of_a_mixed_store_optimizer_and_checkpoint_see_what_is_trainable_and_saving_sees_all() {
        for dtype in [DType::F32, DType::BF16] {
            let mut params = params(dtype);
            let third = Tensor::new(&[1f32 / 3.0], &Device::Cpu).unwrap();
            params.insert_frozen("c.w", &third).unwrap();
            params.freeze(|name| name == "b.w");
            let trainable: Vec<_> = params.trainable().map(|(name, _)| name).collect();
            assert_eq!(trainable, ["a.w"]);
            assert!(params.contains("c.w") && params.get("c.w").is_none());
            assert!(!params.compute("c.w").unwrap().track_op());
            assert!(params.compute("a.w").unwrap().track_op());
            assert_eq!(params.trained().keys().collect::<Vec<_>>(), ["a.w"]);
            let saved = params.tensors();
            assert_eq!(saved.keys().collect::<Vec<_>>(), ["a.w", "b.w", "c.w"]);
            assert_eq!(saved["a.w"].dtype(), DType::F32);
            // Rounded once, when it was put in.
            let rounded = third.to_dtype(dtype).unwrap();
            let bits = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&saved["c.w"]), bits(&rounded));

            let mut values = params.trained();
            let new = Tensor::new(&[7f32, 8.0], &Device::Cpu).unwrap();
            values.insert("a.w".into(), new);
            params.restore(&values).unwrap();
            assert_eq!(bits(&params.compute("a.w").unwrap()), [7.0, 8.0]);
            values.remove("a.w");
            let error = params.restore(&values).unwrap_err().to_string();
            assert!(error.contains("parameter a.w"), "{error}");
        }
    }

    #[test]
    fn frozen_stores_share_the_storage_of_one_model_and_a_trainable_one_copies() {
        let w = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let mut params = Params::new(&Device::Cpu, DType::F32);
        params.insert_frozen("frozen", &w).unwrap();
        params.insert("trained", &w).unwrap();
        let at = |t: &Tensor| match &*t.storage_and_layout().0 {
            candle_core::Storage::Cpu(storage) => storage.as_slice::<f32>().unwrap().as_ptr(),
            _ => unreachable!("on the CPU"),
        };
        assert_eq!(at(&params.compute("frozen").unwrap()), at(&w));
        assert_ne!(at(&params.compute("trained").unwrap()), at(&w));
    }

    #[test]
    fn a_frozen_view_sees_updates_and_records_no_graph_but_a_snapshot_stays() {
        for dtype in [DType::F32, DType::BF16] {
            let params = params(dtype);
            let (frozen, snapshot) = (params.frozen(), params.snapshot().unwrap());
            let var = params.get("a.w").unwrap();
            var.set(&Tensor::new(&[5f32, 6.0], &Device::Cpu).unwrap())
                .unwrap();
            params.refresh().unwrap();
            let read = |p: &Params| {
                let w = p.var_builder().pp("a").get(2, "w").unwrap();
                assert_eq!((w.track_op(), w.dtype()), (!p.is_frozen(), dtype));
                w.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(read(&params), [5.0, 6.0]);
            assert_eq!(read(&frozen), [5.0, 6.0]);
            assert_eq!(read(&snapshot), [1.0, 2.0]);
        }
    }

    #[test]
    fn a_missing_or_misshaped_name_is_an_error_that_names_it() {
        let vb = params(DType::F32).var_builder();
        let missing = vb.pp("c").get(2, "w").unwrap_err().to_string();
        assert!(missing.contains("c.w is missing"), "{missing}");
        let misshaped = vb.pp("a").get(3, "w").unwrap_err().to_string();
        assert!(
            misshaped.contains("a.w: expected shape [3], found [2]"),
            "{misshaped}"
        );
    }
}
