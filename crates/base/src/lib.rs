//! What other crates share without tensors, so that a reader of files or of a run compiles without them.
//!
//! - [`rng`]: random streams named by seed, purpose and index;
//! - [`Text`], [`Message`]: a string, or the turns of a conversation;
//! - [`caption`]: what a report says about a metric;
//! - [`guard`]: parsers of others, whose panic becomes an error.

pub mod caption;
pub mod guard;
pub mod rng;
mod text;

pub use text::{Chat, Message, Text, visible_edges};
