//! The gradients of a step, summed over the ranks while the backward pass computes.
//!
//! Gradients are sent in buckets, and every rank sends the same buckets in the same order: that in which the leader's first backward pass has
//! completed them. A rank whose gradients become ready in another order, or that has none, sends a bucket later, at the latest in
//! [`Comm::sum_gradients`]. What is summed with what does not depend on any of this, so neither do the sums.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Tensor, TensorId};
use rlhf_lm::{Gradients, Params};
use rlhf_ops::ranks::Pending;
use serde_json::Value;

use super::buckets::Buckets;
use super::sum::{How, Summed};
use super::trace::{Bucket, Trace};
use super::{Comm, Several};
use crate::{Error, Result};

/// What is known of the gradients of each model that is trained: of policy and critic, which take turns.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    /// By the first variable of its parameters.
    of: HashMap<Option<TensorId>, Exchange>,
    /// The trace of the first step that sent early, until it is asked for.
    kept: Kept,
}

/// What is known of the gradients of this step.
#[derive(Debug, Default)]
struct Exchange {
    buckets: Buckets,
    /// Those that are to be sent, by their place in the order, and whether this rank had one at all.
    ready: Vec<Option<Tensor>>,
    there: Vec<bool>,
    /// The buckets that are on their way, the first ones of all.
    sent: Vec<Sent>,
    /// The order in which this rank's gradients were complete.
    seen: Vec<String>,
    trace: Trace,
}

#[derive(Debug, Default)]
enum Kept {
    #[default]
    NotYet,
    Trace(Trace),
    Given,
}

#[derive(Debug)]
struct Sent {
    numbers: usize,
    ready: Instant,
    sums: Pending<Sums>,
}

#[derive(Debug)]
struct Sums {
    summed: Result<Summed>,
    begun: Instant,
    ended: Instant,
}

impl Comm {
    /// Adds the gradients of `loss`, as [`Gradients::accumulate`] does. Those of the `last` micro-batch of an optimizer step are on their way
    /// to the other ranks while its backward pass still computes. They are back with [`Comm::sum_gradients`], which must follow.
    pub fn accumulate(
        &self,
        params: &Params,
        gradients: &mut Gradients,
        loss: &Tensor,
        last: bool,
    ) -> Result<()> {
        let Some(several) = self.several.as_ref().filter(|_| last) else {
            return Ok(gradients.accumulate(params, loss)?);
        };
        let (begun, store, how) = (Instant::now(), store(params), self.how);
        if let Some((beside, _)) = &several.beside {
            beside.set_computing(true);
        }
        let here = several.clone();
        let take = move |name: &str, gradient: &Tensor| here.offer((store, name), gradient, how);
        let complete = gradients.accumulate_last(params, loss, Rc::new(take))?;
        let mut exchanges = several.exchanges();
        let exchange = exchanges.of.entry(store).or_default();
        exchange.trace.backward.push((begun, Instant::now()));
        exchange.seen.extend(complete);
        drop(exchanges);
        // What was complete only with the pass.
        for (name, _) in params.trainable() {
            let own = gradients.get(name);
            if own.is_some_and(|own| several.offer((store, name), own, how)) {
                gradients.take(name);
            }
        }
        Ok(())
    }

    /// Puts the sum over all ranks in the place of each gradient of `params`, and gives that of `numbers`, f32 of any shape. Where optimizers are shared
    /// ([`Comm::sharing_optimizers`]) the sums are those of this rank's part alone, in one dimension; their norm is that of all.
    ///
    /// A parameter without a gradient on some rank, which had no rows or none that depend on it, has the sum of the others. Where no rank
    /// has one there is none afterwards either, and the guards see it.
    pub fn sum_gradients(
        &self,
        params: &Params,
        gradients: &mut Gradients,
        numbers: &Tensor,
    ) -> Result<Tensor> {
        let Some(several) = &self.several else {
            return Ok(numbers.clone());
        };
        if let Some((beside, _)) = &several.beside {
            beside.set_computing(false);
        }
        let own_numbers = rlhf_ops::read_to_host(numbers)?;
        let store = store(params);
        let mut exchanges = several.exchanges();
        let Exchanges { of, kept } = &mut *exchanges;
        let exchange = of.entry(store).or_default();
        exchange.fit(Buckets::of(params));
        while let Some(bucket) = exchange.buckets.bucket(exchange.sent.len()) {
            exchange.complete(bucket.clone(), params, gradients)?;
            several.send(exchange, bucket, self.how);
        }
        let squares = several.receive(exchange, gradients, self.how)?;

        // The numbers, who had which gradients, and the squares of what each rank has summed.
        let own = ((own_numbers, exchange.there.clone()), squares);
        let all = self.all(&own)?;
        let ((mut sums, _), _) = all[0].clone();
        for ((of_rank, _), _) in &all[1..] {
            sums.iter_mut().zip(of_rank).for_each(|(sum, x)| *sum += x);
        }
        let mut by_name = BTreeMap::new();
        for (place, member) in exchange.buckets.members.iter().enumerate() {
            if all.iter().any(|((_, there), _)| there[place]) {
                let square: f64 = all.iter().map(|(_, squares)| squares[place]).sum();
                by_name.insert(&member.name, square);
            } else {
                gradients.take(&member.name);
            }
        }
        gradients.set_squares(&by_name.into_values().collect::<Vec<f64>>());
        let settled = exchange.buckets.settled;
        let order = exchange.buckets.places_of(&exchange.seen);
        let order = (order, exchange.end(kept));
        drop(exchanges);
        if several.beside.is_some() && !settled {
            // Once the leader had rows of a step, all follow it.
            let order = self.by_leader(|| {
                let (seen, passed) = order;
                Ok::<_, Error>(passed.then_some(seen))
            })?;
            if let Some(order) = order {
                let mut exchanges = several.exchanges();
                let exchange = exchanges.of.entry(store).or_default();
                exchange.buckets = exchange.buckets.reordered(&order);
            }
        }
        let sums = Tensor::from_vec(sums, numbers.shape(), &Device::Cpu)?;
        Ok(sums.to_device(numbers.device())?)
    }

    /// When the first step that sent gradients early computed and when it exchanged; once.
    pub(super) fn take_trace(&self) -> Option<Value> {
        let mut exchanges = self.several.as_ref()?.exchanges();
        if !matches!(exchanges.kept, Kept::Trace(_)) {
            return None;
        }
        match std::mem::replace(&mut exchanges.kept, Kept::Given) {
            Kept::Trace(trace) => Some(trace.to_json()),
            Kept::NotYet | Kept::Given => None,
        }
    }
}

/// What tells the parameters of one model from those of another.
fn store(params: &Params) -> Option<TensorId> {
    params.trainable().next().map(|(_, weight)| weight.id())
}

impl Several {
    fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        self.exchanges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a complete gradient, if it can be sent while this rank computes; with it the buckets that it makes whole.
    fn offer(&self, (store, name): (Option<TensorId>, &str), gradient: &Tensor, how: How) -> bool {
        if self.beside.is_none() || !gradient.device().is_cpu() {
            return false;
        }
        let mut exchanges = self.exchanges();
        let Some(exchange) = exchanges.of.get_mut(&store) else {
            return false;
        };
        let Some(place) = exchange.buckets.place(name) else {
            return false;
        };
        if !exchange.buckets.settled {
            return false;
        }
        exchange.there[place] = true;
        exchange.ready[place] = Some(gradient.clone());
        while let Some(bucket) = exchange.buckets.bucket(exchange.sent.len()) {
            if !exchange.ready[bucket.clone()].iter().all(Option::is_some) {
                break;
            }
            self.send(exchange, bucket, how);
        }
        true
    }

    /// Sends a bucket, whose gradients are all there.
    fn send(&self, exchange: &mut Exchange, bucket: Range<usize>, how: How) {
        let ready = exchange.ready[bucket].iter_mut();
        let tensors: Vec<Tensor> = ready.filter_map(Option::take).collect();
        let numbers = tensors.iter().map(Tensor::elem_count).sum();
        let on_cpu = tensors.iter().all(|it| it.device().is_cpu());
        let beside = self.beside.as_ref().filter(|_| on_cpu);
        let line = beside.map_or_else(|| self.line.clone(), |(_, line)| line.clone());
        let ready = Instant::now();
        let sum = move || {
            let begun = Instant::now();
            let summed = line.sum(&tensors, how);
            Sums {
                summed,
                begun,
                ended: Instant::now(),
            }
        };
        let sums = match beside {
            Some((beside, _)) => beside.start(sum),
            None => Pending::done(sum()),
        };
        exchange.sent.push(Sent {
            numbers,
            ready,
            sums,
        });
    }

    /// Waits for all that was sent, and puts the sums in the place of gradients; the squares of this rank's part, by place.
    fn receive(
        &self,
        exchange: &mut Exchange,
        gradients: &mut Gradients,
        how: How,
    ) -> Result<Vec<f64>> {
        let waiting = Instant::now();
        let mut squares = Vec::new();
        for (number, sent) in std::mem::take(&mut exchange.sent).into_iter().enumerate() {
            let sums = sent.sums.wait()?;
            exchange.trace.buckets.push(Bucket {
                numbers: sent.numbers,
                ready: sent.ready,
                begun: sums.begun,
                ended: sums.ended,
            });
            let summed = sums.summed?;
            let bucket = exchange.buckets.bucket(number).unwrap_or_default();
            let members = &exchange.buckets.members[bucket];
            for (member, sum) in members.iter().zip(summed.tensors) {
                let sum = match how.own_part {
                    true => sum,
                    false => sum.reshape(&member.shape)?,
                };
                gradients.set(&member.name, sum);
            }
            squares.extend(summed.squares);
        }
        if self.beside.is_some() {
            self.line.count(0, 0, waiting);
        }
        Ok(squares)
    }
}

impl Exchange {
    /// Takes `named` for the parameters of this step, unless they are those of the step before.
    fn fit(&mut self, named: Buckets) {
        if !self.buckets.alike(&named) {
            self.buckets = named;
            self.ready.clear();
            self.there.clear();
        }
        let members = self.buckets.members.len();
        self.ready.resize(members, None);
        self.there.resize(members, false);
    }

    /// Brings the gradients of a bucket together: zeros where there is none.
    fn complete(
        &mut self,
        bucket: Range<usize>,
        params: &Params,
        gradients: &mut Gradients,
    ) -> Result<()> {
        for place in bucket {
            if self.ready[place].is_some() {
                continue;
            }
            let member = &self.buckets.members[place];
            let own = gradients.take(&member.name);
            self.there[place] = own.is_some();
            self.ready[place] = Some(match own {
                Some(gradient) => gradient,
                None => Tensor::zeros(&member.shape, DType::F32, params.device())?,
            });
        }
        Ok(())
    }

    /// Forgets the step, but for the first trace of one that sent early; whether this rank had a last micro-batch.
    fn end(&mut self, kept: &mut Kept) -> bool {
        self.there.fill(false);
        self.seen.clear();
        let trace = std::mem::take(&mut self.trace);
        let passed = !trace.backward.is_empty();
        if self.buckets.settled && passed && matches!(kept, Kept::NotYet) {
            *kept = Kept::Trace(trace);
        }
        passed
    }
}

#[cfg(test)]
mod tests;
