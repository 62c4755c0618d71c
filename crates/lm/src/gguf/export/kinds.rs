//! How many bits each tensor of a GGUF file gets.

use candle_core::quantized::GgmlDType;

use crate::families::Dimensions;

/// How the weights of a GGUF file are stored.
///
/// Vectors (norms, biases) and learned positions are f32 in all of them: they are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantisation {
    /// Half precision, 16 bits a weight.
    F16,
    /// Blocks of 32 weights with one scale, 8.5 bits a weight.
    Q8_0,
    /// Blocks of 32 weights with one scale, 4.5 bits a weight; the vocabulary projection in 6.6.
    Q4_0,
    /// Blocks of 256 weights with scales and minima of 32, 4.5 bits a weight; half of the values and of the MLP's last layers in 6.6.
    Q4KM,
}

/// A tensor whose rows are no whole number of the blocks that it was meant to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// llama.cpp's name of it.
    pub tensor: String,
    /// The length of its rows.
    pub row: usize,
    /// The type it was meant to have.
    pub wanted: &'static str,
    /// The type it has instead.
    pub used: &'static str,
}

impl Quantisation {
    /// The value of `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
        }
    }

    /// The type that the tensor `name` is meant to have. The mixtures are those of llama.cpp's `llama-quantize` (`Q4_0`, `Q4_K_M`).
    pub(super) fn wanted(self, name: &str, rank: usize, dimensions: &Dimensions) -> GgmlDType {
        // Routers are small, and a token goes elsewhere where they err.
        let is_router = name.ends_with("ffn_gate_inp.weight");
        // A few numbers a channel, which llama.cpp convolves with in f32 alone.
        let is_convolution = ["shortconv.conv.weight", "ssm_conv1d.weight"]
            .iter()
            .any(|end| name.ends_with(end));
        if rank < 2 || is_router || is_convolution || name == "position_embd.weight" {
            return GgmlDType::F32;
        }
        // The matrix that every logit depends on.
        let head = match dimensions.tied {
            true => "token_embd.weight",
            false => "output.weight",
        };
        match self {
            Self::F16 => GgmlDType::F16,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4_0 | Self::Q4KM if name == head => GgmlDType::Q6K,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4KM => match block(name) {
                Some((_, "attn_qkv.weight")) => GgmlDType::Q5K,
                Some((layer, "attn_v.weight" | "ffn_down.weight" | "ffn_down_exps.weight"))
                    if gets_more_bits(layer, dimensions.layers) =>
                {
                    GgmlDType::Q6K
                }
                _ => GgmlDType::Q4K,
            },
        }
    }
}

/// The number of the block and the name within it of `blk.N.NAME`.
fn block(name: &str) -> Option<(usize, &str)> {
    let (layer, name) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, name))
}

/// Whether a layer is among the first and last eighths, or every third between: errors there cost most.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// `wanted`, or where rows of `row` weights are no whole number of its blocks what `llama-quantize` then takes.
pub(super) fn fitting(wanted: GgmlDType, row: usize) -> GgmlDType {
    if row.is_multiple_of(wanted.block_size()) {
        return wanted;
    }
    let smaller = match wanted {
        GgmlDType::Q4K => GgmlDType::Q5_0,
        GgmlDType::Q5K => GgmlDType::Q5_1,
        GgmlDType::Q6K => GgmlDType::Q8_0,
        _ => GgmlDType::F16,
    };
    fitting(smaller, row)
}

/// ggml's name of a type.
pub(super) fn spelled(kind: GgmlDType) -> &'static str {
    match kind {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of `use_more_bits` in llama.cpp's llama-quant.cpp, for the 28 layers of Qwen3 0.6B.
    #[test]
    fn the_layers_with_more_bits_are_those_of_llama_quantize() {
        let more = |layers| -> Vec<usize> {
            (0..layers)
                .filter(|layer| gets_more_bits(*layer, layers))
                .collect()
        };
        assert_eq!(
            more(28),
            [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]
        );
    }

    #[test]
    fn blocks_that_do_not_fit_are_replaced_by_smaller_ones() {
        use GgmlDType::{F16, F32, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        for (row, of) in [
            (256, [Q4K, Q5K, Q6K, Q8_0, Q4_0, F16, F32]),
            (576, [Q5_0, Q5_1, Q8_0, Q8_0, Q4_0, F16, F32]),
            (48, [F16, F16, F16, F16, F16, F16, F32]),
        ] {
            let found = [Q4K, Q5K, Q6K, Q8_0, Q4_0, F16, F32].map(|wanted| fitting(wanted, row));
            assert_eq!(found, of, "{row}");
        }
    }
}
