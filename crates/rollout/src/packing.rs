//! Episodes packed for one forward pass, and a rollout cut into such batches.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rlhf_dataset::order;
use rlhf_lm::{CausalLm, Packed, Packer, ScalarModel};

use crate::Episode;

/// Episodes packed for one forward pass: a prompt, then its responses.
pub struct EpisodeBatch {
    /// The tokens.
    pub packed: Packed,
    /// `[N]` u32: the hidden row that predicts each response token, episode by episode in the order given.
    pub rows: Tensor,
    /// `[N]` u32: the response tokens, in the same order.
    pub targets: Tensor,
    lengths: Vec<usize>,
}

impl EpisodeBatch {
    /// Packs `episodes`; adjacent ones with the same prompt share its computation.
    pub fn pack<'a>(
        prompts: &[Vec<u32>],
        episodes: impl IntoIterator<Item = &'a Episode>,
        device: &Device,
    ) -> Result<Self> {
        let mut packer = Packer::new();
        let (mut rows, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut shared = None;
        for episode in episodes {
            let prefix = match shared {
                Some((prompt, prefix)) if prompt == episode.prompt => prefix,
                _ => packer.prefix(&prompts[episode.prompt]),
            };
            shared = Some((episode.prompt, prefix));
            let own = packer.continuation(prefix, &episode.response);
            // y_1 is predicted by the prompt's last row, y_t by the row of y_{t−1}.
            rows.push(packer.prefix_rows(prefix).end as u32 - 1);
            rows.extend((own.start..own.end - 1).map(|row| row as u32));
            targets.extend_from_slice(&episode.response);
            lengths.push(episode.response.len());
        }
        let (packed, [rows, targets]) = packer.finish_beside([&rows, &targets], device)?;
        Ok(Self {
            packed,
            rows,
            targets,
            lengths,
        })
    }

    /// The hidden state that predicts each response token, `[N, H]`.
    pub fn hidden(&self, model: &CausalLm) -> Result<Tensor> {
        Ok(rlhf_ops::embedding(
            &self.rows,
            &model.hidden(&self.packed)?,
        )?)
    }

    /// [`hidden`](Self::hidden), and of a mixture of experts the load-balancing loss over the tokens of the batch.
    pub fn hidden_balanced(&self, model: &CausalLm) -> Result<(Tensor, Option<Tensor>)> {
        let (hidden, balance) = model.hidden_balanced(&self.packed)?;
        Ok((rlhf_ops::embedding(&self.rows, &hidden)?, balance))
    }

    /// V_t, read where y_t is predicted, `[N]`.
    pub fn values(&self, critic: &ScalarModel) -> Result<Tensor> {
        let hidden = rlhf_ops::embedding(&self.rows, &critic.hidden(&self.packed)?)?;
        Ok(critic.scores(&hidden)?)
    }

    /// One number per response token, `[N]` on the device, as one row per episode on the host.
    pub fn by_episode(&self, numbers: &Tensor) -> Result<Vec<Vec<f32>>> {
        let flat = rlhf_ops::read_to_host(numbers)?;
        let mut rest = flat.as_slice();
        let mut rows = Vec::with_capacity(self.lengths.len());
        for &length in &self.lengths {
            let (own, after) = rest.split_at(length);
            rows.push(own.to_vec());
            rest = after;
        }
        Ok(rows)
    }
}

/// Cuts `chosen` (indices into `episodes`, those of one prompt adjacent) into micro-batches of at most `tokens` tokens, in order.
///
/// A prompt is counted once for all its responses, as it is packed, and they stay together unless they alone exceed the budget.
pub fn micro_batches<'a>(
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    chosen: &'a [usize],
    tokens: usize,
) -> Vec<&'a [usize]> {
    let prompt_tokens = |group: &[usize]| prompts[episodes[group[0]].prompt].len();
    let response_tokens = |i: &usize| episodes[*i].response.len();
    let mut groups: Vec<&[usize]> = Vec::new();
    for group in chosen.chunk_by(|&a, &b| episodes[a].prompt == episodes[b].prompt) {
        let prompt = prompt_tokens(group);
        let lengths: Vec<usize> = group.iter().map(response_tokens).collect();
        let room = tokens.saturating_sub(prompt);
        groups.extend(
            order::micro_batches(&lengths, room)
                .into_iter()
                .map(|part| &group[part]),
        );
    }
    let length =
        |group: &&[usize]| prompt_tokens(group) + group.iter().map(response_tokens).sum::<usize>();
    let lengths: Vec<usize> = groups.iter().map(length).collect();
    let mut rest = chosen;
    let mut batches = Vec::new();
    for batch in order::micro_batches(&lengths, tokens) {
        let count = groups[batch].iter().map(|group| group.len()).sum();
        let (own, after) = rest.split_at(count);
        batches.push(own);
        rest = after;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(prompt: usize, response: &[u32]) -> Episode {
        Episode {
            prompt,
            response: response.to_vec(),
            finished: true,
        }
    }

    /// By hand: prompt 0 = [1 2] at rows 0..2 with responses at 2..4 and 4..5; prompt 1 = [3] at row 5, response at 6..7.
    #[test]
    fn every_response_token_is_read_where_it_is_predicted() {
        let prompts = vec![vec![1, 2], vec![3]];
        let episodes = [episode(0, &[7, 8]), episode(0, &[6]), episode(1, &[9])];
        let batch = EpisodeBatch::pack(&prompts, &episodes, &Device::Cpu).unwrap();
        assert_eq!(
            batch.packed.ids.to_vec1::<u32>().unwrap(),
            [1, 2, 7, 8, 6, 3, 9]
        );
        assert_eq!(batch.rows.to_vec1::<u32>().unwrap(), [1, 2, 1, 5]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [7, 8, 6, 9]);
        let numbers = Tensor::new(&[1f32, 2.0, 3.0, 4.0], &Device::Cpu).unwrap();
        assert_eq!(
            batch.by_episode(&numbers).unwrap(),
            [vec![1.0, 2.0], vec![3.0], vec![4.0]]
        );
    }

    /// By hand: prompts of 4, 2 and 1 tokens; responses of 2 and 3 to the first, 1, 1, 1 to the second, 2 to the third. As packed, the
    /// groups have 4+5, 2+3 and 1+2 tokens.
    #[test]
    fn a_prompt_is_counted_once_and_its_responses_stay_together() {
        let prompts = vec![vec![0; 4], vec![0; 2], vec![0]];
        let lengths = [(0, 2), (0, 3), (1, 1), (1, 1), (1, 1), (2, 2)];
        let episodes = lengths.map(|(prompt, n)| episode(prompt, &vec![0; n]));
        let cut = |chosen: &[usize], tokens| -> Vec<Vec<usize>> {
            let parts = micro_batches(&prompts, &episodes, chosen, tokens);
            parts.into_iter().map(<[usize]>::to_vec).collect()
        };
        let all = [0, 1, 2, 3, 4, 5];
        assert_eq!(cut(&all, 17), [all]);
        assert_eq!(cut(&all, 16), [vec![0, 1, 2, 3, 4], vec![5]]);
        assert_eq!(cut(&all, 13), [vec![0, 1], vec![2, 3, 4, 5]]);
        // Eight hold no group of nine: it is cut, each part with its prompt.
        assert_eq!(cut(&all, 8), [vec![0], vec![1], vec![2, 3, 4, 5]]);
        // Too little for anything: one episode each.
        assert_eq!(cut(&all, 1).len(), 6);
        assert_eq!(cut(&[5, 2, 3], 8), [vec![5, 2, 3]]);
        assert!(cut(&[], 8).is_empty());
    }
}
