use candle_core::backprop::GradStore;
use candle_core::{D, DType};

use super::*;
use crate::testing::{TestRng, flat};
use crate::{GradientSums, WeightLayout, add, backward_into, backward_keeping, linear, rms_norm};

/// `x + silu(norm(x)·Wᵀ + b)`: a small block with a residual.
fn block(x: &Tensor, [norm, w, b]: &[Tensor; 3]) -> Result<Tensor> {
    let y = linear(&rms_norm(x, norm, 1e-5)?, w, WeightLayout::OutIn, Some(b))?;
    add(x, &y.silu()?)
}

fn operands(dtype: DType) -> (Var, [Var; 3]) {
    let mut rng = TestRng::new(1);
    let mut var =
        |shape: &[usize]| Var::from_tensor(&rng.tensor(shape).to_dtype(dtype).unwrap()).unwrap();
    (var(&[5, 4]), [var(&[4]), var(&[4, 4]), var(&[4])])
}

fn tensors(vars: &[Var; 3]) -> [Tensor; 3] {
    vars.clone().map(Var::into_inner)
}

/// The block over these weights; with gradient checkpointing or without.
fn step(x: &Tensor, weights: &[Var; 3], checkpoint: bool) -> Tensor {
    let weights = tensors(weights);
    match checkpoint {
        true => recompute(x, move |x| block(x, &weights)).unwrap(),
        false => block(x, &weights).unwrap(),
    }
}

fn squares(y: &Tensor) -> Tensor {
    y.sqr().unwrap().sum_all().unwrap()
}

fn differentiated(loss: &Tensor) -> GradStore {
    backward_into(loss, &mut GradientSums::new()).unwrap()
}

/// The value of two blocks over the same weights and all gradients; with gradient checkpointing or without, from a result of candle's operations or
/// from a variable.
fn two_blocks(dtype: DType, checkpoint: bool, stretch: bool) -> Vec<Vec<f64>> {
    let (x, weights) = operands(dtype);
    let _recording = Recording::start();
    let step = |x: &Tensor| step(x, &weights, checkpoint);
    let start = match stretch {
        true => (x.as_tensor() * 2.0).unwrap(),
        false => x.as_tensor().clone(),
    };
    let y = step(&step(&start));
    let gradients = differentiated(&squares(&y));
    let gradient = |v: &Var| flat(gradients.get(v).unwrap());
    let mut all = vec![flat(&y), gradient(&x)];
    all.extend(weights.iter().map(gradient));
    all
}

#[test]
fn value_and_gradients_are_the_same_bits_also_of_weights_used_twice() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for stretch in [false, true] {
            assert_eq!(
                two_blocks(dtype, true, stretch),
                two_blocks(dtype, false, stretch),
                "{dtype:?}"
            );
        }
    }
}

/// The oracle is the function without checkpointing; the loss depends on both results, on the first or on the second alone.
#[test]
fn a_second_result_has_its_gradient_too() {
    let (x, weights) = operands(DType::F32);
    let two = |x: &Tensor, weights: &[Tensor; 3]| -> Result<(Tensor, Tensor)> {
        let inner = block(x, weights)?;
        let z = (inner.sum_keepdim(0)? * weights[0].sqr()?.unsqueeze(0)?)?;
        Ok((block(&inner, weights)?, z))
    };
    let run = |checkpoint: bool, of: [f64; 2]| {
        let _recording = Recording::start();
        let inner = tensors(&weights);
        let (y, z) = match checkpoint {
            false => two(&x, &inner).unwrap(),
            true => {
                let again = recompute_two(std::slice::from_ref(&x), move |all| {
                    let (y, z) = two(&all[0], &inner)?;
                    Ok((y, Some(z)))
                });
                again.map(|(y, z)| (y, z.unwrap())).unwrap()
            }
        };
        let part = |t: &Tensor, factor: f64| (squares(t) * factor).unwrap();
        let loss = match of {
            [_, 0.0] => part(&y, 1.0),
            [0.0, _] => part(&z, 1.0),
            [a, b] => (part(&y, a) + part(&z, b)).unwrap(),
        };
        let all = differentiated(&loss);
        let of = |v: &Var| all.get(v).map(flat);
        let gradients: Vec<_> = std::iter::once(of(&x))
            .chain(weights.each_ref().map(of))
            .collect();
        (flat(&y), flat(&z), gradients)
    };
    for of in [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]] {
        assert_eq!(run(true, of), run(false, of), "{of:?}");
    }
}

#[test]
fn a_second_backward_gives_the_same_gradients() {
    let (x, weights) = operands(DType::F32);
    let inner = tensors(&weights);
    let _recording = Recording::start();
    let y = recompute(&x, move |x| block(x, &inner)).unwrap();
    let loss = squares(&y);
    let gradient = |v: &Var| {
        let gradients = backward_keeping(&loss, &mut GradientSums::new()).unwrap();
        flat(gradients.get(v).unwrap())
    };
    assert_eq!(
        weights.each_ref().map(gradient),
        weights.each_ref().map(gradient)
    );
}

/// Of two blocks the results are kept, 5 · 4 numbers each, and nothing that they were computed from.
#[test]
fn no_activation_is_kept() {
    let (x, weights) = operands(DType::F32);
    let bytes = |checkpoint: bool| {
        let recording = Recording::start();
        let step = |x: &Tensor| step(x, &weights, checkpoint);
        let y = step(&step(&x));
        let _loss = linear(&y, &weights[1], WeightLayout::OutIn, None).unwrap();
        recording.bytes()
    };
    let one = 5 * 4 * 4;
    assert_eq!(bytes(true), (2 + 1) * one);
    // Of each block: the norm, the linear layer, SiLU and the sum.
    assert_eq!(bytes(false), (2 * 4 + 1) * one);
}

#[test]
fn weights_learn_although_the_input_records_nothing_and_the_input_although_the_weights_do_not() {
    let (x, weights) = operands(DType::F32);
    let _recording = Recording::start();
    let tracked = tensors(&weights);
    let y = recompute(&x.as_detached_tensor(), move |x| block(x, &tracked)).unwrap();
    let gradients = differentiated(&y.sum_all().unwrap());
    assert!(weights.iter().all(|w| gradients.get(w).is_some()));

    let frozen = weights.each_ref().map(Var::as_detached_tensor);
    let y = recompute(&x, move |x| block(x, &frozen)).unwrap();
    let gradients = differentiated(&y.sum_all().unwrap());
    assert!(gradients.get(&x).is_some());

    let frozen = weights.each_ref().map(Var::as_detached_tensor);
    let y = recompute(&x.as_detached_tensor(), move |x| block(x, &frozen)).unwrap();
    assert!(!y.track_op());
}

/// Outside of a recording it is the function, with the gradients of candle's graph.
#[test]
fn outside_of_a_recording_candle_keeps_all() {
    let (x, weights) = operands(DType::F32);
    let inner = tensors(&weights);
    let kept = block(&x, &inner).unwrap();
    let y = recompute(&x, move |x| block(x, &inner)).unwrap();
    assert_eq!(flat(&y), flat(&kept));
    let gradients = |y: &Tensor| {
        let all = squares(y).backward().unwrap();
        weights.each_ref().map(|w| flat(all.get(w).unwrap()))
    };
    assert_eq!(gradients(&y), gradients(&kept));
}

/// By hand: with y = 2x and z = y + y, of which y is a boundary, Σ z² has the gradient 32x.
#[test]
fn a_boundary_hands_values_and_gradients_on() {
    let x = Var::new(&[1f32, -3.0], &candle_core::Device::Cpu).unwrap();
    let y = || (x.as_tensor() * 2.0).unwrap();
    let z = |y: Tensor| squares(&(&y + &y).unwrap());
    assert!(!boundary(&y()).unwrap().is_variable());
    let recording = Recording::start();
    let cut = boundary(&y()).unwrap();
    assert!(cut.is_variable() && flat(&cut) == [2.0, -6.0]);
    assert_eq!(boundary(&cut).unwrap().id(), cut.id());
    let gradients = differentiated(&z(cut));
    assert_eq!(flat(gradients.get(&x).unwrap()), [32.0, -96.0]);
    drop(recording);
}

#[test]
fn a_result_may_be_a_view() {
    let (x, _) = operands(DType::F32);
    let last = |x: &Tensor| x.narrow(D::Minus1, 1, 3);
    let _recording = Recording::start();
    let y = recompute(&x, last).unwrap();
    assert_eq!(flat(&y), flat(&last(&x).unwrap()));
    let dx = |y: Tensor| flat(differentiated(&squares(&y)).get(&x).unwrap());
    assert_eq!(dx(y), dx(last(&x).unwrap()));
}
