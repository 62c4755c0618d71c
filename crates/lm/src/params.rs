//! The ordered, named store of a model's parameters.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use crate::{Error, Result};

/// A parameter: what the optimizer changes, and what the model reads.
#[derive(Debug, Clone)]
struct Param {
    /// In f32 (in a snapshot: in the compute dtype).
    master: Var,
    /// The copy in the compute dtype, when that is another one.
    compute: Option<Var>,
}

impl Param {
    fn read(&self) -> &Var {
        self.compute.as_ref().unwrap_or(&self.master)
    }
}

/// The ordered, named store of a model's parameters.
///
/// Models read it through [`Params::var_builder`]; optimizers change the f32 masters of
/// [`Params::iter`] in place, after which [`Params::refresh`] brings the copies in the compute dtype up
/// to date. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct Params {
    store: BTreeMap<String, Param>,
    device: Device,
    dtype: DType,
    frozen: bool,
}

impl Params {
    /// An empty store on `device`, for a model that computes in `dtype`.
    pub fn new(device: &Device, dtype: DType) -> Self {
        Self {
            store: BTreeMap::new(),
            device: device.clone(),
            dtype,
            frozen: false,
        }
    }

    /// A store that holds the values of `tensors`, each given back as soon as it is copied.
    pub(crate) fn take(
        tensors: BTreeMap<String, Tensor>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut params = Self::new(device, dtype);
        for (name, tensor) in tensors {
            params.insert(&name, &tensor)?;
        }
        Ok(params)
    }

    /// A store that holds copies of `tensors`.
    pub fn load(tensors: &BTreeMap<String, Tensor>, device: &Device, dtype: DType) -> Result<Self> {
        let mut params = Self::new(device, dtype);
        for (name, tensor) in tensors {
            params.insert(name, tensor)?;
        }
        Ok(params)
    }

    /// Adds a parameter, or replaces one, with a copy of `value`. Models and views made before do not
    /// see a replaced parameter; to change a value in place use [`Var::set`] on what [`Params::get`]
    /// returns, then [`Params::refresh`].
    pub fn insert(&mut self, name: &str, value: &Tensor) -> Result<()> {
        // Var::from_tensor keeps a tensor that already is a variable; detaching first makes it copy.
        let value = value.to_device(&self.device)?.detach();
        let compute = match self.dtype {
            DType::F32 => None,
            dtype => Some(Var::from_tensor(&value.to_dtype(dtype)?.contiguous()?)?),
        };
        let master = Var::from_tensor(&value.to_dtype(DType::F32)?.contiguous()?)?;
        self.store
            .insert(name.to_owned(), Param { master, compute });
        Ok(())
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.store.keys().map(String::as_str)
    }

    /// Every name with its f32 master, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.store
            .iter()
            .map(|(name, p)| (name.as_str(), &p.master))
    }

    /// The f32 master of `name`.
    pub fn get(&self, name: &str) -> Option<&Var> {
        self.store.get(name).map(|p| &p.master)
    }

    /// `name` as the model reads it: in the compute dtype, and recorded in the graph unless frozen.
    pub fn compute(&self, name: &str) -> Option<Tensor> {
        let read = self.store.get(name)?.read();
        Some(if self.frozen {
            read.as_detached_tensor()
        } else {
            read.as_tensor().clone()
        })
    }

    /// The dtype the model computes in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether this is a [frozen view](Params::frozen) or a [snapshot](Params::snapshot).
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Scalars in all parameters together.
    pub fn num_parameters(&self) -> usize {
        self.store.values().map(|p| p.master.elem_count()).sum()
    }

    /// The masters, detached. They share storage, so they always hold the current values.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.iter()
            .map(|(name, master)| (name.to_owned(), master.as_detached_tensor()))
            .collect()
    }

    /// A view that shares storage with this store and records no graph: a model built on it always
    /// computes with the current values, and costs no memory.
    pub fn frozen(&self) -> Self {
        Self {
            frozen: true,
            ..self.clone()
        }
    }

    /// A frozen copy of the present values. It keeps only what the model reads, so where the compute
    /// dtype is not f32 its masters are in the compute dtype too.
    pub fn snapshot(&self) -> Result<Self> {
        let mut store = BTreeMap::new();
        for (name, param) in &self.store {
            let master = Var::from_tensor(&param.read().as_detached_tensor())?;
            let compute = None;
            store.insert(name.clone(), Param { master, compute });
        }
        Ok(Self {
            store,
            frozen: true,
            ..self.clone()
        })
    }

    /// Copies the masters into their copies in the compute dtype; call it after each optimizer step.
    pub fn refresh(&self) -> Result<()> {
        for Param { master, compute } in self.store.values() {
            if let Some(compute) = compute {
                compute.set(&master.as_detached_tensor().to_dtype(self.dtype)?)?;
            }
        }
        Ok(())
    }

    /// Sets every parameter to the value of its name in `values`, in place: models built on the store see it.
    pub fn restore(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, master) in self.iter() {
            let value = values
                .get(name)
                .filter(|value| value.shape() == master.shape());
            let Some(value) = value else {
                return Err(Error::Invalid(format!(
                    "the checkpoint does not fit the model: parameter {name} of shape {:?} is missing or has another shape",
                    master.shape()
                )));
            };
            master.set(&value.to_device(&self.device)?.to_dtype(DType::F32)?)?;
        }
        self.refresh()
    }

    /// A `VarBuilder` over the store. A name that is missing or has another shape is an error that
    /// names it.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// Every name with its shape, in order of name.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.iter().map(|(name, master)| (name, master.shape()))
    }

    /// Every name with the variable that gradients are taken of.
    pub(crate) fn read_vars(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.store.iter().map(|(name, p)| (name.as_str(), p.read()))
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
        self.store.contains_key(name)
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
        assert_eq!(params.num_parameters(), 6);
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
