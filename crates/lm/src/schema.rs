//! What a model asks for: the name, shape and initial distribution of every parameter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use rand_chacha::ChaCha8Rng;
use rlhf_ops::WeightLayout;

use crate::lora::{Adapter, layer};
use crate::{Error, Params, Result};
use rlhf_base::rng;

/// The name, shape and initial distribution of every parameter of a model.
///
/// It is read off the model's own constructor, run over a [`VarBuilder`] that only records what it is asked for, so
/// that there is no second list of names to keep in step.
#[derive(Debug, Clone, Default)]
pub struct Schema(BTreeMap<String, (Shape, Init)>);

impl Schema {
    /// Records what `build` asks of its `VarBuilder`.
    pub fn of<M>(build: impl FnOnce(VarBuilder<'static>) -> Result<M>) -> Result<Self> {
        Ok(Self(record(None, build)?.parameters))
    }

    /// The parameters of `adapter` alone, of the model that `build` makes.
    pub(crate) fn of_adapter<M>(
        adapter: &Adapter,
        build: impl FnOnce(VarBuilder<'static>) -> Result<M>,
    ) -> Result<Self> {
        let mut asked = record(Some(adapter), build)?.parameters;
        asked.retain(|name, _| adapter.owns(name));
        Ok(Self(asked))
    }

    /// The layers of the model that `build` makes which can have an adapter, each with the layout of its weight.
    pub(crate) fn linear_modules<M>(
        build: impl FnOnce(VarBuilder<'static>) -> Result<M>,
    ) -> Result<BTreeMap<String, WeightLayout>> {
        Ok(record(None, build)?.linear)
    }

    /// Every parameter's name and shape, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0
            .iter()
            .map(|(name, (shape, _))| (name.as_str(), shape))
    }

    /// Fresh values in f32. Each parameter draws from its own stream `(seed, "init/<name>", 0)`, so
    /// that adding or removing one leaves the others as they were.
    pub fn init(&self, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let draw = |(name, (shape, init)): (&String, &(Shape, Init))| {
            let mut rng = rng::stream(seed, &format!("init/{name}"), 0);
            let values = values(*init, shape.elem_count(), &mut rng)?;
            let tensor = Tensor::from_vec(values, shape.clone(), device)?;
            Ok((name.clone(), tensor))
        };
        self.0.iter().map(draw).collect()
    }

    /// An error that names everything that `params`, which may hold more than the model asks for, lack.
    pub fn require(&self, params: &Params) -> Result<()> {
        let shapes: Vec<_> = params.shapes().collect();
        let found = shapes.iter().map(|(name, shape)| (*name, shape));
        match self.mismatch(found, false) {
            Some(what) => Err(Error::Invalid(format!("parameters do not fit: {what}"))),
            None => Ok(()),
        }
    }

    /// Compares names and shapes with what the model asks for: `None` when everything fits, else one
    /// line that lists what is missing, what has another shape and, if `strict`, what nobody asked for.
    pub fn mismatch<'a>(
        &self,
        found: impl Iterator<Item = (&'a str, &'a Shape)>,
        strict: bool,
    ) -> Option<String> {
        let found: BTreeMap<_, _> = found.collect();
        let mut misfits = Misfits::default();
        for (name, shape) in self.iter() {
            misfits.compare(name, shape.dims(), found.get(name).map(|s| s.dims()));
        }
        let asked = |name: &&str| self.0.contains_key(*name);
        let unexpected = found.keys().filter(|name| strict && !asked(name));
        misfits.unexpected = unexpected.map(|name| (*name).to_owned()).collect();
        misfits.listed()
    }
}

/// The names of tensors that are not what a model asks for.
#[derive(Default)]
pub(crate) struct Misfits {
    missing: Vec<String>,
    misshaped: Vec<String>,
    pub(crate) unexpected: Vec<String>,
}

impl Misfits {
    /// Records the tensor `name` if it is not `found` or has another shape.
    pub(crate) fn compare(&mut self, name: &str, expected: &[usize], found: Option<&[usize]>) {
        match found {
            None => self.missing.push(name.to_owned()),
            Some(found) if found != expected => self
                .misshaped
                .push(format!("{name} (expected {expected:?}, found {found:?})")),
            Some(_) => {}
        }
    }

    /// All of them on one line, if there are any.
    pub(crate) fn listed(&self) -> Option<String> {
        let parts: Vec<_> = [
            ("missing", &self.missing),
            ("wrong shape", &self.misshaped),
            ("unexpected", &self.unexpected),
        ]
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", first_few(names)))
        .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The first eight of `names`, and how many more there are.
pub(crate) fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `n` draws of `init`.
fn values(init: Init, n: usize, rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    match init {
        Init::Const(value) => Ok(vec![value as f32; n]),
        Init::Randn { mean, stdev } => Ok((0..n)
            .map(|_| (mean + stdev * rng::normal(rng)) as f32)
            .collect()),
        Init::Uniform { lo, up } => Ok((0..n)
            .map(|_| (lo + (up - lo) * rng::uniform(rng)) as f32)
            .collect()),
        other => Err(Error::Invalid(format!(
            "initialisation {other:?} is not one our models use: give a constant, a normal or a uniform distribution"
        ))),
    }
}

fn poisoned() -> candle_core::Error {
    candle_core::Error::Msg("a thread panicked while a model was being laid out".into())
}

/// What a model asked for.
#[derive(Default)]
struct Asked {
    parameters: BTreeMap<String, (Shape, Init)>,
    /// The layers that asked whether they have an adapter.
    linear: BTreeMap<String, WeightLayout>,
}

/// Records what `build` asks of a `VarBuilder` over nothing, on which `adapter` is said to stand.
fn record<M>(
    adapter: Option<&Adapter>,
    build: impl FnOnce(VarBuilder<'static>) -> Result<M>,
) -> Result<Asked> {
    let asked = Arc::new(Mutex::new(Asked::default()));
    let backend = Box::new(Recorder {
        asked: asked.clone(),
        adapter: adapter.cloned(),
    });
    build(VarBuilder::from_backend(backend, DType::F32, Device::Cpu))?;
    let mut asked = asked.lock().map_err(|_| poisoned())?;
    Ok(std::mem::take(&mut asked))
}

/// Records each requested parameter; returns a broadcast zero, which occupies a single element.
struct Recorder {
    asked: Arc<Mutex<Asked>>,
    adapter: Option<Adapter>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        if let Some(answer) = layer::shape(self.adapter.as_ref(), name) {
            return answer;
        }
        let mut asked = self.asked.lock().map_err(|_| poisoned())?;
        let parameter = (shape.clone(), init);
        asked.parameters.insert(name.to_owned(), parameter);
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: our models always state the shape they expect")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let Ok(mut asked) = self.asked.lock() else {
            return false;
        };
        if let Some((module, layout)) = layer::asking(name) {
            asked.linear.insert(module.to_owned(), layout);
        }
        layer::answer(self.adapter.as_ref(), name)
            .unwrap_or_else(|| asked.parameters.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::of(|vb| {
            let normal = Init::Randn {
                mean: 0.0,
                stdev: 0.5,
            };
            vb.pp("a").get_with_hints((40, 50), "w", normal)?;
            vb.pp("b").get_with_hints(3, "w", Init::Const(1.0))?;
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn a_parameters_initial_values_depend_on_seed_and_name_only() {
        let values = |schema: &Schema, seed| {
            schema.init(seed, &Device::Cpu).unwrap()["a.w"]
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let mut alone = schema();
        alone.0.remove("b.w");
        assert_eq!(values(&schema(), 1), values(&alone, 1));
        assert_ne!(values(&schema(), 1), values(&schema(), 2));
        // The standard deviation of 2000 draws of N(0, 0.5) lies within five standard errors
        // (0.5/√4000 each) of 0.5.
        let draws = values(&schema(), 1);
        let std = (draws.iter().map(|x| x * x).sum::<f32>() / draws.len() as f32).sqrt();
        assert!((std - 0.5).abs() < 0.04, "{std}");
    }

    #[test]
    fn a_mismatch_lists_every_missing_misshaped_and_unexpected_name() {
        let (three, wrong) = (Shape::from(3), Shape::from((2, 2)));
        let schema = schema();
        let found = || [("a.w", &wrong), ("c.w", &three)].into_iter();
        assert_eq!(
            schema.mismatch(found(), true).unwrap(),
            "missing: b.w; wrong shape: a.w (expected [40, 50], found [2, 2]); unexpected: c.w"
        );
        assert!(!schema.mismatch(found(), false).unwrap().contains("c.w"));
        assert_eq!(schema.mismatch(schema.iter(), true), None);
    }
}
