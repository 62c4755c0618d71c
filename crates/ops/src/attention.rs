//! Causal attention over a packed stream.

mod cpu;

use std::collections::BTreeMap;

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::ops::softmax;

use crate::cpu::fused;
use crate::layout::{Block, Layout};

pub(crate) use cpu::{Heads, soften};

/// `o_t = Σ_s softmax_s(scale · q_t·k_s) v_s` over the tokens `s` that [`Layout`] lets `t` see.
///
/// `q` is `[T, Hq, D]`, `k` and `v` are `[T, Hkv, D]`, the result is `[T, Hq, D]`; `Hq` is a multiple of `Hkv` and consecutive query
/// heads share a key head (Ainslie et al. 2023). Vaswani et al. 2017, equation 1.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    check(q, k, v, layout)?;
    if fused(&[q, k, v]) {
        q.apply_op3(k, v, cpu::Attention::new(layout, scale))
    } else {
        reference(q, k, v, layout, scale)
    }
}

/// [`attention`](crate::attention) as batched products over padded blocks, blocks of like size together; scores in `f32`.
pub fn reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    let (tokens, heads, d, kv_heads) = check(q, k, v, layout)?;
    // Padding at most doubles either side of a block's rectangle.
    let mut groups: BTreeMap<(usize, usize), Vec<&Block>> = BTreeMap::new();
    for block in layout.blocks().iter().filter(|b| !b.tokens.is_empty()) {
        let (own, seen) = (block.tokens.len(), block.prefix.len() + block.tokens.len());
        groups
            .entry((own.next_power_of_two(), seen.next_power_of_two()))
            .or_default()
            .push(block);
    }
    if groups.is_empty() {
        return Ok(q.clone());
    }
    let mut outputs = Vec::new();
    let mut place = vec![0u32; tokens]; // of each token in the concatenated outputs
    let mut rows = 0;
    for blocks in groups.values() {
        let padded = Padded::new(blocks, rows, &mut place);
        rows += padded.batch * padded.own;
        outputs.push(padded.attend(q, k, v, (heads, kv_heads, d), scale)?);
    }
    let place = Tensor::from_vec(place, tokens, q.device())?;
    Tensor::cat(&outputs, 0)?.index_select(&place, 0)
}

/// Blocks of like size, as rectangles of `own` queries by `seen` keys.
struct Padded {
    batch: usize,
    own: usize,
    seen: usize,
    queries: Vec<u32>,
    keys: Vec<u32>,
    mask: Vec<f32>,
}

impl Padded {
    /// Also notes in `place` where each token's output will lie, counted from row `first`.
    fn new(blocks: &[&Block], first: usize, place: &mut [u32]) -> Self {
        let batch = blocks.len();
        let own = blocks.iter().map(|b| b.tokens.len()).max().unwrap_or(0);
        let seen = blocks
            .iter()
            .map(|b| b.prefix.len() + b.tokens.len())
            .max()
            .unwrap_or(0);
        let mut queries = vec![0u32; batch * own];
        let mut keys = vec![0u32; batch * seen];
        // Padded queries see every key: finite, and read by nobody.
        let mut mask = vec![0f32; batch * own * seen];
        for (b, block) in blocks.iter().enumerate() {
            for (i, t) in block.prefix.clone().chain(block.tokens.clone()).enumerate() {
                keys[b * seen + i] = t as u32;
            }
            for (i, t) in block.tokens.clone().enumerate() {
                queries[b * own + i] = t as u32;
                place[t] = (first + b * own + i) as u32;
                mask[(b * own + i) * seen..][..seen][block.prefix.len() + i + 1..].fill(f32::MIN);
            }
        }
        Self {
            batch,
            own,
            seen,
            queries,
            keys,
            mask,
        }
    }

    /// The outputs, `[batch · own, Hq, D]`.
    fn attend(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        (heads, kv_heads, d): (usize, usize, usize),
        scale: f64,
    ) -> Result<Tensor> {
        let Self {
            batch, own, seen, ..
        } = self;
        let group = heads / kv_heads;
        let queries = Tensor::from_vec(self.queries, batch * own, q.device())?;
        let keys = Tensor::from_vec(self.keys, batch * seen, q.device())?;
        let mask = Tensor::from_vec(self.mask, (batch, 1, 1, own, seen), q.device())?;
        let q = q
            .contiguous()?
            .index_select(&queries, 0)?
            .reshape((batch, own, kv_heads, group, d))?;
        let q =
            q.permute((0, 2, 3, 1, 4))?
                .contiguous()?
                .reshape((batch, kv_heads, group * own, d))?;
        let gather = |t: &Tensor| {
            t.contiguous()?
                .index_select(&keys, 0)?
                .reshape((batch, seen, kv_heads, d))?
                .transpose(1, 2)?
                .contiguous()
        };
        let scores = (q
            .matmul(&gather(k)?.transpose(2, 3)?.contiguous()?)?
            .to_dtype(DType::F32)?
            * scale)?;
        let scores = scores
            .reshape((batch, kv_heads, group, own, seen))?
            .broadcast_add(&mask)?;
        let weights = softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?.reshape((
            batch,
            kv_heads,
            group * own,
            seen,
        ))?;
        let out = weights
            .matmul(&gather(v)?)?
            .reshape((batch, kv_heads, group, own, d))?;
        out.permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((batch * own, heads, d))
    }
}

/// The sizes `T, Hq, D, Hkv`, or what does not fit.
fn check(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    layout: &Layout,
) -> Result<(usize, usize, usize, usize)> {
    let (tokens, heads, d) = q.dims3()?;
    let (_, kv_heads, _) = k.dims3()?;
    if k.dims() != [tokens, kv_heads, d]
        || v.dims() != k.dims()
        || kv_heads == 0
        || heads % kv_heads != 0
    {
        bail!(
            "attention: queries {:?} need keys and values [{tokens}, Hkv, {d}] with Hkv dividing {heads}, found {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        )
    }
    if layout.tokens() != tokens {
        bail!(
            "attention: the layout covers {} tokens, the queries have {tokens}",
            layout.tokens()
        )
    }
    Ok((tokens, heads, d, kv_heads))
}
