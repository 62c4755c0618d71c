//! AdamW (Loshchilov and Hutter 2019), with the gradient clipped to a norm.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use candle_core::{DType, Tensor, Var};
use rlhf_lm::{Gradients, Params};
use rlhf_ops::AdamWStep;
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
/// The arithmetic is [`rlhf_ops::adamw`]; this adds the moments, the step count and clipping by the norm of all gradients together.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    /// Steps taken.
    steps: u64,
    moments: BTreeMap<String, Moments>,
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
            comm: None,
            shares: None,
        }
    }

    /// Shared out to the ranks of `comm`: each keeps the moments of its share of the parameters and updates it. From then on
    /// [`AdamW::step`], [`AdamW::state`] and [`AdamW::load_state`] are for all ranks to call together.
    pub fn shared_by(self, comm: &Comm) -> Self {
        Self {
            comm: (comm.size() > 1).then(|| comm.clone()),
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
        let without_decay = AdamWStep {
            weight_decay: 0.0,
            ..step
        };
        for (name, part) in self.parts(params) {
            let own = (params.get(&name), grads.get(&name), self.moments.get(&name));
            let (Some(param), Some(grad), Some(Moments { m, v })) = own else {
                continue;
            };
            let step = match param.rank() {
                0 | 1 => &without_decay,
                _ => &step,
            };
            match part {
                None => rlhf_ops::adamw(param, grad, m, v, step)?,
                Some(part) => {
                    let weight = param.as_detached_tensor();
                    let own = shared::variable(&weight, &part)?;
                    rlhf_ops::adamw(&own, &shared::slice(grad, &part)?, m, v, step)?;
                    let moved = weight.flatten_all()?;
                    moved.slice_set(&own.as_detached_tensor(), 0, part.start)?;
                }
            }
        }
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
mod tests {
    use super::*;
    use crate::{Schedule, ScheduleKind};
    use candle_core::Device;
    use serde_json::Value;

    fn numbers(value: &Value) -> Vec<f32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|x| x.as_f64().unwrap() as f32)
            .collect()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The fixture of scripts/oracle/adamw.py: ten steps of torch.optim.AdamW, clipped and scheduled.
    struct Torch(Value);

    impl Torch {
        fn read() -> Self {
            Self(serde_json::from_str(include_str!("../../../tests/fixtures/adamw.json")).unwrap())
        }

        fn tensors(&self, values: &Value) -> BTreeMap<String, Tensor> {
            let of = |(name, shape): (&String, &Value)| {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                (
                    name.clone(),
                    Tensor::from_vec(numbers(&values[name]), shape, &Device::Cpu).unwrap(),
                )
            };
            self.0["shapes"]
                .as_object()
                .unwrap()
                .iter()
                .map(of)
                .collect()
        }

        fn params(&self) -> Params {
            Params::load(&self.tensors(&self.0["initial"]), &Device::Cpu, DType::F32).unwrap()
        }

        fn optimizer(&self) -> AdamW {
            AdamW::new(serde_json::from_value(self.0["config"].clone()).unwrap())
        }

        /// Takes step `i` with torch's gradients and returns the norm.
        fn step(&self, i: usize, optimizer: &mut AdamW, params: &Params) -> f64 {
            let grads = gradients(params, &self.tensors(&self.0["steps"][i]["grads"]));
            let warmup_steps = self.0["warmup"].as_u64().unwrap();
            let schedule = Schedule {
                kind: ScheduleKind::Cosine,
                warmup_steps,
                total_steps: 10,
            };
            let lr = schedule.lr(self.0["lr"].as_f64().unwrap(), i as u64);
            optimizer
                .step(params, &grads, lr, self.0["max_grad_norm"].as_f64())
                .unwrap()
        }
    }

    /// The gradients of `Σ p·g`, which are `g`.
    fn gradients(params: &Params, values: &BTreeMap<String, Tensor>) -> Gradients {
        let mut grads = Gradients::new();
        for (name, g) in values {
            let loss = (params.compute(name).unwrap() * g)
                .unwrap()
                .sum_all()
                .unwrap();
            grads.accumulate(params, &loss).unwrap();
        }
        grads
    }

    #[test]
    fn ten_clipped_and_scheduled_steps_are_those_of_torch() {
        let torch = Torch::read();
        let (params, mut optimizer) = (torch.params(), torch.optimizer());
        for (i, expected) in torch.0["steps"].as_array().unwrap().iter().enumerate() {
            let norm = torch.step(i, &mut optimizer, &params);
            let want = expected["norm"].as_f64().unwrap();
            assert!(
                (norm - want).abs() < 1e-6 * want,
                "step {i}: norm {norm}, torch {want}"
            );
            for (name, param) in params.trainable() {
                // Both compute in f32 but round in another order: a few units in the last place of numbers near 1.
                for (got, want) in flat(param)
                    .into_iter()
                    .zip(numbers(&expected["params"][name]))
                {
                    assert!(
                        (got - want).abs() < 1e-6,
                        "step {i}, {name}: {got}, torch {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_resumed_optimizer_takes_the_same_steps_to_the_bit() {
        let torch = Torch::read();
        let (params, mut optimizer) = (torch.params(), torch.optimizer());
        for i in 0..5 {
            torch.step(i, &mut optimizer, &params);
        }
        let resumed = Params::load(&params.trained(), &Device::Cpu, DType::F32).unwrap();
        let mut again = torch.optimizer();
        again
            .load_state(&resumed, &optimizer.state().unwrap())
            .unwrap();
        for i in 5..10 {
            torch.step(i, &mut optimizer, &params);
            torch.step(i, &mut again, &resumed);
        }
        assert_eq!(again.steps(), 10);
        for (name, param) in params.trainable() {
            assert_eq!(flat(param), flat(resumed.get(name).unwrap()));
        }
        let (state, state_again) = (optimizer.state().unwrap(), again.state().unwrap());
        assert_eq!(
            state.keys().collect::<Vec<_>>(),
            ["m/b", "m/w", "step", "v/b", "v/w"]
        );
        for key in ["m/b", "m/w", "v/b", "v/w"] {
            assert_eq!(flat(&state[key]), flat(&state_again[key]));
        }
    }

    #[test]
    fn a_state_of_another_model_is_refused_by_name() {
        let torch = Torch::read();
        let (params, mut optimizer) = (torch.params(), torch.optimizer());
        torch.step(0, &mut optimizer, &params);
        let state = optimizer.state().unwrap();
        let refuse = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
            let mut state = state.clone();
            change(&mut state);
            torch
                .optimizer()
                .load_state(&params, &state)
                .unwrap_err()
                .to_string()
        };
        let missing = refuse(&|s| drop(s.remove("v/w")));
        assert!(missing.contains("v/w is missing"), "{missing}");
        let misshaped = refuse(&|s| drop(s.insert("m/b".into(), s["m/w"].clone())));
        assert!(misshaped.contains("m/b has shape [2, 4]"), "{misshaped}");
        let unexpected = refuse(&|s| drop(s.insert("m/c".into(), s["m/w"].clone())));
        assert!(
            unexpected.contains("m/c belongs to no parameter"),
            "{unexpected}"
        );
    }

    #[test]
    fn a_missing_or_infinite_gradient_is_an_error_and_changes_nothing() {
        let torch = Torch::read();
        let (params, mut optimizer) = (torch.params(), torch.optimizer());
        let mut values = torch.tensors(&torch.0["initial"]);
        let before = flat(params.get("w").unwrap());
        values.insert(
            "b".into(),
            Tensor::new(&[0f32, f32::INFINITY, 0.0], &Device::Cpu).unwrap(),
        );
        let infinite = optimizer
            .step(&params, &gradients(&params, &values), 0.1, Some(1.0))
            .unwrap_err();
        assert!(
            matches!(infinite, Error::NonFiniteGradient { .. }),
            "{infinite}"
        );
        values.remove("b");
        let missing = optimizer
            .step(&params, &gradients(&params, &values), 0.1, None)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("parameter b has no gradient"), "{missing}");
        assert_eq!(
            (flat(params.get("w").unwrap()), optimizer.steps()),
            (before, 0)
        );
    }

    /// Closed form: where the gradient is zero both moments are, so a step is `p ← p·(1 − lr·λ)` for a matrix and nothing for the rest.
    #[test]
    fn decay_shrinks_matrices_and_leaves_norms_biases_and_frozen_parameters_alone() {
        let mut params = Params::new(&Device::Cpu, DType::F32);
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let shapes: [(&str, &[usize]); 4] = [
            ("bias", &[3]),
            ("frozen", &[2, 2]),
            ("scale", &[]),
            ("weight", &[2, 3]),
        ];
        for (name, shape) in shapes {
            params.insert(name, &ones(shape)).unwrap();
        }
        params.freeze(|name| name == "frozen");
        let nothing = shapes.map(|(name, shape)| (name.to_owned(), (ones(shape) * 0.0).unwrap()));
        let mut grads = gradients(&params, &BTreeMap::from(nothing));
        let mut optimizer = AdamW::new(AdamWConfig {
            weight_decay: 0.1,
            ..AdamWConfig::default()
        });
        optimizer.step(&params, &grads, 0.5, None).unwrap();
        assert!(
            flat(params.get("weight").unwrap())
                .iter()
                .all(|w| *w == 0.95)
        ); // 1 − 0.5·0.1
        for name in ["bias", "frozen", "scale"] {
            assert!(
                flat(&params.compute(name).unwrap())
                    .iter()
                    .all(|w| *w == 1.0),
                "{name}"
            );
        }
        let state = optimizer.state().unwrap();
        assert!(!state.contains_key("m/frozen"));
        optimizer.load_state(&params, &state).unwrap();
        // A frozen parameter needs no gradient; a trainable one does.
        grads.clear();
        assert!(optimizer.step(&params, &grads, 0.5, None).is_err());
        params.freeze(|_| true);
        let mut fresh = AdamW::new(AdamWConfig::default());
        fresh.step(&params, &grads, 0.5, None).unwrap();
    }

    #[test]
    fn clipping_only_ever_shrinks() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), 1.0 / (4.0 + 1e-6)); // torch.nn.utils.clip_grad_norm_'s formula
        assert_eq!(clip_factor(0.0, 1.0), 1.0);
    }
}
