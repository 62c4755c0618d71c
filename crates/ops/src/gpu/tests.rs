//! Every kernel at sizes that are quick under a sanitizer, where `scripts/gpu-check` runs these tests with and without planted faults.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::testing::{TestRng, assert_close, check_kernel, flat, kernels_run};
use crate::{AttentionConfig, GradientSums, Layout, Segment, WeightLayout, backward_into};

fn check(what: &str, operands: &[Tensor], op: impl Fn(&[Tensor]) -> Result<Tensor>) {
    if !kernels_run() {
        return;
    }
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
fn quick_linear() {
    use WeightLayout::{InOut, OutIn};
    let mut rng = TestRng::new(9);
    let (x, w, b) = (
        rng.tensor(&[37, 20]),
        rng.tensor(&[33, 20]),
        rng.tensor(&[33]),
    );
    check("linear", &[x.clone(), w.clone(), b.clone()], |t| {
        crate::linear(&t[0], &t[1], OutIn, Some(&t[2]))
    });
    let (residual, w) = (rng.tensor(&[37, 33]), w.t().unwrap());
    let operands = [residual, x, w, b];
    check("linear_add", &operands[..3], |t| {
        crate::linear_add(&t[0], &t[1], &t[2], InOut, None)
    });
    check("linear_add with a bias", &operands, |t| {
        crate::linear_add(&t[0], &t[1], &t[2], InOut, Some(&t[3]))
    });
}

/// Rows for more than one part of the sums.
#[test]
fn quick_sums() {
    if !kernels_run() {
        return;
    }
    let mut rng = TestRng::new(10);
    let (x, w, b) = (
        rng.tensor(&[60, 3]),
        rng.tensor(&[140, 3]),
        rng.tensor(&[140]),
    );
    check("linear", &[x, w, b], |t| {
        crate::linear(&t[0], &t[1], WeightLayout::OutIn, Some(&t[2]))
    });
    let all = [rng.tensor(&[5000]), rng.tensor(&[7])];
    let sums = || crate::sums_of_squares(&[&all[0], &all[1]]).unwrap();
    let found = crate::on_the_emulated_grid(rlhf_grid::launch, sums);
    assert_close(&found, &sums(), 1e-6, "sums of squares");
}

/// Tensors of a block's elements, one more and a few. The oracle is candle's cast.
#[test]
fn quick_round() {
    if !kernels_run() {
        return;
    }
    let mut rng = TestRng::new(16);
    for dtype in [DType::BF16, DType::F16] {
        let masters = [2048, 2049, 7].map(|n| Var::from_tensor(&rng.tensor(&[n])).unwrap());
        let copies = (masters.each_ref())
            .map(|master| Var::zeros(master.shape(), dtype, &Device::Cpu).unwrap());
        let pairs: Vec<(&Var, &Var)> = masters.iter().zip(&copies).collect();
        let run = || crate::round_all(&pairs).unwrap();
        crate::on_the_emulated_grid(rlhf_grid::launch, run);
        for (master, copy) in pairs {
            assert_eq!(flat(copy), flat(&master.to_dtype(dtype).unwrap()));
        }
    }
}

/// Every kernel with a weight adds to that weight's sum, in `f32` whatever the weight's type, over two passes. The oracle is candle's sums of the
/// CPU's gradients, at the rounded weights; in half precision activations are rounded on the way, too.
#[test]
fn gradients_add_up() {
    if !kernels_run() {
        return;
    }
    use crate::{embedding, layer_norm, linear, negative_log_likelihood, rms_norm};
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
        let mut rng = TestRng::new(2);
        let shapes: [&[usize]; 6] = [&[40, 24], &[24, 24], &[24], &[24], &[24], &[24]];
        let rounded = shapes.map(|shape| rng.tensor(shape).to_dtype(dtype).unwrap());
        let variables = |dtype| {
            let of = |t: &Tensor| Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap();
            rounded.iter().map(of).collect::<Vec<_>>()
        };
        let loss = |ids: &Tensor, v: &[Var]| {
            let x = embedding(ids, &v[0])?;
            let x = linear(&x, &v[1], WeightLayout::InOut, Some(&v[2]))?;
            let x = rms_norm(&x, &v[3], 1e-5)?;
            let x = layer_norm(&x, &v[4], &v[5], 1e-5)?;
            negative_log_likelihood(&x, &v[0], ids, 1.0, None)
        };
        let batches: Vec<Tensor> = (0..2).map(|_| rng.ids(30, 40)).collect();
        let ours = variables(dtype);
        let mut sums: GradientSums = ours.iter().map(|v| (v.id(), None)).collect();
        for ids in &batches {
            crate::on_the_emulated_grid(rlhf_grid::launch, || {
                let rest = backward_into(&loss(ids, &ours).unwrap(), &mut sums).unwrap();
                assert!(ours.iter().all(|v| rest.get(v).is_none()));
            });
        }
        let theirs = variables(DType::F32);
        let gradients = |ids| loss(ids, &theirs).unwrap().backward().unwrap();
        let (first, second) = (gradients(&batches[0]), gradients(&batches[1]));
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let want = (first.get(theirs).unwrap() + second.get(theirs).unwrap()).unwrap();
            let got = sums[&ours.id()].as_ref().unwrap();
            assert_eq!(got.dtype(), DType::F32);
            assert_close(got, &want.detach(), tolerance, &format!("{dtype:?} {i}"));
        }
    }
}

#[test]
fn quick_elementwise() {
    let mut rng = TestRng::new(2);
    let (x, y) = (rng.tensor(&[9, 30]), rng.tensor(&[9, 30]));
    let both = [x.clone(), y];
    check("swiglu", &both, |t| crate::swiglu(&t[0], &t[1]));
    // The gradients of a result meet, and those of a variable.
    check("add", &both, |t| {
        let x = crate::add(&t[0], &t[1])?;
        crate::swiglu(&x, &crate::add(&x, &t[0])?)
    });
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
    check("rope", &both, |t| {
        let there = |angles: &Tensor| angles.to_device(t[0].device());
        let (cos, sin) = (there(&cos)?, there(&sin)?);
        let [q, k] = crate::rope_both([&t[0], &t[1]], &cos, &sin, 10)?;
        crate::swiglu(&q, &crate::rope(&k, &cos, &sin, 10)?)
    });
}

#[test]
fn quick_rows_of_a_table() {
    let mut rng = TestRng::new(3);
    let ids = rng.ids(13, 7);
    check("embedding", &[rng.tensor(&[7, 33])], |t| {
        crate::embedding(&ids.to_device(t[0].device())?, &t[0])
    });
}

/// Queries that lie apart, as beside keys and values in one tensor.
#[test]
fn quick_cache() {
    if !kernels_run() {
        return;
    }
    let mut rng = TestRng::new(12);
    let (all, angles) = (rng.tensor(&[5, 32]), rng.tensor(&[5, 2]));
    let found = |order, dtype| {
        let all = all.to_dtype(dtype).unwrap();
        let part = |from, width| all.narrow(1, from, width).unwrap();
        let pools = [8, 8].map(|width| Tensor::zeros((9, width), dtype, &Device::Cpu).unwrap());
        let run = || {
            let qkv = [&part(0, 16), &part(16, 8), &part(24, 8)];
            let turn = Some((&angles, &angles));
            crate::rope_append(qkv, turn, 8, [&pools[0], &pools[1]], 3).unwrap()
        };
        let q = rlhf_grid::with_order(order, || {
            crate::on_the_emulated_grid(rlhf_grid::launch, run)
        });
        [&q, &pools[0], &pools[1]].map(flat)
    };
    for dtype in [DType::F32, DType::BF16] {
        let [q, keys, values] = found(0, dtype);
        let rounded = all.to_dtype(dtype).unwrap();
        let own = flat(&rounded.narrow(1, 24, 8).unwrap());
        assert_eq!(values, [&[0.0; 3 * 8][..], &own, &[0.0; 8]].concat());
        assert_eq!([q, keys, values], found(1, dtype));
    }
}

/// A prefix whose end two sequences see.
#[test]
fn quick_convolution() {
    let segments = [(0..9, 0..0), (9..14, 0..9), (14..16, 0..9)];
    let segments = segments.map(|(tokens, prefix)| Segment { tokens, prefix });
    let layout = Layout::new(segments.to_vec()).unwrap();
    let mut rng = TestRng::new(13);
    let operands = [rng.tensor(&[16, 20]), rng.tensor(&[20, 4])];
    check("causal_convolution", &operands, |t| {
        crate::causal_convolution(&t[0], &t[1], &layout)
    });
}

/// The delta rule over a prefix that two continue and a sequence of more than one tile of tokens.
fn check_delta(values: usize, key_dim: usize, value_dim: usize) {
    let segments = [(0..3, 0..0), (3..5, 0..3), (5..6, 0..3), (6..16, 0..0)];
    let segments = segments.map(|(tokens, prefix)| Segment { tokens, prefix });
    let layout = Layout::new(segments.to_vec()).unwrap();
    let heads = crate::DeltaHeads {
        keys: 1,
        values,
        key_dim,
        value_dim,
    };
    let mut rng = TestRng::new(15);
    let mut gates = |shift: f64| (rng.tensor(&[16, values]) * 0.5).unwrap() + shift;
    let gates = [gates(-0.5).unwrap(), gates(0.5).unwrap()];
    let qk = rng.tensor(&[16, 2 * key_dim]);
    let operands = [
        (qk / (key_dim as f64 / 3.0).sqrt()).unwrap(), // of length 1 or so
        rng.tensor(&[16, values * value_dim]),
        Tensor::cat(&gates, 1).unwrap(),
    ];
    check(&format!("{heads:?}"), &operands, |t| {
        crate::gated_delta_rule(&t[0], &t[1], &t[2], heads, &layout)
    });
}

/// Heads of values that share one of keys, of more columns than a block has.
#[test]
fn quick_delta() {
    check_delta(2, 5, 36);
}

/// The size that models have, and the largest.
#[test]
fn large_heads_of_the_delta_rule() {
    check_delta(1, 128, 128);
    check_delta(1, 256, 256);
}

/// More rows than a block has warps, and an expert without any.
#[test]
fn quick_experts() {
    let mut rng = TestRng::new(14);
    let logits = rng.tensor(&[7, 12]);
    let routing = crate::Routing::top(&logits, 2).unwrap();
    let (x, weights) = (rng.tensor(&[7, 40]), rng.tensor(&[7, 2]));
    let w = rng.tensor(&[12, 40, 40]);
    check("experts", &[x, w, weights], |t| {
        let rows = crate::dispatch(&t[0], &routing)?;
        let rows = crate::expert_linear(&rows, &t[1], &routing)?;
        crate::combine(&rows, &t[2], &routing)
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

/// Filters that take every way through the kernel, and a second token after one that was penalised; the oracle is in `sample`'s own tests.
#[test]
fn quick_sample() {
    if !kernels_run() {
        return;
    }
    let seen: Vec<u32> = (0..300).collect();
    let row = crate::SampleRow {
        temperature: 0.9,
        top_k: Some(40),
        top_p: Some(0.9),
        penalty: 1.3,
        seen: &seen,
        forbidden: &[3, 4],
        allowed_after: 1,
        uniforms: &[0.6, 0.3],
    };
    let whole = crate::SampleRow {
        top_k: None,
        top_p: None,
        ..row
    };
    let logits = TestRng::new(11).tensor(&[2, 300]);
    let run = |order| {
        rlhf_grid::with_order(order, || {
            crate::on_the_emulated_grid(rlhf_grid::launch, || {
                let rows = [row, whole];
                let mut sampling = crate::Sampling::new(&rows, 300, &Device::Cpu).unwrap();
                sampling.draw(&logits).unwrap();
                sampling.draw(&logits).unwrap();
                sampling.read().unwrap()
            })
        })
    };
    let found = run(0);
    assert!(found.iter().flatten().all(Option::is_some));
    assert_eq!(found, run(1));
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
    for head_dim in [16, 32, 48, 64, 80, 96, 112, 128, 192, 256] {
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
