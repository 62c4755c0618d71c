//! Which gradients are sent together, and in which order.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::Shape;
use rlhf_lm::Params;

use super::sum::BUCKET;

/// Buckets of a small model, at least: so that the first one is on its way while others are computed.
const FEW: usize = 4;

/// The parameters of a step in the order in which their gradients are sent, the same on every rank.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) members: Vec<Member>,
    buckets: Vec<Range<usize>>,
    places: HashMap<String, usize>,
    /// Whether the order is that in which gradients become ready.
    pub(super) settled: bool,
}

/// A parameter.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) shape: Shape,
}

impl Buckets {
    /// In order of name: the order before a step has shown another.
    pub(super) fn of(params: &Params) -> Self {
        let members = params.trainable().map(|(name, weight)| Member {
            name: name.to_owned(),
            shape: weight.shape().clone(),
        });
        Self::cut(members.collect(), 0)
    }

    /// In buckets of equal size; none has both of the first `early` members and of the others.
    fn cut(members: Vec<Member>, early: usize) -> Self {
        let len = |member: &Member| member.shape.elem_count();
        let all: usize = members.iter().map(len).sum();
        let enough = (all / FEW).clamp(1, BUCKET);
        let mut buckets = Vec::new();
        let (mut first, mut numbers) = (0, 0);
        for (i, member) in members.iter().enumerate() {
            numbers += len(member);
            if numbers >= enough || i + 1 == early || i + 1 == members.len() {
                buckets.push(first..i + 1);
                (first, numbers) = (i + 1, 0);
            }
        }
        let places = members.iter().enumerate();
        let places = places.map(|(i, member)| (member.name.clone(), i)).collect();
        Self {
            members,
            buckets,
            places,
            settled: false,
        }
    }

    /// Whether they are those of the same parameters.
    pub(super) fn alike(&self, other: &Self) -> bool {
        self.members.len() == other.members.len()
            && (other.members.iter()).all(|member| self.places.contains_key(&member.name))
    }

    /// Where these parameters stand in the order.
    pub(super) fn places_of(&self, names: &[String]) -> Vec<usize> {
        names.iter().filter_map(|name| self.place(name)).collect()
    }

    /// The same with the members at `places` first, in this order, and then the others.
    pub(super) fn reordered(&self, places: &[usize]) -> Self {
        let mut first = Vec::new();
        let mut seen = vec![false; self.members.len()];
        for &place in places {
            if !std::mem::replace(&mut seen[place], true) {
                first.push(self.members[place].clone());
            }
        }
        let early = first.len();
        let rest = self.members.iter().zip(seen);
        first.extend(
            rest.filter(|(_, seen)| !seen)
                .map(|(member, _)| member.clone()),
        );
        Self {
            settled: true,
            ..Self::cut(first, early)
        }
    }

    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The members of a bucket.
    pub(super) fn bucket(&self, number: usize) -> Option<Range<usize>> {
        self.buckets.get(number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn params(sizes: &[(&str, usize)]) -> Params {
        let mut params = Params::new(&Device::Cpu, DType::F32);
        for (name, len) in sizes {
            let zeros = Tensor::zeros(*len, DType::F32, &Device::Cpu).unwrap();
            params.insert(name, &zeros).unwrap();
        }
        params
    }

    fn names(buckets: &Buckets) -> Vec<Vec<&str>> {
        let of = |bucket: &Range<usize>| {
            let members = &buckets.members[bucket.clone()];
            members.iter().map(|it| it.name.as_str()).collect()
        };
        buckets.buckets.iter().map(of).collect()
    }

    /// By hand: 16 numbers in buckets of at least 4.
    #[test]
    fn the_order_is_that_of_names_until_a_step_shows_another() {
        let sizes = [("a", 3), ("b", 1), ("c", 5), ("d", 2), ("e", 4), ("f", 1)];
        let named = Buckets::of(&params(&sizes));
        assert_eq!(
            names(&named),
            [vec!["a", "b"], vec!["c"], vec!["d", "e"], vec!["f"]]
        );
        assert!(!named.settled);
        // What is no parameter of this step is left out, and what comes twice counts once.
        let shown = ["g", "e", "d", "b", "e", "d", "b"].map(str::to_owned);
        let settled = named.reordered(&named.places_of(&shown));
        assert_eq!(
            names(&settled),
            [vec!["e"], vec!["d", "b"], vec!["a", "c"], vec!["f"]]
        );
        assert!(settled.settled && settled.alike(&named));
        assert!(!settled.alike(&Buckets::of(&params(&sizes[..4]))));
    }
}
