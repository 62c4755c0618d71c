//! Gradient accumulation inside the backward pass.
//!
//! candle's backward pass allocates zeros for every gradient, adds to them, and returns all gradients at its end, to be added to those of
//! earlier micro-batches. Gradients of weights are as large as the weights, so this costs more time than many a kernel, and memory for a
//! second copy of the model. The operations here that have weights add to the running sum directly instead.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

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
    /// This thread's current backward pass. candle offers no other way to tell an operation's gradient of it.
    static CURRENT: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

/// A backward pass: the accumulators, and where sums are asked for as soon as they are complete, what is known of that.
#[derive(Default)]
struct Pass {
    sums: GradientSums,
    early: Option<Early>,
}

/// Who wants the sum of a variable as soon as nothing will be added to it: it is taken where the answer is yes.
pub type TakeSum = dyn Fn(TensorId, &Tensor) -> bool;

/// Which sums are complete. The pass visits the nodes of the graph in an order in which a variable comes after every operation that reads it:
/// once it is at a node, the gradients of all variables before it are whole.
struct Early {
    /// The place of each node in the order of the pass.
    places: HashMap<TensorId, usize>,
    /// The variables that it has yet to come to, the first one last.
    coming: Vec<(usize, TensorId)>,
    /// Those to whose sums this pass has added. candle keeps the gradients of others, and gives them back at the end.
    added: HashSet<TensorId>,
    complete: Vec<TensorId>,
    take: Rc<TakeSum>,
}

/// Differentiates `loss`, and adds the gradients of the variables in `sums` to their sums wherever an operation supports that. The result
/// holds all other gradients, as [`Tensor::backward`] does; a gradient is in one or the other, a variable may have parts in both.
///
/// The sums are changed in place: no other tensor may share their memory.
pub fn backward_into(loss: &Tensor, sums: &mut GradientSums) -> Result<GradStore> {
    Ok(pass(loss, sums, None)?.0)
}

/// [`backward_into`], which offers sums to `take` as soon as they are complete, while the pass goes on; also the sums of variables that `loss`
/// does not depend on, at once. Gives the variables in the order in which they were complete. A variable of which the result holds a part
/// was not: its gradient is known only now, and must not have been taken.
pub fn backward_offering(
    loss: &Tensor,
    sums: &mut GradientSums,
    take: Rc<TakeSum>,
) -> Result<(GradStore, Vec<TensorId>)> {
    let mut places = HashMap::new();
    let mut coming = Vec::new();
    for (place, node) in loss.sorted_nodes().into_iter().enumerate() {
        places.insert(node.id(), place);
        if sums.contains_key(&node.id()) {
            coming.push((place, node.id()));
        }
    }
    coming.reverse();
    // Its graph has no place for them: whatever they have is all.
    sums.retain(|id, sum| {
        let taken = |sum: &Tensor| !places.contains_key(id) && take(*id, sum);
        !sum.as_ref().is_some_and(taken)
    });
    let early = Early {
        places,
        coming,
        added: HashSet::new(),
        complete: Vec::new(),
        take,
    };
    pass(loss, sums, Some(early))
}

fn pass(
    loss: &Tensor,
    sums: &mut GradientSums,
    early: Option<Early>,
) -> Result<(GradStore, Vec<TensorId>)> {
    let this = Pass {
        sums: std::mem::take(sums),
        early,
    };
    let outer = CURRENT.replace(Some(this));
    let gradients = loss.backward();
    let done = CURRENT.replace(outer).unwrap_or_default();
    *sums = done.sums;
    Ok((
        gradients?,
        done.early.map_or_else(Vec::new, |it| it.complete),
    ))
}

/// The backward pass is at `node`, the result of an operation: variables that it has passed are complete. Operations with large weights call
/// it, before they compute.
pub(crate) fn reached(node: &Tensor) {
    // Not borrowed while sums are offered, since whoever takes one may do anything.
    let Some(mut early) = CURRENT.with_borrow_mut(|pass| pass.as_mut()?.early.take()) else {
        return;
    };
    // A node of a graph within, that of a recomputation, has no place in this one.
    if let Some(&here) = early.places.get(&node.id()) {
        while let Some((_, id)) = early.coming.pop_if(|(place, _)| *place < here) {
            if !early.added.contains(&id) {
                continue;
            }
            early.complete.push(id);
            let sum = CURRENT.with_borrow(|pass| pass.as_ref()?.sums.get(&id)?.clone());
            if sum.is_some_and(|sum| (early.take)(id, &sum)) {
                CURRENT.with_borrow_mut(|pass| {
                    pass.as_mut().and_then(|pass| pass.sums.remove(&id));
                });
            }
        }
    }
    CURRENT.with_borrow_mut(|pass| {
        if let Some(pass) = pass {
            pass.early = Some(early);
        }
    });
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
    CURRENT.with_borrow(|pass| {
        pass.as_ref()
            .is_some_and(|pass| pass.sums.contains_key(&variable.id()))
    })
}

/// Removes the sum of `variable`, until [`put_sum`]; `None` if the variable has no accumulator.
fn take_sum(variable: &Tensor) -> Option<Option<Tensor>> {
    CURRENT.with_borrow_mut(|pass| Some(pass.as_mut()?.sums.get_mut(&variable.id())?.take()))
}

fn put_sum(variable: &Tensor, sum: Tensor) {
    CURRENT.with_borrow_mut(|pass| {
        let Some(pass) = pass else {
            return;
        };
        if let Some(slot) = pass.sums.get_mut(&variable.id()) {
            *slot = Some(sum);
        }
        if let Some(early) = &mut pass.early {
            early.added.insert(variable.id());
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::testing::{TestRng, assert_close, flat};
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

    /// In `x·w₁ → recompute(·w₂) → ·w₁ → ·w₃` the gradient of w₃ is whole when the pass comes to the layer before, that of w₂ when it comes to
    /// the first one, and that of w₁ at the end alone; w₄ has no place there. Sums are those of [`backward_into`].
    #[test]
    fn sums_are_offered_once_nothing_is_added_to_them() {
        let mut rng = TestRng::new(2);
        let x = rng.tensor(&[5, 4]);
        let weights = [(); 4].map(|()| Var::from_tensor(&rng.tensor(&[4, 4])).unwrap());
        let [w1, w2, w3, w4] = &weights;
        let through = |x: &Tensor, w: &Var| linear(x, w, WeightLayout::InOut, None);
        let loss = || {
            let y = through(&x, w1)?;
            let w = w2.as_tensor().clone();
            let y = crate::recompute(&y, move |y| linear(y, &w, WeightLayout::InOut, None))?;
            through(&through(&y, w1)?, w3)?.sqr()?.sum_all()
        };
        let empty = || -> GradientSums { weights.iter().map(|w| (w.id(), None)).collect() };
        let mut want = empty();
        backward_into(&loss().unwrap(), &mut want).unwrap();
        let mut sums = empty();
        sums.insert(w4.id(), Some(x.clone()));
        let offered: Rc<RefCell<Vec<(TensorId, Tensor)>>> = Rc::default();
        let taken = offered.clone();
        let take = move |id, sum: &Tensor| {
            taken.borrow_mut().push((id, sum.clone()));
            true
        };
        let (_, complete) = backward_offering(&loss().unwrap(), &mut sums, Rc::new(take)).unwrap();
        if crate::reference_only() {
            return;
        }
        let offered = offered.take();
        let ids: Vec<TensorId> = offered.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [w4.id(), w3.id(), w2.id()]);
        assert_eq!(complete, ids[1..]);
        for (id, sum) in &offered[1..] {
            assert_eq!(flat(sum), flat(want[id].as_ref().unwrap()));
        }
        let rest = sums.into_iter().map(|(id, sum)| (id, sum.unwrap()));
        let rest: Vec<(TensorId, Tensor)> = rest.collect();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].0, w1.id());
        assert_eq!(flat(&rest[0].1), flat(want[&w1.id()].as_ref().unwrap()));
    }
}
