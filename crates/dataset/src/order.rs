//! The order of rows in training, and the cut of minibatches into micro-batches.

use std::ops::Range;

use rlhf_base::rng;

/// The order of `n` rows in an epoch: a permutation drawn from the stream `(seed, "order", epoch)`.
pub fn epoch_order(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    let mut order = file_order(n);
    rng::shuffle(&mut rng::stream(seed, "order", epoch), &mut order);
    order
}

/// The order of `n` rows without shuffling: that of the file, in every epoch.
pub fn file_order(n: usize) -> Vec<usize> {
    (0..n).collect()
}

/// The rows of step `step`, `batch` at a time; the last step of an epoch takes what is left. A function of its arguments alone, so that
/// a resumed run sees what it would have seen.
pub fn step_rows(seed: u64, n: usize, batch: usize, shuffle: bool, step: u64) -> Vec<usize> {
    let per_epoch = n.div_ceil(batch) as u64;
    let mut order = if shuffle {
        epoch_order(seed, step / per_epoch, n)
    } else {
        file_order(n)
    };
    let first = (step % per_epoch) as usize * batch;
    order.drain(..first);
    order.truncate(batch);
    order
}

/// The rows at `places` of one epoch after another, each in its own [`epoch_order`]: no row comes again before all others have come.
pub fn across_epochs(seed: u64, n: usize, places: Range<usize>) -> Vec<usize> {
    let mut order = (usize::MAX, Vec::new());
    let row = |place: usize| {
        if order.0 != place / n {
            order = (place / n, epoch_order(seed, (place / n) as u64, n));
        }
        order.1[place % n]
    };
    places.map(row).collect()
}

/// Cuts the rows of a minibatch, of the given lengths in tokens, into micro-batches of at most
/// `max_tokens` each. Rows stay in order, so the cut never changes which rows a step sees; a row
/// longer than the budget is a micro-batch of its own.
pub fn micro_batches(lengths: &[usize], max_tokens: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (row, &length) in lengths.iter().enumerate() {
        if row > start && tokens + length > max_tokens {
            batches.push(start..row);
            (start, tokens) = (row, 0);
        }
        tokens += length;
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_row_once_in_an_order_of_its_own() {
        let first = epoch_order(1, 0, 100);
        assert_eq!(first, epoch_order(1, 0, 100));
        for other in [
            epoch_order(1, 1, 100),
            epoch_order(2, 0, 100),
            file_order(100),
        ] {
            assert_ne!(first, other);
            let mut sorted = other;
            sorted.sort_unstable();
            assert_eq!(sorted, file_order(100));
        }
        assert!(epoch_order(1, 0, 0).is_empty());
    }

    #[test]
    fn the_steps_of_an_epoch_are_its_order_cut_into_batches() {
        for (shuffle, order) in [(true, epoch_order(3, 1, 7)), (false, file_order(7))] {
            let steps: Vec<_> = (3..6).map(|i| step_rows(3, 7, 3, shuffle, i)).collect();
            assert_eq!(steps, [&order[..3], &order[3..6], &order[6..]]);
        }
    }

    #[test]
    fn a_walk_across_epochs_is_their_orders_end_to_end() {
        let whole = [0, 1, 2].map(|epoch| epoch_order(7, epoch, 5)).concat();
        assert_eq!(across_epochs(7, 5, 0..15), whole);
        assert_eq!(across_epochs(7, 5, 3..11), whole[3..11]);
    }

    #[test]
    fn micro_batches_tile_the_rows_in_order_within_the_budget() {
        let cut = |lengths: &[usize], max_tokens| -> Vec<(usize, usize)> {
            let batches = micro_batches(lengths, max_tokens);
            batches.into_iter().map(|b| (b.start, b.end)).collect()
        };
        assert_eq!(cut(&[], 10), []);
        assert_eq!(cut(&[3, 3, 3], 9), [(0, 3)]);
        assert_eq!(cut(&[3, 3, 3], 8), [(0, 2), (2, 3)]);
        assert_eq!(cut(&[20, 1, 1, 20], 10), [(0, 1), (1, 3), (3, 4)]);
        assert_eq!(cut(&[0, 0], 0), [(0, 2)]);
    }
}
