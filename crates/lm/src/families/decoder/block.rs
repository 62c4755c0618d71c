//! A block of a decoder.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use rlhf_ops::{AttentionConfig, WeightLayout};

use super::convolution::ShortConvolution;
use super::delta_net::DeltaNet;
use super::experts::Experts;
use super::{Activation, Decoder, HeadNorms, Layer, Mixer};
use crate::Result;
use crate::attend::{Attend, Qkv};
use crate::linear::Linear;
use crate::norm::RmsNorm;

/// Attention, then the MLP, each added to the residual stream.
pub(super) struct Block {
    around_attention: Residual,
    mixing: Mixing,
    around_mlp: Residual,
    mlp: FeedForward,
}

/// How tokens look at each other.
enum Mixing {
    Attention(Attention),
    Convolution(ShortConvolution),
    DeltaNet(DeltaNet),
}

/// What comes after that.
enum FeedForward {
    Mlp(Mlp),
    Experts(Experts),
}

impl Block {
    pub(super) fn new(decoder: &Decoder, layer: &Layer, vb: VarBuilder<'_>) -> Result<Self> {
        let attention = decoder.attention(layer);
        Ok(Self {
            around_attention: Residual::new(decoder, decoder.block_norms.attention, &vb)?,
            mixing: match layer.mixer {
                Mixer::Attention => {
                    Mixing::Attention(Attention::new(decoder, attention, vb.pp("self_attn"))?)
                }
                Mixer::Convolution { taps } => {
                    Mixing::Convolution(ShortConvolution::new(decoder, taps, vb.pp("conv"))?)
                }
                Mixer::DeltaNet { heads, taps } => {
                    let vb = vb.pp("linear_attn");
                    Mixing::DeltaNet(DeltaNet::new(decoder, (heads, taps), vb)?)
                }
            },
            around_mlp: Residual::new(decoder, decoder.block_norms.mlp, &vb)?,
            mlp: match decoder.mixture.filter(|_| layer.experts) {
                Some(mixture) => FeedForward::Experts(Experts::new(decoder, mixture, vb)?),
                None => FeedForward::Mlp(Mlp::new(decoder, vb.pp(decoder.naming.mlp))?),
            },
        })
    }

    /// Whether it has experts.
    pub(super) fn has_experts(&self) -> bool {
        matches!(self.mlp, FeedForward::Experts(_))
    }

    /// `turn` is cosine and sine of the rotary embedding, where the layer has one. The second result is the load of its experts, where it has some
    /// and `wants_loads`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        turn: Option<&(Tensor, Tensor)>,
        layer: usize,
        attend: &mut Attend<'_>,
        wants_loads: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let normed = self.around_attention.enter(x)?;
        let (seen, out) = match &self.mixing {
            Mixing::Attention(attention) => {
                let seen = attention.forward(&normed, turn, layer, attend)?;
                (seen, &attention.out)
            }
            Mixing::Convolution(convolution) => {
                let seen = convolution.forward(&normed, layer, attend)?;
                (seen, &convolution.out)
            }
            Mixing::DeltaNet(net) => (net.forward(&normed, layer, attend)?, &net.out),
        };
        let x = self.around_attention.add(x, out, &seen)?;
        let normed = self.around_mlp.enter(&x)?;
        match &self.mlp {
            FeedForward::Mlp(mlp) => {
                let inner = mlp.forward(&normed)?;
                Ok((self.around_mlp.add(&x, &mlp.down, &inner)?, None))
            }
            FeedForward::Experts(experts) => {
                let (y, loads) = experts.forward(&normed, wants_loads)?;
                Ok((self.around_mlp.add_plain(&x, &y)?, loads))
            }
        }
    }
}

/// `x + after(out(f(before(x))))`, where the norms may be absent, or without the one after it `x + factor · out(f(before(x)))`.
struct Residual {
    before: Option<RmsNorm>,
    after: Option<RmsNorm>,
    factor: f64,
}

impl Residual {
    fn new(
        decoder: &Decoder,
        [before, after]: [Option<&str>; 2],
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let norm = |name| decoder.norm(decoder.size.hidden, vb.pp::<&str>(name));
        Ok(Self {
            before: before.map(norm).transpose()?,
            after: after.map(norm).transpose()?,
            factor: decoder.residual_factor,
        })
    }

    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        match &self.before {
            Some(norm) => norm.forward(x),
            None => Ok(x.clone()),
        }
    }

    fn add(&self, x: &Tensor, out: &Linear, y: &Tensor) -> Result<Tensor> {
        let Some(norm) = &self.after else {
            return out.forward_add_scaled(x, y, self.factor);
        };
        let y = norm.forward(&out.forward(y)?)?;
        Ok((x + y)?)
    }

    /// [`add`](Self::add) of what has no projection out.
    fn add_plain(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        Ok(match &self.after {
            Some(norm) => (x + norm.forward(y)?)?,
            None if self.factor == 1.0 => (x + y)?,
            None => (x + (y * self.factor)?)?,
        })
    }
}

/// The projections into attention.
enum QkvProjection {
    Apart(Linear, Linear, Linear),
    Fused { qkv: Linear, kv_heads: usize },
}

struct Attention {
    qkv: QkvProjection,
    out: Linear,
    /// Of the queries and of the keys.
    norms: Option<(RmsNorm, RmsNorm)>,
    config: AttentionConfig,
    /// Whether the projection of the queries has a gate beside each.
    gated: bool,
}

impl Attention {
    fn new(decoder: &Decoder, config: AttentionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (size, biases) = (decoder.size, decoder.biases);
        let (queries, keys) = (size.heads * size.head_dim, size.kv_heads * size.head_dim);
        let linear = |inputs, outputs, bias, name: &str| {
            let std = size.initializer_range;
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb.pp(name))
        };
        let norm = |width, name| decoder.norm(width, vb.pp::<&str>(name));
        let [of_q, of_k] = decoder.naming.head_norms;
        let gated = decoder.gated_attention;
        let asked = if gated { 2 * queries } else { queries };
        Ok(Self {
            qkv: match decoder.fused {
                true => QkvProjection::Fused {
                    qkv: linear(size.hidden, queries + 2 * keys, biases.qkv, "qkv_proj")?,
                    kv_heads: size.kv_heads,
                },
                false => QkvProjection::Apart(
                    linear(size.hidden, asked, biases.qkv, "q_proj")?,
                    linear(size.hidden, keys, biases.qkv, "k_proj")?,
                    linear(size.hidden, keys, biases.qkv, "v_proj")?,
                ),
            },
            out: linear(queries, size.hidden, biases.out, decoder.naming.out)?,
            norms: match decoder.head_norms {
                HeadNorms::None => None,
                HeadNorms::Each => Some((norm(size.head_dim, of_q)?, norm(size.head_dim, of_k)?)),
                HeadNorms::All => Some((norm(queries, of_q)?, norm(keys, of_k)?)),
            },
            config,
            gated,
        })
    }

    /// What each token saw, `[T, Hq·D]`, before the projection out.
    fn forward(
        &self,
        x: &Tensor,
        turn: Option<&(Tensor, Tensor)>,
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let (mut q, mut k, v) = match &self.qkv {
            QkvProjection::Apart(q, k, v) => (q.forward(x)?, k.forward(x)?, v.forward(x)?),
            QkvProjection::Fused { qkv, kv_heads } => {
                rlhf_ops::attention_parts(&qkv.forward(x)?, *kv_heads, self.config.head_dim)?
            }
        };
        let mut gate = None;
        if self.gated {
            let (own, beside) = self.halves(&q)?;
            (q, gate) = (own, Some(beside));
        }
        if let Some((q_norm, k_norm)) = &self.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        if let Some((cos, sin)) = turn {
            q = rlhf_ops::rope(&q, cos, sin, self.config.head_dim)?;
            k = rlhf_ops::rope(&k, cos, sin, self.config.head_dim)?;
        }
        let seen = attend.attention(layer, Qkv::Apart(&q, &k, &v), self.config)?;
        match gate {
            Some(gate) => Ok((seen * candle_nn::ops::sigmoid(&gate)?)?),
            None => Ok(seen),
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

/// The projections into the MLP.
enum GateUp {
    Apart(Linear, Linear),
    Fused(Linear),
}

/// `down(act(gate(x)) ∘ up(x))` (Shazeer 2020).
struct Mlp {
    gate_up: GateUp,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    fn new(decoder: &Decoder, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (decoder.size.hidden, decoder.size.intermediate);
        let linear = |inputs, outputs, name: &str| {
            let (bias, std) = (decoder.biases.mlp, decoder.size.initializer_range);
            Linear::new(inputs, outputs, WeightLayout::OutIn, bias, std, vb.pp(name))
        };
        let [gate, up, down] = decoder.naming.gate_up_down;
        Ok(Self {
            gate_up: match decoder.fused {
                true => GateUp::Fused(linear(width, 2 * inner, "gate_up_proj")?),
                false => GateUp::Apart(linear(width, inner, gate)?, linear(width, inner, up)?),
            },
            down: linear(inner, width, down)?,
            activation: decoder.activation,
        })
    }

    /// What goes into `down`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = match &self.gate_up {
            GateUp::Apart(gate, up) => (gate.forward(x)?, up.forward(x)?),
            GateUp::Fused(both) => {
                let both = both.forward(x)?;
                let inner = both.dim(1)? / 2;
                (both.narrow(1, 0, inner)?, both.narrow(1, inner, inner)?)
            }
        };
        gated(self.activation, &gate, &up)
    }
}

/// `act(gate) ∘ up`.
pub(super) fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => rlhf_ops::swiglu(gate, up)?,
        Activation::GeluTanh => (rlhf_ops::gelu_tanh(gate)? * up)?,
    })
}
