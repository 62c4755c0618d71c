use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor};

use super::kernel::Portable;
use super::*;
use crate::testing::TestRng;

/// `start + x·w` by one kernel.
fn by<K: Kernel>(
    start: &[f32],
    x: &[f32],
    rows: usize,
    size: (usize, usize),
    w: &impl Weights,
) -> Vec<f32> {
    let mut y = start.to_vec();
    add_product_with::<K>(&mut y, x, rows, size, w);
    y
}

/// The same by the portable kernel, and by AVX2 where AVX-512 is what runs.
fn others(
    start: &[f32],
    x: &[f32],
    rows: usize,
    size: (usize, usize),
    w: &impl Weights,
) -> Vec<Vec<f32>> {
    Vec::from([
        by::<Portable>(start, x, rows, size, w),
        #[cfg(target_arch = "x86_64")]
        by::<Avx2>(start, x, rows, size, w),
    ])
}

/// Brute force in f64. Every instruction set gives the bits of the portable kernel, because the order of the sums is the same.
#[test]
fn agrees_with_sums_of_products_for_every_size_of_tile() {
    let mut rng = TestRng::new(1);
    for (rows, inputs, outputs) in [
        (1, 16, 16),
        (3, 20, 33),
        (7, 64, 97),
        (15, 100, 131),
        (MAX_ROWS, 33, 230),
    ] {
        let mut values = |n| rng.tensor(&[n]).to_vec1::<f32>().unwrap();
        let (x, w) = (values(rows * inputs), values(inputs * outputs));
        let start = values(rows * outputs);
        for transposed in [false, true] {
            let matrix = if transposed {
                Matrix::new(&w, outputs, inputs).t()
            } else {
                Matrix::new(&w, inputs, outputs)
            };
            if !takes(rows, inputs, outputs) {
                return; // an old machine
            }
            let mut y = start.clone();
            add_product(&mut y, &x, rows, (inputs, outputs), &matrix);
            for same in others(&start, &x, rows, (inputs, outputs), &matrix) {
                assert_eq!(y, same, "{rows}×{inputs}×{outputs}: kernels differ");
            }
            for (i, (got, start)) in y.iter().zip(&start).enumerate() {
                let (row, output) = (i / outputs, i % outputs);
                let weight = |k| {
                    if transposed {
                        w[output * inputs + k]
                    } else {
                        w[k * outputs + output]
                    }
                };
                let want: f64 = (0..inputs)
                    .map(|k| f64::from(x[row * inputs + k]) * f64::from(weight(k)))
                    .sum();
                let error = (f64::from(*got) - f64::from(*start) - want).abs();
                assert!(error < 1e-5, "{rows}×{inputs}×{outputs}: {error} at {i}");
            }
        }
    }
}

/// The oracle is the same product over the numbers that candle makes of the blocks; every instruction set gives its bits.
#[test]
fn stored_weights_give_the_bits_of_their_numbers() {
    let mut rng = TestRng::new(3);
    let (rows, inputs, outputs) = (7, 96, 101);
    let x = rng.tensor(&[rows * inputs]).to_vec1::<f32>().unwrap();
    for kind in [GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0] {
        let w = QTensor::quantize(&rng.tensor(&[outputs, inputs]), kind).unwrap();
        let numbers = w.dequantize(&Device::Cpu).unwrap();
        let numbers = numbers.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let matrix = Matrix::new(&numbers, outputs, inputs).t();
        if !takes(rows, inputs, outputs) {
            return; // an old machine
        }
        let start = vec![0.0; rows * outputs];
        let (mut want, mut found) = (start.clone(), start.clone());
        add_product(&mut want, &x, rows, (inputs, outputs), &matrix);
        let bytes = w.data().unwrap();
        let stored = Stored::of(kind, &bytes, inputs).unwrap();
        add_product(&mut found, &x, rows, (inputs, outputs), &stored);
        assert_eq!(found, want, "{kind:?}");
        for other in others(&start, &x, rows, (inputs, outputs), &stored) {
            assert_eq!(other, want, "{kind:?}: kernels differ");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_other_rows() {
    let mut rng = TestRng::new(2);
    let (inputs, outputs) = (70, 150);
    let x = rng.tensor(&[13 * inputs]).to_vec1::<f32>().unwrap();
    let w = rng.tensor(&[inputs * outputs]).to_vec1::<f32>().unwrap();
    for matrix in [
        Matrix::new(&w, inputs, outputs),
        Matrix::new(&w, outputs, inputs).t(),
    ] {
        let mut together = vec![0.0; 13 * outputs];
        if !takes(13, inputs, outputs) {
            return;
        }
        add_product(&mut together, &x, 13, (inputs, outputs), &matrix);
        for row in 0..13 {
            let mut alone = vec![0.0; outputs];
            let x = &x[row * inputs..][..inputs];
            add_product(&mut alone, x, 1, (inputs, outputs), &matrix);
            assert_eq!(alone, together[row * outputs..][..outputs], "row {row}");
        }
    }
}
