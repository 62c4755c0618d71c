//! Every kernel once on a small input, against the reference form in `f64`: for `rlhf doctor`.

use candle_core::{DType, Device, Result, Tensor, Var, bail};

use crate::backend::{Backend, backend};
use crate::{
    AdamWStep, AttentionConfig, DecodeRows, DeltaHeads, GradientSums, Layout, Recording, Routing,
    SampleRow, Segment, WeightLayout, backward_into,
};

/// What was tried.
#[derive(Debug, Clone, Copy)]
pub struct KernelTrial {
    /// Operations, each forward and, where it has one, backward.
    pub operations: usize,
    /// Kernels and products that were launched.
    pub launches: u64,
    /// The largest difference from the reference form, relative to the largest number of each result or to 1.
    pub difference: f64,
}

/// Compiles and runs the kernel of every operation on `device` for tensors of `dtype`; `None` where these have none. A kernel that does not compile
/// or run, or whose result is not the reference form's but for rounding, is an error that names it.
pub fn try_kernels(device: &Device, dtype: DType) -> Result<Option<KernelTrial>> {
    if backend(&[&Tensor::zeros(1, dtype, device)?]) != Backend::Kernel {
        return Ok(None);
    }
    let before = super::kernel_launches();
    let mut trial = Trial {
        device,
        dtype,
        operations: 0,
        difference: 0.0,
    };
    trial.rows()?;
    trial.elements()?;
    trial.tokens()?;
    trial.attention()?;
    trial.experts()?;
    trial.optimizer()?;
    Ok(Some(KernelTrial {
        operations: trial.operations,
        launches: super::kernel_launches() - before,
        difference: trial.difference,
    }))
}

/// Numbers between −1 and 1.
fn numbers(shape: &[usize], seed: f64) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n).map(|i| (1.7 * i as f64 + seed).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

struct Trial<'a> {
    device: &'a Device,
    dtype: DType,
    operations: usize,
    difference: f64,
}

impl Trial<'_> {
    /// An operation with its gradients, for operands of these shapes.
    fn of(
        &mut self,
        name: &str,
        shapes: &[&[usize]],
        op: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let operands: Result<Vec<Tensor>> = (0..)
            .zip(shapes)
            .map(|(i, shape)| numbers(shape, f64::from(i)))
            .collect();
        self.at(name, &operands?, op)
    }

    /// The same for these operands.
    fn at(
        &mut self,
        name: &str,
        operands: &[Tensor],
        op: impl Fn(&[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let rounded = |t: Tensor| t.to_dtype(self.dtype);
        let operands: Result<Vec<Tensor>> = operands.iter().cloned().map(rounded).collect();
        let operands = operands?;
        let run = |device: &Device, dtype| -> Result<Vec<Tensor>> {
            let variable = |t: &Tensor| Var::from_tensor(&t.to_dtype(dtype)?.to_device(device)?);
            let variables = operands.iter().map(variable).collect::<Result<Vec<_>>>()?;
            let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
            let _recording = Recording::start();
            let y = op(&tensors)?;
            let upstream = rounded(numbers(y.dims(), 0.5)?)?;
            let upstream = upstream.to_dtype(y.dtype())?.to_device(device)?;
            let loss = (&y * upstream)?.sum_all()?;
            let gradients = backward_into(&loss, &mut GradientSums::new())?;
            let mut all = vec![y.detach()];
            for (v, i) in variables.iter().zip(0..) {
                match gradients.get(v) {
                    Some(gradient) => all.push(gradient.detach()),
                    None => bail!("kernels of {name}: operand {i} got no gradient"),
                }
            }
            Ok(all)
        };
        // In f64, of which no kernel has a form, an operation takes its reference form.
        let (got, want) = (
            run(self.device, self.dtype)?,
            run(&Device::Cpu, DType::F64)?,
        );
        self.compare(name, &got, &want)
    }

    fn compare(&mut self, name: &str, got: &[Tensor], want: &[Tensor]) -> Result<()> {
        let bound = match self.dtype {
            DType::F32 => 1e-4,
            DType::F16 => 5e-3,
            _ => 3e-2,
        };
        let flat = |t: &Tensor| -> Result<Vec<f64>> {
            t.to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .flatten_all()?
                .to_vec1()
        };
        for (got, want) in got.iter().zip(want) {
            let (got, want) = (flat(got)?, flat(want)?);
            let size = want.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
            for (got, want) in got.iter().zip(&want) {
                let difference = (got - want).abs() / size;
                if difference > bound || difference.is_nan() {
                    bail!(
                        "kernels of {name}: {got} in the place of {want}; set RLHF_REFERENCE=1 to run without kernels, and report it"
                    )
                }
                self.difference = self.difference.max(difference);
            }
        }
        self.operations += 1;
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
        use WeightLayout::{InOut, OutIn};
        self.of("linear", &[&[37, 64], &[48, 64], &[48]], |t| {
            crate::linear(&t[0], &t[1], OutIn, Some(&t[2]))
        })?;
        let shapes: [&[usize]; 4] = [&[37, 48], &[37, 64], &[64, 48], &[48]];
        self.of("linear_add", &shapes[..3], |t| {
            crate::linear_add(&t[0], &t[1], &t[2], InOut, None)
        })?;
        self.of("linear_add with a bias", &shapes, |t| {
            crate::linear_add(&t[0], &t[1], &t[2], InOut, Some(&t[3]))
        })?;
        self.of("rms_norm", &[&[37, 64], &[64]], |t| {
            crate::rms_norm(&t[0], &t[1], 1e-5)
        })?;
        self.of("layer_norm", &[&[37, 64], &[64], &[64]], |t| {
            crate::layer_norm(&t[0], &t[1], &t[2], 1e-5)
        })
    }

    fn elements(&mut self) -> Result<()> {
        let x: &[&[usize]] = &[&[37, 64]];
        self.of("add", &[&[37, 64], &[37, 64]], |t| crate::add(&t[0], &t[1]))?;
        self.of("swiglu", &[&[37, 64], &[37, 64]], |t| {
            crate::swiglu(&t[0], &t[1])
        })?;
        self.of("gelu_tanh", x, |t| crate::gelu_tanh(&t[0]))?;
        self.of("gelu_erf", x, |t| crate::gelu_erf(&t[0]))?;
        self.of("softcap", x, |t| crate::softcap(&t[0], 0.7))?;
        self.of("log_sigmoid", x, |t| crate::log_sigmoid(&t[0]))?;
        let angles = numbers(&[37, 16], 3.0)?.to_dtype(DType::F32)?;
        self.of("rope", x, |t| {
            let angles = angles.to_device(t[0].device())?;
            crate::rope(&t[0], &angles.cos()?, &angles.sin()?, 32)
        })?;
        self.of("rope of queries and keys", &[&[37, 64], &[37, 32]], |t| {
            let angles = angles.to_device(t[0].device())?;
            let (cos, sin) = (angles.cos()?, angles.sin()?);
            Tensor::cat(&crate::rope_both([&t[0], &t[1]], &cos, &sin, 32)?, 1)
        })
    }

    fn tokens(&mut self) -> Result<()> {
        let ids: Vec<u32> = (0..37).map(|i| i * 7 % 50).collect();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        self.of("embedding", &[&[50, 64]], |t| {
            crate::embedding(&ids.to_device(t[0].device())?, &t[0])
        })?;
        self.of("token_logprobs", &[&[37, 64], &[50, 64]], |t| {
            let ids = ids.to_device(t[0].device())?;
            let all = crate::token_logprobs(&t[0], &t[1], &ids, 0.9, Some(3.0))?;
            Tensor::cat(&[all.logprobs, all.entropy], 0)
        })?;
        let logits = numbers(&[2, 50], 1.0)?.to_dtype(DType::F32)?;
        let row = SampleRow {
            temperature: 0.7,
            top_k: Some(10),
            top_p: Some(0.9),
            penalty: 1.2,
            seen: &[3],
            forbidden: &[4],
            allowed_after: 1,
            uniforms: &[0.0], // under top-p this draws the likeliest token that may come
        };
        let likeliest = SampleRow {
            temperature: 0.0,
            ..row
        };
        let drawn = crate::sample(&logits.to_device(self.device)?, &[row, likeliest])?;
        let mut first = logits.get(0)?.to_vec1::<f32>()?;
        first[3] /= 1.2;
        let second = logits.get(1)?.to_vec1::<f32>()?;
        let best = |z: &[f32]| {
            (0..50u32)
                .filter(|i| *i != 4)
                .max_by(|a, b| z[*a as usize].total_cmp(&z[*b as usize]))
        };
        let tokens: Vec<Option<u32>> = drawn.iter().map(|it| it.map(|it| it.0)).collect();
        if tokens != [best(&first), best(&second)] {
            bail!("kernels of sample: {tokens:?} in the place of the likeliest tokens")
        }
        self.operations += 1;
        Ok(())
    }

    fn attention(&mut self) -> Result<()> {
        let segments = [(0..70, 0..0), (70..79, 0..70), (79..83, 0..70)];
        let of = |(tokens, prefix)| Segment { tokens, prefix };
        let layout = Layout::new(segments.map(of).to_vec())?;
        let config = AttentionConfig::new(64);
        self.of("attention", &[&[83, 128], &[83, 64], &[83, 64]], |t| {
            crate::attention(&t[0], &t[1], &t[2], &layout, config)
        })?;
        self.of("causal_convolution", &[&[83, 64], &[64, 4]], |t| {
            crate::causal_convolution(&t[0], &t[1], &layout)
        })?;
        self.delta_rule(&layout)?;
        let rows = DecodeRows::new(vec![(0..70).collect(), vec![2, 5]]);
        let run = |device: &Device, dtype| {
            let of = |shape: &[usize]| -> Result<Tensor> {
                let rounded = numbers(shape, 2.0)?.to_dtype(self.dtype)?;
                rounded.to_dtype(dtype)?.to_device(device)
            };
            let (q, k, v) = (of(&[2, 128])?, of(&[83, 64])?, of(&[83, 64])?);
            crate::decode_attention(&q, &k, &v, &rows, config)
        };
        let (got, want) = (
            run(self.device, self.dtype)?,
            run(&Device::Cpu, DType::F64)?,
        );
        self.compare("decode_attention", &[got], &[want])?;
        let run = |device: &Device, dtype| -> Result<[Tensor; 3]> {
            let of = |shape: &[usize], dtype| -> Result<Tensor> {
                let rounded = numbers(shape, 2.0)?.to_dtype(self.dtype)?;
                rounded.to_dtype(dtype)?.to_device(device)
            };
            let (qkv, angles) = (of(&[3, 256], dtype)?, of(&[3, 16], DType::F32)?);
            let pools = [of(&[5, 64], dtype)?, of(&[5, 64], dtype)?];
            let part = |from, width| qkv.narrow(1, from, width);
            let parts = [&part(0, 128)?, &part(128, 64)?, &part(192, 64)?];
            let (turn, into) = (Some((&angles, &angles)), [&pools[0], &pools[1]]);
            let q = crate::rope_append(parts, turn, 64, into, 1)?;
            let [keys, values] = pools;
            Ok([q, keys, values])
        };
        let got = run(self.device, self.dtype)?;
        self.compare("rope_append", &got, &run(&Device::Cpu, DType::F64)?)
    }

    /// Keys of length 1 at most, g between −1 and 0, β between 0 and 1.
    fn delta_rule(&mut self, layout: &Layout) -> Result<()> {
        let heads = DeltaHeads {
            keys: 1,
            values: 2,
            key_dim: 64,
            value_dim: 40,
        };
        let gates = [numbers(&[83, 2], 1.0)?, numbers(&[83, 2], 2.0)?];
        let gates = [(&gates[0] - 1.0)?, (&gates[1] + 1.0)?];
        let operands = [
            (numbers(&[83, 128], 3.0)? / 8.0)?,
            numbers(&[83, 80], 4.0)?,
            (Tensor::cat(&gates, 1)? / 2.0)?,
        ];
        self.at("gated_delta_rule", &operands, |t| {
            crate::gated_delta_rule(&t[0], &t[1], &t[2], heads, layout)
        })?;
        let state = numbers(&[2, 64, 40], 5.0)?.to_dtype(DType::F32)?;
        let run = |device: &Device, dtype| -> Result<Vec<Tensor>> {
            let of = |t: &Tensor| {
                let rounded = t.narrow(0, 0, 2)?.to_dtype(self.dtype)?;
                rounded.to_dtype(dtype)?.to_device(device)
            };
            let [qk, v, gates] = [of(&operands[0])?, of(&operands[1])?, of(&operands[2])?];
            let states = [Some(state.to_device(device)?), None];
            let (o, mut all) = crate::delta_step(&qk, &v, &gates, heads, &states)?;
            all.push(o);
            Ok(all)
        };
        let got = run(self.device, self.dtype)?;
        self.compare("delta_step", &got, &run(&Device::Cpu, DType::F64)?)
    }

    fn experts(&mut self) -> Result<()> {
        let routing = Routing::top(&numbers(&[37, 5], 3.0)?, 2)?;
        self.of("experts", &[&[37, 64], &[5, 48, 64], &[37, 2]], |t| {
            let rows = crate::dispatch(&t[0], &routing)?;
            let rows = crate::expert_linear(&rows, &t[1], &routing)?;
            crate::combine(&rows, &t[2], &routing)
        })
    }

    fn optimizer(&mut self) -> Result<()> {
        let step = AdamWStep {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 3,
            grad_scale: 0.5,
        };
        let state = |device: &Device| -> Result<([Var; 3], Tensor)> {
            let of = |seed| {
                numbers(&[3000], seed)?
                    .to_dtype(DType::F32)?
                    .to_device(device)
            };
            let moments = [of(1.0)?, of(2.0)?, of(3.0)?.sqr()?];
            let [param, m, v] = moments.map(|t| Var::from_tensor(&t));
            Ok(([param?, m?, v?], of(4.0)?))
        };
        let ([param, m, v], grad) = &state(self.device)?;
        crate::adamw(param, grad, m, v, &step)?;
        let squares = crate::sums_of_squares(&[grad])?;
        let ([want, want_m, want_v], grad) = &state(&Device::Cpu)?;
        crate::reference::adamw(want, grad, want_m, want_v, &step)?;
        let all = |vars: [&Var; 3]| vars.map(Var::as_detached_tensor);
        self.compare("adamw", &all([param, m, v]), &all([want, want_m, want_v]))?;
        let want_squares = crate::reference::sums_of_squares(&[grad])?;
        self.compare("sums_of_squares", &[squares], &[want_squares])?;
        if self.dtype == DType::F32 {
            return Ok(());
        }
        let copy = Var::zeros(3000, self.dtype, self.device)?;
        crate::round_all(&[(param, &copy)])?;
        let rounded = param.as_detached_tensor().to_dtype(self.dtype)?;
        self.compare("round_all", &[copy.as_detached_tensor()], &[rounded])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each operation that the table of the README names; a device without kernels has none to try.
    #[test]
    fn every_operation_with_a_kernel_is_tried() {
        for dtype in [DType::F32, DType::BF16] {
            assert!(try_kernels(&Device::Cpu, dtype).unwrap().is_none());
            if crate::testing::kernels_run() {
                let tried = crate::on_the_emulated_grid(rlhf_grid::launch, || {
                    try_kernels(&Device::Cpu, dtype).unwrap().unwrap()
                });
                let of_dtype = usize::from(dtype != DType::F32); // copies in half precision
                assert_eq!(tried.operations, 25 + of_dtype);
                assert!(tried.launches > 40 && tried.difference > 0.0, "{tried:?}");
            }
        }
        let none = crate::on_the_emulated_grid(rlhf_grid::launch, || {
            try_kernels(&Device::Cpu, DType::F64).unwrap()
        });
        assert!(none.is_none());
    }

    #[test]
    fn a_result_that_is_not_the_references_is_named() {
        let mut trial = Trial {
            device: &Device::Cpu,
            dtype: DType::BF16,
            operations: 0,
            difference: 0.0,
        };
        let of = |x: f64| [Tensor::new(&[1.0, x], &Device::Cpu).unwrap()];
        trial.compare("near", &of(2.05), &of(2.0)).unwrap();
        for wrong in [2.1, f64::NAN] {
            let error = trial.compare("far", &of(wrong), &of(2.0)).unwrap_err();
            assert!(error.to_string().contains("kernels of far"), "{error}");
        }
    }
}
