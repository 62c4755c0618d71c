//! The operations of a forward pass in their order, for one backward pass without sums of zeros.
//!
//! candle's backward pass allocates zeros for the gradient of every intermediate result and adds to them, though nearly all of them have but
//! one part; and it keeps every activation until its end. While a [`Recording`] lasts, the operations of this crate do not enter candle's graph.
//! They are listed in the order in which they run (a tape, Wengert 1964), their results are leaves to candle, and
//! [`backward_into`](crate::backward_into) goes through the list from its end: gradients move from operation to operation, two that meet are added in
//! place, and what an operation kept is freed once it has been differentiated.
//!
//! What candle's own operations compute in between is a *stretch*, from results of the tape to an operand of the tape or to the loss. candle keeps
//! its graph, and differentiates it where the list comes to it. So any mixture of both has the gradients that candle alone would give.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::rc::Rc;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    TensorId, bail,
};

thread_local! {
    /// What this thread records, if it does.
    static CURRENT: RefCell<Option<Recorded>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Recorded {
    tape: Tape,
    /// The results of steps that have been differentiated and are gone.
    gone: HashSet<TensorId>,
}

/// While it lasts, this thread's operations are listed for [`backward_into`](crate::backward_into) in place of entering candle's graph.
///
/// Forward pass, loss and backward pass belong into one recording, and a pass that is not differentiated into none. Recordings may be nested;
/// the results of one are constants to another.
#[must_use = "operations are recorded until it is dropped"]
pub struct Recording {
    outer: Option<Recorded>,
    /// It belongs to its thread.
    thread: PhantomData<*const ()>,
}

impl Recording {
    /// Begins with an empty list.
    pub fn start() -> Self {
        Self {
            outer: CURRENT.replace(Some(Recorded::default())),
            thread: PhantomData,
        }
    }

    /// Bytes of the results that are kept for the gradient, each storage once.
    pub fn bytes(&self) -> u64 {
        CURRENT.with_borrow(|it| it.as_ref().map_or(0, |it| it.tape.bytes()))
    }

    /// Operations recorded up to `result`: ours, and candle's in between.
    pub fn operations(&self, result: &Tensor) -> usize {
        let mut tape = CURRENT.with_borrow(|it| it.as_ref().map(|it| it.tape.clone()));
        tape.as_mut().map_or(0, |tape| {
            tape.end_stretch(result);
            tape.operations()
        })
    }

    /// Within the step of another, whose `operands` have their gradients there.
    pub(crate) fn below(operands: &[Tensor]) -> Self {
        let this = Self::start();
        with_tape(|tape| tape.stretches.extend(operands.iter().map(Tensor::id)));
        this
    }

    /// Ends it, and gives what was recorded, up to these `results`.
    pub(crate) fn finish_with<'a>(self, results: impl Iterator<Item = &'a Tensor>) -> Tape {
        let mut tape = with_tape(std::mem::take).unwrap_or_default();
        results.for_each(|t| tape.end_stretch(t));
        tape
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        CURRENT.set(self.outer.take());
    }
}

/// Appends a step to what this thread records.
pub(crate) fn push(step: Step) {
    with_tape(|tape| tape.push(step));
}

fn with_tape<R>(f: impl FnOnce(&mut Tape) -> R) -> Option<R> {
    CURRENT.with_borrow_mut(|it| it.as_mut().map(|it| f(&mut it.tape)))
}

/// Whether this thread records.
pub(crate) fn is_recording() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// What becomes of the recorded steps in a backward pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Each is freed once it has been differentiated.
    Freed,
    /// They can be differentiated again.
    Kept,
}

/// What has been recorded up to `loss`; of a thread that records nothing, the stretch that ends there.
pub(crate) fn up_to(loss: &Tensor, steps: Steps) -> Result<Tape> {
    CURRENT.with_borrow_mut(|it| {
        let mut none = Recorded::default();
        let recorded = it.as_mut().unwrap_or(&mut none);
        let mut tape = match steps {
            Steps::Freed => std::mem::take(&mut recorded.tape),
            Steps::Kept => recorded.tape.clone(),
        };
        tape.end_stretch(loss);
        let is_gone = |t: &Tensor| recorded.gone.contains(&t.id());
        if is_gone(loss) || tape.leaves().iter().any(is_gone) {
            bail!(
                "backward: the loss depends on what an earlier backward pass has freed; compute it after that pass, or again"
            )
        }
        if steps == Steps::Freed {
            let results = tape.steps.iter().flat_map(|step| &step.results);
            recorded.gone.extend(results.map(Tensor::id));
        }
        Ok(tape)
    })
}

/// Runs `f` without recording.
pub(crate) fn unrecorded<R>(f: impl FnOnce() -> R) -> R {
    let outer = CURRENT.replace(None);
    let result = f();
    CURRENT.set(outer);
    result
}

/// Steps in the order in which they were computed: what a step reads is a leaf, or the result of an earlier one.
#[derive(Clone, Default)]
pub(crate) struct Tape {
    pub(crate) steps: Vec<Rc<Step>>,
    /// Results of candle's operations that are on the list.
    stretches: HashSet<TensorId>,
}

/// The gradients of `operands` by the gradients of `results`, of which some are `None` but not all.
pub(crate) type Gradient = dyn Fn(&Step, &[Option<Tensor>]) -> Result<Vec<(Tensor, Tensor)>>;

/// An operation, or a stretch of candle's.
pub(crate) struct Step {
    pub(crate) operands: Vec<Tensor>,
    pub(crate) results: Vec<Tensor>,
    /// Operands with their gradients.
    pub(crate) gradient: Box<Gradient>,
}

impl Step {
    /// Whether `t` is a result of it.
    pub(crate) fn is_of(&self, t: &Tensor) -> bool {
        self.results.iter().any(|result| result.id() == t.id())
    }
}

impl Tape {
    /// Appends a step, and before it the stretches that it is the first to read.
    pub(crate) fn push(&mut self, step: Step) {
        for operand in &step.operands {
            self.end_stretch(operand);
        }
        self.steps.push(Rc::new(step));
    }

    /// Appends the stretch of candle's operations that ends at `t`, if one does and it is not on the list yet.
    pub(crate) fn end_stretch(&mut self, t: &Tensor) {
        if t.is_variable() || !t.track_op() || !self.stretches.insert(t.id()) {
            return;
        }
        self.steps.push(Rc::new(Step {
            operands: leaves(t),
            results: vec![t.clone()],
            gradient: Box::new(|stretch, upstream| {
                let (Some(t), Some(Some(upstream))) = (stretch.results.first(), upstream.first())
                else {
                    return Ok(Vec::new());
                };
                let mut gradients = t.apply_op1(Upstream(upstream.clone()))?.backward()?;
                let leaves = stretch.operands.iter();
                let found = leaves.filter_map(|leaf| {
                    // The gradient of a leaf still refers to the graph it was computed from.
                    Some((leaf.clone(), gradients.remove(leaf)?.detach()))
                });
                Ok(found.collect())
            }),
        }));
    }

    /// The variables and results of other recordings that it reads.
    pub(crate) fn leaves(&self) -> Vec<Tensor> {
        let mut known: HashSet<TensorId> = HashSet::new();
        let results = self.steps.iter().flat_map(|step| &step.results);
        known.extend(results.map(Tensor::id));
        let read = self.steps.iter().flat_map(|step| &step.operands);
        let leaves = read.filter(|t| t.is_variable() && known.insert(t.id()));
        leaves.cloned().collect()
    }

    fn operations(&self) -> usize {
        let mut of_candle: HashSet<TensorId> = HashSet::new();
        let mut ours = 0;
        for t in self.steps.iter().flat_map(|step| step.results.first()) {
            if t.is_variable() {
                ours += 1;
                continue;
            }
            let nodes = t.sorted_nodes().into_iter();
            of_candle.extend(nodes.filter(|t| !t.is_variable()).map(Tensor::id));
        }
        ours + of_candle.len()
    }

    fn bytes(&self) -> u64 {
        let mut storages: HashMap<*const Storage, u64> = HashMap::new();
        for step in &self.steps {
            for t in &step.results {
                for t in t.sorted_nodes() {
                    let (storage, _) = t.storage_and_layout();
                    let bytes = (t.elem_count() * t.dtype().size_in_bytes()) as u64;
                    let known = storages.entry(&raw const *storage).or_default();
                    *known = bytes.max(*known);
                }
            }
        }
        // Variables are no results.
        for leaf in self.leaves() {
            storages.remove(&(&raw const *leaf.storage_and_layout().0));
        }
        storages.values().sum()
    }
}

/// The variables and results of steps on which the graph of candle's operations behind `t` depends.
fn leaves(t: &Tensor) -> Vec<Tensor> {
    let nodes = t.sorted_nodes().into_iter();
    nodes.filter(|t| t.is_variable()).cloned().collect()
}

/// A number whose gradient with respect to its operand is the tensor inside: candle's backward pass begins at one.
struct Upstream(Tensor);

/// The number, on one kind of device.
macro_rules! a_number {
    ($name:ident, $storage:ident) => {
        fn $name(&self, storage: &$storage, _: &Layout) -> Result<($storage, Shape)> {
            let scalar = Shape::from(());
            let zero = storage.device().zeros_impl(&scalar, storage.dtype())?;
            Ok((zero, scalar))
        }
    };
}

impl CustomOp1 for Upstream {
    fn name(&self) -> &'static str {
        "upstream"
    }

    a_number!(cpu_fwd, CpuStorage);
    a_number!(cuda_fwd, CudaStorage);
    a_number!(metal_fwd, MetalStorage);

    fn bwd(&self, _x: &Tensor, _y: &Tensor, _g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;
    use crate::testing::{TestRng, flat};
    use crate::{GradientSums, WeightLayout, backward_into, linear, linear_add, swiglu};

    fn variable(rng: &mut TestRng, shape: &[usize]) -> Var {
        Var::from_tensor(&rng.tensor(shape)).unwrap()
    }

    /// Results that are read by several operations, by candle's between ours and by the loss; views of one result; an operand that is given twice.
    fn tangled([x, w]: [&Var; 2]) -> Result<Tensor> {
        let a = linear(x, w, WeightLayout::InOut, None)?;
        let b = (&a + a.narrow(0, 1, 1)?.broadcast_as(a.shape())?)?;
        let c = swiglu(&b, &a)?;
        let d = linear_add(&c, &b, w, WeightLayout::OutIn, None)?;
        let e = linear_add(&d, &d, w, WeightLayout::OutIn, None)?;
        let halves = (e.narrow(1, 0, 2)?, e.narrow(1, 2, 2)?);
        let f = swiglu(&halves.1.contiguous()?, &halves.0)?;
        (f.sqr()?.sum_all()? + (d * a)?.sum_all()?)? * 0.5
    }

    /// Against candle's graph, whose sums have another order.
    #[test]
    fn any_mixture_has_the_gradients_of_candle() {
        let mut rng = TestRng::new(1);
        let operands = [variable(&mut rng, &[3, 4]), variable(&mut rng, &[4, 4])];
        let [x, w] = &operands;
        let want = tangled([x, w]).unwrap().backward().unwrap();
        let recording = Recording::start();
        let loss = tangled([x, w]).unwrap();
        assert!(recording.bytes() > 0);
        let got = backward_into(&loss, &mut GradientSums::new()).unwrap();
        assert_eq!(recording.bytes(), 0, "all is freed");
        for (name, variable) in [("x", x), ("w", w)] {
            let [got, want] = [&got, &want].map(|it| it.get(variable).unwrap().detach());
            crate::testing::assert_close(&got, &want, 1e-6, name);
        }
    }

    /// By hand: the loss is Σ x², of which candle computes all.
    #[test]
    fn a_loss_of_candles_operations_alone_is_differentiated_with_a_recording_and_without() {
        let x = Var::new(&[1f32, -2.0], &candle_core::Device::Cpu).unwrap();
        for recording in [None, Some(Recording::start())] {
            let loss = x.sqr().unwrap().sum_all().unwrap();
            let gradients = backward_into(&loss, &mut GradientSums::new()).unwrap();
            assert_eq!(flat(gradients.get(&x).unwrap()), [2.0, -4.0]);
            drop(recording);
        }
    }

    #[test]
    fn a_second_loss_over_what_was_freed_is_refused() {
        let mut rng = TestRng::new(2);
        let [x, w] = [variable(&mut rng, &[2, 2]), variable(&mut rng, &[2, 2])];
        let _recording = Recording::start();
        let y = linear(&x, &w, WeightLayout::InOut, None).unwrap();
        let [first, second] = [1.0, 2.0].map(|by| (y.sum_all().unwrap() * by).unwrap());
        let backward = |loss: &Tensor| backward_into(loss, &mut GradientSums::new());
        backward(&first).unwrap();
        for gone in [&second, &y] {
            let error = backward(gone).unwrap_err().to_string();
            assert!(error.contains("freed"), "{error}");
        }
        // Computed again, it is another.
        let y = linear(&x, &w, WeightLayout::InOut, None).unwrap();
        backward(&y.sum_all().unwrap()).unwrap();
    }

    /// What an inner recording computes is a constant outside, and the outer one goes on after it.
    #[test]
    fn recordings_nest() {
        let mut rng = TestRng::new(3);
        let [x, w] = [variable(&mut rng, &[2, 2]), variable(&mut rng, &[2, 2])];
        let product = || linear(&x, &w, WeightLayout::InOut, None).unwrap();
        let _outer = Recording::start();
        let before = product();
        {
            let _inner = Recording::start();
            let loss = product().sum_all().unwrap();
            backward_into(&loss, &mut GradientSums::new()).unwrap();
        }
        let loss = (before + product()).unwrap().sum_all().unwrap();
        let twice = backward_into(&loss, &mut GradientSums::new()).unwrap();
        let once = product().sum_all().unwrap();
        let once = backward_into(&once, &mut GradientSums::new()).unwrap();
        let [twice, once] = [twice, once].map(|it| flat(it.get(&w).unwrap()));
        assert_eq!(twice, once.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    }
}
