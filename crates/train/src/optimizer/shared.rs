//! The optimizer shared out over ranks (ZeRO, stage 1; Rajbhandari et al. 2020, §5.1): each keeps the moments of its share of the parameters,
//! updates that share, and gives it to the others.
//!
//! Each parameter is cut into one part for each rank, as its gradients are summed: a rank gets the sums of its own part alone. What a step
//! computes is the same as without sharing, to the last bit.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Shape, Tensor, Var};
use rlhf_lm::Params;

use crate::comm::Parts;
use crate::{Comm, Result};

/// Which numbers are whose.
#[derive(Debug)]
pub(super) struct Shares {
    comm: Comm,
    parameters: Vec<(String, Shape)>,
    parts: Parts,
}

impl Shares {
    /// Of the trainable parameters of `params`.
    pub(super) fn new(params: &Params, comm: &Comm) -> Self {
        let parameters = params.trainable();
        let parameters = parameters.map(|(name, weight)| (name.to_owned(), weight.shape().clone()));
        let parameters: Vec<(String, Shape)> = parameters.collect();
        let lens = parameters.iter().map(|(_, shape)| shape.elem_count());
        Self {
            comm: comm.clone(),
            parts: Parts::new(lens.collect(), comm.size()),
            parameters,
        }
    }

    /// The numbers of each parameter that are this rank's, where there are any.
    pub(super) fn own(&self) -> impl Iterator<Item = (&str, Range<usize>)> {
        let names = self.parameters.iter().enumerate();
        names.filter_map(|(i, (name, _))| {
            let own = self.parts.of(i, self.comm.rank());
            (!own.is_empty()).then_some((name.as_str(), own))
        })
    }

    /// Brings the share of every rank to all others: `own` reads numbers of this rank's parameters, `take` gets those of the others.
    fn gather(
        &self,
        own: impl Fn(&str, Range<usize>) -> Result<Vec<f32>>,
        mut take: impl FnMut(&str, Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let rank = self.comm.rank();
        for piece in self.parts.pieces() {
            let mut mine = Vec::with_capacity(piece.len());
            for (i, numbers, zeros) in self.parts.within(rank, piece.clone()) {
                if !numbers.is_empty() {
                    mine.extend(own(&self.parameters[i].0, numbers)?);
                }
                mine.resize(mine.len() + zeros, 0.0);
            }
            let all = self.comm.gather_numbers(&mine);
            for (other, mut rest) in all.chunks_exact(piece.len()).enumerate() {
                for (i, numbers, zeros) in self.parts.within(other, piece.clone()) {
                    let (own, after) = rest.split_at(numbers.len());
                    rest = &after[zeros..];
                    if other != rank && !numbers.is_empty() {
                        take(&self.parameters[i].0, numbers, own)?;
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
            for (name, shape) in &self.parameters {
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
