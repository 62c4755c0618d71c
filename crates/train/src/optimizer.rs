//! AdamW (Loshchilov and Hutter 2019), with the gradient clipped to a norm.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{DType, Tensor, Var};
use rlhf_lm::{Gradients, Params};
use rlhf_ops::{AdamWStep, AdamWTensors, KeptTable};
use serde::{Deserialize, Serialize};

use self::shared::Shares;
use crate::{Comm, Error, Result};

/// AdamW's constants; the learning rate is given step by step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the average gradient.
    pub beta1: f64,
    /// Decay of the average squared gradient.
    pub beta2: f64,
    /// Keeps the division finite; PPO uses 1e-5.
    pub eps: f64,
    /// Share of the learning rate by which every matrix shrinks in a step; biases and norms do not.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// AdamW over the trainable parameters of a store, with its state by name, so that a checkpoint can hold it.
///
/// Weight decay touches parameters of two or more dimensions alone: shrinking the gain of a norm or a bias regularises nothing. So do
/// the Hugging Face `Trainer` (`get_decay_parameter_names`: all but biases and norms) and nanoGPT (`configure_optimizers`:
/// `p.dim() >= 2`).
///
/// The arithmetic is [`rlhf_ops::adamw_all`]; this adds the moments, the step count and clipping by the norm of all gradients together.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    steps: u64,
    moments: BTreeMap<String, Moments>,
    /// Where a device has parameters and moments.
    table: KeptTable,
    /// The ranks that it is shared out to, and how, once the parameters are known.
    comm: Option<Comm>,
    shares: Option<Shares>,
}

#[derive(Debug)]
struct Moments {
    m: Var,
    v: Var,
}

impl AdamW {
    /// An optimizer that has taken no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
            table: KeptTable::default(),
            comm: None,
            shares: None,
        }
    }

    /// Shared out to the ranks of `comm`, where they share optimizers: each keeps the moments of its share of the parameters and updates it,
    /// with the gradients that [`Comm::sum_gradients`] has given it. From then on [`AdamW::step`], [`AdamW::state`] and
    /// [`AdamW::load_state`] are for all ranks to call together.
    pub fn shared_by(self, comm: &Comm) -> Self {
        Self {
            comm: comm.shares_optimizers().then(|| comm.clone()),
            ..self
        }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves every trainable parameter by its gradient and returns the norm of all gradients before clipping; the model sees the new weights at once.
    ///
    /// `g ← g · min(1, c/(‖g‖ + 1e-6))` for `max_grad_norm = Some(c)`, as `torch.nn.utils.clip_grad_norm_`; then AdamW.
    /// A parameter without a gradient, or a norm that is not finite, is an error, and then nothing has changed.
    pub fn step(
        &mut self,
        params: &Params,
        grads: &Gradients,
        lr: f64,
        max_grad_norm: Option<f64>,
    ) -> Result<f64> {
        if let Some(name) = params
            .trainable()
            .map(|(name, _)| name)
            .find(|name| grads.get(name).is_none())
        {
            return Err(Error::NoGradient(name.to_owned()));
        }
        let norm = grads.norm()?;
        if !norm.is_finite() {
            return Err(Error::NonFiniteGradient { norm });
        }
        if let Some(comm) = self.comm.as_ref().filter(|_| self.shares.is_none()) {
            self.shares = Some(Shares::new(params, comm));
        }
        for (name, part) in self.parts(params) {
            if let (false, Some(param)) = (self.moments.contains_key(&name), params.get(&name)) {
                let shape = part
                    .as_ref()
                    .map_or(param.shape().clone(), |part| part.len().into());
                let zeros = || Var::zeros(&shape, DType::F32, param.device());
                let (m, v) = (zeros()?, zeros()?);
                self.moments.insert(name, Moments { m, v });
            }
        }
        self.steps += 1;
        let step = AdamWStep {
            lr,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            step: self.steps,
            grad_scale: max_grad_norm.map_or(1.0, |max| clip_factor(norm, max)),
        };
        let mut whole = Vec::new();
        for (name, part) in self.parts(params) {
            let own = (params.get(&name), grads.get(&name), self.moments.get(&name));
            let (Some(param), Some(grad), Some(Moments { m, v })) = own else {
                continue;
            };
            let tensors = AdamWTensors {
                param,
                grad,
                m,
                v,
                decays: param.rank() > 1,
            };
            match part {
                None => whole.push(tensors),
                Some(part) => {
                    let weight = param.as_detached_tensor();
                    let param = &shared::variable(&weight, &part)?;
                    let own = AdamWTensors { param, ..tensors };
                    rlhf_ops::adamw_all(&[own], &step, &mut KeptTable::default())?;
                    let moved = weight.flatten_all()?;
                    moved.slice_set(&param.as_detached_tensor(), 0, part.start)?;
                }
            }
        }
        rlhf_ops::adamw_all(&whole, &step, &mut self.table)?;
        if let Some(shares) = &self.shares {
            shares.gather_weights(params)?;
        }
        params.refresh()?;
        Ok(norm)
    }

    /// The parameters that this process updates: all, whole, or those of its share with the numbers that are in it.
    fn parts(&self, params: &Params) -> Vec<(String, Option<Range<usize>>)> {
        match &self.shares {
            None => params
                .trainable()
                .map(|(name, _)| (name.to_owned(), None))
                .collect(),
            Some(shares) => {
                let own = shares.own();
                own.map(|(name, part)| (name.to_owned(), Some(part)))
                    .collect()
            }
        }
    }

    /// The state by name: `step` (i64), and `m/…` and `v/…` for every parameter that has taken a step. The tensors share storage with the optimizer.
    ///
    /// Of an optimizer that is shared out the leader gets all of it, from every rank, and the others nothing but the step.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        let moment = |name: &str, pick: fn(&Moments) -> &Var| {
            Some(pick(self.moments.get(name)?).as_detached_tensor())
        };
        for (kind, pick) in [
            ("m", (|it| &it.m) as fn(&Moments) -> &Var),
            ("v", |it| &it.v),
        ] {
            let all: BTreeMap<String, Tensor> =
                match self.shares.as_ref().filter(|_| self.steps > 0) {
                    Some(shares) => shares.gather_moments(|name| moment(name, pick))?,
                    None => {
                        let names = self.moments.iter();
                        names
                            .map(|(name, it)| (name.clone(), pick(it).as_detached_tensor()))
                            .collect()
                    }
                };
            state.extend(
                all.into_iter()
                    .map(|(name, it)| (format!("{kind}/{name}"), it)),
            );
        }
        // No run takes 2⁶³ steps; safetensors and candle have no unsigned 64-bit numbers.
        state.insert(
            "step".into(),
            Tensor::new(self.steps as i64, &candle_core::Device::Cpu)?,
        );
        Ok(state)
    }

    /// Takes over a state made by [`AdamW::state`] for the same parameters. Anything missing, unexpected or of another shape is an error that names it.
    pub fn load_state(&mut self, params: &Params, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let steps = state
            .get("step")
            .ok_or_else(|| mismatch("step", "is missing"))?
            .to_scalar::<i64>()?;
        self.shares = self.comm.as_ref().map(|comm| Shares::new(params, comm));
        let mut moments = BTreeMap::new();
        let mut names = BTreeSet::new();
        if steps > 0 {
            for (name, param) in params.trainable() {
                names.insert(name);
                for kind in ["m", "v"] {
                    let key = format!("{kind}/{name}");
                    let tensor = state
                        .get(&key)
                        .ok_or_else(|| mismatch(&key, "is missing"))?;
                    if tensor.shape() != param.shape() {
                        let reason = format!(
                            "has shape {:?}, its parameter {:?}",
                            tensor.dims(),
                            param.dims()
                        );
                        return Err(mismatch(&key, reason));
                    }
                }
            }
            for (name, part) in self.parts(params) {
                let load = |kind: &str| -> Result<Var> {
                    let key = format!("{kind}/{name}");
                    let tensor = state
                        .get(&key)
                        .ok_or_else(|| mismatch(&key, "is missing"))?;
                    // Copied, because the optimizer changes its moments in place.
                    let tensor = match &part {
                        None => tensor.copy()?,
                        Some(part) => shared::slice(tensor, part)?,
                    };
                    let tensor = tensor.to_device(params.device())?.to_dtype(DType::F32)?;
                    Ok(Var::from_tensor(&tensor)?)
                };
                let (m, v) = (load("m")?, load("v")?);
                moments.insert(name, Moments { m, v });
            }
        }
        let known = |key: &str| {
            key == "step"
                || ["m/", "v/"]
                    .iter()
                    .any(|p| key.strip_prefix(p).is_some_and(|n| names.contains(n)))
        };
        if let Some(key) = state.keys().find(|key| !known(key)) {
            return Err(mismatch(key, "belongs to no parameter of this model"));
        }
        self.steps = steps.unsigned_abs();
        self.moments = moments;
        Ok(())
    }
}

fn mismatch(key: &str, reason: impl ToString) -> Error {
    Error::OptimizerState {
        key: key.to_owned(),
        reason: reason.to_string(),
    }
}

/// `min(1, max/(norm + 1e-6))`: what gradients are multiplied by so that their norm is at most `max`.
fn clip_factor(norm: f64, max: f64) -> f64 {
    (max / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests;
