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

/// Zeroes new memory and thereby initialises it.
fn zeroed(memory: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    // SAFETY: the bytes of the slice are writable, and all-zero bytes are the f32 0.0, so every element is initialised when the slice
    // is used as one of f32; both types have one layout.
    unsafe {
        memory.as_mut_ptr().write_bytes(0, memory.len());
        &mut *(std::ptr::from_mut(memory) as *mut [f32])
    }
}

/// A new buffer: `f(i, piece)` writes the elements from `i` on. Pieces hold whole rows of `width` and are filled in parallel.
///
/// A piece is zero when `f` gets it. The thread that fills it has just zeroed it, so it lies in that core's cache; zeroing the whole
/// buffer first would be one thread's work and a second trip to memory.
pub(crate) fn fill(len: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    fill_and_sum(len, width, 0, |at, piece, _| f(at, piece)).0
}

/// [`fill`] for two buffers of one length, in the same pieces.
pub(crate) fn fill_two(
    len: usize,
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let (mut first, mut second) = (Vec::with_capacity(len), Vec::with_capacity(len));
    let (a, b) = (
        &mut first.spare_capacity_mut()[..len],
        &mut second.spare_capacity_mut()[..len],
    );
    let piece = rows_per_piece(width) * width.max(1);
    if len <= piece {
        f(0, zeroed(a), zeroed(b));
    } else {
        a.par_chunks_mut(piece)
            .zip(b.par_chunks_mut(piece))
            .enumerate()
            .for_each(|(i, (a, b))| f(i * piece, zeroed(a), zeroed(b)));
    }
    // SAFETY: the pieces cover `len` elements of either buffer, and each piece was zeroed.
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
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let mut out = Vec::with_capacity(len);
    let memory = &mut out.spare_capacity_mut()[..len];
    let mut total = vec![0.0; sums];
    let piece = rows_per_piece(width) * width.max(1);
    if len <= piece {
        f(0, zeroed(memory), &mut total);
    } else if sums == 0 {
        memory
            .par_chunks_mut(piece)
            .enumerate()
            .for_each(|(i, chunk)| f(i * piece, zeroed(chunk), &mut []));
    } else {
        let mut shares = vec![0.0; len.div_ceil(piece) * sums];
        memory
            .par_chunks_mut(piece)
            .zip(shares.par_chunks_mut(sums))
            .enumerate()
            .for_each(|(i, (chunk, share))| f(i * piece, zeroed(chunk), share));
        for share in shares.chunks(sums) {
            add(&mut total, share);
        }
    }
    // SAFETY: the pieces cover `len` elements, and each piece was zeroed.
    unsafe { out.set_len(len) }
    (out, total)
}

/// `len` zeros, written by all threads.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    fill(len, 1, |_, _| {})
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
    buffer: PhantomData<&'a mut [MaybeUninit<f32>]>,
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
    pub(crate) fn uninit(memory: &'a mut [MaybeUninit<f32>]) -> Self {
        Self {
            start: memory.as_mut_ptr().cast(),
            len: memory.len(),
            buffer: PhantomData,
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
            let copy =
                |at: usize, piece: &mut [f32]| piece.copy_from_slice(&x[at..][..piece.len()]);
            let want: Vec<f32> = (0..5)
                .map(|column| x.iter().skip(column).step_by(5).sum())
                .collect();
            let (filled, sums) = fill_and_sum(x.len(), 5, 5, |at, piece, sums| {
                copy(at, piece);
                piece.chunks_exact(5).for_each(|row| add(sums, row));
            });
            assert_eq!((&filled, &sums), (&x, &want));
            assert_eq!(fill(x.len(), 5, copy), x);
            let both = fill_two(x.len(), 5, |at, first, second| {
                copy(at, first);
                copy(at, second);
            });
            assert_eq!(both, (x.clone(), x.clone()));
            assert_eq!(sum_rows(&x, 5), want);
        }
    }

    #[test]
    fn what_is_not_written_is_zero() {
        for len in [0, 3, 2 * GRAIN + 1] {
            assert_eq!(zeros(len), vec![0.0; len]);
            let evens = fill(len, 1, |at, piece| {
                (at..at + piece.len())
                    .filter(|i| i % 2 == 0)
                    .for_each(|i| piece[i - at] = 1.0)
            });
            assert!((0..len).all(|i| evens[i] == [1.0, 0.0][i % 2]));
        }
    }

    #[test]
    #[should_panic(expected = "2 elements at 3 of 4")]
    fn a_pointer_beyond_the_end_is_refused() {
        SharedMut::new(&mut [0.0; 4]).pointer(3, 2);
    }
}
