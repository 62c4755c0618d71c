//! The frequencies themselves, plain and stretched.

use std::f64::consts::TAU;

use super::{RopeScaling, Yarn};

/// `f_i = θ^(−2i/dim)` for i < dim/2 (Su et al. 2021, arXiv:2104.09864, §3.2.2), stretched by `scaling`.
///
/// In f32 throughout, as `transformers` does: at position 8192 one unit in the last place of a
/// frequency turns a head by 5e-4.
pub(crate) fn frequencies(dim: usize, theta: f64, scaling: &RopeScaling) -> Vec<f32> {
    let powers = (0..dim)
        .step_by(2)
        .map(|i| (theta as f32).powf(i as f32 / dim as f32));
    match scaling {
        // Dynamic scaling changes nothing up to the model's own length, and we take no longer sequences.
        RopeScaling::None | RopeScaling::Dynamic { .. } => powers.map(|p| 1.0 / p).collect(),
        RopeScaling::Linear { factor } => powers.map(|p| 1.0 / p / *factor as f32).collect(),
        RopeScaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => {
            let (factor, low, high) = (*factor as f32, *low as f32, *high as f32);
            let stretched = |power: f32| {
                let f = 1.0 / power;
                let periods = *original as f32 * f / std::f32::consts::TAU;
                if periods > high {
                    f
                } else if periods < low {
                    f / factor
                } else {
                    let fast = (periods - low) / (high - low);
                    (1.0 - fast) * f / factor + fast * f
                }
            };
            powers.map(stretched).collect()
        }
        RopeScaling::Yarn(yarn) => {
            let (first, last) = ramp(dim, theta, yarn);
            let stretched = |(i, power): (usize, f32)| {
                let slow = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0) as f32;
                let kept = 1.0 - slow;
                1.0 / (yarn.factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
            };
            powers.enumerate().map(stretched).collect()
        }
        RopeScaling::Proportional { part, factor } => {
            let turned = (part * dim as f64 / 2.0) as usize;
            let of = |(i, power): (usize, f32)| match i < turned {
                true => 1.0 / power / *factor as f32,
                false => 0.0,
            };
            powers.enumerate().map(of).collect()
        }
        RopeScaling::LongRope(long) => powers
            .zip(&long.short)
            .map(|(power, divisor)| 1.0 / (*divisor as f32 * power))
            .collect(),
    }
}

/// Between which frequencies, by number, YaRN goes over from kept to divided ones (Peng et al. 2023, arXiv:2309.00071, §3.2): those that
/// turn `fast` times and `slow` times within the original length.
fn ramp(dim: usize, theta: f64, yarn: &Yarn) -> (f64, f64) {
    let number =
        |turns: f64| dim as f64 * (yarn.original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let (mut first, mut last) = (number(yarn.fast), number(yarn.slow));
    if yarn.truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    (first, last) = (first.max(0.0), last.min(dim as f64 - 1.0));
    // A ramp without length would divide by 0; `transformers` takes this one.
    (first, if first == last { last + 0.001 } else { last })
}
