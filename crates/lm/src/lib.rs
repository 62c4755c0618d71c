//! Language models one can load, train, sample from and save.

mod cache;
mod causal;
mod config;
mod encode;
mod error;
mod generate;
mod gpt2;
mod gradients;
pub mod hub;
mod linear;
mod llama;
mod packed;
mod params;
mod pretrained;
pub mod rng;
mod rotary;
mod sampling;
mod scalar;
mod schema;
mod template;
mod text;
mod tokenizer;
mod train_bpe;
mod trunk;
mod weights;

pub use cache::KvCache;
pub use causal::CausalLm;
pub use config::{Family, Head, MODEL_TYPES, ModelConfig, SpecialIds};
pub use encode::{Encoded, Segment};
pub use error::{Error, Result};
pub use generate::{Sampled, generate};
pub use gpt2::{Gelu, Gpt2Config};
pub use gradients::Gradients;
pub use llama::{LlamaConfig, Variant};
pub use packed::{Packed, Packer, PrefixId};
pub use params::Params;
pub use pretrained::{
    check_vocabulary, read_config, read_lm, read_scalar, write_lm, write_scalar,
};
pub use rotary::RopeScaling;
pub use sampling::{Draw, Sampler, SamplingConfig};
pub use scalar::{HeadInit, ScalarModel};
pub use schema::Schema;
pub use text::{Message, Text};
pub use tokenizer::{TextStream, Tokenizer};
pub use train_bpe::train_bpe;
pub use trunk::{Attend, Trunk};
