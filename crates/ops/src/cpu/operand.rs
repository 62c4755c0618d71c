//! From tensors to slices and back.

use std::borrow::Cow;
use std::cell::RefCell;

use candle_core::{
    CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, StorageRef, Tensor, bail,
};

/// The elements of a stored operand in row-major order: borrowed where it is contiguous, else a copy.
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

/// Appends the elements of a strided view in row-major order.
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

/// A tensor whose storage is locked for reading.
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
            _ => bail!(
                "a CPU kernel was called with a tensor of another device; move it with to_device"
            ),
        }
    }

    pub(crate) fn elements(&self) -> Result<Cow<'_, [f32]>> {
        let (storage, layout) = self.stored()?;
        elements(storage, layout)
    }

    /// The elements of each operand.
    pub(crate) fn all<const N: usize>(operands: &[Self; N]) -> Result<[Cow<'_, [f32]>; N]> {
        let mut all = [const { Cow::Borrowed([].as_slice()) }; N];
        for (elements, operand) in all.iter_mut().zip(operands) {
            *elements = operand.elements()?;
        }
        Ok(all)
    }
}

/// The result of a kernel's forward pass.
pub(crate) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// The gradient of `of`, in its shape; `None` where `of` records no graph.
pub(crate) fn gradient(values: Vec<f32>, of: &Tensor) -> Result<Option<Tensor>> {
    if !of.track_op() {
        return Ok(None);
    }
    Tensor::from_vec(values, of.shape(), &Device::Cpu).map(Some)
}

/// Calls `f` with the elements of a contiguous tensor, to change in place.
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
                    "expected a contiguous tensor to change in place, found strides {:?}; copy it with contiguous()",
                    layout.stride()
                )
            };
            match (storage, self.0.take()) {
                (CpuStorage::F32(data), Some(f)) => f(&mut data[start..end]),
                _ => bail!("expected an f32 tensor to change in place; convert it with to_dtype"),
            }
        }
    }
    tensor.inplace_op1(&InPlace(RefCell::new(Some(f))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// candle's own copy of a strided view.
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
}
