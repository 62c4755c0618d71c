//! SwiGLU on a GPU.

use candle_core::{Result, Tensor};

use crate::gpu::Argument::{In, Int, Out};
use crate::gpu::{Kernel, Memory, Rows, attach2};

const TEXT: &str = include_str!("kernel.h");

pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (a, b, y) = (Rows::of(gate)?, Rows::of(up)?, Memory::like(gate)?);
    let kernel = Kernel::new(TEXT, "swiglu", gate.dtype());
    let arguments = [
        In(&a.tensor),
        Int(a.stride),
        In(&b.tensor),
        Int(b.stride),
        Out(&y),
        Int(a.width),
    ];
    kernel.launch(gate.device(), [a.count, 1], &arguments)?;
    attach2("swiglu", [gate, up], y, |[gate, up], _, g| {
        let (a, b, g) = (Rows::of(gate)?, Rows::of(up)?, g.detach().contiguous()?);
        let (da, db) = (Memory::like(gate)?, Memory::like(up)?);
        let kernel = Kernel::new(TEXT, "swiglu_backward", gate.dtype());
        let arguments = [
            In(&a.tensor),
            Int(a.stride),
            In(&b.tensor),
            Int(b.stride),
            In(&g),
            Out(&da),
            Out(&db),
            Int(a.width),
        ];
        kernel.launch(gate.device(), [a.count, 1], &arguments)?;
        Ok([Some(da.tensor()), Some(db.tensor())])
    })
}
