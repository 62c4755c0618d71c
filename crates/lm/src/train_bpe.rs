//! Training a tokenizer: byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019),
//! as GPT-2 uses it.

use serde_json::{Map, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerImpl};

use crate::{Error, Result, Tokenizer};

const PAD: &str = "<|pad|>";

/// Learns a vocabulary of at most `vocab_size` tokens from `texts`: the special tokens, the 256
/// bytes, then merges in order of frequency. Every text of UTF-8 round-trips, seen or not; the same
/// texts give the same bytes.
///
/// The first of `special` ends a text and begins an empty one, as `<|endoftext|>` does in GPT-2;
/// one that is spelled `<|pad|>` pads. A corpus with few distinct words gives fewer tokens than
/// asked for.
pub fn train_bpe<I, S>(texts: I, vocab_size: usize, special: &[&str]) -> Result<Tokenizer>
where
    I: Iterator<Item = S> + Send,
    S: AsRef<str> + Send,
{
    let Some(end) = special.first() else {
        return Err(Error::Invalid(
            "a tokenizer needs at least one special token, the EOS token".to_owned(),
        ));
    };
    let least = 256 + special.len();
    if vocab_size < least {
        return Err(Error::Invalid(format!(
            "vocab_size is {vocab_size}, but 256 bytes and {} special tokens alone are {least}",
            special.len()
        )));
    }
    let failed =
        |e: tokenizers::Error| Error::Invalid(format!("training the tokenizer failed: {e}"));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(
            special
                .iter()
                .map(|token| AddedToken::from(*token, true))
                .collect(),
        )
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let bytes = ByteLevel::new(false, false, true);
    let mut pipeline: TokenizerImpl<
        BPE,
        tokenizers::NormalizerWrapper,
        ByteLevel,
        ByteLevel,
        ByteLevel,
    > = TokenizerImpl::new(BPE::default());
    pipeline
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(Some(bytes))
        .with_decoder(Some(bytes));
    pipeline.train(&mut trainer, texts).map_err(failed)?;
    let json = pipeline.to_string(true).map_err(failed)?;

    let mut config = Map::new();
    config.insert("bos_token".to_owned(), json!(end));
    config.insert("eos_token".to_owned(), json!(end));
    if special.contains(&PAD) {
        config.insert("pad_token".to_owned(), json!(PAD));
    }
    Tokenizer::from_bytes(json.as_bytes(), config)
}
