//! One step of AdamW.

use candle_core::{DType, Result, Tensor, Var};

/// The numbers of one optimizer step.
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
    /// The number of this step, counted from 1, for the correction of the moments' bias.
    pub step: u64,
    /// Multiplies the gradient first: the factor of gradient clipping, 1 for none.
    pub grad_scale: f64,
}

/// `θ ← θ − lr·λ·θ`, `m ← β₁m + (1−β₁)g`, `v ← β₂v + (1−β₂)g²`, `θ ← θ − lr · (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε)`, in place.
///
/// All four tensors have one shape; `param`, `m` and `v` are `f32`. Loshchilov, Hutter 2019, algorithm 2, as in `torch.optim.AdamW`.
pub fn adamw(param: &Var, grad: &Tensor, m: &Var, v: &Var, s: &AdamWStep) -> Result<()> {
    reference(param, grad, m, v, s)
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
}
