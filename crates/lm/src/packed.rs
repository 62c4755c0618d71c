//! A batch without padding: sequences end to end in one stream of tokens.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rlhf_ops::{Layout, Segment};

use crate::Result;

/// A batch without padding.
///
/// Linear layers, norms and MLPs see `[T, H]` and never know where a sequence ends; attention reads
/// it from `layout`. Tokens that several sequences share (the prompt of several responses) appear
/// once.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Every token of the batch, u32 `[T]`.
    pub ids: Tensor,
    /// Position of each token in its sequence, u32 `[T]`: from 0, or on from the end of its prefix.
    pub positions: Tensor,
    /// Which token sees which.
    pub layout: Layout,
}

impl Packed {
    /// Tokens of the batch, shared ones counted once.
    pub fn tokens(&self) -> usize {
        self.ids.elem_count()
    }
}

/// A prefix that a [`Packer`] holds and continuations can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixId {
    start: usize,
    end: usize,
}

/// Lays sequences end to end; a [`Packed`] batch comes out of [`Packer::finish`].
///
/// ```
/// use candle_core::Device;
/// use rlhf_lm::Packer;
///
/// # fn main() -> rlhf_lm::Result<()> {
/// let mut packer = Packer::new();
/// let prompt = packer.prefix(&[5, 6, 7]);
/// assert_eq!(packer.continuation(prompt, &[8, 9]), 3..5); // its rows in the stream
/// assert_eq!(packer.continuation(prompt, &[4]), 5..6);
/// let batch = packer.finish(&Device::Cpu)?;
/// assert_eq!(batch.ids.to_vec1::<u32>()?, [5, 6, 7, 8, 9, 4]);
/// assert_eq!(batch.positions.to_vec1::<u32>()?, [0, 1, 2, 3, 4, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Packer {
    ids: Vec<u32>,
    positions: Vec<u32>,
    blocks: Vec<Segment>,
}

impl Packer {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds tokens that later continuations share.
    pub fn prefix(&mut self, ids: &[u32]) -> PrefixId {
        let Range { start, end } = self.push(ids, 0..0);
        PrefixId { start, end }
    }

    /// Adds a sequence that stands alone; returns its rows in the stream.
    pub fn sequence(&mut self, ids: &[u32]) -> Range<usize> {
        self.push(ids, 0..0)
    }

    /// Adds a sequence that goes on from `prefix`; returns the rows of `ids` in the stream.
    ///
    /// A prefix of another packer is refused by [`Packer::finish`].
    pub fn continuation(&mut self, prefix: PrefixId, ids: &[u32]) -> Range<usize> {
        self.push(ids, prefix.start..prefix.end)
    }

    /// The rows of a prefix in the stream.
    pub fn prefix_rows(&self, prefix: PrefixId) -> Range<usize> {
        prefix.start..prefix.end
    }

    /// Tokens so far, shared ones counted once.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The batch, on `device`.
    pub fn finish(self, device: &Device) -> Result<Packed> {
        let (batch, []) = self.finish_beside([], device)?;
        Ok(batch)
    }

    /// The batch, and beside it lists of other numbers about it, such as rows and their targets: all in one upload.
    pub fn finish_beside<const N: usize>(
        self,
        beside: [&[u32]; N],
        device: &Device,
    ) -> Result<(Packed, [Tensor; N])> {
        let tokens = self.ids.len();
        let mut all = self.ids;
        all.extend(self.positions);
        let mut from = all.len();
        all.extend(beside.iter().copied().flatten());
        let all = rlhf_ops::upload(&all, all.len(), device)?;
        let batch = Packed {
            ids: all.narrow(0, 0, tokens)?,
            positions: all.narrow(0, tokens, tokens)?,
            layout: Layout::new(self.blocks)?,
        };
        let mut tensors = beside.map(|_| all.clone());
        for (tensor, list) in tensors.iter_mut().zip(beside) {
            *tensor = all.narrow(0, from, list.len())?;
            from += list.len();
        }
        Ok((batch, tensors))
    }

    fn push(&mut self, ids: &[u32], prefix: Range<usize>) -> Range<usize> {
        let start = self.ids.len();
        self.ids.extend_from_slice(ids);
        let first = prefix.len() as u32;
        self.positions.extend(first..first + ids.len() as u32);
        let tokens = start..self.ids.len();
        self.blocks.push(Segment {
            tokens: tokens.clone(),
            prefix: if prefix.is_empty() { 0..0 } else { prefix },
        });
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continuation_of_nothing_is_a_sequence() {
        let mut packer = Packer::new();
        packer.sequence(&[1, 2]);
        let empty = packer.prefix(&[]);
        assert_eq!(packer.continuation(empty, &[3]), 2..3);
        let batch = packer.finish(&Device::Cpu).unwrap();
        assert_eq!(batch.positions.to_vec1::<u32>().unwrap(), [0, 1, 0]);
        assert!(batch.layout.segments().iter().all(|b| b.prefix.is_empty()));
    }

    #[test]
    fn what_goes_beside_a_batch_is_uploaded_with_it() {
        let mut packer = Packer::new();
        packer.sequence(&[7, 8, 9]);
        let before = rlhf_ops::host_uploads();
        let (batch, [rows, none, targets]) = packer
            .finish_beside([&[0, 1], &[], &[8, 9]], &Device::Cpu)
            .unwrap();
        assert_eq!(rlhf_ops::host_uploads() - before, 1);
        let numbers = |t: &Tensor| t.to_vec1::<u32>().unwrap();
        assert_eq!(numbers(&batch.ids), [7, 8, 9]);
        assert_eq!(numbers(&batch.positions), [0, 1, 2]);
        assert_eq!(numbers(&rows), [0, 1]);
        assert!(numbers(&none).is_empty());
        assert_eq!(numbers(&targets), [8, 9]);
    }

    #[test]
    fn the_prefix_of_another_packer_is_refused() {
        let mut other = Packer::new();
        other.sequence(&[1]);
        let foreign = other.prefix(&[2, 3]);
        let mut packer = Packer::new();
        packer.sequence(&[1]);
        packer.continuation(foreign, &[4]);
        assert!(packer.finish(&Device::Cpu).is_err());
    }
}
