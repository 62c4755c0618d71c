//! A language model: a trunk and the vocabulary projection.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use rlhf_ops::{DecodeRows, QuantisedWeight, TokenLogprobs, WeightLayout};

use crate::attend::Attend;
use crate::families::LogitsRule;
use crate::linear::normal;
use crate::lora::Adapter;
use crate::quantised;
use crate::schema::Schema;
use crate::trunk::Trunk;
use crate::{KvCache, ModelConfig, Packed, Params, Result};

/// A language model: a trunk and the vocabulary projection, over the parameters of a [`Params`].
///
/// ```
/// use candle_core::{DType, Device};
/// use rlhf_lm::{CausalLm, ModelConfig, Packer, Params};
///
/// # fn main() -> rlhf_lm::Result<()> {
/// let config = ModelConfig::from_json(serde_json::json!({
///     "model_type": "gpt2", "vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4
/// }))?;
/// let fresh = CausalLm::init(&config, 0, &Device::Cpu)?;
/// let params = Params::load(&fresh, &Device::Cpu, DType::F32)?;
/// let model = CausalLm::new(&config, &params)?;
///
/// let mut packer = Packer::new();
/// packer.sequence(&[1, 2, 3]);
/// let hidden = model.hidden(&packer.finish(&Device::Cpu)?)?;
/// assert_eq!(model.logits(&hidden)?.dims(), [3, 300]);
/// # Ok(())
/// # }
/// ```
pub struct CausalLm {
    config: ModelConfig,
    trunk: Box<dyn Trunk>,
    /// `None` when it is the embedding.
    vocab: Option<Tensor>,
    /// The same in blocks, for logits alone, where the parameters are [rounded](Params::rounded).
    vocab_blocks: Option<QuantisedWeight>,
    logits: LogitsRule,
}

impl CausalLm {
    /// The model that `config` describes over `params`, which may hold more than it needs. What it
    /// lacks is one error that names everything.
    pub fn new(config: &ModelConfig, params: &Params) -> Result<Self> {
        Self::schema(config)?.require(params)?;
        Self::build(config, params.var_builder())
    }

    /// Every parameter of the model: its name, shape and initial distribution.
    pub fn schema(config: &ModelConfig) -> Result<Schema> {
        Schema::of(|vb| Self::build(config, vb))
    }

    /// The linear layers of its blocks by name, each with the layout of its weight: what can have an adapter.
    pub(crate) fn linear_modules(config: &ModelConfig) -> Result<BTreeMap<String, WeightLayout>> {
        Schema::linear_modules(|vb| Self::build(config, vb))
    }

    /// The parameters of `adapter`, of the model that `config` describes.
    pub(crate) fn adapter_schema(config: &ModelConfig, adapter: &Adapter) -> Result<Schema> {
        Schema::of_adapter(adapter, |vb| Self::build(config, vb))
    }

    /// Fresh parameters: weights N(0, σ²) with the configuration's `initializer_range` as σ (0.02 unless
    /// it says otherwise), GPT-2's projections into the residual stream smaller by √(2·layers), biases
    /// 0, norms 1.
    pub fn init(
        config: &ModelConfig,
        seed: u64,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        Self::schema(config)?.init(seed, device)
    }

    fn build(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let size = config.dimensions();
        let vocab = match size.tied {
            true => None,
            false => Some(vb.pp(config.family().names().head).get_with_hints(
                (size.vocab, size.hidden),
                "weight",
                normal(size.initializer_range),
            )?),
        };
        let vocab_blocks = quantised::of(&vb, quantised::LOGITS)?;
        Ok(Self {
            vocab_blocks,
            config: config.clone(),
            trunk: config.family().trunk(vb)?,
            vocab,
            logits: config.family().logits(),
        })
    }

    /// Turns gradient checkpointing on or off: training keeps, per block, the hidden states that go into it instead of all that the
    /// block computes, and computes the block again for its gradient (Chen et al. 2016, arXiv:1604.06174). The numbers stay the
    /// same; a third of the work is added.
    pub fn gradient_checkpointing(mut self, on: bool) -> Self {
        self.trunk.set_checkpointing(on);
        self
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights live.
    pub fn device(&self) -> &Device {
        self.vocab_weight().device()
    }

    /// Hidden states `[T, H]` of a packed batch.
    pub fn hidden(&self, batch: &Packed) -> Result<Tensor> {
        let attend = &mut Attend::Packed(&batch.layout);
        self.trunk.forward(&batch.ids, &batch.positions, attend)
    }

    /// [`hidden`](Self::hidden), and of a mixture of experts the load-balancing loss over the batch, a scalar in f32: K where every expert
    /// gets as many tokens, of which each has K experts, and more where some get more.
    pub fn hidden_balanced(&self, batch: &Packed) -> Result<(Tensor, Option<Tensor>)> {
        let attend = &mut Attend::Packed(&batch.layout);
        self.trunk
            .forward_balanced(&batch.ids, &batch.positions, attend)
    }

    /// Like [`hidden`](Self::hidden), and appends the batch to `cache` in the order of its stream.
    pub fn prefill(&self, batch: &Packed, cache: &mut KvCache) -> Result<Tensor> {
        let layout = &batch.layout;
        let attend = &mut Attend::Prefill { cache, layout };
        self.trunk.forward(&batch.ids, &batch.positions, attend)
    }

    /// Hidden states `[R, H]` of one new token per row, u32 `[R]` each, that sees `rows` in `cache`.
    /// Row r's token takes the place `cache.len() + r`, which its list in `rows` ends with.
    pub fn decode(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        rows: &DecodeRows,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let attend = &mut Attend::Cached { cache, rows };
        self.trunk.forward(ids, positions, attend)
    }

    /// The vocabulary projection, `[V, H]`.
    pub fn vocab_weight(&self) -> &Tensor {
        self.vocab
            .as_ref()
            .unwrap_or_else(|| self.trunk.embedding())
    }

    /// log p(target) at `temperature`, and the entropy, for each of the hidden states `[N, H]`;
    /// `targets` is u32 `[N]`.
    pub fn logprobs(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        temperature: f64,
    ) -> Result<TokenLogprobs> {
        // With f the factor and c the cap, c·tanh(f·z/c)/T = (c/f)·tanh(z/(c/f))/(T/f).
        Ok(rlhf_ops::token_logprobs(
            hidden,
            self.vocab_weight(),
            targets,
            temperature / self.logits.factor,
            self.logits.cap.map(|cap| cap / self.logits.factor),
        )?)
    }

    /// `scale · Σ −log p(target)`, a scalar, for hidden states `[N, H]` and `targets`, u32 `[N]`.
    pub fn negative_log_likelihood(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        scale: f64,
    ) -> Result<Tensor> {
        Ok(rlhf_ops::negative_log_likelihood(
            &self.scaled(hidden)?,
            self.vocab_weight(),
            targets,
            scale,
            self.logits.cap,
        )?)
    }

    /// Logits `[N, V]` of hidden states `[N, H]`; for the few rows that are about to be sampled from.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let hidden = self.scaled(hidden)?;
        let logits = match &self.vocab_blocks {
            Some(blocks) => rlhf_ops::quantised_linear(&hidden, blocks, None)?,
            None => rlhf_ops::linear(&hidden, self.vocab_weight(), WeightLayout::OutIn, None)?,
        };
        match self.logits.cap {
            Some(cap) => Ok(rlhf_ops::softcap(&logits, cap)?),
            None => Ok(logits),
        }
    }

    /// Hidden states times the factor of the logits, which is cheaper than logits times it.
    fn scaled(&self, hidden: &Tensor) -> Result<Tensor> {
        match self.logits.factor == 1.0 {
            true => Ok(hidden.clone()),
            false => Ok((hidden * self.logits.factor)?),
        }
    }
}
