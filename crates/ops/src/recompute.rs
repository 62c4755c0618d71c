//! Gradient checkpointing: activations are recomputed in the backward pass instead of kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    TensorId, Var, bail,
};

use crate::gradient_sums::is_summed;

/// `y = f(x)` with gradient checkpointing: the graph keeps `x` but no intermediate result of `f`, and the backward pass computes `f(x)` a
/// second time.
///
/// Value and gradients, of `x` and of every variable that `f` reads, are the same bits as without checkpointing, provided that `f` is
/// deterministic and its variables do not change between the two passes. Chen et al. 2016, arXiv:1604.06174.
pub fn recompute(
    x: &Tensor,
    f: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let y = f(&x.detach())?;
    let variables: Vec<Tensor> = variables(&y).cloned().collect();
    let y = match y.layout().contiguous_offsets() {
        Some((0, _)) => y.detach(),
        _ => y.detach().force_contiguous()?,
    };
    if variables.is_empty() && !x.track_op() {
        return Ok(y);
    }
    // An operation can have three operands, and `f` reads more variables than that. So each variable becomes an operand of its own link in
    // a chain of scalars, and that link returns the variable's gradient, which the backward pass of `Recompute` has stored.
    let pending = PendingGradients::default();
    let mut chain = Tensor::zeros((), x.dtype(), x.device())?;
    for variable in variables {
        chain = variable.apply_op2(&chain, Link(pending.clone()))?;
    }
    x.apply_op2(
        &chain,
        Recompute {
            f: Box::new(f),
            y: Mutex::new(Some(y)),
            pending,
        },
    )
}

/// The variables that `y` depends on.
fn variables(y: &Tensor) -> impl Iterator<Item = &Tensor> {
    y.sorted_nodes().into_iter().filter(|t| t.is_variable())
}

/// Gradients of the recomputed graph, until the links of the chain return them; `None` for one that has been added to its sum.
#[derive(Clone, Default)]
struct PendingGradients(Arc<Mutex<HashMap<TensorId, Option<Tensor>>>>);

impl PendingGradients {
    fn lock(&self) -> MutexGuard<'_, HashMap<TensorId, Option<Tensor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Function = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

struct Recompute {
    f: Box<Function>,
    /// `f(x)`, until the forward pass has taken it.
    y: Mutex<Option<Tensor>>,
    pending: PendingGradients,
}

impl Recompute {
    fn take(&self) -> Result<Tensor> {
        let mut y = self.y.lock().unwrap_or_else(PoisonError::into_inner);
        match y.take() {
            Some(y) => Ok(y),
            None => bail!("recompute: the forward pass of one operation ran twice"),
        }
    }
}

/// The forward pass on one kind of device: a copy of `f(x)`.
macro_rules! copy_result {
    ($name:ident, $storage:ident, $variant:ident) => {
        fn $name(
            &self,
            _: &$storage,
            _: &Layout,
            _: &$storage,
            _: &Layout,
        ) -> Result<($storage, Shape)> {
            let y = self.take()?;
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

    copy_result!(cpu_fwd, CpuStorage, Cpu);
    copy_result!(cuda_fwd, CudaStorage, Cuda);
    copy_result!(metal_fwd, MetalStorage, Metal);

    fn bwd(
        &self,
        x: &Tensor,
        chain: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let x = Var::from_tensor(&x.detach())?;
        // The gradient of Σ f(x)·g with respect to f(x) is g.
        let sum = ((self.f)(&x)? * g)?.sum_all()?;
        let mut gradients = sum.backward()?;
        let dx = match gradients.remove(&x) {
            Some(dx) => dx.detach(),
            None => x.as_tensor().zeros_like()?,
        };
        let mut pending = self.pending.lock();
        for variable in variables(&sum) {
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

#[cfg(test)]
mod tests {
    use candle_core::{D, DType};

    use super::*;
    use crate::testing::{TestRng, flat};
    use crate::{WeightLayout, linear, rms_norm};

    /// `x + silu(norm(x)·Wᵀ + b)`: a small block with a residual.
    fn block(x: &Tensor, [norm, w, b]: &[Tensor; 3]) -> Result<Tensor> {
        let y = linear(&rms_norm(x, norm, 1e-5)?, w, WeightLayout::OutIn, Some(b))?;
        x + y.silu()?
    }

    fn operands(dtype: DType) -> (Var, [Var; 3]) {
        let mut rng = TestRng::new(1);
        let mut var = |shape: &[usize]| {
            Var::from_tensor(&rng.tensor(shape).to_dtype(dtype).unwrap()).unwrap()
        };
        (var(&[5, 4]), [var(&[4]), var(&[4, 4]), var(&[4])])
    }

    fn tensors(vars: &[Var; 3]) -> [Tensor; 3] {
        vars.clone().map(Var::into_inner)
    }

    /// The value of two blocks over the same weights and all gradients; with gradient checkpointing or without.
    fn two_blocks(dtype: DType, checkpoint: bool) -> Vec<Vec<f64>> {
        let (x, weights) = operands(dtype);
        let step = |x: &Tensor| {
            let weights = tensors(&weights);
            match checkpoint {
                true => recompute(x, move |x| block(x, &weights)).unwrap(),
                false => block(x, &weights).unwrap(),
            }
        };
        let y = step(&step(&x));
        let loss = y.sqr().unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = |v: &Var| flat(gradients.get(v).unwrap());
        let mut all = vec![flat(&y), gradient(&x)];
        all.extend(weights.iter().map(gradient));
        all
    }

    #[test]
    fn value_and_gradients_are_the_same_bits_also_of_weights_used_twice() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            assert_eq!(
                two_blocks(dtype, true),
                two_blocks(dtype, false),
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn a_second_backward_gives_the_same_gradients() {
        let (x, weights) = operands(DType::F32);
        let inner = tensors(&weights);
        let y = recompute(&x, move |x| block(x, &inner)).unwrap();
        let loss = y.sqr().unwrap().sum_all().unwrap();
        let gradient = |v: &Var| flat(loss.backward().unwrap().get(v).unwrap());
        assert_eq!(
            weights.each_ref().map(gradient),
            weights.each_ref().map(gradient)
        );
    }

    /// Counting the nodes of the graph: the input, the variables, one link each, and the result.
    #[test]
    fn the_graph_keeps_the_input_and_no_activation() {
        let (x, weights) = operands(DType::F32);
        let weights = tensors(&weights);
        let y = recompute(&x, move |x| block(x, &weights)).unwrap();
        let large = |t: &&&Tensor| !t.is_variable() && t.elem_count() > 1;
        let nodes = y.sorted_nodes();
        assert_eq!(nodes.iter().filter(large).count(), 1);
        assert_eq!(nodes.len(), 1 + 3 + 3 + 1);
    }

    #[test]
    fn weights_learn_although_the_input_records_nothing_and_the_input_although_the_weights_do_not()
    {
        let (x, weights) = operands(DType::F32);
        let tracked = tensors(&weights);
        let y = recompute(&x.as_detached_tensor(), move |x| block(x, &tracked)).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(weights.iter().all(|w| gradients.get(w).is_some()));

        let frozen = weights.each_ref().map(Var::as_detached_tensor);
        let y = recompute(&x, move |x| block(x, &frozen)).unwrap();
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&x).is_some());

        let frozen = weights.each_ref().map(Var::as_detached_tensor);
        let y = recompute(&x.as_detached_tensor(), move |x| block(x, &frozen)).unwrap();
        assert!(!y.track_op());
    }

    #[test]
    fn a_result_that_is_a_view_becomes_contiguous() {
        let (x, _) = operands(DType::F32);
        let last = |x: &Tensor| x.narrow(D::Minus1, 1, 3);
        let y = recompute(&x, last).unwrap();
        assert_eq!(flat(&y), flat(&last(&x).unwrap()));
        let dx = |y: Tensor| {
            flat(
                y.sqr()
                    .unwrap()
                    .sum_all()
                    .unwrap()
                    .backward()
                    .unwrap()
                    .get(&x)
                    .unwrap(),
            )
        };
        assert_eq!(dx(y), dx(last(&x).unwrap()));
    }
}
