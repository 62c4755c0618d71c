//! Ranks that are threads of one process: what the rest of this folder is tested over.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Barrier, Mutex};

use candle_core::{DType, Tensor};
use rlhf_ops::ranks::Ranks;

use super::Comm;

/// What every rank has laid down for the others.
#[derive(Debug)]
struct Table {
    laid: Mutex<Vec<Vec<u8>>>,
    all_here: Barrier,
}

#[derive(Debug)]
struct Thread {
    rank: usize,
    size: usize,
    /// The second is for the thread beside.
    tables: Vec<Arc<Table>>,
}

/// What `work` gives on each of `size` ranks.
pub(crate) fn run<T: Send>(size: usize, work: impl Fn(Comm) -> T + Sync) -> Vec<T> {
    let table = || {
        Arc::new(Table {
            laid: Mutex::new(vec![Vec::new(); size]),
            all_here: Barrier::new(size),
        })
    };
    let tables = vec![table(), table()];
    std::thread::scope(|scope| {
        let start = |rank| {
            let (tables, work) = (tables.clone(), &work);
            let ranks = Arc::new(Thread { rank, size, tables });
            scope.spawn(move || work(Comm::over(ranks, "here").unwrap()))
        };
        let all: Vec<_> = (0..size).map(start).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

impl Thread {
    /// Lays down `own` and takes what it needs of all.
    fn take(&self, own: &[u8], take: impl FnOnce(&[Vec<u8>])) {
        let table = &self.tables[0];
        table.laid.lock().unwrap()[self.rank] = own.to_vec();
        table.all_here.wait();
        take(&table.laid.lock().unwrap());
        table.all_here.wait();
    }
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, send: &[u8], receive: &mut [u8]) {
        self.take(send, |all| {
            let part = receive.len() / self.size;
            for (receive, of_rank) in receive.chunks_exact_mut(part).zip(all) {
                receive.copy_from_slice(&of_rank[self.rank * part..][..part]);
            }
        });
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        self.take(own, |laid| all.copy_from_slice(&laid.concat()));
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let own = bytes.to_vec();
        self.take(&own, |laid| bytes.copy_from_slice(&laid[root]));
    }

    fn sum_on_device(&self, _: &Tensor, _: DType, _: bool) -> Option<candle_core::Result<Tensor>> {
        None
    }

    fn beside(&self, _: &Arc<AtomicBool>) -> Option<Arc<dyn Ranks>> {
        let tables = self.tables.get(1..).filter(|it| !it.is_empty())?.to_vec();
        let (rank, size) = (self.rank, self.size);
        Some(Arc::new(Self { rank, size, tables }))
    }

    fn abort(&self, code: u8) -> ! {
        panic!("aborted with {code}")
    }

    fn finish(&self) {
        self.tables[0].all_here.wait();
    }
}
