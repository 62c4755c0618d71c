//! A policy against its reference on held-out prompts: score, wins, KL per episode.

use anyhow::Result;
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer};
use rlhf_train::statistics;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Episode, PromptRow, Scorer, kl_per_episode, respond, response_logprobs};

/// Compares policies with one reference: everyone answers the same prompts with the same seed.
pub struct Evaluator<'a> {
    /// Held-out prompts.
    pub prompts: &'a [PromptRow],
    /// The frozen reference.
    pub reference: &'a CausalLm,
    /// What scores.
    pub reward: &'a dyn Scorer,
    /// The tokenizer of policy and reference.
    pub tokenizer: &'a Tokenizer,
    /// How both sides sample.
    pub sampling: SamplingConfig,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
}

/// One response per prompt, with its score.
pub struct ScoredAnswers {
    /// The responses, in order of prompt.
    pub episodes: Vec<Episode>,
    /// S(x, y) of each.
    pub scores: Vec<f64>,
}

/// One prompt, answered by policy and reference.
#[derive(Clone, Debug, Serialize)]
pub struct SideBySide {
    /// The prompt's text as the policy reads it.
    pub prompt: String,
    /// The policy's response.
    pub response: String,
    /// Its score.
    pub score: f64,
    /// The reference's response to the same prompt.
    pub reference: String,
    /// Its score.
    pub reference_score: f64,
}

/// Means over held-out prompts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Evaluation {
    /// Mean calibrated score.
    pub score: f64,
    /// Mean score of the reference's answers to the same prompts.
    pub reference_score: f64,
    /// Mean KL per episode to the reference.
    pub kl: f64,
    /// Share of prompts on which the policy scores above the reference; ties half.
    pub win_rate: f64,
    /// Mean response length in tokens.
    pub length: f64,
    /// Share of responses that ended by themselves.
    pub eos_fraction: f64,
    /// The answers.
    #[serde(skip)]
    pub samples: Vec<SideBySide>,
}

impl Evaluator<'_> {
    /// The answers of `model` with their scores. Those of the reference never change, so they are worth keeping.
    pub fn answers(&self, model: &CausalLm) -> Result<ScoredAnswers> {
        let episodes = respond(model, self.tokenizer, self.prompts, 1, &self.sampling)?;
        let scores = self
            .reward
            .scores(self.tokenizer, self.prompts, &episodes)?;
        Ok(ScoredAnswers { episodes, scores })
    }

    /// `policy` against the answers of the reference.
    pub fn measure(&self, policy: &CausalLm, reference: &ScoredAnswers) -> Result<Evaluation> {
        let ScoredAnswers { episodes, scores } = self.answers(policy)?;
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|p| p.ids.clone()).collect();
        let logprobs = |model| {
            let tau = self.sampling.temperature;
            response_logprobs(model, &ids, &episodes, tau, self.micro_batch_tokens)
        };
        let kl = kl_per_episode(&logprobs(policy)?, &logprobs(self.reference)?);
        let pairs = scores.iter().zip(&reference.scores);
        let wins: Vec<f64> = pairs.map(|(a, b)| win(*a, *b)).collect();
        let text = |episode: &Episode| episode.text(self.tokenizer, self.prompts);
        let mut samples = Vec::with_capacity(episodes.len());
        for (i, episode) in episodes.iter().enumerate() {
            samples.push(SideBySide {
                prompt: self
                    .tokenizer
                    .decode_response(&[], &self.prompts[episode.prompt].ids)?,
                response: text(episode)?,
                score: scores[i],
                reference: text(&reference.episodes[i])?,
                reference_score: reference.scores[i],
            });
        }
        let n = episodes.len() as f64;
        let tokens = episodes.iter().map(|e| e.response.len() as f64);
        Ok(Evaluation {
            score: statistics::mean(&scores),
            reference_score: statistics::mean(&reference.scores),
            kl: statistics::mean(&kl),
            win_rate: statistics::mean(&wins),
            length: tokens.sum::<f64>() / n,
            eos_fraction: episodes.iter().filter(|e| e.finished).count() as f64 / n,
            samples,
        })
    }
}

impl Evaluation {
    /// Under their names in `metrics.jsonl`.
    pub fn metrics(&self) -> Map<String, Value> {
        Map::from_iter([
            ("eval/score".to_owned(), json!(self.score)),
            (
                "eval/reference_score".to_owned(),
                json!(self.reference_score),
            ),
            ("eval/kl".to_owned(), json!(self.kl)),
            ("eval/win_rate".to_owned(), json!(self.win_rate)),
            ("eval/length".to_owned(), json!(self.length)),
            ("eval/eos_fraction".to_owned(), json!(self.eos_fraction)),
        ])
    }
}

/// 1 if `a` is better than `b`, ½ if they are equal, else 0.
pub fn win(a: f64, b: f64) -> f64 {
    if a == b {
        0.5
    } else {
        f64::from(u8::from(a > b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::{DType, Device};
    use rlhf_lm::{ModelConfig, Params, train_bpe};

    /// Scores the length of a response.
    struct Length;

    impl Scorer for Length {
        fn scores(&self, _: &Tokenizer, _: &[PromptRow], episodes: &[Episode]) -> Result<Vec<f64>> {
            Ok(episodes.iter().map(|e| e.response.len() as f64).collect())
        }
    }

    /// The same weights sample the same answers from the same seed: no KL, every comparison a tie. Other weights: wins and means
    /// recounted from the samples.
    #[test]
    fn the_reference_ties_with_itself_and_another_model_is_counted_answer_by_answer() {
        let tokenizer = train_bpe(["red fox, blue fox"].into_iter(), 260, &["<|end|>"]).unwrap();
        let config = ModelConfig::from_json(json!({
            "model_type": "gpt2", "vocab_size": tokenizer.vocab_size(), "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2,
            "initializer_range": 0.5
        }))
        .unwrap();
        let model = |seed| {
            let fresh = CausalLm::init(&config, seed, &Device::Cpu).unwrap();
            let params = Params::load(&fresh, &Device::Cpu, DType::F32).unwrap();
            CausalLm::new(&config, &params.frozen()).unwrap()
        };
        let prompts: Vec<PromptRow> = ["red", "fox", "blue", "x"]
            .map(|text| PromptRow::new(text.into(), tokenizer.encode(text).unwrap()))
            .to_vec();
        let reference = model(1);
        let evaluator = Evaluator {
            prompts: &prompts,
            reference: &reference,
            reward: &Length,
            tokenizer: &tokenizer,
            sampling: SamplingConfig {
                temperature: 1.0,
                max_new_tokens: 12,
                stop: vec!["e".into()],
                seed: 3,
                ..SamplingConfig::default()
            },
            micro_batch_tokens: 20,
        };
        let answers = evaluator.answers(&reference).unwrap();
        let same = evaluator.measure(&reference, &answers).unwrap();
        assert_eq!((same.win_rate, same.kl), (0.5, 0.0));
        assert_eq!(same.score, same.reference_score);

        let other = evaluator.measure(&model(2), &answers).unwrap();
        let n = other.samples.len() as f64;
        let wins = other
            .samples
            .iter()
            .map(|s| win(s.score, s.reference_score));
        assert_eq!(other.win_rate, wins.sum::<f64>() / n);
        assert_eq!((other.score, other.samples.len()), (other.length, 4));
        assert!(other.kl != 0.0);
    }
}
