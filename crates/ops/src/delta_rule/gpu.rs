//! The gated delta rule on a GPU: the launches of `kernel.h`.

use candle_core::{DType, Device, Result, Tensor};

use super::DeltaHeads;
use super::plan::{Plan, Table, Walk};
use crate::gpu::Argument::{Change, Float, In, Int, Out};
use crate::gpu::{Argument, Kernel, Memory, Rows, attach3, blocks};
use crate::layout::Layout;

const TEXT: &str = include_str!("kernel.h");
/// `BLOCK_LINES` and `TILE` of the text.
const BLOCK_LINES: usize = 32;
const TILE: usize = 8;
/// Largest size of a key and of a value: beyond, registers run out.
const LARGEST: usize = 256;

/// Whether there are kernels for these heads.
pub(super) fn has_kernels_for(heads: DeltaHeads) -> bool {
    let sizes = [heads.key_dim, heads.value_dim];
    sizes.iter().all(|size| (1..=LARGEST).contains(size))
}

/// What all kernels of one call read, and how they are launched.
struct Delta {
    heads: DeltaHeads,
    /// Queries and keys, values, gates.
    operands: [Rows; 3],
    dtype: DType,
    device: Device,
}

pub(super) fn gated_delta_rule(
    qk: &Tensor,
    v: &Tensor,
    gates: &Tensor,
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Tensor> {
    let plan = Plan::of(layout, v.device())?;
    let delta = Delta::new([qk, v, gates], heads)?;
    let o = Memory::new(v.shape(), v.dtype(), v.device())?;
    delta.forward(&plan.forward, &o, &delta.no_errors()?, false)?;
    attach3("gated_delta_rule", [qk, v, gates], o, move |all, _, d_o| {
        let delta = Delta::new(all, heads)?;
        Ok(delta.gradients(d_o, &plan)?.map(Some))
    })
}

/// [`delta_states`](super::delta_states).
pub(super) fn states(
    operands: [&Tensor; 3],
    heads: DeltaHeads,
    layout: &Layout,
) -> Result<Vec<Tensor>> {
    let v = operands[1];
    let plan = Plan::of(layout, v.device())?;
    let delta = Delta::new(operands, heads)?;
    let o = Memory::new(v.shape(), v.dtype(), v.device())?;
    let states = delta.forward(&plan.ends, &o, &delta.no_errors()?, false)?;
    (0..plan.ends.slots).map(|slot| states.get(slot)).collect()
}

/// [`delta_step`](super::delta_step) of rows that have come to `states`, `[R, Hv, D, Dv]`: the outputs, and the states after.
pub(super) fn step(
    operands: [&Tensor; 3],
    heads: DeltaHeads,
    states: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (rows, v) = (states.dim(0)?, operands[1]);
    let delta = Delta::new(operands, heads)?;
    let o = Memory::new(v.shape(), v.dtype(), v.device())?;
    let (ends, none, states) = (
        Memory::like(states)?,
        delta.no_errors()?,
        states.contiguous()?,
    );
    let outputs = [In(&states), Out(&ends), Out(&o), Out(&none)];
    let parts = heads.value_dim.div_ceil(BLOCK_LINES);
    let arguments = delta.arguments(&outputs, parts);
    let kernel = delta.of_columns("delta_step");
    kernel.launch(&delta.device, [rows * parts, heads.values], &arguments)?;
    Ok((o.tensor(), ends.tensor()))
}

impl Delta {
    fn new([qk, v, gates]: [&Tensor; 3], heads: DeltaHeads) -> Result<Self> {
        Ok(Self {
            heads,
            operands: [Rows::of(qk)?, Rows::of(v)?, Rows::of(gates)?],
            dtype: v.dtype(),
            device: v.device().clone(),
        })
    }

    fn tokens(&self) -> usize {
        self.operands[0].count
    }

    /// A kernel with so many numbers a token in shared memory.
    fn kernel(&self, name: &'static str, numbers: usize) -> Kernel {
        let mut kernel = Kernel::new(TEXT, name, self.dtype);
        let padded = |size: usize| size.next_multiple_of(32);
        let (key, value) = (padded(self.heads.key_dim), padded(self.heads.value_dim));
        kernel.constants = vec![("KEY", key), ("VALUE", value)];
        kernel.shared = 4 * TILE * numbers;
        kernel
    }

    fn of_columns(&self, name: &'static str) -> Kernel {
        let key = self.heads.key_dim.next_multiple_of(32);
        self.kernel(name, 2 * (key + BLOCK_LINES + 1))
    }

    fn of_rows(&self, name: &'static str) -> Kernel {
        let value = self.heads.value_dim.next_multiple_of(32);
        self.kernel(name, 3 * value + 4 * BLOCK_LINES + 2)
    }

    /// The operands, what is special to a kernel, a number, and the sizes.
    fn arguments<'a>(&'a self, special: &[Argument<'a>], number: usize) -> Vec<Argument<'a>> {
        let operands = self.operands.iter();
        let mut all: Vec<Argument<'a>> = operands
            .flat_map(|rows| [In(&rows.tensor), Int(rows.stride)])
            .collect();
        all.extend(special);
        all.extend([
            Int(number),
            Int(self.heads.values),
            Int(self.heads.group()),
            Int(self.heads.key_dim),
            Int(self.heads.value_dim),
            Float(self.heads.scale()),
        ]);
        all
    }

    /// Launches `kernel` over the tables of a walk, with what it takes `before` and `after` table and states, and some of the `lines` for each block. The
    /// states in the slots, `[slots, Hv, D, Dv]`.
    fn walk(
        &self,
        kernel: &Kernel,
        walk: &Walk,
        lines: usize,
        before: &[Argument<'_>],
        after: &[Argument<'_>],
    ) -> Result<Tensor> {
        let heads = self.heads;
        let shape = (walk.slots, heads.values, heads.key_dim, heads.value_dim);
        let states = Memory::new(shape, DType::F32, &self.device)?.tensor();
        let parts = lines.div_ceil(BLOCK_LINES);
        for Table { segments, tensor } in &walk.tables {
            let of_walk = [In(tensor), In(&states), Change(&states)];
            let special = [before, &of_walk, after].concat();
            let arguments = self.arguments(&special, parts);
            kernel.launch(&self.device, [segments * parts, heads.values], &arguments)?;
        }
        Ok(states)
    }

    /// Memory where a kernel is given a place for errors and writes none.
    fn no_errors(&self) -> Result<Memory> {
        Memory::new(0, DType::F32, &self.device)
    }

    /// Writes o, or e where `errors` says so; the states in the slots of the walk.
    fn forward(&self, walk: &Walk, o: &Memory, e: &Memory, errors: bool) -> Result<Tensor> {
        let after = [Out(o), Out(e), Int(errors.into())];
        let kernel = self.of_columns("delta_forward");
        self.walk(&kernel, walk, self.heads.value_dim, &[], &after)
    }

    /// Of queries and keys, values, gates.
    fn gradients(&self, d_o: &Tensor, plan: &Plan) -> Result<[Tensor; 3]> {
        let (heads, tokens, device) = (self.heads, self.tokens(), &self.device);
        let new = |width: usize| Memory::new((tokens, width), DType::F32, device);
        let (values, keys) = (heads.values * heads.value_dim, heads.values * heads.key_dim);
        let (d_o, e, d_u) = (d_o.detach().contiguous()?, new(values)?, new(values)?);
        let none = Memory::new(0, self.dtype, device)?;
        self.forward(&plan.forward, &none, &e, true)?;
        let kernel = self.of_columns("delta_backward_columns");
        let width = heads.value_dim;
        self.walk(&kernel, &plan.backward, width, &[In(&d_o)], &[Out(&d_u)])?;

        let (e, d_u) = (e.tensor(), d_u.tensor());
        let (x, y, z) = (new(keys)?, new(keys)?, new(keys)?);
        let (read, width) = ([In(&d_o), In(&d_u), In(&e)], heads.key_dim);
        let kernel = self.of_rows("delta_rows");
        self.walk(&kernel, &plan.forward, width, &read, &[Out(&x), Out(&y)])?;
        let kernel = self.of_rows("delta_backward_rows");
        self.walk(&kernel, &plan.backward, width, &read, &[Out(&z)])?;

        let [x, y, z] = [x, y, z].map(Memory::tensor);
        let result = |width: usize| Memory::new((tokens, width), self.dtype, device);
        let d_qk = result(2 * heads.keys * heads.key_dim)?;
        let (d_v, d_gates, d_c) = (
            result(values)?,
            result(2 * heads.values)?,
            new(heads.values)?,
        );
        let mut special = read.to_vec();
        special.extend([In(&x), In(&y), In(&z)]);
        special.extend([Out(&d_qk), Out(&d_v), Out(&d_gates), Out(&d_c)]);
        let kernel = self.kernel("delta_tokens", 0);
        let grid = blocks(tokens * heads.keys, kernel.threads / 32);
        kernel.launch(device, grid, &self.arguments(&special, tokens))?;
        self.decays(&d_c.tensor(), &plan.backward, &d_gates)?;
        Ok([d_qk, d_v, d_gates].map(Memory::tensor))
    }

    /// Writes dg.
    fn decays(&self, d_c: &Tensor, walk: &Walk, d_gates: &Memory) -> Result<()> {
        let heads = self.heads.values;
        let sums = Memory::new((walk.slots, heads), DType::F32, &self.device)?.tensor();
        let kernel = self.kernel("delta_decays", 0);
        for Table { segments, tensor } in &walk.tables {
            let grid = [*segments, heads.div_ceil(kernel.threads / 32)];
            let arguments = [
                In(d_c),
                In(tensor),
                In(&sums),
                Change(&sums),
                Out(d_gates),
                Int(heads),
            ];
            kernel.launch(&self.device, grid, &arguments)?;
        }
        Ok(())
    }
}
