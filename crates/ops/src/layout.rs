//! Which token sees which: the contract between packing and attention.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

/// One sequence of a packed token stream, or a prefix that later sequences share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Block {
    /// The block's own tokens in the stream.
    pub tokens: Range<usize>,
    /// The tokens of an earlier block that this one continues; empty when it stands alone.
    pub prefix: Range<usize>,
}

/// How a packed stream of `T` tokens divides into blocks.
///
/// A token at offset `i` of its block sees all of the block's prefix and offsets `0..=i` of its own block, and nothing else.
/// Cloning is cheap: the blocks are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    blocks: Arc<[Block]>,
}

impl Layout {
    /// Checks and keeps `blocks`: they tile `0..T` in order, and a prefix is the whole of an earlier block that has no prefix itself.
    pub fn new(blocks: Vec<Block>) -> Result<Self> {
        let mut roots = std::collections::HashSet::new();
        let mut end = 0;
        for (i, Block { tokens, prefix }) in blocks.iter().enumerate() {
            if tokens.start != end || tokens.end < tokens.start {
                bail!(
                    "layout: block {i} covers tokens {tokens:?}, expected a range that starts at {end}: blocks tile the stream in order"
                )
            }
            end = tokens.end;
            if prefix.is_empty() {
                roots.insert(tokens.clone());
            } else if !roots.contains(prefix) {
                bail!(
                    "layout: block {i} continues tokens {prefix:?}, which is not the whole of an earlier block without a prefix of its own"
                )
            }
        }
        Ok(Self {
            blocks: blocks.into(),
        })
    }

    /// The blocks, in the order of the stream.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// `T`, the length of the stream.
    pub fn tokens(&self) -> usize {
        self.blocks.last().map_or(0, |b| b.tokens.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(tokens: Range<usize>, prefix: Range<usize>) -> Block {
        Block { tokens, prefix }
    }

    #[test]
    fn blocks_that_tile_the_stream_are_kept() {
        let blocks = vec![
            block(0..3, 0..0),
            block(3..5, 0..3),
            block(5..5, 0..0),
            block(5..6, 0..3),
        ];
        let layout = Layout::new(blocks.clone()).unwrap();
        assert_eq!(layout.blocks(), blocks);
        assert_eq!(layout.tokens(), 6);
        assert_eq!(Layout::new(vec![]).unwrap().tokens(), 0);
    }

    #[test]
    fn gaps_overlaps_and_foreign_prefixes_are_refused() {
        for blocks in [
            vec![block(1..3, 0..0)],
            vec![block(0..3, 0..0), block(2..5, 0..0)],
            vec![block(0..3, 0..0), block(3..5, 0..2)],
            vec![block(0..3, 3..5), block(3..5, 0..0)],
            vec![block(0..3, 0..0), block(3..5, 0..3), block(5..6, 3..5)],
        ] {
            assert!(Layout::new(blocks.clone()).is_err(), "{blocks:?}");
        }
    }
}
