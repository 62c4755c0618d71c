//! The linear layer.

mod blocks;
mod cpu;
mod gpu;
pub(crate) mod quantised;
pub(crate) mod reference;

use candle_core::{D, Result, Tensor, bail};

use crate::apply::{apply2, apply3};
use crate::backend::{Backend, backend};

/// The order of a weight matrix in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[out, in]`: PyTorch's `Linear`.
    OutIn,
    /// `[in, out]`: GPT-2's `Conv1D`.
    InOut,
}

impl WeightLayout {
    /// `(in, out)` of a weight of these dimensions.
    fn sizes(self, (rows, columns): (usize, usize)) -> (usize, usize) {
        match self {
            Self::OutIn => (columns, rows),
            Self::InOut => (rows, columns),
        }
    }
}

/// `y = x·Wᵀ + b` ([`OutIn`](WeightLayout::OutIn)) or `y = x·W + b` ([`InOut`](WeightLayout::InOut)).
///
/// `x` is `[.., in]`, `bias` is `[out]`, the result `[.., out]`. No gradient is computed for an operand that records no graph, such as a
/// frozen weight.
pub fn linear(
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    if x.dim(D::Minus1)? != inputs || bias.is_some_and(|b| b.dims() != [outputs]) {
        bail!(
            "linear: a weight {:?} ({layout:?}) takes rows of {inputs} and a bias of {outputs}, found {:?} and {:?}",
            w.dims(),
            x.dims(),
            bias.map(Tensor::dims)
        )
    }
    // Without a bias the list of operands names the weight twice.
    match (backend(&[x, w, bias.unwrap_or(w)]), bias) {
        (Backend::Fused, Some(b)) => apply3(x, w, b, cpu::Linear { layout }),
        (Backend::Fused, None) => apply2(x, w, cpu::Linear { layout }),
        (Backend::Kernel, _) => gpu::linear(x, w, layout, bias),
        (Backend::Reference, _) => reference::linear(x, w, layout, bias),
    }
}

/// `y = (residual + b) + x·Wᵀ` (or `x·W`): [`linear`] that accumulates onto the residual stream.
///
/// `residual` is `[.., out]`.
pub fn linear_add(
    residual: &Tensor,
    x: &Tensor,
    w: &Tensor,
    layout: WeightLayout,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (inputs, outputs) = layout.sizes(w.dims2()?);
    let rows = x.elem_count() / inputs.max(1);
    if x.dim(D::Minus1)? != inputs
        || residual.dim(D::Minus1)? != outputs
        || residual.elem_count() != rows * outputs
        || bias.is_some_and(|b| b.dims() != [outputs])
    {
        bail!(
            "linear_add: a weight {:?} ({layout:?}) takes rows of {inputs}, a residual with as many rows of {outputs} and a bias of {outputs}, found {:?}, {:?} and {:?}",
            w.dims(),
            x.dims(),
            residual.dims(),
            bias.map(Tensor::dims)
        )
    }
    let backend = backend(&[residual, x, w, bias.unwrap_or(w)]);
    let start = match (backend, bias) {
        (Backend::Reference, _) => return reference::linear_add(residual, x, w, layout, bias),
        (_, None) => residual.clone(),
        (Backend::Fused, Some(b)) => apply2(residual, b, cpu::BiasAdd)?,
        (Backend::Kernel, Some(b)) => gpu::bias_add(residual, b)?,
    };
    match backend {
        Backend::Kernel => gpu::linear_add(&start, x, w, layout),
        _ => apply3(x, w, &start, cpu::LinearAdd(cpu::Linear { layout })),
    }
}

#[cfg(test)]
mod tests {
    use super::reference::{linear as reference, linear_add as reference_add};
    use super::*;
    use crate::testing::{TestRng, check_op};

    fn check(shape: &[usize], outputs: usize, rng: &mut TestRng) {
        let inputs = shape[shape.len() - 1];
        for (layout, weight) in [
            (WeightLayout::OutIn, [outputs, inputs]),
            (WeightLayout::InOut, [inputs, outputs]),
        ] {
            let operands = [
                rng.tensor(shape),
                rng.tensor(&weight),
                rng.tensor(&[outputs]),
            ];
            let what = format!("linear {shape:?} to {outputs} {layout:?}");
            let (fused, plain) = (linear, reference);
            check_op(
                &what,
                &operands,
                |t| fused(&t[0], &t[1], layout, Some(&t[2])),
                &|t| plain(&t[0], &t[1], layout, Some(&t[2])),
            );
            check_op(
                &what,
                &operands[..2],
                |t| fused(&t[0], &t[1], layout, None),
                &|t| plain(&t[0], &t[1], layout, None),
            );
            let residual = [&shape[..shape.len() - 1], &[outputs]].concat();
            let operands = [
                rng.tensor(&residual),
                operands[0].clone(),
                operands[1].clone(),
            ];
            check_op(
                &format!("{what}, added"),
                &operands,
                |t| linear_add(&t[0], &t[1], &t[2], layout, None),
                &|t| reference_add(&t[0], &t[1], &t[2], layout, None),
            );
            let operands = [&operands[..], &[rng.tensor(&[outputs])]].concat();
            check_op(
                &format!("{what}, added with a bias"),
                &operands,
                |t| linear_add(&t[0], &t[1], &t[2], layout, Some(&t[3])),
                &|t| reference_add(&t[0], &t[1], &t[2], layout, Some(&t[3])),
            );
        }
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences() {
        let mut rng = TestRng::new(1);
        for (shape, outputs) in [
            (vec![1, 1], 1),
            (vec![3, 7], 5),
            (vec![2, 3, 20], 33),
            (vec![300, 64], 96),
            (vec![0, 8], 4),
            (vec![8], 4),
        ] {
            check(&shape, outputs, &mut rng);
        }
    }

    #[test]
    fn reads_strided_operands() {
        let mut rng = TestRng::new(2);
        let operands = [rng.tensor(&[7, 9]), rng.tensor(&[7, 4])];
        check_op(
            "linear of transposes",
            &operands,
            |t| linear(&t[0].t()?, &t[1].t()?, WeightLayout::OutIn, None),
            &|t| {
                reference(
                    &t[0].t()?.contiguous()?,
                    &t[1].t()?,
                    WeightLayout::OutIn,
                    None,
                )
            },
        );
    }

    #[test]
    fn sizes_that_disagree_are_named() {
        let mut rng = TestRng::new(3);
        let error = linear(
            &rng.tensor(&[2, 3]),
            &rng.tensor(&[4, 5]),
            WeightLayout::OutIn,
            None,
        )
        .unwrap_err()
        .to_string();
        assert!(
            error.contains("[4, 5]") && error.contains("[2, 3]"),
            "{error}"
        );
    }
}
