//! The linear layer over a frozen weight in quantised blocks.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::quantized::GgmlDType;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor, bail,
};

use super::blocks::{decode, encode};
use super::cpu::{Linear, biased, residual_and_bias};
use super::{WeightLayout, linear};
use crate::apply::{apply1, apply2};
use crate::backend::{Backend, backend};
use crate::cpu::buffer::{fill, write_zeros};
use crate::cpu::gemm::project_decoded;
use crate::cpu::operand::{Operand, elements, output};
use crate::cpu::stored::Stored;
use crate::{add, recompute};

/// A frozen weight matrix in quantised blocks as those of a GGUF file, from which its numbers are computed whenever they are needed.
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

    /// The numbers of `matrix`, in the order `layout` or, of several experts, `[E, out, in]`, rounded into blocks of the type `kind`.
    ///
    /// # Errors
    /// If the `in` numbers of a row are no whole number of blocks.
    pub fn of(matrix: &Tensor, kind: GgmlDType, layout: WeightLayout) -> Result<Self> {
        if let &[experts, outputs, inputs] = matrix.dims() {
            let rows = matrix.reshape((experts * outputs, inputs))?;
            return Self::of(&rows, kind, layout)?.stacked(experts);
        }
        let rows = match layout {
            WeightLayout::OutIn => matrix.clone(),
            WeightLayout::InOut => matrix.t()?,
        };
        Self::new(encode(&rows.contiguous()?, kind)?, kind, layout)
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
        let rows = self.rows(dtype, device)?;
        match self.layout {
            WeightLayout::OutIn => rows.reshape(self.shape()),
            WeightLayout::InOut => rows.t()?.contiguous(),
        }
    }

    /// All numbers, `[out, in]`, of experts one below the other, which is how every product reads them.
    fn rows(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = (self.blocks.dims()[0], self.inputs);
        let numbers = self.with_rows(|_, rows| {
            // A row is a whole number of blocks, so that rows stand for themselves.
            fill(shape.0 * shape.1, shape.1, |at, out| {
                let out = write_zeros(out);
                let first = at / shape.1.max(1);
                rows(first..first + out.len() / shape.1.max(1), out);
                out
            })
        })?;
        let rows = Tensor::from_vec(numbers, shape, &Device::Cpu)?;
        rows.to_dtype(dtype)?.to_device(device)
    }

    /// What `work` makes of the blocks and of the numbers of the rows that it asks for: `rows(range, numbers)` writes them.
    fn with_rows<T>(
        &self,
        work: impl FnOnce(&[u8], &(dyn Fn(Range<usize>, &mut [f32]) + Sync)) -> T,
    ) -> Result<T> {
        let (outputs, row) = self.blocks.dims2()?;
        let operand = Operand::of(&self.blocks);
        let (storage, layout) = operand.stored()?;
        let bytes = &storage.as_slice::<u8>()?[layout.start_offset()..][..outputs * row];
        let failed = OnceLock::new();
        let result = work(bytes, &|rows: Range<usize>, numbers: &mut [f32]| {
            let blocks = &bytes[rows.start * row..rows.end * row];
            if let Err(error) = decode(self.kind, blocks, numbers) {
                let _ = failed.set(error);
            }
        });
        match failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(result),
        }
    }

    /// `x·W`, onto `y` where there is one, for an `x` of this many rows.
    pub(crate) fn project(&self, y: Option<Vec<f32>>, x: &[f32], rows: usize) -> Result<Vec<f32>> {
        let size = (self.inputs, self.blocks.dims()[0]);
        self.with_rows(|blocks, decode| {
            let stored = Stored::of(self.kind, blocks, self.inputs);
            project_decoded(y, x, rows, size, stored, &decode)
        })
    }
}

/// [`linear`](crate::linear) over the dequantised weight, which is computed in the forward pass and again in the backward pass, and not kept: for a few
/// rows in pieces that stay in the cache, so that decoding reads the blocks alone. Value and gradient are the bits of its product as
/// `[out, in]`, whatever its layout. A `bias` must be frozen too.
pub fn quantised_linear(x: &Tensor, w: &QuantisedWeight, bias: Option<&Tensor>) -> Result<Tensor> {
    let bias = bias.cloned();
    match backend(&[x, bias.as_ref().unwrap_or(x)]) {
        Backend::Fused => apply1(
            x,
            Quantised {
                weight: w.clone(),
                bias,
            },
        ),
        Backend::Kernel | Backend::Reference => {
            let w = w.clone();
            recompute(x, move |x| {
                linear(
                    x,
                    &w.rows(x.dtype(), x.device())?,
                    WeightLayout::OutIn,
                    bias.as_ref(),
                )
            })
        }
    }
}

/// [`linear_add`](crate::linear_add) over the dequantised weight, as [`quantised_linear`].
pub fn quantised_linear_add(
    residual: &Tensor,
    x: &Tensor,
    w: &QuantisedWeight,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (w, bias) = (w.clone(), bias.cloned());
    match backend(&[residual, x, bias.as_ref().unwrap_or(x)]) {
        Backend::Fused => apply2(x, residual, QuantisedAdd { weight: w, bias }),
        Backend::Kernel | Backend::Reference => {
            add(residual, &quantised_linear(x, &w, bias.as_ref())?)
        }
    }
}

/// How many rows there are in an `x` of this layout, if `weight` takes them.
fn checked(weight: &QuantisedWeight, x: &Layout) -> Result<usize> {
    let found = x.dims().last().copied();
    if found != Some(weight.inputs) {
        bail!(
            "quantised linear: the weight takes rows of {}, found {:?}",
            weight.inputs,
            x.dims()
        )
    }
    Ok(x.shape().elem_count() / weight.inputs.max(1))
}

/// dX of `x·W`.
fn input_gradient(weight: &QuantisedWeight, x: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
    let w = weight.rows(DType::F32, &Device::Cpu)?;
    let layout = WeightLayout::OutIn;
    Ok(Linear { layout }.backward(x, &w, g)?.0)
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
        let rows = checked(&self.weight, x_layout)?;
        let bias = self.bias.as_ref().map(Operand::of);
        let bias = bias.as_ref().map(Operand::elements).transpose()?;
        let outputs = self.weight.blocks.dims()[0];
        let y = bias.map(|bias| biased(&bias, rows, outputs));
        let y = self.weight.project(y, &elements(x, x_layout)?, rows)?;
        let mut shape = x_layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        output(y, shape)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        input_gradient(&self.weight, x, g)
    }
}

struct QuantisedAdd {
    weight: QuantisedWeight,
    bias: Option<Tensor>,
}

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
        let rows = checked(&self.weight, x_layout)?;
        let residual = elements(residual, residual_layout)?;
        if residual.len() != rows * self.weight.blocks.dims()[0] {
            bail!(
                "quantised linear_add: a weight {:?} takes a residual with as many rows as {:?}, found {:?}",
                self.weight.shape(),
                x_layout.dims(),
                residual_layout.dims()
            )
        }
        let y = match &self.bias {
            Some(bias) => residual_and_bias(&residual, &Operand::of(bias).elements()?),
            None => residual.into_owned(),
        };
        let y = self
            .weight
            .project(Some(y), &elements(x, x_layout)?, rows)?;
        output(y, residual_layout.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        residual: &Tensor,
        _y: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = input_gradient(&self.weight, x, g)?;
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
    use crate::{GradientSums, Recording, backward_keeping};

    /// The oracle is the layer over the dequantised weight, as `[out, in]`: values and gradients to the last bit, in f32 and in half precision.
    #[test]
    fn value_and_gradients_are_the_bits_of_the_dequantised_weight() {
        let mut rng = TestRng::new(1);
        for kind in [
            GgmlDType::Q4K,
            GgmlDType::Q8_0,
            GgmlDType::Q4_0,
            GgmlDType::BF16,
        ] {
            let matrix = rng.tensor(&[24, 256]);
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                let matrix = match layout {
                    WeightLayout::OutIn => matrix.clone(),
                    WeightLayout::InOut => matrix.t().unwrap(),
                };
                let weight = QuantisedWeight::of(&matrix, kind, layout).unwrap();
                for dtype in [DType::F32, DType::BF16] {
                    let mut var = |shape: &[usize]| {
                        Var::from_tensor(&rng.tensor(shape).to_dtype(dtype).unwrap()).unwrap()
                    };
                    let (x, residual) = (var(&[5, 256]), var(&[5, 24]));
                    let bias = var(&[24]).as_detached_tensor();
                    let w = weight.dequantize(dtype, &Device::Cpu).unwrap();
                    assert_eq!(w.shape(), &weight.shape());
                    let w = match layout {
                        WeightLayout::OutIn => w,
                        WeightLayout::InOut => w.t().unwrap().contiguous().unwrap(),
                    };
                    let as_read = WeightLayout::OutIn;
                    for form in 0..4 {
                        let _recording = Recording::start();
                        let ours = match form {
                            0 => quantised_linear(&x, &weight, None),
                            1 => quantised_linear(&x, &weight, Some(&bias)),
                            2 => quantised_linear_add(&residual, &x, &weight, None),
                            _ => quantised_linear_add(&residual, &x, &weight, Some(&bias)),
                        };
                        let theirs = match form {
                            0 => linear(&x, &w, as_read, None),
                            1 => linear(&x, &w, as_read, Some(&bias)),
                            2 => linear_add(&residual, &x, &w, as_read, None),
                            _ => linear_add(&residual, &x, &w, as_read, Some(&bias)),
                        };
                        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
                        let what = format!("{kind:?} {layout:?} {dtype:?} {form}");
                        assert_eq!(flat(&ours), flat(&theirs), "{what}");
                        let gradients = |y: &Tensor| {
                            let loss = y.sqr().unwrap().sum_all().unwrap();
                            let all = backward_keeping(&loss, &mut GradientSums::new()).unwrap();
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
