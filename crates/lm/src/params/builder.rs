//! What a model asks its `VarBuilder` for, answered from the store.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, var_builder::SimpleBackend};

use super::Params;
use crate::lora::layer;
use crate::quantised;

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
