//! The invariants of packing, values and gradients; and decoding from the cache against them.

use std::ops::Range;

use candle_core::{DType, Device, IndexOp, Tensor};
use rand_chacha::ChaCha8Rng;
use rlhf_base::rng;
use rlhf_lm::{CausalLm, Gradients, KvCache, Packed, Packer, Params, ScalarModel};
use rlhf_ops::DecodeRows;

use crate::models::{assert_close, assert_within, configs, larger, largest, params, tokens};

/// f32 rounding through two blocks; the architecture's bound.
const TOLERANCE: f64 = 1e-5;

/// More where gates multiply projections with each other, and where a norm divides what a recurrence has read, which for the first tokens may be next to
/// nothing, or what a GELU has left of an input, likewise.
fn tolerance(what: &str) -> f64 {
    let families = ["qwen3_5", "lfm2", "gemma4"];
    match families.iter().any(|family| what.starts_with(family)) {
        true => 10.0 * TOLERANCE,
        false => TOLERANCE,
    }
}

/// A prompt and its responses.
struct Group {
    prompt: Vec<u32>,
    responses: Vec<Vec<u32>>,
}

fn groups(rng: &mut ChaCha8Rng) -> Vec<Group> {
    (0..1 + rng::below(rng, 3))
        .map(|_| {
            let prompt_length = 1 + rng::below(rng, 9);
            let prompt = tokens(rng, prompt_length);
            let responses = (0..1 + rng::below(rng, 3)).map(|_| {
                let length = 1 + rng::below(rng, 9);
                tokens(rng, length)
            });
            let responses = responses.collect();
            Group { prompt, responses }
        })
        .collect()
}

/// The rows of a batch that predict each response, with the response.
struct Laid {
    batch: Packed,
    responses: Vec<(Vec<u32>, Vec<u32>)>,
}

/// Prompts shared: each appears once, followed by its responses.
fn shared(groups: &[Group]) -> Laid {
    let mut packer = Packer::new();
    let mut responses = Vec::new();
    for group in groups {
        let prompt = packer.prefix(&group.prompt);
        let last = packer.prefix_rows(prompt).end - 1;
        for response in &group.responses {
            let rows = packer.continuation(prompt, response);
            responses.push((predicting(last, rows), response.clone()));
        }
    }
    finish(packer, responses)
}

/// Every sequence whole, with a random neighbour now and then.
fn whole(groups: &[Group], neighbours: Option<&mut ChaCha8Rng>) -> Laid {
    let mut packer = Packer::new();
    let mut responses = Vec::new();
    let mut rng = neighbours;
    for group in groups {
        for response in &group.responses {
            if let Some(rng) = rng.as_deref_mut() {
                let length = rng::below(rng, 6);
                packer.sequence(&tokens(rng, length));
            }
            let ids = [group.prompt.as_slice(), response].concat();
            let rows = packer.sequence(&ids);
            let first = rows.start + group.prompt.len();
            responses.push((predicting(first - 1, first..rows.end), response.clone()));
        }
    }
    finish(packer, responses)
}

/// The row before each of `rows`, where the first follows `before`.
fn predicting(before: usize, rows: Range<usize>) -> Vec<u32> {
    let rest = rows.start..rows.end - 1;
    std::iter::once(before)
        .chain(rest)
        .map(|r| r as u32)
        .collect()
}

fn finish(packer: Packer, responses: Vec<(Vec<u32>, Vec<u32>)>) -> Laid {
    let batch = packer.finish(&Device::Cpu).unwrap();
    Laid { batch, responses }
}

/// Per response the logits of the rows that predict it, and the gradients of a loss that weighs every
/// response differently.
fn run(model: &CausalLm, params: &Params, laid: &Laid) -> (Vec<Tensor>, Gradients) {
    let hidden = model.hidden(&laid.batch).unwrap();
    let mut logits = Vec::new();
    let mut grads = Gradients::new();
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
    for (rows, response) in &laid.responses {
        let rows = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap();
        let hidden = hidden.index_select(&rows, 0).unwrap();
        logits.push(model.logits(&hidden).unwrap());
        let targets = Tensor::new(response.as_slice(), &Device::Cpu).unwrap();
        let logprobs = model.logprobs(&hidden, &targets, 1.0).unwrap().logprobs;
        // By content, so that it is the same weight wherever the response lies.
        let weight = 1.0 + response.iter().sum::<u32>() as f64 / 50.0;
        loss = (loss + (logprobs.sum_all().unwrap() * weight).unwrap()).unwrap();
    }
    grads.accumulate(params, &loss).unwrap();
    (logits, grads)
}

fn assert_same(what: &str, found: &(Vec<Tensor>, Gradients), expected: &(Vec<Tensor>, Gradients)) {
    for (i, (found, expected)) in found.0.iter().zip(&expected.0).enumerate() {
        assert_close(
            found,
            expected,
            tolerance(what),
            &format!("{what}, logits of response {i}"),
        );
    }
    assert_eq!(found.1.iter().count(), expected.1.iter().count(), "{what}");
    // What a bias on keys adds to the scores of a query cancels but for the rotation, so its gradient
    // is small beside the sums it is the difference of: the model's largest gradient sets a floor.
    let floor = 0.01 * expected.1.iter().map(|(_, g)| largest(g)).fold(0.0, larger);
    for ((name, found), (_, expected)) in found.1.iter().zip(expected.1.iter()) {
        let bound = tolerance(what) * larger(largest(expected), floor);
        let what = format!("{what}, gradient of {name}");
        assert_within(found, expected, bound, &what);
    }
}

#[test]
fn neighbours_sharing_and_order_change_neither_logits_nor_any_gradient() {
    for (name, config) in configs() {
        for seed in 0..4 {
            let rng = &mut rng::stream(seed, name, 0);
            let params = params(&config, seed, DType::F32);
            let model = CausalLm::new(&config, &params).unwrap();
            let groups = groups(rng);

            let packed = run(&model, &params, &whole(&groups, None));
            packed.1.check_all(&params).unwrap();

            // Each sequence alone: the same logits, and gradients that add up to the same.
            let mut alone = (Vec::new(), Gradients::new());
            for group in &groups {
                for response in &group.responses {
                    let one = [Group {
                        prompt: group.prompt.clone(),
                        responses: vec![response.clone()],
                    }];
                    let hidden = model.hidden(&whole(&one, None).batch).unwrap();
                    let start = group.prompt.len() - 1;
                    let rows = hidden.narrow(0, start, response.len()).unwrap();
                    alone.0.push(model.logits(&rows).unwrap());
                    let targets = Tensor::new(response.as_slice(), &Device::Cpu).unwrap();
                    let logprobs = model.logprobs(&rows, &targets, 1.0).unwrap().logprobs;
                    let weight = 1.0 + response.iter().sum::<u32>() as f64 / 50.0;
                    let loss = (logprobs.sum_all().unwrap() * weight).unwrap();
                    alone.1.accumulate(&params, &loss).unwrap();
                }
            }
            assert_same(&format!("{name}, packed against alone"), &packed, &alone);

            let with_neighbours = run(&model, &params, &whole(&groups, Some(rng)));
            assert_same(&format!("{name}, neighbours"), &with_neighbours, &alone);

            let with_prefix = run(&model, &params, &shared(&groups));
            assert_same(&format!("{name}, shared prefix"), &with_prefix, &alone);

            let mut backwards: Vec<_> = groups;
            backwards.reverse();
            for group in &mut backwards {
                group.responses.reverse();
            }
            let mut reversed = run(&model, &params, &shared(&backwards));
            reversed.0.reverse();
            assert_same(&format!("{name}, other order"), &reversed, &alone);
        }
    }
}

#[test]
fn decoding_from_the_cache_equals_the_packed_forward_also_after_compaction() {
    for (name, config) in configs() {
        let rng = &mut rng::stream(5, name, 0);
        let params = params(&config, 5, DType::F32).frozen();
        let model = CausalLm::new(&config, &params).unwrap();
        let (first, second) = (tokens(rng, 6), tokens(rng, 3));
        // Two responses to the first prompt, one to the second.
        let responses: Vec<_> = (0..3).map(|_| tokens(rng, 8)).collect();
        let prompt_of = [&first, &first, &second];

        let mut packer = Packer::new();
        let prompts = [packer.sequence(&first), packer.sequence(&second)];
        let prompts = [prompts[0].clone(), prompts[0].clone(), prompts[1].clone()];
        let mut cache = KvCache::new(config.layers());
        // Something that is dropped by the compaction below.
        let mut stray = Packer::new();
        stray.sequence(&tokens(rng, 4));
        model
            .prefill(&stray.finish(&Device::Cpu).unwrap(), &mut cache)
            .unwrap();
        let offset = cache.len() as u32;
        let hidden = model
            .prefill(&packer.finish(&Device::Cpu).unwrap(), &mut cache)
            .unwrap();
        let mut rows: Vec<Vec<u32>> = prompts
            .iter()
            .map(|rows| rows.clone().map(|r| r as u32 + offset).collect())
            .collect();
        let ends = prompts.clone().map(|rows| rows.end as u32 - 1);
        let ends = Tensor::new(&ends, &Device::Cpu).unwrap();
        // found[r][t]: hidden state that predicts token t of response r.
        let start = hidden.index_select(&ends, 0).unwrap();
        let mut found: Vec<_> = (0..3).map(|r| vec![start.i(r).unwrap()]).collect();
        for t in 0..responses[0].len() - 1 {
            if t == 3 {
                let mut keep: Vec<u32> = rows.concat();
                keep.sort();
                keep.dedup();
                cache.compact(&keep).unwrap();
                let place = |old: &u32| keep.binary_search(old).unwrap() as u32;
                rows = rows
                    .iter()
                    .map(|row| row.iter().map(place).collect())
                    .collect();
            }
            let ids: Vec<_> = responses.iter().map(|r| r[t]).collect();
            let positions: Vec<_> = rows.iter().map(|row| row.len() as u32).collect();
            for (r, row) in rows.iter_mut().enumerate() {
                row.push((cache.len() + r) as u32);
            }
            let step = model
                .decode(
                    &Tensor::new(ids, &Device::Cpu).unwrap(),
                    &Tensor::new(positions, &Device::Cpu).unwrap(),
                    &DecodeRows::new(rows.clone()),
                    &mut cache,
                )
                .unwrap();
            for (r, found) in found.iter_mut().enumerate() {
                found.push(step.i(r).unwrap());
            }
        }
        for ((prompt, response), found) in prompt_of.iter().zip(&responses).zip(found) {
            let mut packer = Packer::new();
            packer.sequence(&[prompt.as_slice(), response].concat());
            let expected = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            let expected = expected
                .narrow(0, prompt.len() - 1, response.len())
                .unwrap();
            assert_close(
                &Tensor::stack(&found, 0).unwrap(),
                &expected,
                tolerance(name),
                name,
            );
        }
    }
}

#[test]
fn a_frozen_view_computes_the_very_same_numbers_and_records_nothing() {
    for (name, config) in configs() {
        let rng = &mut rng::stream(6, name, 0);
        let params = params(&config, 6, DType::F32);
        let laid = shared(&groups(rng));
        let hidden = |params| {
            CausalLm::new(&config, params)
                .unwrap()
                .hidden(&laid.batch)
                .unwrap()
        };
        let (tracked, frozen) = (hidden(&params), hidden(&params.frozen()));
        assert!(tracked.track_op() && !frozen.track_op());
        let bits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bits(tracked), bits(frozen), "{name}");
    }
}

#[test]
fn bf16_computes_close_to_f32_and_gives_every_f32_master_a_gradient() {
    for (name, config) in configs() {
        let rng = &mut rng::stream(7, name, 0);
        let laid = shared(&groups(rng));
        let run = |dtype| {
            let params = params(&config, 7, dtype);
            let model = CausalLm::new(&config, &params).unwrap();
            let (logits, grads) = run(&model, &params, &laid);
            grads.check_all(&params).unwrap();
            assert!(grads.iter().all(|(_, g)| g.dtype() == DType::F32));
            logits
        };
        for (low, full) in run(DType::BF16).iter().zip(run(DType::F32)) {
            // bf16 keeps 8 bits (4e-3), some twenty roundings lie on the way, and weights this large
            // amplify them; a wrong dtype conversion would be off by 1.
            let bound = if tolerance(name) > TOLERANCE {
                0.5
            } else {
                0.15
            };
            assert_close(low, &full, bound, name);
        }
    }
}

#[test]
fn scores_of_a_batch_are_those_of_each_sequence_alone() {
    for (name, config) in configs() {
        let rng = &mut rng::stream(8, name, 0);
        let weights = crate::models::weights(&ScalarModel::schema(&config).unwrap(), 8);
        let params = Params::load(&weights, &Device::Cpu, DType::F32).unwrap();
        let model = ScalarModel::new(&config, &params).unwrap();
        let (prompt, a, b) = (tokens(rng, 5), tokens(rng, 4), tokens(rng, 7));
        let mut packer = Packer::new();
        let prefix = packer.prefix(&prompt);
        let last = [&a, &b].map(|ids| packer.continuation(prefix, ids).end as u32 - 1);
        let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let rows = Tensor::new(&last, &Device::Cpu).unwrap();
        let together = model
            .scores(&hidden.index_select(&rows, 0).unwrap())
            .unwrap();
        let alone = [&a, &b].map(|ids| {
            let mut packer = Packer::new();
            let rows = packer.sequence(&[prompt.as_slice(), ids].concat());
            let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
            model
                .scores(&hidden.narrow(0, rows.end - 1, 1).unwrap())
                .unwrap()
        });
        assert_close(&together, &Tensor::cat(&alone, 0).unwrap(), TOLERANCE, name);
    }
}

#[test]
fn a_sequence_beyond_what_the_model_takes_is_refused_before_anything_is_computed() {
    for (_, config) in configs() {
        let params = params(&config, 9, DType::F32);
        let model = CausalLm::new(&config, &params).unwrap();
        let mut packer = Packer::new();
        let prefix = packer.prefix(&[0; 30]);
        packer.continuation(prefix, &[0; 11]);
        let error = model
            .hidden(&packer.finish(&Device::Cpu).unwrap())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("41 tokens is longer than the 40"),
            "{error}"
        );
    }
}
