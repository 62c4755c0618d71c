//! The layout of a packed stream: which token attends to which.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

use crate::attention::plan::Plans;
use crate::{causal_convolution, delta_rule};

/// A segment of a packed stream: one sequence, or the continuation of a prefix that several sequences share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The segment's own tokens in the stream.
    pub tokens: Range<usize>,
    /// The tokens of the earlier segment that this one continues; empty where it continues none.
    pub prefix: Range<usize>,
}

/// How a packed stream of `T` tokens divides into segments.
///
/// A token at offset `i` of its segment attends to the segment's prefix and to offsets `0..=i` of the segment itself, and to nothing else.
/// Its position is the length of the prefix plus `i`. Cloning shares the segments.
#[derive(Debug, Clone)]
pub struct Layout {
    segments: Arc<[Segment]>,
    /// What kernels need of it, built and uploaded once for all layers.
    pub(crate) plans: Arc<Plans>,
    /// And what kernels of convolutions do.
    pub(crate) pasts: Arc<causal_convolution::Cached>,
    /// And those of the delta rule.
    pub(crate) deltas: Arc<delta_rule::Cached>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.segments == other.segments
    }
}

impl Eq for Layout {}

impl Layout {
    /// A layout of segments that cover `0..T` in order; a prefix is the whole of an earlier segment that has no prefix itself.
    pub fn new(segments: Vec<Segment>) -> Result<Self> {
        let mut roots = std::collections::HashSet::new();
        let mut end = 0;
        for (i, Segment { tokens, prefix }) in segments.iter().enumerate() {
            if tokens.start != end || tokens.end < tokens.start {
                bail!(
                    "layout: segment {i} covers tokens {tokens:?}, expected a range that starts at {end}: segments cover the stream in order"
                )
            }
            end = tokens.end;
            if prefix.is_empty() {
                roots.insert(tokens.clone());
            } else if !roots.contains(prefix) {
                bail!(
                    "layout: segment {i} continues tokens {prefix:?}, expected the whole of an earlier segment that has no prefix of its own"
                )
            }
        }
        Ok(Self {
            segments: segments.into(),
            plans: Arc::default(),
            pasts: Arc::default(),
            deltas: Arc::default(),
        })
    }

    /// The segments, in the order of the stream.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// `T`, the length of the stream.
    pub fn tokens(&self) -> usize {
        self.segments.last().map_or(0, |s| s.tokens.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(tokens: Range<usize>, prefix: Range<usize>) -> Segment {
        Segment { tokens, prefix }
    }

    #[test]
    fn segments_that_tile_the_stream_are_kept() {
        let segments = vec![
            segment(0..3, 0..0),
            segment(3..5, 0..3),
            segment(5..5, 0..0),
            segment(5..6, 0..3),
        ];
        let layout = Layout::new(segments.clone()).unwrap();
        assert_eq!(layout.segments(), segments);
        assert_eq!(layout.tokens(), 6);
        assert_eq!(Layout::new(vec![]).unwrap().tokens(), 0);
    }

    #[test]
    fn gaps_overlaps_and_foreign_prefixes_are_refused() {
        for segments in [
            vec![segment(1..3, 0..0)],
            vec![segment(0..3, 0..0), segment(2..5, 0..0)],
            vec![segment(0..3, 0..0), segment(3..5, 0..2)],
            vec![segment(0..3, 3..5), segment(3..5, 0..0)],
            vec![
                segment(0..3, 0..0),
                segment(3..5, 0..3),
                segment(5..6, 3..5),
            ],
        ] {
            assert!(Layout::new(segments.clone()).is_err(), "{segments:?}");
        }
    }
}
