//! What other crates share without tensors, so that a reader of files or of a run compiles without them.
//!
//! - [`rng`]: random streams named by seed, purpose and index;
//! - [`Text`], [`Message`]: a string, or the turns of a conversation;
//! - [`caption`]: what a report says about a metric;
//! - [`tell`]: a line on stderr; [`hush`]: none, where another process speaks; [`wrap`]: lines broken at words, as terminals need them;
//! - [`Interrupt`]: the wish to stop, as Ctrl-C sets it;
//! - [`guard`]: parsers of others, whose panic becomes an error.

pub mod caption;
pub mod guard;
mod interrupt;
pub mod rng;
mod tell;
mod text;
mod wrap;

pub use interrupt::Interrupt;
pub use tell::{hush, is_hushed, tell, tell_anyway};
pub use text::{Chat, Message, Text, visible_edges};
pub use wrap::{for_stderr, for_stdout, wrap};
