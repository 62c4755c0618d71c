//! Weights in half precision from their masters in `f32`.

use candle_core::{DType, Result, Tensor, Var};

use crate::backend::has_kernels;
use crate::gpu::Argument::{Int, Numbers};
use crate::gpu::{Kernel, MOST_NUMBERS, addresses};

/// `EACH` of the text.
const EACH: usize = 16;
/// Numbers that a tensor has in the text.
const OF_EACH: usize = 4;

/// Sets the second of each pair to the first, rounded to nearest: on a GPU one launch for up to 120 pairs.
pub fn round_all(pairs: &[(&Var, &Var)]) -> Result<()> {
    let mut ours = Vec::new();
    for &(from, to) in pairs {
        let kernel = from.dtype() == DType::F32
            && [DType::BF16, DType::F16].contains(&to.dtype())
            && from.device().same_device(to.device())
            && has_kernels(to.device())
            && from.is_contiguous()
            && to.is_contiguous();
        match kernel {
            true => ours.push([from.as_tensor(), to.as_tensor()]),
            false => to.set(&from.as_detached_tensor().to_dtype(to.dtype())?)?,
        }
    }
    for dtype in [DType::BF16, DType::F16] {
        let of_type: Vec<_> = ours.iter().filter(|[_, to]| to.dtype() == dtype).collect();
        for pairs in of_type.chunks(MOST_NUMBERS / OF_EACH) {
            on_gpu(pairs, dtype)?;
        }
    }
    Ok(())
}

fn on_gpu(pairs: &[&[&Tensor; 2]], dtype: DType) -> Result<()> {
    let device = pairs[0][0].device();
    let kernel = Kernel::new(include_str!("kernel.h"), "round_all", dtype);
    let (mut numbers, mut blocks) = (Vec::with_capacity(OF_EACH * pairs.len()), 0);
    for [from, to] in pairs {
        let n = from.elem_count();
        numbers.extend(addresses(&[from, to], device)?);
        numbers.extend([n as i64, blocks as i64]);
        blocks += n.div_ceil(kernel.threads * EACH);
    }
    kernel.launch(device, [blocks, 1], &[Numbers(&numbers), Int(pairs.len())])
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::testing::{TestRng, kernels_run};

    /// Sizes around those of a block, more pairs than a launch takes, and both types. The oracle is candle's cast.
    #[test]
    fn the_kernel_agrees_with_casts() {
        let mut rng = TestRng::new(3);
        let masters: Vec<Var> = (0..130)
            .map(|i| [1, 2047, 2048, 2049, 5][i % 5])
            .map(|n| Var::from_tensor(&rng.tensor(&[n])).unwrap())
            .collect();
        let copies: Vec<Var> = (masters.iter().enumerate())
            .map(|(i, master)| {
                let dtype = if i % 3 == 0 { DType::F16 } else { DType::BF16 };
                Var::zeros(master.shape(), dtype, &Device::Cpu).unwrap()
            })
            .collect();
        let pairs: Vec<(&Var, &Var)> = masters.iter().zip(&copies).collect();
        let check = || {
            for (master, copy) in &pairs {
                let want = master.to_dtype(copy.dtype()).unwrap();
                let of = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(of(copy), of(&want));
            }
        };
        round_all(&pairs).unwrap();
        check();
        if kernels_run() {
            for copy in &copies {
                copy.set(&copy.zeros_like().unwrap()).unwrap();
            }
            let launches = crate::kernel_launches();
            crate::on_the_emulated_grid(rlhf_grid::launch, || round_all(&pairs).unwrap());
            assert_eq!(crate::kernel_launches() - launches, 2);
            check();
        }
    }
}
