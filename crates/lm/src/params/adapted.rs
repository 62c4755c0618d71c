//! A store with a low-rank adapter among its parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Params, Weights};
use crate::lora::{self, Adapter, LoraConfig};
use crate::scalar::SCORE;
use crate::{Error, ModelConfig, Result};

impl Params {
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
    pub(super) fn adapter_is_off(&self) -> Result<bool> {
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
}
