//! A block of a decoder.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;

use super::attention::Attention;
use super::convolution::ShortConvolution;
use super::delta_net::DeltaNet;
use super::experts::Experts;
use super::per_layer::PerLayerStep;
use super::{Activation, Decoder, Mixer};
use crate::Result;
use crate::attend::Attend;
use crate::families::mixture::{BesideNames, Mixture};
use crate::linear::Linear;
use crate::norm::RmsNorm;

/// The factor of what a block gives, which is a constant of the model.
pub(in crate::families) const BLOCK_FACTOR: &str = "layer_scalar";

/// Attention, then the MLP, each added to the residual stream, and where a decoder has them what the input of the layer adds.
pub(super) struct Block {
    around_attention: Residual,
    mixing: Mixing,
    around_mlp: Residual,
    mlp: FeedForward,
    per_layer: Option<PerLayerStep>,
    /// Of the result.
    factor: Option<Tensor>, // [1]
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
    Both(Box<Both>),
}

impl Block {
    /// The block of this number.
    pub(super) fn new(decoder: &Decoder, number: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let layer = &decoder.layers[number];
        let per_layer = decoder
            .per_layer
            .map(|per| PerLayerStep::new(decoder, per, &vb));
        let factor =
            (decoder.block_factors).then(|| vb.get_with_hints(1, BLOCK_FACTOR, Init::Const(1.0)));
        Ok(Self {
            per_layer: per_layer.transpose()?,
            factor: factor.transpose()?,
            around_attention: Residual::new(decoder, decoder.block_norms.attention, &vb)?,
            mixing: match layer.mixer {
                Mixer::Attention => {
                    let lends = decoder.lends(number);
                    let vb = vb.pp("self_attn");
                    Mixing::Attention(Attention::new(decoder, (layer, lends), vb)?)
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
                Some(mixture) => match &mixture.names.beside {
                    None => FeedForward::Experts(Experts::new(decoder, mixture, vb)?),
                    Some(names) => {
                        FeedForward::Both(Box::new(Both::new(decoder, (mixture, names), vb)?))
                    }
                },
                None => {
                    let inner = decoder.sizes(layer).intermediate;
                    FeedForward::Mlp(Mlp::new(decoder, inner, vb.pp(decoder.naming.mlp))?)
                }
            },
        })
    }

    /// Whether it has experts.
    pub(super) fn has_experts(&self) -> bool {
        matches!(self.mlp, FeedForward::Experts(_) | FeedForward::Both(_))
    }

    /// Whether later blocks attend to its keys and values.
    pub(super) fn lends(&self) -> bool {
        matches!(&self.mixing, Mixing::Attention(attention) if attention.lends)
    }

    /// `beside` the residual stream are the input of the layer, then keys and values of an earlier one, where the decoder has them. `turn` is cosine
    /// and sine of the rotary embedding, where the layer has one. The second result are its keys and values side by side, where it lends them, or the
    /// load of its experts, where it has some and `wants_loads`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        beside: &[Tensor],
        turn: Option<&(Tensor, Tensor)>,
        layer: usize,
        attend: &mut Attend<'_>,
        wants_loads: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (input, borrowed) = beside.split_at(usize::from(self.per_layer.is_some()));
        let mut second = None;
        let normed = self.around_attention.enter(x)?;
        let (seen, out) = match &self.mixing {
            Mixing::Attention(attention) => {
                let (seen, lent) = attention.forward(&normed, borrowed, turn, layer, attend)?;
                second = lent;
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
        let mut x = match &self.mlp {
            FeedForward::Mlp(mlp) => {
                let inner = mlp.forward(&normed)?;
                self.around_mlp.add(&x, &mlp.down, &inner)?
            }
            FeedForward::Experts(experts) => {
                let (y, loads) = experts.forward(&normed, &normed, wants_loads)?;
                second = second.or(loads);
                self.around_mlp.add_plain(&x, &y)?
            }
            FeedForward::Both(both) => {
                let (y, loads) = both.forward(&normed, &x, wants_loads)?;
                second = second.or(loads);
                self.around_mlp.add_plain(&x, &y)?
            }
        };
        if let (Some(step), [input]) = (&self.per_layer, input) {
            x = step.forward(&x, input)?;
        }
        if let Some(factor) = &self.factor {
            x = x.broadcast_mul(factor)?;
        }
        Ok((x, second))
    }
}

/// `x + after(out(f(before(x))))`, where the norms may be absent, or without the one after it `x + factor · out(f(before(x)))`.
pub(super) struct Residual {
    before: Option<RmsNorm>,
    after: Option<RmsNorm>,
    factor: f64,
}

impl Residual {
    pub(super) fn new(
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

    pub(super) fn add(&self, x: &Tensor, out: &Linear, y: &Tensor) -> Result<Tensor> {
        let Some(norm) = &self.after else {
            return out.forward_add_scaled(x, y, self.factor);
        };
        let y = norm.forward(&out.forward(y)?)?;
        Ok(rlhf_ops::add(x, &y)?)
    }

    /// [`add`](Self::add) of what has no projection out.
    fn add_plain(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        Ok(match &self.after {
            Some(norm) => rlhf_ops::add(x, &norm.forward(y)?)?,
            None if self.factor == 1.0 => rlhf_ops::add(x, y)?,
            None => rlhf_ops::add(x, &(y * self.factor)?)?,
        })
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
    fn new(decoder: &Decoder, inner: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let width = decoder.size.hidden;
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

/// An MLP, and experts that read what comes before its norm: the sum of both, each normalised.
struct Both {
    mlp: Mlp,
    experts: Experts,
    after_mlp: RmsNorm,
    before: RmsNorm,
    after: RmsNorm,
}

impl Both {
    fn new(
        decoder: &Decoder,
        (mixture, names): (Mixture, &BesideNames),
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let norm = |name| decoder.norm(decoder.size.hidden, vb.pp::<&str>(name));
        let [after_mlp, before, after] = names.norms;
        let inner = decoder.size.intermediate;
        Ok(Self {
            mlp: Mlp::new(decoder, inner, vb.pp(decoder.naming.mlp))?,
            after_mlp: norm(after_mlp)?,
            before: norm(before)?,
            after: norm(after)?,
            experts: Experts::new(decoder, mixture, vb)?,
        })
    }

    /// Of the residual stream `x` and the same `normed`.
    fn forward(
        &self,
        normed: &Tensor,
        x: &Tensor,
        wants_loads: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let dense = self.mlp.down.forward(&self.mlp.forward(normed)?)?;
        let (sparse, loads) = self
            .experts
            .forward(&self.before.forward(x)?, x, wants_loads)?;
        let y = rlhf_ops::add(
            &self.after_mlp.forward(&dense)?,
            &self.after.forward(&sparse)?,
        )?;
        Ok((y, loads))
    }
}

/// `act(gate) ∘ up`.
pub(super) fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(match activation {
        Activation::Silu => rlhf_ops::swiglu(gate, up)?,
        Activation::GeluTanh => (rlhf_ops::gelu_tanh(gate)? * up)?,
    })
}
