//! One number per token: a reward model or a critic.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use rlhf_ops::WeightLayout;

use crate::attend::Attend;
use crate::linear::normal;
use crate::schema::Schema;
use crate::trunk::Trunk;
use crate::{ModelConfig, Packed, Params, Result};

/// The head, under the name it has in every `…ForSequenceClassification`.
pub(crate) const SCORE: &str = "score.weight";

/// A trunk with a linear head of one output and no bias, `score.weight` `[1, H]`: the layout of
/// `…ForSequenceClassification`.
pub struct ScalarModel {
    config: ModelConfig,
    trunk: Box<dyn Trunk>,
    score: Tensor,
}

/// How a fresh scalar head starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadInit {
    /// N(0, 1/(H+1)), so that scores start with a spread near 1 on normalised hidden states
    /// (Stiennon et al. 2020, arXiv:2009.01325).
    Normal {
        /// Of the stream it is drawn from.
        seed: u64,
    },
    /// Zero everywhere: values that start at 0.
    Zeros,
}

impl ScalarModel {
    /// The name of the head.
    pub const HEAD: &str = SCORE;

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

    /// The parameters of a scalar model that starts from a language model's, or from another scalar
    /// model's: the same trunk, a fresh head, no vocabulary projection.
    pub fn with_fresh_head(
        config: &ModelConfig,
        trunk: &BTreeMap<String, Tensor>,
        head: HeadInit,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = trunk.clone();
        tensors.remove(&config.family().names().head_weight());
        let score = Self::fresh_head(config, head, device)?;
        tensors.insert(SCORE.to_owned(), score);
        Ok(tensors)
    }

    /// Parameters of a scalar model on the trunk of `trunk`, another model's: what is trainable there is copied and trainable here, what is
    /// frozen is shared, an adapter comes along, and the fresh head is trainable.
    pub fn params_over(config: &ModelConfig, trunk: &Params, head: HeadInit) -> Result<Params> {
        let mut params = trunk.copy()?;
        params.remove(&config.family().names().head_weight());
        let score = Self::fresh_head(config, head, trunk.device())?;
        params.insert(SCORE, &score)?;
        Ok(params)
    }

    /// A head as it starts.
    pub fn fresh_head(config: &ModelConfig, head: HeadInit, device: &Device) -> Result<Tensor> {
        let drawn = match head {
            HeadInit::Normal { seed } => Schema::of(|vb| Self::head(config, &vb))?
                .init(seed, device)?
                .remove(SCORE),
            HeadInit::Zeros => None,
        };
        Ok(match drawn {
            Some(drawn) => drawn,
            None => Tensor::zeros((1, config.hidden_size()), DType::F32, device)?,
        })
    }

    fn head(config: &ModelConfig, vb: &VarBuilder<'_>) -> Result<Tensor> {
        let hidden = config.hidden_size();
        let init: Init = normal(1.0 / (hidden as f64 + 1.0).sqrt());
        Ok(vb.get_with_hints((1, hidden), SCORE, init)?)
    }

    fn build(config: &ModelConfig, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            score: Self::head(config, &vb)?,
            trunk: config.family().trunk(vb)?,
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
        self.score.device()
    }

    /// Hidden states `[T, H]` of a packed batch.
    pub fn hidden(&self, batch: &Packed) -> Result<Tensor> {
        let attend = &mut Attend::Packed(&batch.layout);
        self.trunk.forward(&batch.ids, &batch.positions, attend)
    }

    /// One f32 per hidden state: `[N, H]` to `[N]`. The head works in f32 whatever the trunk does:
    /// differences of scores are what counts, and bf16 would round them away.
    pub fn scores(&self, hidden: &Tensor) -> Result<Tensor> {
        let hidden = hidden.to_dtype(DType::F32)?;
        let score = self.score.to_dtype(DType::F32)?;
        let scores = rlhf_ops::linear(&hidden, &score, WeightLayout::OutIn, None)?;
        Ok(scores.squeeze(1)?)
    }
}
