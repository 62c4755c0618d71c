//! The connection to the other ranks: what is sent through it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use half::bf16;
use rlhf_ops::ranks::{Ranks, bytes_of, bytes_of_mut};

use super::Traffic;

/// The most bytes that an engine moves in one call.
const AT_ONCE: usize = 1 << 30;

/// An engine, and the counters of this process. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) ranks: Arc<dyn Ranks>,
    counters: Arc<Counters>,
    /// Whether this rank computes nothing in the time that its calls take.
    waits: bool,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    messages: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Line {
    pub(super) fn over(ranks: Arc<dyn Ranks>) -> Self {
        Self {
            ranks,
            counters: Arc::default(),
            waits: true,
        }
    }

    /// Another engine between the same ranks, whose calls another thread makes while this one computes.
    pub(super) fn beside(&self, ranks: Arc<dyn Ranks>) -> Self {
        Self {
            ranks,
            counters: self.counters.clone(),
            waits: false,
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            bytes: read(&self.counters.bytes),
            messages: read(&self.counters.messages),
            time: Duration::from_nanos(read(&self.counters.nanoseconds)),
        }
    }

    /// Counts what is sent, and the time since `begun` if this rank has waited for it.
    pub(super) fn count(&self, bytes: usize, messages: usize, begun: Instant) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&self.counters.bytes, bytes as u64);
        add(&self.counters.messages, messages as u64);
        if self.waits {
            add(
                &self.counters.nanoseconds,
                begun.elapsed().as_nanos() as u64,
            );
        }
    }

    pub(super) fn others(&self) -> usize {
        self.ranks.size() - 1
    }

    fn exchange(&self, send: &[u8], receive: &mut [u8]) {
        let begun = Instant::now();
        self.ranks.exchange(send, receive);
        let own = send.len() / self.ranks.size();
        self.count(send.len() - own, self.others(), begun);
    }

    fn gather_alike(&self, own: &[u8], all: &mut [u8]) {
        let begun = Instant::now();
        self.ranks.gather(own, all);
        self.count(own.len() * self.others(), self.others(), begun);
    }

    pub(super) fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let begun = Instant::now();
        self.ranks.broadcast(root, bytes);
        let to = match self.ranks.rank() == root {
            true => self.others(),
            false => 0,
        };
        self.count(bytes.len() * to, to, begun);
    }

    /// The bytes of each rank, however many.
    pub(super) fn gather(&self, mut own: Vec<u8>) -> Vec<Vec<u8>> {
        let size = self.ranks.size();
        let mut lengths = vec![0; 8 * size];
        self.gather_alike(&(own.len() as u64).to_le_bytes(), &mut lengths);
        let lengths = lengths.chunks_exact(8).map(|bytes| {
            let bytes = bytes.first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(bytes) as usize
        });
        let lengths: Vec<usize> = lengths.collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        own.resize(longest, 0);
        let mut all = vec![Vec::new(); size];
        for part in own.chunks(AT_ONCE / size) {
            let mut parts = vec![0; part.len() * size];
            self.gather_alike(part, &mut parts);
            for (all, part) in all.iter_mut().zip(parts.chunks_exact(part.len())) {
                all.extend_from_slice(part);
            }
        }
        all.iter_mut()
            .zip(lengths)
            .for_each(|(all, len)| all.truncate(len));
        all
    }

    /// The parts of all ranks that are this one's.
    pub(super) fn exchange_numbers(&self, own: &[f32], in_bf16: bool) -> Vec<f32> {
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
