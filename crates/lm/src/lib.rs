//! Language models one can load, train, sample from and save.
//!
//! In the order they are best read:
//!
//! - `packed`, `example`: a batch without padding, the prefix that several sequences share, and what one learns from.
//! - `schema`, `params`, `gradients`: the named parameters of a model, which of them are trained, their first values, frozen views
//!   and copies, and the guard against gradients that silently are not there.
//! - `families`: one file a model family; `trunk`, `attend`, `linear`, `norm`, `rotary`: what families are made of. Token ids in,
//!   hidden states out.
//! - `recurrence`: what layers keep of a row instead of keys and values.
//! - `lora`, `bases`: low-rank adapters beside frozen weights, their files in PEFT's layout, and the base that several models share.
//! - `causal`, `scalar`: the two heads, next-token probabilities and one number per token.
//! - `cache`, `sampling`, `decoding`: rows that grow side by side over cached keys and values. `generate` answers a list of prompts so,
//!   [`serving`] a queue of requests as they come and go.
//! - `config`, `weights`, `pretrained`, `stored`, `hub`: Hugging Face directories, local or downloaded.
//! - `gguf`: the same from llama.cpp's files.
//! - `tokenizer`, `fingerprint`, `template`, `special`, `train_bpe`: what turns text into token ids.
//! - `encode`, `conversation`, `text_stream`, `text_notes`: prompts and answers as ids, ids as text, and what texts hold that is
//!   worth telling.
//! - `boundary`, `growth`: a panic in a reader of others becomes an error, and no tokenizer makes a text longer without bound.

mod attend;
mod bases;
mod boundary;
mod cache;
mod causal;
mod config;
mod conversation;
mod decoding;
mod encode;
mod error;
mod example;
mod families;
mod filters;
mod fingerprint;
mod generate;
pub mod gguf;
mod gradients;
mod growth;
pub mod hub;
mod language_model;
mod likely;
mod linear;
mod lora;
mod norm;
mod outline;
mod packed;
mod params;
#[cfg(test)]
#[path = "../../../tests/portable.rs"]
mod portable;
mod pretrained;
mod python_json;
mod quantised;
mod recurrence;
mod reward_model;
mod rotary;
mod sampling;
mod scalar;
mod schema;
mod score_group;
pub mod serving;
mod special;
mod stored;
mod strftime;
mod template;
mod text_notes;
mod text_stream;
mod tokenizer;
mod train_bpe;
mod trunk;
mod weights;

pub use bases::{Bases, base_of, is_reward_adapter, read_tokenizer};
pub use cache::KvCache;
pub use causal::CausalLm;
pub use config::{Head, ModelConfig, SpecialIds};
pub use encode::{Encoded, Segment};
pub use error::{Error, Result};
pub use example::{Example, ExampleBatch};
pub use generate::{Guessed, Sampled, generate, generate_rows, stream_response};
pub use gradients::{Gradients, TakeGradient};
pub use language_model::{LanguageModel, SaveDtype};
pub use likely::TokenScore;
pub use lora::peft::is_adapter;
pub use lora::{Adapter, LoraConfig};
pub use outline::{Outline, Size};
pub use packed::{Packed, Packer, PrefixId};
pub use params::{Params, WeightFormat, Weights};
pub use pretrained::{check_vocabulary, read_config, read_lm, read_scalar, write_lm, write_scalar};
pub use reward_model::{Calibration, HeadsCard, Probe, RewardCard, RewardModel};
pub use rlhf_ops::TokenLogprobs;
pub use sampling::SamplingConfig;
pub use scalar::{HeadInit, ScalarModel};
pub use schema::Schema;
pub use score_group::{ScoreGroup, last_hidden, mean_hidden};
pub use text_notes::{TextNotes, glued, seam};
pub use text_stream::TextStream;
pub use tokenizer::Tokenizer;
pub use train_bpe::train_bpe;
pub use weights::{save_tensors, tensors_to_bytes};
