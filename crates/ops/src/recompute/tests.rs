use candle_core::{D, DType};

use super::*;
use crate::testing::{TestRng, flat};
use crate::{WeightLayout, linear, rms_norm};

/// `x + silu(norm(x)·Wᵀ + b)`: a small block with a residual.
fn block(x: &Tensor, [norm, w, b]: &[Tensor; 3]) -> Result<Tensor> {
    let y = linear(&rms_norm(x, norm, 1e-5)?, w, WeightLayout::OutIn, Some(b))?;
    x + y.silu()?
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

/// The value of two blocks over the same weights and all gradients; with gradient checkpointing or without.
fn two_blocks(dtype: DType, checkpoint: bool) -> Vec<Vec<f64>> {
    let (x, weights) = operands(dtype);
    let step = |x: &Tensor| {
        let weights = tensors(&weights);
        match checkpoint {
            true => recompute(x, move |x| block(x, &weights)).unwrap(),
            false => block(x, &weights).unwrap(),
        }
    };
    let y = step(&step(&x));
    let loss = y.sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let gradient = |v: &Var| flat(gradients.get(v).unwrap());
    let mut all = vec![flat(&y), gradient(&x)];
    all.extend(weights.iter().map(gradient));
    all
}

#[test]
fn value_and_gradients_are_the_same_bits_also_of_weights_used_twice() {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        assert_eq!(
            two_blocks(dtype, true),
            two_blocks(dtype, false),
            "{dtype:?}"
        );
    }
}

/// The oracle is the function without checkpointing; the loss depends on both results, on the first or on the second alone.
#[test]
fn a_second_result_has_its_gradient_too() {
    let (x, weights) = operands(DType::F32);
    let two = |x: &Tensor, weights: &[Tensor; 3]| -> Result<(Tensor, Tensor)> {
        let y = block(x, weights)?;
        Ok((
            y.clone(),
            (y.sum_keepdim(0)? * weights[0].sqr()?.unsqueeze(0)?)?,
        ))
    };
    let inner = tensors(&weights);
    let kept = two(&x, &inner).unwrap();
    let again = recompute_two(&x, move |x| {
        let (y, z) = two(x, &inner)?;
        Ok((y, Some(z)))
    });
    let again = again.map(|(y, z)| (y, z.unwrap())).unwrap();
    assert_eq!(
        (flat(&kept.0), flat(&kept.1)),
        (flat(&again.0), flat(&again.1))
    );
    let gradients = |(y, z): &(Tensor, Tensor), of: [f64; 2]| -> Vec<_> {
        let part =
            |t: &Tensor, factor: f64| (t.sqr().unwrap().sum_all().unwrap() * factor).unwrap();
        let loss = match of {
            [_, 0.0] => part(y, 1.0),
            [0.0, _] => part(z, 1.0),
            [a, b] => (part(y, a) + part(z, b)).unwrap(),
        };
        let all = loss.backward().unwrap();
        let of = |v: &Var| all.get(v).map(flat);
        [of(&x)]
            .into_iter()
            .chain(weights.each_ref().map(of))
            .collect()
    };
    for of in [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]] {
        assert_eq!(gradients(&again, of), gradients(&kept, of), "{of:?}");
    }
}

#[test]
fn a_second_backward_gives_the_same_gradients() {
    let (x, weights) = operands(DType::F32);
    let inner = tensors(&weights);
    let y = recompute(&x, move |x| block(x, &inner)).unwrap();
    let loss = y.sqr().unwrap().sum_all().unwrap();
    let gradient = |v: &Var| flat(loss.backward().unwrap().get(v).unwrap());
    assert_eq!(
        weights.each_ref().map(gradient),
        weights.each_ref().map(gradient)
    );
}

/// Counting the nodes of the graph: the input, the variables, one link each, and the result.
#[test]
fn the_graph_keeps_the_input_and_no_activation() {
    let (x, weights) = operands(DType::F32);
    let weights = tensors(&weights);
    let y = recompute(&x, move |x| block(x, &weights)).unwrap();
    let large = |t: &&&Tensor| !t.is_variable() && t.elem_count() > 1;
    let nodes = y.sorted_nodes();
    assert_eq!(nodes.iter().filter(large).count(), 1);
    assert_eq!(nodes.len(), 1 + 3 + 3 + 1);
}

#[test]
fn weights_learn_although_the_input_records_nothing_and_the_input_although_the_weights_do_not() {
    let (x, weights) = operands(DType::F32);
    let tracked = tensors(&weights);
    let y = recompute(&x.as_detached_tensor(), move |x| block(x, &tracked)).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(weights.iter().all(|w| gradients.get(w).is_some()));

    let frozen = weights.each_ref().map(Var::as_detached_tensor);
    let y = recompute(&x, move |x| block(x, &frozen)).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_some());

    let frozen = weights.each_ref().map(Var::as_detached_tensor);
    let y = recompute(&x.as_detached_tensor(), move |x| block(x, &frozen)).unwrap();
    assert!(!y.track_op());
}

#[test]
fn a_result_that_is_a_view_becomes_contiguous() {
    let (x, _) = operands(DType::F32);
    let last = |x: &Tensor| x.narrow(D::Minus1, 1, 3);
    let y = recompute(&x, last).unwrap();
    assert_eq!(flat(&y), flat(&last(&x).unwrap()));
    let dx = |y: Tensor| {
        flat(
            y.sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap()
                .get(&x)
                .unwrap(),
        )
    };
    assert_eq!(dx(y), dx(last(&x).unwrap()));
}
