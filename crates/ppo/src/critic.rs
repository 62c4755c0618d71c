//! The critic V, which predicts the return from each token on: the baseline of generalised advantage estimation.

use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rand::RngCore;
use rlhf_base::rng::stream;
use rlhf_lm::{
    Gradients, HeadInit, LanguageModel, ModelConfig, Params, RewardModel, ScalarModel,
    Weights as Loaded,
};
use rlhf_ops::Recording;
use rlhf_rollout::{Episode, EpisodeBatch, each_episode, micro_batches};
use rlhf_train::{Checkpoint, Comm, Session};

use crate::config::{Config, CriticKind};
use crate::learner::{Learner, optimizer};
use crate::loss::{VALUE_SUMS, value_loss, value_sums};
use crate::rewards::ScoreSlot;
use crate::trajectory::{CriticTargets, Trajectory};
use crate::updates::{CriticSums, Updates};

/// The critic V.
pub(crate) struct Critic {
    weights: Weights,
    /// c_v.
    coef: f64,
    /// ε_v.
    clip: f64,
    score_slot: ScoreSlot,
    longest: usize,
    eos: u32,
}

/// Where the weights of the critic live.
enum Weights {
    /// A model of its own, with an optimizer of its own.
    Separate(Learner<ScalarModel>),
    /// A head among the policy's parameters, which the policy's optimizer moves; both models read the policy's trunk.
    Shared {
        /// The policy's, the head among them.
        params: Params,
        /// Records a graph.
        model: ScalarModel,
        /// Records none.
        view: ScalarModel,
    },
}

/// What a micro-batch trains the critic towards.
pub(crate) struct ValueTargets {
    /// `[N]` V_old.
    old_values: Tensor,
    /// `[N]` R.
    returns: Tensor,
    /// Values in the whole minibatch, which the loss is a mean over.
    slots: usize,
}

/// The critic's share of the loss in a micro-batch.
pub(crate) struct ValueLoss {
    /// `c_v · Σ L_V / slots`, a scalar with a graph.
    pub(crate) loss: Tensor,
    /// Those of [`value_sums`].
    pub(crate) sums: Tensor,
}

/// The critic's numbers of a step.
pub(crate) struct CriticMetrics {
    pub(crate) loss: f64,
    pub(crate) clip_fraction: f64,
    pub(crate) explained_variance: f64,
    /// `None` where the gradient is part of the policy's.
    pub(crate) grad_norm: Option<f64>,
}

impl Critic {
    /// The critic as `config` asks for it, if the advantage needs one.
    ///
    /// With weights of its own it starts as a copy of the reward model, which already knows good from bad; without one as the policy's
    /// trunk under a head of zeros, which predicts 0 everywhere. A shared one is that head alone, added to `policy`.
    ///
    /// Where the policy is trained by an adapter, a separate critic is an adapter over the frozen weights of the model it starts from, which
    /// it shares.
    pub(crate) fn start(
        config: &Config,
        session: &Session,
        base: &LanguageModel,
        reward_model: Option<&RewardModel>,
        policy: &mut Params,
    ) -> Result<Option<Self>> {
        if !config.advantage.needs_critic() {
            return Ok(None);
        }
        let under_zeros = || ScalarModel::params_over(&base.config, &base.params, HeadInit::Zeros);
        let separate = |model: &ModelConfig, params: Params| {
            anyhow::Ok(Weights::Separate(Learner {
                model: ScalarModel::new(model, &params)?.gradient_checkpointing(session.recompute),
                view: ScalarModel::new(model, &params.frozen())?,
                params,
                adam: optimizer(config.adam_eps, session),
            }))
        };
        let weights = match (config.critic, reward_model) {
            (CriticKind::Separate, Some(reward)) => match &session.lora {
                Some(lora) => {
                    // Other draws than the policy's.
                    let seed = stream(session.seed, "critic", 0).next_u64();
                    separate(reward.config(), reward.adapted(lora, seed)?)?
                }
                None => {
                    // Read anew: the model that scores is frozen, in the dtype it computes in.
                    let (bases, folder) = (&session.bases, Path::new(&config.reward));
                    let (dtype, device) = (session.dtype, &session.device);
                    let (model, params) = bases.scalar(folder, Loaded::Trainable, dtype, device)?;
                    separate(&model, params)?
                }
            },
            (CriticKind::Separate, None) => separate(&base.config, under_zeros()?)?,
            (CriticKind::Shared, _) => {
                let head = ScalarModel::fresh_head(&base.config, HeadInit::Zeros, &session.device)?;
                policy.insert(ScalarModel::HEAD, &head)?;
                Weights::Shared {
                    model: ScalarModel::new(&base.config, policy)?,
                    view: ScalarModel::new(&base.config, &policy.frozen())?,
                    params: policy.clone(),
                }
            }
        };
        Ok(Some(Self {
            weights,
            coef: config.value_coef,
            clip: config.value_clip,
            score_slot: config.conventions().score_slot,
            longest: config.response_length,
            eos: base.tokenizer.eos_id()?,
        }))
    }

    /// For the plan: how it is made, and the parameters that are its own.
    pub(crate) fn describe(&self) -> (&'static str, Option<&Params>) {
        match &self.weights {
            Weights::Separate(own) => ("with a separate critic", Some(&own.params)),
            Weights::Shared { .. } => ("with a value head on its trunk", None),
        }
    }

    /// The head on the policy's trunk, without a graph; `None` where the critic has a trunk of its own.
    pub(crate) fn shared_head(&self) -> Option<&ScalarModel> {
        match &self.weights {
            Weights::Separate(_) => None,
            Weights::Shared { view, .. } => Some(view),
        }
    }

    /// V_t of every episode, `[B][m_i]`, without a graph.
    pub(crate) fn values(
        &self,
        prompts: &[Vec<u32>],
        episodes: &[Episode],
        micro_batch_tokens: usize,
        comm: &Comm,
    ) -> Result<Vec<Vec<f32>>> {
        let view = match &self.weights {
            Weights::Separate(own) => &own.view,
            Weights::Shared { view, .. } => view,
        };
        let episodes = self.sequences(episodes);
        each_episode(comm, prompts, &episodes, |episodes| {
            let all: Vec<usize> = (0..episodes.len()).collect();
            let mut values = Vec::with_capacity(episodes.len());
            for part in micro_batches(prompts, episodes, &all, micro_batch_tokens) {
                let part = part.iter().map(|&i| &episodes[i]);
                let batch = EpisodeBatch::pack(prompts, part, view.device())?;
                values.extend(batch.by_episode(&batch.values(view)?)?);
            }
            Ok(values)
        })
    }

    /// The value loss of a head on the policy's trunk, from the trunk's `hidden` states: it joins the policy loss before the one
    /// backward pass. `None` where the critic has weights of its own.
    pub(crate) fn joint_loss(
        &self,
        hidden: &Tensor,
        targets: &ValueTargets,
    ) -> Result<Option<ValueLoss>> {
        match &self.weights {
            Weights::Separate(_) => Ok(None),
            Weights::Shared { model, .. } => Ok(Some(self.loss(&model.scores(hidden)?, targets)?)),
        }
    }

    /// `c_v · ∂L_V/∂φ` over one minibatch, a mean over its values, by passes of its own; `None` where it shares the policy's trunk, and is
    /// part of the policy's gradient.
    pub(crate) fn gradients(
        &self,
        (trajectory, minibatch): (&Trajectory, &[usize]),
        micro_batch_tokens: usize,
        comm: &Comm,
    ) -> Result<Option<(Gradients, CriticSums)>> {
        let (Weights::Separate(own), Some(targets)) = (&self.weights, &trajectory.critic) else {
            return Ok(None);
        };
        let (device, slots) = (own.model.device(), trajectory.slots(minibatch));
        let mut gradients = Gradients::new();
        let mut total = Tensor::zeros(VALUE_SUMS, DType::F32, device)?;
        let parts = trajectory.micro_batches(minibatch, micro_batch_tokens, comm);
        let mut parts = parts.iter();
        while let Some(part) = parts.next() {
            let _recording = Recording::start();
            let episodes = part.iter().map(|&i| trajectory.episodes[i].clone());
            let sequences = self.sequences(&episodes.collect::<Vec<_>>());
            let batch = EpisodeBatch::pack(&trajectory.prompts, &sequences, device)?;
            let targets = targets.of(part, slots, device)?;
            let ValueLoss { loss, sums } = self.loss(&batch.values(&own.model)?, &targets)?;
            let last = parts.len() == 0;
            comm.accumulate(&own.params, &mut gradients, &loss, last)?;
            total = (total + sums)?;
        }
        let total = comm.sum_gradients(&own.params, &mut gradients, &total)?;
        let read = Gradients::read(&total, &[&gradients])?;
        Ok(Some((gradients, CriticSums { read, slots })))
    }

    fn loss(&self, values: &Tensor, targets: &ValueTargets) -> Result<ValueLoss> {
        let ValueTargets {
            old_values,
            returns,
            slots,
        } = targets;
        let losses = value_loss(values, old_values, returns, self.clip)?;
        Ok(ValueLoss {
            loss: (losses.sum_all()? * (self.coef / *slots as f64))?,
            sums: value_sums(values, old_values, returns, &losses, self.clip)?,
        })
    }

    /// What the critic reads. V of a slot after the last token is read where that token stands, so any token can hold its place.
    fn sequences(&self, episodes: &[Episode]) -> Vec<Episode> {
        let mut sequences = episodes.to_vec();
        for Episode { response, .. } in &mut sequences {
            let slots = self.score_slot.slots(response.len(), self.longest);
            response.resize(slots, self.eos);
        }
        sequences
    }

    /// One optimizer step; the norm of the gradient. A shared head moves with the policy, so there is nothing left to do.
    pub(crate) fn step(
        &mut self,
        gradients: &Gradients,
        lr: f64,
        clip: Option<f64>,
    ) -> Result<f64> {
        match &mut self.weights {
            Weights::Separate(own) => own.step(gradients, lr, clip),
            Weights::Shared { .. } => Ok(0.0),
        }
    }

    /// Errors if a parameter has no usable gradient; whether all were checked. A shared head is checked with the policy.
    pub(crate) fn check(&self, gradients: &Gradients) -> Result<bool> {
        match &self.weights {
            Weights::Separate(own) => Ok(gradients.check_all(&own.params)?),
            Weights::Shared { .. } => Ok(true),
        }
    }

    /// Whether the head is anything but zeros: under zeros no gradient reaches the trunk. Reads from the device.
    pub(crate) fn head_has_moved(&self) -> Result<bool> {
        let params = match &self.weights {
            Weights::Separate(own) => &own.params,
            Weights::Shared { params, .. } => params,
        };
        let Some(head) = params.get(ScalarModel::HEAD) else {
            return Ok(true);
        };
        // A sum, since a maximum skips NaN.
        Ok(rlhf_ops::read_to_host(&head.abs()?.sum_all()?)? != [0.0])
    }

    /// Its own weights and optimizer moments; a shared head is saved with the policy.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        match &self.weights {
            Weights::Separate(own) => own.save("critic", checkpoint),
            Weights::Shared { .. } => Ok(()),
        }
    }

    /// Back to what [`Critic::save`] wrote.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        match &mut self.weights {
            Weights::Separate(own) => own.restore("critic", checkpoint),
            Weights::Shared { .. } => Ok(()),
        }
    }

    /// What a step records of the critic.
    pub(crate) fn metrics(&self, targets: &CriticTargets, updates: &Updates) -> CriticMetrics {
        CriticMetrics {
            loss: updates.value_loss,
            clip_fraction: updates.value_clip_fraction,
            explained_variance: explained_variance(&targets.values, &targets.returns),
            grad_norm: match &self.weights {
                Weights::Separate(_) => Some(updates.critic_grad_norm),
                Weights::Shared { .. } => None,
            },
        }
    }

    /// The parameters that its loss depends on, those of the policy's trunk included.
    #[cfg(test)]
    pub(crate) fn params(&self) -> &Params {
        match &self.weights {
            Weights::Separate(own) => &own.params,
            Weights::Shared { params, .. } => params,
        }
    }
}

impl CriticTargets {
    /// Those of the episodes in `part`, in a minibatch of `slots` values.
    pub(crate) fn of(&self, part: &[usize], slots: usize, device: &Device) -> Result<ValueTargets> {
        Ok(ValueTargets {
            old_values: Trajectory::flat(&self.values, part, device)?,
            returns: Trajectory::flat(&self.returns, part, device)?,
            slots,
        })
    }
}

/// `1 − Var(R − V) / Var(R)`: 1 when the critic predicts every return, 0 when it is no better than their mean.
fn explained_variance(values: &[Vec<f32>], returns: &[Vec<f64>]) -> f64 {
    let returns: Vec<f64> = returns.iter().flatten().copied().collect();
    let errors: Vec<f64> = values
        .iter()
        .flatten()
        .zip(&returns)
        .map(|(v, r)| r - f64::from(*v))
        .collect();
    let variance = |x: &[f64]| {
        let mean = rlhf_train::statistics::mean(x);
        x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64
    };
    1.0 - variance(&errors) / variance(&returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: returns 1, 3 have variance 1; errors 0, 0 explain all, errors −1, 1 nothing.
    #[test]
    fn explained_variance_is_one_for_every_return_and_zero_for_their_mean() {
        let returns = [vec![1.0], vec![3.0]];
        assert_eq!(explained_variance(&[vec![1.0], vec![3.0]], &returns), 1.0);
        assert_eq!(explained_variance(&[vec![2.0], vec![2.0]], &returns), 0.0);
    }
}
