//! Products with experts whose frozen weights stay in quantised blocks.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};

use super::cpu::products;
use super::{Routing, check_rows, expert_linear};
use crate::apply::apply1;
use crate::backend::{Backend, backend};
use crate::cpu::matrix::Matrix;
use crate::cpu::operand::{Operand, elements, gradient, output};
use crate::{QuantisedWeight, recompute};

/// [`expert_linear`](crate::expert_linear) over the dequantised weights, which are computed in the forward pass and again in the backward pass, on the CPU
/// those of one expert at a time, and not kept.
pub fn quantised_expert_linear(
    x: &Tensor,
    w: &QuantisedWeight,
    routing: &Routing,
) -> Result<Tensor> {
    check_rows(x, w.shape().dims3()?, routing)?;
    let (w, routing) = (w.clone(), routing.clone());
    match backend(&[x]) {
        Backend::Fused => apply1(x, Quantised(w, routing)),
        Backend::Kernel | Backend::Reference => recompute(x, move |x| {
            expert_linear(x, &w.dequantize(x.dtype(), x.device())?, &routing)
        }),
    }
}

struct Quantised(QuantisedWeight, Routing);

impl Quantised {
    /// The products of `x` with the experts' matrices, or `back` with their transposes.
    fn products(&self, x: &[f32], back: bool) -> Result<Vec<f32>> {
        let (_, outputs, inputs) = self.0.shape().dims3()?;
        let k = if back { outputs } else { inputs };
        let mut y = Vec::new();
        for (expert, rows) in self.1.groups() {
            let w = self.0.expert(expert)?;
            if !back {
                let x = &x[rows.start * k..rows.end * k];
                y.extend(w.project(None, x, rows.len())?);
                continue;
            }
            let w = w.dequantize(DType::F32, &Device::Cpu)?;
            let w = Operand::of(&w);
            let w = w.elements()?;
            let w = Matrix::new(&w, outputs, inputs);
            products(&mut y, &x[rows.start * k..rows.end * k], rows.len(), k, w);
        }
        Ok(y)
    }
}

impl CustomOp1 for Quantised {
    fn name(&self) -> &'static str {
        "quantised_expert_linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, outputs, _) = self.0.shape().dims3()?;
        let y = self.products(&elements(x, layout)?, false)?;
        output(y, (self.1.rows().len(), outputs))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        gradient(self.products(&Operand::of(g).elements()?, true)?, x)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use candle_core::quantized::{GgmlDType, QTensor};

    use super::*;
    use crate::WeightLayout;
    use crate::testing::{TestRng, flat};
    use crate::{GradientSums, Recording, backward_keeping};

    /// The oracle is the product over the dequantised weights: value and gradient to the last bit, in f32 and in half precision.
    #[test]
    fn value_and_gradient_are_the_bits_of_the_dequantised_weights() {
        let mut rng = TestRng::new(1);
        let (experts, outputs, inputs) = (3, 20, 64);
        let whole = rng.tensor(&[experts * outputs, inputs]);
        let whole = QTensor::quantize(&whole, GgmlDType::Q8_0).unwrap();
        let data = whole.data().unwrap().to_vec();
        let row = data.len() / experts / outputs;
        let blocks = Tensor::from_vec(data, (experts * outputs, row), &Device::Cpu).unwrap();
        let weight = QuantisedWeight::new(blocks, GgmlDType::Q8_0, WeightLayout::OutIn)
            .and_then(|weight| weight.stacked(experts))
            .unwrap();
        assert_eq!(weight.shape().dims(), [experts, outputs, inputs]);
        let routing = Routing::top(&rng.tensor(&[30, experts]), 2).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let x = rng.tensor(&[60, inputs]).to_dtype(dtype).unwrap();
            let x = Var::from_tensor(&x).unwrap();
            let w = weight.dequantize(dtype, &Device::Cpu).unwrap();
            let _recording = Recording::start();
            let ours = quantised_expert_linear(&x, &weight, &routing).unwrap();
            let theirs = expert_linear(&x, &w, &routing).unwrap();
            assert_eq!(flat(&ours), flat(&theirs), "{dtype:?}");
            let gradient = |y: &Tensor| {
                let loss = y.sqr().unwrap().sum_all().unwrap();
                let all = backward_keeping(&loss, &mut GradientSums::new()).unwrap();
                flat(all.get(&x).unwrap())
            };
            assert_eq!(gradient(&ours), gradient(&theirs), "{dtype:?}");
        }
    }
}
