//! Who computes which rows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rows of each of `ranks` ranks, ascending, such that the sums of their costs differ little: the costliest row first, each to the rank
/// that has least so far (of equals the first). Graham 1969: no rank has more than 4/3 of the best possible.
///
/// A function of its arguments alone, so that every rank comes to the same answer.
pub(super) fn deal(costs: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by_key(|&row| Reverse(costs[row]));
    let mut loads: BinaryHeap<_> = (0..ranks).map(|rank| Reverse((0, rank))).collect();
    let mut rows = vec![Vec::new(); ranks];
    for row in order {
        if let Some(mut least) = loads.peek_mut() {
            let Reverse((load, rank)) = &mut *least;
            // A row without any token is still a row to be looked at.
            *load += costs[row].max(1);
            rows[*rank].push(row);
        }
    }
    rows.iter_mut().for_each(|own| own.sort_unstable());
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 7 and 6 apart, 5 to the six, 4 to the seven, and 3 to the first of two that have eleven.
    #[test]
    fn the_costliest_row_goes_first_to_who_has_least() {
        assert_eq!(deal(&[3, 7, 5, 4, 6], 2), [vec![0, 1, 3], vec![2, 4]]);
        assert_eq!(deal(&[1, 1, 1], 1), [[0, 1, 2]]);
        assert_eq!(deal(&[9], 3), [vec![0], vec![], vec![]]);
        assert_eq!(deal(&[0, 0, 0], 3), [[0], [1], [2]]);
    }

    /// Against the bound of the theorem, with the mean as what nobody can be below.
    #[test]
    fn every_row_is_dealt_once_and_no_rank_has_much_more_than_its_share() {
        let costs: Vec<usize> = (0..200).map(|i| 10 + i * 37 % 101).collect();
        for ranks in [2, 3, 7, 64] {
            let rows = deal(&costs, ranks);
            let mut all = rows.concat();
            all.sort_unstable();
            assert_eq!(all, (0..costs.len()).collect::<Vec<_>>());
            let load = |own: &Vec<usize>| own.iter().map(|&row| costs[row]).sum::<usize>();
            let mean = costs.iter().sum::<usize>() as f64 / ranks as f64;
            let most = rows.iter().map(load).max().unwrap() as f64;
            let floor = mean.max(110.0);
            assert!(most <= floor * 4.0 / 3.0, "{most} against {mean}");
        }
    }
}
