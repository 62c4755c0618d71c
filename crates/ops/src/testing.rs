//! The check of every kernel: against its reference form, against finite differences, and on several numbers of threads.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use rlhf_ops::{GradientSums, Recording, backward_into, kernel_launches, on_the_emulated_grid};

/// A generator of test operands.
pub(crate) struct TestRng(ChaCha8Rng);

impl TestRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in −1..1.
    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| self.0.random_range(-1.0..1.0))
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn ids(&mut self, n: usize, below: usize) -> Tensor {
        let ids: Vec<u32> = (0..n)
            .map(|_| self.0.random_range(0..below as u32))
            .collect();
        Tensor::from_vec(ids, n, &Device::Cpu).unwrap()
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }
}

pub(crate) fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    flat(a).iter().zip(flat(b)).map(|(a, b)| a * b).sum()
}

/// Asserts that elements differ by at most `tolerance`, relative to the largest expected one or to 1.
pub(crate) fn assert_close(got: &Tensor, want: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (flat(got), flat(want));
    let size = largest(&want).max(1.0);
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * size,
            "{what}: element {i} is {g}, expected {w}"
        );
    }
}

/// max |x|, or NaN if there is one: `f64::max` ignores NaN, and a bound computed with it would too.
pub(crate) fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |largest, x| {
        let x = x.abs();
        if x > largest || x.is_nan() {
            x
        } else {
            largest
        }
    })
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Who differentiates: candle its graph, or this crate what it has recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Candle,
    Recording,
}

/// The value of `op`, and the gradients of `Σ upstream∘op` for the operands that are not `frozen`.
fn value_and_gradients(
    op: Op<'_>,
    operands: &[Tensor],
    upstream: &Tensor,
    frozen: Option<usize>,
    by: By,
) -> (Tensor, Vec<Option<Tensor>>) {
    let operands: Vec<Tensor> = operands
        .iter()
        .enumerate()
        .map(|(i, t)| {
            if frozen == Some(i) {
                t.clone()
            } else {
                Var::from_tensor(t).unwrap().into_inner()
            }
        })
        .collect();
    let _recording = (by == By::Recording).then(Recording::start);
    let y = op(&operands).unwrap();
    let loss = (&y * upstream.to_dtype(y.dtype()).unwrap())
        .unwrap()
        .sum_all()
        .unwrap();
    let grads = match by {
        By::Candle => loss.backward().unwrap(),
        By::Recording => backward_into(&loss, &mut GradientSums::new()).unwrap(),
    };
    (
        y.detach(),
        operands
            .iter()
            .map(|t| grads.get(t).map(|g| g.detach()))
            .collect(),
    )
}

pub(crate) fn on_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new()
        .num_threads(n)
        .build()
        .unwrap()
        .install(f)
}

/// Checks `fused` against `reference` at these operands, with gradients of all of them:
///
/// - value and gradients agree, element by element, to the rounding of f32;
/// - gradients agree with central differences of `reference` in f64, along random directions;
/// - one, two and three threads give the same bits, and so does candle's backward pass;
/// - an operand that records no graph gets no gradient, and the gradients of the others stay the same.
pub(crate) fn check_op(
    what: &str,
    operands: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor> + Sync,
    reference: Op<'_>,
) {
    const TOLERANCE: f64 = 2e-5; // sums of a few hundred products in f32
    let mut rng = TestRng::new(7);
    let shape = reference(operands).unwrap().dims().to_vec();
    let upstream = rng.tensor(&shape);
    let run = |threads, frozen, by| {
        on_threads(threads, || {
            value_and_gradients(&fused, operands, &upstream, frozen, by)
        })
    };
    let (y, grads) = run(1, None, By::Recording);
    let (want_y, want_grads) =
        value_and_gradients(reference, operands, &upstream, None, By::Candle);
    assert_close(&y, &want_y, TOLERANCE, &format!("{what}: value"));
    for (i, (got, want)) in grads.iter().zip(&want_grads).enumerate() {
        let got = got
            .as_ref()
            .unwrap_or_else(|| panic!("{what}: operand {i} got no gradient"));
        // Candle skips some products with an empty operand: their gradient is zero.
        let want = want
            .clone()
            .unwrap_or_else(|| operands[i].zeros_like().unwrap());
        assert_close(
            got,
            &want,
            TOLERANCE,
            &format!("{what}: gradient of operand {i}"),
        );
    }

    let wide: Vec<Tensor> = operands
        .iter()
        .map(|t| t.to_dtype(DType::F64).unwrap())
        .collect();
    for (i, got) in grads
        .iter()
        .enumerate()
        .filter_map(|(i, g)| Some((i, g.as_ref()?)))
    {
        let direction = rng.tensor(operands[i].dims());
        let loss = |step: f64| {
            let mut moved = wide.clone();
            moved[i] =
                (&wide[i] + (direction.to_dtype(DType::F64).unwrap() * step).unwrap()).unwrap();
            dot(&reference(&moved).unwrap(), &upstream)
        };
        let h = 1e-5;
        let want = (loss(h) - loss(-h)) / (2.0 * h);
        let size = dot(got, got).sqrt() * dot(&direction, &direction).sqrt();
        assert!(
            (dot(got, &direction) - want).abs() <= 1e-5 * size.max(1.0),
            "{what}: operand {i}: {} against {want}",
            dot(got, &direction)
        );
    }

    for (threads, by) in [(2, By::Recording), (3, By::Candle)] {
        let (other_y, other_grads) = run(threads, None, by);
        assert_eq!(
            flat(&other_y),
            flat(&y),
            "{what}: value on {threads} threads"
        );
        for (a, b) in other_grads.iter().zip(&grads) {
            assert_eq!(
                a.as_ref().map(flat),
                b.as_ref().map(flat),
                "{what}: gradients on {threads} threads"
            );
        }
    }

    if kernels_run() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            check_kernel(what, operands, &upstream, &fused, reference, dtype);
        }
    }

    for frozen in 0..operands.len() {
        if operands.len() == 1 {
            break; // no other operand would be left
        }
        let (_, kept) = run(1, Some(frozen), By::Recording);
        for (i, (kept, full)) in kept.iter().zip(&grads).enumerate() {
            let want = if i == frozen { None } else { full.as_ref() };
            assert_eq!(
                kept.as_ref().map(flat),
                want.map(flat),
                "{what}: operand {i} with operand {frozen} frozen"
            );
        }
    }
}

/// Whether `RLHF_SIMD` says which of the CPU's instructions this run of the tests is of.
fn instructions_are_chosen() -> bool {
    std::env::var_os("RLHF_SIMD").is_some_and(|level| !level.is_empty())
}

/// Whether this run of the tests is of GPU kernels too, on the emulated grid: not where it is of some of the CPU's instructions, in which kernels have
/// no part.
pub(crate) fn kernels_run() -> bool {
    rlhf_grid::AVAILABLE && !instructions_are_chosen()
}

/// Checks the GPU kernel of an operation on the emulated grid, with operands rounded to `dtype`:
///
/// - value and gradients agree with those of `reference` in f64 at the rounded operands: element by element to the rounding of f32 sums, plus half
///   a unit in the last place of `dtype` of the result and of what is stored on the way;
/// - another order of the threads of each block gives the same bits, and so does candle's backward pass where its sums are rounded.
///
/// False where no kernel ran: the operation, or the type, has none.
pub(crate) fn check_kernel(
    what: &str,
    operands: &[Tensor],
    upstream: &Tensor,
    op: Op<'_>,
    reference: Op<'_>,
    dtype: DType,
) -> bool {
    let tolerance = match dtype {
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
        _ => 2e-5,
    };
    let what = format!("{what} as a kernel in {dtype:?}");
    // A GPU where `scripts/gpu-check --device` names one; else the CPU stands for it.
    let device = std::env::var("RLHF_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = rlhf_ops::device::pick(&device, 0).unwrap();
    let rounded = |t: &Tensor, to| {
        let t = t.to_dtype(dtype).unwrap().to_dtype(to).unwrap();
        t.to_device(if to == dtype { &device } else { &Device::Cpu })
            .unwrap()
    };
    let all = |to| -> Vec<Tensor> { operands.iter().map(|t| rounded(t, to)).collect() };
    let launches = kernel_launches();
    let run = |order, by| {
        rlhf_grid::with_order(order, || {
            on_the_emulated_grid(rlhf_grid::launch, || {
                value_and_gradients(op, &all(dtype), &rounded(upstream, dtype), None, by)
            })
        })
    };
    let (y, grads) = run(0, By::Recording);
    if kernel_launches() == launches {
        return false;
    }
    let (want_y, want_grads) = value_and_gradients(
        reference,
        &all(DType::F64),
        &rounded(upstream, DType::F64),
        None,
        By::Candle,
    );
    assert_close(&y, &want_y, tolerance, &format!("{what}: value"));
    for (i, (got, want)) in grads.iter().zip(&want_grads).enumerate() {
        let got = got
            .as_ref()
            .unwrap_or_else(|| panic!("{what}: operand {i} got no gradient"));
        let want = want.clone().unwrap_or_else(|| {
            operands[i]
                .to_dtype(DType::F64)
                .unwrap()
                .zeros_like()
                .unwrap()
        });
        assert_close(
            got,
            &want,
            tolerance,
            &format!("{what}: gradient of operand {i}"),
        );
    }
    // On arm64 candle truncates sums in bf16, also of gradients that meet.
    let by = match cfg!(target_arch = "aarch64") && dtype == DType::BF16 {
        true => By::Recording,
        false => By::Candle,
    };
    let (other_y, other_grads) = run(1, by);
    assert_eq!(flat(&other_y), flat(&y), "{what}: value in another order");
    for (a, b) in other_grads.iter().zip(&grads) {
        assert_eq!(
            a.as_ref().map(flat),
            b.as_ref().map(flat),
            "{what}: gradients in another order"
        );
    }
    true
}

#[test]
fn the_largest_element_of_anything_with_nan_is_nan() {
    assert_eq!(largest(&[]), 0.0);
    assert_eq!(largest(&[1.0, -3.0, 2.0]), 3.0);
    for at in 0..3 {
        let mut x = [1.0, -3.0, 2.0];
        x[at] = f64::NAN;
        assert!(largest(&x).is_nan(), "NaN at {at}");
    }
}

/// Runs the tests of this crate again with the instructions of older machines, so that they hold there too.
#[test]
fn every_test_here_holds_with_older_instructions_too() {
    if instructions_are_chosen() {
        return; // this is such a run
    }
    let older: &[&str] = match cfg!(target_arch = "x86_64") {
        true => &["avx2", "baseline"],
        false => &["baseline"],
    };
    for level in older {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let output = again.env("RLHF_SIMD", level).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "with RLHF_SIMD={level}:\n{told}");
    }
}
