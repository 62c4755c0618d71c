//! Numbers that a run computes once and keeps beside its other files, so that a resumed run need not compute them again.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor, safetensors};

use crate::checksum::sha256_of;
use crate::{Result, RunDir, durable};

/// Under this name stands the checksum of all the others.
const CHECKSUM: &str = "sha256";

impl RunDir {
    /// Writes lists of numbers, each under its name, to `reference.safetensors`.
    pub fn keep_reference(&self, numbers: &BTreeMap<String, Vec<f32>>) -> Result<()> {
        if !self.comm.leads() {
            return Ok(());
        }
        let checksum = checksum(numbers);
        let checksum = Tensor::new(checksum.as_bytes(), &Device::Cpu)?;
        let mut tensors = HashMap::from([(CHECKSUM, checksum)]);
        for (name, list) in numbers {
            tensors.insert(name, Tensor::new(list.as_slice(), &Device::Cpu)?);
        }
        let path = self.reference();
        let aside = durable::aside(&path);
        safetensors::save(&tensors, &aside)?;
        let bytes = fs_err::read(&aside)?;
        durable::remove(&aside)?;
        Ok(durable::write_file(&path, &bytes)?)
    }

    /// The numbers given to [`RunDir::keep_reference`]; `None` where there are none, or the file is damaged.
    pub fn kept_reference(&self) -> Result<Option<BTreeMap<String, Vec<f32>>>> {
        self.comm.by_leader(|| Ok(self.read_reference()))
    }

    fn read_reference(&self) -> Option<BTreeMap<String, Vec<f32>>> {
        let mut numbers = BTreeMap::new();
        let mut expected = Vec::new();
        for (name, tensor) in safetensors::load(self.reference(), &Device::Cpu).ok()? {
            match name.as_str() {
                CHECKSUM => expected = tensor.to_vec1::<u8>().ok()?,
                _ => {
                    numbers.insert(name, tensor.to_vec1::<f32>().ok()?);
                }
            }
        }
        (checksum(&numbers).as_bytes() == expected).then_some(numbers)
    }
}

fn checksum(numbers: &BTreeMap<String, Vec<f32>>) -> String {
    let mut bytes = Vec::new();
    for (name, list) in numbers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&(list.len() as u64).to_le_bytes());
        bytes.extend(list.iter().flat_map(|x| x.to_le_bytes()));
    }
    sha256_of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OnExisting;

    #[test]
    fn what_was_kept_is_read_back_and_a_damaged_file_counts_as_none() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = RunDir::open(tmp.path(), OnExisting::Refuse).unwrap();
        assert_eq!(dir.kept_reference().unwrap(), None);
        let numbers = BTreeMap::from([
            ("a".to_owned(), vec![0.1, -2.5]),
            ("b".to_owned(), Vec::new()),
        ]);
        dir.keep_reference(&numbers).unwrap();
        assert_eq!(dir.kept_reference().unwrap(), Some(numbers));
        let path = tmp.path().join("reference.safetensors");
        let mut bytes = fs_err::read(&path).unwrap();
        let number = 0.1f32.to_le_bytes();
        let at = bytes.windows(4).position(|w| w == number).unwrap();
        bytes[at] ^= 1;
        fs_err::write(&path, bytes).unwrap();
        assert_eq!(dir.kept_reference().unwrap(), None);
    }
}
