//! Which rank the others wait for.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::Comm;
use crate::Result;

/// Compares how long the ranks compute from one step to the next. Times go into words and `timings.jsonl` alone, never into results.
#[derive(Debug)]
pub struct Pace {
    begun: Instant,
    /// What had been spent on communication by then.
    before: Duration,
    /// Steps seen since the ranks were last compared, and the seconds each rank has computed in them.
    steps: u32,
    computed: Vec<f64>,
    told: Vec<usize>,
}

/// Steps between two comparisons.
const STEPS: u32 = 20;

/// So many times the median of all ranks is slow: beyond what rows of different length explain.
const SLOW: f64 = 1.5;

/// Where a step computes less than this, in seconds, its time is that of the machine's other business.
const TOO_SHORT: f64 = 0.01;

impl Pace {
    /// From now on.
    pub fn new(comm: &Comm) -> Self {
        Self {
            begun: Instant::now(),
            before: comm.traffic().time,
            steps: 0,
            computed: vec![0.0; comm.size()],
            told: Vec::new(),
        }
    }

    /// Call it once a step, on every rank, with the line that will be logged: it gets the seconds that this rank has waited for others or
    /// exchanged with them, and of the first step that sent gradients early when it did what. The leader warns of a rank that is slower than the
    /// others, once.
    pub fn step(&mut self, comm: &Comm, line: &mut Map<String, Value>) -> Result<()> {
        if comm.size() == 1 {
            return Ok(());
        }
        let waited = (comm.traffic().time - self.before).as_secs_f64();
        let computed = self.begun.elapsed().as_secs_f64() - waited;
        let all = comm.all(&computed)?;
        self.computed
            .iter_mut()
            .zip(all)
            .for_each(|(sum, x)| *sum += x);
        self.steps += 1;
        if self.steps == STEPS {
            let means: Vec<f64> = self
                .computed
                .iter()
                .map(|sum| sum / f64::from(STEPS))
                .collect();
            if let Some((rank, others)) =
                slowest(&means).filter(|(rank, _)| !self.told.contains(rank))
            {
                tracing::warn!("{}", warning(&comm.name(rank), means[rank], others));
                self.told.push(rank);
            }
            self.computed.fill(0.0);
            self.steps = 0;
        }
        self.begun = Instant::now();
        self.before = comm.traffic().time;
        line.insert("time/ranks".to_owned(), json!(waited));
        if let Some(trace) = comm.take_trace() {
            line.insert("time/overlap".to_owned(), trace);
        }
        Ok(())
    }
}

/// The rank that computes much longer than the median of all, and that median.
fn slowest(seconds: &[f64]) -> Option<(usize, f64)> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Of an even number the lower one of the middle: of two ranks it is the faster.
    let median = sorted[(sorted.len() - 1) / 2];
    let rank = (0..seconds.len()).max_by(|&a, &b| seconds[a].total_cmp(&seconds[b]))?;
    (seconds[rank] > SLOW * median.max(TOO_SHORT)).then_some((rank, median))
}

fn warning(rank: &str, own: f64, others: f64) -> String {
    format!(
        "{rank} computes {own:.2} s a step and the others about {others:.2} s: they wait for it. Is something else running there, or is it \
         bound to fewer cores (mpirun --report-bindings)?"
    )
}

#[cfg(test)]
mod tests {
    use super::super::threads::run;
    use super::*;

    /// By hand.
    #[test]
    fn the_slow_one_is_told_and_ordinary_differences_are_not() {
        assert_eq!(slowest(&[1.0, 1.0, 2.0, 1.1]), Some((2, 1.0)));
        assert_eq!(slowest(&[1.0, 2.0]), Some((1, 1.0)));
        assert_eq!(slowest(&[1.0, 1.4, 0.9]), None);
        assert_eq!(slowest(&[1e-4, 1e-3]), None);
        let said = warning("rank 2 of 4 on b", 2.0, 1.0);
        assert!(
            said.starts_with("rank 2 of 4 on b computes 2.00 s a step"),
            "{said}"
        );
    }

    #[test]
    fn every_rank_counts_the_same_steps() {
        let found = run(3, |comm| {
            let mut pace = Pace::new(&comm);
            for _ in 0..STEPS + 2 {
                pace.step(&comm, &mut Map::new()).unwrap();
            }
            pace.steps
        });
        assert_eq!(found, [2, 2, 2]);
        let (single, mut line) = (Comm::single(), Map::new());
        Pace::new(&single).step(&single, &mut line).unwrap();
        assert!(line.is_empty(), "one process waits for nobody");
    }
}
