//! The heads: small networks on cached hidden states.

use anyhow::{Context as _, Result, anyhow, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rand::RngCore;
use rlhf_base::rng::{normal, stream};
use rlhf_ops::{WeightLayout, gelu_tanh, linear, parallel_map, read_to_host};

/// Units of each of the two hidden layers.
const WIDTH: usize = 64;

/// H heads over the same features. They live on the CPU, wherever the model does that the features come from: they are small.
#[derive(Clone, Debug)]
pub struct Ensemble {
    /// `[D]`: what is subtracted from features, and what they are then divided by.
    pub(super) shift: Tensor,
    pub(super) scale: Tensor,
    pub(super) heads: Vec<Head>,
}

/// `r(x) = w₃·g(W₂ g(W₁ x + b₁) + b₂) + b₃` with g = GELU, two hidden layers of 64 units.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// W₁ `[64, D]`, b₁ `[64]`, W₂ `[64, 64]`, b₂ `[64]`, w₃ `[1, 64]`, b₃ `[1]`.
    pub(super) weights: [Tensor; 6],
}

impl Head {
    /// Names of the weights in a file, in their order.
    pub(super) const NAMES: [&str; 6] = [
        "hidden.0.weight",
        "hidden.0.bias",
        "hidden.1.weight",
        "hidden.1.bias",
        "score.weight",
        "score.bias",
    ];

    /// Shapes of the weights over `width` features, in their order.
    pub(super) fn shapes(width: usize) -> [Vec<usize>; 6] {
        [
            vec![WIDTH, width],
            vec![WIDTH],
            vec![WIDTH, WIDTH],
            vec![WIDTH],
            vec![1, WIDTH],
            vec![1],
        ]
    }

    /// Weights N(0, 2/inputs) into the hidden layers (He et al. 2015) and N(0, 1/inputs) into the score, biases 0, from a stream of its own.
    pub(super) fn fresh(width: usize, seed: u64, index: usize) -> Result<Self> {
        let mut rng = stream(seed, "ensemble/start", index as u64);
        let draw = |rng: &mut dyn RngCore, shape: &[usize], gain: f64| {
            let deviation = (gain / shape[1] as f64).sqrt();
            let mut rng = rng;
            let count = shape.iter().product();
            let drawn: Vec<f32> = (0..count)
                .map(|_| (normal(&mut rng) * deviation) as f32)
                .collect();
            Tensor::from_vec(drawn, shape, &Device::Cpu)
        };
        let [w1, b1, w2, b2, w3, b3] = Self::shapes(width);
        let zeros = |shape: Vec<usize>| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        Ok(Self {
            weights: [
                draw(&mut rng, &w1, 2.0)?,
                zeros(b1)?,
                draw(&mut rng, &w2, 2.0)?,
                zeros(b2)?,
                draw(&mut rng, &w3, 1.0)?,
                zeros(b3)?,
            ],
        })
    }

    /// The head of six weights, in the order of [`Head::NAMES`].
    pub(super) fn of(weights: Vec<Tensor>) -> Result<Self> {
        let count = weights.len();
        let weights = weights.try_into();
        let weights = weights.map_err(|_| anyhow!("a head has six weights, not {count}"))?;
        Ok(Self { weights })
    }

    /// Copies of the weights that record gradients.
    pub(super) fn trainable(&self) -> Result<[Var; 6]> {
        let [w1, b1, w2, b2, w3, b3] = self.weights.each_ref().map(Var::from_tensor);
        Ok([w1?, b1?, w2?, b2?, w3?, b3?])
    }

    /// Scores `[N]` of standardised features `[N, D]` under `weights`.
    pub(super) fn scores(weights: [&Tensor; 6], features: &Tensor) -> Result<Tensor> {
        let [w1, b1, w2, b2, w3, b3] = weights;
        let layer = |x: &Tensor, w, b| linear(x, w, WeightLayout::OutIn, Some(b));
        let hidden = gelu_tanh(&layer(features, w1, b1)?)?;
        let hidden = gelu_tanh(&layer(&hidden, w2, b2)?)?;
        Ok(layer(&hidden, w3, b3)?.squeeze(1)?)
    }
}

impl Ensemble {
    /// `heads` heads with random weights, over features with the means and deviations of `features`, f32 `[N, D]`. Features that are the
    /// same everywhere stay 0.
    pub fn fresh(features: &Tensor, heads: usize, seed: u64) -> Result<Self> {
        let (rows, width) = features.dims2()?;
        ensure!(
            rows > 0 && heads > 1,
            "an ensemble needs features and at least two heads"
        );
        let values = read_to_host(features)?;
        let (mut shift, mut scale) = (vec![0.0; width], vec![0.0; width]);
        for row in values.chunks(width) {
            for (sum, x) in shift.iter_mut().zip(row) {
                *sum += f64::from(*x) / rows as f64;
            }
        }
        for row in values.chunks(width) {
            for ((sum, x), mean) in scale.iter_mut().zip(row).zip(&shift) {
                *sum += (f64::from(*x) - mean).powi(2) / rows as f64;
            }
        }
        let deviation = |variance: &f64| {
            let deviation = variance.sqrt();
            if deviation > 0.0 { deviation } else { 1.0 }
        };
        let tensor = |list: Vec<f64>| {
            let list: Vec<f32> = list.into_iter().map(|x| x as f32).collect();
            Tensor::new(list, &Device::Cpu)
        };
        let scale = scale.iter().map(deviation).collect();
        let heads = (0..heads).map(|index| Head::fresh(width, seed, index));
        Ok(Self {
            shift: tensor(shift)?,
            scale: tensor(scale)?,
            heads: heads.collect::<Result<_>>()?,
        })
    }

    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Width of the features.
    pub fn width(&self) -> usize {
        self.shift.elem_count()
    }

    /// Features `[N, D]` of any model, as the heads read them.
    pub(super) fn standardise(&self, features: &Tensor) -> Result<Tensor> {
        let (_, width) = features.dims2()?;
        ensure!(
            width == self.width(),
            "the heads were fitted to hidden states of {} numbers, and these have {width}: they belong to another model",
            self.width()
        );
        let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        Ok(features
            .broadcast_sub(&self.shift)?
            .broadcast_div(&self.scale)?)
    }

    /// `r_h` of every row of `features` `[N, D]`, by head: `[H][N]`.
    pub fn scores(&self, features: &Tensor) -> Result<Vec<Vec<f64>>> {
        let features = self.standardise(features)?;
        let of = |index: usize| -> Result<Vec<f64>> {
            let scores = Head::scores(self.heads[index].weights.each_ref(), &features)?;
            let scores = read_to_host(&scores)?;
            Ok(scores.into_iter().map(f64::from).collect())
        };
        let all: Result<Vec<Vec<f64>>> = parallel_map(self.heads.len(), of).into_iter().collect();
        all.context("scoring with the heads")
    }
}
