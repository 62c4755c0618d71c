use candle_core::Device;

use super::*;

fn params(dtype: DType) -> Params {
    let mut params = Params::new(&Device::Cpu, dtype);
    for (name, value) in [("used", [1f32, 2.0]), ("idle", [3.0, 4.0])] {
        params
            .insert(name, &Tensor::new(&value, &Device::Cpu).unwrap())
            .unwrap();
    }
    params
}

/// Σ used², whose gradient is 2·used.
fn loss(params: &Params) -> Tensor {
    let used = params.compute("used").unwrap();
    used.sqr().unwrap().sum_all().unwrap()
}

#[test]
fn micro_batches_add_up_in_f32_and_hold_no_graph() {
    for dtype in [DType::F32, DType::BF16] {
        let params = params(dtype);
        let mut grads = Gradients::new();
        grads.accumulate(&params, &loss(&params)).unwrap();
        grads.accumulate(&params, &loss(&params)).unwrap();
        let used = grads.get("used").unwrap();
        assert!(!used.track_op());
        assert_eq!(used.to_vec1::<f32>().unwrap(), [4.0, 8.0]);
        assert_eq!(grads.norm().unwrap(), 80f64.sqrt());
    }
}

/// Closed form: the gradient of c·Σ used² is 2c·used. In f16 2e-9 is zero, and 4096 times 400 infinite.
#[test]
fn f16_keeps_gradients_far_below_and_far_above_its_range() {
    let params = params(DType::F16);
    let gradient = |factor: f64| {
        let loss = loss(&params).to_dtype(DType::F32).unwrap();
        let mut grads = Gradients::new();
        grads
            .accumulate(&params, &(loss * factor).unwrap())
            .unwrap();
        grads.get("used").unwrap().to_vec1::<f32>().unwrap()
    };
    for factor in [1e-9, 1e-4, 1.0, 100.0, 1e4] {
        for (got, want) in gradient(factor).into_iter().zip([2.0, 4.0]) {
            let want = want * factor as f32;
            assert!((got - want).abs() <= 0.01 * want, "{got}, expected {want}");
        }
    }
    assert!(
        gradient(1e6).iter().all(|g| !g.is_finite()),
        "beyond every scale the overflow shows"
    );
}

#[test]
fn one_read_serves_norm_and_guard_of_all_gradients_until_they_change() {
    let params = params(DType::F32);
    let (mut some, none) = (Gradients::new(), Gradients::new());
    some.accumulate(&params, &loss(&params)).unwrap();
    let numbers = Tensor::new(&[[7f32, 8.0]], &Device::Cpu).unwrap();
    let before = rlhf_ops::host_reads();
    let found = Gradients::read(&numbers, &[&none, &some, &some]).unwrap();
    assert_eq!(found, [7.0, 8.0]);
    // |2·(1, 2)|² = 20.
    let norms = [&some, &none].map(|grads| grads.norm().unwrap());
    assert_eq!(norms, [20f64.sqrt(), 0.0]);
    assert!(some.check_all(&params).is_err());
    assert_eq!(rlhf_ops::host_reads() - before, 1);
    some.accumulate(&params, &loss(&params)).unwrap();
    assert_eq!(some.norm().unwrap(), 80f64.sqrt());
    some.clear();
    assert_eq!(some.norm().unwrap(), 0.0);
}

/// Squares that were computed elsewhere: [0, 1e-60] are a gradient of zero and one whose square is none in f32.
#[test]
fn squares_that_are_known_are_not_read_again() {
    let params = params(DType::F32);
    let mut grads = Gradients::new();
    for name in ["used", "idle"] {
        let zeros = Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap();
        grads.set(name, zeros);
    }
    let before = rlhf_ops::host_reads();
    grads.set_squares(&[9.0, 16.0]);
    assert_eq!(grads.norm().unwrap(), 5.0);
    grads.check_all(&params).unwrap();
    grads.set_squares(&[0.0, 1e-60]);
    let error = grads.check_all(&params).unwrap_err().to_string();
    assert!(error.contains("1 of 2") && error.contains("idle (zero)"));
    assert_eq!(grads.norm().unwrap(), 0.0);
    assert_eq!(rlhf_ops::host_reads(), before);
    let numbers = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    assert_eq!(Gradients::read(&numbers, &[&grads]).unwrap(), [1.0]);
}

#[test]
fn the_guard_names_parameters_without_a_finite_non_zero_gradient() {
    let params = params(DType::F32);
    let check = |loss: Tensor| {
        let mut grads = Gradients::new();
        grads.accumulate(&params, &loss).unwrap();
        grads.check_all(&params).map_err(|e| e.to_string())
    };
    let idle = || params.compute("idle").unwrap().sum_all().unwrap();
    let error = check(loss(&params)).unwrap_err();
    assert!(error.contains("1 of 2") && error.contains("idle (none recorded)"));
    let error = check((loss(&params) + (idle() * 0.0).unwrap()).unwrap()).unwrap_err();
    assert!(error.contains("idle ("), "{error}");
    let nan = (loss(&params) + (idle() * f64::NAN).unwrap()).unwrap();
    assert!(check(nan).unwrap_err().contains("idle (not finite)"));
    // A gradient of 1e-30 has a square of zero in f32, but it is not zero.
    check((loss(&params) + (idle() * 1e-30).unwrap()).unwrap()).unwrap();
}
