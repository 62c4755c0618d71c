//! Large products on the CPU with operands in bf16.
//!
//! As PyTorch's autocast has it: the operands of a product are rounded to bf16, the products are added in f32, and everything else (activations
//! in memory, norms, softmax, losses, weights and their gradients) is f32. Attention, and products of few rows as in decoding,
//! stay in f32.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::DType;

static ON: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// What a test says for its thread.
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this CPU multiplies in bf16 faster than in f32, which takes the instructions of AVX512-BF16. One that stands for a GPU does not: there
/// bf16 is the type of tensors.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::cpu::level::avx512_bf16() && !crate::is_emulated();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Makes the linear layers and vocabulary products of this process round their operands to bf16, on a CPU that [has](has_bf16_products) such
/// products; or undoes that.
pub fn set_bf16_products(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

/// As [`set_bf16_products`], on this thread while `f` runs.
#[cfg(test)]
pub(crate) fn with_bf16_products<R>(f: impl FnOnce() -> R) -> R {
    HERE.set(true);
    let result = f();
    HERE.set(false);
    result
}

/// Whether all that a model computes with tensors of `dtype` is in f32 at least.
pub fn computes_in_f32(dtype: DType) -> bool {
    dtype == DType::F32 && !bf16_products()
}

/// Whether products round their operands to bf16.
pub(crate) fn bf16_products() -> bool {
    has_bf16_products() && (ON.load(Ordering::Relaxed) || HERE.get())
}

#[cfg(test)]
mod tests {
    use candle_core::{Tensor, Var};

    use super::*;
    use crate::testing::{TestRng, assert_close};
    use crate::{WeightLayout, linear, reference, token_logprobs};

    fn rounded(t: &Tensor) -> Tensor {
        let t = t.to_dtype(DType::BF16).unwrap();
        t.to_dtype(DType::F64).unwrap()
    }

    /// Oracle: the formulas in f64, at rounded operands: y = x̂·Ŵᵀ, dX = Ĝ·Ŵ, dW = Ĝᵀ·X̂.
    #[test]
    fn a_linear_layer_rounds_its_operands_and_nothing_else() {
        if !has_bf16_products() {
            return;
        }
        let mut rng = TestRng::new(1);
        for (rows, inputs, outputs) in [(35, 20, 33), (300, 130, 70), (70, 600, 48)] {
            let new = |t: Tensor| Var::from_tensor(&t).unwrap();
            let (x, w) = (
                new(rng.tensor(&[rows, inputs])),
                new(rng.tensor(&[outputs, inputs])),
            );
            let g = rng.tensor(&[rows, outputs]);
            let (y, gradients) = with_bf16_products(|| {
                let y = linear(x.as_tensor(), w.as_tensor(), WeightLayout::OutIn, None).unwrap();
                let loss = (&y * &g).unwrap().sum_all().unwrap();
                (y, loss.backward().unwrap())
            });
            let [x_, w_, g_] = [x.as_tensor(), w.as_tensor(), &g].map(rounded);
            let times = |a: &Tensor, b: &Tensor| a.matmul(b).unwrap();
            assert_close(&y, &times(&x_, &w_.t().unwrap()), 1e-5, "y");
            let dx = gradients.get(x.as_tensor()).unwrap();
            assert_close(dx, &times(&g_, &w_), 1e-5, "dX");
            let dw = gradients.get(w.as_tensor()).unwrap();
            assert_close(dw, &times(&g_.t().unwrap(), &x_), 1e-5, "dW");
        }
    }

    /// A row has the same bits whatever rows stand beside it, unless they are very few.
    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let mut rng = TestRng::new(2);
        let (x, w) = (rng.tensor(&[200, 40]), rng.tensor(&[64, 40]));
        let product = |rows| {
            let x = x.narrow(0, 0, rows).unwrap();
            let y = with_bf16_products(|| linear(&x, &w, WeightLayout::OutIn, None)).unwrap();
            y.narrow(0, 0, 8).unwrap().to_vec2::<f32>().unwrap()
        };
        if has_bf16_products() {
            assert!(product(33) == product(200));
            assert!(product(47) == product(200));
        }
    }

    /// Oracle: the same in f32, to what 8 bits leave of a logit.
    #[test]
    fn log_probabilities_are_near_those_in_f32() {
        let mut rng = TestRng::new(3);
        let (hidden, vocab) = (rng.tensor(&[40, 64]), rng.tensor(&[300, 64]));
        let targets = rng.ids(40, 300);
        let found =
            with_bf16_products(|| token_logprobs(&hidden, &vocab, &targets, 1.0, None)).unwrap();
        let exact = reference::token_logprobs(&hidden, &vocab, &targets, 1.0, None).unwrap();
        assert_close(&found.logprobs, &exact.logprobs, 1e-2, "log-probabilities");
    }
}
