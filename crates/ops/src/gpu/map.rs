//! Functions of each element by itself.

use candle_core::{Result, Tensor};

use super::Argument::{Float, In, Int, Out};
use super::{Kernel, Memory, attach1, blocks};

/// Elements for each thread of a block.
const EACH: usize = 4;

/// A kernel `name(x, y, n, numbers…)` and its gradient `name_backward(x, g, dx, n, numbers…)`.
pub(crate) struct Map {
    pub(crate) text: &'static str,
    pub(crate) forward: &'static str,
    pub(crate) backward: &'static str,
    pub(crate) number: Option<f64>,
}

impl Map {
    pub(crate) fn apply(self, x: &Tensor) -> Result<Tensor> {
        let y = self.run(self.forward, x, None)?;
        attach1(self.forward, x, y, move |x, _, g| {
            Ok(Some(self.run(self.backward, x, Some(g))?.tensor()))
        })
    }

    fn run(&self, name: &'static str, x: &Tensor, g: Option<&Tensor>) -> Result<Memory> {
        let x = x.detach().contiguous()?;
        let g = g.map(|g| g.detach().contiguous()).transpose()?;
        let (n, y) = (x.elem_count(), Memory::like(&x)?);
        let mut arguments = vec![In(&x)];
        arguments.extend(g.as_ref().map(In));
        arguments.extend([Out(&y), Int(n)]);
        arguments.extend(self.number.map(Float));
        let kernel = Kernel::new(self.text, name, x.dtype());
        kernel.launch(x.device(), elementwise(n, &kernel), &arguments)?;
        Ok(y)
    }
}

/// Blocks for `n` elements of which each thread has some.
pub(crate) fn elementwise(n: usize, kernel: &Kernel) -> [usize; 2] {
    blocks(n, EACH * kernel.threads)
}
