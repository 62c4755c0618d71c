//! The engine over MPI: whatever library and network `mpirun` or `srun` of this machine stand for.

use std::mem::ManuallyDrop;
use std::sync::Mutex;

use ::mpi::Threading;
use ::mpi::environment::Universe;
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
    /// The GPUs, connected when they first have something to sum.
    #[cfg(feature = "nccl")]
    nccl: std::sync::OnceLock<std::result::Result<super::nccl::Nccl, String>>,
}

impl Mpi {
    /// `None` if MPI was initialised before.
    pub(super) fn connect() -> Option<Self> {
        // Kernels compute on many threads, and one of them calls MPI.
        let (universe, _) = ::mpi::initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        Some(Self {
            rank: world.rank().unsigned_abs() as usize,
            size: world.size().unsigned_abs() as usize,
            universe: Mutex::new(Some(ManuallyDrop::new(universe))),
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
        self.world().all_to_all_into(send, receive);
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) {
        self.world().all_gather_into(own, all);
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) {
        let world = self.world();
        let root = world.process_at_rank(root as i32);
        for part in bytes.chunks_mut(AT_ONCE) {
            root.broadcast_into(part);
        }
    }

    #[cfg(feature = "nccl")]
    fn sum_on_device(&self, numbers: &Tensor, sent: DType) -> Option<Result<Tensor>> {
        let candle_core::Device::Cuda(device) = numbers.device() else {
            return None;
        };
        let nccl = self
            .nccl
            .get_or_init(|| self.connect_gpus(device).map_err(|e| e.to_string()));
        Some(match nccl {
            Ok(nccl) => nccl.sum(numbers, sent),
            Err(error) => Err(candle_core::Error::Msg(error.clone())),
        })
    }

    #[cfg(not(feature = "nccl"))]
    fn sum_on_device(&self, _: &Tensor, _: DType) -> Option<Result<Tensor>> {
        None
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
