//! The backward pass: what was recorded, from its end, and the sums that gradients of weights are added to.
//!
//! candle's backward pass returns all gradients at its end, to be added to those of earlier micro-batches. Gradients of weights are as large as the
//! weights, so this costs more time than many a kernel, and memory for a second copy of the model. The operations here that have weights add to
//! the running sum directly instead.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Storage, Tensor, TensorId};

use crate::add::{add, add_all, add_to};
use crate::cpu::buffer::zeros;
use crate::cpu::gemm::{add_product, product};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::{gradient, with_elements_mut};
use crate::gpu::Memory;
use crate::tape::{self, Steps, Tape};

/// Gradient accumulators: by the variable's id, its running sum, or `None` before the first gradient.
pub type GradientSums = HashMap<TensorId, Option<Tensor>>;

thread_local! {
    /// This thread's current backward pass. An operation's gradient asks it where to add.
    static CURRENT: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

/// A backward pass.
#[derive(Default)]
struct Pass {
    /// Of the variables that have accumulators.
    sums: GradientSums,
    /// Those to whose sums this pass has added.
    added: HashSet<TensorId>,
    /// Of other variables.
    rest: GradStore,
    /// Of the results of steps, until their steps are differentiated.
    flow: HashMap<TensorId, Option<Flow>>,
}

/// The gradient of a result as far as it is known.
struct Flow {
    sum: Tensor,
    /// Whether no other tensor shares its memory.
    alone: bool,
}

/// Who wants the sum of a variable as soon as nothing will be added to it: it is taken where the answer is yes.
pub type TakeSum = dyn Fn(TensorId, &Tensor) -> bool;

/// Differentiates `loss`, and adds the gradients of the variables in `sums` to their sums wherever an operation supports that. The result
/// holds all other gradients of variables; a gradient is in one or the other, a variable may have parts in both.
///
/// Ends what this thread's [`Recording`](crate::Recording) has recorded so far: `loss` can be differentiated once. The sums are changed in place: no
/// other tensor may share their memory.
pub fn backward_into(loss: &Tensor, sums: &mut GradientSums) -> Result<GradStore> {
    Ok(pass(loss, sums, Steps::Freed, None)?.0)
}

/// [`backward_into`] of a loss that is differentiated again, perhaps scaled.
pub fn backward_keeping(loss: &Tensor, sums: &mut GradientSums) -> Result<GradStore> {
    Ok(pass(loss, sums, Steps::Kept, None)?.0)
}

/// [`backward_into`], which offers sums to `take` as soon as they are complete, while the pass goes on; also the sums of variables that `loss`
/// does not depend on, at once. Gives the variables in the order in which they were complete. A variable of which the result holds a part
/// was not: its gradient is known only now, and must not have been taken.
pub fn backward_offering(
    loss: &Tensor,
    sums: &mut GradientSums,
    take: Rc<TakeSum>,
) -> Result<(GradStore, Vec<TensorId>)> {
    pass(loss, sums, Steps::Freed, Some(take))
}

fn pass(
    loss: &Tensor,
    sums: &mut GradientSums,
    steps: Steps,
    take: Option<Rc<TakeSum>>,
) -> Result<(GradStore, Vec<TensorId>)> {
    let tape = tape::up_to(loss, steps)?;
    let offered = take.map(|take| Offered::new(&tape, sums, take));
    let this = Pass {
        sums: std::mem::take(sums),
        ..Pass::default()
    };
    let outer = CURRENT.replace(Some(this));
    let complete = tape::unrecorded(|| {
        let one = loss.ones_like()?;
        differentiate(tape, vec![(loss.clone(), one)], offered)
    });
    let done = CURRENT.replace(outer).unwrap_or_default();
    *sums = done.sums;
    Ok((done.rest, complete?))
}

/// Goes through the steps from the last to the first, with the gradients of some of their results. What remains are the gradients of leaves: of
/// variables, and of results of the pass that this one is part of.
pub(crate) fn differentiate(
    mut tape: Tape,
    upstream: Vec<(Tensor, Tensor)>,
    mut offered: Option<Offered>,
) -> Result<Vec<TensorId>> {
    with_pass(|pass| {
        let results = tape.steps.iter().flat_map(|step| &step.results);
        pass.flow.extend(results.map(|t| (t.id(), None)));
    });
    for (t, g) in upstream {
        meet(
            &t,
            Flow {
                sum: g,
                alone: false,
            },
        )?;
    }
    while let Some(step) = tape.steps.pop() {
        let arrived: Vec<Option<Flow>> = with_pass(|pass| {
            let results = step.results.iter();
            results
                .map(|t| pass.flow.remove(&t.id()).flatten())
                .collect()
        })
        .unwrap_or_default();
        if arrived.iter().any(Option::is_some) {
            let gradients = arrived.iter().map(|it| Some(it.as_ref()?.sum.clone()));
            let found = (step.gradient)(&step, &gradients.collect::<Vec<_>>())?;
            pass_on(arrived, found)?;
        }
        if let Some(offered) = &mut offered {
            offered.passed(tape.steps.len());
        }
    }
    Ok(offered.map_or_else(Vec::new, |offered| offered.complete))
}

/// Adds what an operation has `found` for its operands, by the gradients that have `arrived` for its results.
fn pass_on(arrived: Vec<Option<Flow>>, found: Vec<(Tensor, Tensor)>) -> Result<()> {
    let memories: Vec<_> = found.iter().map(|(_, g)| memory(g)).collect();
    // An operation may hand on what arrived: that is alone if it was, and if it is handed on once.
    let alone = |of: &*const Storage| {
        let once = memories.iter().filter(|other| *other == of).count() == 1;
        let mut arrived = arrived.iter().flatten();
        once && arrived.all(|flow| flow.alone || memory(&flow.sum) != *of)
    };
    let alone: Vec<bool> = memories.iter().map(alone).collect();
    drop(arrived);
    for ((operand, sum), alone) in found.into_iter().zip(alone) {
        meet(&operand, Flow { sum, alone })?;
    }
    Ok(())
}

fn memory(t: &Tensor) -> *const Storage {
    &raw const *t.storage_and_layout().0
}

/// Adds to the gradient of `operand`.
fn meet(operand: &Tensor, new: Flow) -> Result<()> {
    let known = with_pass(|pass| pass.flow.get_mut(&operand.id()).map(Option::take));
    match known.flatten() {
        Some(known) => {
            let sum = match known {
                Some(known) => known.plus(new)?,
                None => new,
            };
            with_pass(|pass| pass.flow.insert(operand.id(), Some(sum)));
        }
        None if operand.is_variable() => {
            let known = with_pass(|pass| pass.rest.remove(operand)).flatten();
            let sum = match known {
                Some(known) => add(&known, &new.sum)?,
                None => new.sum,
            };
            with_pass(|pass| pass.rest.insert(operand, sum));
        }
        None => {} // a constant
    }
    Ok(())
}

impl Flow {
    /// The sum of both, in the memory of one of them where that can be.
    fn plus(self, other: Self) -> Result<Self> {
        for (into, from) in [(&self, &other), (&other, &self)] {
            if into.alone && add_to(&into.sum, &from.sum)? {
                let sum = into.sum.clone();
                return Ok(Self { sum, alone: true });
            }
        }
        let sum = (self.sum + other.sum)?;
        Ok(Self { sum, alone: true })
    }
}

/// Which sums are complete, by the step that is the first to read a variable and so the last to add to its gradient.
pub(crate) struct Offered {
    by_step: HashMap<usize, Vec<TensorId>>,
    complete: Vec<TensorId>,
    take: Rc<TakeSum>,
}

impl Offered {
    /// Offers the sums of variables that no step reads: whatever they have is all.
    fn new(tape: &Tape, sums: &mut GradientSums, take: Rc<TakeSum>) -> Self {
        let mut read = HashSet::new();
        let mut by_step: HashMap<usize, Vec<TensorId>> = HashMap::new();
        for (place, step) in tape.steps.iter().enumerate() {
            for id in step.operands.iter().map(Tensor::id) {
                if sums.contains_key(&id) && read.insert(id) {
                    by_step.entry(place).or_default().push(id);
                }
            }
        }
        sums.retain(|id, sum| {
            let taken = |sum: &Tensor| !read.contains(id) && take(*id, sum);
            !sum.as_ref().is_some_and(taken)
        });
        Self {
            by_step,
            complete: Vec::new(),
            take,
        }
    }

    /// The pass is through with this step.
    fn passed(&mut self, place: usize) {
        for id in self.by_step.remove(&place).unwrap_or_default() {
            // A part that no operation has added to a sum is known to the caller alone, and later.
            let whole = with_pass(|pass| {
                let parts = pass.added.contains(&id) && pass.rest.get_id(id).is_none();
                pass.sums.get(&id).filter(|_| parts)?.clone()
            });
            let Some(sum) = whole.flatten() else {
                continue;
            };
            self.complete.push(id);
            // Whoever takes one may do anything: nothing is borrowed.
            if (self.take)(id, &sum) {
                with_pass(|pass| pass.sums.remove(&id));
            }
        }
    }
}

fn with_pass<R>(f: impl FnOnce(&mut Pass) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|pass| pass.as_mut().map(f))
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
        Accumulator::Sum(sum) => add_all(sum, &values),
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

/// Removes the sum of `variable`, until [`put_sum`]; `None` if the variable has no accumulator.
fn take_sum(variable: &Tensor) -> Option<Option<Tensor>> {
    with_pass(|pass| Some(pass.sums.get_mut(&variable.id())?.take())).flatten()
}

fn put_sum(variable: &Tensor, sum: Tensor) {
    with_pass(|pass| {
        if let Some(slot) = pass.sums.get_mut(&variable.id()) {
            *slot = Some(sum);
        }
        pass.added.insert(variable.id());
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::Recording;
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
            let _recording = Recording::start();
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

    /// In `x·w₁ → recompute(·w₂) → ·w₁ → ·w₃` the gradient of w₃ is whole after the last layer, that of w₂ after the recomputed one, and that of w₁
    /// at the end; w₄ has no place there. Sums are those of [`backward_into`].
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
        let _recording = Recording::start();
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
        assert_eq!(ids, [w4.id(), w3.id(), w2.id(), w1.id()]);
        assert_eq!(complete, ids[1..]);
        for (id, sum) in &offered[1..] {
            assert_eq!(flat(sum), flat(want[id].as_ref().unwrap()));
        }
        assert!(sums.is_empty());
    }
}
