use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::backend::BackendStorage as _;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, bail};
use rlhf_ops::{Recording, WeightLayout, linear, recompute};

use super::super::threads::run;
use super::*;

fn tensor(numbers: impl IntoIterator<Item = f32>) -> Tensor {
    let numbers: Vec<f32> = numbers.into_iter().collect();
    let len = numbers.len();
    Tensor::from_vec(numbers, len, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What rank `rank` has: of `a` a gradient that it knows, of `b` one where `rank` is 1, of `c` none.
fn gradients(rank: usize) -> (Params, Gradients) {
    let mut params = Params::new(&Device::Cpu, DType::F32);
    for name in ["a", "b", "c"] {
        let zeros = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        params.insert(name, &zeros).unwrap();
    }
    let mut own = Gradients::new();
    let filled = |x: f32| Tensor::full(x, (2, 3), &Device::Cpu).unwrap();
    own.set("a", filled(0.1 + rank as f32));
    if rank == 1 {
        own.set("b", filled(7.0));
    }
    (params, own)
}

/// By hand; the order of additions is that of the ranks, to the last bit.
#[test]
fn every_rank_has_the_sum_of_all_and_none_where_nobody_has_any() {
    let found = run(3, |comm| {
        let (params, mut own) = gradients(comm.rank());
        let numbers = tensor([comm.rank() as f32, 0.25]);
        let sums = comm.sum_gradients(&params, &mut own, &numbers).unwrap();
        let there = |name| own.get(name).map(flat);
        let found = (flat(&sums), [there("a"), there("b"), there("c")]);
        (found, own.norm().unwrap())
    });
    let sum = 0.1 + 1.1 + 2.1;
    for ((sums, [a, b, c]), norm) in found {
        assert_eq!(sums, [3.0, 0.75]);
        assert_eq!(a.unwrap(), [sum; 6]);
        assert_eq!(b.unwrap(), [7.0; 6]);
        assert!(c.is_none());
        let want = (6.0 * f64::from(sum).powi(2) + 6.0 * 49.0).sqrt();
        assert!((norm - want).abs() < 1e-6 * want, "{norm}, not {want}");
    }
}

/// Closed form: a rank sends each of the two others its part of the numbers and then its part of the sums, or only the first; the parts of
/// three parameters of six numbers are of two. Once a step it sends what it has besides, after its length: two numbers, three flags, three
/// squares, each list after its length.
#[test]
fn bytes_and_messages_are_those_of_the_formula() {
    for (shared, times) in [(false, 2), (true, 1)] {
        let found = run(3, |comm| {
            let comm = match shared {
                true => comm.sharing_optimizers(),
                false => comm,
            };
            let (params, mut own) = gradients(comm.rank());
            let numbers = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
            let before = comm.traffic();
            comm.sum_gradients(&params, &mut own, &numbers).unwrap();
            let after = comm.traffic();
            (after.bytes - before.bytes, after.messages - before.messages)
        });
        let besides = 8 + (8 + 2 * 4) + (8 + 3) + (8 + 3 * 8);
        // The leader has no order of its own yet, and says so: a length, and a byte.
        let want = |leads: bool| {
            let (bytes, messages) = if leads { (8 + 1, 2) } else { (0, 0) };
            (
                2 * (times * 4 * 3 * 2 + besides + bytes),
                2 * (times * 3 + 2 + messages),
            )
        };
        for (rank, found) in found.into_iter().enumerate() {
            assert_eq!(found, want(rank == 0), "rank {rank}");
        }
    }
}

/// By hand: 1 + 2⁻⁹ is sent as 1, since bf16 has 8 bits; 256 and 1 are sent as they are, and their sum 257 needs 9 bits, so it is rounded to
/// 256 (a tie goes to the even number), sent or not.
#[test]
fn in_bf16_sums_are_made_in_f32() {
    for shared in [false, true] {
        let found = run(2, |comm| {
            let mut params = Params::new(&Device::Cpu, DType::F32);
            let values: [f32; 4] =
                [[1.0 + 1.0 / 512.0, 256.0, 2.0, 0.0], [0.0, 1.0, 3.0, 0.0]][comm.rank()];
            params.insert("a", &tensor(values)).unwrap();
            let mut own = Gradients::new();
            own.set("a", tensor(values));
            let comm = match shared {
                true => comm.in_bf16().sharing_optimizers(),
                false => comm.in_bf16(),
            };
            let number = tensor([1f32 + 1.0 / 512.0]);
            let sums = comm.sum_gradients(&params, &mut own, &number);
            let norm = own.norm().unwrap();
            (flat(own.get("a").unwrap()), flat(&sums.unwrap()), norm)
        });
        let want = [1.0, 256.0, 5.0, 0.0];
        for (rank, (gradient, sums, norm)) in found.into_iter().enumerate() {
            match shared {
                true => assert_eq!(gradient, want[2 * rank..][..2]),
                false => assert_eq!(gradient, want),
            }
            assert_eq!(
                sums,
                [2.0 + 1.0 / 256.0],
                "counted numbers are never rounded"
            );
            assert!((norm - 65562f64.sqrt()).abs() < 1e-9);
        }
    }
}

const WIDTH: usize = 4;

/// Three square matrices of which one is used twice, one that only a candle operation reads, and one that nothing does.
fn model() -> Params {
    let mut params = Params::new(&Device::Cpu, DType::F32);
    for (i, name) in ["gain", "idle", "one", "tied", "two"]
        .into_iter()
        .enumerate()
    {
        let numbers = (0..WIDTH * WIDTH).map(|j| ((i * 31 + j) as f32).sin());
        let square = tensor(numbers).reshape((WIDTH, WIDTH)).unwrap();
        params.insert(name, &square).unwrap();
    }
    params
}

/// What a micro-batch computes: all of the model or a part of it.
#[derive(Clone, Copy, Debug)]
enum Part {
    All,
    WithoutTwo,
    Recomputed,
    GainAlone,
}

fn loss(params: &Params, part: Part, shift: f32, gate: Option<&Arc<Gate>>) -> Tensor {
    let weight = |name: &str| params.compute(name).unwrap();
    let through = |x: &Tensor, w: &Tensor| linear(x, w, WeightLayout::InOut, None).unwrap();
    let x = tensor((0..WIDTH * WIDTH).map(|i| (i as f32 + shift).cos()));
    let x = x.reshape((WIDTH, WIDTH)).unwrap();
    let gain = (&x * weight("gain")).unwrap();
    if let Part::GainAlone = part {
        return gain.sqr().unwrap().sum_all().unwrap();
    }
    let x = match gate {
        Some(gate) => gain.apply_op1(Held(gate.clone())).unwrap(),
        None => gain,
    };
    let x = through(&x, &weight("tied"));
    let x = through(&x, &weight("one"));
    let two = weight("two");
    let x = match part {
        Part::WithoutTwo => x,
        Part::Recomputed => {
            recompute(&x, move |x| linear(x, &two, WeightLayout::InOut, None)).unwrap()
        }
        _ => through(&x, &two),
    };
    let x = through(&x, &weight("tied"));
    (x.sqr().unwrap().sum_all().unwrap() * 0.01).unwrap()
}

/// The oracle is the sum of what each rank computes by itself, in order of rank and to the last bit: whatever parameters a micro-batch uses,
/// and whoever has none, in the first step, which shows the order, and in those that send by it.
#[test]
fn sums_are_the_same_whatever_the_micro_batches_of_a_rank_use() {
    use Part::{All, GainAlone, Recomputed, WithoutTwo};
    let steps: [[&[Part]; 3]; 6] = [
        [&[], &[All], &[All]],
        [&[All, All], &[All], &[]],
        [&[All], &[WithoutTwo, All], &[All, WithoutTwo]],
        [&[All, GainAlone], &[], &[GainAlone]],
        [&[Recomputed], &[All, Recomputed], &[GainAlone, All]],
        [&[], &[], &[WithoutTwo]],
    ];
    let found = run(3, |comm| {
        let params = model();
        let each = |(step, micros): (usize, &[&[Part]; 3])| {
            let micros = micros[comm.rank()];
            let (mut alone, mut summed) = (Gradients::new(), Gradients::new());
            for (i, part) in micros.iter().enumerate() {
                let _recording = Recording::start();
                let loss = || loss(&params, *part, (step * 10 + i + comm.rank()) as f32, None);
                alone.accumulate(&params, &loss()).unwrap();
                let last = i + 1 == micros.len();
                comm.accumulate(&params, &mut summed, &loss(), last)
                    .unwrap();
            }
            comm.sum_gradients(&params, &mut summed, &tensor([1.0]))
                .unwrap();
            let all = |it: &Gradients| -> BTreeMap<String, Vec<f32>> {
                it.iter()
                    .map(|(name, it)| (name.to_owned(), flat(it)))
                    .collect()
            };
            (all(&alone), all(&summed))
        };
        steps.iter().enumerate().map(each).collect::<Vec<_>>()
    });
    for (step, of_step) in steps.iter().enumerate() {
        let mut want: BTreeMap<String, Vec<f32>> = BTreeMap::new();
        for of_rank in &found {
            for (name, own) in &of_rank[step].0 {
                match want.get_mut(name) {
                    Some(sum) => sum.iter_mut().zip(own).for_each(|(sum, x)| *sum += x),
                    None => drop(want.insert(name.clone(), own.clone())),
                }
            }
        }
        for of_rank in &found {
            assert_eq!(of_rank[step].1, want, "{of_step:?}");
        }
    }
}

/// Holds the backward pass up until a bucket has gone to the other rank and back.
struct Gate {
    comm: Comm,
    messages: u64,
    passed: AtomicBool,
}

struct Held(Arc<Gate>);

impl CustomOp1 for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let begun = Instant::now();
        while self.0.comm.traffic().messages < self.0.messages {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("nothing is sent during the backward pass");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.passed.store(true, Ordering::Relaxed);
        Ok(Some(g.clone()))
    }
}

/// The backward pass waits in its middle for what it has sent: were it not sent before the pass ends, it would never end. `two` and `one` are
/// complete there, since another linear layer has come after them, and are a bucket together.
#[test]
fn gradients_are_exchanged_while_the_backward_pass_computes() {
    // The reference form keeps no sums, so that all gradients are complete at the end.
    if rlhf_ops::reference_only() {
        return;
    }
    let found = run(2, |comm| {
        // Two models take turns, as policy and critic do.
        let models = [model(), model()];
        let mut passed = Vec::new();
        for (step, params) in [0, 1]
            .into_iter()
            .flat_map(|step| models.iter().map(move |it| (step, it)))
        {
            let gate = Arc::new(Gate {
                // An exchange and a gather, each with one message.
                messages: comm.traffic().messages + if step == 0 { 0 } else { 2 },
                comm: comm.clone(),
                passed: AtomicBool::new(false),
            });
            let mut own = Gradients::new();
            let _recording = Recording::start();
            let x = loss(params, Part::All, 1.0, None);
            comm.accumulate(params, &mut own, &x, false).unwrap();
            let held = loss(params, Part::All, 2.0, Some(&gate));
            comm.accumulate(params, &mut own, &held, true).unwrap();
            comm.sum_gradients(params, &mut own, &tensor([1.0]))
                .unwrap();
            passed.push(gate.passed.load(Ordering::Relaxed));
        }
        let trace = comm.take_trace().unwrap();
        assert!(comm.take_trace().is_none(), "once");
        (passed, trace)
    });
    for (passed, trace) in found {
        assert_eq!(passed, [true; 4]);
        let end = trace["backward"][0]["end"].as_f64().unwrap();
        let first = &trace["buckets"][0];
        assert!(first["end"].as_f64().unwrap() <= end, "{trace}");
        assert_eq!(first["numbers"], 2 * WIDTH * WIDTH);
    }
}
