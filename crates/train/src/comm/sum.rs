//! Tensors summed over the ranks.

use std::time::Instant;

use candle_core::{DType, Tensor};
use half::bf16;

use super::line::Line;
use super::parts::Parts;
use super::{Comm, Traffic};
use crate::Result;

/// Numbers that are sent in one go, 16 MiB: large beside the latency of any network, and little memory beside the gradients.
pub(super) const BUCKET: usize = 1 << 22;

/// How sums are made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct How {
    /// Whether numbers are sent in bf16; they are added in f32 all the same.
    pub(super) in_bf16: bool,
    /// Whether a rank gets only the sums of its own part.
    pub(super) own_part: bool,
}

/// What a rank gets of a sum.
#[derive(Debug)]
pub(super) struct Summed {
    /// Of each tensor the sums in one dimension: all, or those in this rank's part.
    pub(super) tensors: Vec<Tensor>,
    /// `Σ g²` of the sums of each tensor, over this rank's part. In f64, where no square of an f32 but that of zero is zero.
    pub(super) squares: Vec<f64>,
}

impl Comm {
    /// Sums gradients of so many bytes a few times: what this rank has sent each time, and the shortest time.
    pub fn measure_sum(&self) -> (u64, Traffic) {
        const TIMES: u32 = 5;
        let parts = Parts::new(vec![BUCKET], self.size());
        let how = How {
            own_part: false,
            ..self.how
        };
        let mut numbers = vec![0.0; parts.len() * self.size()];
        let before = self.traffic();
        let once = |_| {
            let begun = Instant::now();
            if let Some(several) = &self.several {
                several.line.sum_parts(&mut numbers, &parts, how);
            }
            begun.elapsed()
        };
        let time = (0..TIMES).map(once).min().unwrap_or_default();
        let after = self.traffic();
        let each = Traffic {
            bytes: (after.bytes - before.bytes) / u64::from(TIMES),
            messages: (after.messages - before.messages) / u64::from(TIMES),
            time,
        };
        (4 * BUCKET as u64, each)
    }
}

impl Line {
    /// Sums tensors over the ranks, each number in order of rank.
    pub(super) fn sum(&self, tensors: &[Tensor], how: How) -> Result<Summed> {
        let lens = tensors.iter().map(Tensor::elem_count).collect();
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        let parts = Parts::new(lens, size);
        let packed = parts.pack(tensors)?;
        if let Some(summed) = self.sum_on_device(&packed, &parts, how) {
            return summed;
        }
        let device = packed.device().clone();
        let mut numbers = rlhf_ops::read_to_host(&packed)?;
        drop(packed);
        let own = self.sum_parts(&mut numbers, &parts, how);
        let squares = parts.stretches(rank).map(|it| sum_of_squares(&own[it]));
        let squares = squares.collect();
        let tensors = if how.own_part {
            parts.unpack_one(rank, &Tensor::from_vec(own, parts.len(), &device)?)?
        } else {
            parts.unpack(&Tensor::from_vec(numbers, (size, parts.len()), &device)?)?
        };
        Ok(Summed { tensors, squares })
    }

    /// Sums the parts of all ranks, end to end in `numbers`, and gives the sums of this rank's own part. In `numbers` stand all sums
    /// afterwards, unless the own part is all that is wanted.
    ///
    /// Rank r gets its part from all, adds, and gives the sums to all: a rank sends `2 (N − 1) / N` times its numbers, as in any all-reduce
    /// that spares the network, and half of that for its own part; here the order of additions is known.
    pub(super) fn sum_parts(&self, numbers: &mut [f32], parts: &Parts, how: How) -> Vec<f32> {
        let rank = self.ranks.rank();
        let mut own = Vec::with_capacity(parts.len());
        for piece in parts.pieces() {
            let rows = numbers.chunks_exact(parts.len());
            let message: Vec<f32> = rows.flat_map(|row| &row[piece.clone()]).copied().collect();
            let received = self.exchange_numbers(&message, how.in_bf16);
            let mut rows = received.chunks_exact(piece.len());
            let mut sum = rows.next().map_or_else(Vec::new, <[f32]>::to_vec);
            for other in rows {
                sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            if how.own_part {
                // Rounded as if they were sent, so that the result does not depend on it.
                if how.in_bf16 {
                    let rounded = |x: &mut f32| *x = bf16::from_f32(*x).to_f32();
                    sum.iter_mut().for_each(rounded);
                }
                own.extend(sum);
                continue;
            }
            let all = self.gather_numbers(&sum, how.in_bf16);
            let sums = all.chunks_exact(piece.len());
            for (row, sums) in numbers.chunks_exact_mut(parts.len()).zip(sums) {
                row[piece.clone()].copy_from_slice(sums);
            }
            own.extend(&all[rank * piece.len()..][..piece.len()]);
        }
        own
    }

    /// The same where the engine sums from device to device.
    fn sum_on_device(&self, packed: &Tensor, parts: &Parts, how: How) -> Option<Result<Summed>> {
        let begun = Instant::now();
        let (sent, bytes) = match how.in_bf16 {
            true => (DType::BF16, 2),
            false => (DType::F32, 4),
        };
        let sums = self.ranks.sum_on_device(packed, sent, !how.own_part)?;
        let times = if how.own_part { 1 } else { 2 };
        let messages = times * self.others();
        self.count(messages * parts.len() * bytes, messages, begun);
        Some(sums.map_err(Into::into).and_then(|sums| {
            let rank = self.ranks.rank();
            let (tensors, own) = if how.own_part {
                (parts.unpack_one(rank, &sums)?, sums)
            } else {
                (parts.unpack(&sums)?, sums.get(rank)?)
            };
            let squares = squares_on_device(parts.unpack_one(rank, &own)?)?;
            Ok(Summed { tensors, squares })
        }))
    }
}

/// `Σ x²`, in eight sums side by side, so that it does not wait for one addition after the other.
fn sum_of_squares(numbers: &[f32]) -> f64 {
    let square = |x: &f32| f64::from(*x) * f64::from(*x);
    let (eights, rest) = numbers.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for eight in eights {
        let pairs = sums.iter_mut().zip(eight);
        pairs.for_each(|(sum, x)| *sum += square(x));
    }
    sums.into_iter().chain(rest.iter().map(square)).sum()
}

/// `Σ x²` of each tensor. Where it is zero in f32, `(Σ |x|)²` stands for it: below what any norm shows, and not zero unless all are.
fn squares_on_device(tensors: Vec<Tensor>) -> Result<Vec<f64>> {
    let all: Vec<&Tensor> = tensors.iter().collect();
    let sizes = tensors.iter().map(|it| it.abs()?.sum_all());
    let sizes = Tensor::stack(&sizes.collect::<Result<Vec<_>, _>>()?, 0)?;
    let both = Tensor::stack(&[rlhf_ops::sums_of_squares(&all)?, sizes], 1)?;
    let found = rlhf_ops::read_to_host(&both)?;
    let (pairs, _) = found.as_chunks();
    let square = |[square, size]: &[f32; 2]| match *square {
        0.0 => f64::from(*size) * f64::from(*size),
        square => f64::from(square),
    };
    Ok(pairs.iter().map(square).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::threads::run;
    use super::*;

    /// Closed form: Σ (i + r) over the ranks r.
    #[test]
    fn tensors_of_any_length_are_summed_whole_and_in_parts() {
        for lens in [vec![1], vec![5, 1], vec![1000, 3, 4]] {
            for ranks in [2, 4] {
                let found = run(ranks, |comm| {
                    let tensors: Vec<Tensor> = (lens.iter())
                        .map(|len| {
                            let numbers = (0..*len).map(|i| (i + comm.rank()) as f32);
                            Tensor::from_vec(numbers.collect(), *len, &Device::Cpu).unwrap()
                        })
                        .collect();
                    let line = &comm.several.as_ref().unwrap().line;
                    let sum = |own_part| {
                        let how = How {
                            own_part,
                            ..How::default()
                        };
                        let summed = line.sum(&tensors, how).unwrap();
                        let flat = |it: &Tensor| it.to_vec1::<f32>().unwrap();
                        let numbers: Vec<Vec<f32>> = summed.tensors.iter().map(flat).collect();
                        (numbers, summed.squares)
                    };
                    (sum(false), sum(true))
                });
                let of_ranks = (0..ranks).sum::<usize>();
                let want: Vec<Vec<f32>> = (lens.iter())
                    .map(|len| (0..*len).map(|i| (ranks * i + of_ranks) as f32).collect())
                    .collect();
                let mut parts = vec![Vec::new(); lens.len()];
                let mut squares = vec![0.0; lens.len()];
                for ((whole, of_whole), (own, of_own)) in found {
                    assert_eq!(whole, want);
                    assert_eq!(of_whole, of_own);
                    for (i, (own, square)) in own.into_iter().zip(of_own).enumerate() {
                        parts[i].extend(own);
                        squares[i] += square;
                    }
                }
                assert_eq!(parts, want);
                for (found, numbers) in squares.into_iter().zip(&want) {
                    // Whole numbers, exact in f64.
                    let want: f64 = numbers.iter().map(|x| f64::from(x * x)).sum();
                    assert_eq!(found, want);
                }
            }
        }
    }

    /// Closed form; 1e-30 squared is below the smallest f32.
    #[test]
    fn a_square_is_zero_where_all_numbers_are() {
        assert_eq!(sum_of_squares(&[3.0; 11]), 99.0);
        assert_eq!(sum_of_squares(&[0.0; 9]), 0.0);
        assert!((sum_of_squares(&[1e-30]) - 1e-60).abs() < 1e-66);
        let tensor = |numbers: &[f32]| Tensor::new(numbers, &Device::Cpu).unwrap();
        let found = squares_on_device(vec![tensor(&[3.0, 4.0]), tensor(&[0.0]), tensor(&[1e-30])]);
        let found = found.unwrap();
        assert_eq!(found[..2], [25.0, 0.0]);
        assert!((found[2] - 1e-60).abs() < 1e-66);
    }
}
