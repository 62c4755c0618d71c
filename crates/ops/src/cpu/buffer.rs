//! New buffers, filled and summed by several threads.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd::vectorised;

/// Elements in a piece of work: enough to be worth a task, and 64 KiB, which a second-level cache holds.
pub(crate) const GRAIN: usize = 16 << 10;

/// Rows of `width` in a piece of work.
fn rows_per_piece(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Memory of a new buffer, to be written before it is read.
///
/// Kernels write it directly: zeroing it first would cost a kernel that mostly copies a third of its time.
pub(crate) type Uninit = [MaybeUninit<f32>];

/// The same memory, initialised.
///
/// # Safety
/// Every element has been written.
pub(crate) unsafe fn assume_init(memory: &mut Uninit) -> &mut [f32] {
    // SAFETY: both slices have one layout, and the elements are initialised by the caller's promise.
    unsafe { &mut *(std::ptr::from_mut(memory) as *mut [f32]) }
}

/// Writes `$value` to element `$i` of `$out` for every `$i`; the value is the same memory, initialised.
///
/// A macro, because a closure is not always inlined, and then not compiled for the vectors of the kernel that it is written in. `$value`
/// must not leave the loop by `break` or `continue`.
macro_rules! write_each {
    ($out:expr, $i:ident => $value:expr) => {{
        let out: &mut $crate::cpu::buffer::Uninit = $out;
        for $i in 0..out.len() {
            out[$i].write($value);
        }
        // SAFETY: the loop has written every element.
        unsafe { $crate::cpu::buffer::assume_init(out) }
    }};
}
pub(crate) use write_each;

/// Copies `from`, which must be as long as the memory; the same memory, initialised.
pub(crate) fn write_copy<'a>(out: &'a mut Uninit, from: &[f32]) -> &'a mut [f32] {
    assert_eq!(out.len(), from.len(), "kernel: a copy of another length");
    // SAFETY: `from` is initialised and cannot overlap a mutable slice; the copy writes every element.
    unsafe {
        std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr().cast(), from.len());
        assume_init(out)
    }
}

/// Zeroes the memory; the same memory, initialised.
pub(crate) fn write_zeros(out: &mut Uninit) -> &mut [f32] {
    // SAFETY: all-zero bytes are the f32 0.0, and every byte is written.
    unsafe {
        out.as_mut_ptr().write_bytes(0, out.len());
        assume_init(out)
    }
}

/// The room for `len` elements of an empty vector.
pub(crate) fn room(buffer: &mut Vec<f32>, len: usize) -> &mut Uninit {
    buffer.reserve_exact(len);
    &mut buffer.spare_capacity_mut()[..len]
}

/// Panics unless `written` is the very memory of `piece`: how [`fill`] knows that a piece has been initialised.
fn check_written((start, len): (*const f32, usize), written: &[f32]) {
    assert!(
        written.as_ptr() == start && written.len() == len,
        "kernel: a piece was not written"
    );
}

/// The address and length of a piece, for [`check_written`].
fn extent(piece: &Uninit) -> (*const f32, usize) {
    (piece.as_ptr().cast(), piece.len())
}

/// A new buffer: `f(i, piece)` writes the elements from `i` on, and returns the piece as initialised memory. Pieces hold whole rows of
/// `width` and are filled in parallel.
pub(crate) fn fill(
    len: usize,
    width: usize,
    f: impl for<'p> Fn(usize, &'p mut Uninit) -> &'p mut [f32] + Sync,
) -> Vec<f32> {
    let mut out = Vec::new();
    let memory = room(&mut out, len);
    let piece = rows_per_piece(width) * width.max(1);
    let write = |i: usize, chunk: &mut Uninit| {
        let extent = extent(chunk);
        check_written(extent, f(i * piece, chunk));
    };
    if len <= piece {
        write(0, memory);
    } else {
        memory
            .par_chunks_mut(piece)
            .enumerate()
            .for_each(|(i, chunk)| write(i, chunk));
    }
    // SAFETY: the pieces cover `len` elements, and each was found written.
    unsafe { out.set_len(len) }
    out
}

/// [`fill`] for two buffers of one length, in the same pieces.
pub(crate) fn fill_two(
    len: usize,
    width: usize,
    f: impl for<'p> Fn(usize, &'p mut Uninit, &'p mut Uninit) -> (&'p mut [f32], &'p mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let (a, b) = (room(&mut first, len), room(&mut second, len));
    let piece = rows_per_piece(width) * width.max(1);
    let write = |i: usize, a: &mut Uninit, b: &mut Uninit| {
        let extents = (extent(a), extent(b));
        let written = f(i * piece, a, b);
        check_written(extents.0, written.0);
        check_written(extents.1, written.1);
    };
    if len <= piece {
        write(0, a, b);
    } else {
        a.par_chunks_mut(piece)
            .zip(b.par_chunks_mut(piece))
            .enumerate()
            .for_each(|(i, (a, b))| write(i, a, b));
    }
    // SAFETY: the pieces cover `len` elements of either buffer, and each was found written.
    unsafe {
        first.set_len(len);
        second.set_len(len);
    }
    (first, second)
}

/// [`fill`] that also sums: `f(i, piece, share)` adds the piece's part to its own share of `sums` numbers; shares are added in order.
pub(crate) fn fill_and_sum(
    len: usize,
    width: usize,
    sums: usize,
    f: impl for<'p> Fn(usize, &'p mut Uninit, &mut [f32]) -> &'p mut [f32] + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = Vec::new();
    let memory = room(&mut out, len);
    let mut total = vec![0.0; sums];
    let piece = rows_per_piece(width) * width.max(1);
    let write = |i: usize, chunk: &mut Uninit, share: &mut [f32]| {
        let extent = extent(chunk);
        check_written(extent, f(i * piece, chunk, share));
    };
    if len <= piece {
        write(0, memory, &mut total);
    } else {
        let share = sums.max(1);
        let mut shares = vec![0.0; len.div_ceil(piece) * share];
        memory
            .par_chunks_mut(piece)
            .zip(shares.par_chunks_mut(share))
            .enumerate()
            .for_each(|(i, (chunk, share))| write(i, chunk, &mut share[..sums]));
        for share in shares.chunks(share) {
            add(&mut total, share);
        }
    }
    // SAFETY: the pieces cover `len` elements, and each was found written.
    unsafe { out.set_len(len) }
    (out, total)
}

/// `len` zeros, written by all threads.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    fill(len, 1, |_, piece| write_zeros(piece))
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

/// A buffer that several threads write, each to its own elements: a pointer with bounds, valid for `'a`.
///
/// Elements of one thread may lie between those of another (tiles and heads of a matrix), so no slice can describe a thread's part.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a> {
    start: *mut f32,
    len: usize,
    buffer: PhantomData<&'a mut Uninit>,
}

// SAFETY: the pointer itself may be sent and shared; every access through it is unsafe, and its caller promises that no other thread
// accesses the same elements.
unsafe impl Send for SharedMut<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    pub(crate) fn new(buffer: &'a mut [f32]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            buffer: PhantomData,
        }
    }

    /// Memory that may be uninitialised: it must be written before it is read.
    pub(crate) fn uninit(memory: &'a mut Uninit) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            len: memory.len(),
            buffer: PhantomData,
        }
    }

    /// The elements from `at` on. Panics beyond the end.
    pub(crate) fn skip(self, at: usize) -> Self {
        Self {
            start: self.pointer(at, self.len.saturating_sub(at)),
            len: self.len - at,
            ..self
        }
    }

    /// The address of the element at `at`, of which `len` elements are in bounds. Panics beyond the end.
    pub(crate) fn pointer(self, at: usize, len: usize) -> *mut f32 {
        assert!(
            at <= self.len && len <= self.len - at,
            "kernel: {len} elements at {at} of {}",
            self.len
        );
        // SAFETY: the assertion keeps the address within the buffer.
        unsafe { self.start.add(at) }
    }

    /// `len` elements from `at` on. Panics beyond the end.
    ///
    /// # Safety
    /// These elements are initialised, and while the result lives nothing else reads or writes any of them.
    pub(crate) unsafe fn slice(self, at: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: in bounds and alive for 'a; initialised and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(at, len), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Closed form: a copy, and sums of small integers, which f32 represents exactly.
    #[test]
    fn pieces_cover_every_row_and_their_sums_add_up() {
        for rows in [0usize, 1, 7, 3 * rows_per_piece(5) + 1] {
            let x: Vec<f32> = (0..rows * 5).map(|i| (i % 7) as f32).collect();
            let want: Vec<f32> = (0..5)
                .map(|column| x.iter().skip(column).step_by(5).sum())
                .collect();
            let part = |at: usize, piece: &Uninit| &x[at..][..piece.len()];
            let (filled, sums) = fill_and_sum(x.len(), 5, 5, |at, piece, sums| {
                let piece_of_x = part(at, piece);
                piece_of_x.chunks_exact(5).for_each(|row| add(sums, row));
                write_copy(piece, piece_of_x)
            });
            assert_eq!((&filled, &sums), (&x, &want));
            let copy = fill(x.len(), 5, |at, piece| {
                let from = part(at, piece);
                write_copy(piece, from)
            });
            assert_eq!(copy, x);
            let (copy, index) = fill_two(x.len(), 5, |at, a, b| {
                let from = part(at, a);
                (write_copy(a, from), write_each!(b, i => (at + i) as f32))
            });
            assert_eq!(copy, x);
            assert!(index.iter().enumerate().all(|(i, x)| *x == i as f32));
            assert_eq!(sum_rows(&x, 5), want);
            assert_eq!(zeros(x.len()), vec![0.0; x.len()]);
        }
    }

    #[test]
    #[should_panic(expected = "a piece was not written")]
    fn a_piece_of_which_a_part_is_written_is_refused() {
        fill(3, 1, |_, piece| write_each!(&mut piece[..2], i => i as f32));
    }

    #[test]
    #[should_panic(expected = "2 elements at 3 of 4")]
    fn a_pointer_beyond_the_end_is_refused() {
        SharedMut::new(&mut [0.0; 4]).pointer(3, 2);
    }
}
