//! Strided matrices in memory.

use std::ops::Range;

use super::buffer::SharedMut;

/// A matrix to read, with a stride for either direction.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A contiguous, row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// Rows that start `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            extent(rows, columns, row_stride) <= data.len(),
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

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn row_stride(&self) -> usize {
        self.row_stride
    }

    pub(super) fn column_stride(&self) -> usize {
        self.column_stride
    }

    /// All elements in the order of memory.
    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Whether the matrix is column-major.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub(super) fn is_transposed(&self) -> bool {
        self.column_stride != 1
    }

    /// Some of its rows.
    pub(crate) fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let first = match rows.is_empty() {
            true => 0,
            false => rows.start * self.row_stride,
        };
        Self {
            data: &self.data[first..],
            rows: rows.len(),
            ..self
        }
    }

    /// The transpose: the same elements with exchanged strides.
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

/// Where a product is written: rows that start `row_stride` apart, the first at `at`, in a buffer whose other elements may belong to
/// other threads.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) buffer: SharedMut<'a>,
    pub(crate) at: usize,
    pub(crate) row_stride: usize,
}

impl Target<'_> {
    /// The address of the element at (`row`, `column`), where `rows × columns` elements begin that are in bounds. Panics beyond the end.
    pub(super) fn pointer(
        self,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
    ) -> *mut f32 {
        let at = self.at + row * self.row_stride + column;
        self.buffer
            .pointer(at, extent(rows, columns, self.row_stride))
    }
}

/// Elements from the first of a matrix to its last.
fn extent(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * row_stride + columns
    }
}
