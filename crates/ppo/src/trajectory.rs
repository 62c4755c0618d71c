//! What one rollout produced, and how its tokens are packed for a forward pass.

use std::collections::HashMap;

use anyhow::Result;
use candle_core::{Device, Tensor};
use rlhf_dataset::order::micro_batches;
use rlhf_lm::{CausalLm, Packed, Packer, ScalarModel, TokenLogprobs};

/// One sampled response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// Index into the prompts it was sampled from.
    pub prompt: usize,
    /// y_1…y_n; y_n is the end token if the model stopped, otherwise the last token before the limit.
    pub response: Vec<u32>,
    /// Whether it ended by itself: with the end token or a stop text.
    pub finished: bool,
}

/// One rollout batch: B episodes over B / n distinct prompts, N response tokens in all.
///
/// Everything per token is ragged, `[B][n_i]`: exactly as long as the response, so there is nothing to mask.
#[derive(Clone, Debug, Default)]
pub struct Trajectory {
    /// Distinct prompts, as tokens.
    pub prompts: Vec<Vec<u32>>,
    /// `[B]` responses.
    pub episodes: Vec<Episode>,
    /// `[B]` what the critic reads: the responses, each one token longer where its score has a slot after the last. m_i is
    /// their length, n_i otherwise.
    pub valued: Vec<Episode>,
    /// `[B]` S(x, y): the reward model's score, normalised, clipped, with the end-token rule applied.
    pub scores: Vec<f64>,
    /// `[B][n_i]` log π_old(y_t) at temperature τ, nats, from the training forward.
    pub logprobs: Vec<Vec<f32>>,
    /// `[B][n_i]` log π_ref(y_t) at temperature τ, nats.
    pub ref_logprobs: Vec<Vec<f32>>,
    /// `[B][m_i]` V_t, read where y_t is predicted.
    pub values: Vec<Vec<f32>>,
    /// `[B][m_i]` r_t: KL penalty, plus the score in the last slot.
    pub rewards: Vec<Vec<f64>>,
    /// `[B][n_i]` A_t, whitened if asked for.
    pub advantages: Vec<Vec<f64>>,
    /// `[B][m_i]` R_t = A_t + V_t, before whitening.
    pub returns: Vec<Vec<f64>>,
}

impl Trajectory {
    /// Response tokens of the chosen episodes.
    pub fn tokens(&self, episodes: &[usize]) -> usize {
        episodes
            .iter()
            .map(|&i| self.episodes[i].response.len())
            .sum()
    }

    /// Whether every number that an update reads is finite, also in f32.
    pub fn is_finite(&self) -> bool {
        let narrow = [&self.advantages, &self.returns];
        let finite = |x: &f64| (*x as f32).is_finite();
        let read = [&self.logprobs, &self.ref_logprobs, &self.values];
        narrow.iter().all(|rows| rows.iter().flatten().all(finite))
            && read
                .iter()
                .all(|rows| rows.iter().flatten().all(|x| x.is_finite()))
    }

    /// Values of the chosen episodes.
    pub fn slots(&self, episodes: &[usize]) -> usize {
        episodes.iter().map(|&i| self.values[i].len()).sum()
    }

    /// A per-token field of the chosen episodes, end to end, as `[N]` f32.
    pub fn flat<T: Copy>(field: &[Vec<T>], episodes: &[usize], device: &Device) -> Result<Tensor>
    where
        f64: From<T>,
    {
        let flat: Vec<f32> = episodes
            .iter()
            .flat_map(|&i| &field[i])
            .map(|x| f64::from(*x) as f32)
            .collect();
        Ok(Tensor::new(flat, device)?)
    }
}

/// Episodes packed for one forward pass: every distinct prompt once, then its responses.
pub struct Batch {
    /// The tokens.
    pub packed: Packed,
    /// `[N]` u32: the hidden row that predicts each response token, episode by episode in the order given.
    pub rows: Tensor,
    /// `[N]` u32: the response tokens, in the same order.
    pub targets: Tensor,
}

impl Batch {
    /// Packs `episodes`; those that share a prompt share its computation.
    pub fn pack(prompts: &[Vec<u32>], episodes: &[&Episode], device: &Device) -> Result<Self> {
        let mut packer = Packer::new();
        // Responses follow their prompt in the stream; the rows are listed in the order of `episodes`.
        let mut members: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut place = HashMap::new();
        for (i, episode) in episodes.iter().enumerate() {
            let at = *place.entry(episode.prompt).or_insert_with(|| {
                members.push((episode.prompt, Vec::new()));
                members.len() - 1
            });
            members[at].1.push(i);
        }
        let mut predicting = vec![Vec::new(); episodes.len()];
        for (prompt, responses) in members {
            let prefix = packer.prefix(&prompts[prompt]);
            let first = packer.prefix_rows(prefix).end - 1;
            for i in responses {
                let own = packer.continuation(prefix, &episodes[i].response);
                // y_1 is predicted by the prompt's last row, y_t by the row of y_{t−1}.
                predicting[i] = std::iter::once(first)
                    .chain(own.start..own.end - 1)
                    .map(|row| row as u32)
                    .collect();
            }
        }
        let targets: Vec<u32> = episodes
            .iter()
            .flat_map(|e| e.response.iter().copied())
            .collect();
        Ok(Self {
            packed: packer.finish(device)?,
            rows: Tensor::new(predicting.concat(), device)?,
            targets: Tensor::new(targets, device)?,
        })
    }

    /// The hidden state that predicts each response token, `[N, H]`.
    pub fn hidden(&self, model: &CausalLm) -> Result<Tensor> {
        Ok(rlhf_ops::embedding(
            &self.rows,
            &model.hidden(&self.packed)?,
        )?)
    }

    /// log π(y_t) and the entropy at every response token, `[N]` each, at temperature τ.
    pub fn logprobs(&self, model: &CausalLm, temperature: f64) -> Result<TokenLogprobs> {
        let hidden = self.hidden(model)?;
        Ok(model.logprobs(&hidden, &self.targets, temperature)?)
    }

    /// V_t at every response token, `[N]`.
    pub fn values(&self, critic: &ScalarModel) -> Result<Tensor> {
        let hidden = rlhf_ops::embedding(&self.rows, &critic.hidden(&self.packed)?)?;
        Ok(critic.scores(&hidden)?)
    }
}

/// Cuts `episodes` (indices) into micro-batches of at most `tokens` tokens, in order.
pub(crate) fn micro<'a>(
    trajectory: &Trajectory,
    episodes: &'a [usize],
    tokens: usize,
) -> Vec<&'a [usize]> {
    let lengths: Vec<usize> = episodes
        .iter()
        .map(|&i| {
            trajectory.prompts[trajectory.episodes[i].prompt].len()
                + trajectory.episodes[i].response.len()
        })
        .collect();
    micro_batches(&lengths, tokens)
        .into_iter()
        .map(|range| &episodes[range])
        .collect()
}

/// Evaluates `forward`, which gives K numbers per token of a packed batch, `[N]` each, over all episodes; the results are
/// ragged, `[B][n_i]`.
pub(crate) fn per_token<const K: usize>(
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    micro_tokens: usize,
    device: &Device,
    forward: impl Fn(&Batch) -> Result<[Tensor; K]>,
) -> Result<[Vec<Vec<f32>>; K]> {
    let lengths: Vec<usize> = episodes
        .iter()
        .map(|e| prompts[e.prompt].len() + e.response.len())
        .collect();
    let mut all = [const { Vec::new() }; K];
    for range in micro_batches(&lengths, micro_tokens) {
        let part: Vec<&Episode> = episodes[range].iter().collect();
        let results = forward(&Batch::pack(prompts, &part, device)?)?;
        for (all, result) in all.iter_mut().zip(results) {
            let flat = rlhf_ops::read_to_host(&result)?;
            let mut rest = flat.as_slice();
            for episode in &part {
                let (own, after) = rest.split_at(episode.response.len());
                all.push(own.to_vec());
                rest = after;
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::DType;
    use rlhf_lm::{ModelConfig, Params};

    /// The oracle is the plain log-softmax of the logits divided by τ, token by token.
    #[test]
    fn log_probabilities_are_those_of_the_sampling_temperature() {
        let config = ModelConfig::from_json(serde_json::json!({
            "model_type": "gpt2", "vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2,
            "initializer_range": 0.5
        }))
        .unwrap();
        let fresh = CausalLm::init(&config, 3, &Device::Cpu).unwrap();
        let params = Params::load(&fresh, &Device::Cpu, DType::F32).unwrap();
        let model = CausalLm::new(&config, &params).unwrap();
        let episode = Episode {
            prompt: 0,
            response: vec![4, 5, 0],
            finished: true,
        };
        let batch = Batch::pack(&[vec![1, 2]], &[&episode], &Device::Cpu).unwrap();
        let logits = model.logits(&batch.hidden(&model).unwrap()).unwrap();
        for tau in [0.7, 1.0, 1.5] {
            let found = batch.logprobs(&model, tau).unwrap().logprobs;
            let found = found.to_vec1::<f32>().unwrap();
            let all = candle_nn::ops::log_softmax(&(&logits / tau).unwrap(), 1).unwrap();
            let all = all.to_vec2::<f32>().unwrap();
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

    /// By hand: prompt 0 = [1 2] at rows 0..2 with responses at 2..4 and 4..5; prompt 1 = [3] at row 5, response at 6..7.
    #[test]
    fn every_response_token_is_read_where_it_is_predicted() {
        let prompts = vec![vec![1, 2], vec![3]];
        let episode = |prompt, response: &[u32]| Episode {
            prompt,
            response: response.to_vec(),
            finished: true,
        };
        let episodes = [episode(0, &[7, 8]), episode(1, &[9]), episode(0, &[6])];
        let batch =
            Batch::pack(&prompts, &episodes.iter().collect::<Vec<_>>(), &Device::Cpu).unwrap();
        assert_eq!(
            batch.packed.ids.to_vec1::<u32>().unwrap(),
            [1, 2, 7, 8, 6, 3, 9]
        );
        assert_eq!(batch.rows.to_vec1::<u32>().unwrap(), [1, 2, 5, 1]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [7, 8, 9, 6]);
    }
}
