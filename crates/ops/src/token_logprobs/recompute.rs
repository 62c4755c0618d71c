//! The gradient in tensor operations, for any device: each chunk's logits are computed again, so no graph keeps them.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, D, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    bail,
};
use candle_nn::ops::log_softmax;

use super::{TokenLogprobs, chunk_rows, reference};
use crate::cpu::wide;

/// [`token_logprobs`](fn@crate::token_logprobs) on any device and in any precision.
pub(super) fn token_logprobs(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
) -> Result<TokenLogprobs> {
    let TokenLogprobs { logprobs, entropy } =
        reference(&hidden.detach(), &vocab.detach(), targets, temperature)?;
    let both = Tensor::stack(&[logprobs, entropy], 0)?;
    let both = hidden.apply_op2(
        vocab,
        Recompute {
            both,
            targets: targets.clone(),
            temperature,
        },
    )?;
    Ok(TokenLogprobs {
        logprobs: both.get(0)?,
        entropy: both.get(1)?,
    })
}

/// Hands out a result that is already there, `[2, N]`, and knows its gradient.
struct Recompute {
    both: Tensor,
    targets: Tensor,
    temperature: f64,
}

impl CustomOp2 for Recompute {
    fn name(&self) -> &'static str {
        "token_logprobs"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.both.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("token_logprobs: the result is on another device than its operands"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (storage, layout) = self.both.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("token_logprobs: the result is on another device than its operands"),
        }
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let (storage, layout) = self.both.storage_and_layout();
        match &*storage {
            Storage::Metal(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("token_logprobs: the result is on another device than its operands"),
        }
    }

    /// `dz_j = a·([j = target] − p_j) − b·p_j(log p_j + entropy)` for upstream `a` and `b`.
    fn bwd(
        &self,
        hidden: &Tensor,
        vocab: &Tensor,
        both: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (hidden_records, vocab_records) = (hidden.track_op(), vocab.track_op());
        let (hidden, vocab, both, g) = (hidden.detach(), vocab.detach(), both.detach(), g.detach());
        let (n, wide) = (hidden.dim(0)?, wide(&hidden));
        let chunk = chunk_rows(vocab.dim(0)?);
        let mut dhidden = Vec::new();
        let mut dvocab = vocab.zeros_like()?.to_dtype(wide)?;
        for start in (0..n).step_by(chunk) {
            let rows = chunk.min(n - start);
            let column = |t: &Tensor, row: usize| t.get(row)?.narrow(0, start, rows)?.unsqueeze(1);
            let (a, b, entropy) = (
                column(&g, 0)?.contiguous()?,
                column(&g, 1)?,
                column(&both, 1)?,
            );
            let h = hidden.narrow(0, start, rows)?;
            let logits = h.matmul(&vocab.t()?)?.to_dtype(wide)?;
            let logp = log_softmax(&(logits / self.temperature)?, D::Minus1)?;
            let pull = logp
                .broadcast_add(&entropy)?
                .broadcast_mul(&b)?
                .broadcast_add(&a)?;
            let target = self
                .targets
                .narrow(0, start, rows)?
                .contiguous()?
                .unsqueeze(1)?;
            let dz = (logp.exp()? * pull)?.neg()?.scatter_add(&target, &a, 1)?;
            let dz = (dz / self.temperature)?.to_dtype(hidden.dtype())?;
            if hidden_records {
                dhidden.push(dz.matmul(&vocab)?);
            }
            if vocab_records {
                dvocab = (dvocab + dz.t()?.matmul(&h)?.to_dtype(wide)?)?;
            }
        }
        let dhidden = match dhidden.is_empty() {
            true if hidden_records => Some(hidden.zeros_like()?),
            true => None,
            false => Some(Tensor::cat(&dhidden, 0)?),
        };
        let dvocab = if vocab_records {
            Some(dvocab.to_dtype(vocab.dtype())?)
        } else {
            None
        };
        Ok((dhidden, dvocab))
    }
}
