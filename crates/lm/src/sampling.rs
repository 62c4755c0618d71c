//! From one row of logits to one token.
//!
//! The order of the operations is that of `transformers`: repetition penalty, forbidden tokens,
//! temperature, top-k, top-p, then one draw.

use rlhf_ops::{argmax, pick, softmax_weights};
use serde::{Deserialize, Serialize};

use crate::filters::{keep, penalise};
use crate::{Error, Result};

/// How responses are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// τ: logits are divided by it. 0 takes the most likely token instead of drawing one.
    pub temperature: f64,
    /// Keep only this many of the most likely tokens (and those tied with the last of them).
    pub top_k: Option<usize>,
    /// Keep only the fewest most likely tokens that together have at least this probability.
    pub top_p: Option<f64>,
    /// Divides the positive and multiplies the negative logits of tokens already in prompt or
    /// response. 1 is off.
    pub repetition_penalty: f64,
    /// A response is cut at this many tokens.
    pub max_new_tokens: usize,
    /// No EOS token before this many tokens.
    pub min_new_tokens: usize,
    /// A response ends with the token that completes one of these strings.
    pub stop: Vec<String>,
    /// Names the random stream; see [`rlhf_base::rng`].
    pub seed: u64,
    /// How many responses are decoded side by side: bounds memory, never changes a result.
    pub max_rows: usize,
    /// Tokens that are guessed at a time from what prompt and response have said before, and kept where they are drawn; 0 is off. Only speed
    /// depends on it.
    pub lookup: usize,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            repetition_penalty: 1.0,
            max_new_tokens: 128,
            min_new_tokens: 0,
            stop: Vec::new(),
            seed: 0,
            max_rows: 64,
            lookup: 0,
        }
    }
}

impl SamplingConfig {
    /// An error that names the first setting that makes no sense.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Invalid(what));
        // Below, a difference of logits over the temperature overflows what f32 can hold.
        if self.temperature != 0.0 && !(1e-3..=1e3).contains(&self.temperature) {
            return wrong(format!(
                "the temperature is {:?}: it must be 0, which takes the most likely token, or from 0.001 to 1000",
                self.temperature
            ));
        }
        if self.top_k == Some(0) {
            return wrong(
                "top_k is 0, which leaves no token to sample: leave it out to keep all".to_owned(),
            );
        }
        if let Some(p) = self.top_p.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return wrong(format!(
                "top_p is {p}, expected a number above 0 and at most 1"
            ));
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            let found = self.repetition_penalty;
            return wrong(format!(
                "repetition_penalty is {found}, expected a positive number (1 is off)"
            ));
        }
        if self.max_new_tokens == 0 || self.min_new_tokens > self.max_new_tokens {
            return wrong(format!(
                "max_new_tokens is {} and min_new_tokens is {}: expected at least one token and min ≤ max",
                self.max_new_tokens, self.min_new_tokens
            ));
        }
        if self.stop.iter().any(String::is_empty) {
            return wrong(
                "a stop string is empty, so every response would end at once: remove it".to_owned(),
            );
        }
        if self.max_rows == 0 {
            return wrong(
                "max_rows is 0, so nothing could be sampled: expected at least 1".to_owned(),
            );
        }
        Ok(())
    }
}

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draw {
    /// The token.
    pub(crate) token: u32,
    /// `log softmax(z/τ)[token]` of the model's own logits z: the full distribution, before penalty
    /// and filters (τ = 1 when greedy).
    pub(crate) logprob: f32,
}

/// Draws tokens; holds only scratch memory that successive rows reuse.
#[derive(Default)]
pub(crate) struct Sampler {
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    unadjusted: Vec<f32>,
    kept: Vec<u32>,
    few: Vec<f32>,
}

impl Sampler {
    /// One token from the logits `z` of one row, by checked settings. `seen` holds the tokens of prompt and response so
    /// far (for the repetition penalty), `forbidden` the tokens that may not come now. `u`, uniform
    /// in [0, 1), decides which; greedy sampling does not look at it.
    pub(crate) fn draw(
        &mut self,
        config: &SamplingConfig,
        z: &[f32],
        seen: &[u32],
        forbidden: &[u32],
        u: f64,
    ) -> Result<Draw> {
        let greedy = config.temperature == 0.0;
        let inverse_temperature = if greedy {
            1.0
        } else {
            1.0 / config.temperature
        } as f32;

        let penalised = config.repetition_penalty != 1.0 && !seen.is_empty();
        let logits: &[f32] = if penalised || !forbidden.is_empty() {
            self.adjusted.clear();
            self.adjusted.extend_from_slice(z);
            penalise(
                &mut self.adjusted,
                z,
                seen,
                config.repetition_penalty as f32,
            );
            for &token in forbidden {
                if let Some(logit) = self.adjusted.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            &self.adjusted
        } else {
            z
        };

        let best = argmax(logits);
        let peak = best.map_or(f32::NAN, |i| logits[i]);
        let (Some(best), true) = (best, peak.is_finite()) else {
            return Err(Error::NotSampled(format!(
                "the largest of {} logits is {peak} (weights that are not finite, or every token forbidden)",
                z.len()
            )));
        };
        let total = softmax_weights(logits, peak, inverse_temperature, &mut self.weights);
        let (full_peak, full_total) = if std::ptr::eq(logits, z) {
            (peak, total)
        } else {
            let peak = argmax(z).map_or(f32::NAN, |i| z[i]);
            let total = softmax_weights(z, peak, inverse_temperature, &mut self.unadjusted);
            (peak, total)
        };
        if !full_total.is_finite() {
            return Err(Error::NotSampled("the logits hold NaN or +∞".to_owned()));
        }

        let token = if greedy {
            best
        } else {
            if config.top_k.is_some() || config.top_p.is_some_and(|p| p < 1.0) {
                keep(&self.weights, config.top_k, config.top_p, &mut self.kept);
                self.few.clear();
                self.few
                    .extend(self.kept.iter().map(|&i| self.weights[i as usize]));
                pick(&self.few, u).map_or(best, |i| self.kept[i] as usize)
            } else {
                pick(&self.weights, u).unwrap_or(best)
            }
        };
        let above_peak = f64::from((z[token] - full_peak) * inverse_temperature);
        Ok(Draw {
            token: token as u32,
            logprob: (above_peak - full_total.ln()) as f32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{random_logits, support_by_brute_force};
    use rlhf_base::rng::{stream, uniform};

    fn softmax(z: &[f32], temperature: f64) -> Vec<f64> {
        let w: Vec<f64> = z
            .iter()
            .map(|l| (f64::from(*l) / temperature).exp())
            .collect();
        let total: f64 = w.iter().sum();
        w.iter().map(|w| w / total).collect()
    }

    fn frequencies(config: &SamplingConfig, z: &[f32], n: usize) -> Vec<f64> {
        let mut counts = vec![0.0; z.len()];
        let mut sampler = Sampler::default();
        for i in 0..n {
            let mut rng = stream(config.seed, "test", i as u64);
            counts[sampler
                .draw(config, z, &[], &[], uniform(&mut rng))
                .unwrap()
                .token as usize] += 1.0;
        }
        counts
    }

    /// Pearson's statistic of counts against probabilities, over the cells that can occur.
    fn chi_square(counts: &[f64], p: &[f64]) -> f64 {
        let n: f64 = counts.iter().sum();
        counts
            .iter()
            .zip(p)
            .filter(|(_, p)| **p > 0.0)
            .map(|(c, p)| (c - n * p).powi(2) / (n * p))
            .sum()
    }

    #[test]
    fn frequencies_follow_the_softmax_at_every_temperature() {
        let z = random_logits(12, 0);
        for temperature in [0.5, 0.7, 1.0, 2.0] {
            let config = SamplingConfig {
                temperature,
                ..Default::default()
            };
            let counts = frequencies(&config, &z, 20_000);
            let chi2 = chi_square(&counts, &softmax(&z, temperature));
            assert!(chi2 < 31.3, "τ={temperature}: χ²={chi2}"); // χ²₁₁ exceeds 31.3 with probability 0.001
        }
    }

    #[test]
    fn logprob_is_that_of_the_full_distribution_whatever_the_filters() {
        let z = random_logits(50, 3);
        for (temperature, top_k, repetition_penalty) in
            [(1.0, None, 1.0), (0.7, Some(5), 1.0), (1.3, Some(2), 1.5)]
        {
            let config = SamplingConfig {
                temperature,
                top_k,
                repetition_penalty,
                ..Default::default()
            };
            let p = softmax(&z, temperature);
            let mut sampler = Sampler::default();
            for i in 0..20 {
                let draw = sampler
                    .draw(
                        &config,
                        &z,
                        &[1, 2, 3],
                        &[4],
                        uniform(&mut stream(0, "test", i)),
                    )
                    .unwrap();
                let expected = p[draw.token as usize].ln();
                assert!(
                    (f64::from(draw.logprob) - expected).abs() < 1e-5,
                    "{draw:?} {expected}"
                );
            }
        }
    }

    #[test]
    fn filtered_frequencies_follow_the_renormalised_softmax() {
        let z = random_logits(12, 7);
        let config = SamplingConfig {
            top_k: Some(6),
            top_p: Some(0.9),
            ..Default::default()
        };
        let weights: Vec<f32> = z.iter().map(|l| l.exp()).collect();
        let support = support_by_brute_force(&weights, Some(6), Some(0.9));
        let mut p = softmax(&z, 1.0);
        let inside: f64 = support.iter().map(|i| p[*i as usize]).sum();
        for (i, p) in p.iter_mut().enumerate() {
            *p = if support.contains(&(i as u32)) {
                *p / inside
            } else {
                0.0
            };
        }
        let counts = frequencies(&config, &z, 20_000);
        assert!(counts.iter().zip(&p).all(|(c, p)| *p > 0.0 || *c == 0.0));
        let chi2 = chi_square(&counts, &p);
        assert!(chi2 < 20.6, "χ²={chi2}"); // at most 6 cells: χ²₅ exceeds 20.5 with probability 0.001
    }

    #[test]
    fn greedy_takes_the_first_largest_logit_after_the_penalty() {
        let config = SamplingConfig {
            temperature: 0.0,
            repetition_penalty: 2.0,
            ..Default::default()
        };
        let mut sampler = Sampler::default();
        let mut rng = stream(0, "test", 0);
        assert_eq!(
            sampler
                .draw(&config, &[1.0, 3.0, 3.0], &[], &[], uniform(&mut rng))
                .unwrap()
                .token,
            1
        );
        assert_eq!(
            sampler
                .draw(&config, &[1.0, 3.0, 3.0], &[1], &[], uniform(&mut rng))
                .unwrap()
                .token,
            2
        );
        assert_eq!(
            sampler
                .draw(&config, &[1.0, 3.0, 3.0], &[], &[1, 2], uniform(&mut rng))
                .unwrap()
                .token,
            0
        );
    }

    #[test]
    fn a_forbidden_token_never_comes() {
        let config = SamplingConfig::default();
        let mut sampler = Sampler::default();
        for i in 0..200 {
            let draw = sampler
                .draw(
                    &config,
                    &[0.0, 9.0, 0.0],
                    &[],
                    &[1],
                    uniform(&mut stream(0, "test", i)),
                )
                .unwrap();
            assert_ne!(draw.token, 1);
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let config = SamplingConfig::default();
        let mut sampler = Sampler::default();
        let mut rng = stream(0, "test", 0);
        for z in [
            [f32::NAN, 0.0],
            [f32::INFINITY, 0.0],
            [f32::NEG_INFINITY, f32::NEG_INFINITY],
        ] {
            assert!(
                sampler
                    .draw(&config, &z, &[], &[], uniform(&mut rng))
                    .is_err(),
                "{z:?}"
            );
        }
        assert!(
            sampler
                .draw(&config, &[0.0, 1.0], &[], &[0, 1], uniform(&mut rng))
                .is_err()
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        type Change = fn(&mut SamplingConfig);
        let cases: [(Change, &str); 8] = [
            (|c| c.temperature = -1.0, "temperature"),
            (|c| c.top_k = Some(0), "top_k"),
            (|c| c.top_p = Some(0.0), "top_p"),
            (|c| c.repetition_penalty = f64::NAN, "repetition_penalty"),
            (|c| c.max_new_tokens = 0, "max_new_tokens"),
            (|c| c.min_new_tokens = 1000, "min_new_tokens"),
            (|c| c.stop = vec![String::new()], "stop"),
            (|c| c.max_rows = 0, "max_rows"),
        ];
        for (change, name) in cases {
            let mut config = SamplingConfig::default();
            change(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
