//! A policy against its reference on held-out prompts: score, wins, KL per episode.

use anyhow::Result;
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer};
use rlhf_train::{Comm, statistics};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    Episode, PromptRow, Scorer, kl_per_episode, respond, response_logprobs, scores_together,
};

/// Compares policies with one reference: everyone answers the same prompts with the same seed.
pub struct Evaluator<'a> {
    /// Held-out prompts.
    pub prompts: &'a [PromptRow],
    /// The frozen reference.
    pub reference: &'a CausalLm,
    /// What scores.
    pub reward: &'a dyn Scorer,
    /// The score that counts, of the reward's and whether the response ended by itself.
    pub score_rule: &'a dyn Fn(f64, bool) -> f64,
    /// The tokenizer of policy and reference.
    pub tokenizer: &'a Tokenizer,
    /// How both sides sample.
    pub sampling: SamplingConfig,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// The processes that share the prompts.
    pub comm: &'a Comm,
}

/// One response per prompt, with its score.
pub struct ScoredAnswers {
    /// The responses, in order of prompt.
    pub episodes: Vec<Episode>,
    /// S(x, y) of each, by the score rule.
    pub scores: Vec<f64>,
    /// What the rule changed in each because the response did not end.
    pub missing_eos: Vec<f64>,
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
    /// Mean score, by the score rule.
    pub score: f64,
    /// Its 95 % interval (bootstrap over prompts).
    pub score_ci: [f64; 2],
    /// What of the mean score is due to responses that did not end.
    pub missing_eos: f64,
    /// Mean score of the reference's answers to the same prompts.
    pub reference_score: f64,
    /// Mean KL per episode to the reference.
    pub kl: f64,
    /// Share of prompts on which the policy scores above the reference; ties half.
    pub win_rate: f64,
    /// Its 95 % interval (Wilson).
    pub win_rate_ci: [f64; 2],
    /// Prompts, each answered once.
    pub prompts: usize,
    /// Mean response length in tokens.
    pub length: f64,
    /// Share of responses that ended by themselves.
    pub eos_fraction: f64,
    /// The answers.
    #[serde(skip)]
    pub samples: Vec<SideBySide>,
}

impl SideBySide {
    /// As a line of `answers.jsonl`: each side's answer and score, by its name.
    pub fn answered(&self) -> Value {
        let side = |text: &str, score: f64| json!({"text": text, "reward": score});
        json!({
            "prompt": self.prompt,
            "answers": {
                "reference": side(&self.reference, self.reference_score),
                "policy": side(&self.response, self.score),
            }
        })
    }
}

impl Evaluator<'_> {
    /// The answers of `model` with their scores. Those of the reference never change, so they are worth keeping.
    pub fn answers(&self, model: &CausalLm) -> Result<ScoredAnswers> {
        let (tokenizer, prompts, comm) = (self.tokenizer, self.prompts, self.comm);
        let episodes = respond(model, tokenizer, prompts, 1, &self.sampling, comm)?;
        let (raw, _) = scores_together(self.reward, tokenizer, prompts, &episodes, comm)?;
        let (scores, missing_eos) = ruled(&raw, &episodes, self.score_rule);
        Ok(ScoredAnswers {
            episodes,
            scores,
            missing_eos,
        })
    }

    /// The reference against itself, from answers it has given: what [`Evaluator::measure`] says of a policy that has not moved yet.
    pub fn start(&self, reference: &ScoredAnswers) -> Result<Evaluation> {
        let no_kl = vec![0.0; reference.episodes.len()];
        self.compare(reference, &no_kl, reference)
    }

    /// `policy` against the answers of the reference.
    pub fn measure(&self, policy: &CausalLm, reference: &ScoredAnswers) -> Result<Evaluation> {
        let answers = self.answers(policy)?;
        let episodes = &answers.episodes;
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|p| p.ids.clone()).collect();
        let logprobs = |model| {
            let tau = self.sampling.temperature;
            response_logprobs(
                model,
                &ids,
                episodes,
                tau,
                self.micro_batch_tokens,
                self.comm,
            )
        };
        let kl = kl_per_episode(&logprobs(policy)?, &logprobs(self.reference)?);
        self.compare(&answers, &kl, reference)
    }

    /// Answers of a policy, with the KL of each, against those of the reference.
    fn compare(
        &self,
        answers: &ScoredAnswers,
        kl: &[f64],
        reference: &ScoredAnswers,
    ) -> Result<Evaluation> {
        let ScoredAnswers {
            episodes,
            scores,
            missing_eos,
        } = answers;
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
        let win_rate = statistics::mean(&wins);
        Ok(Evaluation {
            score: statistics::mean(scores),
            score_ci: statistics::bootstrap_interval(scores, self.sampling.seed).into(),
            missing_eos: statistics::mean(missing_eos),
            reference_score: statistics::mean(&reference.scores),
            kl: statistics::mean(kl),
            win_rate,
            win_rate_ci: statistics::wilson_interval(win_rate, n).into(),
            prompts: episodes.len(),
            length: tokens.sum::<f64>() / n,
            eos_fraction: episodes.iter().filter(|e| e.finished).count() as f64 / n,
            samples,
        })
    }
}

impl Evaluation {
    /// Under their names in `metrics.jsonl`.
    pub fn metrics(&self) -> Map<String, Value> {
        let numbers = [
            ("score", self.score),
            ("score_low", self.score_ci[0]),
            ("score_high", self.score_ci[1]),
            ("missing_eos", self.missing_eos),
            ("reference_score", self.reference_score),
            ("kl", self.kl),
            ("win_rate", self.win_rate),
            ("win_rate_low", self.win_rate_ci[0]),
            ("win_rate_high", self.win_rate_ci[1]),
            ("length", self.length),
            ("eos_fraction", self.eos_fraction),
        ];
        let numbers = numbers.into_iter().map(|(name, x)| (name, json!(x)));
        numbers
            .chain([("prompts", json!(self.prompts))])
            .map(|(name, number)| (format!("eval/{name}"), number))
            .collect()
    }

    /// The most telling numbers, in a line.
    pub fn headline(&self) -> String {
        let [low, high] = self.win_rate_ci.map(|x| 100.0 * x);
        format!(
            "held out: score {:.3} (reference {:.3}), wins {:.1} % [{low:.1}, {high:.1}] of {}, kl {:.3}, ends by itself {:.1} %",
            self.score,
            self.reference_score,
            100.0 * self.win_rate,
            self.prompts,
            self.kl,
            100.0 * self.eos_fraction
        )
    }
}

/// Scores by a score rule, and what it changed in each because the response did not end: the rule for a response that did is the rest.
pub fn ruled(
    raw: &[f64],
    episodes: &[Episode],
    rule: &dyn Fn(f64, bool) -> f64,
) -> (Vec<f64>, Vec<f64>) {
    let pairs = raw.iter().zip(episodes);
    pairs
        .map(|(&raw, episode)| {
            let score = rule(raw, episode.finished);
            (score, score - rule(raw, true))
        })
        .unzip()
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
            score_rule: &|score, _| score,
            tokenizer: &tokenizer,
            sampling: SamplingConfig {
                temperature: 1.0,
                max_new_tokens: 12,
                stop: vec!["e".into()],
                seed: 3,
                ..SamplingConfig::default()
            },
            micro_batch_tokens: 20,
            comm: &Comm::single(),
        };
        let answers = evaluator.answers(&reference).unwrap();
        let same = evaluator.measure(&reference, &answers).unwrap();
        assert_eq!((same.win_rate, same.kl), (0.5, 0.0));
        assert_eq!(same.score, same.reference_score);
        let start = evaluator.start(&answers).unwrap();
        assert_eq!(start.metrics(), same.metrics());

        let other = evaluator.measure(&model(2), &answers).unwrap();
        let n = other.samples.len() as f64;
        let wins = other
            .samples
            .iter()
            .map(|s| win(s.score, s.reference_score));
        assert_eq!(other.win_rate, wins.sum::<f64>() / n);
        assert_eq!((other.score, other.samples.len()), (other.length, 4));
        assert!(other.kl != 0.0);
        // By hand: the interval of 4 prompts, and no rule for responses that do not end.
        let (low, high) = statistics::wilson_interval(other.win_rate, 4.0);
        assert_eq!((other.win_rate_ci, other.prompts), ([low, high], 4));
        assert_eq!(other.missing_eos, 0.0);

        // Under a rule that gives unfinished responses −9, the score is the mean of what counts, and the rule's part of it is told.
        let strict = Evaluator {
            score_rule: &|score, finished| if finished { score } else { -9.0 },
            ..evaluator
        };
        let ruled = strict.measure(&model(2), &answers).unwrap();
        assert!(ruled.eos_fraction < 1.0, "no response was cut");
        let sum: f64 = ruled.samples.iter().map(|s| s.score).sum();
        assert_eq!(ruled.score, sum / n);
        assert!((ruled.score - ruled.missing_eos - other.score).abs() < 1e-12);
    }
}
