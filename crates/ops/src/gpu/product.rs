//! Matrix products with sums in `f32`: cuBLAS on a CUDA device, the CPU's own product where the grid is emulated.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::Memory;

/// `into = a·b + beta·into` from element `at` of `into` on, row-major, where `a` is `[m, k]` and `b` is `[k, n]`, either of them as it is stored or
/// transposed, of one type. `into` has that type or `f32`; with `beta` = 0 it may be unwritten.
pub(crate) fn product(
    a: &Tensor,
    b: &Tensor,
    into: &mut Memory,
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
            super::cuda::product(device, [&a?, &b?], [m, n, k], into, at, beta)
        }
        _ => bail!("product: this device has no products of ours"),
    }
}

/// `a·b` in `dtype`, the operands' own or `f32`.
pub(crate) fn new_product(a: &Tensor, b: &Tensor, dtype: DType) -> Result<Tensor> {
    let mut y = Memory::new((a.dim(0)?, b.dim(1)?), dtype, a.device())?;
    product(a, b, &mut y, 0, 0.0)?;
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
            &[stride, 1] if stride >= columns => Self {
                stride,
                transposed: false,
                tensor: t,
            },
            &[1, stride] if stride >= rows => Self {
                stride,
                transposed: true,
                tensor: t,
            },
            _ => Self {
                tensor: t.contiguous()?,
                transposed: false,
                stride: columns,
            },
        })
    }
}

fn emulated(a: &Tensor, b: &Tensor, into: &mut Memory, at: usize, beta: f32) -> Result<()> {
    use crate::cpu::gemm::product as multiply;
    use crate::cpu::matrix::Matrix;
    use crate::cpu::operand::Operand;

    let ((m, k), n) = (a.dims2()?, b.dim(1)?);
    let wide = |t: &Tensor| t.detach().to_dtype(DType::F32);
    let (a, b) = (wide(a)?, wide(b)?);
    let operands = [&a, &b].map(Operand::of);
    let [a, b] = Operand::all(&operands)?;
    let mut y = multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n));
    if beta != 0.0 {
        let before = into.read(at, m * n)?;
        y.iter_mut().zip(before).for_each(|(y, z)| *y += beta * z);
    }
    into.write(at, &y)
}
