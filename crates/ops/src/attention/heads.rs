//! Views of heads: where those of queries, keys and values lie, and where those of results are written.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{CpuStorage, Layout as Strides, Result};

use crate::cpu::buffer::SharedMut;
use crate::cpu::matrix::{Matrix, Target};
use crate::cpu::operand::{Operand, elements};

/// The sizes of an attention: query heads, key heads, and the elements of one head.
#[derive(Clone, Copy)]
pub(crate) struct HeadShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) d: usize,
}

impl HeadShape {
    /// Query heads that share a key head.
    pub(super) fn group(self) -> usize {
        self.heads / self.kv_heads
    }
}

/// The heads of a matrix `[T, ..]`, those of a token side by side, read in place: also from the columns of a fused projection.
pub(crate) struct Heads<'a> {
    data: Cow<'a, [f32]>,
    /// The column of the first head.
    first: usize,
    /// Between tokens.
    stride: usize,
    d: usize,
}

impl<'a> Heads<'a> {
    /// The heads of `d` in the columns from `first` on. A matrix whose rows are not contiguous is copied.
    pub(super) fn new(
        storage: &'a CpuStorage,
        layout: &Strides,
        first: usize,
        d: usize,
    ) -> Result<Self> {
        let (_, width) = layout.shape().dims2()?;
        Ok(match layout.stride() {
            &[stride, 1] => Self {
                data: Cow::Borrowed(&storage.as_slice::<f32>()?[layout.start_offset()..]),
                first,
                stride,
                d,
            },
            _ => Self {
                data: elements(storage, layout)?,
                first,
                stride: width,
                d,
            },
        })
    }

    pub(crate) fn of(operand: &'a Operand<'_>, d: usize) -> Result<Self> {
        Self::from(operand, 0, d)
    }

    pub(super) fn from(operand: &'a Operand<'_>, first: usize, d: usize) -> Result<Self> {
        let (storage, layout) = operand.stored()?;
        Self::new(storage, layout, first, d)
    }

    /// One head of one token.
    #[inline(always)]
    pub(crate) fn row(&self, token: usize, head: usize) -> &[f32] {
        self.adjacent(token, head..head + 1)
    }

    /// Some heads of one token, side by side.
    #[inline(always)]
    pub(crate) fn adjacent(&self, token: usize, heads: Range<usize>) -> &[f32] {
        let first = token * self.stride + self.first + heads.start * self.d;
        &self.data[first..][..heads.len() * self.d]
    }

    /// One head of several tokens, as a matrix with a row for each.
    pub(super) fn rows(&self, tokens: &Range<usize>, head: usize) -> Matrix<'_> {
        let start = if tokens.is_empty() {
            0
        } else {
            tokens.start * self.stride + self.first + head * self.d
        };
        Matrix::strided(&self.data[start..], tokens.len(), self.d, self.stride)
    }
}

/// A contiguous matrix to which tasks write heads, each task its own tokens and heads.
#[derive(Clone, Copy)]
pub(super) struct Output<'a> {
    pub(super) buffer: SharedMut<'a>,
    /// The column of the first head.
    pub(super) first: usize,
    /// Between tokens.
    pub(super) stride: usize,
    pub(super) d: usize,
}

impl<'a> Output<'a> {
    /// One head of one token.
    ///
    /// # Safety
    /// It is initialised, and nothing else accesses it meanwhile.
    pub(super) unsafe fn row(self, token: usize, head: usize) -> &'a mut [f32] {
        let first = token * self.stride + self.first + head * self.d;
        // SAFETY: the caller's promise.
        unsafe { self.buffer.slice(first, self.d) }
    }

    pub(super) fn rows(self, tokens: &Range<usize>, head: usize) -> Target<'a> {
        Target {
            buffer: self.buffer,
            at: tokens.start * self.stride + self.first + head * self.d,
            row_stride: self.stride,
        }
    }
}
