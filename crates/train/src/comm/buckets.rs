//! Which gradients are sent together, and in which order.

use std::collections::HashMap;
use std::ops::Range;

use candle_core::{Shape, TensorId};
use rlhf_lm::Params;

use super::sum::BUCKET;

/// Buckets of a small model, at least: so that the first one is on its way while others are computed.
const FEW: usize = 4;

/// A parameter: which store it is in, by the first variable there, and its name.
pub(super) type Key = (Option<TensorId>, String);

/// The store of `params` in a [`Key`].
pub(super) fn store(params: &Params) -> Option<TensorId> {
    params.trainable().next().map(|(_, weight)| weight.id())
}

/// The parameters of a step in the order in which their gradients are sent, the same on every rank.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) members: Vec<Member>,
    buckets: Vec<Range<usize>>,
    places: HashMap<Key, usize>,
    /// Whether the order is that in which gradients become ready.
    pub(super) settled: bool,
}

/// A parameter with the number of its store among those of the step.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) key: Key,
    pub(super) store: usize,
    pub(super) shape: Shape,
}

impl Buckets {
    /// In order of name: the order before a step has shown another.
    pub(super) fn of<'a>(stores: impl Iterator<Item = &'a Params>) -> Self {
        let members = stores.enumerate().flat_map(|(number, params)| {
            let id = store(params);
            params.trainable().map(move |(name, weight)| Member {
                key: (id, name.to_owned()),
                store: number,
                shape: weight.shape().clone(),
            })
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
        let places = places.map(|(i, member)| (member.key.clone(), i)).collect();
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
            && (other.members.iter()).all(|member| self.places.contains_key(&member.key))
    }

    /// Where these parameters stand in the order.
    pub(super) fn places_of(&self, keys: &[Key]) -> Vec<usize> {
        keys.iter().filter_map(|key| self.place(key)).collect()
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

    pub(super) fn place(&self, key: &Key) -> Option<usize> {
        self.places.get(key).copied()
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
            members.iter().map(|it| it.key.1.as_str()).collect()
        };
        buckets.buckets.iter().map(of).collect()
    }

    /// By hand: 16 numbers in buckets of at least 4.
    #[test]
    fn the_order_is_that_of_names_until_a_step_shows_another() {
        let policy = params(&[("a", 3), ("b", 1), ("c", 5), ("d", 2)]);
        let critic = params(&[("a", 4), ("e", 1)]);
        let named = Buckets::of([&policy, &critic].into_iter());
        assert_eq!(
            names(&named),
            [vec!["a", "b"], vec!["c"], vec!["d", "a"], vec!["e"]]
        );
        assert!(!named.settled);
        let keys = [(&critic, "a"), (&policy, "d"), (&policy, "b")];
        let keys = keys.map(|(params, name)| (store(params), name.to_owned()));
        // What is in no store of this step is left out, and what comes twice counts once.
        let mut shown = vec![(None, "a".to_owned())];
        shown.extend(keys.clone());
        shown.extend(keys);
        let settled = named.reordered(&named.places_of(&shown));
        assert_eq!(
            names(&settled),
            [vec!["a"], vec!["d", "b"], vec!["a", "c"], vec!["e"]]
        );
        assert_eq!(settled.members[0].store, 1);
        assert!(settled.settled && settled.alike(&named));
        assert!(!settled.alike(&Buckets::of([&policy].into_iter())));
    }
}
