//! Tensors cut into one part for each rank.

use std::ops::Range;

use candle_core::Tensor;

use super::sum::BUCKET;
use crate::Result;

/// Part r of several tensors: of each the r-th `⌈len / ranks⌉` numbers, row-major, end to end. Where a tensor has no more numbers, zeros
/// stand in their place, so that all parts have the same length.
///
/// Since each tensor is cut by itself, it does not matter which of them are exchanged together: a number has the same owner always.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    ranks: usize,
    lens: Vec<usize>,
    /// Where the numbers of each tensor begin within a part, and the length of a part.
    places: Vec<usize>,
}

impl Parts {
    /// Of tensors with so many numbers.
    pub(crate) fn new(lens: Vec<usize>, ranks: usize) -> Self {
        let mut place = 0;
        let mut places = vec![0];
        for len in &lens {
            place += len.div_ceil(ranks);
            places.push(place);
        }
        Self {
            ranks,
            lens,
            places,
        }
    }

    /// Numbers in a part.
    pub(crate) fn len(&self) -> usize {
        self.places[self.lens.len()]
    }

    /// A part in pieces, which of all ranks together are about a bucket: what is exchanged at once.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (len, step) = (self.len(), BUCKET.div_ceil(self.ranks));
        (0..len)
            .step_by(step)
            .map(move |first| first..len.min(first + step))
    }

    /// The numbers of a tensor that are in the part of `rank`; there may be none.
    pub(crate) fn of(&self, tensor: usize, rank: usize) -> Range<usize> {
        let (len, part) = (self.lens[tensor], self.width(tensor));
        len.min(rank * part)..len.min((rank + 1) * part)
    }

    /// What a piece of the part of `rank` consists of: tensor, numbers of the tensor, and how many zeros stand after them.
    pub(crate) fn within(
        &self,
        rank: usize,
        piece: Range<usize>,
    ) -> impl Iterator<Item = (usize, Range<usize>, usize)> + '_ {
        (0..self.lens.len()).filter_map(move |tensor| {
            let place = self.places[tensor];
            let from = piece.start.max(place);
            let to = piece.end.min(self.places[tensor + 1]);
            let (len, first) = (self.lens[tensor], rank * self.width(tensor));
            let at = |number: usize| len.min(first + number - place);
            (from < to).then(|| {
                let numbers = at(from)..at(to);
                let zeros = to - from - numbers.len();
                (tensor, numbers, zeros)
            })
        })
    }

    /// All parts of `tensors`, `[ranks, len]`.
    pub(super) fn pack(&self, tensors: &[Tensor]) -> Result<Tensor> {
        let rows = tensors.iter().zip(&self.lens).enumerate();
        let rows = rows.map(|(tensor, (numbers, len))| -> Result<Tensor> {
            let width = self.width(tensor);
            let numbers = numbers.flatten_all()?;
            let whole = match width * self.ranks - len {
                0 => numbers,
                zeros => numbers.pad_with_zeros(0, 0, zeros)?,
            };
            Ok(whole.reshape((self.ranks, width))?)
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok(match &rows[..] {
            [one] => one.clone(),
            _ => Tensor::cat(&rows, 1)?,
        })
    }

    /// The numbers of each tensor, `[len]`, from all parts.
    pub(super) fn unpack(&self, parts: &Tensor) -> Result<Vec<Tensor>> {
        let one = |tensor: usize| -> Result<Tensor> {
            let rows = parts.narrow(1, self.places[tensor], self.width(tensor))?;
            Ok(rows.flatten_all()?.narrow(0, 0, self.lens[tensor])?)
        };
        (0..self.lens.len()).map(one).collect()
    }

    /// The numbers of each tensor that are in `part`, that of `rank`, without the zeros.
    pub(super) fn unpack_one(&self, rank: usize, part: &Tensor) -> Result<Vec<Tensor>> {
        let one = |tensor: usize| -> Result<Tensor> {
            Ok(part.narrow(0, self.places[tensor], self.of(tensor, rank).len())?)
        };
        (0..self.lens.len()).map(one).collect()
    }

    /// Where the numbers of each tensor that are in the part of `rank` stand in it.
    pub(super) fn stretches(&self, rank: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.lens.len()).map(move |tensor| {
            let place = self.places[tensor];
            place..place + self.of(tensor, rank).len()
        })
    }

    fn width(&self, tensor: usize) -> usize {
        self.lens[tensor].div_ceil(self.ranks)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// By hand: 5 numbers are 2, 2 and 1 for three ranks, 1 is 1, 0 and 0, and 3 are one each.
    #[test]
    fn each_tensor_is_cut_by_itself() {
        let parts = Parts::new(vec![5, 1, 3], 3);
        assert_eq!(parts.len(), 4);
        let numbers = |tensor| [0, 1, 2].map(|rank| parts.of(tensor, rank));
        assert_eq!(numbers(0), [0..2, 2..4, 4..5]);
        assert_eq!(numbers(1), [0..1, 1..1, 1..1]);
        let found: Vec<_> = parts.within(2, 1..4).collect();
        assert_eq!(found, [(0, 5..5, 1), (1, 1..1, 1), (2, 2..3, 0)]);
        assert_eq!(parts.stretches(2).collect::<Vec<_>>(), [0..1, 2..2, 3..4]);
        let tensor = |from: u8, n: usize| {
            let numbers: Vec<f32> = (0..n).map(|i| f32::from(from) + i as f32).collect();
            Tensor::from_vec(numbers, n, &Device::Cpu).unwrap()
        };
        let tensors = [tensor(10, 5), tensor(20, 1), tensor(30, 3)];
        let packed = parts.pack(&tensors).unwrap();
        assert_eq!(
            packed.to_vec2::<f32>().unwrap(),
            [
                [10.0, 11.0, 20.0, 30.0],
                [12.0, 13.0, 0.0, 31.0],
                [14.0, 0.0, 0.0, 32.0]
            ]
        );
        let flat = |all: Vec<Tensor>| -> Vec<Vec<f32>> {
            all.iter().map(|it| it.to_vec1().unwrap()).collect()
        };
        assert_eq!(flat(parts.unpack(&packed).unwrap()), flat(tensors.to_vec()));
        let last = parts.unpack_one(2, &packed.get(2).unwrap()).unwrap();
        assert_eq!(flat(last), [vec![14.0], vec![], vec![32.0]]);
    }

    #[test]
    fn pieces_cover_a_part_without_gap() {
        for len in [1, BUCKET - 1, BUCKET, 3 * BUCKET + 5] {
            let parts = Parts::new(vec![len], 3);
            let mut end = 0;
            for piece in parts.pieces() {
                assert_eq!(piece.start, end);
                assert!(piece.len() * 3 < BUCKET + 3);
                end = piece.end;
            }
            assert_eq!(end, parts.len());
        }
        // What one bucket holds is exchanged at once.
        assert_eq!(Parts::new(vec![BUCKET], 3).pieces().count(), 1);
    }
}
