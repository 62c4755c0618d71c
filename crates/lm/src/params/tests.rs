use candle_core::IndexOp as _;

use super::*;

fn params(dtype: DType) -> Params {
    let mut params = Params::new(&Device::Cpu, dtype);
    let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
    params.insert("b.w", &w).unwrap();
    params.insert("a.w", &w.i(0).unwrap()).unwrap();
    params
}

#[test]
fn names_come_in_order_and_scalars_are_counted() {
    let params = params(DType::F32);
    assert_eq!(params.names().collect::<Vec<_>>(), ["a.w", "b.w"]);
    assert_eq!((params.num_parameters(), params.num_trainable()), (6, 6));
}

/// By definition: 6 scalars, of which 2 (`a.w`) or 4 (`b.w`) are frozen.
#[test]
fn a_frozen_scalar_costs_one_value_in_the_compute_dtype_and_a_trainable_one_a_master_besides() {
    for (dtype, value, master) in [(DType::F32, 4, 0), (DType::BF16, 2, 4), (DType::F16, 2, 4)] {
        let mut params = params(dtype);
        assert_eq!(params.bytes(), 6 * (value + master));
        assert_eq!(params.snapshot().unwrap().bytes(), 6 * value);
        params.freeze(|name| name == "b.w");
        assert_eq!(params.bytes(), 6 * value + 2 * master);
        assert_eq!((params.num_parameters(), params.num_trainable()), (6, 2));
        assert!(!params.is_frozen());
        params.freeze(|_| true);
        assert_eq!(params.bytes(), 6 * value);
        assert!(params.is_frozen());
    }
}

#[test]
fn of_a_mixed_store_optimizer_and_checkpoint_see_what_is_trainable_and_saving_sees_all() {
    for dtype in [DType::F32, DType::BF16] {
        let mut params = params(dtype);
        let third = Tensor::new(&[1f32 / 3.0], &Device::Cpu).unwrap();
        params.insert_frozen("c.w", &third).unwrap();
        params.freeze(|name| name == "b.w");
        let trainable: Vec<_> = params.trainable().map(|(name, _)| name).collect();
        assert_eq!(trainable, ["a.w"]);
        assert!(params.contains("c.w") && params.get("c.w").is_none());
        assert!(!params.compute("c.w").unwrap().track_op());
        assert!(params.compute("a.w").unwrap().track_op());
        assert_eq!(params.trained().keys().collect::<Vec<_>>(), ["a.w"]);
        let saved = params.tensors();
        assert_eq!(saved.keys().collect::<Vec<_>>(), ["a.w", "b.w", "c.w"]);
        assert_eq!(saved["a.w"].dtype(), DType::F32);
        // Rounded once, when it was put in.
        let rounded = third.to_dtype(dtype).unwrap();
        let bits = |t: &Tensor| t.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(&saved["c.w"]), bits(&rounded));

        let mut values = params.trained();
        let new = Tensor::new(&[7f32, 8.0], &Device::Cpu).unwrap();
        values.insert("a.w".into(), new);
        params.restore(&values).unwrap();
        assert_eq!(bits(&params.compute("a.w").unwrap()), [7.0, 8.0]);
        values.remove("a.w");
        let error = params.restore(&values).unwrap_err().to_string();
        assert!(error.contains("parameter a.w"), "{error}");
    }
}

#[test]
fn frozen_stores_share_the_storage_of_one_model_and_a_trainable_one_copies() {
    let w = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let mut params = Params::new(&Device::Cpu, DType::F32);
    params.insert_frozen("frozen", &w).unwrap();
    params.insert("trained", &w).unwrap();
    let at = |t: &Tensor| match &*t.storage_and_layout().0 {
        candle_core::Storage::Cpu(storage) => storage.as_slice::<f32>().unwrap().as_ptr(),
        _ => unreachable!("on the CPU"),
    };
    assert_eq!(at(&params.compute("frozen").unwrap()), at(&w));
    assert_ne!(at(&params.compute("trained").unwrap()), at(&w));
}

#[test]
fn a_frozen_view_sees_updates_and_records_no_graph_but_a_snapshot_stays() {
    for dtype in [DType::F32, DType::BF16] {
        let params = params(dtype);
        let (frozen, snapshot) = (params.frozen(), params.snapshot().unwrap());
        let var = params.get("a.w").unwrap();
        var.set(&Tensor::new(&[5f32, 6.0], &Device::Cpu).unwrap())
            .unwrap();
        params.refresh().unwrap();
        let read = |p: &Params| {
            let w = p.var_builder().pp("a").get(2, "w").unwrap();
            assert_eq!((w.track_op(), w.dtype()), (!p.is_frozen(), dtype));
            w.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(read(&params), [5.0, 6.0]);
        assert_eq!(read(&frozen), [5.0, 6.0]);
        assert_eq!(read(&snapshot), [1.0, 2.0]);
    }
}

#[test]
fn a_missing_or_misshaped_name_is_an_error_that_names_it() {
    let vb = params(DType::F32).var_builder();
    let missing = vb.pp("c").get(2, "w").unwrap_err().to_string();
    assert!(missing.contains("c.w is missing"), "{missing}");
    let misshaped = vb.pp("a").get(3, "w").unwrap_err().to_string();
    assert!(
        misshaped.contains("a.w: expected shape [3], found [2]"),
        "{misshaped}"
    );
}
