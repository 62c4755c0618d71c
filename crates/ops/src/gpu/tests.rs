//! Every kernel at sizes that are quick under a sanitizer, where `scripts/gpu-check` runs these tests with and without planted faults.

use candle_core::{DType, Device, Result, Tensor};

use crate::testing::{TestRng, check_kernel};
use crate::{AttentionConfig, Layout, Segment};

fn check(what: &str, operands: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let form: &dyn Fn(&[Tensor]) -> Result<Tensor> = &op;
    let shape = op(operands).unwrap().dims().to_vec();
    let upstream = TestRng::new(5).tensor(&shape);
    for dtype in [DType::F32, DType::BF16] {
        // In f64, of which no kernel has a form, the operation is its own reference.
        assert!(check_kernel(what, operands, &upstream, form, form, dtype));
    }
}

#[test]
fn quick_norms() {
    let mut rng = TestRng::new(1);
    let (x, w, b) = (rng.tensor(&[19, 40]), rng.tensor(&[40]), rng.tensor(&[40]));
    check("rms_norm", &[x.clone(), w.clone()], |t| {
        crate::rms_norm(&t[0], &t[1], 1e-5)
    });
    check("layer_norm", &[x, w, b], |t| {
        crate::layer_norm(&t[0], &t[1], &t[2], 1e-5)
    });
}

#[test]
fn quick_elementwise() {
    let mut rng = TestRng::new(2);
    let (x, y) = (rng.tensor(&[9, 30]), rng.tensor(&[9, 30]));
    check("swiglu", &[x.clone(), y], |t| crate::swiglu(&t[0], &t[1]));
    check("gelu_tanh", std::slice::from_ref(&x), |t| {
        crate::gelu_tanh(&t[0])
    });
    check("gelu_erf", std::slice::from_ref(&x), |t| {
        crate::gelu_erf(&t[0])
    });
    check("softcap", std::slice::from_ref(&x), |t| {
        crate::softcap(&t[0], 0.7)
    });
    check("log_sigmoid", std::slice::from_ref(&x), |t| {
        crate::log_sigmoid(&t[0])
    });
    let angles = rng.tensor(&[9, 4]);
    let (cos, sin) = (angles.cos().unwrap(), angles.sin().unwrap());
    check("rope", &[x], |t| {
        let there = |angles: &Tensor| angles.to_device(t[0].device());
        crate::rope(&t[0], &there(&cos)?, &there(&sin)?, 10)
    });
}

#[test]
fn quick_rows_of_a_table() {
    let mut rng = TestRng::new(3);
    let ids = rng.ids(12, 7);
    check("embedding", &[rng.tensor(&[7, 33])], |t| {
        crate::embedding(&ids.to_device(t[0].device())?, &t[0])
    });
}

#[test]
fn quick_vocabulary() {
    let mut rng = TestRng::new(4);
    let targets = rng.ids(5, 300);
    check(
        "token_logprobs",
        &[rng.tensor(&[5, 8]), rng.tensor(&[300, 8])],
        |t| {
            let targets = targets.to_device(t[0].device())?;
            let all = crate::token_logprobs(&t[0], &t[1], &targets, 0.8, Some(3.0))?;
            Tensor::cat(&[all.logprobs, all.entropy], 0)
        },
    );
}

/// A prompt of more than a tile of keys, with continuations that together need several pieces of work on a tile.
fn layout() -> Layout {
    let mut segments = vec![Segment {
        tokens: 0..66,
        prefix: 0..0,
    }];
    for i in 0..3 {
        let start = 66 + 200 * i;
        segments.push(Segment {
            tokens: start..start + 200,
            prefix: 0..66,
        });
    }
    Layout::new(segments).unwrap()
}

#[test]
fn small_attention() {
    let (layout, config) = (layout(), AttentionConfig::new(16));
    let mut rng = TestRng::new(6);
    let operands = [2, 1, 1].map(|heads| rng.tensor(&[layout.tokens(), 16 * heads]));
    check("attention", &operands, |t| {
        crate::attention(&t[0], &t[1], &t[2], &layout, config)
    });
}

#[test]
fn quick_attention() {
    let segments = [(0..70, 0..0), (70..79, 0..70), (79..83, 0..70)];
    let layout = Layout::new(
        segments
            .map(|(tokens, prefix)| Segment { tokens, prefix })
            .to_vec(),
    )
    .unwrap();
    let config = AttentionConfig {
        window: Some(68),
        ..AttentionConfig::new(24)
    };
    let operands = [2, 1, 1].map(|heads| TestRng::new(7).tensor(&[83, 24 * heads]));
    check("attention", &operands, |t| {
        crate::attention(&t[0], &t[1], &t[2], &layout, config)
    });
}

/// At scores of ±25·4 the softmax is nearly one key's, and `dO·Vᵀ − D` cancels.
#[test]
fn half_precision_holds_at_sharp_scores() {
    let tokens = 70;
    let layout = Layout::new(vec![Segment {
        tokens: 0..tokens,
        prefix: 0..0,
    }])
    .unwrap();
    let mut rng = TestRng::new(8);
    for head_dim in [16, 64, 128] {
        let config = AttentionConfig {
            scale: 25.0 / (head_dim as f64).sqrt(),
            ..AttentionConfig::new(head_dim)
        };
        let operands = [2, 1, 1].map(|heads| rng.tensor(&[tokens, head_dim * heads]));
        check("attention at sharp scores", &operands, |t| {
            crate::attention(&t[0], &t[1], &t[2], &layout, config)
        });
    }
}

#[test]
fn a_kernel_of_another_type_or_without_a_grid_is_refused() {
    let x = Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap();
    let kernel = super::Kernel::new("", "none", DType::F64);
    let error = kernel.launch(x.device(), [1, 1], &[]).unwrap_err();
    assert!(error.to_string().contains("kernel none"), "{error}");
}
