//! Log-probabilities of whole responses by the training forward, and the KL between two models from them.

use anyhow::Result;
use rlhf_lm::CausalLm;

use rlhf_train::Comm;

use crate::{Episode, EpisodeBatch, each_episode, micro_batches};

/// log π(y_t) of every response token at temperature τ, `[B][n_i]` in nats, `micro_batch_tokens` tokens a forward pass; the ranks of
/// `comm` share the episodes.
///
/// By the training forward, never from the sampler: PPO's ratio compares these numbers with those of the same forward later.
pub fn response_logprobs(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    temperature: f64,
    micro_batch_tokens: usize,
    comm: &Comm,
) -> Result<Vec<Vec<f32>>> {
    each_episode(comm, prompts, episodes, |episodes| {
        let all: Vec<usize> = (0..episodes.len()).collect();
        let mut logprobs = Vec::with_capacity(episodes.len());
        for part in micro_batches(prompts, episodes, &all, micro_batch_tokens) {
            let part = part.iter().map(|&i| &episodes[i]);
            let batch = EpisodeBatch::pack(prompts, part, model.device())?;
            let hidden = batch.hidden(model)?;
            let now = model.logprobs(&hidden, &batch.targets, temperature)?;
            logprobs.extend(batch.by_episode(&now.logprobs)?);
        }
        Ok(logprobs)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::{DType, Device};
    use rlhf_lm::{ModelConfig, Params};

    fn model() -> CausalLm {
        let config = ModelConfig::from_json(serde_json::json!({
            "model_type": "gpt2", "vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2,
            "initializer_range": 0.5
        }))
        .unwrap();
        let fresh = CausalLm::init(&config, 3, &Device::Cpu).unwrap();
        let params = Params::load(&fresh, &Device::Cpu, DType::F32).unwrap();
        CausalLm::new(&config, &params).unwrap()
    }

    fn episode(prompt: usize, response: &[u32]) -> Episode {
        Episode {
            prompt,
            response: response.to_vec(),
            finished: true,
        }
    }

    /// The oracle is the plain log-softmax of the logits divided by τ, token by token, each episode by itself; the cut into
    /// micro-batches changes nothing.
    #[test]
    fn log_probabilities_are_those_of_the_sampling_temperature() {
        let model = model();
        let prompts = vec![vec![1, 2], vec![7]];
        let episodes = [
            episode(0, &[4, 5, 0]),
            episode(0, &[9]),
            episode(1, &[3, 3]),
        ];
        for tau in [0.7, 1.0, 1.5] {
            for micro_batch_tokens in [1, 5, 100] {
                let found = response_logprobs(
                    &model,
                    &prompts,
                    &episodes,
                    tau,
                    micro_batch_tokens,
                    &Comm::single(),
                )
                .unwrap();
                for (episode, found) in episodes.iter().zip(&found) {
                    let batch = EpisodeBatch::pack(&prompts, [episode], &Device::Cpu).unwrap();
                    let logits = model.logits(&batch.hidden(&model).unwrap()).unwrap();
                    let all = candle_nn::ops::log_softmax(&(logits / tau).unwrap(), 1).unwrap();
                    let all = all.to_vec2::<f32>().unwrap();
                    assert_eq!(found.len(), episode.response.len());
                    for (t, &token) in episode.response.iter().enumerate() {
                        let want = all[t][token as usize];
                        assert!(
                            (found[t] - want).abs() < 1e-5,
                            "τ {tau}: {} and {want}",
                            found[t]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_kl_of_an_episode_is_a_sum_over_its_tokens() {
        let kl = kl_per_episode(
            &[vec![-1.0, -2.0], vec![-0.5]],
            &[vec![-1.5, -1.0], vec![-2.0]],
        );
        assert_eq!(kl, [-0.5, 1.5]);
    }
}
