//! The linear layer over a frozen weight in quantised blocks.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage as _;
use candle_core::quantized::GgmlDType;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail,
};

use super::cpu::{Linear, LinearAdd};
use super::{WeightLayout, linear};
use crate::backend::{Backend, backend};
use crate::cpu::buffer::{fill, write_copy, write_zeros};
use crate::cpu::operand::Operand;
use crate::recompute;

/// A frozen weight matrix in the quantised blocks of a GGUF file, from which its numbers are computed whenever they are needed.
///
/// The blocks lie along rows of `in` numbers, one row an output. They stay in the host's memory; clones share them. It may be the matrices of
/// several experts, one below the other.
#[derive(Debug, Clone)]
pub struct QuantisedWeight {
    /// u8 `[out, bytes of a row]`, of experts `[E·out, bytes of a row]`.
    blocks: Tensor,
    kind: GgmlDType,
    inputs: usize,
    /// E, where it is a stack.
    experts: Option<usize>,
    /// The order that [`QuantisedWeight::dequantize`] gives the numbers.
    layout: WeightLayout,
}

impl QuantisedWeight {
    /// The weight with these `blocks`, u8 `[out, bytes of a row]` on the CPU, of the type `kind`, in the order `layout`.
    pub fn new(blocks: Tensor, kind: GgmlDType, layout: WeightLayout) -> Result<Self> {
        let (_, bytes) = blocks.dims2()?;
        if blocks.dtype() != DType::U8 || !blocks.device().is_cpu() {
            bail!("quantised weight: expected blocks as bytes on the CPU")
        }
        if !bytes.is_multiple_of(kind.type_size()) {
            bail!(
                "quantised weight: rows of {bytes} bytes are no whole number of {kind:?} blocks of {}",
                kind.type_size()
            )
        }
        Ok(Self {
            blocks: blocks.contiguous()?,
            kind,
            inputs: bytes / kind.type_size() * kind.block_size(),
            experts: None,
            layout,
        })
    }

    /// The same rows as matrices `[out, in]` of as many experts.
    pub fn stacked(self, experts: usize) -> Result<Self> {
        let (rows, _) = self.blocks.dims2()?;
        if experts == 0 || !rows.is_multiple_of(experts) || self.layout != WeightLayout::OutIn {
            bail!("quantised weight: {rows} rows are no matrices of {experts} experts")
        }
        Ok(Self {
            experts: Some(experts),
            ..self
        })
    }

    /// How many experts' matrices it is, where it is a stack.
    pub fn experts(&self) -> Option<usize> {
        self.experts
    }

    /// The matrix of one expert.
    pub(crate) fn expert(&self, expert: usize) -> Result<Self> {
        let rows = self.blocks.dims()[0] / self.experts.unwrap_or(1);
        Ok(Self {
            blocks: self.blocks.narrow(0, expert * rows, rows)?,
            experts: None,
            ..self.clone()
        })
    }

    /// Its blocks, u8 `[out, bytes of a row]`, of experts `[E·out, bytes of a row]`.
    pub fn blocks(&self) -> &Tensor {
        &self.blocks
    }

    /// The type of its blocks.
    pub fn kind(&self) -> GgmlDType {
        self.kind
    }

    /// The order that [`QuantisedWeight::dequantize`] gives the numbers.
    pub fn layout(&self) -> WeightLayout {
        self.layout
    }

    /// The shape of the matrix in its layout; of experts `[E, out, in]`.
    pub fn shape(&self) -> Shape {
        let rows = self.blocks.dims()[0];
        match (self.experts, self.layout) {
            (Some(experts), _) => (experts, rows / experts, self.inputs).into(),
            (None, WeightLayout::OutIn) => (rows, self.inputs).into(),
            (None, WeightLayout::InOut) => (self.inputs, rows).into(),
        }
    }

    /// All numbers of the matrix, in its layout.
    pub fn dequantize(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let operand = Operand::of(&self.blocks);
        let (storage, layout) = operand.stored()?;
        let bytes = storage.as_slice::<u8>()?;
        let bytes = &bytes[layout.start_offset()..][..self.blocks.elem_count()];
        let shape = (self.blocks.dims()[0], self.inputs);
        let matrix = Tensor::from_vec(self.numbers(bytes)?, shape, &Device::Cpu)?;
        let matrix = match self.layout {
            WeightLayout::OutIn => matrix.reshape(self.shape())?,
            WeightLayout::InOut => matrix.t()?.contiguous()?,
        };
        matrix.to_dtype(dtype)?.to_device(device)
    }

    /// The numbers of the rows of these blocks, by all threads: a row is a whole number of blocks, so that rows stand for themselves.
    fn numbers(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let numbers = bytes.len() / self.kind.type_size() * self.kind.block_size();
        let failed = OnceLock::new();
        let all = fill(numbers, self.inputs, |at, out| {
            let from = |number: usize| number / self.kind.block_size() * self.kind.type_size();
            let blocks = &bytes[from(at)..from(at + out.len())];
            match self.kind.from_data(blocks.into()).dequantize(out.len()) {
                Ok(CpuStorage::F32(numbers)) => write_copy(out, &numbers),
                other => {
                    let found = other.map(|storage| storage.dtype());
                    let _ = failed.set(format!("{:?} blocks gave {found:?}", self.kind));
                    write_zeros(out)
                }
            }
        });
        match failed.into_inner() {
            Some(error) => bail!("quantised weight: {error}"),
            None => Ok(all),
        }
    }

    fn for_operand(&self, x: &Tensor) -> Result<Tensor> {
        self.dequantize(x.dtype(), x.device())
    }
}

/// [`linear`](crate::linear) over the dequantised weight, which is computed in the forward pass and again in the backward pass, and not kept. Value and
/// gradient are the same bits. A `bias` must be frozen too.
pub fn quantised_linear(x: &Tensor, w: &QuantisedWeight, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = bias.cloned();
    match backend(&[x, bias.as_ref().unwrap_or(x)]) {
        Backend::Fused => x.apply_op1(Quantised {
            weight: w.clone(),
            bias,
        }),
        Backend::Kernel | Backend::Reference => {
            let w = w.clone();
            recompute(x, move |x| {
                linear(x, &w.for_operand(x)?, w.layout, bias.as_ref())
            })
        }
    }
}

/// [`linear_add`](crate::linear_add) over the dequantised weight, as [`quantised_linear`].
pub fn quantised_linear_add(residual: &Tensor, x: &Tensor, w: &QuantisedWeight) -> Result<Tensor> {
    match backend(&[residual, x]) {
        Backend::Fused => x.apply_op2(residual, QuantisedAdd(w.clone())),
        Backend::Kernel | Backend::Reference => residual + quantised_linear(x, w, None)?,
    }
}

/// The result for whoever asks with plain tensors: the weight in f32 on the CPU, for the shapes of `x`.
fn checked(weight: &QuantisedWeight, x: &Layout) -> Result<Tensor> {
    let found = x.dims().last().copied();
    if found != Some(weight.inputs) {
        bail!(
            "quantised linear: the weight takes rows of {}, found {:?}",
            weight.inputs,
            x.dims()
        )
    }
    weight.dequantize(DType::F32, &Device::Cpu)
}

struct Quantised {
    weight: QuantisedWeight,
    bias: Option<Tensor>,
}

impl CustomOp1 for Quantised {
    fn name(&self) -> &'static str {
        "quantised_linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let w = checked(&self.weight, x_layout)?;
        let w = Operand::of(&w);
        let bias = self.bias.as_ref().map(Operand::of);
        let bias = bias.as_ref().map(Operand::elements).transpose()?;
        let layout = self.weight.layout;
        Linear { layout }.forward((x, x_layout), w.stored()?, bias.as_deref())
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let w = checked(&self.weight, x.layout())?;
        let layout = self.weight.layout;
        Ok(Linear { layout }.backward(x, &w, g)?.0)
    }
}

struct QuantisedAdd(QuantisedWeight);

impl CustomOp2 for QuantisedAdd {
    fn name(&self) -> &'static str {
        "quantised_linear_add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let w = checked(&self.0, x_layout)?;
        let w = Operand::of(&w);
        let layout = self.0.layout;
        LinearAdd(Linear { layout }).forward(
            (x, x_layout),
            w.stored()?,
            (residual, residual_layout),
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        residual: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let w = checked(&self.0, x.layout())?;
        let layout = self.0.layout;
        let dx = Linear { layout }.backward(x, &w, g)?.0;
        Ok((dx, residual.track_op().then(|| g.clone())))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use candle_core::quantized::QTensor;

    use super::super::linear_add;
    use super::*;
    use crate::testing::{TestRng, flat};

    /// The oracle is the layer over the dequantised weight: values and gradients to the last bit, in f32 and in half precision.
    #[test]
    fn value_and_gradients_are_the_bits_of_the_dequantised_weight() {
        let mut rng = TestRng::new(1);
        for kind in [GgmlDType::Q4K, GgmlDType::Q8_0] {
            let whole = QTensor::quantize(&rng.tensor(&[24, 256]), kind).unwrap();
            let data = whole.data().unwrap().to_vec();
            let blocks = Tensor::from_vec(data.clone(), (24, data.len() / 24), &Device::Cpu);
            let blocks = blocks.unwrap();
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                let weight = QuantisedWeight::new(blocks.clone(), kind, layout).unwrap();
                for dtype in [DType::F32, DType::BF16] {
                    let mut var = |shape: &[usize]| {
                        Var::from_tensor(&rng.tensor(shape).to_dtype(dtype).unwrap()).unwrap()
                    };
                    let (x, residual) = (var(&[5, 256]), var(&[5, 24]));
                    let bias = var(&[24]).as_detached_tensor();
                    let w = weight.dequantize(dtype, &Device::Cpu).unwrap();
                    assert_eq!(w.shape(), &weight.shape());
                    for form in 0..3 {
                        let ours = match form {
                            0 => quantised_linear(&x, &weight, None),
                            1 => quantised_linear(&x, &weight, Some(&bias)),
                            _ => quantised_linear_add(&residual, &x, &weight),
                        };
                        let theirs = match form {
                            0 => linear(&x, &w, layout, None),
                            1 => linear(&x, &w, layout, Some(&bias)),
                            _ => linear_add(&residual, &x, &w, layout),
                        };
                        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
                        let what = format!("{kind:?} {layout:?} {dtype:?} {form}");
                        assert_eq!(flat(&ours), flat(&theirs), "{what}");
                        let gradients = |y: &Tensor| {
                            let loss = y.sqr().unwrap().sum_all().unwrap();
                            let all = loss.backward().unwrap();
                            [&x, &residual].map(|v| all.get(v).map(flat))
                        };
                        assert_eq!(gradients(&ours), gradients(&theirs), "{what}");
                    }
                }
            }
        }
    }

    /// Nodes of the graph: the input and the result. The numbers of the weight are not among them.
    #[test]
    fn the_graph_keeps_no_dequantised_weight() {
        let mut rng = TestRng::new(2);
        let whole = QTensor::quantize(&rng.tensor(&[8, 32]), GgmlDType::Q8_0).unwrap();
        let data = whole.data().unwrap().to_vec();
        let blocks = Tensor::from_vec(data, (8, 34), &Device::Cpu).unwrap();
        let weight = QuantisedWeight::new(blocks, GgmlDType::Q8_0, WeightLayout::OutIn).unwrap();
        let x = Var::from_tensor(&rng.tensor(&[3, 32])).unwrap();
        let y = quantised_linear(&x, &weight, None).unwrap();
        assert_eq!(y.sorted_nodes().len(), 2);
    }
}
