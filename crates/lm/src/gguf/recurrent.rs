//! The order of the heads of values in recurrent layers (Gated DeltaNet).
//!
//! Of K heads of keys each serves R heads of values. In `transformers` the R heads of one key stand together, `k·R + r`; llama.cpp has the first ones of
//! all keys, then the second ones, `r·K + k`, because it repeats keys as a whole (`_LinearAttentionVReorderBase` in its converter).

use candle_core::{DType, Tensor};
use rlhf_ops::DeltaHeads;

use crate::families::RecurrentPart;

/// `tensor` as `transformers` has it.
pub(super) fn relaid(
    tensor: &Tensor,
    heads: DeltaHeads,
    part: RecurrentPart,
) -> candle_core::Result<Tensor> {
    let ordered = reordered(tensor, heads, part, (heads.values / heads.keys, heads.keys))?;
    match part {
        RecurrentPart::Convolution => ordered.unsqueeze(1),
        RecurrentPart::Decay => ordered.neg()?.log(),
        _ => Ok(ordered),
    }
}

/// The inverse of [`relaid`].
pub(super) fn laid_out(
    tensor: &Tensor,
    heads: DeltaHeads,
    part: RecurrentPart,
) -> candle_core::Result<Tensor> {
    let tensor = match part {
        RecurrentPart::Convolution => tensor.squeeze(1)?,
        RecurrentPart::Decay => tensor.to_dtype(DType::F32)?.exp()?.neg()?,
        _ => tensor.clone(),
    };
    reordered(
        &tensor,
        heads,
        part,
        (heads.keys, heads.values / heads.keys),
    )
}

/// Whether blocks of `size` numbers, which lie along rows, never hold numbers of two heads that part.
pub(super) fn keeps_blocks(heads: DeltaHeads, part: RecurrentPart, size: usize) -> bool {
    part != RecurrentPart::Out || heads.values == heads.keys || heads.value_dim.is_multiple_of(size)
}

/// `tensor`, of whose heads of values `outer` groups of `inner` become `inner` groups of `outer`.
fn reordered(
    tensor: &Tensor,
    heads: DeltaHeads,
    part: RecurrentPart,
    (outer, inner): (usize, usize),
) -> candle_core::Result<Tensor> {
    if outer == 1 || inner == 1 {
        return Ok(tensor.clone());
    }
    // Along which dimension values lie, and behind how many others.
    let (along, before) = match part {
        RecurrentPart::QueriesKeysValues | RecurrentPart::Convolution => {
            (0, 2 * heads.keys * heads.key_dim)
        }
        RecurrentPart::Values | RecurrentPart::Heads | RecurrentPart::Decay => (0, 0),
        RecurrentPart::Out => (1, 0),
    };
    let width = tensor.dim(along)? - before;
    let values = tensor.narrow(along, before, width)?;
    let mut grouped = values.dims().to_vec();
    grouped.splice(along..=along, [outer, inner, width / heads.values.max(1)]);
    let swapped = values
        .reshape(grouped)?
        .transpose(along, along + 1)?
        .reshape(values.shape())?;
    match before {
        0 => Ok(swapped),
        _ => Tensor::cat(&[&tensor.narrow(along, 0, before)?, &swapped], along),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    const HEADS: DeltaHeads = DeltaHeads {
        keys: 2,
        values: 6,
        key_dim: 3,
        value_dim: 2,
    };

    /// Head `k·3 + r` of `transformers` is head `r·2 + k` of llama.cpp, by the formula in the doc comment and number by number.
    fn theirs(value: usize) -> usize {
        let (head, within) = (value / HEADS.value_dim, value % HEADS.value_dim);
        (head % 3 * 2 + head / 3) * HEADS.value_dim + within
    }

    fn numbers(shape: &[usize]) -> Tensor {
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|n| n as f32 / 64.0).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
        let flat = tensor.flatten_from(1).unwrap();
        flat.to_vec2().unwrap()
    }

    #[test]
    fn rows_of_values_move_and_those_of_queries_and_keys_stay() {
        for (part, shape) in [
            (RecurrentPart::QueriesKeysValues, &[24, 5][..]),
            (RecurrentPart::Convolution, &[24, 1, 4][..]),
        ] {
            let ours = numbers(shape);
            let stored = laid_out(&ours, HEADS, part).unwrap();
            assert_eq!(stored.rank(), 2);
            let (from, to) = (rows(&ours), rows(&stored));
            for (row, numbers) in from.iter().enumerate() {
                let place = if row < 12 { row } else { 12 + theirs(row - 12) };
                assert_eq!(&to[place], numbers, "row {row}");
            }
            let back = relaid(&stored, HEADS, part).unwrap();
            assert_eq!((back.dims(), rows(&back)), (shape, from));
        }
    }

    #[test]
    fn columns_and_numbers_of_heads_move_alike() {
        let ours = numbers(&[3, 12]);
        let stored = laid_out(&ours, HEADS, RecurrentPart::Out).unwrap();
        let (from, to) = (rows(&ours), rows(&stored));
        for (column, number) in from[1].iter().enumerate() {
            assert_eq!(to[1][theirs(column)], *number);
        }
        let back = relaid(&stored, HEADS, RecurrentPart::Out).unwrap();
        assert_eq!(rows(&back), from);

        let ours = numbers(&[6]);
        let stored = laid_out(&ours, HEADS, RecurrentPart::Decay).unwrap();
        let (from, to): (Vec<f32>, Vec<f32>) = (ours.to_vec1().unwrap(), stored.to_vec1().unwrap());
        for (head, number) in from.iter().enumerate() {
            // In f64, then rounded once: at most a unit in the last place apart.
            let wanted = -f64::from(*number).exp();
            assert!((f64::from(to[theirs(2 * head) / 2]) - wanted).abs() < 1e-6);
        }
        let back: Vec<f32> = relaid(&stored, HEADS, RecurrentPart::Decay)
            .unwrap()
            .to_vec1()
            .unwrap();
        for (back, from) in back.iter().zip(&from) {
            assert!((back - from).abs() < 1e-6);
        }
    }

    #[test]
    fn only_columns_can_tear_blocks() {
        let published = DeltaHeads {
            keys: 16,
            values: 32,
            key_dim: 128,
            value_dim: 128,
        };
        let keeps = |part, size| keeps_blocks(published, part, size);
        assert!(keeps(RecurrentPart::Out, 32) && !keeps(RecurrentPart::Out, 256));
        assert!(keeps(RecurrentPart::QueriesKeysValues, 256));
        let alike = DeltaHeads {
            values: 16,
            ..published
        };
        assert!(keeps_blocks(alike, RecurrentPart::Out, 256));
    }
}
