//! Pretraining: a tokenizer and a small Llama from text. `[pretrain]` in a configuration file.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rlhf_base::caption::Caption;
use rlhf_dataset::{Loaded, TextRow, hold_out};
use rlhf_lm::{LanguageModel, ModelConfig, SaveDtype, train_bpe};
use rlhf_train::{
    Bundled, LossMonitor, Makes, MayChange, Prepared, ScheduleKind, Session, Source, Stage,
    Training, read_and_tell, tell_skipped,
};
use serde_json::{Map, Value, json};

use crate::captions::CAPTIONS;
use crate::rows::Rows;
use crate::train::LanguageModelling;

rlhf_train::settings! {
    /// Settings of `rlhf pretrain`.
    pub struct Config {
        /// Texts, plain .txt or {"text"}: files, folders or data sets of the hub; empty means the bundled corpus.
        pub data: Vec<PathBuf> = Vec::new(),
        /// Share of the texts kept back for the held-out loss.
        pub eval_fraction: f64 = 0.02 => 0.0..1.0,
        /// Entries of the byte-level BPE vocabulary, the EOS token included.
        pub vocab_size: usize = 1024 => 258..=1_000_000,
        /// Hidden size.
        pub hidden_size: usize = 128 => 2..=65_536,
        /// Inner size of the MLP.
        pub intermediate_size: usize = 384 => 1..=1_000_000,
        /// Transformer blocks.
        pub layers: usize = 4 => 1..=1_000,
        /// Attention heads; they divide `hidden_size`.
        pub heads: usize = 4 => 1..=1_024,
        /// Key-value heads; they divide `heads`.
        pub kv_heads: usize = 2 => 1..=1_024,
        /// Longest sequence the model is meant for.
        pub context: usize = 256 => 2..=10_000_000,
        /// Texts longer than this many tokens become several rows.
        pub max_length: usize = 256 => 2..=10_000_000,
        /// Take special tokens that the texts spell (<|endoftext|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Number format of the saved weights: f32, bf16 or f16.
        pub save_dtype: SaveDtype = SaveDtype::F32,
    }
    parts {
        /// How the model learns from the rows.
        pub training: Training = Training {
            batch: 64,
            lr: 1e-3,
            schedule: ScheduleKind::Cosine,
            warmup: 100,
            weight_decay: 0.01,
            save_every: 500,
            ..Training::default()
        },
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
/// For programs that pad batches, which need a token other than EOS; never seen in training.
const PAD_TOKEN: &str = "<|pad|>";

/// `rlhf pretrain`.
pub struct Pretrain;

impl Stage for Pretrain {
    const NAME: &'static str = "pretrain";
    const TITLE: &'static str = "Pretraining";
    const ABOUT: &'static str =
        "Train a tokenizer (byte-level BPE) and a small language model from nothing but text";
    const MANUAL: &'static str = "A Llama of the given shape, from fresh weights. Without --data the bundled corpus of the Tiny World is used.";
    const EXAMPLE: &'static str = "rlhf pretrain --data corpus.txt --layers 4";
    const SHORT_HELP: &'static [&'static str] = &[
        "data",
        "vocab_size",
        "hidden_size",
        "layers",
        "heads",
        "epochs",
        "steps",
        "batch",
        "lr",
        "max_length",
        "eval_every",
    ];
    const MAY_CHANGE: MayChange = Training::MAY_CHANGE;
    const MAKES: Makes = Makes::Base;
    const CAPTIONS: &'static [Caption] = CAPTIONS;
    const NEXT: (&'static str, &'static str) = ("rlhf sft --model {out}", " --data FILE");

    type Config = Config;

    fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        LossMonitor::findings(lines)
    }

    fn validate(config: &Config) -> Result<()> {
        let Config {
            hidden_size,
            heads,
            kv_heads,
            context,
            max_length,
            ..
        } = *config;
        ensure!(
            hidden_size.is_multiple_of(heads) && (hidden_size / heads).is_multiple_of(2),
            "pretrain.hidden_size ({hidden_size}) must be an even multiple of pretrain.heads ({heads}): every head has the same number of \
             dimensions, and rotary positions turn them in pairs"
        );
        ensure!(
            heads.is_multiple_of(kv_heads),
            "pretrain.heads ({heads}) must be a multiple of pretrain.kv_heads ({kv_heads}): every key-value head serves the same number \
             of heads"
        );
        ensure!(
            max_length <= context,
            "pretrain.max_length ({max_length}) must not exceed pretrain.context ({context}), the longest sequence the model is meant for"
        );
        Ok(())
    }

    fn sources(config: &mut Config) -> Result<Vec<Source<'_>>> {
        Ok(vec![Source::Data {
            setting: "data",
            files: &mut config.data,
            held_out: None,
            bundled: Bundled::Corpus,
        }])
    }

    /// Trains a tokenizer on the texts, and makes a Llama with fresh weights for it.
    fn prepare(config: &Config, session: &Session) -> Result<Box<dyn Prepared>> {
        ensure!(
            session.lora.is_none(),
            "pretraining starts from fresh weights, which hold nothing that an adapter could build on: leave out lora.rank here, and give it to \
             the stages after this one"
        );
        let begun = Instant::now();
        let Loaded {
            rows: texts,
            tolerance,
            ..
        } = read_and_tell::<TextRow>(&config.data, &config.training.data.reading())?;
        tell_skipped(&tolerance);
        let tokenizer = train_bpe(
            texts.iter().map(|row| row.text.as_str()),
            config.vocab_size,
            &[END_TOKEN, PAD_TOKEN],
        )?
        .allow_special(config.allow_special);
        let model_config = config.model(tokenizer.vocab_size())?;
        let model = LanguageModel::fresh(
            model_config,
            tokenizer,
            session.seed,
            session.dtype,
            &session.device,
        )?;
        let (trained, held_out) = hold_out(texts, config.eval_fraction, |row| row.text.clone())
            .context("pretrain.eval_fraction")?;
        ensure!(
            !trained.is_empty(),
            "no text is left to train on: all was kept back for evaluation; lower pretrain.eval_fraction"
        );
        let rows = Rows::from_texts(&model.tokenizer, &trained, config.max_length)?;
        for told in &rows.told {
            tracing::warn!("{told}");
        }
        if rows.lost.rows > 0 {
            tracing::info!(
                "of {} texts the last window holds the EOS token alone, which nothing predicts: it is left out",
                rows.lost.rows
            );
        }
        let held_out = match held_out.as_slice() {
            [] => Rows::default(),
            texts => Rows::from_texts(&model.tokenizer, texts, config.max_length)?,
        };
        Ok(Box::new(LanguageModelling {
            stage: Self::NAME,
            extent: config.training.extent(
                Self::NAME,
                rows.rows.len(),
                &model.config,
                session.recompute,
                &session.device,
            )?,
            training: config.training.clone(),
            max_length: config.max_length,
            balance: 0.0,
            model,
            rows,
            held_out: held_out.rows,
            save_dtype: config.save_dtype,
            loaded: begun,
        }))
    }
}
