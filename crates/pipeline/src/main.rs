//! `rlhf`: see the library of this package for the tour.

use std::process::ExitCode;

fn main() -> ExitCode {
    rlhf_pipeline::main()
}
