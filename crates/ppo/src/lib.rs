//! PPO
mod advantage;
mod kl;
mod loss;
pub use advantage::*;
pub use kl::*;
pub use loss::*;
