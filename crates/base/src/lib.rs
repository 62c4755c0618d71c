//! What data files and models share: named random streams, texts and messages. No tensors, so that a reader of files
//! compiles without them.
//!
//! - [`rng`]: random streams named by seed, purpose and index;
//! - [`Text`], [`Message`]: a string, or the turns of a conversation.

mod caption;
pub mod rng;
mod text;

pub use caption::{Caption, Group};
pub use text::{Message, Text};
