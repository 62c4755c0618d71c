//! Gradients summed over micro-batches, and the guard against silent ones.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use candle_core::{DType, Tensor};

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
    squares: OnceLock<Vec<f32>>,
}

impl Gradients {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds ∂loss/∂p for every trainable parameter p that `loss` depends on, in order of name.
    ///
    /// In f16 what is below 6e-8 is zero and what is above 65 504 infinite, and a mean over thousands of tokens leaves each of them
    /// little. So there the loss is scaled up before it is differentiated, and its gradients, in f32, down again; a scale at which one
    /// of them overflows is given up for a smaller one. Micikevicius et al. 2018, §3.2.
    pub fn accumulate(&mut self, params: &Params, loss: &Tensor) -> Result<()> {
        self.squares.take();
        if params.dtype() != DType::F16 {
            return self.add(params, loss);
        }
        // Powers of two change no digit, and no scale outlives the call: a resumed run takes the same ones.
        for scale in [4096.0, 256.0, 16.0, 1.0] {
            let mut scaled = Self::new();
            scaled.add(params, &(loss * scale)?)?;
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

    /// Adds the gradients of one backward pass.
    fn add(&mut self, params: &Params, loss: &Tensor) -> Result<()> {
        let mut sums = rlhf_ops::GradientSums::new();
        for (name, var) in params.read_vars() {
            sums.insert(var.id(), self.sums.remove(name));
        }
        let mut grads = rlhf_ops::backward_into(loss, &mut sums)?;
        for (name, var) in params.read_vars() {
            let sum = sums.remove(&var.id()).flatten();
            // The gradient of a leaf still holds the graph it was computed from.
            let grad = match grads.remove(var) {
                Some(grad) => Some(grad.detach().to_dtype(DType::F32)?.contiguous()?),
                None => None,
            };
            let sum = match (sum, grad) {
                (Some(sum), Some(grad)) => (sum + grad)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => continue,
            };
            self.sums.insert(name.to_owned(), sum);
        }
        Ok(())
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
        for one in gradients {
            parts.extend(one.squares_on_device()?);
        }
        let mut found = rlhf_ops::read_to_host(&Tensor::cat(&parts, 0)?)?;
        let mut rest = found.split_off(numbers.elem_count());
        for one in gradients {
            let after = rest.split_off(one.sums.len());
            // Set already only if they were read before, and then they are the same.
            let _ = one.squares.set(std::mem::replace(&mut rest, after));
        }
        Ok(found)
    }

    /// `‖g‖ = √(Σ_p Σ_i g_{p,i}²)` over all parameters together.
    pub fn norm(&self) -> Result<f64> {
        let squares = self.squares()?.iter();
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
        let squares: BTreeMap<_, _> = self.sums.keys().zip(self.squares()?).collect();
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
        let Some(grad) = self.sums.get(name) else {
            return Ok(true);
        };
        // A sum, since a maximum skips NaN.
        Ok(rlhf_ops::read_to_host(&grad.abs()?.sum_all()?)? == [0.0])
    }

    /// `Σ g²` of each parameter, in order of name: as they were read, or read now.
    fn squares(&self) -> Result<&[f32]> {
        if let Some(squares) = self.squares.get() {
            return Ok(squares);
        }
        let squares = match self.squares_on_device()? {
            Some(squares) => rlhf_ops::read_to_host(&squares)?,
            None => Vec::new(),
        };
        Ok(self.squares.get_or_init(|| squares))
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
mod tests {
    use candle_core::Device;

    use super::*;

    fn params(dtype: DType) -> Params {
        let mut params = Params::new(&Device::Cpu, dtype);
        for (name, value) in [("used", [1f32, 2.0]), ("idle", [3.0, 4.0])] {
            params
                .insert(name, &Tensor::new(&value, &Device::Cpu).unwrap())
                .unwrap();
        }
        params
    }

    /// Σ used², whose gradient is 2·used.
    fn loss(params: &Params) -> Tensor {
        let used = params.compute("used").unwrap();
        used.sqr().unwrap().sum_all().unwrap()
    }

    #[test]
    fn micro_batches_add_up_in_f32_and_hold_no_graph() {
        for dtype in [DType::F32, DType::BF16] {
            let params = params(dtype);
            let mut grads = Gradients::new();
            grads.accumulate(&params, &loss(&params)).unwrap();
            grads.accumulate(&params, &loss(&params)).unwrap();
            let used = grads.get("used").unwrap();
            assert!(!used.track_op());
            assert_eq!(used.to_vec1::<f32>().unwrap(), [4.0, 8.0]);
            assert_eq!(grads.norm().unwrap(), 80f64.sqrt());
        }
    }

    /// Closed form: the gradient of c·Σ used² is 2c·used. In f16 2e-9 is zero, and 4096 times 400 infinite.
    #[test]
    fn f16_keeps_gradients_far_below_and_far_above_its_range() {
        let params = params(DType::F16);
        let gradient = |factor: f64| {
            let loss = loss(&params).to_dtype(DType::F32).unwrap();
            let mut grads = Gradients::new();
            grads
                .accumulate(&params, &(loss * factor).unwrap())
                .unwrap();
            grads.get("used").unwrap().to_vec1::<f32>().unwrap()
        };
        for factor in [1e-9, 1e-4, 1.0, 100.0, 1e4] {
            for (got, want) in gradient(factor).into_iter().zip([2.0, 4.0]) {
                let want = want * factor as f32;
                assert!((got - want).abs() <= 0.01 * want, "{got}, expected {want}");
            }
        }
        assert!(
            gradient(1e6).iter().all(|g| !g.is_finite()),
            "beyond every scale the overflow shows"
        );
    }

    #[test]
    fn one_read_serves_norm_and_guard_of_all_gradients_until_they_change() {
        let params = params(DType::F32);
        let (mut some, none) = (Gradients::new(), Gradients::new());
        some.accumulate(&params, &loss(&params)).unwrap();
        let numbers = Tensor::new(&[[7f32, 8.0]], &Device::Cpu).unwrap();
        let before = rlhf_ops::host_reads();
        let found = Gradients::read(&numbers, &[&none, &some, &some]).unwrap();
        assert_eq!(found, [7.0, 8.0]);
        // |2·(1, 2)|² = 20.
        let norms = [&some, &none].map(|grads| grads.norm().unwrap());
        assert_eq!(norms, [20f64.sqrt(), 0.0]);
        assert!(some.check_all(&params).is_err());
        assert_eq!(rlhf_ops::host_reads() - before, 1);
        some.accumulate(&params, &loss(&params)).unwrap();
        assert_eq!(some.norm().unwrap(), 80f64.sqrt());
        some.clear();
        assert_eq!(some.norm().unwrap(), 0.0);
    }

    #[test]
    fn the_guard_names_parameters_without_a_finite_non_zero_gradient() {
        let params = params(DType::F32);
        let check = |loss: Tensor| {
            let mut grads = Gradients::new();
            grads.accumulate(&params, &loss).unwrap();
            grads.check_all(&params).map_err(|e| e.to_string())
        };
        let idle = || params.compute("idle").unwrap().sum_all().unwrap();
        let error = check(loss(&params)).unwrap_err();
        assert!(error.contains("1 of 2") && error.contains("idle (none recorded)"));
        let error = check((loss(&params) + (idle() * 0.0).unwrap()).unwrap()).unwrap_err();
        assert!(error.contains("idle ("), "{error}");
        let nan = (loss(&params) + (idle() * f64::NAN).unwrap()).unwrap();
        assert!(check(nan).unwrap_err().contains("idle (not finite)"));
        // A gradient of 1e-30 has a square of zero in f32, but it is not zero.
        check((loss(&params) + (idle() * 1e-30).unwrap()).unwrap()).unwrap();
    }
}
