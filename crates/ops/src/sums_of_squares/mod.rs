//! The squared norms of tensors.

mod gpu;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use crate::backend::{Backend, backend};
use crate::cpu::buffer::GRAIN;
use crate::cpu::operand::Operand;
use crate::cpu::simd::{sum, vectorised};

/// `Σ x²` over all elements of each of `tensors`, in `f32`, `[n]`, that stays on their device. No gradient.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else {
        return Tensor::zeros(0, DType::F32, &Device::Cpu);
    };
    match backend(tensors) {
        Backend::Fused => {
            let sums: Result<Vec<f32>> = tensors.iter().map(|t| on_cpu(t)).collect();
            Tensor::new(sums?, &Device::Cpu)
        }
        Backend::Kernel => gpu::sums_of_squares(tensors, first.device()),
        Backend::Reference => reference(tensors),
    }
}

/// [`sums_of_squares`](crate::sums_of_squares) in tensor operations.
pub fn reference(tensors: &[&Tensor]) -> Result<Tensor> {
    let squares = tensors
        .iter()
        .map(|t| t.detach().to_dtype(DType::F32)?.sqr()?.sum_all());
    Tensor::stack(&squares.collect::<Result<Vec<_>>>()?, 0)
}

fn on_cpu(t: &Tensor) -> Result<f32> {
    let t = Operand::of(t);
    let pieces: Vec<f64> = t
        .elements()?
        .par_chunks(GRAIN)
        .map(|piece| f64::from(squares(piece)))
        .collect();
    Ok(pieces.iter().sum::<f64>() as f32)
}

vectorised! {
    fn squares(x: &[f32]) -> f32 {
        sum(x, |x| x * x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, flat, kernels_run};

    fn of(t: &Tensor) -> f64 {
        flat(t).iter().map(|x| x * x).sum()
    }

    /// The sum in f64.
    #[test]
    fn equal_the_sums_in_f64_for_any_number_of_threads() {
        let mut rng = TestRng::new(1);
        let shapes: [&[usize]; 4] = [&[], &[0], &[3, 5], &[3 * GRAIN + 17]];
        let tensors = shapes.map(|shape| rng.tensor(shape));
        let all = tensors.each_ref();
        let got = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| sums_of_squares(&all).unwrap().to_vec1::<f32>().unwrap())
        };
        let plain = reference(&all).unwrap().to_vec1::<f32>().unwrap();
        for ((got, plain), t) in got(1).into_iter().zip(plain).zip(&tensors) {
            let (got, plain, want) = (f64::from(got), f64::from(plain), of(t));
            assert!((got - want).abs() <= 1e-6 * want, "{:?}", t.dims());
            assert!((plain - want).abs() <= 1e-4 * want, "{:?}", t.dims());
        }
        assert_eq!(got(1), got(3));
        assert_eq!(sums_of_squares(&[]).unwrap().dims(), [0]);
    }

    /// Of two blocks, of none, of one number, of a view: the sums in f64, in two launches, and the same bits in any order of threads.
    #[test]
    fn the_kernel_gives_the_sums_in_f64() {
        if !kernels_run() {
            return;
        }
        let mut rng = TestRng::new(2);
        let shapes: [&[usize]; 4] = [&[3000], &[0], &[], &[17, 9]];
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let tensors = shapes.map(|shape| rng.tensor(shape).to_dtype(dtype).unwrap());
            let view = tensors[3].t().unwrap().narrow(0, 2, 5).unwrap();
            let all = [&tensors[0], &tensors[1], &tensors[2], &tensors[3], &view];
            let got = |order| {
                rlhf_grid::with_order(order, || {
                    crate::on_the_emulated_grid(rlhf_grid::launch, || {
                        sums_of_squares(&all).unwrap().to_vec1::<f32>().unwrap()
                    })
                })
            };
            let before = crate::kernel_launches();
            let found = got(0);
            assert_eq!(crate::kernel_launches() - before, 2);
            assert_eq!(found, got(1));
            for (got, t) in found.into_iter().zip(all) {
                let want = of(t);
                assert!((f64::from(got) - want).abs() <= 1e-6 * want, "{dtype:?}");
            }
        }
    }

    /// In several launches, and without an upload; the sums in f64.
    #[test]
    fn more_tensors_than_addresses_come_with_a_launch_take_several() {
        if !kernels_run() {
            return;
        }
        let mut rng = TestRng::new(3);
        let tensors: Vec<Tensor> = (0..crate::gpu::MOST_NUMBERS + 3)
            .map(|i| rng.tensor(&[i % 3 * 1100]))
            .collect();
        let all: Vec<&Tensor> = tensors.iter().collect();
        let before = [crate::kernel_launches(), crate::host_uploads()];
        let found = crate::on_the_emulated_grid(rlhf_grid::launch, || sums_of_squares(&all));
        assert_eq!(crate::kernel_launches() - before[0], 3 + 2);
        assert_eq!(crate::host_uploads() - before[1], 0);
        for (got, t) in found
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
            .into_iter()
            .zip(all)
        {
            let want = of(t);
            assert!((f64::from(got) - want).abs() <= 1e-6 * want);
        }
    }
}
