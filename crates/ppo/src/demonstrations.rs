//! PPO-ptx: demonstrations beside the rollouts, so that the policy keeps what it was taught.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use rand::RngCore as _;
use rlhf_base::rng::stream;
use rlhf_dataset::order::{across_epochs, micro_batches};
use rlhf_dataset::{Demonstration, Reading};
use rlhf_lm::{CausalLm, Example, ExampleBatch, Gradients, Params, TextNotes, Tokenizer};
use rlhf_ops::Recording;
use rlhf_train::{Comm, read_and_tell, tell_skipped};

/// Demonstrations as tokens.
pub(crate) struct Demonstrations {
    rows: Vec<Example>,
    seed: u64,
}

impl Demonstrations {
    /// Reads `files`; rows are cut to `max_length` tokens, and those left without an answer are dropped and counted.
    pub(crate) fn read(
        files: &[PathBuf],
        reading: &Reading,
        tokenizer: &Tokenizer,
        max_length: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut loaded = read_and_tell::<Demonstration>(files, reading)?;
        let (mut rows, mut lost) = (Vec::with_capacity(loaded.rows.len()), 0);
        let mut notes = TextNotes::default();
        for demonstration in &loaded.rows {
            let (prompt, completion) = (&demonstration.prompt, &demonstration.completion);
            let examples = Example::from_demonstration(tokenizer, prompt, completion, false);
            let Some(examples) = loaded.tolerance.keep(&demonstration.place, examples)? else {
                continue;
            };
            notes.row(tokenizer, prompt, &[completion]);
            for mut row in examples {
                row.truncate(max_length);
                match row.num_targets() {
                    0 => lost += 1,
                    _ => rows.push(row),
                }
            }
        }
        tell_skipped(&loaded.tolerance);
        for note in notes.told(tokenizer) {
            tracing::warn!("ppo.ptx_data: {note}");
        }
        ensure!(
            !rows.is_empty(),
            "none of the {lost} demonstrations of ppo.ptx_data has an answer within {max_length} tokens: raise \
             ppo.max_prompt_length"
        );
        if lost > 0 {
            tracing::warn!(
                "{lost} demonstrations were dropped: no answer within {max_length} tokens (ppo.max_prompt_length)"
            );
        }
        Ok(Self {
            rows,
            seed: stream(seed, "ptx", 0).next_u64(),
        })
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds `c · ∂L_SFT/∂θ` to `gradients` and gives L_SFT, a scalar without a graph.
    ///
    /// `L_SFT = −Σ_{i ∈ targets} log π(x_i | x_<i) / |targets|` over the `count` demonstrations of optimizer step `step`,
    /// at temperature 1. Both are this rank's part of them. Source: Ouyang et al. (2022), eq. 2.
    pub(crate) fn accumulate(
        &self,
        (model, params): (&CausalLm, &Params),
        gradients: &mut Gradients,
        coef: f64,
        (step, count): (u64, usize),
        micro_batch_tokens: usize,
        comm: &Comm,
    ) -> Result<Tensor> {
        let rows = self.rows_of(step, count);
        let targets: usize = rows.iter().map(|row| row.num_targets()).sum();
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids().len()).collect();
        let own = comm.deal(&lengths);
        let lengths: Vec<usize> = own.iter().map(|&row| lengths[row]).collect();
        let mut total = Tensor::zeros((), DType::F32, params.device())?;
        let mut micros = micro_batches(&lengths, micro_batch_tokens).into_iter();
        while let Some(range) = micros.next() {
            let _recording = Recording::start();
            let part: Vec<&Example> = own[range].iter().map(|&row| rows[row]).collect();
            let batch = ExampleBatch::pack(&part, params.device())?;
            let loss = batch.loss(model, targets)?;
            // The policy's own loss came before: nothing follows the last of these.
            let last = micros.len() == 0;
            comm.accumulate(params, gradients, &(&loss * coef)?, last)?;
            total = (total + loss.detach())?;
        }
        Ok(total)
    }

    /// A function of seed and step alone, so that a resumed run sees what it would have seen.
    fn rows_of(&self, step: u64, count: usize) -> Vec<&Example> {
        let first = step as usize * count;
        across_epochs(self.seed, self.rows.len(), first..first + count)
            .into_iter()
            .map(|i| &self.rows[i])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use candle_core::{D, Device};
    use rlhf_lm::{ModelConfig, Packer};
    use serde_json::json;

    fn model() -> (CausalLm, Params) {
        let config = ModelConfig::from_json(json!({
            "model_type": "gpt2", "vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2
        }))
        .unwrap();
        let fresh = CausalLm::init(&config, 3, &Device::Cpu).unwrap();
        let params = Params::load(&fresh, &Device::Cpu, DType::F32).unwrap();
        (CausalLm::new(&config, &params).unwrap(), params)
    }

    fn demonstrations() -> Demonstrations {
        let row = |ids: &[u32], prompt: usize| {
            let (prompt, answer) = ids.split_at(prompt);
            Example::from_parts([(prompt.to_vec(), false), (answer.to_vec(), true)])
        };
        Demonstrations {
            rows: vec![
                row(&[1, 2, 3, 0], 2),
                row(&[4, 5, 0], 1),
                row(&[6, 7, 8, 9, 0], 3),
            ],
            seed: 5,
        }
    }

    /// The oracle is the plain log-softmax of each row's logits by itself, prompts left out; the mean is over all targets
    /// (2 + 2 + 2), so that no micro-batch counts for more.
    #[test]
    fn the_gradient_is_that_of_the_mean_over_answer_tokens_however_it_is_cut() {
        let (model, params) = model();
        let demonstrations = demonstrations();
        let mut plain = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        for row in &demonstrations.rows {
            let mut packer = Packer::new();
            packer.sequence(row.ids());
            let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            let logits = model.logits(&hidden).unwrap();
            let all = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
            for i in (0..row.ids().len()).filter(|&i| row.targets()[i]) {
                let logprob = all.get(i - 1).unwrap().get(row.ids()[i] as usize).unwrap();
                plain = (plain - logprob).unwrap();
            }
        }
        let mut expected = Gradients::new();
        expected
            .accumulate(&params, &(&plain * (0.5 / 6.0)).unwrap())
            .unwrap();
        for micro_batch_tokens in [1, 8, 100] {
            let mut found = Gradients::new();
            let loss = demonstrations
                .accumulate(
                    (&model, &params),
                    &mut found,
                    0.5,
                    (4, 3),
                    micro_batch_tokens,
                    &Comm::single(),
                )
                .unwrap();
            let loss = loss.to_scalar::<f32>().unwrap();
            assert!((loss - plain.to_scalar::<f32>().unwrap() / 6.0).abs() < 1e-5);
            for (name, want) in expected.iter() {
                let gap = (found.get(name).unwrap() - want).unwrap().abs().unwrap();
                let gaps = gap.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                // Sums in another order, in f32, of numbers below 1. One by one: candle's maximum skips NaN.
                for gap in gaps {
                    assert!(gap < 1e-5, "{name}: {gap} at {micro_batch_tokens} tokens");
                }
            }
        }
    }

    #[test]
    fn every_demonstration_is_seen_once_before_any_is_seen_again() {
        let demonstrations = demonstrations();
        for epoch in 0..4 {
            let mut seen: Vec<&Example> = (0..3)
                .flat_map(|i| demonstrations.rows_of(epoch * 3 + i, 1))
                .collect();
            seen.sort_by_key(|row| row.ids()[0]);
            assert_eq!(seen, demonstrations.rows.iter().collect::<Vec<_>>());
        }
    }
}
