//! Which tokens go to which experts, and in which order their rows are multiplied.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use super::gpu::{Cached, Tables};
use crate::host::read_to_host;

/// The experts that a router has chosen for each token. Rows, one for each token and expert of it, lie sorted by expert, and those of one expert
/// in the order of the tokens; no token is left out, however many an expert gets. Clones share the lists.
#[derive(Debug, Clone)]
pub struct Routing(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    /// Experts of a token.
    chosen: usize,
    /// By token, then by rank: the expert.
    experts: Vec<u32>,
    /// By token, then by rank: the row.
    rows: Vec<u32>,
    /// By row: the token.
    tokens: Vec<u32>,
    /// By expert: its first row; then the number of rows.
    starts: Vec<usize>,
    /// What kernels need of it.
    tables: Cached,
}

impl Routing {
    /// The `chosen` experts of the highest logits for every token, of `logits` `[T, E]`. Of equal logits the lower expert comes first.
    /// Reads from the device.
    pub fn top(logits: &Tensor, chosen: usize) -> Result<Self> {
        let (_, all) = logits.dims2()?;
        if chosen == 0 || chosen > all {
            bail!("routing: {chosen} experts for a token, of {all}")
        }
        let logits = read_to_host(&logits.to_dtype(DType::F32)?)?;
        let mut experts = Vec::with_capacity(logits.len() / all * chosen);
        let mut order: Vec<u32> = Vec::with_capacity(all);
        for row in logits.chunks_exact(all) {
            order.clear();
            order.extend(0..all as u32);
            // A total order, so that the choice is one.
            let higher =
                |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
            order.select_nth_unstable_by(chosen - 1, higher);
            order[..chosen].sort_unstable_by(higher);
            experts.extend_from_slice(&order[..chosen]);
        }
        Ok(Self::of(experts, chosen, all))
    }

    /// The routing with these `experts`, of `all`, by token and then by rank.
    fn of(experts: Vec<u32>, chosen: usize, all: usize) -> Self {
        let mut starts = vec![0; all + 1];
        for &expert in &experts {
            starts[expert as usize + 1] += 1;
        }
        for expert in 0..all {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let (mut rows, mut tokens) = (vec![0; experts.len()], vec![0; experts.len()]);
        for (slot, &expert) in experts.iter().enumerate() {
            let row = next[expert as usize];
            next[expert as usize] += 1;
            rows[slot] = row as u32;
            tokens[row] = (slot / chosen) as u32;
        }
        Self(Arc::new(Lists {
            chosen,
            experts,
            rows,
            tokens,
            starts,
            tables: Cached::default(),
        }))
    }

    /// Experts of a token.
    pub fn chosen(&self) -> usize {
        self.0.chosen
    }

    /// How many rows each expert has.
    pub fn counts(&self) -> impl Iterator<Item = usize> {
        self.0.starts.windows(2).map(|two| two[1] - two[0])
    }

    /// The experts of each token by rank, u32 `[T, K]`.
    pub fn experts(&self, device: &Device) -> Result<Tensor> {
        let shape = (self.num_tokens(), self.0.chosen);
        crate::upload(&self.0.experts, shape, device)
    }

    /// How many experts there are.
    pub(super) fn num_experts(&self) -> usize {
        self.0.starts.len() - 1
    }

    /// What kernels need of it on this device.
    pub(super) fn tables(&self, device: &Device) -> Result<Arc<Tables>> {
        self.0.tables.of(self, device)
    }

    /// T.
    pub(super) fn num_tokens(&self) -> usize {
        self.0.experts.len() / self.0.chosen
    }

    /// The row of each token by rank, `[T·K]`.
    pub(super) fn rows(&self) -> &[u32] {
        &self.0.rows
    }

    /// The token of each row, `[T·K]`.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.0.tokens
    }

    /// Every expert that has rows, with them.
    pub(super) fn groups(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let groups = self.0.starts.windows(2).enumerate();
        groups.filter_map(|(expert, two)| (two[0] < two[1]).then_some((expert, two[0]..two[1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand.
    #[test]
    fn the_highest_logits_are_chosen_and_rows_are_sorted_by_expert() {
        let logits = Tensor::new(
            &[[0f32, 3., 1.], [2., 2., 2.], [-1., -3., -2.]],
            &Device::Cpu,
        );
        let routing = Routing::top(&logits.unwrap(), 2).unwrap();
        let experts = routing.experts(&Device::Cpu).unwrap();
        assert_eq!(experts.to_vec2::<u32>().unwrap(), [[1, 2], [0, 1], [0, 2]]);
        assert_eq!(routing.counts().collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(routing.tokens(), [1, 2, 0, 1, 0, 2]);
        assert_eq!(routing.rows(), [2, 4, 0, 3, 1, 5]);
        let one = Tensor::new(&[[0f32, 1., 0.]], &Device::Cpu).unwrap();
        let routing = Routing::top(&one, 1).unwrap();
        assert_eq!(routing.groups().collect::<Vec<_>>(), [(1, 0..1)]);
        assert!(Routing::top(&one, 4).is_err() && Routing::top(&one, 0).is_err());
    }
}
