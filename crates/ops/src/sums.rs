//! Gradients of variables, added up where they are kept.
//!
//! candle's backward pass makes a buffer of zeros for every gradient, adds to it, and hands all of them over at its end, to be added to
//! those of earlier micro-batches. The gradients of weights are as large as the weights, so for them that costs more time than many a
//! kernel, and memory for one more copy of the model. The operations here that have weights add to the running sum itself instead.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, TensorId};
use rayon::prelude::*;

use crate::cpu::{GRAIN, add, unwritten, with_elements_mut};

/// Variables whose gradients are wanted, each with the sum so far, once there is one.
pub type Sums = HashMap<TensorId, Option<Tensor>>;

thread_local! {
    /// The sums of the backward pass that is under way on this thread. candle gives an operation's gradient no other way to reach them.
    static OPEN: RefCell<Option<Sums>> = const { RefCell::new(None) };
}

/// Differentiates `loss`. What operations could add to `sums` is there afterwards; the rest of the gradients is in the result, as from
/// [`Tensor::backward`], and not in `sums`.
///
/// The sums are changed in place: no other tensor may share their memory.
pub fn backward_into(loss: &Tensor, sums: &mut Sums) -> Result<GradStore> {
    let outer = OPEN.replace(Some(std::mem::take(sums)));
    let gradients = loss.backward();
    if let Some(done) = OPEN.replace(outer) {
        *sums = done;
    }
    gradients
}

/// Lets `write(sum, whether to add)` put a gradient into the sum of `variable`. False, and nothing done, if there is none.
pub(crate) fn give(variable: &Tensor, write: impl FnOnce(&mut [f32], bool)) -> Result<bool> {
    with_sum(variable, |sum| match sum {
        Some(sum) => with_elements_mut(sum, |sum| {
            write(sum, true);
            Ok(())
        }),
        None => {
            let mut values = unwritten(variable.elem_count());
            write(&mut values, false);
            *sum = Some(Tensor::from_vec(values, variable.shape(), &Device::Cpu)?);
            Ok(())
        }
    })
}

/// [`give`] for a gradient that is there already: the first one becomes the sum.
pub(crate) fn give_values(variable: &Tensor, values: &mut Vec<f32>) -> Result<bool> {
    with_sum(variable, |sum| match sum {
        Some(sum) => with_elements_mut(sum, |sum| {
            sum.par_chunks_mut(GRAIN)
                .zip(values.par_chunks(GRAIN))
                .for_each(|(sum, values)| add(sum, values));
            Ok(())
        }),
        None => {
            let values = std::mem::take(values);
            *sum = Some(Tensor::from_vec(values, variable.shape(), &Device::Cpu)?);
            Ok(())
        }
    })
}

/// Whether operations add the gradient of `variable` to a sum.
pub(crate) fn is_summed(variable: &Tensor) -> bool {
    OPEN.with_borrow(|open| {
        open.as_ref()
            .is_some_and(|sums| sums.contains_key(&variable.id()))
    })
}

fn with_sum(variable: &Tensor, f: impl FnOnce(&mut Option<Tensor>) -> Result<()>) -> Result<bool> {
    OPEN.with_borrow_mut(|open| {
        let sum = open.as_mut().and_then(|sums| sums.get_mut(&variable.id()));
        sum.map_or(Ok(false), |sum| f(sum).map(|()| true))
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::testing::{Chance, assert_close};
    use crate::{WeightLayout, embedding, linear, negative_log_likelihood, token_logprobs};

    /// Against candle's own sums, over two passes in which one weight is used by every operation that gives.
    #[test]
    fn the_sums_are_those_of_candle() {
        let mut chance = Chance::new(1);
        let table = Var::from_tensor(&chance.tensor(&[40, 24])).unwrap();
        let square = Var::from_tensor(&chance.tensor(&[24, 24])).unwrap();
        let unwanted = Var::from_tensor(&chance.tensor(&[24, 24])).unwrap();
        let batches: Vec<Tensor> = (0..2).map(|_| chance.ids(30, 40)).collect();
        let loss = |ids: &Tensor| {
            let x = embedding(ids, &table)?;
            let x = linear(&x, &square, WeightLayout::InOut, None)?;
            let x = linear(&x, &unwanted, WeightLayout::OutIn, None)?;
            let some = token_logprobs(&x, &table, ids, 0.9)?.logprobs.sum_all()?;
            negative_log_likelihood(&x, &table, ids, 0.5)? + some
        };
        let mut sums = Sums::from([(table.id(), None), (square.id(), None)]);
        for ids in &batches {
            let rest = backward_into(&loss(ids).unwrap(), &mut sums).unwrap();
            assert!(rest.get(&table).is_none() && rest.get(&unwanted).is_some());
        }
        for (name, variable) in [("table", &table), ("square", &square)] {
            let of = |ids| {
                loss(ids)
                    .unwrap()
                    .backward()
                    .unwrap()
                    .remove(variable)
                    .unwrap()
            };
            let want = (of(&batches[0]) + of(&batches[1])).unwrap();
            let got = sums[&variable.id()].as_ref().unwrap();
            assert_close(got, &want.detach(), 1e-5, name);
        }
    }
}
