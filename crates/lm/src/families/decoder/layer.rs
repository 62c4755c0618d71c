//! One layer of a decoder, described.

use rlhf_ops::DeltaHeads;

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::families) struct Layer {
    /// How its tokens look at each other.
    pub(in crate::families) mixer: Mixer,
    /// Its sliding window.
    pub(in crate::families) window: Option<usize>,
    /// Its rotary embedding, by number; `None` where positions are left to the mask.
    pub(in crate::families) rope: Option<usize>,
    /// Whether it has the decoder's mixture of experts in the place of an MLP.
    pub(in crate::families) experts: bool,
    /// Where its keys and values come from.
    pub(in crate::families) keys: KeyValues,
    /// Its sizes, where they are not those of the decoder.
    pub(in crate::families) sizes: Option<LayerSizes>,
}

/// Sizes of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::families) struct LayerSizes {
    /// Of a head.
    pub(in crate::families) head_dim: usize,
    /// Heads of keys and values.
    pub(in crate::families) kv_heads: usize,
    /// Inner size of the MLP.
    pub(in crate::families) intermediate: usize,
}

/// Where the keys and values of a layer come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::families) enum KeyValues {
    /// From a projection each.
    Apart,
    /// From one projection, whose result is key, once normalised and turned, and value.
    Tied,
    /// From the layer of this number, which is before it.
    Of(usize),
}

/// How the tokens of a layer look at each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::families) enum Mixer {
    Attention,
    /// By a gated convolution over the last `taps` tokens.
    Convolution {
        taps: usize,
    },
    /// By a gated delta rule behind a convolution over the last `taps` tokens.
    DeltaNet {
        heads: DeltaHeads,
        taps: usize,
    },
}
