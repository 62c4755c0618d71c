//! One step of AdamW.

mod gpu;

use candle_core::{DType, Result, Tensor, Var, bail};
use rayon::prelude::*;

use crate::KeptTable;
use crate::backend::{Backend, backend};
use crate::cpu::buffer::GRAIN;
use crate::cpu::operand::{Operand, with_elements_mut};
use crate::cpu::simd::vectorised;

/// Hyperparameters and step number of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: the parameter shrinks by `lr · weight_decay`.
    pub weight_decay: f64,
    /// t, the number of this step, counted from 1, for bias correction.
    pub step: u64,
    /// Factor of the gradient, applied first: that of gradient clipping, or 1.
    pub grad_scale: f64,
}

/// A parameter of [`adamw_all`], its gradient and moments.
#[derive(Debug, Clone, Copy)]
pub struct AdamWTensors<'a> {
    /// `f32`.
    pub param: &'a Var,
    /// As the parameter; it may be in half precision.
    pub grad: &'a Tensor,
    /// The first moment, `f32`.
    pub m: &'a Var,
    /// The second moment, `f32`.
    pub v: &'a Var,
    /// Whether weight decay touches the parameter.
    pub decays: bool,
}

/// `θ ← θ − lr·λ·θ`, `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)`, in place.
///
/// All four tensors have one shape; `param`, `m` and `v` are `f32`. Loshchilov, Hutter 2019, algorithm 2, as in `torch.optim.AdamW`.
pub fn adamw(param: &Var, grad: &Tensor, m: &Var, v: &Var, step: &AdamWStep) -> Result<()> {
    let all = [AdamWTensors {
        param,
        grad,
        m,
        v,
        decays: true,
    }];
    adamw_all(&all, step, &mut KeptTable::default())
}

/// [`adamw`](crate::adamw()) for many parameters: one launch on a GPU for up to 480 of them. `table`, for one optimizer to keep, is where the
/// parameters and moments lie.
pub fn adamw_all(all: &[AdamWTensors<'_>], step: &AdamWStep, table: &mut KeptTable) -> Result<()> {
    for t in all {
        if [t.grad.dims(), t.m.dims(), t.v.dims()]
            .iter()
            .any(|dims| *dims != t.param.dims())
        {
            bail!(
                "adamw: expected one shape, found a parameter {:?}, a gradient {:?} and moments {:?}, {:?}",
                t.param.dims(),
                t.grad.dims(),
                t.m.dims(),
                t.v.dims()
            )
        }
    }
    let (on_gpu, others): (Vec<_>, Vec<_>) = all.iter().copied().partition(|t| {
        backend(&[t.param, t.m, t.v]) == Backend::Kernel
            && backend(&[t.grad]) == Backend::Kernel
            && t.param.dtype() == DType::F32
    });
    if let Some(first) = on_gpu.first() {
        gpu::adamw(&on_gpu, step, table, first.param.device())?;
    }
    let without_decay = AdamWStep {
        weight_decay: 0.0,
        ..*step
    };
    for AdamWTensors {
        param,
        grad,
        m,
        v,
        decays,
    } in others
    {
        let step = if decays { step } else { &without_decay };
        match backend(&[param, grad, m, v]) {
            Backend::Fused => on_cpu(param, grad, m, v, step)?,
            Backend::Kernel | Backend::Reference => reference(param, grad, m, v, step)?,
        }
    }
    Ok(())
}

fn on_cpu(param: &Var, grad: &Tensor, m: &Var, v: &Var, s: &AdamWStep) -> Result<()> {
    let grad = Operand::of(grad);
    let grad = grad.elements()?;
    let factors = s.factors();
    with_elements_mut(param, |param| {
        with_elements_mut(m, |m| {
            with_elements_mut(v, |v| {
                let state = param
                    .par_chunks_mut(GRAIN)
                    .zip(m.par_chunks_mut(GRAIN))
                    .zip(v.par_chunks_mut(GRAIN));
                state
                    .zip(grad.par_chunks(GRAIN))
                    .for_each(|(((param, m), v), grad)| step(param, m, v, grad, &factors));
                Ok(())
            })
        })
    })
}

/// [`adamw`](crate::adamw) in tensor operations.
pub fn reference(param: &Var, grad: &Tensor, m: &Var, v: &Var, s: &AdamWStep) -> Result<()> {
    let grad = (grad.detach().to_dtype(DType::F32)? * s.grad_scale)?;
    let next_m = ((m.as_detached_tensor() * s.beta1)? + (&grad * (1.0 - s.beta1))?)?;
    let next_v = ((v.as_detached_tensor() * s.beta2)? + (grad.sqr()? * (1.0 - s.beta2))?)?;
    let (correction1, correction2) = s.corrections();
    let denominator = ((&next_v / correction2)?.sqrt()? + s.eps)?;
    let update = ((&next_m / correction1)? / denominator)?;
    let next = ((param.as_detached_tensor() * (1.0 - s.lr * s.weight_decay))? - (update * s.lr)?)?;
    m.set(&next_m)?;
    v.set(&next_v)?;
    param.set(&next)
}

impl AdamWStep {
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`.
    fn corrections(&self) -> (f64, f64) {
        let t = self.step as f64;
        (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t))
    }

    fn factors(&self) -> Factors {
        let (correction1, correction2) = self.corrections();
        Factors {
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            rate: (self.lr / correction1) as f32,
            root: correction2.sqrt().recip() as f32,
            beta1: self.beta1 as f32,
            one_minus_beta1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            one_minus_beta2: (1.0 - self.beta2) as f32,
            eps: self.eps as f32,
            grad_scale: self.grad_scale as f32,
        }
    }
}

impl Factors {
    /// In the order of `kernel.h`.
    fn all(&self) -> [f32; 9] {
        [
            self.decay,
            self.rate,
            self.root,
            self.beta1,
            self.one_minus_beta1,
            self.beta2,
            self.one_minus_beta2,
            self.eps,
            self.grad_scale,
        ]
    }
}

/// The constants of one step, computed in f64.
struct Factors {
    /// `1 − lr·λ`.
    decay: f32,
    /// `lr / (1 − β₁ᵗ)`.
    rate: f32,
    /// `1 / √(1 − β₂ᵗ)`.
    root: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    eps: f32,
    grad_scale: f32,
}

vectorised! {
    fn step(param: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], f: &Factors) {
        let n = param.len();
        let (m, v, grad) = (&mut m[..n], &mut v[..n], &grad[..n]);
        for i in 0..n {
            let g = grad[i] * f.grad_scale;
            m[i] = f.beta1 * m[i] + f.one_minus_beta1 * g;
            v[i] = f.beta2 * v[i] + f.one_minus_beta2 * (g * g);
            param[i] = f.decay * param[i] - f.rate * m[i] / (v[i].sqrt() * f.root + f.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, assert_close, kernels_run};
    use candle_core::Device;

    const STEP: AdamWStep = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        step: 1,
        grad_scale: 1.0,
    };

    /// Closed form: after the first step m̂ = g and √v̂ = |g|, so θ moves by lr against the sign of g, after the decay.
    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let param = Var::new(&[1f32, -2.0], &Device::Cpu).unwrap();
        let (m, v) = (
            Var::zeros(2, DType::F32, &Device::Cpu).unwrap(),
            Var::zeros(2, DType::F32, &Device::Cpu).unwrap(),
        );
        adamw(
            &param,
            &Tensor::new(&[3f32, -0.5], &Device::Cpu).unwrap(),
            &m,
            &v,
            &STEP,
        )
        .unwrap();
        for (got, want) in param
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .zip([0.999 - 0.1, -1.998 + 0.1])
        {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
    }

    #[test]
    fn agrees_with_the_reference_over_steps_and_on_any_number_of_threads() {
        for shape in [vec![1], vec![7, 5], vec![2 * GRAIN + 3]] {
            let run = |threads, step: fn(&Var, &Tensor, &Var, &Var, &AdamWStep) -> Result<()>| {
                let mut rng = TestRng::new(5);
                let state = [0, 1, 2].map(|i| {
                    let start = rng.tensor(&shape);
                    Var::from_tensor(&if i == 0 {
                        start
                    } else {
                        start.zeros_like().unwrap()
                    })
                    .unwrap()
                });
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                for t in 1..=5 {
                    let grad = rng.tensor(&shape);
                    let s = AdamWStep {
                        step: t,
                        grad_scale: 0.3,
                        ..STEP
                    };
                    pool.install(|| step(&state[0], &grad, &state[1], &state[2], &s))
                        .unwrap();
                }
                state
            };
            let (one, two, plain) = (run(1, adamw), run(2, adamw), run(1, reference));
            for ((one, two), plain) in one.iter().zip(&two).zip(&plain) {
                assert_close(one, plain, 1e-6, "adamw");
                assert_eq!(
                    one.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                    two.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                );
            }
        }
    }

    /// Parameters, their gradients and moments, of these numbers of elements.
    struct State {
        grads: Vec<Tensor>,
        /// All parameters, then all first moments, then all second ones.
        vars: Vec<Var>,
    }

    impl State {
        fn new(lens: &[usize], dtype: DType) -> Self {
            let mut rng = TestRng::new(6);
            let mut of_each = |scale: f64| -> Vec<Tensor> {
                lens.iter()
                    .map(|&n| (rng.tensor(&[n]) * scale).unwrap())
                    .collect()
            };
            let (params, m, roots) = (of_each(1.0), of_each(0.1), of_each(0.1));
            let grads = of_each(1.0);
            let v = roots.iter().map(|root| root.sqr().unwrap());
            let all = params.into_iter().chain(m).chain(v);
            Self {
                grads: grads.iter().map(|g| g.to_dtype(dtype).unwrap()).collect(),
                vars: all.map(|t| Var::from_tensor(&t).unwrap()).collect(),
            }
        }

        /// Every other parameter decays.
        fn tensors(&self) -> Vec<AdamWTensors<'_>> {
            let n = self.grads.len();
            let of = |i| AdamWTensors {
                param: &self.vars[i],
                grad: &self.grads[i],
                m: &self.vars[n + i],
                v: &self.vars[2 * n + i],
                decays: i % 2 == 0,
            };
            (0..n).map(of).collect()
        }

        fn follow_the_reference(&self) {
            let without_decay = AdamWStep {
                weight_decay: 0.0,
                ..STEP
            };
            for t in self.tensors() {
                let step = if t.decays { &STEP } else { &without_decay };
                reference(t.param, t.grad, t.m, t.v, step).unwrap();
            }
        }
    }

    /// Two steps, of which the second has gradients at other places: launches and uploads of each, and what is computed.
    fn check_two_steps(lens: &[usize], dtype: DType, launches: u64) {
        let (mut got, mut want) = (State::new(lens, dtype), State::new(lens, dtype));
        let mut table = KeptTable::default();
        for uploads in [1, 0] {
            let before = [crate::kernel_launches(), crate::host_uploads()];
            crate::on_the_emulated_grid(rlhf_grid::launch, || {
                adamw_all(&got.tensors(), &STEP, &mut table).unwrap();
            });
            let after = [crate::kernel_launches(), crate::host_uploads()];
            assert_eq!(
                [after[0] - before[0], after[1] - before[1]],
                [launches, uploads]
            );
            want.follow_the_reference();
            for (got, want) in got.vars.iter().zip(&want.vars) {
                assert_close(got, want, 1e-6, "adamw as a kernel");
            }
            for state in [&mut got, &mut want] {
                let others = state.grads.iter().map(|g| (g * -0.5).unwrap());
                state.grads = others.collect();
            }
        }
    }

    /// Three parameters, of two blocks, of one number and of part of a block.
    #[test]
    fn the_kernel_agrees_with_the_reference_in_one_launch() {
        if kernels_run() {
            for dtype in [DType::F32, DType::BF16] {
                check_two_steps(&[3000, 1, 129], dtype, 1);
            }
        }
    }

    #[test]
    fn more_parameters_than_addresses_come_with_a_launch_take_several() {
        if kernels_run() {
            let lens: Vec<usize> = (0..crate::gpu::MOST_NUMBERS + 3)
                .map(|i| 1 + i % 3)
                .collect();
            check_two_steps(&lens, DType::F32, 2);
        }
    }
}
