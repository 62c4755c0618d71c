//! The sum of two tensors: of residual connections, and of gradients that meet.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::apply::apply2;
use crate::backend::{Backend, backend};
use crate::cpu::buffer::{self, GRAIN, Uninit, fill, write_each};
use crate::cpu::operand::{Operand, elements, output, with_elements_mut};
use crate::cpu::simd::vectorised;
use crate::gpu::Argument::{Change, In, Int, Out};
use crate::gpu::{Kernel, Memory, attach2, elementwise};

const TEXT: &str = include_str!("kernel.h");

/// `z = x + y`, of one shape: [`Tensor::add`] by all threads.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        bail!(
            "add: expected operands of one shape, found {:?} and {:?}",
            x.dims(),
            y.dims()
        )
    }
    match backend(&[x, y]) {
        Backend::Fused => apply2(x, y, Add),
        Backend::Kernel => {
            let z = Memory::like(x)?;
            let [a, b] = [x.detach().contiguous()?, y.detach().contiguous()?];
            let (n, kernel) = (x.elem_count(), Kernel::new(TEXT, "add", x.dtype()));
            let arguments = [In(&a), In(&b), Out(&z), Int(n)];
            kernel.launch(x.device(), elementwise(n, &kernel), &arguments)?;
            attach2("add", [x, y], z, |_, _, g| {
                Ok([Some(g.clone()), Some(g.clone())])
            })
        }
        Backend::Reference => x + y,
    }
}

/// `x ← x + y` of a contiguous `x` whose memory no other tensor shares; `false` where there is no form for that, and nothing was done.
pub(crate) fn add_to(x: &Tensor, y: &Tensor) -> Result<bool> {
    if !x.is_contiguous() || x.dims() != y.dims() {
        return Ok(false);
    }
    match backend(&[x, y]) {
        Backend::Fused => {
            let y = Operand::of(y);
            let y = y.elements()?;
            with_elements_mut(x, |x| {
                add_all(x, &y);
                Ok(())
            })?;
        }
        Backend::Kernel => {
            let y = y.detach().contiguous()?;
            let (n, kernel) = (x.elem_count(), Kernel::new(TEXT, "add_to", x.dtype()));
            let arguments = [Change(x), In(&y), Int(n)];
            kernel.launch(x.device(), elementwise(n, &kernel), &arguments)?;
        }
        Backend::Reference => return Ok(false),
    }
    Ok(true)
}

/// `x ← x + y` by all threads.
pub(crate) fn add_all(x: &mut [f32], y: &[f32]) {
    x.par_chunks_mut(GRAIN)
        .zip(y.par_chunks(GRAIN))
        .for_each(|(x, y)| buffer::add(x, y));
}

struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (elements(x, x_layout)?, elements(y, y_layout)?);
        let z = fill(x.len(), 1, |at, z| sum(&x[at..], &y[at..], z));
        output(z, x_layout.shape())
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _y: &Tensor,
        _z: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(g.clone()), Some(g.clone())))
    }
}

vectorised! {
    fn sum<'a>(x: &[f32], y: &[f32], z: &'a mut Uninit) -> &'a mut [f32] {
        let (x, y) = (&x[..z.len()], &y[..z.len()]);
        write_each!(z, i => x[i] + y[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, check_op, flat};

    #[test]
    fn agrees_with_candle_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for shape in [vec![0, 3], vec![1], vec![7, 9], vec![3, GRAIN + 5]] {
            let operands = [rng.tensor(&shape), rng.tensor(&shape)];
            check_op(
                &format!("add {shape:?}"),
                &operands,
                |t| add(&t[0], &t[1]),
                &|t| &t[0] + &t[1],
            );
        }
    }

    #[test]
    fn reads_strided_operands_and_refuses_other_shapes() {
        let mut rng = TestRng::new(2);
        let (x, y) = (rng.tensor(&[4, 6]), rng.tensor(&[6, 4]));
        let turned = y.t().unwrap();
        let want = (&x + &turned).unwrap();
        assert_eq!(flat(&add(&x, &turned).unwrap()), flat(&want));
        assert!(add_to(&x, &turned).unwrap());
        assert_eq!(flat(&x), flat(&want));
        assert!(!add_to(&turned, &x).unwrap() && !add_to(&x, &y).unwrap());
        let error = add(&x, &y).unwrap_err().to_string();
        assert!(
            error.contains("[4, 6]") && error.contains("[6, 4]"),
            "{error}"
        );
    }
}
