//! Gradients summed over micro-batches, and the guard against silent ones.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::OnceLock;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use rlhf_ops::{GradientSums, backward_into, backward_keeping, backward_offering};

use crate::schema::first_few;
use crate::{Error, Params, Result};

/// By name, the f32 gradient of each trainable parameter, summed over micro-batches.
///
/// The sums hold no graph, so a micro-batch's activations are freed when its loss is dropped. They stay on the device; what the host
/// wants to know of them, it asks with [`Gradients::read`].
#[derive(Debug, Default)]
pub struct Gradients {
    sums: BTreeMap<String, Tensor>,
    /// `Σ g²` of each sum, in order of name, once they have been read.
    squares: OnceLock<Squares>,
}

#[derive(Debug)]
struct Squares {
    of: Vec<f32>,
    /// Which of the gradients are zero throughout, where that is known; a square may be zero because it is too small for f32.
    zero: Option<Vec<bool>>,
}

/// A backward pass that sums gradients in place.
type Backward = fn(&Tensor, &mut GradientSums) -> candle_core::Result<GradStore>;

/// Who wants a gradient as soon as nothing will be added to it; it leaves the sums where the answer is yes.
pub type TakeGradient = dyn Fn(&str, &Tensor) -> bool;

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds ∂loss/∂p for every trainable parameter p that `loss` depends on, in order of name. A loss that was computed in an
    /// [`rlhf_ops::Recording`] can be added once.
    ///
    /// In f16 what is below 6e-8 is zero and what is above 65 504 infinite, and a mean over thousands of tokens leaves each of them
    /// little. So there the loss is scaled up before it is differentiated, and its gradients, in f32, down again; a scale at which one
    /// of them overflows is given up for a smaller one. Micikevicius et al. 2018, §3.2.
    pub fn accumulate(&mut self, params: &Params, loss: &Tensor) -> Result<()> {
        self.squares.take();
        if params.dtype() != DType::F16 {
            return self.add(params, loss, backward_into, None).map(drop);
        }
        // Powers of two change no digit, and no scale outlives the call: a resumed run takes the same ones.
        for scale in [4096.0, 256.0, 16.0, 1.0] {
            let mut scaled = Self::new();
            scaled.add(params, &(loss * scale)?, backward_keeping, None)?;
            if scale > 1.0 && !scaled.norm()?.is_finite() {
                continue;
            }
            for (name, grad) in scaled.sums {
                let grad = (grad / scale)?;
                let sum = match self.sums.remove(&name) {
                    None => grad,
                    Some(sum) => (sum + grad)?,
                };
                self.sums.insert(name, sum);
            }
            break;
        }
        Ok(())
    }

    /// [`Gradients::accumulate`] for the last time before an optimizer step: gradients are offered to `take` as soon as they are complete,
    /// while the backward pass goes on, where the operations tell. Gives the names in the order in which they were complete.
    pub fn accumulate_last(
        &mut self,
        params: &Params,
        loss: &Tensor,
        take: Rc<TakeGradient>,
    ) -> Result<Vec<String>> {
        if params.dtype() == DType::F16 {
            self.accumulate(params, loss)?;
            return Ok(Vec::new());
        }
        self.squares.take();
        self.add(params, loss, backward_into, Some(take))
    }

    /// Adds the gradients of one pass: of `backward`, or where they are offered to `take` of one that does that.
    fn add(
        &mut self,
        params: &Params,
        loss: &Tensor,
        backward: Backward,
        take: Option<Rc<TakeGradient>>,
    ) -> Result<Vec<String>> {
        let mut sums = GradientSums::new();
        for (name, var) in params.read_vars() {
            sums.insert(var.id(), self.sums.remove(name));
        }
        let taken = Rc::new(RefCell::new(HashSet::new()));
        let (mut grads, complete) = match take {
            None => (backward(loss, &mut sums)?, Vec::new()),
            Some(take) => {
                let names = params.read_vars();
                let names: HashMap<_, _> = names
                    .map(|(name, var)| (var.id(), name.to_owned()))
                    .collect();
                let all_taken = taken.clone();
                let offered = move |id, sum: &Tensor| {
                    let wanted = names.get(&id).is_some_and(|name| take(name, sum));
                    if wanted {
                        all_taken.borrow_mut().insert(id);
                    }
                    wanted
                };
                backward_offering(loss, &mut sums, Rc::new(offered))?
            }
        };
        let mut names: HashMap<_, _> = HashMap::new();
        for (name, var) in params.read_vars() {
            let sum = sums.remove(&var.id()).flatten();
            // The gradient of a leaf still holds the graph it was computed from.
            let grad = match grads.remove(var) {
                Some(grad) => Some(grad.detach().to_dtype(DType::F32)?.contiguous()?),
                None => None,
            };
            if taken.borrow().contains(&var.id()) && grad.is_some() {
                return Err(Error::Invalid(format!(
                    "the gradient of {name} was taken before it was complete: an operation that keeps no sum reads it too"
                )));
            }
            if grad.is_none() {
                names.insert(var.id(), name);
            }
            let sum = match (sum, grad) {
                (Some(sum), Some(grad)) => (sum + grad)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => continue,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        let complete = complete.iter().filter_map(|id| names.get(id));
        Ok(complete.map(|name| (*name).to_owned()).collect())
    }

    /// Every name with its gradient, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.sums.iter().map(|(name, sum)| (name.as_str(), sum))
    }

    /// The gradient of `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.sums.get(name)
    }

    /// Puts a sum in the place of the gradient of `name`: that over several processes.
    pub fn set(&mut self, name: &str, sum: Tensor) {
        self.squares.take();
        self.sums.insert(name.to_owned(), sum);
    }

    /// Takes the gradient of `name` out.
    pub fn take(&mut self, name: &str) -> Option<Tensor> {
        self.squares.take();
        self.sums.remove(name)
    }

    /// `Σ g²` of each gradient, in order of name, where others have computed it: zero where the gradient is zero throughout, and else not.
    pub fn set_squares(&mut self, squares: &[f64]) {
        let squares = Squares {
            of: squares.iter().map(|square| *square as f32).collect(),
            zero: Some(squares.iter().map(|square| *square == 0.0).collect()),
        };
        self.squares = OnceLock::from(squares);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Forgets them all, for the next optimizer step.
    pub fn clear(&mut self) {
        self.sums.clear();
        self.squares.take();
    }

    /// The elements of `numbers` (f32), read from the device together with what norm, guard and optimizer will ask of `gradients`: an
    /// optimizer step waits for the device here, and nowhere else but under f16, where every micro-batch looks for overflow.
    pub fn read(numbers: &Tensor, gradients: &[&Self]) -> Result<Vec<f32>> {
        let mut parts = vec![numbers.flatten_all()?];
        let unknown = || gradients.iter().filter(|one| one.squares.get().is_none());
        for one in unknown() {
            parts.extend(one.squares_on_device()?);
        }
        let mut found = rlhf_ops::read_to_host(&Tensor::cat(&parts, 0)?)?;
        let mut rest = found.split_off(numbers.elem_count());
        let unknown: Vec<_> = unknown().collect();
        for one in unknown {
            let after = rest.split_off(one.sums.len());
            let of = std::mem::replace(&mut rest, after);
            // Set already only if it stands there twice, and then they are the same.
            let _ = one.squares.set(Squares { of, zero: None });
        }
        Ok(found)
    }

    /// `‖g‖ = √(Σ_p Σ_i g_{p,i}²)` over all parameters together.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.squares()?.of.iter();
        Ok(squares.map(|s| f64::from(*s)).sum::<f64>().sqrt())
    }

    /// The guard after a first backward: every trainable parameter has a finite, non-zero gradient, or the
    /// error names those that do not. An operation that records no gradient shows here, and nowhere
    /// else.
    ///
    /// Three models have parameters whose true gradient is zero, and must not be checked before they
    /// have made a step: one under a head of zeros, one that only ever saw sequences of one token
    /// (softmax over one key is constant), and one whose loss is exactly zero. Biases on keys are
    /// no exception: where they are part of one tensor with those on queries and values it has a gradient, and
    /// under rotary positions a bias on keys is rotated by each key's position and does change the scores.
    ///
    /// An adapter has a fourth: while its B is zero, as it is at first, no gradient reaches its A. There a zero is no error, and the
    /// result is `false`: not all were checked, check again after the next step.
    pub fn check_all(&self, params: &Params) -> Result<bool> {
        self.check_all_but(params, &[])
    }

    /// [`Gradients::check_all`] for a loss that is known not to depend on the parameters in `exempt`: one of differences
    /// between scores does not on what shifts them all alike.
    pub fn check_all_but(&self, params: &Params, exempt: &[&str]) -> Result<bool> {
        let squares: BTreeMap<_, _> = self.sums.keys().zip(&self.squares()?.of).collect();
        let (mut offenders, mut waiting) = (Vec::new(), false);
        let trainable = || params.trainable().map(|(name, _)| name);
        for name in trainable().filter(|name| !exempt.contains(name)) {
            match squares.get(&name.to_owned()).map(|s| **s) {
                None => offenders.push(format!("{name} (none recorded)")),
                Some(s) if !s.is_finite() => offenders.push(format!("{name} (not finite)")),
                // Squares of gradients below 1e-23 underflow; look again before calling them zero.
                Some(0.0) if self.all_zero(name)? => match params.waits_for_b(name)? {
                    true => waiting = true,
                    false => offenders.push(format!("{name} (zero)")),
                },
                Some(_) => {}
            }
        }
        if offenders.is_empty() {
            return Ok(!waiting);
        }
        Err(Error::Invalid(format!(
            "{} of {} parameters have no usable gradient: {}. Either the loss does not depend on them, \
             or an operation on the way records no gradient",
            offenders.len(),
            trainable().count(),
            first_few(&offenders)
        )))
    }

    fn all_zero(&self, name: &str) -> Result<bool> {
        if let Some(known) = self.squares.get().and_then(|squares| squares.zero.as_ref()) {
            let place = self.sums.keys().position(|it| it == name);
            return Ok(place
                .and_then(|place| known.get(place))
                .is_none_or(|zero| *zero));
        }
        let Some(grad) = self.sums.get(name) else {
            return Ok(true);
        };
        // A sum, since a maximum skips NaN.
        Ok(rlhf_ops::read_to_host(&grad.abs()?.sum_all()?)? == [0.0])
    }

    /// `Σ g²` of each parameter, in order of name: as they were read, or read now.
    fn squares(&self) -> Result<&Squares> {
        if let Some(squares) = self.squares.get() {
            return Ok(squares);
        }
        let of = match self.squares_on_device()? {
            Some(squares) => rlhf_ops::read_to_host(&squares)?,
            None => Vec::new(),
        };
        Ok(self.squares.get_or_init(|| Squares { of, zero: None }))
    }

    fn squares_on_device(&self) -> Result<Option<Tensor>> {
        if self.sums.is_empty() {
            return Ok(None);
        }
        let sums: Vec<&Tensor> = self.sums.values().collect();
        Ok(Some(rlhf_ops::sums_of_squares(&sums)?))
    }
}

#[cfg(test)]
mod tests;
