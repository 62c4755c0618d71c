//! The optimizer shared out over ranks (ZeRO, stage 1; Rajbhandari et al. 2020, §5.1): each keeps the moments of its share of the parameters,
//! updates that share, and gives it to the others.
//!
//! All parameters lie end to end, in order of name, and are cut into shares of equal length, so that a share may begin and end within a
//! parameter. What a step computes is the same as without sharing, to the last bit.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Shape, Tensor, Var};
use rlhf_lm::Params;

use crate::{Comm, Result};

/// Numbers that all ranks together exchange at once, so that little memory is needed beside the parameters.
const AT_ONCE: usize = 1 << 22;

/// Which numbers are whose.
#[derive(Debug)]
pub(super) struct Shares {
    comm: Comm,
    /// The parameters with the place of their first number.
    parameters: Vec<(String, Shape, usize)>,
    /// Numbers in a share; the last ones may be shorter.
    share: usize,
}

impl Shares {
    /// Of the trainable parameters of `params`.
    pub(super) fn new(params: &Params, comm: &Comm) -> Self {
        let mut place = 0;
        let parameters = params.trainable().map(|(name, weight)| {
            let first = place;
            place += weight.elem_count();
            (name.to_owned(), weight.shape().clone(), first)
        });
        let parameters = parameters.collect();
        Self {
            comm: comm.clone(),
            parameters,
            share: place.div_ceil(comm.size()).max(1),
        }
    }

    /// The numbers of each parameter that are this rank's, where there are any.
    pub(super) fn own(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let first = self.comm.rank() * self.share;
        self.within(first..first + self.share)
    }

    /// The numbers of each parameter that lie in `places` of all.
    fn within(&self, places: Range<usize>) -> impl Iterator<Item = (&str, Range<usize>)> {
        self.parameters
            .iter()
            .filter_map(move |(name, shape, first)| {
                let (first, len) = (*first, shape.elem_count());
                let from = places.start.clamp(first, first + len) - first;
                let to = places.end.clamp(first, first + len) - first;
                (from < to).then_some((name.as_str(), from..to))
            })
    }

    /// Brings the share of every rank to all others: `own` reads numbers of this rank's parameters, `take` gets those of the others.
    fn gather(
        &self,
        own: impl Fn(&str, Range<usize>) -> Result<Vec<f32>>,
        mut take: impl FnMut(&str, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (rank, size) = (self.comm.rank(), self.comm.size());
        let step = (AT_ONCE / size).clamp(1, self.share);
        for begin in (0..self.share).step_by(step) {
            let end = (begin + step).min(self.share);
            let of = |rank: usize| rank * self.share + begin..rank * self.share + end;
            let mut mine = Vec::with_capacity(end - begin);
            for (name, part) in self.within(of(rank)) {
                mine.extend(own(name, part)?);
            }
            mine.resize(end - begin, 0.0);
            let all = self.comm.gather_numbers(&mine);
            for (other, numbers) in all.chunks_exact(end - begin).enumerate() {
                let mut rest = numbers;
                for (name, part) in self.within(of(other)) {
                    let (own, after) = rest.split_at(part.len());
                    rest = after;
                    if other != rank {
                        take(name, part, own)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives this rank's share of the weights to all others, and takes theirs.
    pub(super) fn gather_weights(&self, params: &Params) -> Result<()> {
        let weight = |name: &str| params.get(name).map(|weight| weight.as_detached_tensor());
        self.gather(
            |name, part| match weight(name) {
                Some(weight) => Ok(rlhf_ops::read_to_host(&slice(&weight, &part)?)?),
                None => Ok(Vec::new()),
            },
            |name, part, numbers| match weight(name) {
                Some(weight) => put(&weight, &part, numbers),
                None => Ok(()),
            },
        )
    }

    /// Moments of all ranks as whole tensors, on the leader; nothing on the others, which write no checkpoint.
    pub(super) fn gather_moments(
        &self,
        moment: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let mut whole = BTreeMap::new();
        if self.comm.leads() {
            for (name, shape, _) in &self.parameters {
                let zeros = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?;
                whole.insert(name.clone(), zeros);
            }
            for (name, part) in self.own() {
                if let (Some(whole), Some(own)) = (whole.get(name), moment(name)) {
                    put(whole, &part, &rlhf_ops::read_to_host(&own)?)?;
                }
            }
        }
        let first = |name: &str| {
            self.own()
                .find(|(own, _)| *own == name)
                .map_or(0, |it| it.1.start)
        };
        self.gather(
            |name, part| match moment(name) {
                Some(own) => {
                    let first = first(name);
                    let part = part.start - first..part.end - first;
                    Ok(rlhf_ops::read_to_host(&slice(&own, &part)?)?)
                }
                None => Ok(Vec::new()),
            },
            |name, part, numbers| match whole.get(name) {
                Some(whole) => put(whole, &part, numbers),
                None => Ok(()),
            },
        )?;
        Ok(whole)
    }
}

/// Numbers of `tensor`, row-major, as a copy of one dimension.
pub(super) fn slice(tensor: &Tensor, part: &Range<usize>) -> Result<Tensor> {
    let flat = tensor.flatten_all()?;
    Ok(flat.narrow(0, part.start, part.len())?.copy()?)
}

/// The same as a variable.
pub(super) fn variable(tensor: &Tensor, part: &Range<usize>) -> Result<Var> {
    Ok(Var::from_tensor(&slice(tensor, part)?)?)
}

/// Changes numbers of `tensor` in place.
pub(super) fn put(tensor: &Tensor, part: &Range<usize>, numbers: &[f32]) -> Result<()> {
    let numbers = Tensor::from_slice(numbers, part.len(), tensor.device())?;
    Ok(tensor.flatten_all()?.slice_set(&numbers, 0, part.start)?)
}
