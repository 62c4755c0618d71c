//! Writing a language model as a GGUF file: what llama.cpp, Ollama and others run.
//!
//! - `kinds`: how many bits each tensor gets;
//! - `vocabulary`, `pieces`: the tokenizer as metadata, byte-level BPE and SentencePiece's;
//! - here: the model's metadata, its tensors, the file.

mod kinds;
mod pieces;
mod vocabulary;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};

use super::file::GgufFile;
use super::weights::{gguf_names, laid_out};
use crate::config::Head;
use crate::families::Dimensions;
use crate::stored::Stored;
use crate::{Bases, Error, ModelConfig, Result, Tokenizer};
pub use kinds::{Fallback, Quantisation};

/// What was written.
#[derive(Debug)]
pub struct Exported {
    /// The tokenizer of the model.
    pub tokenizer: Tokenizer,
    /// The longest sequence that the file allows, in tokens.
    pub context_length: usize,
    /// How many tensors there are of each type, under ggml's names.
    pub tensors: BTreeMap<&'static str, usize>,
    /// The tensors that could not have the type they were meant to have.
    pub fallbacks: Vec<Fallback>,
    /// What llama.cpp will do otherwise.
    pub notes: Vec<String>,
}

/// Writes the language model in `from`, an adapter merged into its base, as the GGUF file `to`, which calls it `name`.
///
/// # Errors
/// If llama.cpp cannot run such a model or would split texts into other tokens. Nothing is written then.
pub fn export(
    from: &Path,
    bases: &Bases,
    quantisation: Quantisation,
    name: &str,
    to: &Path,
) -> Result<Exported> {
    let Stored {
        config,
        tensors,
        tokenizer,
        ..
    } = bases.stored(from, Head::CausalLm)?;
    let refused = |error: Error| Error::file(from, format!("cannot become a GGUF file: {error}"));
    let spelling = config.gguf_spelling();
    let architecture = spelling.architecture;
    let model = config.family().gguf(architecture).map_err(refused)?;
    let texts =
        vocabulary::metadata(&tokenizer, config.vocab_size(), architecture).map_err(refused)?;

    let mut metadata = vec![
        ("general.architecture".to_owned(), text(architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        (
            "general.file_type".to_owned(),
            Value::U32(quantisation.file_type()),
        ),
        // The layout of quantised blocks that ggml has had since 2023.
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let mut context_length = config.max_length();
    for (key, value) in model.keys {
        if let ("context_length", Value::U32(length)) = (key, &value) {
            context_length = *length as usize;
        }
        metadata.push((format!("{architecture}.{key}"), value));
    }
    metadata.extend(texts.metadata);

    let mut writer = Quantiser::new(quantisation, config.dimensions());
    for (parameter, tensor) in tensors {
        let stored = gguf_names(spelling, &config, &parameter);
        let stored = stored.ok_or_else(|| {
            refused(Error::Invalid(format!(
                "llama.cpp has no name for {parameter}"
            )))
        })?;
        let layout = (spelling.layout)(config.family(), &parameter, tensor.rank());
        let tensor = laid_out(tensor, layout)?;
        let parts = match &stored[..] {
            [_] => vec![tensor],
            several => tensor.chunk(several.len(), tensor.rank() - 2)?,
        };
        for (name, part) in stored.into_iter().zip(parts) {
            writer.push(name, part).map_err(refused)?;
        }
    }
    for (name, numbers) in model.tensors {
        let tensor = Tensor::new(numbers, &Device::Cpu)?;
        writer.push(name.to_owned(), tensor)?;
    }
    write(to, &metadata, &writer.tensors, |file| {
        match model.is_read_again {
            true => read_again(file, &config).map_err(refused),
            false => Ok(()),
        }
    })?;
    let mut counts = BTreeMap::new();
    for (_, tensor) in &writer.tensors {
        *counts.entry(kinds::spelled(tensor.dtype())).or_insert(0) += 1;
    }
    Ok(Exported {
        tokenizer,
        context_length,
        tensors: counts,
        fallbacks: writer.fallbacks,
        notes: [model.notes, texts.notes].concat(),
    })
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// Turns tensors into the blocks that the file will hold.
struct Quantiser {
    quantisation: Quantisation,
    dimensions: Dimensions,
    tensors: Vec<(String, QTensor)>,
    fallbacks: Vec<Fallback>,
}

impl Quantiser {
    fn new(quantisation: Quantisation, dimensions: Dimensions) -> Self {
        Self {
            quantisation,
            dimensions,
            tensors: Vec::new(),
            fallbacks: Vec::new(),
        }
    }

    /// Takes `tensor`, which llama.cpp calls `name`.
    fn push(&mut self, name: String, tensor: Tensor) -> Result<()> {
        let wanted = self
            .quantisation
            .wanted(&name, tensor.rank(), &self.dimensions);
        let row = tensor.dims().last().copied().unwrap_or(1);
        let used = kinds::fitting(wanted, row);
        let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
        if used == GgmlDType::F16 {
            check_range(&name, &tensor)?;
        }
        if used != wanted {
            self.fallbacks.push(Fallback {
                tensor: name.clone(),
                row,
                wanted: kinds::spelled(wanted),
                used: kinds::spelled(used),
            });
        }
        self.tensors.push((name, QTensor::quantize(&tensor, used)?));
        Ok(())
    }
}

/// Refuses numbers that half precision takes for infinite.
fn check_range(name: &str, tensor: &Tensor) -> Result<()> {
    let largest = tensor.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    // Everything below this is rounded to 65 504 or less.
    match largest < 65_520.0 {
        true => Ok(()),
        false => Err(Error::Invalid(format!(
            "{name} holds {largest}, beyond the largest number of f16 (65504): export it as q8_0"
        ))),
    }
}

/// Checks that the metadata in `file` describe the model of `config`: whatever llama.cpp cannot be told, or has no key for, would come back otherwise.
fn read_again(file: &Path, config: &ModelConfig) -> Result<()> {
    let mut file = GgufFile::open(file)?;
    let (spelling, read) = super::config::read(&mut file)?;
    let (found, wanted) = (read.family().computed(), config.family().computed());
    match first_difference(&found, &wanted) {
        Some((found, wanted)) => Err(Error::Invalid(format!(
            "llama.cpp's {} would run it with {found}, and it has {wanted}",
            spelling.architecture
        ))),
        None => Ok(()),
    }
}

/// The first part in which two descriptions differ, numbers by more than their rounding to f32.
fn first_difference<'a>(found: &'a str, wanted: &'a str) -> Option<(&'a str, &'a str)> {
    let same = |a: &str, b: &str| {
        let number = |part: &str| {
            let digits = part.trim_matches(|c: char| !(c.is_ascii_digit() || c == '-'));
            digits.parse::<f64>().ok()
        };
        a == b
            || match (number(a), number(b)) {
                (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(b.abs()),
                _ => false,
            }
    };
    let parts = |text: &'a str| text.split(", ");
    let mut pairs = parts(found).zip(parts(wanted));
    let last = |part: &'a str| part.rsplit_once(": ").map_or(part, |(_, value)| value);
    pairs.find(|(a, b)| !same(last(a), last(b)))
}

/// Writes the file aside and, where `check` has nothing against it, renames it, so that one of that name is always whole.
fn write(
    to: &Path,
    metadata: &[(String, Value)],
    tensors: &[(String, QTensor)],
    check: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    let mut aside = to.to_owned().into_os_string();
    aside.push(format!(".{}", std::process::id()));
    let aside = Path::new(&aside);
    let metadata: Vec<_> = metadata
        .iter()
        .map(|(key, value)| (&**key, value))
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, tensor)| (&**name, tensor))
        .collect();
    let written = || -> Result<()> {
        let mut file = BufWriter::new(fs_err::File::create(aside)?);
        gguf_file::write(&mut file, &metadata, &tensors)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        check(aside)?;
        Ok(fs_err::rename(aside, to)?)
    };
    written().inspect_err(|_| {
        // What is left of it, if anything is.
        let _ = fs_err::remove_file(aside);
    })
}
