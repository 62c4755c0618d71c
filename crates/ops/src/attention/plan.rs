//! Which tiles of queries and keys meet, as tables on the device. A packed batch owns its plans: all layers share one, forward and backward.

use std::sync::{Arc, Mutex};

use candle_core::{Device, DeviceLocation, Result, Tensor};

use crate::layout::{Layout, Segment};
use crate::upload;

/// What a plan depends on besides the layout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PlanKey {
    /// Rows of a tile that stays: of queries, or of keys in the gradient of keys and values.
    pub(crate) rows: usize,
    /// Queries that a piece of work on a tile of keys meets at most.
    pub(crate) limit: usize,
    pub(crate) window: Option<usize>,
}

/// The tables of `kernel.h`.
#[derive(Debug)]
pub(crate) struct Plan {
    /// `QueryTile`s, five numbers each.
    pub(crate) queries: Table,
    /// `KeyTile`s, six numbers each.
    pub(crate) keys: Table,
    /// Ranges of queries: start, end, and the place of the first in its sequence.
    pub(crate) ranges: Table,
    /// Tiles of keys that several pieces share: first token, count, first slot, end of the slots.
    pub(crate) shared: Table,
    /// Slots of sums that are added afterwards.
    pub(crate) slots: usize,
}

/// Rows of whole numbers, `i64`.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: usize,
    pub(crate) tensor: Tensor,
}

impl Table {
    /// Tables of rows of some `width`, in one upload.
    fn new<const N: usize>(tables: [(Vec<usize>, usize); N], device: &Device) -> Result<[Self; N]> {
        let mut all: Vec<i64> = Vec::new();
        for (numbers, _) in &tables {
            all.extend(numbers.iter().map(|&n| n as i64));
        }
        all.push(0); // the address of an empty table is one of the tensor too
        let (all, mut from) = (upload(&all, all.len(), device)?, 0);
        let mut cut = tables.each_ref().map(|(numbers, width)| Self {
            rows: numbers.len() / width,
            tensor: all.clone(),
        });
        for (table, (numbers, _)) in cut.iter_mut().zip(&tables) {
            table.tensor = all.narrow(0, from, numbers.len().max(1))?;
            from += numbers.len();
        }
        Ok(cut)
    }
}

/// The plans of a layout that were needed so far.
#[derive(Debug, Default)]
pub(crate) struct Plans(Mutex<Vec<(DeviceLocation, PlanKey, Arc<Plan>)>>);

impl Plan {
    /// The plan of `layout`, built and uploaded when it is first asked for.
    pub(crate) fn of(layout: &Layout, key: PlanKey, device: &Device) -> Result<Arc<Self>> {
        let place = device.location();
        let mut plans = match layout.plans.0.lock() {
            Ok(plans) => plans,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, _, plan)) = plans.iter().find(|p| p.0 == place && p.1 == key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Self::new(layout.segments(), key, device)?);
        plans.push((place, key, plan.clone()));
        Ok(plan)
    }

    fn new(segments: &[Segment], key: PlanKey, device: &Device) -> Result<Self> {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let (mut ranges, mut shared, mut slots) = (Vec::new(), Vec::new(), 0);
        for segment in segments {
            let (own, prefix) = (&segment.tokens, &segment.prefix);
            let continuations: Vec<&Segment> = segments
                .iter()
                .filter(|s| !s.prefix.is_empty() && s.prefix == *own)
                .collect();
            for first in own.clone().step_by(key.rows) {
                let count = key.rows.min(own.end - first);
                queries.extend([first, count, own.start, prefix.start, prefix.len()]);
                let place = prefix.len() + first - own.start;
                let pieces = pieces(
                    &met(segment, &continuations, first, place + count, key),
                    key,
                );
                let several = pieces.len() > 1;
                if several {
                    shared.extend([first, count, slots, slots + pieces.len()]);
                }
                for piece in pieces {
                    let slot = if several { slots } else { usize::MAX };
                    slots += usize::from(several);
                    let start = ranges.len() / 3;
                    ranges.extend(piece.into_iter().flatten());
                    keys.extend([first, count, place, start, ranges.len() / 3, slot]);
                }
            }
        }
        let tables = [(queries, 5), (keys, 6), (ranges, 3), (shared, 4)];
        let [queries, keys, ranges, shared] = Table::new(tables, device)?;
        Ok(Self {
            queries,
            keys,
            ranges,
            shared,
            slots,
        })
    }
}

/// The ranges of queries `[start, end, place]` that see a key of the tile from token `first` on, whose last key lies before place `end`.
fn met(
    segment: &Segment,
    continuations: &[&Segment],
    first: usize,
    end: usize,
    key: PlanKey,
) -> Vec<[usize; 3]> {
    // The first place that sees no key of the tile any more.
    let blind = key.window.map_or(usize::MAX, |window| end - 1 + window);
    let (own, before) = (&segment.tokens, segment.prefix.len());
    let until = |s: &Segment, before: usize| {
        s.tokens
            .end
            .min(s.tokens.start.saturating_add(blind.saturating_sub(before)))
    };
    let mut met = vec![[first, until(segment, before), before + first - own.start]];
    met.extend(continuations.iter().map(|s| {
        let before = s.prefix.len();
        [s.tokens.start, until(s, before), before]
    }));
    met.retain(|[start, end, _]| start < end);
    met
}

/// The ranges in pieces of at most `limit` queries each, at least one piece.
fn pieces(met: &[[usize; 3]], key: PlanKey) -> Vec<Vec<[usize; 3]>> {
    let mut pieces = vec![Vec::new()];
    let mut room = key.limit;
    for &[mut start, end, mut place] in met {
        while start < end {
            if room == 0 {
                pieces.push(Vec::new());
                room = key.limit;
            }
            let count = room.min(end - start);
            if let Some(piece) = pieces.last_mut() {
                piece.push([start, start + count, place]);
            }
            (start, place, room) = (start + count, place + count, room - count);
        }
    }
    pieces
}
