//! Operands of kernels as rows.

use candle_core::{Result, Tensor};

/// `[.., width]` as `count` rows of consecutive elements, `stride` elements apart: the tensor itself where it is stored so, else a copy.
pub(crate) struct Rows {
    pub(crate) tensor: Tensor,
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

impl Rows {
    pub(crate) fn of(x: &Tensor) -> Result<Self> {
        let x = x.detach();
        let Some((&width, leading)) = x.dims().split_last() else {
            let tensor = x.contiguous()?;
            return Ok(Self {
                tensor,
                count: 1,
                width: 1,
                stride: 1,
            });
        };
        let count = leading.iter().product();
        let strided = x.stride().last() == Some(&1) || width <= 1;
        // The leading dimensions are one where each steps over the whole of the next.
        let one = (1..leading.len())
            .all(|i| leading[i - 1] == 1 || x.stride()[i - 1] == leading[i] * x.stride()[i]);
        let stride = leading
            .len()
            .checked_sub(1)
            .map_or(width, |i| x.stride()[i]);
        let (tensor, stride) = match strided && one {
            true => (x, stride),
            false => (x.contiguous()?, width),
        };
        Ok(Self {
            tensor,
            count,
            width,
            stride,
        })
    }
}
