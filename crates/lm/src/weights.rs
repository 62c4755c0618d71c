//! Tensors in safetensors files: read in one piece or in shards, written in one.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use fs_err::File;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use crate::boundary::guarded;
use crate::{Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Every tensor of a model directory in the dtype it is stored in (f32, f16 or bf16), on the CPU, and
/// the file that lists them.
pub(crate) fn read(dir: &Path) -> Result<(PathBuf, BTreeMap<String, Tensor>)> {
    guarded(|| read_all(dir)).map_err(|what| Error::file(dir, what))?
}

/// Whether `dir` holds the weights of a whole model.
pub(crate) fn is_there(dir: &Path) -> bool {
    dir.join(SINGLE).is_file() || dir.join(INDEX).is_file()
}

/// Like [`read`], for one file of any name.
pub(crate) fn read_one(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    guarded(|| read_file(path, &mut tensors)).map_err(|what| Error::file(path, what))??;
    Ok(tensors)
}

fn read_all(dir: &Path) -> Result<(PathBuf, BTreeMap<String, Tensor>)> {
    let mut tensors = BTreeMap::new();
    let single = dir.join(SINGLE);
    if single.is_file() {
        read_file(&single, &mut tensors)?;
        return Ok((single, tensors));
    }
    let index = dir.join(INDEX);
    if !index.is_file() {
        return Err(Error::file(
            dir,
            format!(
                "holds neither {SINGLE} nor {INDEX}; only safetensors are loaded (pickled .bin files can run code): \
                 convert them with transformers' save_pretrained"
            ),
        ));
    }
    for shard in shards(&index)? {
        read_file(&dir.join(shard), &mut tensors)?;
    }
    Ok((index, tensors))
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The distinct shards an index lists, in order of name.
fn shards(index: &Path) -> Result<Vec<String>> {
    let text = fs_err::read_to_string(index)?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| Error::file(index, format!("expected an index of shards: {e}")))?;
    let mut shards: Vec<_> = parsed.weight_map.into_values().collect();
    shards.sort();
    shards.dedup();
    // A shard lies beside its index; a path that leads elsewhere is not one.
    match shards.iter().find(|s| s.contains(['/', '\\'])) {
        Some(path) => Err(Error::file(
            index,
            format!("lists {path:?}, expected the name of a file beside it"),
        )),
        None => Ok(shards),
    }
}

/// Adds the tensors of one file, read one at a time so that no more than one is held twice.
fn read_file(path: &Path, tensors: &mut BTreeMap<String, Tensor>) -> Result<()> {
    let foreign = |what: String| {
        let hint = "is it a safetensors file, completely downloaded?";
        Error::file(path, format!("{what}; {hint}"))
    };
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    if size < 8 {
        return Err(foreign(format!("{size} bytes are too few for a header")));
    }
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let data_start = 8u64.saturating_add(length);
    if data_start > size {
        return Err(foreign(format!(
            "the header claims {length} bytes, the file has {size}"
        )));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| foreign(format!("the header is not readable ({e})")))?;
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (dtype, bytes) =
            check(info).map_err(|e| Error::file(path, format!("tensor {name}: {e}")))?;
        let end = data_start.saturating_add(info.data_offsets.1 as u64);
        if end > size {
            return Err(foreign(format!(
                "tensor {name} ends at byte {end}, the file has {size}"
            )));
        }
        file.seek(SeekFrom::Start(data_start + info.data_offsets.0 as u64))?;
        let mut data = vec![0; bytes];
        file.read_exact(&mut data)?;
        let tensor = Tensor::from_raw_buffer(&data, dtype, &info.shape, &Device::Cpu)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(Error::file(
                path,
                format!("tensor {name}: already in another shard"),
            ));
        }
    }
    Ok(())
}

/// The dtype and byte length of a tensor, if we can use it.
fn check(info: &TensorInfo) -> Result<(DType, usize), String> {
    let dtype = match info.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        // Masks that old GPT-2 files carry; dropped by name afterwards.
        Dtype::U8 | Dtype::BOOL => DType::U8,
        other => return Err(format!("dtype {other:?}, expected F32, F16 or BF16")),
    };
    let (start, end) = info.data_offsets;
    let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let expected = elements.and_then(|n| n.checked_mul(dtype.size_in_bytes()));
    let found = end.checked_sub(start);
    match (expected, found) {
        (Some(expected), Some(found)) if expected == found => Ok((dtype, found)),
        _ => Err(format!(
            "shape {:?} of {:?} does not fill bytes {start}..{end}",
            info.shape, info.dtype
        )),
    }
}

/// Writes `tensors`, converted to `dtype`, as the `model.safetensors` of `dir`. The same values give
/// the same bytes.
pub(crate) fn write(dir: &Path, tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Result<()> {
    let path = dir.join(SINGLE);
    let converted = tensors
        .iter()
        .map(|(name, t)| {
            let t = t.to_dtype(dtype)?.to_device(&Device::Cpu)?.contiguous()?;
            Ok((name.clone(), t))
        })
        .collect::<Result<_>>()?;
    // `transformers` refuses a file that does not say which library's layout it has.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    serialize(&path, &converted, Some(metadata))
}

/// Writes `tensors` as they are into the safetensors file `path`. The same values give the same bytes.
///
/// # Errors
/// If the file cannot be written; the message names it.
pub fn save_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    serialize(path, tensors, None)
}

/// `tensors` as [`save_tensors`] would write them.
pub fn tensors_to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    Ok(safetensors::serialize(tensors, None).map_err(candle_core::Error::wrap)?)
}

/// Writes `tensors` as they are, with `metadata` in the header.
pub(crate) fn serialize(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    // `safetensors` makes files that their owner alone may read; this one is to be like any other.
    let usual = fs_err::File::create(path)?.metadata()?.permissions();
    safetensors::serialize_to_file(tensors, metadata, path).map_err(|e| match e {
        SafeTensorError::IoError(e) => Error::Io(io::Error::new(
            e.kind(),
            format!("failed to write to file `{}`: {e}", path.display()),
        )),
        other => Error::file(path, format!("could not be written: {other}")),
    })?;
    Ok(fs_err::set_permissions(path, usual)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(dir: &Path) -> String {
        read(dir).unwrap_err().to_string()
    }

    fn tensors() -> BTreeMap<String, Tensor> {
        let t = |v: &[f32]| Tensor::new(v, &Device::Cpu).unwrap();
        BTreeMap::from([("a".into(), t(&[1.0, 2.5])), ("b".into(), t(&[-3.0]))])
    }

    #[test]
    fn weights_may_be_read_by_whoever_may_read_the_other_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &tensors(), DType::F32).unwrap();
        fs_err::write(dir.path().join("config.json"), "{}").unwrap();
        let permissions = |name: &str| {
            fs_err::metadata(dir.path().join(name))
                .unwrap()
                .permissions()
        };
        assert_eq!(permissions(SINGLE), permissions("config.json"));
    }

    #[test]
    fn what_is_written_is_read_and_the_same_values_give_the_same_bytes() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &tensors(), dtype).unwrap();
            let first = fs_err::read(dir.path().join(SINGLE)).unwrap();
            let (_, found) = read(dir.path()).unwrap();
            assert_eq!(found["a"].dtype(), dtype);
            let a = found["a"].to_dtype(DType::F32).unwrap();
            assert_eq!(a.to_vec1::<f32>().unwrap(), [1.0, 2.5]); // exact in all three
            write(dir.path(), &found, dtype).unwrap();
            assert_eq!(fs_err::read(dir.path().join(SINGLE)).unwrap(), first);
        }
    }

    #[test]
    fn shards_are_read_through_their_index() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let one = BTreeMap::from([(name.to_owned(), tensors()[name].clone())]);
            write(dir.path(), &one, DType::F32).unwrap();
            fs_err::rename(dir.path().join(SINGLE), dir.path().join(name)).unwrap();
        }
        let index = |map: &str| {
            let text = format!(r#"{{"metadata": {{"total_size": 12}}, "weight_map": {map}}}"#);
            fs_err::write(dir.path().join(INDEX), text).unwrap();
        };
        index(r#"{"a": "a", "b": "b"}"#);
        let (_, found) = read(dir.path()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
        index(r#"{"a": "../a"}"#);
        assert!(message(dir.path()).contains("../a"));
        index(r#"{"a": "lost"}"#);
        assert!(message(dir.path()).contains("lost"));
    }

    #[test]
    fn truncated_and_foreign_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SINGLE);
        assert!(message(dir.path()).contains("holds neither"));
        write(dir.path(), &tensors(), DType::F32).unwrap();
        let whole = fs_err::read(&path).unwrap();
        for (bytes, expected) in [
            (&whole[..whole.len() - 1], "tensor b ends at byte"),
            (&whole[..20], "the header claims"),
            (&whole[..3], "too few"),
            (
                b"PK\x03\x04not a safetensors file at all".as_slice(),
                "the header claims",
            ),
            (b"\x02\0\0\0\0\0\0\0[]".as_slice(), "not readable"),
        ] {
            fs_err::write(&path, bytes).unwrap();
            let found = message(dir.path());
            assert!(
                found.contains(expected) && found.contains(SINGLE),
                "{found}"
            );
        }
    }
}
