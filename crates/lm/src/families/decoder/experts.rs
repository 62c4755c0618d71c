//! A mixture of experts in a block of a decoder.

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use rlhf_ops::{QuantisedWeight, Routing, WeightLayout};

use super::Decoder;
use super::block::gated;
use crate::families::Mixture;
use crate::linear::normal;
use crate::{Result, quantised};

/// `y = Σ_k w_k · down_k(act(gate_k(x)) ∘ up_k(x))` over the K experts k that the router finds most likely for a token, with w the
/// softmax of its logits, over all experts or over those K, and where experts have factors times these.
pub(super) struct Experts {
    router: Tensor, // [E, H]
    scales: Option<Scales>,
    gate_up: Stack, // [E, 2·inner, H]
    down: Stack,    // [E, H, inner]
    mixture: Mixture,
    activation: super::Activation,
}

impl Experts {
    pub(super) fn new(decoder: &Decoder, mixture: Mixture, vb: VarBuilder<'_>) -> Result<Self> {
        let (names, experts, width) = (mixture.names, mixture.experts, decoder.size.hidden);
        let std = decoder.size.initializer_range;
        let stack =
            |rows, columns, name: &str| Stack::new((experts, rows, columns), name, std, &vb);
        Ok(Self {
            router: vb.get_with_hints((experts, width), names.router, normal(std))?,
            scales: match &names.beside {
                None => None,
                Some(names) => Some(Scales {
                    norm: vb.get_with_hints(width, names.router_norm, Init::Const(1.0))?,
                    factors: vb.get_with_hints(experts, names.factors, Init::Const(1.0))?,
                    epsilon: decoder.epsilon,
                }),
            },
            gate_up: stack(2 * mixture.inner, width, names.gate_up)?,
            down: stack(width, mixture.inner, names.down)?,
            mixture,
            activation: decoder.activation,
        })
    }

    /// Of `x` `[T, H]` and what the router reads of the same tokens: y, and where asked for [`loads`].
    pub(super) fn forward(
        &self,
        x: &Tensor,
        read: &Tensor,
        wants_loads: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let read = match &self.scales {
            Some(scales) => scales.normed(read)?,
            None => read.clone(),
        };
        let logits = rlhf_ops::linear(&read, &self.router, WeightLayout::OutIn, None)?;
        let logits = logits.to_dtype(DType::F32)?;
        let routing = Routing::top(&logits.detach(), self.mixture.chosen)?;
        let chosen = routing.experts(x.device())?;
        // A softmax over all, divided by its sum over some, is the softmax over these.
        let weights = match self.mixture.normalised {
            true => candle_nn::ops::softmax(&logits.gather(&chosen, 1)?, 1)?,
            false => candle_nn::ops::softmax(&logits, 1)?.gather(&chosen, 1)?,
        };
        let weights = match &self.scales {
            Some(scales) => scales.times_factors(&weights, &chosen)?,
            None => weights,
        };
        let rows = rlhf_ops::dispatch(x, &routing)?;
        let both = self.gate_up.forward(&rows, &routing)?;
        let inner = self.mixture.inner;
        let (gate, up) = (both.narrow(1, 0, inner)?, both.narrow(1, inner, inner)?);
        let inner = gated(self.activation, &gate, &up)?;
        let said = self.down.forward(&inner, &routing)?;
        let y = rlhf_ops::combine(&said, &weights.to_dtype(x.dtype())?, &routing)?;
        let loads = wants_loads.then(|| loads(&logits, &routing)).transpose()?;
        Ok((y, loads))
    }
}

/// What the router of experts beside an MLP has more.
struct Scales {
    /// The weight of the norm of what it reads, times √H.
    norm: Tensor, // [H]
    /// Of the experts.
    factors: Tensor, // [E]
    epsilon: f64,
}

impl Scales {
    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        let weight = (&self.norm / (self.norm.elem_count() as f64).sqrt())?;
        Ok(rlhf_ops::rms_norm(x, &weight, self.epsilon)?)
    }

    /// `weights` `[T, K]`, times the factors of the experts `chosen`.
    fn times_factors(&self, weights: &Tensor, chosen: &Tensor) -> Result<Tensor> {
        let factors = self.factors.to_dtype(DType::F32)?;
        let factors = factors.index_select(&chosen.flatten_all()?, 0)?;
        Ok((weights * factors.reshape(weights.shape())?)?)
    }
}

/// The probability of every expert, summed over all tokens, and below it how many tokens it got: `[2, E]`. Only the first has a gradient.
fn loads(logits: &Tensor, routing: &Routing) -> Result<Tensor> {
    let probabilities = candle_nn::ops::softmax(logits, 1)?.sum_keepdim(0)?;
    let counts: Vec<f32> = routing.counts().map(|count| count as f32).collect();
    let counts = Tensor::from_vec(counts, probabilities.shape(), logits.device())?;
    Ok(Tensor::cat(&[probabilities, counts], 0)?)
}

/// `E · Σ_e f_e·P_e`, where f is how many experts e a token got and P how likely it was, both on average over `tokens` tokens of all layers
/// together, as `transformers` has it: K where tokens are spread evenly, more where some experts get more. Fedus et al. 2022,
/// arXiv:2101.03961, equations 4 to 6, which have the mean over one layer. `loads` are those of the layers.
pub(super) fn load_balancing_loss(loads: &[Tensor], tokens: usize) -> Result<Option<Tensor>> {
    let Some(first) = loads.first() else {
        return Ok(None);
    };
    let mut sum = first.clone();
    for one in &loads[1..] {
        sum = (sum + one)?;
    }
    let mean = (sum / (loads.len() * tokens.max(1)) as f64)?;
    let (likely, got) = (mean.narrow(0, 0, 1)?, mean.narrow(0, 1, 1)?.detach());
    let experts = mean.dim(1)? as f64;
    Ok(Some(((likely * got)?.sum_all()? * experts)?))
}

/// The matrices of all experts.
enum Stack {
    Plain(Tensor),
    /// In blocks of fewer bits, frozen.
    Quantised(QuantisedWeight),
}

impl Stack {
    fn new(
        shape: (usize, usize, usize),
        name: &str,
        std: f64,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(match quantised::of(vb, name)? {
            Some(blocks) => Self::Quantised(blocks),
            None => Self::Plain(vb.get_with_hints(shape, name, normal(std))?),
        })
    }

    fn forward(&self, x: &Tensor, routing: &Routing) -> Result<Tensor> {
        Ok(match self {
            Self::Plain(weight) => rlhf_ops::expert_linear(x, weight, routing)?,
            Self::Quantised(weight) => rlhf_ops::quantised_expert_linear(x, weight, routing)?,
        })
    }
}
