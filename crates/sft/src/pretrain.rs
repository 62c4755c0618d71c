//! Pretraining: a tokenizer and a small Llama from nothing but text. `[pretrain]` in a configuration file.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use rlhf_dataset::read_texts;
use rlhf_lm::{LanguageModel, ModelConfig, SaveDtype, train_bpe};
use rlhf_train::{ScheduleKind, Session, recipe};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rows::Rows;
use crate::train::{Outcome, fit, publish};

/// Settings of `rlhf pretrain`; every field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Text files; empty means the bundled corpus.
    pub data: Vec<PathBuf>,
    /// Share of the texts kept back for the held-out loss.
    pub eval_fraction: f64,
    /// Entries of the byte-level BPE vocabulary, the end token included.
    pub vocab_size: usize,
    /// Hidden size.
    pub hidden_size: usize,
    /// Inner size of the MLP.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads; they divide `hidden_size`.
    pub heads: usize,
    /// Key-value heads; they divide `heads`.
    pub kv_heads: usize,
    /// Longest sequence the model is meant for.
    pub context: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Optimizer steps; 0 means as many as `epochs` gives.
    pub steps: u64,
    /// Texts per optimizer step.
    pub batch: usize,
    /// Tokens per forward and backward pass; the result does not depend on it, memory does. 0 chooses by the model's size.
    pub micro_batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// How the learning rate moves after the warm-up.
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// The gradient is scaled down to this norm; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// Texts longer than this many tokens become several rows.
    pub max_length: usize,
    /// Visit the texts in a new random order every epoch; `false` keeps the order of the files.
    pub shuffle: bool,
    /// Evaluate every so many steps (and at the end); 0 only at the end.
    pub eval_every: u64,
    /// Save a checkpoint every so many steps; 0 only when interrupted.
    pub save_every: u64,
    /// Number format of the saved weights: `f32`, `bf16` or `f16`.
    pub save_dtype: SaveDtype,
    /// Unusable rows to put up with before giving up.
    pub skip_bad: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            eval_fraction: 0.02,
            vocab_size: 1024,
            hidden_size: 128,
            intermediate_size: 384,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            context: 256,
            epochs: 1,
            steps: 0,
            batch: 64,
            micro_batch: 0,
            lr: 1e-3,
            schedule: ScheduleKind::Cosine,
            warmup: 100,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            max_length: 256,
            shuffle: true,
            eval_every: 0,
            save_every: 500,
            save_dtype: SaveDtype::F32,
            skip_bad: 0,
        }
    }
}

impl Config {
    /// The model that is trained, over a vocabulary of `vocab_size` tokens.
    pub fn model(&self, vocab_size: usize) -> Result<ModelConfig> {
        Ok(ModelConfig::from_json(json!({
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
        }))?)
    }
}

/// The token that ends a text.
const END_TOKEN: &str = "<|endoftext|>";
/// Never seen in training; programs that pad batches need a token for it that is not the end token.
const PAD_TOKEN: &str = "<|pad|>";

/// Trains a tokenizer on the texts, then a Llama on what it makes of them; the model ends up in the run's `final/`.
pub fn train(config: &Config, session: &mut Session) -> Result<Outcome> {
    let texts = read_texts(&config.data, config.skip_bad)?;
    for bad in &texts.skipped {
        tracing::warn!("skipped {bad}");
    }
    let tokenizer = train_bpe(
        texts.rows.iter().map(|row| row.text.as_str()),
        config.vocab_size,
        &[END_TOKEN, PAD_TOKEN],
    )?;
    let model_config = config.model(tokenizer.vocab_size())?;
    let model = LanguageModel::fresh(
        model_config,
        tokenizer,
        session.seed,
        session.dtype,
        &session.device,
    )?;

    // Every so many-th text is kept back, so that both sides hold every kind of text.
    let every = if config.eval_fraction > 0.0 {
        (1.0 / config.eval_fraction).round() as usize
    } else {
        usize::MAX
    };
    let (held, kept): (Vec<_>, Vec<_>) = texts
        .rows
        .into_iter()
        .enumerate()
        .partition(|(i, _)| i % every == every - 1);
    let strip = |rows: Vec<(usize, _)>| rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>();
    let rows = Rows::from_texts(&model.tokenizer, &strip(kept), config.max_length)?;
    if rows.lost > 0 {
        tracing::info!(
            "{} end tokens alone in their window were left out",
            rows.lost
        );
    }
    let held = strip(held);
    let held_out = if held.is_empty() {
        Rows::default()
    } else {
        Rows::from_texts(&model.tokenizer, &held, config.max_length)?
    };
    ensure!(
        !rows.rows.is_empty(),
        "no text is left to train on: all was kept back for evaluation"
    );

    let recipe = recipe!("pretrain", "row", config);
    let begun = Instant::now();
    let outcome = fit(&recipe, &model, &rows.rows, &held_out.rows, begun, session)?;
    publish(&model, config.save_dtype, session)?;
    Ok(outcome)
}
