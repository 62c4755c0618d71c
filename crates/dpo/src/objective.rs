//! From judgements to the loss of a step.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rlhf_train::feedback::{Comparison, Item};
use rlhf_train::statistics;

use crate::config::Config;
use crate::judged::liked;
use crate::loss::{Loss, kto_loss, preference_loss};

/// The loss of `items`, for their log-ratios `[R]`.
///
/// `share` is what an item weighs, or for `kto`, which judges answers one by one, an answer; `z0` is KTO's reference point.
pub(crate) fn feedback_loss(
    config: &Config,
    ratios: &Tensor,
    items: &[&Item],
    share: f32,
    z0: f64,
) -> Result<Tensor> {
    if config.loss == Loss::Kto {
        let flags = items.iter().flat_map(|item| liked(item));
        let answers: Vec<(bool, f32)> = flags.map(|liked| (liked, share)).collect();
        let lambdas = (config.desirable_weight, config.undesirable_weight);
        return Ok(kto_loss(ratios, &answers, z0, config.beta, lambdas)?);
    }
    let terms = comparisons(config, items, share);
    if terms.is_empty() {
        return Ok(Tensor::zeros((), DType::F32, ratios.device())?);
    }
    let (loss, beta) = (config.loss, config.beta);
    Ok(preference_loss(
        loss,
        ratios,
        &terms,
        beta,
        config.label_smoothing,
    )?)
}

/// What the judgements of `items` compare, each item with the weight `share`.
fn comparisons(config: &Config, items: &[&Item], share: f32) -> Vec<Comparison> {
    let mut first = 0;
    let mut terms = Vec::new();
    for item in items {
        terms.extend(item.comparisons(first, config.ties, share));
        first += item.responses.len();
    }
    terms
}

/// What an item weighs in a step over `items`, or for `kto` an answer: the loss is a mean.
pub(crate) fn share(config: &Config, items: &[&Item]) -> f32 {
    let answers = || items.iter().map(|item| item.responses.len()).sum();
    let terms: usize = match config.loss {
        Loss::Kto => answers(),
        _ => items.len(),
    };
    1.0 / terms as f32
}

/// KTO's reference point `z₀ = max(0, mean log-ratio of mismatched answers)`; 0 for other losses.
pub(crate) fn reference_point(ratios: &[f32]) -> f64 {
    let ratios: Vec<f64> = ratios.iter().map(|ratio| f64::from(*ratio)).collect();
    match ratios.as_slice() {
        [] => 0.0,
        some => statistics::mean(some).max(0.0),
    }
}

/// The loss of `items` as one number, for log-ratios that are known already.
pub(crate) fn loss_of(config: &Config, ratios: &[f32], items: &[&Item], z0: f64) -> Result<f64> {
    let ratios = Tensor::new(ratios, &Device::Cpu)?;
    let loss = feedback_loss(config, &ratios, items, share(config, items), z0)?;
    Ok(f64::from(rlhf_ops::read_to_host(&loss)?[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Text;
    use rlhf_train::feedback::{Judgement, Ties};

    fn item(judgement: Judgement, responses: usize) -> Item {
        Item {
            prompt: vec![1],
            responses: vec![vec![2]; responses],
            judgement,
            source: None,
            whole: true,
            texts: (Text::from(""), Vec::new()),
        }
    }

    /// Written out in f64: a pair of which three judges of four agree, a ranking with a tie, a choice of the best.
    #[test]
    fn every_item_weighs_the_same_however_a_step_is_cut() {
        let vote = Judgement::Ranks {
            ranks: vec![1.0, 2.0],
            margin: 0.0,
            preference: 0.75,
        };
        let ranking = Judgement::Ranks {
            ranks: vec![1.0, 2.0, 2.0],
            margin: 0.0,
            preference: 1.0,
        };
        let items = [item(vote, 2), item(ranking, 3), item(Judgement::Best(1), 3)];
        let ratios = [0.5f32, -1.0, 2.0, 0.25, -0.5, 0.0, 1.0, -2.0];
        let config = Config {
            beta: 0.5,
            ties: Ties::Half,
            ..Config::default()
        };
        let l = |h: f64| (-0.5 * h).exp().ln_1p();
        let first = 0.75 * l(1.5) + 0.25 * l(-1.5);
        let second = (l(1.75) + l(2.5) + 0.5 * (l(0.75) + l(-0.75))) / 3.0;
        let third = (l(1.0) + l(3.0)) / 2.0;
        let want = (first + second + third) / 3.0;
        let all: Vec<&Item> = items.iter().collect();
        let whole = loss_of(&config, &ratios, &all, 0.0).unwrap();
        assert!((whole - want).abs() < 1e-6, "{whole} against {want}");
        let mut cut = 0.0;
        for (part, own) in [(0..1, 0..2), (1..3, 2..8)] {
            let ratios = Tensor::new(&ratios[own], &Device::Cpu).unwrap();
            let loss = feedback_loss(&config, &ratios, &all[part], 1.0 / 3.0, 0.0).unwrap();
            cut += f64::from(loss.to_scalar::<f32>().unwrap());
        }
        assert!((cut - want).abs() < 1e-6, "{cut} against {want}");
    }

    /// By definition.
    #[test]
    fn the_reference_point_is_a_mean_that_is_never_negative() {
        assert_eq!(reference_point(&[1.0, -0.5]), 0.25);
        assert_eq!(reference_point(&[1.0, -3.0]), 0.0);
        assert_eq!(reference_point(&[]), 0.0);
    }

    /// Written out in f64: two thumbs and a pair are four answers, and each weighs a quarter.
    #[test]
    fn kto_takes_a_pair_for_two_answers() {
        let pair = Judgement::Ranks {
            ranks: vec![1.0, 2.0],
            margin: 0.0,
            preference: 1.0,
        };
        let items = [
            item(Judgement::Thumbs(true), 1),
            item(pair, 2),
            item(Judgement::Thumbs(false), 1),
        ];
        let config = Config {
            loss: Loss::Kto,
            desirable_weight: 1.2,
            ..Config::default()
        };
        let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (up, down) = (
            |r: f64| 1.2 * (1.0 - sigma(0.1 * (r - 0.3))),
            |r: f64| 1.0 - sigma(-0.1 * (r - 0.3)),
        );
        let want = (up(0.5) + up(1.0) + down(-2.0) + down(0.25)) / 4.0;
        let all: Vec<&Item> = items.iter().collect();
        let got = loss_of(&config, &[0.5, 1.0, -2.0, 0.25], &all, 0.3).unwrap();
        assert!((got - want).abs() < 1e-6, "{got} against {want}");
    }
}
