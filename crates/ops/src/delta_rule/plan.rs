//! Which segments a kernel walks, and through which slots states go from one to another, as tables on a device. A packed batch owns its plan: all layers share it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, DeviceLocation, Result, Tensor};

use crate::layout::{Layout, Segment};
use crate::upload;

/// The `Segment`s of `kernel.h` that can be walked at once, five numbers each.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) segments: usize,
    pub(super) tensor: Tensor,
}

/// Tables that are walked one after the other, since the second reads states that the first leaves in its slots.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) tables: [Table; 2],
    pub(super) slots: usize,
}

#[derive(Debug)]
pub(super) struct Plan {
    /// Sequences and prefixes, then what continues these; a prefix that is continued leaves its state in a slot.
    pub(super) forward: Walk,
    /// Continuations, each of which leaves the gradient of the state that it began with; then the others.
    pub(super) backward: Walk,
    /// As forward, but every segment leaves its state in the slot of its number.
    pub(super) ends: Walk,
}

/// The plans of a layout by device, built and uploaded when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Cached(Mutex<Vec<(DeviceLocation, Arc<Plan>)>>);

impl Plan {
    pub(super) fn of(layout: &Layout, device: &Device) -> Result<Arc<Self>> {
        let place = device.location();
        let mut plans = match layout.deltas.0.lock() {
            Ok(plans) => plans,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, plan)) = plans.iter().find(|p| p.0 == place) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Self::new(layout.segments(), device)?);
        plans.push((place, plan.clone()));
        Ok(plan)
    }

    fn new(segments: &[Segment], device: &Device) -> Result<Self> {
        let continuations = || {
            segments
                .iter()
                .enumerate()
                .filter(|(_, s)| !s.prefix.is_empty())
        };
        // By the first token of a prefix: what continues it.
        let mut continued: HashMap<usize, Vec<usize>> = HashMap::new();
        for (i, segment) in continuations() {
            continued.entry(segment.prefix.start).or_default().push(i);
        }
        let roots = || {
            segments
                .iter()
                .enumerate()
                .filter(|(_, s)| s.prefix.is_empty())
        };
        let row = |segment: &Segment, from: [usize; 2], to: Option<usize>| {
            let to = to.map_or(-1, |to| to as i64);
            let [first, count] = [segment.tokens.start, segment.tokens.len()].map(|n| n as i64);
            [first, count, from[0] as i64, from[1] as i64, to]
        };
        let mut tables: [Vec<[i64; 5]>; 6] = Default::default();
        let [
            of_roots,
            of_rest,
            rest_back,
            roots_back,
            root_ends,
            rest_ends,
        ] = &mut tables;
        // By the first token of a prefix: its slot, and its number.
        let (mut slot_of, mut number_of) = (HashMap::new(), HashMap::new());
        for (i, segment) in roots() {
            let start = segment.tokens.start;
            let rest = match segment.tokens.is_empty() {
                true => None,
                false => continued.get(&start),
            };
            let slot = rest.map(|_| slot_of.len());
            slot_of.extend(slot.map(|slot| (start, slot)));
            number_of.extend(slot.map(|_| (start, i)));
            of_roots.push(row(segment, [0, 0], slot));
            root_ends.push(row(segment, [0, 0], Some(i)));
            let from = rest_back.len();
            for &i in rest.into_iter().flatten() {
                rest_back.push(row(&segments[i], [0, 0], Some(rest_back.len())));
            }
            roots_back.push(row(segment, [from, rest_back.len()], None));
        }
        for (i, segment) in continuations() {
            let (slot, number) = (
                slot_of[&segment.prefix.start],
                number_of[&segment.prefix.start],
            );
            of_rest.push(row(segment, [slot, slot + 1], None));
            rest_ends.push(row(segment, [number, number + 1], Some(i)));
        }
        let slots = [slot_of.len(), of_rest.len(), segments.len()];
        let [a, b, c, d, e, f] = uploaded(&tables, device)?;
        let walk = |tables, slots| Walk { tables, slots };
        Ok(Self {
            forward: walk([a, b], slots[0]),
            backward: walk([c, d], slots[1]),
            ends: walk([e, f], slots[2]),
        })
    }
}

/// All tables in one upload.
fn uploaded<const N: usize>(tables: &[Vec<[i64; 5]>; N], device: &Device) -> Result<[Table; N]> {
    let mut all = tables.concat();
    all.push([0; 5]); // the address of an empty table is one of the tensor too
    let all = upload(all.as_flattened(), (all.len(), 5), device)?;
    let mut from = 0;
    let mut cut = tables.each_ref().map(|table| Table {
        segments: table.len(),
        tensor: all.clone(),
    });
    for table in &mut cut {
        table.tensor = all.narrow(0, from, table.segments.max(1))?;
        from += table.segments;
    }
    Ok(cut)
}
