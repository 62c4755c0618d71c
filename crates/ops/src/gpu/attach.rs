//! A computed tensor as a step of what is recorded, or as an operation of candle's graph.
//!
//! candle calls an operation's forward pass with the storages of up to three operands. Kernels want tensors, and know their result before: so the
//! forward pass hands over what was computed, and the gradient is a function of operands, result and upstream gradient.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage,
    Tensor, bail,
};

use super::Memory;
use crate::apply::result;
use crate::tape::is_recording;

struct Attached<F> {
    name: &'static str,
    computed: Mutex<Option<Memory>>,
    gradient: F,
}

impl<F> Attached<F> {
    fn new(name: &'static str, computed: Memory, gradient: F) -> Self {
        Self {
            name,
            computed: Mutex::new(Some(computed)),
            gradient,
        }
    }

    /// What was computed; candle runs a forward pass once.
    fn take<S>(&self, of: impl FnOnce(Storage) -> Option<S>) -> Result<(S, Shape)> {
        let computed = self.computed.lock().ok().and_then(|mut c| c.take());
        let Some(Memory { storage, shape }) = computed else {
            bail!("{}: its forward pass ran already", self.name)
        };
        match of(storage) {
            Some(storage) => Ok((storage, shape)),
            None => bail!("{}: its result lies on another device", self.name),
        }
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        self.take(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        self.take(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }
}

/// `computed` as a function of `x`, with `gradient(x, y, dy)`.
pub(crate) fn attach1<F>(
    name: &'static str,
    x: &Tensor,
    computed: Memory,
    gradient: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
{
    if is_recording() {
        let computed = (computed.storage, computed.shape);
        return Ok(result([x], computed, move |[x], y, g| {
            Ok([gradient(x, y, g)?])
        }));
    }
    if !x.track_op() {
        return Ok(computed.tensor());
    }
    x.apply_op1(Attached::new(name, computed, gradient))
}

/// `computed` as a function of `a` and `b`, with `gradient([a, b], y, dy)`.
pub(crate) fn attach2<F>(
    name: &'static str,
    [a, b]: [&Tensor; 2],
    computed: Memory,
    gradient: F,
) -> Result<Tensor>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
{
    if is_recording() {
        return Ok(result([a, b], (computed.storage, computed.shape), gradient));
    }
    if ![a, b].iter().any(|t| t.track_op()) {
        return Ok(computed.tensor());
    }
    a.apply_op2(b, Attached::new(name, computed, gradient))
}

/// `computed` as a function of `a`, `b` and `c`, with `gradient([a, b, c], y, dy)`.
pub(crate) fn attach3<F>(
    name: &'static str,
    [a, b, c]: [&Tensor; 3],
    computed: Memory,
    gradient: F,
) -> Result<Tensor>
where
    F: Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
{
    if is_recording() {
        return Ok(result(
            [a, b, c],
            (computed.storage, computed.shape),
            gradient,
        ));
    }
    if ![a, b, c].iter().any(|t| t.track_op()) {
        return Ok(computed.tensor());
    }
    a.apply_op3(b, c, Attached::new(name, computed, gradient))
}

impl<F> CustomOp1 for Attached<F>
where
    F: Fn(&Tensor, &Tensor, &Tensor) -> Result<Option<Tensor>>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        (self.gradient)(x, y, dy)
    }
}

impl<F> CustomOp2 for Attached<F>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = (self.gradient)([a, b], y, dy)?;
        Ok((da, db))
    }
}

impl<F> CustomOp3 for Attached<F>
where
    F: Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Option<Tensor>; 3]>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.gradient)([a, b, c], y, dy)?;
        Ok((da, db, dc))
    }
}
