//! A Gated DeltaNet in the place of attention.

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use rlhf_ops::{DeltaHeads, WeightLayout};

use super::Decoder;
use crate::Result;
use crate::attend::Attend;
use crate::linear::{Linear, normal};
use crate::norm::RmsNorm;
use crate::recurrence::Recurrence;

/// `norm(o) ∘ silu(z)`, where o is what the gated delta rule reads with queries, keys and values that went through a short convolution, and z is another
/// projection of x; `β = σ(b)` and `g = −e^A · softplus(a + dt)`. Yang et al. 2024, arXiv:2412.06464.
pub(super) struct DeltaNet {
    qkv: Linear,
    z: Linear,
    b: Linear,
    a: Linear,
    dt_bias: Tensor, // [Hv]
    a_log: Tensor,   // [Hv]
    recurrence: Recurrence,
    norm: RmsNorm,
    pub(super) out: Linear,
}

impl DeltaNet {
    pub(super) fn new(
        decoder: &Decoder,
        (heads, taps): (DeltaHeads, usize),
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let (width, std) = (decoder.size.hidden, decoder.size.initializer_range);
        let linear = |inputs, outputs, name: &str| {
            let vb = vb.pp(name);
            Linear::new(inputs, outputs, WeightLayout::OutIn, false, std, vb)
        };
        let values = heads.values * heads.value_dim;
        let channels = 2 * heads.keys * heads.key_dim + values;
        let weights = vb.get_with_hints((channels, 1, taps), "conv1d.weight", normal(std))?;
        // As `transformers` draws it: A between 0 and 16.
        let decays = Init::Uniform {
            lo: 0.0,
            up: 16f64.ln(),
        };
        Ok(Self {
            qkv: linear(width, channels, "in_proj_qkv")?,
            z: linear(width, values, "in_proj_z")?,
            b: linear(width, heads.values, "in_proj_b")?,
            a: linear(width, heads.values, "in_proj_a")?,
            dt_bias: vb.get_with_hints(heads.values, "dt_bias", Init::Const(1.0))?,
            a_log: vb.get_with_hints(heads.values, "A_log", decays)?,
            recurrence: Recurrence::new(weights.squeeze(1)?, heads, vb.device())?,
            norm: RmsNorm::new(heads.value_dim, decoder.epsilon, vb.pp("norm"))?,
            out: linear(values, width, "out_proj")?,
        })
    }

    /// What goes into the projection out, `[T, Hv·Dv]`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        layer: usize,
        attend: &mut Attend<'_>,
    ) -> Result<Tensor> {
        let wide = |x: Tensor| x.to_dtype(DType::F32);
        let beta = candle_nn::ops::sigmoid(&wide(self.b.forward(x)?)?)?;
        let a = wide(self.a.forward(x)?)?.broadcast_add(&wide(self.dt_bias.clone())?)?;
        // −softplus(a) = log σ(−a).
        let decay = rlhf_ops::log_sigmoid(&a.neg()?)?;
        let g = decay.broadcast_mul(&wide(self.a_log.clone())?.exp()?)?;
        let gates = Tensor::cat(&[g, beta], 1)?;
        let projected = self.qkv.forward(x)?;
        let read = attend.recurrence(layer, &projected, &gates, &self.recurrence)?;
        // What was read may be next to nothing, which half precision would take for zero.
        let read = self.norm.forward_in_f32(&read)?.to_dtype(x.dtype())?;
        Ok(rlhf_ops::swiglu(&self.z.forward(x)?, &read)?)
    }
}
