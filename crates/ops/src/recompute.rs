//! Activations computed again instead of kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    TensorId, Var, bail,
};

use crate::sums::is_summed;

/// `y = f(x)`, for which the graph keeps `x` and nothing that `f` computes on the way: the gradient computes `f(x)` a second time.
///
/// Value and gradients, of `x` and of every variable that `f` reads, are the same bits as those of `f` itself, so long as `f` gives the
/// same bits for the same input and its variables do not change between the two passes. Chen et al. 2016, arXiv:1604.06174.
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
    // An operation has three operands at most, and a block has more variables than that. So they hang on a chain of scalars, and each
    // link hands over what the gradient of `f` has left for its variable.
    let left = Left::default();
    let mut chain = Tensor::zeros((), x.dtype(), x.device())?;
    for variable in variables {
        chain = variable.apply_op2(&chain, Link(left.clone()))?;
    }
    x.apply_op2(
        &chain,
        Recompute {
            f: Box::new(f),
            y: Mutex::new(Some(y)),
            left,
        },
    )
}

/// The variables that `y` depends on.
fn variables(y: &Tensor) -> impl Iterator<Item = &Tensor> {
    y.sorted_nodes().into_iter().filter(|t| t.is_variable())
}

/// Gradients on their way from the recomputed graph to the links of the chain; `None` for one that is in its sum already.
#[derive(Clone, Default)]
struct Left(Arc<Mutex<HashMap<TensorId, Option<Tensor>>>>);

impl Left {
    fn lock(&self) -> MutexGuard<'_, HashMap<TensorId, Option<Tensor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Function = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

struct Recompute {
    f: Box<Function>,
    /// What `f` gave, until the forward pass has passed it on.
    y: Mutex<Option<Tensor>>,
    left: Left,
}

impl Recompute {
    fn take(&self) -> Result<Tensor> {
        let mut y = self.y.lock().unwrap_or_else(PoisonError::into_inner);
        match y.take() {
            Some(y) => Ok(y),
            None => bail!("recompute: one operation has one forward pass"),
        }
    }
}

/// The forward pass for one kind of storage: a copy of what was computed.
macro_rules! pass_on {
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
                    bail!("recompute: the function's result lies on another device than its input")
                }
            }
        }
    };
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    pass_on!(cpu_fwd, CpuStorage, Cpu);
    pass_on!(cuda_fwd, CudaStorage, Cuda);
    pass_on!(metal_fwd, MetalStorage, Metal);

    fn bwd(
        &self,
        x: &Tensor,
        chain: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let x = Var::from_tensor(&x.detach())?;
        // The derivative of Σ f(x)·g by f(x) is g.
        let sum = ((self.f)(&x)? * g)?.sum_all()?;
        let mut gradients = sum.backward()?;
        let dx = match gradients.remove(&x) {
            Some(dx) => dx.detach(),
            None => x.as_tensor().zeros_like()?,
        };
        let mut left = self.left.lock();
        for variable in variables(&sum) {
            match gradients.remove(variable) {
                // The gradient of a leaf still holds the graph it was computed from.
                Some(gradient) => {
                    left.insert(variable.id(), Some(gradient.detach()));
                }
                None if is_summed(variable) => {
                    left.insert(variable.id(), None);
                }
                None => {}
            }
        }
        Ok((Some(dx), Some(chain.zeros_like()?)))
    }
}

/// Passes the scalar of the chain on; its gradient is the one that was left for the variable.
struct Link(Left);

macro_rules! pass_along {
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

    pass_along!(cpu_fwd, CpuStorage);
    pass_along!(cuda_fwd, CudaStorage);
    pass_along!(metal_fwd, MetalStorage);

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
                "recompute: the second pass did not read a variable of shape {:?} that the first one read",
                variable.dims()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType};

    use super::*;
    use crate::testing::{Chance, flat};
    use crate::{WeightLayout, linear, rms_norm};

    /// `x + silu(norm(x)·Wᵀ + b)`: a small block with a residual.
    fn block(x: &Tensor, [norm, w, b]: &[Tensor; 3]) -> Result<Tensor> {
        let y = linear(&rms_norm(x, norm, 1e-5)?, w, WeightLayout::OutIn, Some(b))?;
        x + y.silu()?
    }

    fn operands(dtype: DType) -> (Var, [Var; 3]) {
        let mut chance = Chance::new(1);
        let mut var = |shape: &[usize]| {
            Var::from_tensor(&chance.tensor(shape).to_dtype(dtype).unwrap()).unwrap()
        };
        (var(&[5, 4]), [var(&[4]), var(&[4, 4]), var(&[4])])
    }

    fn tensors(vars: &[Var; 3]) -> [Tensor; 3] {
        vars.clone().map(Var::into_inner)
    }

    /// The value of two blocks over the same weights and all gradients; `again` computes the blocks twice.
    fn two_blocks(dtype: DType, again: bool) -> Vec<Vec<f64>> {
        let (x, weights) = operands(dtype);
        let step = |x: &Tensor| {
            let weights = tensors(&weights);
            match again {
                true => recompute(x, move |x| block(x, &weights)).unwrap(),
                false => block(x, &weights).unwrap(),
            }
        };
        let y = step(&step(&x));
        let loss = y.sqr().unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let of = |v: &Var| flat(gradients.get(v).unwrap());
        let mut all = vec![flat(&y), of(&x)];
        all.extend(weights.iter().map(of));
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
        let of = |v: &Var| flat(loss.backward().unwrap().get(v).unwrap());
        assert_eq!(weights.each_ref().map(of), weights.each_ref().map(of));
    }

    /// The nodes that record something: the input, the variables, one link each, and the result.
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
    fn a_result_that_is_a_view_is_laid_out_anew() {
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
