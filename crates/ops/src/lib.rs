//! Differentiable kernels: the only crate of the workspace with `unsafe`, threads and device features.
//!
//! Candle's own fused operations record no gradient and raise no error, and its composites are slow to differentiate. So every hot
//! operation of a language model's training lives here as one public function with several forms:
//!
//! - `reference::name`, plain differentiable tensor operations on any device: the specification;
//! - a fused CPU kernel with an analytic gradient, used for `f32` tensors on the CPU.
//!
//! - and, for many, a GPU kernel for `f32`, `bf16` and `f16`, whose text tests run on an emulated grid.
//!
//! Each operation is a module: one file where it is short, with formula, forms, and the test that they agree in value and gradient;
//! else a folder of `mod` (formula, dispatch, test), `reference` and `cpu`. An operation that has a GPU kernel is a folder with the kernel's
//! text in its `kernel.h`. `backend` decides which form runs, `cpu` is what the CPU kernels share, and `gpu` how kernels are launched. Results on the CPU are the
//! same bytes for any number of threads. A [`Recording`] lists what is computed for [`backward_into`], and [`recompute`] is
//! gradient checkpointing for a function of any of these operations.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use rlhf_ops::{WeightLayout, linear};
//!
//! # fn main() -> candle_core::Result<()> {
//! let x = Tensor::new(&[[1f32, 2.0]], &Device::Cpu)?;
//! let w = Var::new(&[[3f32, 4.0]], &Device::Cpu)?; // one output, two inputs
//! let y = linear(&x, &w, WeightLayout::OutIn, None)?;
//! assert_eq!(y.to_vec2::<f32>()?, [[11.0]]);
//! assert_eq!(y.backward()?.get(&w).unwrap().to_vec2::<f32>()?, [[1.0, 2.0]]);
//! # Ok(())
//! # }
//! ```
#![allow(unsafe_code)] // kernels write disjoint parts of one buffer from several threads

#[cfg(test)]
extern crate self as rlhf_ops; // the helpers of the tests are shared with those in tests/

mod adamw;
mod add;
mod apply;
mod attention;
mod backend;
mod backward;
mod categorical;
mod causal_convolution;
mod cpu;
mod decode_attention;
mod delta_rule;
pub mod device;
mod embedding;
mod experts;
mod finite;
mod gelu;
mod gpu;
mod half_products;
mod host;
mod layer_norm;
mod layout;
mod linear;
mod log_sigmoid;
mod negative_log_likelihood;
mod parallel;
pub mod ranks;
mod recompute;
mod rms_norm;
mod rope;
mod round;
mod sample;
mod softcap;
mod sums_of_squares;
mod swiglu;
mod tape;
#[cfg(test)]
mod testing;
mod token_logprobs;
mod vocabulary;

pub use adamw::{AdamWStep, AdamWTensors, adamw, adamw_all};
pub use add::add;
pub use attention::{AttentionConfig, attention, fused_attention, parts as attention_parts};
pub use backend::{
    emulate_everywhere, is_emulated, on_the_emulated_grid, reference_only, set_reference_only,
};
pub use backward::{GradientSums, TakeSum, backward_into, backward_keeping, backward_offering};
pub use categorical::{argmax, pick, softmax_weights};
pub use causal_convolution::{causal_convolution, decode_convolution};
pub use cpu::gemm::FEW_ROWS;
pub use decode_attention::{DecodeRows, decode_attention};
pub use delta_rule::{DeltaHeads, delta_states, delta_step, gated_delta_rule};
pub use embedding::embedding;
pub use experts::{Routing, combine, dispatch, expert_linear, quantised_expert_linear};
pub use finite::is_finite;
pub use gelu::{gelu_erf, gelu_tanh};
pub use gpu::{Emulator, KernelTrial, kernel_launches, try_kernels};
pub use half_products::{computes_in_f32, has_bf16_products, set_bf16_products};
pub use host::{KeptTable, host_reads, host_uploads, read_to_host, upload, upload_lists};
pub use layer_norm::layer_norm;
pub use layout::{Layout, Segment};
pub use linear::quantised::{QuantisedWeight, quantised_linear, quantised_linear_add};
pub use linear::{WeightLayout, linear, linear_add};
pub use log_sigmoid::log_sigmoid;
pub use negative_log_likelihood::negative_log_likelihood;
pub use parallel::{on_workers, parallel_map};
pub use recompute::{boundary, recompute, recompute_two};
pub use rms_norm::{rms_norm, rms_norm_around_one};
pub use rope::{rope, rope_append, rope_both};
pub use round::round_all;
pub use sample::{DrawnToken, SampleRow, Sampling, sample, samples_on_device};
pub use softcap::softcap;
pub use sums_of_squares::sums_of_squares;
pub use swiglu::swiglu;
pub use tape::Recording;
pub use token_logprobs::{TokenLogprobs, token_logprobs};

/// The same operations in plain tensor operations: differentiable, on any device, and what the fused kernels are tested against.
pub mod reference {
    pub use crate::adamw::reference as adamw;
    pub use crate::attention::reference::{attention, fused_attention};
    pub use crate::causal_convolution::reference::causal_convolution;
    pub use crate::decode_attention::reference::decode_attention;
    pub use crate::delta_rule::reference::gated_delta_rule;
    pub use crate::embedding::reference as embedding;
    pub use crate::experts::reference::{combine, dispatch, expert_linear};
    pub use crate::gelu::{reference_erf as gelu_erf, reference_tanh as gelu_tanh};
    pub use crate::layer_norm::reference as layer_norm;
    pub use crate::linear::reference::{linear, linear_add};
    pub use crate::log_sigmoid::reference as log_sigmoid;
    pub use crate::negative_log_likelihood::reference as negative_log_likelihood;
    pub use crate::rms_norm::{reference as rms_norm, reference_around_one as rms_norm_around_one};
    pub use crate::rope::reference as rope;
    pub use crate::softcap::reference as softcap;
    pub use crate::sums_of_squares::reference as sums_of_squares;
    pub use crate::swiglu::reference as swiglu;
    pub use crate::token_logprobs::reference::token_logprobs;
}
