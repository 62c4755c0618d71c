//! Matrix products with sums in `f32`: cuBLAS on a CUDA device, the CPU's own product where the grid is emulated.

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::{bf16, f16};

use super::Memory;

/// Where a product goes: contiguous memory.
pub(crate) enum Destination<'a> {
    /// New memory.
    Memory(&'a mut Memory),
    /// A tensor that is changed in place: no other tensor may share its memory.
    Tensor(&'a Tensor),
}

/// `into = a·b + beta·into` from element `at` of `into` on, row-major, where `a` is `[m, k]` and `b` is `[k, n]`, either of them as it is stored or
/// transposed, of one type. `into` has that type or `f32`; with `beta` = 0 it may be unwritten.
pub(crate) fn product(
    a: &Tensor,
    b: &Tensor,
    into: Destination<'_>,
    at: usize,
    beta: f32,
) -> Result<()> {
    let ((m, k), (inner, n)) = (a.dims2()?, b.dims2()?);
    if k != inner || a.dtype() != b.dtype() {
        bail!(
            "product: {:?} {:?} by {:?} {:?}",
            a.dtype(),
            a.dims(),
            b.dtype(),
            b.dims()
        )
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    super::LAUNCHES.set(super::LAUNCHES.get() + 1);
    match a.device() {
        Device::Cpu => emulated(a, b, into, at, beta),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let [a, b] = [a, b].map(|t| Operand::of(t));
            super::cuda::product(device, [&a?, &b?], [m, n, k], &into, at, beta)
        }
        _ => bail!("product: this device has no products of ours"),
    }
}

/// `a·b` in `dtype`, the operands' own or `f32`.
pub(crate) fn new_product(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut y = Memory::new((a.dim(0)?, b.dim(1)?), dtype, a.device())?;
    product(a, b, Destination::Memory(&mut y), 0, 0.0)?;
    Ok(y.tensor())
}

/// A matrix as BLAS takes it: whether its columns are consecutive in memory, and the elements from one to the next.
#[cfg(feature = "cuda")]
pub(super) struct Operand {
    pub(super) tensor: Tensor,
    pub(super) transposed: bool,
    pub(super) stride: usize,
}

#[cfg(feature = "cuda")]
impl Operand {
    fn of(t: &Tensor) -> Result<Self> {
        let t = t.detach();
        let (rows, columns) = t.dims2()?;
        Ok(match t.stride() {
            &[stride, 1] if stride >= columns.max(1) => Self {
                stride,
                transposed: false,
                tensor: t,
            },
            &[1, stride] if stride >= rows.max(1) => Self {
                stride,
                transposed: true,
                tensor: t,
            },
            _ => Self {
                tensor: t.contiguous()?,
                transposed: false,
                stride: columns.max(1), // BLAS refuses a stride of 0, also of a matrix without elements
            },
        })
    }
}

fn emulated(a: &Tensor, b: &Tensor, into: Destination<'_>, at: usize, beta: f32) -> Result<()> {
    use crate::cpu::gemm::product as multiply;
    use crate::cpu::matrix::Matrix;
    use crate::cpu::operand::Operand;

    let ((m, k), n) = (a.dims2()?, b.dim(1)?);
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F32);
    let (a, b) = (wide(a)?, wide(b)?);
    let operands = [&a, &b].map(Operand::of);
    let [a, b] = Operand::all(&operands)?;
    let y = multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n));
    let sum = Sum { y: &y, at, beta };
    match into {
        Destination::Memory(memory) => match &mut memory.storage {
            Storage::Cpu(storage) => sum.put(storage, 0),
            _ => bail!("product: its operands lie in the host's memory, and its result does not"),
        },
        Destination::Tensor(tensor) => tensor.inplace_op1(&sum),
    }
}

/// `x_i ← y_i + beta·x_i` from element `at` on, in the host's memory.
struct Sum<'a> {
    y: &'a [f32],
    at: usize,
    beta: f32,
}

impl Sum<'_> {
    fn put(&self, storage: &mut CpuStorage, start: usize) -> Result<()> {
        match storage {
            CpuStorage::F32(x) => self.each(&mut x[start..], |x| x, |x| x),
            CpuStorage::BF16(x) => self.each(&mut x[start..], bf16::to_f32, bf16::from_f32),
            CpuStorage::F16(x) => self.each(&mut x[start..], f16::to_f32, f16::from_f32),
            _ => bail!("product: no form for {:?}", storage.dtype()),
        }
        Ok(())
    }

    fn each<T: Copy>(&self, x: &mut [T], wide: fn(T) -> f32, narrow: fn(f32) -> T) {
        for (x, &y) in x[self.at..][..self.y.len()].iter_mut().zip(self.y) {
            // What is unwritten may be NaN.
            let before = if self.beta == 0.0 {
                0.0
            } else {
                self.beta * wide(*x)
            };
            *x = narrow(y + before);
        }
    }
}

impl InplaceOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match layout.contiguous_offsets() {
            Some((start, _)) => self.put(storage, start),
            None => bail!("product: its result is not contiguous"),
        }
    }
}
