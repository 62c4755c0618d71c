//! How a policy does on held-out prompts: its score, its distance from the reference, its wins.

use anyhow::Result;
use candle_core::Device;
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer, generate};
use rlhf_train::statistics;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::reward::Scorer;
use crate::score::PromptRow;
use crate::trajectory::{Episode, per_token};

/// Samples `samples` responses to each prompt, in order of prompt.
pub fn respond(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[PromptRow],
    samples: usize,
    sampling: &SamplingConfig,
) -> Result<Vec<Episode>> {
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let sampled = generate(model, tokenizer, &ids, samples, sampling, &mut |_| {})?;
    Ok(sampled
        .into_iter()
        .map(|s| Episode {
            prompt: s.prompt,
            response: s.tokens,
            finished: s.finished,
        })
        .collect())
}

/// log π(y_t) of every response token at temperature τ, ragged, from the training forward.
pub fn response_logprobs(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    temperature: f64,
    micro_tokens: usize,
    device: &Device,
) -> Result<Vec<Vec<f32>>> {
    let [logprobs] = per_token(prompts, episodes, micro_tokens, device, |batch| {
        Ok([batch.logprobs(model, temperature)?.logprobs])
    })?;
    Ok(logprobs)
}

/// `Σ_t log π(y_t) − log π_ref(y_t)` per response: a one-sample estimate of the KL of an episode, in nats.
pub fn kl_per_episode(logprobs: &[Vec<f32>], ref_logprobs: &[Vec<f32>]) -> Vec<f64> {
    logprobs
        .iter()
        .zip(ref_logprobs)
        .map(|(p, r)| {
            p.iter()
                .zip(r)
                .map(|(p, r)| f64::from(*p) - f64::from(*r))
                .sum()
        })
        .collect()
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

/// The reference's side of every evaluation, computed once.
pub struct Yardstick<'a> {
    /// Held-out prompts.
    pub prompts: &'a [PromptRow],
    /// The frozen reference.
    pub reference: &'a CausalLm,
    /// What scores.
    pub reward: &'a Scorer,
    /// The policy's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How everyone samples: the same seed for both sides.
    pub sampling: SamplingConfig,
    /// Tokens per forward pass.
    pub micro_tokens: usize,
}

impl Yardstick<'_> {
    /// The reference's answers with their scores.
    pub fn reference_answers(&self) -> Result<(Vec<Episode>, Vec<f64>)> {
        let episodes = respond(
            self.reference,
            self.tokenizer,
            self.prompts,
            1,
            &self.sampling,
        )?;
        let scores = self
            .reward
            .scores(self.tokenizer, self.prompts, &episodes)?;
        Ok((episodes, scores))
    }

    /// Measures `policy` against the reference's answers.
    pub fn measure(
        &self,
        policy: &CausalLm,
        reference: &(Vec<Episode>, Vec<f64>),
    ) -> Result<Evaluation> {
        let episodes = respond(policy, self.tokenizer, self.prompts, 1, &self.sampling)?;
        let scores = self
            .reward
            .scores(self.tokenizer, self.prompts, &episodes)?;
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|p| p.ids.clone()).collect();
        let logprobs = |model| {
            response_logprobs(
                model,
                &ids,
                &episodes,
                self.sampling.temperature,
                self.micro_tokens,
                policy.device(),
            )
        };
        let kl = kl_per_episode(&logprobs(policy)?, &logprobs(self.reference)?);
        let wins: Vec<f64> = scores
            .iter()
            .zip(&reference.1)
            .map(|(a, b)| win(*a, *b))
            .collect();
        let text = |episode: &Episode| self.tokenizer.decode(&episode.response);
        let mut samples = Vec::with_capacity(episodes.len());
        for (i, episode) in episodes.iter().enumerate() {
            samples.push(SideBySide {
                prompt: self.tokenizer.decode(&self.prompts[episode.prompt].ids)?,
                response: text(episode)?,
                score: scores[i],
                reference: text(&reference.0[i])?,
                reference_score: reference.1[i],
            });
        }
        let n = episodes.len() as f64;
        Ok(Evaluation {
            score: statistics::mean(&scores),
            reference_score: statistics::mean(&reference.1),
            kl: statistics::mean(&kl),
            win_rate: statistics::mean(&wins),
            length: episodes
                .iter()
                .map(|e| e.response.len() as f64)
                .sum::<f64>()
                / n,
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
