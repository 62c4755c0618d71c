//! What the CPU kernels share: reading operands, filling buffers from several threads, and matrix products.
//!
//! Work is cut by the shape of the operands, never by the number of threads, and partial sums are added in one order:
//! results are the same bytes on any number of cores.

use std::borrow::Cow;
use std::cell::RefCell;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, StorageRef, Tensor, bail,
};
use gemm::Parallelism;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::product::Lines;
use crate::simd::vectorised;
use crate::switch::reference_only;

/// Elements a task is worth starting for, and so the size of the pieces that work is cut into.
pub(crate) const GRAIN: usize = 16 << 10;

/// Whether the fused kernels take these operands: they work on `f32` in memory.
pub(crate) fn fused(operands: &[&Tensor]) -> bool {
    !reference_only()
        && operands
            .iter()
            .all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// The elements of a stored operand in row-major order, borrowed where they already lie so.
pub(crate) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Cow<'a, [f32]>> {
    let data = storage.as_slice::<f32>()?;
    Ok(match layout.contiguous_offsets() {
        Some((start, end)) => Cow::Borrowed(&data[start..end]),
        None => {
            let mut copy = Vec::with_capacity(layout.shape().elem_count());
            gather(
                data,
                layout.start_offset(),
                layout.dims(),
                layout.stride(),
                &mut copy,
            );
            Cow::Owned(copy)
        }
    })
}

/// Appends the elements of a strided view, row by row.
fn gather(data: &[f32], start: usize, dims: &[usize], strides: &[usize], copy: &mut Vec<f32>) {
    match (dims, strides) {
        ([n], [1]) => copy.extend_from_slice(&data[start..][..*n]),
        ([n], [stride]) => copy.extend((0..*n).map(|i| data[start + i * stride])),
        ([n, dims @ ..], [stride, strides @ ..]) => {
            (0..*n).for_each(|i| gather(data, start + i * stride, dims, strides, copy))
        }
        _ => copy.push(data[start]),
    }
}

/// A tensor in memory, held for reading.
pub(crate) struct Operand<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Operand<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    pub(crate) fn stored(&self) -> Result<(&CpuStorage, &Layout)> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok((storage, self.layout)),
            _ => bail!("a CPU kernel was given a tensor on another device"),
        }
    }

    pub(crate) fn elements(&self) -> Result<Cow<'_, [f32]>> {
        let (storage, layout) = self.stored()?;
        elements(storage, layout)
    }

    /// The elements of each.
    pub(crate) fn all<const N: usize>(operands: &[Self; N]) -> Result<[Cow<'_, [f32]>; N]> {
        let mut all = [const { Cow::Borrowed([].as_slice()) }; N];
        for (elements, operand) in all.iter_mut().zip(operands) {
            *elements = operand.elements()?;
        }
        Ok(all)
    }
}

/// The precision that reference forms compute in: `f32`, or `f64` where the operand has it.
pub(crate) fn wide(t: &Tensor) -> DType {
    if t.dtype() == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// The result of a kernel's forward pass.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A gradient, in the shape of what it belongs to; none where that records no graph.
pub(crate) fn gradient(values: Vec<f32>, of: &Tensor) -> Result<Option<Tensor>> {
    if !of.track_op() {
        return Ok(None);
    }
    Tensor::from_vec(values, of.shape(), &Device::Cpu).map(Some)
}

/// Lets `f` change the elements of a contiguous tensor.
pub(crate) fn with_elements_mut(
    tensor: &Tensor,
    f: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<()> {
    struct InPlace<F>(RefCell<Option<F>>);
    impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for InPlace<F> {
        fn name(&self) -> &'static str {
            "with_elements_mut"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!(
                    "expected a contiguous tensor to change in place, found strides {:?}",
                    layout.stride()
                )
            };
            match (storage, self.0.take()) {
                (CpuStorage::F32(data), Some(f)) => f(&mut data[start..end]),
                _ => bail!("expected an f32 tensor to change in place"),
            }
        }
    }
    tensor.inplace_op1(&InPlace(RefCell::new(Some(f))))
}

/// A buffer whose every element the caller writes before it is read. Zeroing it first would be work for one thread, and on fresh memory
/// the slowest part of many a kernel.
pub(crate) fn unwritten(len: usize) -> Vec<f32> {
    let mut buffer = Vec::with_capacity(len);
    #[allow(clippy::uninit_vec)]
    // SAFETY: it has room for `len`, every bit pattern is an f32, and callers write before they read.
    unsafe {
        buffer.set_len(len)
    };
    buffer
}

/// Fills a buffer with zeros, in parallel.
pub(crate) fn clear(buffer: &mut [f32]) {
    buffer
        .par_chunks_mut(GRAIN)
        .for_each(|piece| piece.fill(0.0));
}

/// Rows of `width` that make one piece of work.
pub(crate) fn rows_per_piece(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Fills a new buffer: `f(i, piece)` writes the elements from `i` on. Pieces hold whole rows of `width` and are filled in parallel.
pub(crate) fn fill(len: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = unwritten(len);
    let piece = rows_per_piece(width) * width.max(1);
    if len <= piece {
        f(0, &mut out);
    } else {
        out.par_chunks_mut(piece)
            .enumerate()
            .for_each(|(i, chunk)| f(i * piece, chunk));
    }
    out
}

/// [`fill`] that also sums: `f(i, piece, share)` adds the piece's part to its own share of `sums` numbers; shares are added in order.
pub(crate) fn fill_and_sum(
    len: usize,
    width: usize,
    sums: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = unwritten(len);
    let mut total = vec![0.0; sums];
    let piece = rows_per_piece(width) * width.max(1);
    if len <= piece {
        f(0, &mut out, &mut total);
        return (out, total);
    }
    let share = sums.max(1);
    let mut shares = vec![0.0; len.div_ceil(piece) * share];
    out.par_chunks_mut(piece)
        .zip(shares.par_chunks_mut(share))
        .enumerate()
        .for_each(|(i, (chunk, share))| f(i * piece, chunk, share));
    for share in shares.chunks(share) {
        add(&mut total, share);
    }
    (out, total)
}

/// The sum of all rows of `x`, each of `width`.
pub(crate) fn sum_rows(x: &[f32], width: usize) -> Vec<f32> {
    let width = width.max(1);
    let sum = |rows: &[f32]| {
        let mut total = vec![0.0; width];
        rows.chunks_exact(width)
            .for_each(|row| add(&mut total, row));
        total
    };
    let piece = rows_per_piece(width) * width;
    if x.len() <= piece {
        return sum(x);
    }
    let shares: Vec<Vec<f32>> = x.par_chunks(piece).map(sum).collect();
    sum(&shares.concat())
}

vectorised! {
    /// `a += b`.
    pub(crate) fn add(a: &mut [f32], b: &[f32]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
}

/// A buffer that several threads write, each to its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: a pointer may be sent; whoever makes a slice from it promises that nobody else touches its elements.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The buffer must outlive every use of the result; callers keep both in one function.
    pub(crate) fn new(buffer: &mut [f32]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
        }
    }

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// The buffer is alive, and while the result lives no other thread reads or writes these elements.
    pub(crate) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(
            at + len <= self.len,
            "kernel: {len} elements at {at} of {}",
            self.len
        );
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// A matrix in memory, with a stride for either direction.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns`, one after another.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that start `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, columns, row_stride),
            "kernel: {rows}×{columns} by {row_stride} in {}",
            data.len()
        );
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride: 1,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn elements(&self) -> &'a [f32] {
        self.data
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn by_row(self) -> Lines<'a> {
        Lines {
            data: self.data,
            lines: self.rows,
            depth: self.columns,
            stride: self.row_stride,
            step: self.column_stride,
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn by_column(self) -> Lines<'a> {
        self.t().by_row()
    }

    /// Whether it is columns that lie one after another.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn is_transposed(&self) -> bool {
        self.column_stride != 1
    }

    /// The transpose, which costs nothing.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Where a product is written: rows that start `row_stride` apart, in a buffer that other threads may be writing elsewhere.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) buffer: Shared,
    pub(crate) at: usize,
    pub(crate) row_stride: usize,
}

/// Whether the last element of a matrix lies within `len`.
fn fits(len: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= len
}

/// Who multiplies.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Threads {
    /// The calling thread alone: it is one of many.
    One,
    /// Every thread of the pool.
    All,
}

/// `target = scale · a·b`, or `target += scale · a·b` when it is to `accumulate`.
///
/// # Safety
/// The target's buffer is alive and no other thread touches the target's rows.
pub(crate) unsafe fn multiply_into(
    target: Target,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    threads: Threads,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let Target {
        buffer,
        at,
        row_stride,
    } = target;
    assert!(
        k == b.rows && at <= buffer.len && fits(buffer.len - at, m, n, row_stride),
        "kernel: {m}×{k}×{n} into {}",
        buffer.len
    );
    #[cfg(target_arch = "x86_64")]
    if threads == Threads::All && crate::product::suits(a, b) {
        // SAFETY: the machine has the instructions; the rest is as below.
        unsafe { crate::product::multiply_into(target, a, b, scale, accumulate) }
        return;
    }
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: `Matrix` and the assertion above keep every element in bounds; the caller promises that the target is exclusive.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            buffer.start.add(at),
            1,
            row_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `target = scale · a·b` (or `+=`) into a contiguous matrix of one's own, by all threads.
pub(crate) fn multiply(
    target: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
    accumulate: bool,
) {
    let target = Target {
        buffer: Shared::new(target),
        at: 0,
        row_stride: b.columns,
    };
    // SAFETY: the buffer is borrowed exclusively for the whole call.
    unsafe { multiply_into(target, a, b, scale, accumulate, Threads::All) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_operands_are_read_in_row_major_order() {
        let x = Tensor::arange(0f32, 24.0, &Device::Cpu)
            .unwrap()
            .reshape((2, 3, 4))
            .unwrap();
        for view in [
            x.clone(),
            x.transpose(0, 2).unwrap(),
            x.narrow(1, 1, 2).unwrap(),
            x.narrow(2, 1, 2).unwrap(),
            x.narrow(0, 1, 1).unwrap(),
            x.narrow(1, 0, 1).unwrap().broadcast_as((2, 3, 4)).unwrap(),
            x.narrow(2, 0, 0).unwrap(),
        ] {
            let want = view.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(*Operand::of(&view).elements().unwrap(), *want, "{view:?}");
        }
    }

    #[test]
    fn pieces_cover_every_row_and_their_sums_add_up() {
        for rows in [0usize, 1, 7, 3 * rows_per_piece(5) + 1] {
            let x: Vec<f32> = (0..rows * 5).map(|i| (i % 7) as f32).collect();
            let (copy, sums) = fill_and_sum(x.len(), 5, 5, |at, piece, sums| {
                piece.copy_from_slice(&x[at..][..piece.len()]);
                piece.chunks_exact(5).for_each(|row| add(sums, row));
            });
            assert_eq!(copy, x);
            assert_eq!(
                fill(x.len(), 5, |at, piece| piece
                    .copy_from_slice(&x[at..][..piece.len()])),
                x
            );
            let want: Vec<f32> = (0..5)
                .map(|column| x.iter().skip(column).step_by(5).sum())
                .collect();
            assert_eq!(sums, want);
            assert_eq!(sum_rows(&x, 5), want);
        }
    }
}
