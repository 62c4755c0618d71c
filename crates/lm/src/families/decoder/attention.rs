//! The attention of a block.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, WeightLayout};

use super::{Decoder, HeadNorms, KeyValues, Layer};
use crate::attend::{Attend, Qkv};
use crate::linear::Linear;
use crate::norm::RmsNorm;
use crate::{Error, Result};

/// The projections into attention.
enum Projections {
    Apart(Linear, Linear, Linear),
    Fused {
        qkv: Linear,
        kv_heads: usize,
    },
    /// Queries, and keys that are values too.
    Tied(Linear, Linear),
    /// Queries, for the keys and values of an earlier layer.
    Queries {
        q: Linear,
        earlier: usize,
    },
}

/// Norms of heads, where there are some.
#[derive(Default)]
struct Norms {
    queries: Option<RmsNorm>,
    keys: Option<RmsNorm>,
    values: Option<RmsNorm>,
}

pub(super) struct Attention {
    projections: Projections,
    pub(super) out: Linear,
    norms: Norms,
    config: AttentionConfig,
    /// Whether the projection of the queries has a gate beside each.
    gated: bool,
    /// Whether later layers attend to its keys and values.
    pub(super) lends: bool,
}

/// What each token saw, `[T, Hq·D]`, before the projection out; and keys and values side by side, `[T, 2·Hkv·D]`, of a layer that lends them.
type Seen = (Tensor, Option<Tensor>);

impl Attention {
    pub(super) fn new(
        decoder: &Decoder,
        (layer, lends): (&Layer, bool),
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (size, biases) = (decoder.size, decoder.biases);
        let of = decoder.sizes(layer);
        let (queries, keys) = (size.heads * of.head_dim, of.kv_heads * of.head_dim);
        let linear = |inputs, outputs, bias, name: &str| {
            let std = size.initializer_range;
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb.pp(name))
        };
        let into = |outputs, name| linear(size.hidden, outputs, biases.qkv, name);
        let gated = decoder.gated_attention;
        let asked = if gated { 2 * queries } else { queries };
        let projections = match layer.keys {
            KeyValues::Apart if decoder.fused => Projections::Fused {
                qkv: into(queries + 2 * keys, "qkv_proj")?,
                kv_heads: of.kv_heads,
            },
            KeyValues::Apart => Projections::Apart(
                into(asked, "q_proj")?,
                into(keys, "k_proj")?,
                into(keys, "v_proj")?,
            ),
            KeyValues::Tied => Projections::Tied(into(asked, "q_proj")?, into(keys, "k_proj")?),
            KeyValues::Of(earlier) => Projections::Queries {
                q: into(asked, "q_proj")?,
                earlier,
            },
        };
        let widths = match decoder.head_norms {
            HeadNorms::None => None,
            HeadNorms::Each => Some([of.head_dim, of.head_dim]),
            HeadNorms::All => Some([queries, keys]),
        };
        let mut norms = Norms::default();
        if let Some([of_queries, of_keys]) = widths {
            let norm = |width, name| decoder.norm(width, vb.pp::<&str>(name));
            let [q_name, k_name] = decoder.naming.head_norms;
            norms.queries = Some(norm(of_queries, q_name)?);
            if !matches!(layer.keys, KeyValues::Of(_)) {
                norms.keys = Some(norm(of_keys, k_name)?);
            }
        }
        if decoder.value_norms {
            norms.values = Some(RmsNorm::unweighted(of.head_dim, decoder.epsilon, &vb)?);
        }
        Ok(Self {
            projections,
            out: linear(queries, size.hidden, biases.out, decoder.naming.out)?,
            norms,
            config: decoder.attention(layer),
            gated,
            lends,
        })
    }

    /// `borrowed` are the keys and values of the earlier layer that it attends to, where it does.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        borrowed: &[Tensor],
        turn: Option<&(Tensor, Tensor)>,
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Seen> {
        let (mut q, own) = match &self.projections {
            Projections::Apart(q, k, v) => (q.forward(x)?, Some((k.forward(x)?, v.forward(x)?))),
            Projections::Tied(q, k) => {
                let k = k.forward(x)?;
                (q.forward(x)?, Some((k.clone(), k)))
            }
            Projections::Queries { q, .. } => (q.forward(x)?, None),
            Projections::Fused { qkv, kv_heads } => {
                let (q, k, v) =
                    rlhf_ops::attention_parts(&qkv.forward(x)?, *kv_heads, self.config.head_dim)?;
                (q, Some((k, v)))
            }
        };
        let mut gate = None;
        if self.gated {
            let (own, beside) = self.halves(&q)?;
            (q, gate) = (own, Some(beside));
        }
        let norms = &self.norms;
        q = normed(q, norms.queries.as_ref())?;
        let turned = |x: Tensor| match turn {
            Some((cos, sin)) => Ok::<_, Error>(rlhf_ops::rope(&x, cos, sin, self.config.head_dim)?),
            None => Ok(x),
        };
        let mut lent = None;
        let seen = match (own, &self.projections) {
            (Some((k, v)), _) => {
                let mut k = normed(k, norms.keys.as_ref())?;
                let v = normed(v, norms.values.as_ref())?;
                let mut turn = turn.map(|(cos, sin)| (cos, sin));
                if self.lends {
                    (q, k, turn) = (turned(q)?, turned(k)?, None); // what is lent is rotated
                    lent = Some(Tensor::cat(&[&k, &v], 1)?);
                }
                let (q, k, v) = (&q, &k, &v);
                attend.attention(layer, Qkv::Apart { q, k, v, turn }, self.config)?
            }
            (None, Projections::Queries { earlier, .. }) => {
                let [k, v] = borrowed else {
                    return Err(Error::Invalid(format!(
                        "layer {layer} was not given the keys and values of layer {earlier}"
                    )));
                };
                attend.attention_to(*earlier, [&turned(q)?, k, v], self.config)?
            }
            (None, _) => return Err(Error::Invalid(format!("layer {layer} has no keys"))),
        };
        match gate {
            Some(gate) => Ok(((seen * candle_nn::ops::sigmoid(&gate)?)?, lent)),
            None => Ok((seen, lent)),
        }
    }

    /// The first and the second half of every head of `x` `[T, H·2D]`, `[T, H·D]` each.
    fn halves(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (tokens, width) = x.dims2()?;
        let dim = self.config.head_dim;
        let heads = x.reshape((tokens, width / dim / 2, 2 * dim))?;
        let half = |from| {
            heads
                .narrow(2, from, dim)?
                .contiguous()?
                .reshape((tokens, width / 2))
        };
        Ok((half(0)?, half(dim)?))
    }
}

/// Heads `x`, normalised where there is a norm.
fn normed(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}
