//! An operation of this crate, applied: as a step of what is recorded, or else as a node of candle's graph.

use candle_core::op::BackpropOp;
use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Shape, Storage, Tensor};

use crate::cpu::operand::Operand;
use crate::tape::{self, Step, is_recording};

/// `op(x)`, computed by its form for the CPU.
pub(crate) fn apply1<C>(x: &Tensor, op: C) -> Result<Tensor>
where
    C: CustomOp1 + Send + Sync + 'static,
{
    if !is_recording() {
        return x.apply_op1(op);
    }
    let (y, shape) = {
        let x = Operand::of(x);
        let (x, x_layout) = x.stored()?;
        op.cpu_fwd(x, x_layout)?
    };
    Ok(result([x], (Storage::Cpu(y), shape), move |[x], y, g| {
        Ok([op.bwd(x, y, g)?])
    }))
}

/// `op(a, b)`, computed by its form for the CPU.
pub(crate) fn apply2<C>(a: &Tensor, b: &Tensor, op: C) -> Result<Tensor>
where
    C: CustomOp2 + Send + Sync + 'static,
{
    if !is_recording() {
        return a.apply_op2(b, op);
    }
    let (y, shape) = {
        let operands = [a, b].map(Operand::of);
        let [(a, a_layout), (b, b_layout)] = [operands[0].stored()?, operands[1].stored()?];
        op.cpu_fwd(a, a_layout, b, b_layout)?
    };
    let y = (Storage::Cpu(y), shape);
    Ok(result([a, b], y, move |[a, b], y, g| {
        Ok(op.bwd(a, b, y, g)?.into())
    }))
}

/// `op(a, b, c)`, computed by its form for the CPU.
pub(crate) fn apply3<C>(a: &Tensor, b: &Tensor, c: &Tensor, op: C) -> Result<Tensor>
where
    C: CustomOp3 + Send + Sync + 'static,
{
    if !is_recording() {
        return a.apply_op3(b, c, op);
    }
    let (y, shape) = {
        let [a, b, c] = &[a, b, c].map(Operand::of);
        let [a, b, c] = [a.stored()?, b.stored()?, c.stored()?];
        op.cpu_fwd(a.0, a.1, b.0, b.1, c.0, c.1)?
    };
    let y = (Storage::Cpu(y), shape);
    Ok(result([a, b, c], y, move |[a, b, c], y, g| {
        Ok(op.bwd(a, b, c, y, g)?.into())
    }))
}

/// What was computed of `operands`, as a step of what is recorded, with `gradient(operands, y, dy)`.
pub(crate) fn result<const N: usize, F>(
    operands: [&Tensor; N],
    (storage, shape): (Storage, Shape),
    gradient: F,
) -> Tensor
where
    F: Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + 'static,
{
    let [y] = results(
        operands,
        [(storage, shape)],
        move |operands, [y], [g]| match g {
            Some(g) => gradient(operands, y, g),
            None => Ok([const { None }; N]),
        },
    );
    y
}

/// [`result`] of an operation that has several, with `gradient(operands, ys, dys)`: of the gradients some may be `None`, but not all.
pub(crate) fn results<const N: usize, const M: usize, F>(
    operands: [&Tensor; N],
    computed: [(Storage, Shape); M],
    gradient: F,
) -> [Tensor; M]
where
    F: Fn([&Tensor; N], [&Tensor; M], [Option<&Tensor>; M]) -> Result<[Option<Tensor>; N]>
        + 'static,
{
    let tracked = operands.iter().any(|t| t.track_op());
    let leaf = |(storage, shape)| Tensor::from_storage(storage, shape, BackpropOp::none(), tracked);
    let results = computed.map(leaf);
    if tracked {
        tape::push(Step {
            operands: operands.map(Tensor::clone).into(),
            results: results.clone().into(),
            gradient: Box::new(move |step, upstream| {
                let operands = std::array::from_fn(|i| &step.operands[i]);
                let results = std::array::from_fn(|i| &step.results[i]);
                let upstream = std::array::from_fn(|i| upstream[i].as_ref());
                let found = gradient(operands, results, upstream)?;
                let pairs = step.operands.iter().zip(found);
                Ok(pairs
                    .filter_map(|(operand, found)| Some((operand.clone(), found?)))
                    .collect())
            }),
        });
    }
    results
}

/// Whether [`result`] and [`results`] can be used: not for candle's graph, which records operations of at most three operands and one result.
pub(crate) fn takes_any(operands: &[&Tensor]) -> bool {
    is_recording() || !operands.iter().any(|t| t.track_op())
}
