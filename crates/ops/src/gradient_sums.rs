//! Gradient accumulation inside the backward pass.
//!
//! candle's backward pass allocates zeros for every gradient, adds to them, and returns all gradients at its end, to be added to those of
//! earlier micro-batches. Gradients of weights are as large as the weights, so this costs more time than many a kernel, and memory for a
//! second copy of the model. The operations here that have weights add to the running sum directly instead.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, TensorId};
use rayon::prelude::*;

use crate::cpu::buffer::{GRAIN, add, zeros};
use crate::cpu::gemm::{add_product, product};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::{gradient, with_elements_mut};
use crate::gpu::Memory;

/// Gradient accumulators: by the variable's id, its running sum, or `None` before the first gradient.
pub type GradientSums = HashMap<TensorId, Option<Tensor>>;

thread_local! {
    /// The accumulators of this thread's current [`backward_into`]. candle offers no other way to pass them to an operation's gradient.
    static CURRENT: RefCell<Option<GradientSums>> = const { RefCell::new(None) };
}

/// Differentiates `loss`, and adds the gradients of the variables in `sums` to their sums wherever an operation supports that. The result
/// holds all other gradients, as [`Tensor::backward`] does; a gradient is in one or the other, a variable may have parts in both.
///
/// The sums are changed in place: no other tensor may share their memory.
pub fn backward_into(loss: &Tensor, sums: &mut GradientSums) -> Result<GradStore> {
    let outer = CURRENT.replace(Some(std::mem::take(sums)));
    let gradients = loss.backward();
    if let Some(done) = CURRENT.replace(outer) {
        *sums = done;
    }
    gradients
}

/// Where an operation puts the gradient of a variable: a new buffer, or a sum to add to.
pub(crate) enum Accumulator<'a> {
    New(&'a mut Vec<f32>),
    Sum(&'a mut [f32]),
}

impl<'a> Accumulator<'a> {
    /// The gradient is the product `a·b`.
    pub(crate) fn add_product(self, a: Matrix<'_>, b: Matrix<'_>) {
        match self {
            Self::New(values) => *values = product(a, b),
            Self::Sum(sum) => add_product(sum, a, b, 1.0),
        }
    }

    /// `len` elements to add the gradient to.
    pub(crate) fn add_to(self, len: usize) -> &'a mut [f32] {
        match self {
            Self::New(values) => {
                *values = zeros(len);
                values
            }
            Self::Sum(sum) => sum,
        }
    }
}

/// Adds the gradient that `write` computes to the sum of `variable`; where it has none, returns the gradient for candle to keep.
pub(crate) fn sum_gradient(
    variable: &Tensor,
    write: impl FnOnce(Accumulator<'_>),
) -> Result<Option<Tensor>> {
    // The sums are not borrowed while `write` runs: it starts parallel work, and on this thread that may run other tasks.
    let Some(sum) = take_sum(variable) else {
        let mut values = Vec::new();
        write(Accumulator::New(&mut values));
        return gradient(values, variable);
    };
    let sum = match sum {
        Some(sum) => {
            with_elements_mut(&sum, |sum| {
                write(Accumulator::Sum(sum));
                Ok(())
            })?;
            sum
        }
        None => {
            let mut values = Vec::new();
            write(Accumulator::New(&mut values));
            Tensor::from_vec(values, variable.shape(), &Device::Cpu)?
        }
    };
    put_sum(variable, sum);
    Ok(None)
}

/// [`sum_gradient`] for a gradient that has been computed: the first one becomes the sum.
pub(crate) fn sum_values(variable: &Tensor, values: Vec<f32>) -> Result<Option<Tensor>> {
    sum_gradient(variable, |sum| match sum {
        Accumulator::New(new) => *new = values,
        Accumulator::Sum(sum) => sum
            .par_chunks_mut(GRAIN)
            .zip(values.par_chunks(GRAIN))
            .for_each(|(sum, values)| add(sum, values)),
    })
}

/// [`sum_gradient`] for kernels of a GPU: `write(sum, true)` adds the gradient to a contiguous sum in `f32`, in place; `write(sum, false)` puts it
/// into new memory.
pub(crate) fn sum_on_gpu(
    variable: &Tensor,
    write: impl FnOnce(&Tensor, bool) -> Result<()>,
) -> Result<Option<Tensor>> {
    let sum = take_sum(variable);
    let is_summed = sum.is_some();
    let (sum, add) = match sum.flatten() {
        Some(sum) => (sum, true),
        None => {
            let new = Memory::new(variable.shape(), DType::F32, variable.device())?;
            (new.tensor(), false)
        }
    };
    write(&sum, add)?;
    if is_summed {
        put_sum(variable, sum);
        return Ok(None);
    }
    sum.to_dtype(variable.dtype()).map(Some)
}

/// Whether the current backward pass adds gradients of `variable` to a sum.
pub(crate) fn is_summed(variable: &Tensor) -> bool {
    CURRENT.with_borrow(|sums| {
        sums.as_ref()
            .is_some_and(|sums| sums.contains_key(&variable.id()))
    })
}

/// Removes the sum of `variable`, until [`put_sum`]; `None` if the variable has no accumulator.
fn take_sum(variable: &Tensor) -> Option<Option<Tensor>> {
    CURRENT.with_borrow_mut(|sums| Some(sums.as_mut()?.get_mut(&variable.id())?.take()))
}

fn put_sum(variable: &Tensor, sum: Tensor) {
    CURRENT.with_borrow_mut(|sums| {
        if let Some(slot) = sums.as_mut().and_then(|sums| sums.get_mut(&variable.id())) {
            *slot = Some(sum);
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::testing::{TestRng, assert_close};
    use crate::{WeightLayout, embedding, linear, negative_log_likelihood, token_logprobs};

    /// Against candle's own sums, over two passes in which one weight is used by every operation that sums.
    #[test]
    fn the_sums_are_those_of_candle() {
        let mut rng = TestRng::new(1);
        let table = Var::from_tensor(&rng.tensor(&[40, 24])).unwrap();
        let square = Var::from_tensor(&rng.tensor(&[24, 24])).unwrap();
        let unwanted = Var::from_tensor(&rng.tensor(&[24, 24])).unwrap();
        let batches: Vec<Tensor> = (0..2).map(|_| rng.ids(30, 40)).collect();
        let loss = |ids: &Tensor| {
            let x = embedding(ids, &table)?;
            let x = linear(&x, &square, WeightLayout::InOut, None)?;
            let x = linear(&x, &unwanted, WeightLayout::OutIn, None)?;
            let some = token_logprobs(&x, &table, ids, 0.9, None)?
                .logprobs
                .sum_all()?;
            negative_log_likelihood(&x, &table, ids, 0.5, None)? + some
        };
        let mut sums = GradientSums::from([(table.id(), None), (square.id(), None)]);
        for ids in &batches {
            let rest = backward_into(&loss(ids).unwrap(), &mut sums).unwrap();
            assert!(rest.get(&table).is_none() && rest.get(&unwanted).is_some());
        }
        for (name, variable) in [("table", &table), ("square", &square)] {
            let gradient = |ids| {
                loss(ids)
                    .unwrap()
                    .backward()
                    .unwrap()
                    .remove(variable)
                    .unwrap()
            };
            let want = (gradient(&batches[0]) + gradient(&batches[1])).unwrap();
            let got = sums[&variable.id()].as_ref().unwrap();
            assert_close(got, &want.detach(), 1e-5, name);
        }
    }
}
