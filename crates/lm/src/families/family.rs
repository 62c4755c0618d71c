//! What a file of this folder defines: a [`ModelType`] for the table and a [`Family`] for its parsed configuration.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;
use candle_core::quantized::gguf_file::Value as MetadataValue;
use candle_nn::VarBuilder;
use rlhf_ops::DeltaHeads;
use serde_json::{Map, Value};

use super::Mixture;
use crate::gguf::Keys;
use crate::trunk::Trunk;
use crate::{Error, Result};

/// A `model_type` of `config.json` and what belongs to it before a configuration is read.
pub(crate) struct ModelType {
    /// The value of `model_type`.
    pub(crate) name: &'static str,
    /// Its classes in `transformers`, as `architectures` names them: next-token prediction, and one label per sequence.
    pub(crate) classes: (&'static str, &'static str),
    /// Reads the object of `config.json`.
    pub(crate) parse: Parse,
    /// llama.cpp's spelling. Where families share one, a file of it is read as the first of them.
    pub(crate) gguf: &'static GgufSpelling,
}

type Parse = fn(&Map<String, Value>) -> Result<Arc<dyn Family>>;

/// The parsed `config.json` of one family. `Debug` shows every field that decides what is computed, so that two spellings of a model
/// can be compared.
pub(crate) trait Family: Debug + Send + Sync {
    /// The sizes that the rest of the crate asks for.
    fn dimensions(&self) -> Dimensions;

    /// The names of parameters.
    fn names(&self) -> &'static Names;

    /// Numbers that decoding keeps for a token.
    fn cache_width(&self) -> usize {
        let size = self.dimensions();
        2 * size.layers * size.kv_heads * size.head_dim
    }

    /// Numbers that decoding keeps of a row, however many tokens it has.
    fn state_width(&self) -> usize {
        0
    }

    /// Inner size of an MLP, the mean over blocks.
    fn mlp_width(&self) -> usize {
        self.dimensions().intermediate
    }

    /// Numbers that every block is given of a token beside the residual stream.
    fn input_width(&self) -> usize {
        0
    }

    /// What becomes of the products of hidden states and vocabulary before they are logits.
    fn logits(&self) -> LogitsRule {
        LogitsRule::default()
    }

    /// The experts in the place of an MLP, where blocks have them.
    fn mixture(&self) -> Option<Mixture> {
        None
    }

    /// The heads of its recurrent layers, where it has some.
    fn recurrent_heads(&self) -> Option<DeltaHeads> {
        None
    }

    /// Modules that files may hold parameters of though nothing reads them.
    fn unread_modules(&self) -> Vec<String> {
        Vec::new()
    }

    /// Turns the tensors that files hold into the model's parameters, where the two differ in more than names.
    fn join_parts(&self, _tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// The inverse of [`join_parts`](Self::join_parts).
    fn split_parts(&self, _tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// Whatever decides which numbers come out, for a comparison with a model that is to give the same.
    fn computed(&self) -> String {
        format!("{self:?}")
    }

    /// The keys of `config.json` whose absence or newer spelling different programs might read differently, as `transformers` 4
    /// spells them.
    fn spelled_out(&self) -> Map<String, Value>;

    /// What llama.cpp has to know to run it as `architecture`; an error says what it cannot run.
    fn gguf(&self, architecture: &str) -> Result<GgufMetadata>;

    /// The trunk over the parameters of `vb`, which is at the root of the names.
    fn trunk(&self, vb: VarBuilder<'_>) -> Result<Box<dyn Trunk>>;
}

/// Logits are `cap · tanh(factor · h·w / cap)` of hidden state h and vocabulary row w, or without a cap `factor · h·w`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LogitsRule {
    /// 1 / `logits_scaling` of Granite.
    pub(crate) factor: f64,
    /// `final_logit_softcapping` of Gemma.
    pub(crate) cap: Option<f64>,
}

impl Default for LogitsRule {
    fn default() -> Self {
        Self {
            factor: 1.0,
            cap: None,
        }
    }
}

/// Sizes of a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dimensions {
    /// V, the rows of the embedding.
    pub(crate) vocab: usize,
    /// H, the width of the trunk.
    pub(crate) hidden: usize,
    /// Inner size of the MLP.
    pub(crate) intermediate: usize,
    /// The number of blocks.
    pub(crate) layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves several query heads.
    pub(crate) kv_heads: usize,
    /// D, the size of a head; need not be H / heads.
    pub(crate) head_dim: usize,
    /// The longest sequence the model takes, in tokens.
    pub(crate) max_length: usize,
    /// Whether the embedding is also the vocabulary projection.
    pub(crate) tied: bool,
    /// Standard deviation of fresh weights.
    pub(crate) initializer_range: f64,
}

/// The names that `transformers` gives to parameters.
#[derive(Debug)]
pub(crate) struct Names {
    /// The module of the trunk; trunk-only and older files leave it out of their names.
    pub(crate) trunk: &'static str,
    /// The module of the token embedding, within the trunk.
    pub(crate) embedding: &'static str,
    /// The module that holds the blocks by number, within the trunk.
    pub(crate) blocks: &'static str,
    /// The module of the vocabulary projection.
    pub(crate) head: &'static str,
    /// Endings of tensors in older files that are constants, not parameters.
    pub(crate) constants: &'static [&'static str],
    /// Parameters that add the same vector to every hidden state after the last block. A loss that depends on differences between
    /// scores alone has no gradient for them.
    pub(crate) shared_shifts: &'static [&'static str],
}

impl Names {
    /// The parameter that embeds tokens.
    pub(crate) fn embedding_weight(&self) -> String {
        format!("{}.{}.weight", self.trunk, self.embedding)
    }

    /// The parameter of the vocabulary projection, where it is not the embedding.
    pub(crate) fn head_weight(&self) -> String {
        format!("{}.weight", self.head)
    }
}

/// How llama.cpp spells a family.
pub(crate) struct GgufSpelling {
    /// The value of `general.architecture`.
    pub(crate) architecture: &'static str,
    /// The `config.json` that the metadata amount to; the flag says whether the embedding is the vocabulary projection.
    pub(crate) config: fn(&Keys<'_>, bool) -> Result<Map<String, Value>>,
    /// Modules outside the blocks, and llama.cpp's name of each.
    pub(crate) modules: &'static [(&'static str, &'static str)],
    /// Modules of a block, and llama.cpp's name of each, in several tables, since families share most of them. A parameter that is no module's `weight` or
    /// `bias` has its whole name here, and so has what is stored for it; of one stored in several tensors, stretches along the last dimension but one,
    /// these are the names with a `+` between.
    pub(crate) block: &'static [&'static [(&'static str, &'static str)]],
    /// How a parameter of this name and rank is laid out in the file.
    pub(crate) layout: fn(&dyn Family, &str, usize) -> StoredLayout,
    /// Whether files hold a tied embedding a second time, as a head.
    pub(crate) repeats_embedding: bool,
}

/// What the metadata of a GGUF file say about a model: the inverse of [`GgufSpelling::config`].
pub(crate) struct GgufMetadata {
    /// Keys and values, without the architecture's name in front.
    pub(crate) keys: Vec<(&'static str, MetadataValue)>,
    /// Numbers that files hold as tensors, by name: what the rotary frequencies are divided by, where they are stretched unevenly.
    pub(crate) tensors: Vec<(&'static str, Vec<f32>)>,
    /// What llama.cpp does otherwise.
    pub(crate) notes: Vec<String>,
    /// Whether reading the metadata again has to give the very same model. It need not where a model is written as another that computes the same.
    pub(crate) is_read_again: bool,
}

impl GgufMetadata {
    /// Those keys that every family has.
    pub(super) fn of(dimensions: &Dimensions) -> Self {
        let sizes = [
            ("vocab_size", dimensions.vocab),
            ("context_length", dimensions.max_length),
            ("embedding_length", dimensions.hidden),
            ("block_count", dimensions.layers),
            ("feed_forward_length", dimensions.intermediate),
            ("attention.head_count", dimensions.heads),
            ("attention.head_count_kv", dimensions.kv_heads),
        ];
        let mut metadata = Self {
            keys: Vec::new(),
            tensors: Vec::new(),
            is_read_again: false,
            notes: Vec::new(),
        };
        for (key, size) in sizes {
            metadata.set_size(key, size);
        }
        metadata
    }

    /// Gives `key` a whole number.
    pub(super) fn set_size(&mut self, key: &'static str, size: usize) {
        // No model is that large (`refuse_giants`).
        self.set(key, MetadataValue::U32(size as u32));
    }

    /// Gives `key` a number.
    pub(super) fn set_number(&mut self, key: &'static str, number: f64) {
        self.set(key, MetadataValue::F32(number as f32));
    }

    /// Gives `key` a value, in the place of the one it may have.
    pub(super) fn set(&mut self, key: &'static str, value: MetadataValue) {
        self.keys.retain(|(known, _)| *known != key);
        self.keys.push((key, value));
    }
}

/// How a tensor of a GGUF file differs from what `transformers` holds under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredLayout {
    /// Not at all.
    Same,
    /// A matrix of which `transformers` holds the transpose.
    Transposed,
    /// Rows of this many heads whose rotary pairs are neighbours (i, i + 1); in `transformers` they are (i, i + D/2).
    Interleaved(usize),
    /// Queries of this many heads, then keys, then values; in `transformers` the three of every head are together.
    Stacked(usize),
    /// The weights of a norm, to which 1 was added.
    PlusOne,
    /// Without the dimension of size 1 in the middle, `[C, L]` for `[C, 1, L]`.
    Squeezed,
    /// A part of a recurrent layer, whose heads of values are in another order.
    Recurrent(DeltaHeads, RecurrentPart),
}

/// The parameters of a recurrent layer by what their rows or columns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecurrentPart {
    /// Rows for the queries of all heads, for their keys, and for their values.
    QueriesKeysValues,
    /// The same, of a convolution `[C, 1, L]`, stored as `[C, L]`.
    Convolution,
    /// Rows for values.
    Values,
    /// A row or a number for each head of values.
    Heads,
    /// The same of A, of which the file has −e^A.
    Decay,
    /// Columns for values.
    Out,
}

/// For settings that llama.cpp's `architecture` does not have.
pub(super) fn not_run(architecture: &str, what: &str) -> Error {
    Error::Invalid(format!(
        "{what}, which llama.cpp's {architecture} does not have"
    ))
}

/// Refuses a switch we do not implement, unless it stands where it usually does.
pub(super) fn refuse(json: &Map<String, Value>, key: &str, unless: Value) -> Result<()> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(()),
        Some(found) if *found == unless => Ok(()),
        Some(found) if found.is_number() && found.as_f64() == unless.as_f64() => Ok(()),
        Some(found) => Err(Error::config(format!(
            "{key} = {found} is not supported (only {unless} is)"
        ))),
    }
}

/// A whole number.
pub(super) fn count(json: &Map<String, Value>, key: &str, default: usize) -> Result<usize> {
    match json.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(found) => match found.as_u64() {
            Some(number) => Ok(number as usize),
            None => Err(Error::config(format!(
                "{key} = {found}, expected a whole number"
            ))),
        },
    }
}

/// More blocks than any model has.
const MOST_LAYERS: u64 = 1 << 12;
/// More heads or columns than any model has.
const MOST: u64 = 1 << 20;
/// A longer context and a larger vocabulary than any model has.
const LONGEST: u64 = 1 << 31;

/// Refuses sizes that no model has: they are mistakes, and memory would be taken for them before a tensor is missed.
pub(super) fn refuse_giants(
    json: &Map<String, Value>,
    layers: &str,
    sizes: &[&str],
    lengths: &[&str],
) -> Result<()> {
    let bounds = [
        (MOST_LAYERS, &[layers][..]),
        (MOST, sizes),
        (LONGEST, lengths),
    ];
    for (most, keys) in bounds {
        for key in keys {
            let found = json.get(*key).filter(|n| n.as_f64() > Some(most as f64));
            if let Some(found) = found {
                return Err(Error::config(format!(
                    "{key} = {found}, expected at most {most}"
                )));
            }
        }
    }
    Ok(())
}
