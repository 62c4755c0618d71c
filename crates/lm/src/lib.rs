//! Language models one can load, train, sample from and save.

mod error;
pub mod rng;
mod text;

pub use error::{Error, Result};
pub use text::{Message, Text};
