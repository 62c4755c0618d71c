//! Which form of an operation runs: the reference in half precision, and everywhere once the switch is on. In half precision operands and
//! results are stored, and sums are computed in f32.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

use candle_core::{DType, Device, Result, Tensor, Var};
use rlhf_ops::{AttentionConfig, DecodeRows, Layout, Segment, WeightLayout, reference};

/// Values between −1 and 1 without an obvious pattern.
fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| (((i + 1) * (seed + 3) * 7919) % 2003) as f32 / 1001.5 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn layout() -> Layout {
    let segment = |tokens, prefix| Segment { tokens, prefix };
    Layout::new(vec![
        segment(0..3, 0..0),
        segment(3..5, 0..3),
        segment(5..6, 0..3),
    ])
    .unwrap()
}

/// Heads of 8, with a window that ends within a prefix.
fn config() -> AttentionConfig {
    AttentionConfig {
        head_dim: 8,
        scale: 0.3,
        window: Some(2),
        softcap: Some(2.0),
    }
}

fn decode_rows() -> DecodeRows {
    DecodeRows::new(vec![vec![1, 0, 2], vec![5]])
}

type Op = fn(&[Tensor]) -> Result<Tensor>;

/// Every operation with a gradient: its name, the shapes of its operands, its public and its reference form.
fn operations() -> Vec<(&'static str, Vec<Vec<usize>>, Op, Op)> {
    fn ids() -> Tensor {
        Tensor::new(&[0u32, 3, 3, 1], &Device::Cpu).unwrap()
    }
    fn angles() -> (Tensor, Tensor) {
        (tensor(&[6, 2], 11), tensor(&[6, 2], 12))
    }
    vec![
        (
            "linear",
            vec![vec![4, 5], vec![3, 5], vec![3]],
            |t| rlhf_ops::linear(&t[0], &t[1], WeightLayout::OutIn, Some(&t[2])),
            |t| reference::linear(&t[0], &t[1], WeightLayout::OutIn, Some(&t[2])),
        ),
        (
            "linear_add",
            vec![vec![4, 3], vec![4, 5], vec![3, 5]],
            |t| rlhf_ops::linear_add(&t[0], &t[1], &t[2], WeightLayout::OutIn, None),
            |t| reference::linear_add(&t[0], &t[1], &t[2], WeightLayout::OutIn, None),
        ),
        (
            "layer_norm",
            vec![vec![4, 6], vec![6], vec![6]],
            |t| rlhf_ops::layer_norm(&t[0], &t[1], &t[2], 1e-5),
            |t| reference::layer_norm(&t[0], &t[1], &t[2], 1e-5),
        ),
        (
            "rms_norm",
            vec![vec![4, 6], vec![6]],
            |t| rlhf_ops::rms_norm(&t[0], &t[1], 1e-5),
            |t| reference::rms_norm(&t[0], &t[1], 1e-5),
        ),
        (
            "rope",
            vec![vec![6, 8]],
            |t| rlhf_ops::rope(&t[0], &angles().0, &angles().1, 8),
            |t| reference::rope(&t[0], &angles().0, &angles().1, 8),
        ),
        (
            "gelu_tanh",
            vec![vec![7]],
            |t| rlhf_ops::gelu_tanh(&t[0]),
            |t| reference::gelu_tanh(&t[0]),
        ),
        (
            "gelu_erf",
            vec![vec![7]],
            |t| rlhf_ops::gelu_erf(&t[0]),
            |t| reference::gelu_erf(&t[0]),
        ),
        (
            "swiglu",
            vec![vec![7], vec![7]],
            |t| rlhf_ops::swiglu(&t[0], &t[1]),
            |t| reference::swiglu(&t[0], &t[1]),
        ),
        (
            "attention",
            vec![vec![6, 32], vec![6, 16], vec![6, 16]],
            |t| rlhf_ops::attention(&t[0], &t[1], &t[2], &layout(), config()),
            |t| reference::attention(&t[0], &t[1], &t[2], &layout(), config()),
        ),
        (
            "fused_attention",
            vec![vec![6, 64]],
            |t| rlhf_ops::fused_attention(&t[0], 2, &layout(), config()),
            |t| reference::fused_attention(&t[0], 2, &layout(), config()),
        ),
        (
            "embedding",
            vec![vec![4, 3]],
            |t| rlhf_ops::embedding(&ids(), &t[0]),
            |t| reference::embedding(&ids(), &t[0]),
        ),
        (
            "token_logprobs",
            vec![vec![4, 3], vec![5, 3]],
            |t| rlhf_ops::token_logprobs(&t[0], &t[1], &ids(), 0.7, None).map(|r| r.logprobs),
            |t| reference::token_logprobs(&t[0], &t[1], &ids(), 0.7, None).map(|r| r.logprobs),
        ),
        (
            "negative_log_likelihood",
            vec![vec![4, 3], vec![5, 3]],
            |t| rlhf_ops::negative_log_likelihood(&t[0], &t[1], &ids(), 0.7, None),
            |t| reference::negative_log_likelihood(&t[0], &t[1], &ids(), 0.7, None),
        ),
        (
            "token_logprobs, capped",
            vec![vec![4, 3], vec![5, 3]],
            |t| rlhf_ops::token_logprobs(&t[0], &t[1], &ids(), 0.7, Some(2.0)).map(|r| r.logprobs),
            |t| reference::token_logprobs(&t[0], &t[1], &ids(), 0.7, Some(2.0)).map(|r| r.logprobs),
        ),
        (
            "softcap",
            vec![vec![7, 2]],
            |t| rlhf_ops::softcap(&t[0], 2.0),
            |t| reference::softcap(&t[0], 2.0),
        ),
        (
            "log_sigmoid",
            vec![vec![7]],
            |t| rlhf_ops::log_sigmoid(&t[0]),
            |t| reference::log_sigmoid(&t[0]),
        ),
        (
            "decode_attention",
            vec![vec![2, 32], vec![6, 16], vec![6, 16]],
            |t| rlhf_ops::decode_attention(&t[0], &t[1], &t[2], &decode_rows(), config()),
            |t| reference::decode_attention(&t[0], &t[1], &t[2], &decode_rows(), config()),
        ),
    ]
}

fn operands(shapes: &[Vec<usize>]) -> Vec<Tensor> {
    shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| tensor(shape, i))
        .collect()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The f32 form; half precision keeps 8 bits (bf16) or 11 (f16).
#[test]
fn half_precision_works_with_gradients() {
    for (name, shapes, op, _) in operations() {
        let wide = operands(&shapes);
        let want = values(&op(&wide).unwrap());
        for (dtype, tolerance) in [(DType::BF16, 0.06), (DType::F16, 0.008)] {
            let vars: Vec<Var> = wide
                .iter()
                .map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap())
                .collect();
            let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
            let y = op(&tensors).unwrap();
            for (got, want) in values(&y).iter().zip(&want) {
                assert!(
                    (got - want).abs() <= tolerance * want.abs().max(1.0),
                    "{name} in {dtype:?}: {got}, expected {want}"
                );
            }
            if name != "decode_attention" {
                let grads = y.sum_all().unwrap().backward().unwrap();
                for var in &vars {
                    let grad = values(
                        grads
                            .get(var)
                            .unwrap_or_else(|| panic!("{name} in {dtype:?}: no gradient")),
                    );
                    assert!(
                        grad.iter().all(|g| g.is_finite()),
                        "{name} in {dtype:?}: {grad:?}"
                    );
                }
            }
        }
    }
}

/// Counting: a sum of ones stops at 256 in bf16 and at 2048 in f16, so gradients that are such sums show their precision.
#[test]
fn half_precision_sums_in_f32() {
    let n = 5000;
    for dtype in [DType::BF16, DType::F16] {
        let ones = |shape: &[usize]| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        let ids = Tensor::zeros(n, DType::U32, &Device::Cpu).unwrap();
        let gradient = |of: &str, var: Tensor, op: &dyn Fn(&Tensor) -> Result<Tensor>| {
            let var = Var::from_tensor(&var).unwrap();
            let grads = op(&var).unwrap().sum_all().unwrap().backward().unwrap();
            for got in values(grads.get(&var).unwrap()) {
                let want = n as f32;
                // What is left is one rounding of the sum itself.
                assert!(
                    (got - want).abs() <= 0.004 * want,
                    "{of} in {dtype:?}: {got}, expected {want}"
                );
            }
        };
        let x = ones(&[n, 1]);
        gradient("bias", ones(&[2]), &|b| {
            rlhf_ops::linear(&x, &ones(&[2, 1]), WeightLayout::OutIn, Some(b))
        });
        gradient("weight", ones(&[2, 1]), &|w| {
            rlhf_ops::linear(&x, w, WeightLayout::OutIn, None)
        });
        gradient("embedding", ones(&[1, 2]), &|table| {
            rlhf_ops::embedding(&ids, table)
        });
        let pair = Tensor::new(&[[1f32, -1.0]], &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let rows = pair.broadcast_as((n, 2)).unwrap().contiguous().unwrap();
        gradient("norm's bias", ones(&[2]), &|b| {
            rlhf_ops::layer_norm(&rows, &ones(&[2]), b, 1e-5)
        });
    }
}

/// Closed forms over n equal elements: the mean is the element, and a softmax gives each 1/n, whose logarithm is −log n.
#[test]
fn half_precision_normalises_in_f32() {
    let n = 5000;
    for dtype in [DType::BF16, DType::F16] {
        let ones = |shape: &[usize]| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        let all = |of: &str, got: &Tensor, want: f32| {
            for got in values(got) {
                assert!(
                    (got - want).abs() <= 0.004 * want.abs(),
                    "{of} in {dtype:?}: {got}, expected {want}"
                );
            }
        };
        let w = ones(&[n]);
        all(
            "rms_norm",
            &rlhf_ops::rms_norm(&ones(&[2, n]), &w, 0.0).unwrap(),
            1.0,
        );
        let hidden = ones(&[1, 1]);
        let target = Tensor::zeros(1, DType::U32, &Device::Cpu).unwrap();
        let found = rlhf_ops::token_logprobs(&hidden, &ones(&[n, 1]), &target, 1.0, None).unwrap();
        all("logprob", &found.logprobs, -(n as f32).ln());
        all("entropy", &found.entropy, (n as f32).ln());
        assert_eq!(found.logprobs.dtype(), DType::F32);

        // A prefix of one token with 600 continuations of one token: each gives half its weight to the prefix.
        let k = 600;
        let segment = |tokens: std::ops::Range<usize>, prefix| Segment { tokens, prefix };
        let mut segments = vec![segment(0..1, 0..0)];
        segments.extend((1..=k).map(|t| segment(t..t + 1, 0..1)));
        let shared = Layout::new(segments).unwrap();
        let v = Var::from_tensor(&ones(&[k + 1, 2])).unwrap();
        let attend = |v: &Tensor, layout: &Layout| {
            let zeros = v.zeros_like().unwrap();
            let config = AttentionConfig {
                scale: 1.0,
                ..AttentionConfig::new(2)
            };
            rlhf_ops::attention(&zeros, &zeros, v, layout, config).unwrap()
        };
        let grads = attend(&v, &shared).sum_all().unwrap().backward().unwrap();
        let prefix = grads.get(&v).unwrap().narrow(0, 0, 1).unwrap();
        all("gradient of a shared value", &prefix, 1.0 + k as f32 / 2.0);
        let whole = Layout::new(vec![segment(0..k + 1, 0..0)]).unwrap();
        all("attention", &attend(&v, &whole), 1.0);
    }
}

#[test]
fn the_switch_makes_every_operation_use_its_reference() {
    let before = rlhf_ops::reference_only();
    rlhf_ops::set_reference_only(true);
    assert!(rlhf_ops::reference_only());
    for (name, shapes, op, reference) in operations() {
        let operands = operands(&shapes);
        assert_eq!(
            values(&op(&operands).unwrap()),
            values(&reference(&operands).unwrap()),
            "{name}"
        );
    }
    rlhf_ops::set_reference_only(before);
    assert_eq!(rlhf_ops::reference_only(), before);
}
