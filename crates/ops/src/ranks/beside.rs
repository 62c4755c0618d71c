//! A thread that talks to the other ranks while this one computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Builder;

use candle_core::{Result, bail};

use super::Ranks;

type Task = Box<dyn FnOnce() + Send>;

/// A thread for what goes through an engine of its own ([`Ranks::beside`]). It does one task after the other, in the order in which they
/// came, and ends with this value.
#[derive(Debug)]
pub struct Beside {
    tasks: Sender<Task>,
    ranks: Arc<dyn Ranks>,
    computing: Arc<AtomicBool>,
}

impl Beside {
    /// `None` where the engine of `ranks` has no second one.
    pub fn new(ranks: &dyn Ranks) -> Option<Self> {
        let computing = Arc::new(AtomicBool::new(false));
        let ranks = ranks.beside(&computing)?;
        let (tasks, coming) = channel::<Task>();
        let work = move || coming.iter().for_each(|task| task());
        // Without a thread everything is done by the caller, at its time.
        Builder::new().name("ranks".to_owned()).spawn(work).ok()?;
        Some(Self {
            tasks,
            ranks,
            computing,
        })
    }

    /// The engine, whose calls belong into tasks.
    pub fn ranks(&self) -> &Arc<dyn Ranks> {
        &self.ranks
    }

    /// Whether the calling thread computes, so that waiting for other ranks must leave it the core.
    pub fn set_computing(&self, computing: bool) {
        self.computing.store(computing, Ordering::Relaxed);
    }

    /// Has `task` done, after those before it.
    pub fn start<T: Send + 'static>(
        &self,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Pending<T> {
        let (give, get) = channel();
        // Where nobody takes the task or the result, `wait` says so.
        let task = move || drop(give.send(task()));
        drop(self.tasks.send(Box::new(task)));
        Pending(get)
    }
}

/// The result of a task.
#[derive(Debug)]
pub struct Pending<T>(Receiver<T>);

impl<T> Pending<T> {
    /// One that is there already.
    pub fn done(result: T) -> Self {
        let (give, get) = channel();
        drop(give.send(result));
        Self(get)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Where the thread has died.
    pub fn wait(self) -> Result<T> {
        match self.0.recv() {
            Ok(result) => Ok(result),
            Err(_) => bail!("the thread that talks to the other ranks has died"),
        }
    }
}
