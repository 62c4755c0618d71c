//! Numbers from the device to the host and from the host to the device, counted. Training reads results here and nowhere else.

use std::cell::Cell;

use candle_core::{Device, Result, Shape, Tensor, WithDType};

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
    static UPLOADS: Cell<u64> = const { Cell::new(0) };
}

/// The elements of an `f32` tensor, row-major, in the host's memory.
///
/// The host blocks until the device has computed them, and the device then idles until it gets new work. An optimizer step therefore calls
/// this once, for all its numbers together; [`host_reads`] counts the calls, and a test checks every stage.
pub fn read_to_host(t: &Tensor) -> Result<Vec<f32>> {
    READS.set(READS.get() + 1);
    t.flatten_all()?.to_vec1()
}

/// Number of calls of [`read_to_host`] by this thread.
pub fn host_reads() -> u64 {
    READS.get()
}

/// `values`, row-major, as a tensor of this shape on `device`.
///
/// On a GPU each call is a copy of its own, which costs as much time as a launch however little it copies: what is needed at the same time goes
/// together, and is cut with `narrow`. [`host_uploads`] counts the calls.
pub fn upload<T: WithDType>(
    values: &[T],
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    UPLOADS.set(UPLOADS.get() + 1);
    if values.is_empty() {
        // CUDA refuses to allocate nothing.
        let one = Tensor::from_slice(&[T::from_f64(0.0)], 1, device)?;
        return one.narrow(0, 0, 0)?.reshape(shape.into());
    }
    Tensor::from_slice(values, shape.into(), device)
}

/// Several lists as tensors on `device`, in one [`upload`].
pub fn upload_lists<T: WithDType, const N: usize>(
    lists: [&[T]; N],
    device: &Device,
) -> Result<[Tensor; N]> {
    let all = lists.concat();
    let (all, mut from) = (upload(&all, all.len(), device)?, 0);
    let mut tensors = lists.map(|_| all.clone());
    for (tensor, list) in tensors.iter_mut().zip(lists) {
        *tensor = all.narrow(0, from, list.len())?;
        from += list.len();
    }
    Ok(tensors)
}

/// Whole numbers on a device that are uploaded only when they change: the addresses of tensors that stay where they are, and the like.
#[derive(Debug, Default)]
pub struct KeptTable(Option<Box<(Vec<i64>, Tensor)>>);

impl KeptTable {
    /// `numbers` on `device`: as they were uploaded, where they are the same.
    pub(crate) fn hold(&mut self, numbers: Vec<i64>, device: &Device) -> Result<Tensor> {
        if let Some(kept) = &self.0
            && kept.0 == numbers
            && kept.1.device().same_device(device)
        {
            return Ok(kept.1.clone());
        }
        let tensor = upload(&numbers, numbers.len(), device)?;
        self.0 = Some(Box::new((numbers, tensor.clone())));
        Ok(tensor)
    }
}

/// Number of uploads by this thread.
pub fn host_uploads() -> u64 {
    UPLOADS.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn elements_come_row_by_row_and_every_call_counts() {
        let t = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let before = host_reads();
        assert_eq!(read_to_host(&t.t().unwrap()).unwrap(), [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(read_to_host(&t.sum_all().unwrap()).unwrap(), [10.0]);
        assert_eq!(host_reads() - before, 2);
        let before = host_uploads();
        let t = upload(&[1u32, 2, 3, 4], (2, 2), &Device::Cpu).unwrap();
        assert_eq!(t.to_vec2::<u32>().unwrap(), [[1, 2], [3, 4]]);
        let lists: [&[u32]; 3] = [&[1, 2], &[], &[3]];
        let tensors = upload_lists(lists, &Device::Cpu).unwrap();
        assert_eq!(tensors.map(|t| t.to_vec1::<u32>().unwrap()), lists);
        assert_eq!(host_uploads() - before, 2);
    }

    #[test]
    fn a_kept_table_is_uploaded_when_it_changes() {
        let (mut table, before) = (KeptTable::default(), host_uploads());
        for (numbers, uploads) in [([1, 2], 1), ([1, 2], 1), ([1, 3], 2), ([1, 2], 3)] {
            let held = table.hold(numbers.to_vec(), &Device::Cpu).unwrap();
            assert_eq!(held.to_vec1::<i64>().unwrap(), numbers);
            assert_eq!(host_uploads() - before, uploads);
        }
    }
}
