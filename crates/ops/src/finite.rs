//! Whether a tensor holds numbers only.

use candle_core::{CpuStorage, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::cpu::buffer::GRAIN;

/// Whether every element is finite; the dtype is the one that is stored. NaN and the infinities are not. One parallel pass over the
/// storage, for weights as they are loaded.
///
/// Whole numbers are always finite. A tensor that is not on the CPU is read to the host first.
pub fn is_finite(t: &Tensor) -> Result<bool> {
    let t = t.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("a tensor that was moved to the CPU is not there")
    };
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    Ok(match storage {
        CpuStorage::F32(x) => all(&x[range], |x| x.is_finite()),
        CpuStorage::F64(x) => all(&x[range], |x| x.is_finite()),
        CpuStorage::BF16(x) => all(&x[range], |x| x.is_finite()),
        CpuStorage::F16(x) => all(&x[range], |x| x.is_finite()),
        _ => true,
    })
}

/// Without a branch per element, so that it runs at the speed of memory.
fn all<T: Copy + Sync>(x: &[T], finite: impl Fn(T) -> bool + Sync) -> bool {
    x.par_chunks(GRAIN)
        .all(|piece| piece.iter().fold(true, |all, x| all & finite(*x)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn one_number_that_is_none_is_found_wherever_it_is_and_in_every_dtype() {
        let n = 3 * GRAIN + 1;
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let whole = |values: Vec<f32>| {
                let t = Tensor::from_vec(values, n, &Device::Cpu).unwrap();
                t.to_dtype(dtype).unwrap()
            };
            assert!(is_finite(&whole(vec![1.0; n])).unwrap());
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for place in [0, GRAIN, n - 1] {
                    let mut values = vec![1.0; n];
                    values[place] = bad;
                    assert!(!is_finite(&whole(values)).unwrap(), "{dtype:?} {place}");
                }
            }
        }
    }

    #[test]
    fn of_a_view_only_its_own_elements_are_looked_at() {
        let t = Tensor::new(&[f32::NAN, 1.0, 2.0], &Device::Cpu).unwrap();
        assert!(is_finite(&t.narrow(0, 1, 2).unwrap()).unwrap());
        assert!(is_finite(&Tensor::new(&[1u32], &Device::Cpu).unwrap()).unwrap());
    }
}
