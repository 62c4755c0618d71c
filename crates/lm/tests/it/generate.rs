//! What sampling many rows side by side must not change.

use candle_core::{DType, Device, Tensor};
use rlhf_lm::{
    CausalLm, ModelConfig, Packer, Sampled, SamplingConfig, Tokenizer, generate, stream_response,
};
use serde_json::json;

use crate::models::{self, params};
use crate::text::trained;

const VOCAB: usize = 300;
const LENGTH: usize = 48;

pub(crate) fn setup() -> (CausalLm, Tokenizer) {
    let config = ModelConfig::from_json(
        json!({"model_type": "gpt2", "vocab_size": VOCAB, "n_positions": LENGTH,
        "n_embd": 16, "n_layer": 2, "n_head": 2}),
    )
    .unwrap();
    let model = CausalLm::new(&config, &params(&config, 5, DType::F32)).unwrap();
    (model, trained(VOCAB, &["<|endoftext|>"]))
}

fn prompts() -> Vec<Vec<u32>> {
    let prompt = |seed: u32, n: u32| (0..n).map(|i| (seed + 37 * i) % VOCAB as u32).collect();
    vec![
        prompt(1, 3),
        prompt(2, 1),
        prompt(3, 11),
        prompt(1, 3),
        prompt(5, 20),
    ]
}

fn sample(samples: usize, config: &SamplingConfig) -> Vec<Sampled> {
    let (model, tokenizer) = setup();
    generate(&model, &tokenizer, &prompts(), samples, config, &mut |_| {}).unwrap()
}

/// The logits after `ids`, by a forward pass that knows no cache.
fn logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    let mut packer = Packer::new();
    packer.sequence(ids);
    let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
    let last = hidden.narrow(0, ids.len() - 1, 1).unwrap();
    model
        .logits(&last)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

#[test]
fn a_response_does_not_depend_on_the_rows_beside_it() {
    let config = SamplingConfig {
        max_new_tokens: 20,
        seed: 3,
        ..Default::default()
    };
    let together = sample(3, &config);
    assert_eq!(together.len(), 15);
    for max_rows in [1, 2, 7, 15] {
        let apart = sample(
            3,
            &SamplingConfig {
                max_rows,
                ..config.clone()
            },
        );
        for (a, b) in together.iter().zip(&apart) {
            assert_eq!(
                (a.prompt, a.sample, &a.tokens, a.finished),
                (b.prompt, b.sample, &b.tokens, b.finished)
            );
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
            assert!(
                a.logprobs.iter().zip(&b.logprobs).all(close),
                "{max_rows} rows"
            );
        }
    }
    // Fewer samples of each prompt are the first of the many.
    for one in sample(1, &config) {
        assert_eq!(one.tokens, together[3 * one.prompt].tokens);
    }
}

#[test]
fn rows_differ_by_prompt_index_sample_and_seed() {
    let config = SamplingConfig {
        max_new_tokens: 20,
        min_new_tokens: 20,
        ..Default::default()
    };
    let sampled = sample(2, &config);
    let of = |prompt: usize, sample: usize| &sampled[2 * prompt + sample].tokens;
    assert_ne!(of(0, 0), of(0, 1));
    assert_ne!(of(0, 0), of(3, 0)); // the same prompt twice
    assert_ne!(
        of(0, 0),
        &sample(2, &SamplingConfig { seed: 1, ..config })[0].tokens
    );
}

#[test]
fn logprobs_are_those_of_a_forward_pass_without_a_cache() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig {
        temperature: 0.7,
        top_k: Some(20),
        max_new_tokens: 15,
        max_rows: 4,
        ..Default::default()
    };
    let prompts = prompts();
    for row in generate(&model, &tokenizer, &prompts, 2, &config, &mut |_| {}).unwrap() {
        let mut packer = Packer::new();
        packer.sequence(&[prompts[row.prompt].clone(), row.tokens.clone()].concat());
        let hidden = model.hidden(&packer.finish(&Device::Cpu).unwrap()).unwrap();
        let hidden = hidden
            .narrow(0, prompts[row.prompt].len() - 1, row.tokens.len())
            .unwrap();
        let targets = Tensor::new(&row.tokens[..], &Device::Cpu).unwrap();
        let expected: Vec<f32> = model
            .logprobs(&hidden, &targets, 0.7)
            .unwrap()
            .logprobs
            .to_vec1()
            .unwrap();
        for (found, expected) in row.logprobs.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }
}

#[test]
fn greedy_rows_take_the_argmax_of_a_forward_pass_without_a_cache() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig {
        temperature: 0.0,
        max_new_tokens: 12,
        max_rows: 2,
        ..Default::default()
    };
    for row in generate(&model, &tokenizer, &prompts(), 1, &config, &mut |_| {}).unwrap() {
        let mut ids = prompts()[row.prompt].clone();
        for token in row.tokens {
            let z = logits(&model, &ids);
            let best = (0..VOCAB).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap();
            assert_eq!(token as usize, best);
            ids.push(token);
        }
    }
}

#[test]
fn a_row_ends_at_its_end_token_its_limit_or_the_longest_sequence() {
    let config = SamplingConfig {
        max_new_tokens: 40,
        temperature: 1.5,
        ..Default::default()
    };
    let rows = sample(20, &config);
    for row in &rows {
        let limit = 40.min(LENGTH - prompts()[row.prompt].len());
        let end = row.tokens.iter().position(|t| *t == 0);
        match end {
            Some(at) => assert_eq!((at + 1, row.finished), (row.tokens.len(), true)),
            None => assert_eq!((row.tokens.len(), row.finished), (limit, false)),
        }
        assert_eq!(row.logprobs.len(), row.tokens.len());
    }
    assert!(rows.iter().any(|row| row.finished) && rows.iter().any(|row| !row.finished));
}

#[test]
fn no_row_ends_before_min_new_tokens() {
    let config = SamplingConfig {
        max_new_tokens: 20,
        min_new_tokens: 9,
        temperature: 2.0,
        ..Default::default()
    };
    let rows = sample(20, &config);
    assert!(
        rows.iter()
            .all(|row| row.tokens.len() >= 9 && !row.tokens[..9].contains(&0))
    );
}

#[test]
fn a_row_ends_with_the_token_that_completes_a_stop_string() {
    let (_, tokenizer) = setup();
    let free = SamplingConfig {
        max_new_tokens: 27,
        min_new_tokens: 27,
        ..Default::default()
    };
    let stop = vec!["a".to_owned(), "The fox".to_owned(), "e ".to_owned()];
    let stopped = sample(
        10,
        &SamplingConfig {
            stop: stop.clone(),
            ..free.clone()
        },
    );
    let mut cut = 0;
    for (full, row) in sample(10, &free).iter().zip(&stopped) {
        // By brute force: the shortest beginning of the free response whose text holds a stop
        // string.
        let holds = |n: &usize| {
            let text = tokenizer.decode_with_special(&full.tokens[..*n]).unwrap();
            stop.iter().any(|s| text.contains(s))
        };
        let shortest = (1..=full.tokens.len()).find(holds);
        assert_eq!(
            row.tokens,
            full.tokens[..shortest.unwrap_or(full.tokens.len())]
        );
        assert_eq!(row.finished, shortest.is_some());
        cut += usize::from(shortest.is_some());
    }
    assert!(cut > 5 && cut < 50, "{cut}");
}

#[test]
fn progress_grows_to_the_number_of_responses() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig {
        max_new_tokens: 8,
        max_rows: 3,
        ..Default::default()
    };
    let mut seen = Vec::new();
    generate(&model, &tokenizer, &prompts(), 2, &config, &mut |n| {
        seen.push(n)
    })
    .unwrap();
    assert!(seen.windows(2).all(|w| w[0] < w[1]));
    assert_eq!(seen.last(), Some(&10));
}

#[test]
fn a_streamed_response_is_the_sampled_one_token_by_token_and_ends_when_told_to() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig {
        max_new_tokens: 12,
        ..SamplingConfig::default()
    };
    for prompt in prompts() {
        let whole = generate(
            &model,
            &tokenizer,
            std::slice::from_ref(&prompt),
            1,
            &config,
            &mut |_| {},
        )
        .unwrap();
        let mut heard = Vec::new();
        let streamed = stream_response(&model, &tokenizer, &prompt, &config, &mut |token| {
            heard.push(token);
            Ok(true)
        })
        .unwrap();
        assert_eq!(streamed, whole[0]);
        assert_eq!(heard, streamed.tokens);

        let cut =
            stream_response(&model, &tokenizer, &prompt, &config, &mut |_| Ok(false)).unwrap();
        assert!(cut.tokens.len() <= 2 && whole[0].tokens.starts_with(&cut.tokens));
    }
}

#[test]
fn a_prompt_without_room_for_an_answer_is_an_error_that_names_it() {
    let (model, tokenizer) = setup();
    for bad in [vec![], vec![1; LENGTH]] {
        let error = generate(
            &model,
            &tokenizer,
            &[vec![1], bad],
            1,
            &SamplingConfig::default(),
            &mut |_| {},
        )
        .unwrap_err();
        assert!(error.to_string().starts_with("prompt 1 has"), "{error}");
    }
}

#[test]
fn nothing_asked_is_nothing_done() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig::default();
    assert!(
        generate(&model, &tokenizer, &[], 3, &config, &mut |_| {})
            .unwrap()
            .is_empty()
    );
    assert!(
        generate(&model, &tokenizer, &[vec![1]], 0, &config, &mut |_| {})
            .unwrap()
            .is_empty()
    );
}

/// Oracle: the model in f32, whose log-probabilities of what was sampled in half precision are those of its own forward pass. A
/// log-probability moves with the logits, which keep 8 bits (bf16) or 11 (f16).
#[test]
fn what_is_sampled_in_half_precision_is_as_likely_in_f32() {
    let config = SamplingConfig {
        max_new_tokens: 15,
        min_new_tokens: 15,
        max_rows: 4,
        ..Default::default()
    };
    let prompts: Vec<Vec<u32>> = vec![vec![3, 1, 4], vec![15], vec![9, 2, 6, 5, 3, 5]];
    let tokenizer = trained(VOCAB, &["<|endoftext|>"]);
    for (name, model_config) in models::configs() {
        let wide = CausalLm::new(&model_config, &params(&model_config, 5, DType::F32)).unwrap();
        for (dtype, tolerance) in [(DType::BF16, 0.1), (DType::F16, 0.0125)] {
            let half = CausalLm::new(&model_config, &params(&model_config, 5, dtype)).unwrap();
            let rows = generate(&half, &tokenizer, &prompts, 2, &config, &mut |_| {}).unwrap();
            assert_eq!(rows.len(), 6);
            let errors: Vec<f32> = rows
                .iter()
                .flat_map(|row| {
                    let prompt = &prompts[row.prompt];
                    let all = [prompt.clone(), row.tokens.clone()].concat();
                    let logprob = |(i, (&token, &ours)): (usize, (&u32, &f32))| {
                        let z = logits(&wide, &all[..prompt.len() + i]);
                        let total: f32 = z.iter().map(|z| z.exp()).sum();
                        (z[token as usize] - total.ln() - ours).abs()
                    };
                    row.tokens
                        .iter()
                        .zip(&row.logprobs)
                        .enumerate()
                        .map(logprob)
                        .collect::<Vec<_>>()
                })
                .collect();
            let mean = errors.iter().sum::<f32>() / errors.len() as f32;
            assert!(
                mean <= tolerance,
                "{name} in {dtype:?}: {mean} nats apart on average"
            );
        }
    }
}
