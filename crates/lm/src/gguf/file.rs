//! A GGUF file: metadata by key, and tensors by name, each read only when it is asked for.
//!
//! The layout: magic `GGUF`, version, the number of tensors and of metadata entries, the entries (key,
//! type, value), of each tensor name, dimensions (the fastest first), type and offset; then, aligned,
//! the data. All numbers are little-endian. Source: the specification at
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, gguf_file::TensorInfo};
use candle_core::{DType, Device, Shape, Tensor};

use super::header::{Header, Stored, Value};
use crate::quantised::can_stay;
use crate::{Error, Result};

/// Where tensors begin, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// An open GGUF file.
#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    file: fs_err::File,
    size: u64,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Stored>,
    data: u64,
}

impl GgufFile {
    /// Reads everything but the tensors' data.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut header = Header::open(path)?;
        let (tensor_count, entry_count) = header.start()?;
        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = header.text("the name of a key")?;
            let kind = header.u32(&key)?;
            let value = header.value(&key, kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(Error::file(path, format!("key {key} is there twice")));
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = header.text("the name of a tensor")?;
            let stored = header.stored(&name)?;
            if tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::file(path, format!("tensor {name} is there twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(n)) if *n > 0 && *n <= 1 << 20 => *n as u64,
            Some(other) => {
                return Err(Error::file(
                    path,
                    format!("general.alignment = {other:?}, expected 1 to 1048576"),
                ));
            }
        };
        let data = header.at.next_multiple_of(alignment);
        Ok(Self {
            path: path.to_owned(),
            file: header.input.into_inner(),
            size: header.size,
            metadata,
            tensors,
            data,
        })
    }

    /// An error about this file.
    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::file(&self.path, what)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// `key`, if it is there; an error if it holds anything but a text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.odd(key, "a text", other)),
        }
    }

    /// `key`, if it is there; an error if it holds anything but a number from 0 to `most`.
    pub(super) fn integer(&self, key: &str, most: usize) -> Result<Option<usize>> {
        let value = match self.value(key) {
            None => return Ok(None),
            Some(Value::Integer(value)) => *value,
            // One number for each layer, where all are equal that have any.
            Some(Value::Array(values)) => match values.iter().find(|v| **v != Value::Integer(0)) {
                Some(one @ Value::Integer(value))
                    if values.iter().all(|v| v == one || *v == Value::Integer(0)) =>
                {
                    *value
                }
                _ => {
                    return Err(
                        self.error(format!("{key} differs between layers, which we cannot run"))
                    );
                }
            },
            Some(other) => return Err(self.odd(key, "a whole number", other)),
        };
        match usize::try_from(value) {
            Ok(value) if value <= most => Ok(Some(value)),
            _ => Err(self.error(format!("{key} = {value}, expected 0 to {most}"))),
        }
    }

    /// `key`, if it is there; an error if it holds anything but a positive number.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        let value = match self.value(key) {
            None => return Ok(None),
            Some(Value::Float(value)) => *value,
            Some(Value::Integer(value)) => *value as f64,
            Some(other) => return Err(self.odd(key, "a number", other)),
        };
        if value.is_finite() && value > 0.0 {
            return Ok(Some(value));
        }
        Err(self.error(format!("{key} = {value}, expected a positive number")))
    }

    /// `key`, if it is there; an error if it holds anything but true or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.odd(key, "true or false", other)),
        }
    }

    /// The list `key`, if it is there, each element through `read`; `what` is what it should hold.
    pub(super) fn list<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let Value::Array(values) = value else {
            return Err(self.odd(key, "a list", value));
        };
        let read =
            |(i, value)| read(value).ok_or_else(|| self.odd(&format!("{key}[{i}]"), what, value));
        values
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<_>>()
            .map(Some)
    }

    fn odd(&self, key: &str, expected: &str, found: &Value) -> Error {
        self.error(format!("{key} holds {}, expected {expected}", found.kind()))
    }

    /// An error for a key that has to be there.
    pub(super) fn missing(&self, key: &str) -> Error {
        self.error(format!("{key} is missing from the metadata"))
    }

    /// The names of all tensors, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of tensor `name`, the fastest dimension last, as everywhere but in GGUF.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| &stored.shape[..])
    }

    /// Whether two tensors are stored in the same bytes.
    pub(super) fn same_bytes(&mut self, a: &str, b: &str) -> Result<bool> {
        let (Some(first), Some(second)) = (self.tensors.get(a), self.tensors.get(b)) else {
            return Ok(false);
        };
        if (first.kind, &first.shape) != (second.kind, &second.shape) {
            return Ok(false);
        }
        Ok(self.bytes(a)?.1 == self.bytes(b)?.1)
    }

    /// Tensor `name`: floats as they are stored, anything quantised as f32.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let (dtype, bytes) = self.bytes(name)?;
        let shape = Shape::from(self.shape(name).unwrap_or_default());
        let plain = match dtype {
            GgmlDType::F32 => Some(DType::F32),
            GgmlDType::F16 => Some(DType::F16),
            GgmlDType::BF16 => Some(DType::BF16),
            _ => None,
        };
        if let Some(plain) = plain {
            return Ok(Tensor::from_raw_buffer(
                &bytes,
                plain,
                shape.dims(),
                &Device::Cpu,
            )?);
        }
        let info = TensorInfo {
            ggml_dtype: dtype,
            shape,
            offset: 0,
        };
        let quantised = info.read(&mut std::io::Cursor::new(bytes), 0, &Device::Cpu);
        quantised
            .and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .map_err(|e| self.error(format!("tensor {name}: {e}")))
    }

    /// Tensor `name`, a matrix or a stack of them in quantised blocks, as it is stored: u8 `[rows, bytes of a row]`. `None` where it is none.
    pub(super) fn blocks(&mut self, name: &str) -> Result<Option<(GgmlDType, Tensor)>> {
        let (kind, bytes) = self.bytes(name)?;
        let Some([stack @ .., rows, _]) = self.shape(name) else {
            return Ok(None);
        };
        let rows = rows * stack.iter().product::<usize>();
        if !can_stay(kind) || rows == 0 {
            return Ok(None);
        }
        let row = bytes.len() / rows;
        let blocks = Tensor::from_vec(bytes, (rows, row), &Device::Cpu)?;
        Ok(Some((kind, blocks)))
    }

    /// The type of tensor `name`, where it can stay in its blocks.
    pub(super) fn block_kind(&self, name: &str) -> Option<GgmlDType> {
        let kind = known(self.tensors.get(name)?.kind).ok();
        kind.filter(|kind| can_stay(*kind))
    }

    /// Numbers and bytes of tensor `name`, where it can stay in its blocks.
    pub(super) fn blocks_size(&self, name: &str) -> Option<(u64, u64)> {
        let stored = self.tensors.get(name)?;
        let dtype = self.block_kind(name)?;
        let blocks = stored.elements / dtype.block_size();
        Some((stored.elements as u64, (blocks * dtype.type_size()) as u64))
    }

    /// The type and the data of tensor `name`.
    fn bytes(&mut self, name: &str) -> Result<(GgmlDType, Vec<u8>)> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(self.error(format!("tensor {name} is missing")));
        };
        let dtype = match known(stored.kind) {
            Ok(dtype) => dtype,
            Err(other) => {
                return Err(self.error(format!(
                    "tensor {name} is stored as {other}; expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K: \
                     use a file quantised to one of these"
                )));
            }
        };
        // Blocks lie along the fastest dimension and never cross rows.
        let row = stored.shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_size()) {
            return Err(self.error(format!(
                "tensor {name}: rows of {row} values are no whole number of {dtype:?} blocks of {}",
                dtype.block_size()
            )));
        }
        let blocks = stored.elements / dtype.block_size();
        let start = self.data.saturating_add(stored.offset);
        let end = blocks
            .checked_mul(dtype.type_size())
            .and_then(|bytes| start.checked_add(bytes as u64))
            .filter(|end| *end <= self.size);
        let Some(end) = end else {
            return Err(self.error(format!(
                "tensor {name} ends behind the end of the file ({} bytes): is it completely downloaded?",
                self.size
            )));
        };
        let mut bytes = vec![0; (end - start) as usize];
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut bytes)?;
        Ok((dtype, bytes))
    }
}

/// The type a number stands for, or its name if it is one we do not read.
fn known(kind: u32) -> Result<GgmlDType, String> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            let name = match other {
                9 => "Q8_1",
                15 => "Q8_K",
                16 => "IQ2_XXS",
                17 => "IQ2_XS",
                18 => "IQ3_XXS",
                19 => "IQ1_S",
                20 => "IQ4_NL",
                21 => "IQ3_S",
                22 => "IQ2_S",
                23 => "IQ4_XS",
                24..=27 => "whole numbers",
                28 => "F64",
                29 => "IQ1_M",
                34 => "TQ1_0",
                35 => "TQ2_0",
                39 => "MXFP4",
                _ => return Err(format!("type {other}")),
            };
            return Err(name.to_owned());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_dequantised_to_the_numbers_of_the_gguf_package() {
        // Random bits in every type: scripts/oracle/gguf_files.py.
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf");
        let expected = folder.join("quantised.safetensors");
        let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
        let mut file = GgufFile::open(&folder.join("quantised.gguf")).unwrap();
        assert_eq!((file.names().count(), expected.len()), (13, 13));
        for (name, expected) in expected {
            let found = file.tensor(&name).unwrap();
            assert_eq!(found.dims(), [2, 256], "{name}");
            let numbers = |t: &Tensor| -> Vec<f32> {
                let t = t.to_dtype(DType::F32).unwrap();
                t.flatten_all().unwrap().to_vec1().unwrap()
            };
            for (found, expected) in numbers(&found).into_iter().zip(numbers(&expected)) {
                // A product or two, rounded in another order.
                let tolerance = 1e-6 * expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name}: {found} {expected}"
                );
            }
        }
    }
}
