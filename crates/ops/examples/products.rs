//! Rates of the linear layer's matrix products on this CPU, as training has them: `y = x·Wᵀ`, and in its backward pass `dX = G·W` and
//! `dW = Gᵀ·X`. Prints one JSON object a shape. `RAYON_NUM_THREADS` says how many threads, `RLHF_SIMD=avx2` what an older machine would do;
//! with the argument `bf16` the operands are rounded to it, where the machine has such products.
//!
//! `scripts/bench/products` runs it beside PyTorch and NumPy.

#![allow(clippy::print_stdout)] // what it measures is all it says

use std::time::Instant;

use candle_core::{Device, Result, Var};
use rlhf_ops::{WeightLayout, linear};

/// Rows, inputs, outputs: SmolLM2-135M's and GPT-2's layers, a few rows and many.
const SHAPES: [(usize, usize, usize); 8] = [
    (256, 576, 576),
    (256, 576, 1536),
    (1024, 576, 192),
    (1024, 576, 1536),
    (1024, 1536, 576),
    (1024, 768, 3072),
    (2048, 4096, 4096),
    (256, 576, 49152),
];

fn main() -> Result<()> {
    rlhf_ops::device::keep_freed_memory();
    rlhf_ops::set_bf16_products(std::env::args().nth(1).is_some_and(|arg| arg == "bf16"));
    for (rows, inputs, outputs) in SHAPES {
        let new = |shape| Var::randn(0f32, 1.0, shape, &Device::Cpu);
        let (x, w) = (new((rows, inputs))?, new((outputs, inputs))?);
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        let apply = || linear(x.as_tensor(), w.as_tensor(), WeightLayout::OutIn, None);
        let forward = rate(flops, || apply().map(drop))?;
        let y = apply()?;
        let backward = rate(2.0 * flops, || y.backward().map(drop))?;
        println!(
            r#"{{"rows": {rows}, "inputs": {inputs}, "outputs": {outputs}, "forward": {forward:.1}, "backward": {backward:.1}}}"#
        );
    }
    Ok(())
}

/// GFLOP/s of the fastest of several runs.
fn rate(flops: f64, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let runs = (2e10 / flops).clamp(3.0, 50.0) as usize;
    f()?;
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let begun = Instant::now();
        f()?;
        least = least.min(begun.elapsed().as_secs_f64());
    }
    Ok(flops / least / 1e9)
}
