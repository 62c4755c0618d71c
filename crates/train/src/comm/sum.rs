//! Gradients and counted numbers summed over the ranks.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use rlhf_lm::{Gradients, Params};
use rlhf_ops::ranks::{bytes_of, bytes_of_mut};

use super::{Comm, Several, Traffic};
use crate::Result;

/// Numbers that are summed in one go: 16 MiB, so that little memory is needed beside the gradients.
const BUCKET: usize = 1 << 22;

impl Comm {
    /// Puts the sum over all ranks in the place of each gradient, and gives that of `numbers`, f32 of any shape.
    ///
    /// A parameter without a gradient on some rank, which had no rows or none that depend on it, has the sum of the others. Where no rank
    /// has one there is none afterwards either, and the guards see it.
    pub fn sum_gradients(
        &self,
        gradients: &mut [(&Params, &mut Gradients)],
        numbers: &Tensor,
    ) -> Result<Tensor> {
        let Some(several) = &self.several else {
            return Ok(numbers.clone());
        };
        // First the numbers, and how many ranks have a gradient of each parameter.
        let mut small = rlhf_ops::read_to_host(numbers)?;
        for (params, own) in gradients.iter() {
            let there = params.trainable().map(|(name, _)| own.get(name).is_some());
            small.extend(there.map(|there| f32::from(u8::from(there))));
        }
        several.sum(&mut small, false);
        let mut there = small.split_off(numbers.elem_count()).into_iter();
        for (params, own) in gradients {
            let names = params.trainable().map(|(name, _)| name);
            let names: Vec<&str> = names.filter(|_| there.next() > Some(0.0)).collect();
            several.sum_named(params, own, &names, self.in_bf16)?;
        }
        let sums = Tensor::from_vec(small, numbers.shape(), &Device::Cpu)?;
        Ok(sums.to_device(numbers.device())?)
    }

    /// Sums gradients of so many bytes a few times: what this rank has sent each time, and the shortest time.
    pub fn measure_sum(&self) -> (u64, Traffic) {
        const TIMES: u32 = 5;
        let mut numbers = vec![0.0; BUCKET];
        let before = self.traffic();
        let once = |_| {
            let begun = Instant::now();
            if let Some(several) = &self.several {
                several.sum(&mut numbers, self.in_bf16);
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

impl Several {
    /// Sums the gradients of `names`, as many end to end as a bucket holds, and at least one.
    fn sum_named(
        &self,
        params: &Params,
        own: &mut Gradients,
        names: &[&str],
        in_bf16: bool,
    ) -> Result<()> {
        let mut bucket: Vec<(&str, Tensor)> = Vec::new();
        let mut numbers = 0;
        for (i, name) in names.iter().enumerate() {
            let Some(weight) = params.get(name) else {
                continue;
            };
            let gradient = match own.get(name) {
                Some(gradient) => gradient.flatten_all()?,
                None => Tensor::zeros(weight.elem_count(), DType::F32, params.device())?,
            };
            numbers += gradient.elem_count();
            bucket.push((name, gradient));
            if numbers < BUCKET && i + 1 < names.len() {
                continue;
            }
            let parts: Vec<&Tensor> = bucket.iter().map(|(_, gradient)| gradient).collect();
            let sums = self.sum_tensor(&Tensor::cat(&parts, 0)?, in_bf16)?;
            let mut place = 0;
            for (name, gradient) in bucket.drain(..) {
                let len = gradient.elem_count();
                // A copy, since backward passes and optimizers change it in place.
                let sum = sums.narrow(0, place, len)?.copy()?;
                place += len;
                if let Some(weight) = params.get(name) {
                    own.set(name, sum.reshape(weight.shape())?);
                }
            }
            numbers = 0;
        }
        Ok(())
    }

    /// Sums `[n]` numbers: on the devices where the engine can, else through the hosts.
    fn sum_tensor(&self, numbers: &Tensor, in_bf16: bool) -> Result<Tensor> {
        let begun = Instant::now();
        let (sent, bytes) = match in_bf16 {
            true => (DType::BF16, 2),
            false => (DType::F32, 4),
        };
        if let Some(sums) = self.ranks.sum_on_device(numbers, sent) {
            let part = numbers.elem_count().div_ceil(self.ranks.size());
            self.count(2 * self.others() * part * bytes, 2 * self.others(), begun);
            return Ok(sums?);
        }
        let mut sums = rlhf_ops::read_to_host(numbers)?;
        self.sum(&mut sums, in_bf16);
        Ok(Tensor::from_vec(sums, numbers.shape(), &Device::Cpu)?.to_device(numbers.device())?)
    }

    /// Sums `numbers` over the ranks, each of them in order of rank: rank r gets its r-th part from all, adds, and all get the sums.
    ///
    /// A rank sends `2 (N − 1) / N` times its numbers, as any all-reduce that spares the network; here the order of additions is known.
    fn sum(&self, numbers: &mut [f32], in_bf16: bool) {
        let size = self.ranks.size();
        for piece in numbers.chunks_mut(BUCKET) {
            let part = piece.len().div_ceil(size);
            let mut own = piece.to_vec();
            own.resize(part * size, 0.0);
            let received = self.exchange_numbers(&own, in_bf16);
            let mut parts = received.chunks_exact(part);
            let mut sum = parts.next().map_or_else(Vec::new, <[f32]>::to_vec);
            for other in parts {
                sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            let all = self.gather_numbers(&sum, in_bf16);
            piece.copy_from_slice(&all[..piece.len()]);
        }
    }

    /// The parts of all ranks that are this one's.
    fn exchange_numbers(&self, own: &[f32], in_bf16: bool) -> Vec<f32> {
        if in_bf16 {
            let own = halves(own);
            let mut received = vec![0; own.len()];
            self.exchange(&own, &mut received);
            return whole(&received);
        }
        let mut received = vec![0.0; own.len()];
        self.exchange(bytes_of(own), bytes_of_mut(&mut received));
        received
    }

    /// The numbers of all ranks, in their order.
    pub(super) fn gather_numbers(&self, own: &[f32], in_bf16: bool) -> Vec<f32> {
        if in_bf16 {
            let own = halves(own);
            let mut all = vec![0; own.len() * self.ranks.size()];
            self.gather_alike(&own, &mut all);
            return whole(&all);
        }
        let mut all = vec![0.0; own.len() * self.ranks.size()];
        self.gather_alike(bytes_of(own), bytes_of_mut(&mut all));
        all
    }
}

/// Numbers in bf16, rounded to the nearest.
fn halves(numbers: &[f32]) -> Vec<u8> {
    let halves = numbers.iter().map(|x| bf16::from_f32(*x).to_le_bytes());
    halves.flatten().collect()
}

fn whole(halves: &[u8]) -> Vec<f32> {
    let (pairs, _) = halves.as_chunks();
    pairs
        .iter()
        .map(|pair| bf16::from_le_bytes(*pair).to_f32())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::threads::run;
    use super::*;

    /// What rank `rank` has: of `a` a gradient that it knows, of `b` one where `rank` is 1, of `c` none.
    fn gradients(rank: usize) -> (Params, Gradients) {
        let mut params = Params::new(&Device::Cpu, DType::F32);
        for name in ["a", "b", "c"] {
            let zeros = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
            params.insert(name, &zeros).unwrap();
        }
        let mut own = Gradients::new();
        let filled = |x: f32| Tensor::full(x, (2, 3), &Device::Cpu).unwrap();
        own.set("a", filled(0.1 + rank as f32));
        if rank == 1 {
            own.set("b", filled(7.0));
        }
        (params, own)
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// By hand; the order of additions is that of the ranks, to the last bit.
    #[test]
    fn every_rank_has_the_sum_of_all_and_none_where_nobody_has_any() {
        let found = run(3, |comm| {
            let (params, mut own) = gradients(comm.rank());
            let numbers = Tensor::new(&[comm.rank() as f32, 0.25], &Device::Cpu).unwrap();
            let sums = comm
                .sum_gradients(&mut [(&params, &mut own)], &numbers)
                .unwrap();
            let there = |name| own.get(name).map(flat);
            (flat(&sums), [there("a"), there("b"), there("c")])
        });
        for (sums, [a, b, c]) in found {
            assert_eq!(sums, [3.0, 0.75]);
            assert_eq!(a.unwrap(), [0.1 + 1.1 + 2.1; 6]);
            assert_eq!(b.unwrap(), [7.0; 6]);
            assert!(c.is_none());
        }
    }

    /// Closed form: a rank sends each of the two others its part of the numbers and then its part of the sums. Two numbers and the flags of
    /// three parameters are parts of 2, the gradients of two parameters parts of 4: 4 bytes each.
    #[test]
    fn bytes_and_messages_are_those_of_the_formula() {
        let found = run(3, |comm| {
            let (params, mut own) = gradients(comm.rank());
            let before = comm.traffic();
            let numbers = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
            comm.sum_gradients(&mut [(&params, &mut own)], &numbers)
                .unwrap();
            let after = comm.traffic();
            (after.bytes - before.bytes, after.messages - before.messages)
        });
        for (bytes, messages) in found {
            assert_eq!((bytes, messages), (2 * 2 * 4 * (2 + 4), 2 * 2 * 2));
        }
    }

    /// By hand: 1 + 2⁻⁹ is sent as 1, since bf16 has 8 bits; 256 and 1 are sent as they are, and their sum 257 needs 9 bits, so it comes back as
    /// 256 (a tie goes to the even number). Half the bytes are sent for it.
    #[test]
    fn in_bf16_half_the_bytes_are_sent_and_sums_are_made_in_f32() {
        let found = run(2, |comm| {
            let mut params = Params::new(&Device::Cpu, DType::F32);
            let values: [f32; 4] =
                [[1.0 + 1.0 / 512.0, 256.0, 2.0, 0.0], [0.0, 1.0, 3.0, 0.0]][comm.rank()];
            let values = Tensor::new(&values, &Device::Cpu).unwrap();
            params.insert("a", &values).unwrap();
            let mut own = Gradients::new();
            own.set("a", values);
            let number = Tensor::new(&[1f32 + 1.0 / 512.0], &Device::Cpu).unwrap();
            let before = comm.traffic().bytes;
            let sums = comm
                .in_bf16()
                .sum_gradients(&mut [(&params, &mut own)], &number)
                .unwrap();
            (
                flat(own.get("a").unwrap()),
                flat(&sums),
                comm.traffic().bytes - before,
            )
        });
        for (gradient, sums, bytes) in found {
            assert_eq!(gradient, [1.0, 256.0, 5.0, 0.0]);
            assert_eq!(
                sums,
                [2.0 + 1.0 / 256.0],
                "counted numbers are never rounded"
            );
            assert_eq!(bytes, 2 * 4 + 2 * 2 * 2);
        }
    }

    #[test]
    fn pieces_of_any_length_are_summed_whole() {
        for len in [0, 1, 5, 1000] {
            let found = run(4, |comm| {
                let mut numbers: Vec<f32> = (0..len).map(|i| (i + comm.rank()) as f32).collect();
                comm.several.unwrap().sum(&mut numbers, false);
                numbers
            });
            let want: Vec<f32> = (0..len).map(|i| (4 * i + 6) as f32).collect();
            assert!(found.iter().all(|it| *it == want));
        }
    }
}
