//! Gradient checkpointing: activations are recomputed in the backward pass instead of kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    TensorId, Var, bail,
};

use crate::gradient_sums::{is_summed, reached};

#[cfg(test)]
mod tests;

/// `y = f(x)` with gradient checkpointing: the graph keeps `x` but no intermediate result of `f`, and the backward pass computes `f(x)` a
/// second time.
///
/// Value and gradients, of `x` and of every variable that `f` reads, are the same bits as without checkpointing, provided that `f` is
/// deterministic and its variables do not change between the two passes. Chen et al. 2016, arXiv:1604.06174.
pub fn recompute(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    Ok(recompute_two(x, move |x| Ok((f(x)?, None)))?.0)
}

/// [`recompute`] of a function that may have a second result, of another shape and number format.
pub fn recompute_two(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<(Tensor, Option<Tensor>)> + Send + Sync + 'static,
) -> Result<(Tensor, Option<Tensor>)> {
    let (y, z) = f(&x.detach())?;
    let variables = variables(&y, z.as_ref());
    let (y, z) = (alone(&y)?, z.as_ref().map(alone).transpose()?);
    if variables.is_empty() && !x.track_op() {
        return Ok((y, z));
    }
    // An operation can have three operands, and `f` reads more variables than that. So each variable becomes an operand of its own link in
    // a chain of scalars, and that link returns the variable's gradient, which the backward pass of `Recompute` has stored.
    let pending = PendingGradients::default();
    let mut chain = Tensor::zeros((), x.dtype(), x.device())?;
    for variable in variables {
        chain = variable.apply_op2(&chain, Link(pending.clone()))?;
    }
    let second = SecondGradient::default();
    let y = x.apply_op2(
        &chain,
        Recompute {
            f: Box::new(f),
            y: Once::new(y),
            pending,
            second: second.clone(),
        },
    )?;
    let z = z.map(|z| y.apply_op2(&chain, Second(Once::new(z), second)));
    Ok((y, z.transpose()?))
}

/// The same values, contiguous and without a graph.
fn alone(y: &Tensor) -> Result<Tensor> {
    match y.layout().contiguous_offsets() {
        Some((0, _)) => Ok(y.detach()),
        _ => y.detach().force_contiguous(),
    }
}

/// The variables that `y` and `z` depend on, each once.
fn variables(y: &Tensor, z: Option<&Tensor>) -> Vec<Tensor> {
    let mut found: Vec<Tensor> = Vec::new();
    for node in [Some(y), z]
        .into_iter()
        .flatten()
        .flat_map(Tensor::sorted_nodes)
    {
        if node.is_variable() && found.iter().all(|known| known.id() != node.id()) {
            found.push(node.clone());
        }
    }
    found
}

/// Gradients of the recomputed graph, until the links of the chain return them; `None` for one that has been added to its sum.
#[derive(Clone, Default)]
struct PendingGradients(Arc<Mutex<HashMap<TensorId, Option<Tensor>>>>);

impl PendingGradients {
    fn lock(&self) -> MutexGuard<'_, HashMap<TensorId, Option<Tensor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gradient of the second result, until the backward pass of the first, which comes after it, takes it.
#[derive(Clone, Default)]
struct SecondGradient(Arc<Mutex<Option<Tensor>>>);

impl SecondGradient {
    fn lock(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Function = dyn Fn(&Tensor) -> Result<(Tensor, Option<Tensor>)> + Send + Sync;

struct Recompute {
    f: Box<Function>,
    y: Once,
    pending: PendingGradients,
    second: SecondGradient,
}

/// A result, until the forward pass has taken it.
struct Once(Mutex<Option<Tensor>>);

impl Once {
    fn new(y: Tensor) -> Self {
        Self(Mutex::new(Some(y)))
    }

    fn take(&self) -> Result<Tensor> {
        let mut y = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match y.take() {
            Some(y) => Ok(y),
            None => bail!("recompute: the forward pass of one operation ran twice"),
        }
    }
}

/// The forward pass on one kind of device: a copy of a result.
macro_rules! copy_result {
    ($field:tt, $name:ident, $storage:ident, $variant:ident) => {
        fn $name(
            &self,
            _: &$storage,
            _: &Layout,
            _: &$storage,
            _: &Layout,
        ) -> Result<($storage, Shape)> {
            let y = self.$field.take()?;
            let (storage, layout) = y.storage_and_layout();
            match &*storage {
                Storage::$variant(storage) => Ok((storage.try_clone(layout)?, y.shape().clone())),
                _ => {
                    bail!("recompute: expected a result on the device of the input")
                }
            }
        }
    };
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    copy_result!(y, cpu_fwd, CpuStorage, Cpu);
    copy_result!(y, cuda_fwd, CudaStorage, Cuda);
    copy_result!(y, metal_fwd, MetalStorage, Metal);

    fn bwd(
        &self,
        x: &Tensor,
        chain: &Tensor,
        y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        reached(y);
        let x = Var::from_tensor(&x.detach())?;
        // The gradient of Σ f(x)·g with respect to f(x) is g.
        let (y, z) = (self.f)(&x)?;
        let mut sum = (y * g)?.sum_all()?;
        if let (Some(z), Some(g)) = (z, self.second.lock().take()) {
            let second = (z * g)?.sum_all()?;
            sum = (sum.to_dtype(second.dtype())? + second)?;
        }
        let mut gradients = sum.backward()?;
        let dx = match gradients.remove(&x) {
            Some(dx) => dx.detach(),
            None => x.as_tensor().zeros_like()?,
        };
        let mut pending = self.pending.lock();
        for variable in &variables(&sum, None) {
            match gradients.remove(variable) {
                // The gradient of a leaf still refers to the graph it was computed from.
                Some(gradient) => {
                    pending.insert(variable.id(), Some(gradient.detach()));
                }
                None if is_summed(variable) => {
                    pending.insert(variable.id(), None);
                }
                None => {}
            }
        }
        Ok((Some(dx), Some(chain.zeros_like()?)))
    }
}

/// The second result, as an operation of the first: so its gradient is there before that of the first is asked for.
struct Second(Once, SecondGradient);

impl CustomOp2 for Second {
    fn name(&self) -> &'static str {
        "recompute_second"
    }

    copy_result!(0, cpu_fwd, CpuStorage, Cpu);
    copy_result!(0, cuda_fwd, CudaStorage, Cuda);
    copy_result!(0, metal_fwd, MetalStorage, Metal);

    fn bwd(
        &self,
        y: &Tensor,
        _chain: &Tensor,
        _z: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        *self.1.lock() = Some(g.detach());
        // Nothing else might depend on the first result, and without a gradient its backward pass would not run.
        Ok((Some(y.zeros_like()?), None))
    }
}

/// A link of the chain: returns the scalar of the previous one, and in the backward pass the pending gradient of its variable.
struct Link(PendingGradients);

/// The forward pass on one kind of device: a copy of the chain's scalar.
macro_rules! copy_chain {
    ($name:ident, $storage:ident) => {
        fn $name(
            &self,
            _: &$storage,
            _: &Layout,
            chain: &$storage,
            layout: &Layout,
        ) -> Result<($storage, Shape)> {
            Ok((chain.try_clone(layout)?, layout.shape().clone()))
        }
    };
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "recompute_link"
    }

    copy_chain!(cpu_fwd, CpuStorage);
    copy_chain!(cuda_fwd, CudaStorage);
    copy_chain!(metal_fwd, MetalStorage);

    fn bwd(
        &self,
        variable: &Tensor,
        _chain: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        match self.0.lock().remove(&variable.id()) {
            Some(gradient) => Ok((gradient, Some(g.clone()))),
            None => bail!(
                "recompute: the backward pass did not read a variable of shape {:?} that the forward pass read; the function must be deterministic",
                variable.dims()
            ),
        }
    }
}
