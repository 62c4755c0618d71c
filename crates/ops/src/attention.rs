//! Causal attention over a packed stream.

mod cpu;
mod heads;
mod tile;

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::softmax;

use crate::cpu::{fused, wide};
use crate::layout::{Block, Layout};

pub(crate) use heads::{HeadShape, Heads};
pub(crate) use tile::soften;

/// `o_t = Σ_s softmax_s(scale · q_t·k_s) v_s` over the tokens `s` that [`Layout`] lets `t` see.
///
/// `q` is `[T, Hq·D]`, `k` and `v` are `[T, Hkv·D]`, the heads of a token side by side, each of `D = head_dim`; the result is
/// `[T, Hq·D]`. `Hq` is a multiple of `Hkv` and consecutive query heads share a key head (Ainslie et al. 2023).
/// Vaswani et al. 2017, equation 1.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    head_dim: usize,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    let shape = check(q, k, v, head_dim, layout)?;
    if fused(&[q, k, v]) {
        q.apply_op3(k, v, cpu::Attention::new(layout, shape, scale))
    } else {
        reference(q, k, v, head_dim, layout, scale)
    }
}

/// [`attention`] over one projection `[T, (Hq + 2·Hkv)·D]` that holds queries, keys and values side by side, with `Hkv = kv_heads`.
pub fn fused_attention(
    qkv: &Tensor,
    kv_heads: usize,
    head_dim: usize,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    let (q, k, v) = parts(qkv, kv_heads, head_dim)?;
    if fused(&[qkv]) {
        let shape = check(&q, &k, &v, head_dim, layout)?;
        let attention = cpu::Attention::new(layout, shape, scale);
        qkv.apply_op1(cpu::FusedAttention(attention))
    } else {
        attention(&q, &k, &v, head_dim, layout, scale)
    }
}

/// [`fused_attention`](crate::fused_attention) as [`attention`](crate::reference::attention) over its three parts.
pub fn fused_reference(
    qkv: &Tensor,
    kv_heads: usize,
    head_dim: usize,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    let (q, k, v) = parts(qkv, kv_heads, head_dim)?;
    reference(&q, &k, &v, head_dim, layout, scale)
}

/// Queries, keys and values of a projection that holds them side by side.
pub fn parts(qkv: &Tensor, kv_heads: usize, head_dim: usize) -> Result<(Tensor, Tensor, Tensor)> {
    let (_, width) = qkv.dims2()?;
    let keys = kv_heads * head_dim;
    if width <= 2 * keys {
        bail!(
            "attention: a projection of {width} columns cannot hold queries beside {kv_heads} heads of {head_dim} for keys and values"
        )
    }
    let queries = width - 2 * keys;
    Ok((
        qkv.narrow(1, 0, queries)?,
        qkv.narrow(1, queries, keys)?,
        qkv.narrow(1, queries + keys, keys)?,
    ))
}

/// [`attention`](crate::attention) as batched products over padded blocks, blocks of like size together, computed in `f32` at least.
pub fn reference(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    head_dim: usize,
    layout: &Layout,
    scale: f64,
) -> Result<Tensor> {
    let shape = check(q, k, v, head_dim, layout)?;
    let tokens = layout.tokens();
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
    let (dtype, wide) = (q.dtype(), wide(q));
    let (q, k, v) = (q.to_dtype(wide)?, k.to_dtype(wide)?, v.to_dtype(wide)?);
    let mut outputs = Vec::new();
    let mut place = vec![0u32; tokens]; // of each token in the concatenated outputs
    let mut rows = 0;
    for blocks in groups.values() {
        let padded = Padded::new(blocks, rows, &mut place);
        rows += padded.batch * padded.own;
        outputs.push(padded.attend(&q, &k, &v, shape, scale)?);
    }
    let place = Tensor::from_vec(place, tokens, q.device())?;
    Tensor::cat(&outputs, 0)?
        .index_select(&place, 0)?
        .to_dtype(dtype)
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

    /// The outputs, `[batch · own, Hq·D]`.
    fn attend(
        self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        HeadShape { heads, kv_heads, d }: HeadShape,
        scale: f64,
    ) -> Result<Tensor> {
        let Self {
            batch, own, seen, ..
        } = self;
        let group = heads / kv_heads;
        let queries = Tensor::from_vec(self.queries, batch * own, q.device())?;
        let keys = Tensor::from_vec(self.keys, batch * seen, q.device())?;
        let mask = Tensor::from_vec(self.mask, (batch, 1, 1, own, seen), q.device())?
            .to_dtype(q.dtype())?;
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
        let scores = (q.matmul(&gather(k)?.transpose(2, 3)?.contiguous()?)? * scale)?;
        let scores = scores
            .reshape((batch, kv_heads, group, own, seen))?
            .broadcast_add(&mask)?;
        let weights = softmax(&scores, D::Minus1)?.reshape((batch, kv_heads, group * own, seen))?;
        let out = weights
            .matmul(&gather(v)?)?
            .reshape((batch, kv_heads, group, own, d))?;
        out.permute((0, 3, 1, 2, 4))?
            .contiguous()?
            .reshape((batch * own, heads * d))
    }
}

/// The heads, or what does not fit.
fn check(q: &Tensor, k: &Tensor, v: &Tensor, d: usize, layout: &Layout) -> Result<HeadShape> {
    let ((tokens, queries), (_, keys)) = (q.dims2()?, k.dims2()?);
    if d == 0
        || keys == 0
        || !keys.is_multiple_of(d)
        || !queries.is_multiple_of(keys)
        || k.dims() != [tokens, keys]
        || v.dims() != k.dims()
    {
        bail!(
            "attention: queries {:?} need keys and values [{tokens}, Hkv·{d}] whose heads divide theirs, found {:?} and {:?}",
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
    Ok(HeadShape {
        heads: queries / d,
        kv_heads: keys / d,
        d,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, assert_close, flat, hold};

    /// Own and prefix lengths: `(0, n)` stands alone, `(k, n)` continues the `k`th block, counted from 1.
    fn layout(blocks: &[(usize, usize)]) -> Layout {
        let mut out: Vec<Block> = Vec::new();
        for &(of, len) in blocks {
            let start = out.last().map_or(0, |b| b.tokens.end);
            let prefix = if of == 0 {
                0..0
            } else {
                out[of - 1].tokens.clone()
            };
            out.push(Block {
                tokens: start..start + len,
                prefix,
            });
        }
        Layout::new(out).unwrap()
    }

    fn layouts() -> Vec<Vec<(usize, usize)>> {
        let mut all = vec![
            vec![(0, 1)],
            vec![(0, 5)],
            vec![(0, 3), (0, 1), (0, 0), (0, 6)],
            vec![(0, 4), (1, 3), (1, 1), (1, 0), (1, 5)],
            vec![(0, 2), (0, 3), (1, 4), (2, 2), (1, 1)],
            // Longer than a tile, alone and over a prefix.
            vec![(0, 130), (0, 2), (0, 1), (0, 3)],
            vec![(0, 70), (1, 66), (1, 2)],
        ];
        all.extend((1..=8).map(|k| [vec![(0, 6)], vec![(1, 3); k]].concat()));
        all
    }

    /// Holds attention over `heads` query heads of `d` that share `kv_heads` key heads to its reference.
    fn agrees(
        chance: &mut Chance,
        blocks: &[(usize, usize)],
        (heads, kv_heads, d): (usize, usize, usize),
        scale: f64,
    ) {
        let layout = layout(blocks);
        let t = layout.tokens();
        let operands = [heads, kv_heads, kv_heads].map(|h| chance.tensor(&[t, h * d]));
        hold(
            &format!("attention {blocks:?} of {heads}/{kv_heads} heads of {d}"),
            &operands,
            |x| attention(&x[0], &x[1], &x[2], d, &layout, scale),
            &|x| reference(&x[0], &x[1], &x[2], d, &layout, scale),
        );
    }

    #[test]
    fn agrees_with_the_reference_and_finite_differences_on_every_kind_of_layout() {
        let mut chance = Chance::new(1);
        for blocks in layouts() {
            agrees(&mut chance, &blocks, (4, 2, 16), 0.3);
        }
    }

    #[test]
    fn agrees_on_random_layouts() {
        let mut chance = Chance::new(7);
        for _ in 0..24 {
            let mut blocks = Vec::new();
            let mut roots = Vec::new();
            for i in 0..1 + chance.below(7) {
                let len = [0, 1, 2, 3, 17, 80][chance.below(6)];
                let of = if roots.is_empty() || chance.below(2) == 0 {
                    0
                } else {
                    roots[chance.below(roots.len())]
                };
                if of == 0 && len > 0 {
                    roots.push(i + 1);
                }
                blocks.push((of, len));
            }
            let (kv_heads, d) = (1 + chance.below(3), 1 + chance.below(40));
            let heads = kv_heads * (1 + chance.below(3));
            agrees(&mut chance, &blocks, (heads, kv_heads, d), 0.2);
        }
    }

    #[test]
    fn agrees_for_every_head_size_and_ratio_of_heads() {
        let mut chance = Chance::new(2);
        for sizes in [
            (1, 1, 1),
            (3, 3, 16),
            (6, 2, 20),
            (4, 1, 33),
            (8, 2, 64),
            (2, 2, 128),
        ] {
            agrees(&mut chance, &[(0, 5), (1, 3), (1, 4), (0, 2)], sizes, 0.5);
        }
    }

    #[test]
    fn a_fused_projection_gives_what_its_parts_give() {
        let layout = layout(&[(0, 5), (1, 3), (0, 0), (0, 70)]);
        let t = layout.tokens();
        let mut chance = Chance::new(3);
        for (heads, kv_heads, d) in [(3, 3, 16), (4, 2, 5), (6, 1, 32)] {
            let operands = [chance.tensor(&[t, (heads + 2 * kv_heads) * d])];
            hold(
                &format!("fused attention of {heads}/{kv_heads} heads of {d}"),
                &operands,
                |x| fused_attention(&x[0], kv_heads, d, &layout, 0.25),
                &|x| fused_reference(&x[0], kv_heads, d, &layout, 0.25),
            );
        }
    }

    #[test]
    fn reads_strided_rows_in_place_and_transposes_through_a_copy() {
        let layout = layout(&[(0, 5), (1, 3)]);
        let operands = [
            Chance::new(3).tensor(&[8, 96]),
            Chance::new(4).tensor(&[32, 8]),
        ];
        let part = |x: &Tensor, i: usize| x.narrow(1, i * 32, 32);
        hold(
            "attention of strided operands",
            &operands,
            |x| {
                attention(
                    &part(&x[0], 0)?,
                    &part(&x[0], 2)?,
                    &x[1].t()?,
                    16,
                    &layout,
                    0.25,
                )
            },
            &|x| {
                reference(
                    &part(&x[0], 0)?,
                    &part(&x[0], 2)?,
                    &x[1].t()?,
                    16,
                    &layout,
                    0.25,
                )
            },
        );
    }

    /// Brute force in f64, straight from the definition.
    #[test]
    fn the_reference_is_the_definition() {
        let mut chance = Chance::new(4);
        for blocks in layouts() {
            let layout = layout(&blocks);
            let (t, heads, kv_heads, d) = (layout.tokens(), 4, 2, 3);
            let [q, k, v] = [heads, kv_heads, kv_heads].map(|h| chance.tensor(&[t, h * d]));
            let (qs, ks, vs) = (flat(&q), flat(&k), flat(&v));
            let mut want = Vec::new();
            for block in layout.blocks() {
                for token in block.tokens.clone() {
                    for head in 0..heads {
                        let at = |x: usize| (x * kv_heads + head / 2) * d;
                        let seen: Vec<usize> = block
                            .prefix
                            .clone()
                            .chain(block.tokens.start..=token)
                            .collect();
                        let weight = |s: usize| {
                            (0..d)
                                .map(|i| qs[(token * heads + head) * d + i] * ks[at(s) + i])
                                .sum::<f64>()
                                .exp()
                        };
                        let total: f64 = seen.iter().map(|&s| weight(s)).sum();
                        want.extend((0..d).map(|i| {
                            (seen.iter().map(|&s| weight(s) * vs[at(s) + i]).sum::<f64>() / total)
                                as f32
                        }));
                    }
                }
            }
            let want = Tensor::from_vec(want, (t, heads * d), q.device()).unwrap();
            assert_close(
                &reference(&q, &k, &v, d, &layout, 1.0).unwrap(),
                &want,
                1e-5,
                &format!("{blocks:?}"),
            );
        }
    }

    /// Scores in the thousands must not overflow, nor other blocks' values leak in.
    #[test]
    fn large_scores_and_foreign_values_do_no_harm() {
        let layout = layout(&[(0, 3), (0, 3)]);
        let mut chance = Chance::new(5);
        let [q, k, v] = [16, 16, 16].map(|width| chance.tensor(&[6, width]));
        let q = (q * 1e4).unwrap();
        let alone = attention(&q, &k, &v, 8, &layout, 1.0)
            .unwrap()
            .narrow(0, 0, 3)
            .unwrap();
        let poison = Tensor::cat(
            &[
                v.narrow(0, 0, 3).unwrap(),
                (v.narrow(0, 3, 3).unwrap() * f64::NAN).unwrap(),
            ],
            0,
        )
        .unwrap();
        let beside = attention(&q, &k, &poison, 8, &layout, 1.0)
            .unwrap()
            .narrow(0, 0, 3)
            .unwrap();
        assert!(flat(&alone).iter().all(|x| x.is_finite()));
        assert_eq!(flat(&alone), flat(&beside));
    }

    #[test]
    fn a_layout_of_another_length_is_refused() {
        let x = Chance::new(6).tensor(&[4, 2]);
        assert!(attention(&x, &x, &x, 2, &layout(&[(0, 3)]), 1.0).is_err());
    }
}
