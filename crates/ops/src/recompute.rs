//! Gradient checkpointing: activations are recomputed in the backward pass instead of kept.

use candle_core::{Result, Tensor, Var};

use crate::backward::differentiate;
use crate::tape::{self, Recording, Step, Tape, is_recording};

#[cfg(test)]
mod tests;

/// `y = f(x)` with gradient checkpointing: what is recorded keeps `x` but no intermediate result of `f`, and the backward pass computes `f(x)` a
/// second time.
///
/// Value and gradients, of `x` and of every variable that `f` reads, are the same bits as without checkpointing, provided that `f` is
/// deterministic, its variables do not change between the two passes, and the function that keeps its activations ends at a [`boundary`] too. Outside of a
/// [`Recording`] it is `f(x)`, and candle's graph keeps all of it. Chen et al. 2016, arXiv:1604.06174.
pub fn recompute(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor> + 'static) -> Result<Tensor> {
    let (y, _) = recompute_two(std::slice::from_ref(x), move |all| Ok((f(&all[0])?, None)))?;
    Ok(y)
}

/// [`recompute`] of a function of several tensors, which may have a second result.
pub fn recompute_two(
    operands: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<(Tensor, Option<Tensor>)> + 'static,
) -> Result<(Tensor, Option<Tensor>)> {
    if !is_recording() {
        return f(operands);
    }
    // Recorded to know which variables it reads; nothing else of it is kept.
    let recording = Recording::start();
    let detached: Vec<Tensor> = operands.iter().map(Tensor::detach).collect();
    let (y, z) = f(&detached)?;
    let tape = recording.finish_with([Some(&y), z.as_ref()].into_iter().flatten());
    let variables = tape.leaves();
    if variables.is_empty() && !operands.iter().any(Tensor::track_op) {
        return Ok((y.detach(), z.map(|z| z.detach())));
    }
    let (y, z) = (leaf(&y, &tape)?, z.map(|z| leaf(&z, &tape)).transpose()?);
    let count = operands.len();
    tape::push(Step {
        operands: operands.iter().cloned().chain(variables).collect(),
        results: std::iter::once(y.clone()).chain(z.clone()).collect(),
        gradient: Box::new(move |step, upstream| {
            let operands = &step.operands[..count];
            let recording = Recording::below(operands);
            let (y, z) = f(operands)?;
            let results = || std::iter::once(&y).chain(&z);
            let tape = recording.finish_with(results());
            let upstream = results().zip(upstream);
            let upstream = upstream.filter_map(|(t, g)| Some((t.clone(), g.clone()?)));
            differentiate(tape, upstream.collect(), None)?;
            // Whatever `f` reads has its gradient by now.
            Ok(Vec::new())
        }),
    });
    Ok((y, z))
}

/// `y`, where candle's graph ends: what candle computes of it has a stretch of its own in the [`Recording`]. The gradients of what is read on both sides
/// are then added in the order in which [`recompute`] adds them.
pub fn boundary(y: &Tensor) -> Result<Tensor> {
    if !is_recording() || y.is_variable() || !y.track_op() {
        return Ok(y.clone());
    }
    let leaf = Var::from_tensor(&y.detach())?.into_inner();
    tape::push(Step {
        operands: vec![y.clone()],
        results: vec![leaf.clone()],
        gradient: Box::new(|step, upstream| {
            let found = step.operands.iter().zip(upstream);
            Ok(found
                .filter_map(|(y, g)| Some((y.clone(), g.clone()?)))
                .collect())
        }),
    });
    Ok(leaf)
}

/// The same values as a leaf: those of a step are one already.
fn leaf(t: &Tensor, tape: &Tape) -> Result<Tensor> {
    match tape.steps.iter().any(|step| step.is_of(t)) && t.is_variable() {
        true => Ok(t.clone()),
        false => Ok(Var::from_tensor(&t.detach())?.into_inner()),
    }
}
