//! SwiGLU, the gated activation of Llama's MLP.

mod gpu;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::apply::apply2;
use crate::backend::{Backend, backend, reference_dtype};
use crate::cpu::buffer::{Uninit, assume_init, fill, fill_two, write_each};
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::cpu::simd::{sigmoid, vectorised};

/// `y = silu(gate)·up`, where `silu(g) = g·σ(g)`. Both operands and the result have one shape. Shazeer 2020, equation 6.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!(
            "swiglu: expected gate and up of one shape, found {:?} and {:?}",
            gate.dims(),
            up.dims()
        )
    }
    match backend(&[gate, up]) {
        Backend::Fused => apply2(gate, up, SwiGlu),
        Backend::Kernel => gpu::swiglu(gate, up),
        Backend::Reference => reference(gate, up),
    }
}

/// [`swiglu`](crate::swiglu) in tensor operations, computed in `f32` at least.
pub fn reference(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (dtype, wide) = (gate.dtype(), reference_dtype(gate));
    (gate.to_dtype(wide)?.silu()? * up.to_dtype(wide)?)?.to_dtype(dtype)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (elements(gate, gate_layout)?, elements(up, up_layout)?);
        let y = fill(gate.len(), 1, |at, y| forward(&gate[at..], &up[at..], y));
        output(y, gate_layout.shape())
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let operands = [gate, up, g].map(Operand::of);
        let [gates, ups, g] = Operand::all(&operands)?;
        let (dgate, dup) = fill_two(gates.len(), 1, |at, dgate, dup| {
            backward(&gates[at..], &ups[at..], &g[at..], dgate, dup)
        });
        Ok((gradient(dgate, gate)?, gradient(dup, up)?))
    }
}

vectorised! {
    fn forward<'a>(gate: &[f32], up: &[f32], y: &'a mut Uninit) -> &'a mut [f32] {
        let (gate, up) = (&gate[..y.len()], &up[..y.len()]);
        write_each!(y, i => gate[i] * sigmoid(gate[i]) * up[i])
    }
}

vectorised! {
    /// `dgate = g·up·σ(1 + gate·(1 − σ))`, `dup = g·gate·σ`, with `σ = σ(gate)`.
    fn backward<'a>(gate: &[f32], up: &[f32], g: &[f32], dgate: &'a mut Uninit, dup: &'a mut Uninit) -> (&'a mut [f32], &'a mut [f32]) {
        let n = dgate.len();
        assert_eq!(dup.len(), n);
        let (gate, up, g) = (&gate[..n], &up[..n], &g[..n]);
        for i in 0..n {
            let sigma = sigmoid(gate[i]);
            dgate[i].write(g[i] * up[i] * sigma * (1.0 + gate[i] * (1.0 - sigma)));
            dup[i].write(g[i] * gate[i] * sigma);
        }
        // SAFETY: the loop has written every element of both, which are `n` long.
        unsafe { (assume_init(dgate), assume_init(dup)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op};

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for shape in [vec![1], vec![3, 7], vec![2, 0], vec![300, 64]] {
            let operands = [(rng.tensor(&shape) * 6.0).unwrap(), rng.tensor(&shape)];
            check_op(
                &format!("swiglu {shape:?}"),
                &operands,
                |t| swiglu(&t[0], &t[1]),
                &|t| reference(&t[0], &t[1]),
            );
        }
    }

    #[test]
    fn reads_halves_of_one_projection() {
        let operands = [TestRng::new(2).tensor(&[5, 12])];
        let halves = |t: &Tensor| Ok((t.narrow(1, 0, 6)?, t.narrow(1, 6, 6)?));
        let apply = |f: fn(&Tensor, &Tensor) -> Result<Tensor>, t: &Tensor| {
            halves(t).and_then(|(gate, up)| f(&gate, &up))
        };
        check_op("swiglu", &operands, |t| apply(swiglu, &t[0]), &|t| {
            apply(reference, &t[0])
        });
    }
}
