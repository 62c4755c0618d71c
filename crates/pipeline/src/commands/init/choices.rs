//! The numbers that `rlhf init` chooses, each as a function of what was found, so that the file can say why.

use candle_core::DType;
use rlhf_lm::Outline;
use rlhf_train::{Ahead, Sampled};

/// Rank of adapters: what is usual, and enough for the sizes this program trains.
pub(super) const RANK: u64 = 16;

/// Share of the free memory that may be planned for: an estimate is no measurement.
const MOST_OF_MEMORY: f64 = 0.8;

/// Bytes that the largest stage takes, as its plan counts them: PPO with what it samples, or the stages that train on rows.
pub(super) fn bytes_needed(model: &Outline, how: How, ppo: Option<Sampled>) -> u64 {
    let ahead = Ahead {
        config: &model.config,
        size: &model.size,
        rank: how.lora.then_some(RANK),
        dtype: DType::F32,
        recompute: how.recompute,
    };
    let items = match ppo {
        Some(sampled) => ahead.ppo(sampled),
        None => ahead.on_rows(),
    };
    items.iter().map(|item| item.bytes).sum()
}

/// How a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// An adapter over frozen weights, in place of the weights.
    pub(super) lora: bool,
    /// Activations are computed again.
    pub(super) recompute: bool,
}

/// The first that fits into `free` bytes of: all weights, the same with recomputed activations, an adapter, the same with them. An adapter
/// alone where it `must` be one; the smallest where nothing fits.
pub(super) fn how(model: &Outline, must: bool, ppo: Option<Sampled>, free: u64) -> How {
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    let mut ways = ways
        .map(|(lora, recompute)| How { lora, recompute })
        .into_iter();
    let found = ways.find(|way| (way.lora || !must) && fits(bytes_needed(model, *way, ppo), free));
    found.unwrap_or(How {
        lora: true,
        recompute: true,
    })
}

/// Whether that many bytes can be planned for.
pub(super) fn fits(bytes: u64, free: u64) -> bool {
    bytes as f64 <= MOST_OF_MEMORY * free as f64
}

/// `n`, rounded up to a multiple of `step`.
pub(super) fn round_up(n: usize, step: usize) -> usize {
    n.div_ceil(step) * step
}

/// Rows of an optimizer step: about fifty steps in a pass over the rows, but no fewer rows than 4 and no more than 32.
pub(super) fn batch(rows: usize) -> usize {
    (rows / 50).clamp(4, 32).next_power_of_two().min(32)
}

/// Passes over the rows: enough for sixty steps, at most three; a further one mostly memorises.
pub(super) fn epochs(rows: usize, batch: usize) -> usize {
    (60 * batch).div_ceil(rows.max(1)).clamp(1, 3)
}

/// Optimizer steps of a pass.
pub(super) fn steps(rows: usize, batch: usize, epochs: usize) -> usize {
    rows.div_ceil(batch) * epochs
}

/// Share of the prompts that is held out: a tenth; of few a fifth, so that something can be told from them, and at least one.
pub(super) fn share(prompts: usize) -> f64 {
    match prompts {
        ..5 => 0.5,
        5..200 => 0.2,
        _ => 0.1,
    }
}

/// Responses of a step of PPO.
pub(super) const EPISODES: usize = 64;

/// Responses to each prompt: one, so that a step sees many prompts; of few prompts four or more, so that none comes twice in a step.
pub(super) fn answers_each(prompts: usize) -> usize {
    let mut each = if prompts < EPISODES { 4 } else { 1 };
    while EPISODES / each > prompts && each < EPISODES {
        each *= 2;
    }
    each
}

/// What learns at a rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learns {
    Demonstrations,
    Feedback,
    Policy,
}

/// Learning rate: small models bear, and need, larger ones; an adapter more than all weights.
pub(super) fn lr(what: Learns, parameters: u64, lora: bool) -> f64 {
    let rates = match what {
        Learns::Demonstrations => [1e-3, 3e-4, 5e-5, 2e-5],
        Learns::Feedback => [5e-4, 1e-4, 2e-5, 1e-5],
        Learns::Policy => [3e-4, 5e-5, 1e-5, 3e-6],
    };
    match (lora, parameters) {
        (true, _) if what == Learns::Demonstrations => 2e-4,
        (true, _) => 1e-4,
        (_, ..10_000_000) => rates[0],
        (_, ..100_000_000) => rates[1],
        (_, ..1_000_000_000) => rates[2],
        _ => rates[3],
    }
}

/// How far from the truth a share measured on `n` rows may be, at 95 %: half the interval of a share of one half.
pub(super) fn uncertainty(n: usize) -> f64 {
    1.96 * (0.25 / n.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_powers_of_two_and_passes_are_few() {
        for (rows, size, passes) in [(12, 4, 3), (363, 8, 2), (539, 16, 2), (5_000, 32, 1)] {
            assert_eq!((batch(rows), epochs(rows, batch(rows))), (size, passes));
        }
        assert_eq!(steps(363, 8, 2), 92);
        assert_eq!((round_up(60, 64), round_up(65, 64)), (64, 128));
    }

    #[test]
    fn something_is_held_out_of_two_prompts_and_more() {
        for prompts in 2..1_000 {
            let held_out = (prompts as f64 * share(prompts)) as usize;
            assert!((1..prompts).contains(&held_out), "{prompts}");
        }
    }

    #[test]
    fn no_prompt_comes_twice_in_a_step() {
        for (prompts, each) in [(64, 1), (63, 4), (16, 4), (15, 8), (7, 16), (1, 64)] {
            assert_eq!(answers_each(prompts), each);
            assert!(EPISODES / each <= prompts);
        }
    }

    /// 1.96·√(p(1 − p)/n) at p = ½: ±9.8 points of a hundred rows.
    #[test]
    fn a_share_of_a_hundred_rows_is_known_to_ten_points() {
        assert!((uncertainty(100) - 0.098).abs() < 1e-9);
    }

    fn bundled() -> Outline {
        let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/model");
        Outline::read(bundled.as_ref(), &rlhf_lm::Bases::default()).unwrap()
    }

    /// By hand: policy and critic 16 bytes a parameter, reference and reward model 4, half a gibibyte of activations.
    #[test]
    fn the_first_way_that_fits_is_taken() {
        let model = bundled();
        let all = How {
            lora: false,
            recompute: false,
        };
        let few = Some(Sampled {
            rows: EPISODES,
            per_prompt: 1,
            prompt: 64,
            response: 16,
        });
        let needed = bytes_needed(&model, all, few);
        let activations = (1 << 29) as f64;
        let weights = 40.0 * model.size.parameters as f64;
        assert!((needed as f64 - weights - activations).abs() < 0.2 * activations);
        assert_eq!(how(&model, false, few, 2 * needed), all);
        let adapter = how(&model, true, few, 2 * needed);
        assert!(adapter.lora && !adapter.recompute);
        // Nothing fits into nothing.
        let least = how(&model, false, few, 0);
        assert!(least.lora && least.recompute);
        assert!(fits(80, 100) && !fits(81, 100));
    }
}
