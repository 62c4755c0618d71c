//! Several processes under `mpirun`, as a person would start them: the same numbers as one process, and what becomes of them when one fails.
//!
//! `scripts/check mpi` runs them where an MPI is installed.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

mod doctor;
mod equality;
mod faults;
#[allow(dead_code)] // what the other end-to-end tests need of it
#[path = "../folder.rs"]
mod folder;
mod mpirun;
mod namespaces;
mod resume;
