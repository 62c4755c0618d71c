//! The engine over MPI: whatever library and network `mpirun` or `srun` of this machine stand for.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::request::{Request, Scope, scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use candle_core::{DType, Result, Tensor};

use super::Ranks;

/// The most bytes of a rank in one call: MPI counts with 32-bit integers.
const AT_ONCE: usize = 1 << 30;

/// All processes that the launcher has started. A failure within MPI ends them all, which is MPI's own default.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    /// Its destructor waits for all ranks, so it runs in [`Ranks::finish`] alone: a rank that fails must not wait for the others.
    universe: Mutex<Option<ManuallyDrop<Universe>>>,
    /// Whether several threads may call MPI, one at a time.
    takes_turns: bool,
    turn: Arc<Turn>,
    /// The GPUs, connected when they first have something to sum.
    #[cfg(feature = "nccl")]
    nccl: std::sync::OnceLock<std::result::Result<super::nccl::Nccl, String>>,
}

impl Mpi {
    /// `None` if MPI was initialised before.
    pub(super) fn connect() -> Option<Self> {
        // Two threads call it, the one that computes and the one beside it, and only one at a time.
        let (universe, threading) = ::mpi::initialize_with_threading(Threading::Serialized)?;
        let world = universe.world();
        Some(Self {
            rank: world.rank().unsigned_abs() as usize,
            size: world.size().unsigned_abs() as usize,
            universe: Mutex::new(Some(ManuallyDrop::new(universe))),
            takes_turns: matches!(threading, Threading::Serialized | Threading::Multiple),
            turn: Arc::default(),
            #[cfg(feature = "nccl")]
            nccl: std::sync::OnceLock::new(),
        })
    }

    fn world(&self) -> SimpleCommunicator {
        SimpleCommunicator::world()
    }

    /// Every rank comes here at its first sum on a GPU.
    #[cfg(feature = "nccl")]
    fn connect_gpus(&self, device: &candle_core::CudaDevice) -> Result<super::nccl::Nccl> {
        let mut id = [0; super::nccl::ID];
        if self.rank == 0 {
            id = super::nccl::Nccl::id()?;
        }
        self.broadcast(0, &mut id);
        super::nccl::Nccl::connect(device, self.rank, self.size, id)
    }
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MPI rank {} of {}", self.rank, self.size)
    }
}

impl Ranks for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, send: &[u8], receive: &mut [u8]) {
        let _turn = self.turn.take();
        self.world().all_to_all_into(send, receive);
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        let _turn = self.turn.take();
        self.world().all_gather_into(own, all);
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let _turn = self.turn.take();
        let world = self.world();
        let root = world.process_at_rank(root as i32);
        for part in bytes.chunks_mut(AT_ONCE) {
            root.broadcast_into(part);
        }
    }

    #[cfg(feature = "nccl")]
    fn sum_on_device(&self, parts: &Tensor, sent: DType, all: bool) -> Option<Result<Tensor>> {
        let candle_core::Device::Cuda(device) = parts.device() else {
            return None;
        };
        let nccl = self
            .nccl
            .get_or_init(|| self.connect_gpus(device).map_err(|e| e.to_string()));
        Some(match nccl {
            Ok(nccl) => nccl.sum(parts, sent, all),
            Err(error) => Err(candle_core::Error::Msg(error.clone())),
        })
    }

    #[cfg(not(feature = "nccl"))]
    fn sum_on_device(&self, _: &Tensor, _: DType, _: bool) -> Option<Result<Tensor>> {
        None
    }

    fn beside(&self, computing: &Arc<AtomicBool>) -> Option<Arc<dyn Ranks>> {
        if !self.takes_turns {
            return None;
        }
        let _turn = self.turn.take();
        Some(Arc::new(Beside {
            rank: self.rank,
            size: self.size,
            communicator: ManuallyDrop::new(self.world().duplicate()),
            turn: self.turn.clone(),
            computing: computing.clone(),
        }))
    }

    fn abort(&self, code: u8) -> ! {
        self.world().abort(i32::from(code))
    }

    fn finish(&self) {
        let taken = self.universe.lock().map(|mut universe| universe.take());
        if let Ok(Some(universe)) = taken {
            drop(ManuallyDrop::into_inner(universe));
        }
    }
}

/// Whose turn it is to call MPI.
#[derive(Debug, Default)]
struct Turn(Mutex<()>);

impl Turn {
    fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same ranks for a thread beside the one that computes: each of its calls starts an operation, and asks again and again whether it has
/// finished, which is also what moves the bytes. A call that blocks would keep a core busy until the slowest rank has come.
struct Beside {
    rank: usize,
    size: usize,
    /// Freed by MPI itself, at its end: a rank that fails must not wait for the others.
    communicator: ManuallyDrop<SimpleCommunicator>,
    turn: Arc<Turn>,
    computing: Arc<AtomicBool>,
}

// SAFETY: the communicator is a handle of MPI's, which any thread may use when it is its turn.
unsafe impl Send for Beside {}
// SAFETY: as above.
unsafe impl Sync for Beside {}

/// Questions in a row, while bytes may be moving: each moves what the network has taken or brought.
const IN_A_ROW: usize = 8;
/// Then the core belongs to the threads that compute. Long beside the questions and short beside a bucket on any network.
const PAUSE: Duration = Duration::from_micros(100);

impl Beside {
    fn wait<'a, R: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, R, S>) {
        loop {
            for _ in 0..IN_A_ROW {
                let _turn = self.turn.take();
                request = match request.test() {
                    Ok(_) => return,
                    Err(request) => request,
                };
            }
            if self.computing.load(Ordering::Relaxed) {
                std::thread::sleep(PAUSE);
            } else {
                std::thread::yield_now();
            }
        }
    }
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MPI rank {} of {}, beside", self.rank, self.size)
    }
}

impl Ranks for Beside {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, send: &[u8], receive: &mut [u8]) {
        scope(|scope| {
            let turn = self.turn.take();
            let request = self
                .communicator
                .immediate_all_to_all_into(scope, send, receive);
            drop(turn);
            self.wait(request);
        });
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        scope(|scope| {
            let turn = self.turn.take();
            let request = self.communicator.immediate_all_gather_into(scope, own, all);
            drop(turn);
            self.wait(request);
        });
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let root = self.communicator.process_at_rank(root as i32);
        for part in bytes.chunks_mut(AT_ONCE) {
            scope(|scope| {
                let turn = self.turn.take();
                let request = root.immediate_broadcast_into(scope, part);
                drop(turn);
                self.wait(request);
            });
        }
    }

    fn sum_on_device(&self, _: &Tensor, _: DType, _: bool) -> Option<Result<Tensor>> {
        None
    }

    fn beside(&self, _: &Arc<AtomicBool>) -> Option<Arc<dyn Ranks>> {
        None
    }

    fn abort(&self, code: u8) -> ! {
        self.communicator.abort(i32::from(code))
    }

    fn finish(&self) {}
}
