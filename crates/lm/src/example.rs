//! What a language model learns from: token sequences in which some tokens carry loss.

use candle_core::{Device, Tensor};
use rlhf_base::Text;

use crate::{CausalLm, Packed, Packer, Result, Segment, Tokenizer};

/// A token sequence, and which of its tokens carry loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    ids: Vec<u32>,
    targets: Vec<bool>,
}

impl Example {
    /// A sequence in which every token but the first carries loss: nothing predicts the first.
    pub fn whole(ids: Vec<u32>) -> Self {
        let targets = (0..ids.len()).map(|i| i > 0).collect();
        Self { ids, targets }
    }

    /// A prompt and its completion, which carries loss with the token that ends it; in a conversation every assistant turn does that is
    /// to be learnt from. Under `prompt_too` what lies before does as well. More than one where one sequence cannot hold the
    /// conversation: see [`Tokenizer::encode_chat`].
    pub fn from_demonstration(
        tokenizer: &Tokenizer,
        prompt: &Text,
        completion: &Text,
        prompt_too: bool,
    ) -> Result<Vec<Self>> {
        let rows = tokenizer.encode_rows(prompt, completion)?.into_iter();
        let example = |row: Vec<Segment>| {
            let parts = row.into_iter();
            Self::from_parts(parts.map(|part| (part.ids, part.target || prompt_too)))
        };
        Ok(rows.map(example).collect())
    }

    /// A plain text with the EOS token behind it, in windows of at most `max_length` tokens that carry loss throughout; and how many
    /// windows of a single token, which nothing predicts, were left out.
    pub fn windows_of_text(
        tokenizer: &Tokenizer,
        text: &str,
        max_length: usize,
    ) -> Result<(Vec<Self>, usize)> {
        let mut ids = tokenizer.encode_text(text)?;
        ids.push(tokenizer.eos_id()?);
        let (long, single): (Vec<_>, Vec<_>) =
            ids.chunks(max_length).partition(|window| window.len() > 1);
        let windows = long.into_iter().map(|window| Self::whole(window.to_vec()));
        Ok((windows.collect(), single.len()))
    }

    /// Parts end to end, each with whether it carries loss; the first token of all never does.
    pub fn from_parts(parts: impl IntoIterator<Item = (Vec<u32>, bool)>) -> Self {
        let (mut ids, mut targets) = (Vec::new(), Vec::new());
        for (part, carries_loss) in parts {
            targets.resize(targets.len() + part.len(), carries_loss);
            ids.extend(part);
        }
        if let Some(first) = targets.first_mut() {
            *first = false;
        }
        Self { ids, targets }
    }

    /// Cut at `max_length` tokens.
    pub fn truncate(&mut self, max_length: usize) {
        self.ids.truncate(max_length);
        self.targets.truncate(max_length);
    }

    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Whether each token carries loss. The first never does.
    pub fn targets(&self) -> &[bool] {
        &self.targets
    }

    /// Number of tokens that carry loss.
    pub fn num_targets(&self) -> usize {
        self.targets.iter().filter(|target| **target).count()
    }
}

/// Packed examples, and which hidden state predicts which target.
pub struct ExampleBatch {
    /// The examples, end to end.
    pub packed: Packed,
    /// Rows of hidden states that predict a target, u32 `[N]`.
    pub rows: Tensor,
    /// The targets, u32 `[N]`.
    pub targets: Tensor,
}

impl ExampleBatch {
    /// Packs `examples` in their order; the targets of each come one after the other.
    pub fn pack(examples: &[&Example], device: &Device) -> Result<Self> {
        let mut packer = Packer::new();
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for example in examples {
            let place = packer.sequence(&example.ids);
            for (i, &id) in example.ids.iter().enumerate() {
                if example.targets[i] {
                    rows.push((place.start + i - 1) as u32);
                    targets.push(id);
                }
            }
        }
        let (packed, [rows, targets]) = packer.finish_beside([&rows, &targets], device)?;
        Ok(Self {
            packed,
            rows,
            targets,
        })
    }

    /// Hidden states `[N, H]` that predict the targets: only these reach the vocabulary projection.
    pub fn hidden(&self, model: &CausalLm) -> Result<Tensor> {
        let hidden = model.hidden(&self.packed)?;
        Ok(rlhf_ops::embedding(&self.rows, &hidden)?)
    }

    /// `−Σ_{i ∈ targets} log p(x_i | x_<i) / share`, a scalar in f32, in nats.
    ///
    /// `share` is the number of targets of the whole optimizer step, so that cutting a step into micro-batches changes nothing.
    /// Source: Radford et al., "Improving Language Understanding by Generative Pre-Training" (2018), eq. 1.
    pub fn loss(&self, model: &CausalLm, share: usize) -> Result<Tensor> {
        model.negative_log_likelihood(&self.hidden(model)?, &self.targets, 1.0 / share as f64)
    }

    /// [`loss`](Self::loss), and of a mixture of experts the load-balancing loss over the tokens of this batch.
    pub fn loss_balanced(
        &self,
        model: &CausalLm,
        share: usize,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (hidden, balance) = model.hidden_balanced(&self.packed)?;
        let hidden = rlhf_ops::embedding(&self.rows, &hidden)?;
        let loss = model.negative_log_likelihood(&hidden, &self.targets, 1.0 / share as f64)?;
        Ok((loss, balance))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, DType};
    use serde_json::json;

    use super::*;
    use crate::{ModelConfig, Params, train_bpe};

    fn tokenizer() -> Tokenizer {
        train_bpe(["a b"].into_iter(), 260, &["<|end|>"]).unwrap()
    }

    /// By definition: the first token never is a target, for nothing predicts it.
    #[test]
    fn completion_and_end_token_are_targets_and_the_prompt_is_context() {
        let tokenizer = tokenizer();
        let example = |prompt_too| {
            let (prompt, completion) = (Text::from("xy"), Text::from("z"));
            let mut rows =
                Example::from_demonstration(&tokenizer, &prompt, &completion, prompt_too).unwrap();
            assert_eq!(rows.len(), 1);
            rows.remove(0)
        };
        let end = tokenizer.eos_id().unwrap();
        assert_eq!(example(false).ids.last(), Some(&end));
        assert_eq!(example(false).targets, [false, false, true, true]);
        assert_eq!(example(true).targets, [false, true, true, true]);
        assert_eq!(example(true).num_targets(), 3);
    }

    /// One byte a token: the windows are counted by hand.
    #[test]
    fn a_text_becomes_windows_and_an_end_token_alone_is_counted_not_learnt() {
        let tokenizer = tokenizer();
        let end = tokenizer.eos_id().unwrap();
        let windows = |text: &str| Example::windows_of_text(&tokenizer, text, 3).unwrap();
        let (of_five, dropped) = windows("vwxyz");
        assert_eq!((of_five.len(), dropped), (2, 0)); // vwx, yz and the end
        assert_eq!(of_five[1].ids.last(), Some(&end));
        assert!(of_five.iter().all(|w| w.targets == [false, true, true]));
        let (of_six, dropped) = windows("uvwxyz");
        assert_eq!((of_six.len(), dropped), (2, 1)); // uvw, xyz, and the end alone
        assert_eq!(windows("").0, []);
    }

    /// The oracle is the plain log-softmax of each example's logits by itself.
    #[test]
    fn the_loss_of_a_batch_is_the_sum_over_targets_of_each_example_alone() {
        let config = ModelConfig::from_json(json!({
            "model_type": "gpt2", "vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2
        }))
        .unwrap();
        let fresh = CausalLm::init(&config, 3, &Device::Cpu).unwrap();
        let params = Params::load(&fresh, &Device::Cpu, DType::F32).unwrap();
        let model = CausalLm::new(&config, &params).unwrap();
        let examples = [
            Example::from_parts([(vec![1, 2], false), (vec![3, 0], true)]),
            Example::whole(vec![4, 5, 6]),
        ];
        let mut expected = 0.0;
        for example in &examples {
            let mut packer = Packer::new();
            packer.sequence(&example.ids);
            let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            let logits = model.logits(&hidden).unwrap();
            let all = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
            let all = all.to_vec2::<f32>().unwrap();
            for i in (0..example.ids.len()).filter(|i| example.targets[*i]) {
                expected -= all[i - 1][example.ids[i] as usize];
            }
        }
        let batch = ExampleBatch::pack(&[&examples[0], &examples[1]], &Device::Cpu).unwrap();
        assert_eq!(batch.rows.to_vec1::<u32>().unwrap(), [1, 2, 4, 5]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [3, 0, 5, 6]);
        let loss = batch.loss(&model, 4).unwrap().to_scalar::<f32>().unwrap();
        // f32, and sums in another order, of four numbers near 2.4.
        assert!((loss - expected / 4.0).abs() < 1e-5, "{loss} {expected}");
    }
}
