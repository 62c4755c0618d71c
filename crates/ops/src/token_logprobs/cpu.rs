//! Token log-probabilities on the CPU: logits a chunk of rows at a time, recomputed for the gradient.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::backward::sum_gradient;
use crate::cpu::operand::{Operand, gradient, output};
use crate::softcap::{cap_row, uncap_gradient};
use crate::vocabulary::{Projection, dlogits, logsumexp_entropy};

/// Log-probabilities in the first row of the result `[2, N]`, entropies in the second.
pub(super) struct Logprobs {
    targets: Vec<u32>,
    /// 1 / temperature.
    scale: f32,
    /// The cap of the logits, which are divided by the temperature already.
    cap: Option<f32>,
    /// `log Σ e^z` of each row, stored by the forward pass.
    normalisers: OnceLock<Vec<f32>>,
}

impl Logprobs {
    pub(super) fn new(targets: Vec<u32>, temperature: f64, softcap: Option<f64>) -> Self {
        Self {
            targets,
            scale: temperature.recip() as f32,
            cap: softcap.map(|cap| (cap / temperature) as f32),
            normalisers: OnceLock::new(),
        }
    }
}

impl CustomOp2 for Logprobs {
    fn name(&self) -> &'static str {
        "token_logprobs"
    }

    fn cpu_fwd(
        &self,
        h: &CpuStorage,
        h_layout: &Layout,
        vocab: &CpuStorage,
        vocab_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let projection = Projection::of((h, h_layout), (vocab, vocab_layout))?;
        let n = self.targets.len();
        let mut out = vec![0.0; 2 * n];
        let mut normalisers = vec![0.0; n];
        let (logprobs, entropies) = out.split_at_mut(n);
        projection.chunks(self.scale, |first, logits| {
            let rows = logits
                .par_chunks_mut(projection.v)
                .zip(&self.targets[first..])
                .zip(&mut normalisers[first..]);
            rows.zip(&mut logprobs[first..])
                .zip(&mut entropies[first..])
                .for_each(|((((z, &target), normaliser), logprob), entropy)| {
                    if let Some(cap) = self.cap {
                        cap_row(z, cap);
                    }
                    (*normaliser, *entropy) = logsumexp_entropy(z);
                    *logprob = z[target as usize] - *normaliser;
                });
        });
        // Already set only by an earlier forward pass of this op, to the same numbers.
        let _ = self.normalisers.set(normalisers);
        output(out, (2, n))
    }

    /// `dz_j = a·([j = target] − p_j) − b·p_j(log p_j + entropy)` for upstream `a` and `b`, times the derivative of the cap; the logits are
    /// recomputed.
    fn bwd(
        &self,
        hidden: &Tensor,
        vocab: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = self.targets.len();
        let Some(normalisers) = self.normalisers.get() else {
            bail!("token_logprobs: the backward pass ran before the forward pass")
        };
        let [h, w] = &[hidden, vocab].map(Operand::of);
        let projection = Projection::of(h.stored()?, w.stored()?)?;
        let operands = [out, g].map(Operand::of);
        let [out, g] = Operand::all(&operands)?;
        let mut dhidden = hidden.track_op().then(Vec::new);
        let mut backward = |mut dvocab: Option<&mut [f32]>| {
            projection.chunks(self.scale, |first, logits| {
                logits
                    .par_chunks_mut(projection.v)
                    .enumerate()
                    .for_each_init(Vec::new, |capped, (i, z)| {
                        let row = first + i;
                        if let Some(cap) = self.cap {
                            cap_row(z, cap);
                            capped.clear();
                            capped.extend_from_slice(z);
                        }
                        dlogits(z, normalisers[row], g[row], g[n + row], out[n + row]);
                        z[self.targets[row] as usize] += g[row];
                        if let Some(cap) = self.cap {
                            uncap_gradient(z, capped, cap);
                        }
                    });
                let dvocab = dvocab.as_deref_mut();
                projection.chunk_backward(self.scale, first, logits, dhidden.as_mut(), dvocab);
            });
        };
        let dvocab = if vocab.track_op() {
            sum_gradient(vocab, |sum| backward(Some(sum.add_to(vocab.elem_count()))))?
        } else {
            backward(None);
            None
        };
        let dhidden = match dhidden {
            Some(dhidden) => gradient(dhidden, hidden)?,
            None => None,
        };
        Ok((dhidden, dvocab))
    }
}
