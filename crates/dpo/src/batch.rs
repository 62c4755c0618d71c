//! Responses packed behind their prompts, and log π(y|x) of each.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rlhf_dataset::order::micro_batches;
use rlhf_lm::CausalLm;
use rlhf_rollout::{Episode, EpisodeBatch};
use rlhf_train::Comm;
use rlhf_train::feedback::Item;

/// A micro-batch: prompts once, the responses to each behind it.
pub struct Batch {
    episodes: EpisodeBatch,
    /// `[N]` u32: the response that each token belongs to.
    owners: Tensor,
    /// Tokens of each response.
    lengths: Vec<usize>,
}

impl Batch {
    /// Packs `items`; response j of item i is response `Σ_{k<i} responses(k) + j` of the batch.
    pub fn pack(items: &[&Item], device: &Device) -> Result<Self> {
        let (mut prompts, mut episodes) = (Vec::new(), Vec::new());
        for (prompt, item) in items.iter().enumerate() {
            prompts.push(item.prompt.clone());
            episodes.extend(item.responses.iter().map(|response| Episode {
                prompt,
                response: response.clone(),
                finished: true,
            }));
        }
        let lengths: Vec<usize> = episodes.iter().map(|it| it.response.len()).collect();
        let owners = lengths.iter().enumerate();
        let owners: Vec<u32> = owners
            .flat_map(|(response, tokens)| std::iter::repeat_n(response as u32, *tokens))
            .collect();
        Ok(Self {
            episodes: EpisodeBatch::pack(&prompts, &episodes, device)?,
            owners: rlhf_ops::upload(&owners, owners.len(), device)?,
            lengths,
        })
    }

    /// `log π(y|x) = Σ_t log π(y_t|x, y_<t)` of every response, `[R]` f32; the mean over its tokens instead of their sum if
    /// `normalise`.
    pub fn logprobs(&self, model: &CausalLm, normalise: bool) -> Result<Tensor> {
        self.of_hidden(&self.episodes.hidden(model)?, model, normalise)
    }

    /// [`logprobs`](Self::logprobs), and of a mixture of experts the load-balancing loss over the tokens of the batch.
    pub fn logprobs_balanced(
        &self,
        model: &CausalLm,
        normalise: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (hidden, balance) = self.episodes.hidden_balanced(model)?;
        Ok((self.of_hidden(&hidden, model, normalise)?, balance))
    }

    /// Tokens of the batch, prompts counted once.
    pub fn tokens(&self) -> usize {
        self.episodes.packed.tokens()
    }

    fn of_hidden(&self, hidden: &Tensor, model: &CausalLm, normalise: bool) -> Result<Tensor> {
        let tokens = model
            .logprobs(hidden, &self.episodes.targets, 1.0)?
            .logprobs;
        let (responses, device) = (self.lengths.len(), model.device());
        let sums = Tensor::zeros(responses, DType::F32, device)?;
        let sums = sums.index_add(&self.owners, &tokens.to_dtype(DType::F32)?, 0)?;
        if !normalise {
            return Ok(sums);
        }
        let lengths: Vec<f32> = self.lengths.iter().map(|n| *n as f32).collect();
        Ok((sums / rlhf_ops::upload(&lengths, responses, device)?)?)
    }
}

/// log π(y|x) of every response of every item, without a graph, `micro_batch_tokens` tokens a forward pass.
///
/// `model` should record no graph (built over a frozen view of its parameters). The ranks of `comm` share the items.
pub fn response_logprobs(
    model: &CausalLm,
    items: &[Item],
    normalise: bool,
    micro_batch_tokens: usize,
    comm: &Comm,
) -> Result<Vec<f32>> {
    let lengths: Vec<usize> = items.iter().map(Item::tokens).collect();
    let own = comm.deal(&lengths);
    let lengths: Vec<usize> = own.iter().map(|&item| lengths[item]).collect();
    let mut all = Vec::new();
    for micro in micro_batches(&lengths, micro_batch_tokens) {
        let part: Vec<&Item> = own[micro].iter().map(|&item| &items[item]).collect();
        let batch = Batch::pack(&part, model.device())?;
        all.extend(rlhf_ops::read_to_host(&batch.logprobs(model, normalise)?)?);
    }
    let own_items = own.iter().map(|&item| &items[item]);
    Ok(comm.in_order(&own, by_item(own_items, &all))?.concat())
}

/// Numbers of responses end to end, as one list for each item.
pub(crate) fn by_item<'a>(items: impl Iterator<Item = &'a Item>, numbers: &[f32]) -> Vec<Vec<f32>> {
    let mut rest = numbers.iter().copied();
    let of_item = |item: &Item| rest.by_ref().take(item.responses.len()).collect();
    items.map(of_item).collect()
}
