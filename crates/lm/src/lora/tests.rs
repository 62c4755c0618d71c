use candle_core::Var;

use super::*;
use crate::linear::Linear;
use crate::{Gradients, Params, Weights};

/// The matrices of shared/design/algorithms.md §6, A and B.
const W: [[f32; 2]; 3] = [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]];
const LOW_A: [[f32; 2]; 2] = [[1.0, 2.0], [0.0, 1.0]];
const LOW_B: [[f32; 2]; 3] = [[0.5, 0.0], [1.0, -1.0], [0.0, 2.0]];

fn tensor<const N: usize>(rows: &[[f32; 2]; N]) -> Tensor {
    Tensor::new(rows, &Device::Cpu).unwrap()
}

/// A layer `m` with that weight and that adapter.
fn params(layout: WeightLayout, rank_stabilised: bool) -> Params {
    let mut params = Params::new(&Device::Cpu, DType::F32);
    let weight = match layout {
        WeightLayout::OutIn => tensor(&W),
        WeightLayout::InOut => tensor(&W).t().unwrap(),
    };
    params.insert("m.weight", &weight).unwrap();
    let adapter = Adapter {
        rank: 2,
        alpha: 8.0,
        rank_stabilised,
        targets: vec!["m".into()],
        modules: Arc::new(BTreeMap::from([("m".into(), layout)])),
        base: None,
        merge: false,
    };
    let values = BTreeMap::from([
        (format!("m{A}"), tensor(&LOW_A)),
        (format!("m{B}"), tensor(&LOW_B)),
    ]);
    let adapter = Arc::new(adapter);
    params.adapt(adapter, &values, Weights::Trainable).unwrap();
    params
}

fn layer(params: &Params, layout: WeightLayout) -> Linear {
    let vb = params.var_builder().pp("m");
    Linear::new(2, 3, layout, false, 0.0, vb).unwrap()
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{what}: {found:?} {expected:?}");
    }
}

/// The numbers of shared/design/algorithms.md §6.
#[test]
fn the_output_is_that_of_the_formula_in_both_layouts_and_for_both_scales() {
    let x = tensor(&[[1.0, -1.0]]);
    for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
        for (stabilised, expected) in [
            (false, [-2.1, -0.1, -8.1]),
            (true, [-2.928_427, -0.1, -11.413_709]),
        ] {
            let params = params(layout, stabilised);
            let layer = layer(&params, layout);
            let found = flat(&layer.forward(&x).unwrap());
            assert_near(&found, &expected, 1e-6, "output");
            let residual = Tensor::new(&[[10f32, 20.0, 30.0]], &Device::Cpu).unwrap();
            let added = flat(&layer.forward_add(&residual, &x).unwrap());
            let expected = [10.0 + expected[0], 20.0 + expected[1], 30.0 + expected[2]];
            assert_near(&added, &expected, 1e-5, "added");
            let mut tensors = params.tensors();
            merge(&mut tensors, params.adapter().unwrap(), &params.tensors()).unwrap();
            let whole = rlhf_ops::linear(&x, &tensors["m.weight"], layout, None).unwrap();
            assert_near(&flat(&whole), &found, 1e-6, "merged");
        }
    }
}

/// Central differences of Σ yᵢ²; only A and B are trainable. In f32 a step of 1e-2 leaves an error of about 1e-3 of the largest gradient.
#[test]
fn the_gradients_agree_with_finite_differences() {
    for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
        let params = params(layout, false);
        let x = tensor(&[[1.0, -1.0], [0.5, 0.25]]);
        let loss = || {
            let y = layer(&params, layout).forward(&x).unwrap();
            y.sqr().unwrap().sum_all().unwrap()
        };
        let mut gradients = Gradients::new();
        gradients.accumulate(&params, &loss()).unwrap();
        let names: Vec<_> = gradients.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, [format!("m{A}"), format!("m{B}")]);
        for name in &names {
            let var: &Var = params.get(name).unwrap();
            let at = flat(var);
            let shape = var.shape().clone();
            let set = |values: Vec<f32>| {
                let value = Tensor::from_vec(values, shape.clone(), &Device::Cpu).unwrap();
                var.set(&value).unwrap();
                loss().to_scalar::<f32>().unwrap()
            };
            let step = 1e-2;
            let differences: Vec<f32> = (0..at.len())
                .map(|i| {
                    let moved = |by: f32| {
                        let mut values = at.clone();
                        values[i] += by;
                        set(values)
                    };
                    (moved(step) - moved(-step)) / (2.0 * step)
                })
                .collect();
            set(at.clone());
            let largest = differences.iter().fold(0f32, |m, d| m.max(d.abs()));
            let found = flat(gradients.get(name).unwrap());
            assert_near(&found, &differences, 2e-3 * largest, name);
        }
    }
}

#[test]
fn a_target_names_a_module_or_its_end_after_a_dot() {
    assert!(names("q_proj", "model.layers.0.self_attn.q_proj"));
    assert!(names("attn.c_proj", "transformer.h.1.attn.c_proj"));
    assert!(!names("attn.c_proj", "transformer.h.1.mlp.c_proj"));
    assert!(!names("proj", "model.layers.0.self_attn.q_proj"));
}
