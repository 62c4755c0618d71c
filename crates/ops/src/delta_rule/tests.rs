use super::*;
use crate::layout::Segment;
use crate::testing::{TestRng, assert_close, check_op, flat, kernels_run};

const HEADS: [DeltaHeads; 2] = [
    DeltaHeads {
        keys: 1,
        values: 1,
        key_dim: 3,
        value_dim: 2,
    },
    DeltaHeads {
        keys: 2,
        values: 4,
        key_dim: 4,
        value_dim: 5,
    },
];

fn layout(segments: &[(usize, Option<usize>)]) -> Layout {
    let mut all: Vec<Segment> = Vec::new();
    for &(length, prefix) in segments {
        let start = all.last().map_or(0, |s| s.tokens.end);
        let prefix = prefix.map_or(0..0, |i| all[i].tokens.clone());
        let tokens = start..start + length;
        all.push(Segment { tokens, prefix });
    }
    Layout::new(all).unwrap()
}

/// One token; sequences of several lengths; a prefix that two continue; more than a chunk, with a prefix of more than one.
fn layouts() -> Vec<Layout> {
    vec![
        layout(&[(1, None)]),
        layout(&[(5, None), (1, None), (9, None)]),
        layout(&[(4, None), (3, Some(0)), (2, Some(0)), (6, None)]),
        layout(&[(130, None), (70, Some(0)), (3, Some(0)), (2, None)]),
    ]
}

/// Keys of length about 1, g ≤ 0 and β between 0 and 1, as models have them.
fn operands(rng: &mut TestRng, heads: DeltaHeads, tokens: usize) -> [Tensor; 3] {
    let qk = rng.tensor(&[tokens, 2 * heads.keys * heads.key_dim]);
    let v = rng.tensor(&[tokens, heads.values * heads.value_dim]);
    let half = |t: Tensor, shift: f64| ((t * 0.5).unwrap() + shift).unwrap();
    let g = half(rng.tensor(&[tokens, heads.values]), -0.5);
    let beta = half(rng.tensor(&[tokens, heads.values]), 0.5);
    [qk, v, Tensor::cat(&[g, beta], 1).unwrap()]
}

/// The recurrence, token by token in f64: o, and S after every segment.
fn recurrence(
    operands: &[Tensor; 3],
    heads: DeltaHeads,
    layout: &Layout,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let [qk, v, gates] = operands.each_ref().map(flat);
    let (d, dv) = (heads.key_dim, heads.value_dim);
    let row = heads.values * dv;
    let mut o = vec![0.0; layout.tokens() * row];
    let mut ends = vec![Vec::new(); layout.segments().len()];
    for head in 0..heads.values {
        let key = head / (heads.values / heads.keys);
        for (i, segment) in layout.segments().iter().enumerate() {
            let mut s = vec![0.0; d * dv];
            for t in segment.prefix.clone().chain(segment.tokens.clone()) {
                let of = |at: usize| &qk[t * 2 * heads.keys * d + at * d..][..d];
                let (q, k) = (of(key), of(heads.keys + key));
                let gate = |at: usize| gates[t * 2 * heads.values + at];
                s.iter_mut().for_each(|s| *s *= gate(head).exp());
                for j in 0..dv {
                    let seen: f64 = (0..d).map(|i| s[i * dv + j] * k[i]).sum();
                    let delta = gate(heads.values + head) * (v[t * row + head * dv + j] - seen);
                    (0..d).for_each(|i| s[i * dv + j] += k[i] * delta);
                    let read: f64 = (0..d).map(|i| s[i * dv + j] * q[i]).sum();
                    o[t * row + head * dv + j] = read / (d as f64).sqrt();
                }
            }
            ends[i].extend(s);
        }
    }
    (o, ends)
}

fn tensor(values: Vec<f64>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()
}

#[test]
fn agrees_with_the_reference_and_finite_differences() {
    let mut rng = TestRng::new(1);
    for heads in HEADS {
        for layout in layouts() {
            let operands = operands(&mut rng, heads, layout.tokens());
            check_op(
                &format!("{heads:?} over {:?}", layout.segments()),
                &operands,
                |t| gated_delta_rule(&t[0], &t[1], &t[2], heads, &layout),
                &|t| reference::gated_delta_rule(&t[0], &t[1], &t[2], heads, &layout),
            );
        }
    }
}

/// Both forms, states, and steps that go on from them.
#[test]
fn chunks_and_steps_are_the_recurrence() {
    let mut rng = TestRng::new(2);
    for heads in HEADS {
        for layout in layouts() {
            let operands = operands(&mut rng, heads, layout.tokens());
            let [qk, v, gates] = &operands;
            let (want, ends) = recurrence(&operands, heads, &layout);
            let want = tensor(want, v.dims());
            let fused = gated_delta_rule(qk, v, gates, heads, &layout).unwrap();
            assert_close(&fused, &want, 2e-6, "fused");
            let (plain, other_ends) = reference::with_states(qk, v, gates, heads, &layout).unwrap();
            assert_close(&plain, &want, 2e-6, "reference");
            let states = delta_states(qk, v, gates, heads, &layout).unwrap();
            for ((state, other), want) in states.iter().zip(&other_ends).zip(ends) {
                let want = tensor(want, state.dims());
                assert_close(state, &want, 2e-6, "state");
                assert_close(other, &want, 2e-6, "state of the reference");
            }
            // The last token of each sequence, decoded after those before it.
            for segment in layout.segments() {
                let mut state = None;
                let mut found = None;
                for t in segment.prefix.clone().chain(segment.tokens.clone()) {
                    let [qk, v, gates] = operands.each_ref().map(|x| x.narrow(0, t, 1).unwrap());
                    let (o, after) = delta_step(&qk, &v, &gates, heads, &[state]).unwrap();
                    (found, state) = (Some(o), after.into_iter().next());
                }
                let last = want.narrow(0, segment.tokens.end - 1, 1).unwrap();
                assert_close(&found.unwrap(), &last, 2e-6, "step");
            }
        }
    }
}

/// States of segments, and steps of rows of which one has seen nothing, by kernels; the same bits in any order of threads.
#[test]
fn kernels_leave_the_states_of_the_recurrence() {
    if !kernels_run() {
        return;
    }
    let mut rng = TestRng::new(4);
    let layout = layout(&[(4, None), (13, Some(0)), (2, Some(0)), (6, None)]);
    for heads in HEADS {
        let operands = operands(&mut rng, heads, layout.tokens());
        let (_, ends) = recurrence(&operands, heads, &layout);
        let [qk, v, gates] = &operands;
        let run = |order| {
            rlhf_grid::with_order(order, || {
                crate::on_the_emulated_grid(rlhf_grid::launch, || {
                    let launches = crate::kernel_launches();
                    let states = delta_states(qk, v, gates, heads, &layout).unwrap();
                    let two = operands.each_ref().map(|x| x.narrow(0, 3, 2).unwrap());
                    let before = [Some(states[1].clone()), None];
                    let (o, after) = delta_step(&two[0], &two[1], &two[2], heads, &before).unwrap();
                    assert_eq!(crate::kernel_launches() - launches, 3);
                    (states, o, after, two, before)
                })
            })
        };
        let (states, o, after, two, before) = run(0);
        for (state, want) in states.iter().zip(ends) {
            assert_close(state, &tensor(want, state.dims()), 2e-6, "state");
        }
        let (want_o, want) = delta_step(&two[0], &two[1], &two[2], heads, &before).unwrap();
        assert_close(&o, &want_o, 2e-6, "step");
        let (other_states, other_o, other, ..) = run(1);
        assert_eq!(flat(&other_o), flat(&o));
        for (state, want) in after.iter().zip(&want) {
            assert_close(state, want, 2e-6, "state after a step");
        }
        let all = states.iter().chain(&after);
        for (state, other) in all.zip(other_states.iter().chain(&other)) {
            assert_eq!(flat(state), flat(other));
        }
    }
}

/// Forward, and e, du, x and y, z, the tokens and dg backward; a batch with prefixes takes two launches of all but the tokens.
#[test]
fn a_pass_is_few_launches_whatever_its_length() {
    if !kernels_run() {
        return;
    }
    let mut rng = TestRng::new(6);
    for (segments, want) in [
        (&[(1, None)][..], [1, 6]),
        (&[(9, None), (30, None)], [1, 6]),
        (&[(9, None), (30, Some(0)), (2, Some(0))], [2, 11]),
    ] {
        let layout = layout(segments);
        let operands = operands(&mut rng, HEADS[0], layout.tokens());
        let [qk, v, gates] = operands.map(|t| candle_core::Var::from_tensor(&t).unwrap());
        let found = crate::on_the_emulated_grid(rlhf_grid::launch, || {
            let start = crate::kernel_launches();
            let o = gated_delta_rule(&qk, &v, &gates, HEADS[0], &layout).unwrap();
            let forward = crate::kernel_launches();
            o.sum_all().unwrap().backward().unwrap();
            [forward - start, crate::kernel_launches() - forward]
        });
        assert_eq!(found, want, "{segments:?}");
    }
}

/// Beyond the largest heads of kernels the reference runs.
#[test]
fn heads_of_any_size_are_taken() {
    let mut rng = TestRng::new(5);
    let layout = layout(&[(2, None)]);
    for (key_dim, value_dim) in [(257, 2), (2, 257)] {
        let heads = DeltaHeads {
            key_dim,
            value_dim,
            ..HEADS[0]
        };
        let [qk, v, gates] = operands(&mut rng, heads, 2);
        let run = || {
            let states = delta_states(&qk, &v, &gates, heads, &layout).unwrap();
            (
                gated_delta_rule(&qk, &v, &gates, heads, &layout).unwrap(),
                states,
            )
        };
        let launches = crate::kernel_launches();
        let (o, states) = crate::on_the_emulated_grid(rlhf_grid::launch, run);
        assert_eq!(crate::kernel_launches(), launches);
        let (want_o, want) = run();
        assert_close(&o, &want_o, 2e-6, "outputs");
        assert_close(&states[0], &want[0], 2e-6, "state");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let mut rng = TestRng::new(3);
    let one = layout(&[(3, None)]);
    let [qk, v, gates] = operands(&mut rng, HEADS[1], 3);
    let tried = |qk: &Tensor, v: &Tensor, heads| gated_delta_rule(qk, v, &gates, heads, &one);
    assert!(tried(&qk, &v, HEADS[1]).is_ok());
    assert!(tried(&v, &v, HEADS[1]).is_err() && tried(&qk, &qk, HEADS[1]).is_err());
    assert!(tried(&qk, &v, HEADS[0]).is_err());
    let short = layout(&[(2, None)]);
    assert!(gated_delta_rule(&qk, &v, &gates, HEADS[1], &short).is_err());
    assert!(delta_step(&qk, &v, &gates, HEADS[1], &[None]).is_err());
}
