//! The program `rlhf` on the emulated grid: every operation that has a GPU kernel runs it, on the CPU, as tests do. For finding out by hand what a
//! whole command does there; a tiny model is slow enough.
//!
//! ```console
//! $ cargo run -p rlhf-pipeline --example emulated -- sft --model data/model --data data/demonstrations.jsonl --steps 2
//! ```

use std::process::ExitCode;

fn main() -> ExitCode {
    if rlhf_grid::AVAILABLE {
        rlhf_ops::emulate_everywhere(rlhf_grid::launch);
    } else {
        rlhf_base::tell(
            "the grid is emulated on Linux alone, on x86-64 and arm64: the CPU's kernels run",
        );
    }
    rlhf_pipeline::main()
}
