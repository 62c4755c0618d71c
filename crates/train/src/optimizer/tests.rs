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
        Self(serde_json::from_str(include_str!("../../../../tests/fixtures/adamw.json")).unwrap())
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

/// The oracle is the same run without sharing: weights and moments to the last bit, over parameters that some ranks have no part of; then from
/// a state that it saved, on the same number of ranks. One process has the same weights but for the rounding of the norm.
#[test]
fn ranks_that_share_the_optimizer_take_the_very_same_steps() {
    let tensor = |len: usize, shift: f32| {
        let numbers: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7 + shift).sin()).collect();
        Tensor::from_vec(numbers, (len,), &Device::Cpu).unwrap()
    };
    let sizes = [("a", 1), ("b", 5), ("c", 12)];
    let start = || {
        let mut params = Params::new(&Device::Cpu, DType::F32);
        for (name, len) in sizes {
            let value = tensor(len, 0.0);
            // Matrices decay and vectors do not.
            let value = if len > 1 {
                value.reshape((1, len))
            } else {
                Ok(value)
            };
            params.insert(name, &value.unwrap()).unwrap();
        }
        params
    };
    let config = AdamWConfig {
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let steps = |comm: &Comm, params: &Params, adam: &mut AdamW, from: u64, to: u64| {
        for step in from..to {
            // One rank has the gradients and the others none, so that their sum is exact.
            let values = sizes.map(|(name, len)| {
                let shape = params.get(name).unwrap().shape().clone();
                let value = tensor(len, step as f32 + 1.0).reshape(shape);
                (name.to_owned(), value.unwrap())
            });
            let mut grads = match comm.rank() + 1 == comm.size() {
                true => gradients(params, &BTreeMap::from(values)),
                false => Gradients::new(),
            };
            let none = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
            comm.sum_gradients(params, &mut grads, &none).unwrap();
            adam.step(params, &grads, 0.1, Some(1.0)).unwrap();
        }
    };
    let copy = |all: BTreeMap<String, Tensor>| -> BTreeMap<String, Tensor> {
        let copy = |(name, it): (String, Tensor)| (name, it.copy().unwrap());
        all.into_iter().map(copy).collect()
    };
    let all = |params: &Params, adam: &AdamW| {
        let moments = adam.state().unwrap().into_iter();
        let moments = moments.filter(|(name, _)| name != "step");
        let both = params.trained().into_iter().chain(moments);
        both.map(|(name, it)| (name, flat(&it)))
            .collect::<BTreeMap<_, _>>()
    };
    let (alone, mut adam) = (start(), AdamW::new(config));
    steps(&Comm::single(), &alone, &mut adam, 0, 4);
    let alone = all(&alone, &adam);
    for ranks in [2, 3, 19] {
        let found = crate::comm::threads::run(ranks, |comm| {
            let of = |comm: &Comm| {
                let (params, mut adam) = (start(), AdamW::new(config).shared_by(comm));
                let before = comm.traffic().bytes;
                steps(comm, &params, &mut adam, 0, 2);
                let sent = comm.traffic().bytes - before;
                let weights = copy(params.trained());
                // What the leader has written and all read again.
                let state = copy(adam.state().unwrap());
                steps(comm, &params, &mut adam, 2, 4);
                (sent, weights, state, all(&params, &adam))
            };
            let (sent, weights, state, whole) = of(&comm);
            let sharing = comm.sharing_optimizers();
            let (sent_sharing, _, _, shared) = of(&sharing);
            // The parts of the weights instead of those of the sums.
            assert_eq!(sent, sent_sharing);
            let (params, mut adam) = (start(), AdamW::new(config).shared_by(&sharing));
            params.restore(&weights).unwrap();
            adam.load_state(&params, &state).unwrap();
            steps(&sharing, &params, &mut adam, 2, 4);
            (comm.leads(), whole, shared, all(&params, &adam))
        });
        for (leads, whole, shared, resumed) in found {
            for (name, want) in &alone {
                let pairs = whole[name].iter().zip(want);
                pairs.for_each(|(x, want)| assert!((x - want).abs() < 1e-6, "{name}: {x}"));
            }
            let told = whole.into_iter();
            let told = told.filter(|(name, _)| leads || !name.contains('/'));
            let told: BTreeMap<_, _> = told.collect();
            assert_eq!(shared, told);
            assert_eq!(resumed, told);
        }
    }
}
