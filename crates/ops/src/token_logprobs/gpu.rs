//! Token log-probabilities on a GPU: logits a chunk of rows at a time, recomputed for the gradient.

use candle_core::{DType, Result, Tensor};

use super::TokenLogprobs;
use crate::backward::sum_on_gpu;
use crate::gpu::Argument::{Float, In, Int, Out};
use crate::gpu::{Argument, BLOCK, Destination, Kernel, Memory, attach2, new_product, product};
use crate::vocabulary::even_chunk;

const TEXT: &str = include_str!("kernel.h");
const THREADS: usize = 256;

/// Rows of a chunk, of `rows` in all: about 256 MiB of logits in `f32`, enough to keep a GPU busy.
fn chunk_rows(rows: usize, vocab: usize) -> usize {
    even_chunk(rows, ((64 << 20) / vocab.max(1)).clamp(16, 4096))
}

/// The rows that are projected, and how logits are made of them.
#[derive(Clone)]
struct Head {
    targets: Tensor,
    /// 1 / temperature.
    scale: f64,
    /// The cap, divided by the temperature; 0 is none.
    cap: f64,
    dtype: DType,
}

pub(super) fn token_logprobs(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    temperature: f64,
    softcap: Option<f64>,
) -> Result<TokenLogprobs> {
    let head = Head::new(hidden, targets, temperature, softcap)?;
    let (both, normalisers) = head.forward(hidden, vocab)?;
    let both = attach2(
        "token_logprobs",
        [hidden, vocab],
        both,
        move |operands, both, g| {
            let (entropies, g) = (both.detach().get(1)?, g.detach().contiguous()?);
            head.backward(
                operands,
                [&entropies, &normalisers],
                [&g.get(0)?, &g.get(1)?],
            )
        },
    )?;
    Ok(TokenLogprobs {
        logprobs: both.get(0)?,
        entropy: both.get(1)?,
    })
}

/// `scale · Σ −log p`, whose gradient recomputes the logits, too.
pub(crate) fn negative_log_likelihood(
    hidden: &Tensor,
    vocab: &Tensor,
    targets: &Tensor,
    scale: f64,
    softcap: Option<f64>,
) -> Result<Tensor> {
    token_logprobs(hidden, vocab, targets, 1.0, softcap)?
        .logprobs
        .sum_all()?
        * -scale
}

impl Head {
    fn new(
        hidden: &Tensor,
        targets: &Tensor,
        temperature: f64,
        softcap: Option<f64>,
    ) -> Result<Self> {
        Ok(Self {
            targets: targets.contiguous()?,
            scale: temperature.recip(),
            cap: softcap.map_or(0.0, |cap| cap / temperature),
            dtype: hidden.dtype(),
        })
    }

    fn kernel(&self, name: &'static str, warps: usize) -> Kernel {
        let mut kernel = Kernel::new(TEXT, name, self.dtype);
        kernel.text = vec![BLOCK, TEXT];
        kernel.threads = THREADS;
        kernel.shared = warps * 4;
        kernel
    }

    /// Calls `f(first row, rows, z)` with the products of each chunk, in order.
    fn chunks(
        &self,
        hidden: &Tensor,
        vocab: &Tensor,
        mut f: impl FnMut(usize, usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let (n, v) = (hidden.dim(0)?, vocab.dim(0)?);
        let chunk = chunk_rows(n, v);
        for first in (0..n).step_by(chunk) {
            let rows = chunk.min(n - first);
            let z = new_product(&hidden.narrow(0, first, rows)?, &vocab.t()?, DType::F32)?;
            f(first, rows, &z)?;
        }
        Ok(())
    }

    fn arguments<'a>(&'a self, z: &'a Tensor, first: usize) -> Result<Vec<Argument<'a>>> {
        let v = z.dim(1)?;
        Ok(vec![
            In(z),
            In(&self.targets),
            Int(first),
            Int(v),
            Float(self.scale),
            Float(self.cap),
        ])
    }

    /// Log-probabilities in the first row of the result `[2, N]`, entropies in the second; and `log Σ e^x`, `[N]`.
    fn forward(&self, hidden: &Tensor, vocab: &Tensor) -> Result<(Memory, Tensor)> {
        let (hidden, vocab) = (hidden.detach(), vocab.detach());
        let (n, device) = (hidden.dim(0)?, hidden.device());
        let both = Memory::new((2, n), DType::F32, device)?;
        let normalisers = Memory::new(n, DType::F32, device)?;
        let kernel = self.kernel("row_statistics", THREADS / 32);
        self.chunks(&hidden, &vocab, |first, rows, z| {
            let mut arguments = self.arguments(z, first)?;
            arguments.extend([Out(&both), Argument::OutAt(&both, n), Out(&normalisers)]);
            kernel.launch(device, [rows, 1], &arguments)
        })?;
        Ok((both, normalisers.tensor()))
    }

    fn backward(
        &self,
        [hidden, vocab]: [&Tensor; 2],
        [entropies, normalisers]: [&Tensor; 2],
        [a, b]: [&Tensor; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let (tracked, device) = (hidden.track_op(), hidden.device());
        let (hidden, table) = (hidden.detach(), vocab.detach());
        let (n, d) = hidden.dims2()?;
        let mut dhidden = Memory::new((if tracked { n } else { 0 }, d), self.dtype, device)?;
        let kernel = self.kernel("row_gradients", 0);
        let mut all = |dtable: Option<(&Tensor, bool)>| {
            self.chunks(&hidden, &table, |first, rows, z| {
                let dz = Memory::new(z.shape(), self.dtype, device)?;
                let mut arguments = self.arguments(z, first)?;
                arguments.extend([In(a), In(b), In(entropies), In(normalisers), Out(&dz)]);
                kernel.launch(device, [rows, 1], &arguments)?;
                let dz = dz.tensor();
                if tracked {
                    let into = Destination::Memory(&mut dhidden);
                    product(&dz, &table, into, first * d, 0.0)?;
                }
                if let Some((sum, add)) = dtable {
                    let rows = hidden.narrow(0, first, rows)?;
                    let beta = if add || first > 0 { 1.0 } else { 0.0 };
                    product(&dz.t()?, &rows, Destination::Tensor(sum), 0, beta)?;
                }
                Ok(())
            })
        };
        let dtable = match vocab.track_op() {
            true => sum_on_gpu(vocab, |sum, add| match n {
                0 if !add => sum.zero_set(),
                _ => all(Some((sum, add))),
            })?,
            false => all(None).map(|()| None)?,
        };
        Ok([tracked.then(|| dhidden.tensor()), dtable])
    }
}
