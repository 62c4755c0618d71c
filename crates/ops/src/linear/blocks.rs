//! Numbers as quantised blocks hold them, and back.

use candle_core::backend::BackendStorage as _;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, Device, Result, Tensor, bail};
use half::bf16;

use crate::cpu::stored::Stored;
use crate::parallel_map;

/// Writes the numbers of `blocks` of the type `kind`; there are as many as fill `numbers`. Those of the types that rollouts are sampled with
/// are computed with vectors; the numbers of every type are candle's.
pub(super) fn decode(kind: GgmlDType, blocks: &[u8], numbers: &mut [f32]) -> Result<()> {
    let expected = numbers.len() / kind.block_size() * kind.type_size();
    if blocks.len() != expected || !numbers.len().is_multiple_of(kind.block_size()) {
        bail!(
            "quantised weight: {} numbers from {} bytes of {kind:?} blocks",
            numbers.len(),
            blocks.len()
        )
    }
    if let Some(rows) = Stored::of(kind, blocks, numbers.len()) {
        rows.write(numbers.len(), numbers);
        return Ok(());
    }
    match kind.from_data(blocks.into()).dequantize(numbers.len())? {
        CpuStorage::F32(all) => numbers.copy_from_slice(&all),
        other => bail!("quantised weight: {kind:?} blocks gave {:?}", other.dtype()),
    }
    Ok(())
}

/// The rows of `matrix` `[out, in]` as blocks of the type `kind`, u8 `[out, bytes of a row]`, by candle's rounding, by all threads.
pub(super) fn encode(matrix: &Tensor, kind: GgmlDType) -> Result<Tensor> {
    let (rows, inputs) = matrix.dims2()?;
    if !inputs.is_multiple_of(kind.block_size()) {
        bail!(
            "quantised weight: rows of {inputs} numbers are no whole number of {kind:?} blocks of {}",
            kind.block_size()
        )
    }
    let row_bytes = inputs / kind.block_size() * kind.type_size();
    let matrix = matrix.to_device(&Device::Cpu)?;
    // Rows a piece: enough that a piece is worth a task.
    let piece = (PIECE / inputs.max(1)).clamp(1, rows.max(1));
    let pieces = parallel_map(rows.div_ceil(piece), |i| -> Result<Vec<u8>> {
        let rows = matrix.narrow(0, i * piece, piece.min(rows - i * piece))?;
        let bytes = match kind {
            GgmlDType::BF16 => {
                let rows = rows.to_dtype(candle_core::DType::BF16)?.flatten_all()?;
                let rows = rows.to_vec1::<bf16>()?;
                rows.iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect()
            }
            // A copy, because candle quantises the whole storage.
            _ => QTensor::quantize(&rows.force_contiguous()?, kind)?
                .data()?
                .into_owned(),
        };
        Ok(bytes)
    });
    let mut bytes = Vec::with_capacity(rows * row_bytes);
    for piece in pieces {
        bytes.extend(piece?);
    }
    Tensor::from_vec(bytes, (rows, row_bytes), &Device::Cpu)
}

/// Numbers that one task encodes.
const PIECE: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::cpu::stored::BLOCK;
    use crate::testing::TestRng;

    const KINDS: [GgmlDType; 5] = [
        GgmlDType::BF16,
        GgmlDType::Q8_0,
        GgmlDType::Q4_0,
        GgmlDType::Q5_0,
        GgmlDType::Q4K,
    ];

    /// The oracle is candle, block by block and number by number.
    #[test]
    fn blocks_and_their_numbers_are_candles() {
        let mut rng = TestRng::new(1);
        for (rows, inputs) in [(3, 256), (700, 512)] {
            // Blocks of zeros, of tiny numbers whose scale is subnormal in f16, and of large ones.
            let size = |row: usize| (row % 7) as f32 * (row as f32 / 64.0).exp();
            let size: Vec<f32> = (0..rows).map(size).collect();
            let size = Tensor::from_vec(size, (rows, 1), &Device::Cpu).unwrap();
            let matrix = rng.tensor(&[rows, inputs]);
            let matrix = (matrix.broadcast_mul(&size).unwrap() * 1e-5).unwrap();
            for kind in KINDS {
                let blocks = encode(&matrix, kind).unwrap();
                let theirs = QTensor::quantize(&matrix, kind).unwrap();
                let bytes = blocks.flatten_all().unwrap().to_vec1::<u8>().unwrap();
                assert_eq!(bytes, *theirs.data().unwrap(), "{kind:?}");
                let mut numbers = vec![f32::NAN; rows * inputs];
                decode(kind, &bytes, &mut numbers).unwrap();
                let theirs = theirs.dequantize(&Device::Cpu).unwrap();
                let theirs = theirs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(numbers, theirs, "{kind:?}");
            }
        }
    }

    /// Closed form: a number is at most half a step from its nearest in the block, where q = ±127 (Q8_0), −8…7 (Q4_0) or 8 bits (bf16).
    #[test]
    fn a_number_changes_by_no_more_than_its_block_allows() {
        let mut rng = TestRng::new(2);
        let matrix = rng.tensor(&[64, 64]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let before = flat(&matrix);
        for (kind, most) in [
            (GgmlDType::BF16, 1.0 / 256.0),
            // Half a step, and the rounding of the scale to f16.
            (GgmlDType::Q8_0, 0.5 / 127.0 + 1.0 / 2048.0),
            // A whole step: 8·scale, of the other sign than the largest number, is not there.
            (GgmlDType::Q4_0, 1.0 / 8.0 + 1.0 / 2048.0),
        ] {
            let blocks = flat_bytes(&encode(&matrix, kind).unwrap());
            let mut after = vec![0.0; before.len()];
            decode(kind, &blocks, &mut after).unwrap();
            for (before, after) in before.chunks(BLOCK).zip(after.chunks(BLOCK)) {
                let largest = before.iter().fold(0f32, |most, x| most.max(x.abs()));
                for (before, after) in before.iter().zip(after) {
                    let change = (before - after).abs() / largest;
                    assert!(change <= most, "{kind:?}: {before} became {after}");
                }
            }
        }
    }

    fn flat_bytes(blocks: &Tensor) -> Vec<u8> {
        blocks.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_refused() {
        let matrix = Tensor::zeros((2, 40), DType::F32, &Device::Cpu).unwrap();
        let error = encode(&matrix, GgmlDType::Q8_0).unwrap_err().to_string();
        assert!(error.contains("rows of 40 numbers"), "{error}");
        assert!(decode(GgmlDType::Q8_0, &[0; 33], &mut [0.0; 32]).is_err());
    }
}
