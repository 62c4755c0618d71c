//! Several processes that compute one run: what they tell one another.
//!
//! Every rank holds the same models and reads the same data. The rows of a step are dealt out ([`Comm::deal`]); gradients and counted
//! numbers are summed ([`Comm::accumulate`], [`Comm::sum_gradients`]), in order of rank, so that a run has the same bytes every time. From
//! there on every rank computes the same from the same numbers: schedules, guards and early stops need not know of the others. Rank 0, the
//! leader, writes the files and speaks.
//!
//! An error on one rank ends them all: whoever cannot go on returns it, and the binary ends the others. So nothing here waits for a rank that
//! has failed, and only the leader's errors about its files need to be handled, by itself.

mod buckets;
mod deal;
mod gradients;
mod line;
mod pace;
mod parcel;
mod parts;
mod sum;
#[cfg(test)]
pub(crate) mod threads;
mod trace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rlhf_ops::ranks::{Beside, Ranks};

use self::gradients::Exchanges;
use self::line::Line;
use self::sum::How;
pub use pace::Pace;
pub(crate) use parcel::Bytes;
pub use parcel::Parcel;
pub(crate) use parts::Parts;

use crate::{Error, Result};

/// The ranks of this run, of which this process is one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Comm {
    several: Option<Arc<Several>>,
    /// How gradients are summed.
    how: How,
}

#[derive(Debug)]
struct Several {
    line: Line,
    /// What sends gradients while this rank computes, where the engine can.
    beside: Option<(Beside, Line)>,
    exchanges: Mutex<Exchanges>,
    /// The host of each rank.
    hosts: Vec<String>,
}

/// What a rank has sent to others, and the time it has spent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent, once for each receiver.
    pub bytes: u64,
    /// Messages sent, one for each receiver.
    pub messages: u64,
    /// Time in which this rank waited for others or exchanged with them, and computed nothing.
    pub time: Duration,
}

impl Comm {
    /// One process by itself.
    pub fn single() -> Self {
        Self::default()
    }

    /// The processes of `ranks`; this one runs on `host`.
    pub fn over(ranks: Arc<dyn Ranks>, host: &str) -> Result<Self> {
        let beside = Beside::new(&*ranks);
        let line = Line::over(ranks);
        let mut comm = Self {
            several: Some(Arc::new(Several {
                beside: beside.map(|it| {
                    let line = line.beside(it.ranks().clone());
                    (it, line)
                }),
                line,
                exchanges: Mutex::default(),
                hosts: Vec::new(),
            })),
            how: How::default(),
        };
        let hosts = comm.all(&host.to_owned())?;
        if let Some(several) = comm.several.as_mut().and_then(Arc::get_mut) {
            several.hosts = hosts;
        }
        Ok(comm)
    }

    /// The same ranks, which send gradients in bf16: half the bytes. They are added in f32 all the same.
    pub fn in_bf16(&self) -> Self {
        let mut comm = self.clone();
        comm.how.in_bf16 = true;
        comm
    }

    /// The same ranks, of which each updates a part of the parameters alone: [`Comm::sum_gradients`] gives it the sums of that part, and
    /// [`AdamW::shared_by`](crate::AdamW::shared_by) keeps the moments of it.
    pub fn sharing_optimizers(&self) -> Self {
        let mut comm = self.clone();
        comm.how.own_part = self.size() > 1;
        comm
    }

    /// Whether each rank updates a part of the parameters alone.
    pub fn shares_optimizers(&self) -> bool {
        self.how.own_part
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.several.as_ref().map_or(0, |it| it.line.ranks.rank())
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.several.as_ref().map_or(1, |it| it.line.ranks.size())
    }

    /// Whether this process writes the files and speaks.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// `rank 2 of 4 on HOST`.
    pub fn name(&self, rank: usize) -> String {
        let host = self.several.as_ref().and_then(|it| it.hosts.get(rank));
        let on = host.map_or(String::new(), |host| format!(" on {host}"));
        format!("rank {rank} of {}{on}", self.size())
    }

    /// Which of the ranks on its host this one is, and how many they are.
    pub fn on_this_host(&self) -> (usize, usize) {
        let Some(several) = &self.several else {
            return (0, 1);
        };
        let (hosts, rank) = (&several.hosts, self.rank());
        let alike = |hosts: &[String]| {
            hosts
                .iter()
                .filter(|it| **it == several.hosts[rank])
                .count()
        };
        (alike(&hosts[..rank]), alike(hosts))
    }

    /// What this rank has sent so far.
    pub fn traffic(&self) -> Traffic {
        let several = self.several.as_ref();
        several.map_or_else(Traffic::default, |it| it.line.traffic())
    }

    /// The rows that are this rank's, ascending: all are dealt out such that the sums of `costs`, one for each row, are much the same.
    pub fn deal(&self, costs: &[usize]) -> Vec<usize> {
        deal::deal(costs, self.size()).swap_remove(self.rank())
    }

    /// What `work` makes of all rows, in their order: each rank does its own of them, as many values as rows it is given.
    pub fn each<T: Parcel, E: From<Error>>(
        &self,
        costs: &[usize],
        work: impl FnOnce(&[usize]) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        let own = self.deal(costs);
        let made = work(&own)?;
        Ok(self.in_order(&own, made)?)
    }

    /// Values that the ranks have made for their rows, in the order of all rows.
    pub fn in_order<T: Parcel>(&self, own: &[usize], made: Vec<T>) -> Result<Vec<T>> {
        if self.several.is_none() {
            return Ok(made);
        }
        let mine: Vec<(usize, T)> = own.iter().copied().zip(made).collect();
        let mut all: Vec<(usize, T)> = self.all(&mine)?.into_iter().flatten().collect();
        all.sort_by_key(|(row, _)| *row);
        Ok(all.into_iter().map(|(_, value)| value).collect())
    }

    /// Each number summed over the ranks, in their order.
    pub fn sum(&self, numbers: &mut [f64]) -> Result<()> {
        if self.several.is_none() {
            return Ok(());
        }
        let all = self.all(&numbers.to_vec())?;
        for (i, sum) in numbers.iter_mut().enumerate() {
            *sum = all.iter().map(|of_rank| of_rank[i]).sum();
        }
        Ok(())
    }

    /// For each question whether any rank says yes.
    pub fn any<const N: usize>(&self, own: [bool; N]) -> Result<[bool; N]> {
        if self.several.is_none() {
            return Ok(own);
        }
        let all = self.all(&own.to_vec())?;
        Ok(std::array::from_fn(|i| {
            all.iter().any(|of_rank| of_rank[i])
        }))
    }

    /// What `decide` says on the leader, on every rank. If it fails there, the leader alone returns, with the error.
    pub fn by_leader<T: Parcel, E: From<Error>>(
        &self,
        decide: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(several) = &self.several else {
            return decide();
        };
        let mut bytes = Vec::new();
        let mut decided = None;
        if self.leads() {
            let value = decide()?;
            value.pack(&mut bytes);
            decided = Some(value);
        }
        let mut len = (bytes.len() as u64).to_le_bytes();
        several.line.broadcast(0, &mut len);
        bytes.resize(u64::from_le_bytes(len) as usize, 0);
        several.line.broadcast(0, &mut bytes);
        match decided {
            Some(value) => Ok(value),
            None => Ok(unpacked(&bytes)?),
        }
    }

    /// What `work` gives, on the leader first: it may make what the others then find.
    pub fn leader_first<T, E: From<Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        if !self.leads() {
            self.meet()?;
            return work();
        }
        let done = work()?;
        self.meet()?;
        Ok(done)
    }

    /// The value of every rank, in order of rank.
    pub fn all<T: Parcel>(&self, own: &T) -> Result<Vec<T>> {
        let mut bytes = Vec::new();
        own.pack(&mut bytes);
        let Some(several) = &self.several else {
            return Ok(vec![unpacked(&bytes)?]);
        };
        several
            .line
            .gather(bytes)
            .iter()
            .map(|one| unpacked(one))
            .collect()
    }

    /// The numbers of every rank, in order of rank; all have as many.
    pub(crate) fn gather_numbers(&self, own: &[f32]) -> Vec<f32> {
        match &self.several {
            Some(several) => several.line.gather_numbers(own, false),
            None => own.to_vec(),
        }
    }

    /// Waits until every rank has come here.
    pub fn meet(&self) -> Result<()> {
        self.all(&()).map(drop)
    }

    /// Ends every rank at once, with this exit code; only that, of one process by itself.
    pub fn abort(&self, code: u8) {
        if let Some(several) = &self.several {
            several.line.ranks.abort(code);
        }
    }

    /// Leaves the others, after all have come here. The last call.
    pub fn finish(&self) {
        if let Some(several) = &self.several {
            several.line.ranks.finish();
        }
    }
}

fn unpacked<T: Parcel>(mut bytes: &[u8]) -> Result<T> {
    T::unpack(&mut bytes).ok_or(Error::OtherProgram)
}

#[cfg(test)]
mod tests {
    use super::threads::run;
    use super::*;

    #[test]
    fn rows_come_back_in_their_order_whoever_worked_on_them() {
        let costs = [5, 1, 4, 4, 2, 9];
        let work = |rows: &[usize]| -> Result<Vec<(usize, String)>> {
            Ok(rows.iter().map(|row| (*row, "x".repeat(*row))).collect())
        };
        let want = work(&[0, 1, 2, 3, 4, 5]).unwrap();
        assert_eq!(Comm::single().each(&costs, work).unwrap(), want);
        for ranks in [2, 3, 8] {
            for found in run(ranks, |comm| comm.each(&costs, work).unwrap()) {
                assert_eq!(found, want);
            }
        }
    }

    #[test]
    fn the_leader_decides_any_rank_says_yes_and_all_are_heard() {
        let found = run(3, |comm| {
            let rank = comm.rank();
            let decided: Result<String> = comm.by_leader(|| Ok(format!("of {rank}")));
            let mut sums = [rank as f64, 0.5];
            comm.sum(&mut sums).unwrap();
            let any = comm.any([rank == 2, false]).unwrap();
            (decided.unwrap(), sums, any, comm.all(&rank).unwrap())
        });
        for (decided, sums, any, all) in found {
            assert_eq!(decided, "of 0");
            assert_eq!((sums, any), ([3.0, 1.5], [true, false]));
            assert_eq!(all, [0, 1, 2]);
        }
    }

    #[test]
    fn ranks_know_their_neighbours_and_their_names() {
        let hosts = ["a", "b", "a"];
        let found = run(3, |comm| {
            let here = hosts[comm.rank()];
            let again = Comm::over(comm.several.unwrap().line.ranks.clone(), here).unwrap();
            (again.on_this_host(), again.name(1))
        });
        assert_eq!(
            found.iter().map(|it| it.0).collect::<Vec<_>>(),
            [(0, 2), (0, 1), (1, 2)]
        );
        assert_eq!(found[2].1, "rank 1 of 3 on b");
        assert_eq!(Comm::single().on_this_host(), (0, 1));
    }
}
