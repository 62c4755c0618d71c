//! Guesses of what comes next must not change what is said.

use candle_core::{DType, Device};
use rlhf_lm::{CausalLm, Sampled, SamplingConfig, Tokenizer, generate, stream_response};

use crate::generate::setup;
use crate::models::{self, params};
use crate::text::trained;

/// Of repetitions, and of none.
fn prompts(vocabulary: u32) -> Vec<Vec<u32>> {
    let cycle = |period: u32, n: u32| (0..n).map(|i| (3 + i % period) % vocabulary).collect();
    vec![cycle(3, 9), cycle(1, 4), cycle(20, 7), cycle(5, 11)]
}

fn sample(
    (model, tokenizer): &(CausalLm, Tokenizer),
    samples: usize,
    config: &SamplingConfig,
) -> Vec<Sampled> {
    let prompts = prompts(model.config().vocab_size() as u32);
    generate(model, tokenizer, &prompts, samples, config, &mut |_| {}).unwrap()
}

/// Whether the products of few rows are the same bits whatever their number: where they are our own.
fn is_exact() -> bool {
    let arithmetic = rlhf_ops::device::arithmetic(&Device::Cpu);
    ["AVX2", "AVX-512", "NEON"]
        .iter()
        .any(|name| arithmetic.ends_with(name))
}

/// The same tokens and ends, and log-probabilities: to the bit where `exact`, else as far as rounding goes.
fn assert_same(guessed: &[Sampled], plain: &[Sampled], exact: bool, what: &str) {
    assert_eq!(guessed.len(), plain.len());
    for (a, b) in guessed.iter().zip(plain) {
        assert_eq!(
            (a.prompt, a.sample, &a.tokens, a.finished),
            (b.prompt, b.sample, &b.tokens, b.finished),
            "{what}"
        );
        match exact {
            true => assert_eq!(a.logprobs, b.logprobs, "{what}"),
            false => {
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4;
                assert!(a.logprobs.iter().zip(&b.logprobs).all(close), "{what}");
            }
        }
    }
}

fn guesses(rows: &[Sampled]) -> (usize, usize) {
    let sum = |count: fn(&Sampled) -> usize| rows.iter().map(count).sum();
    (sum(|row| row.guessed.tokens), sum(|row| row.guessed.hits))
}

/// The oracle is the sampler without guesses: greedy and not, with filters, penalties, stop strings, a shortest and a longest length, and more or
/// fewer rows than are decoded side by side.
#[test]
fn guesses_change_neither_tokens_nor_log_probabilities() {
    let both = setup();
    let free = SamplingConfig {
        max_new_tokens: 34,
        ..SamplingConfig::default()
    };
    let ways = [
        SamplingConfig {
            temperature: 0.0,
            ..free.clone()
        },
        SamplingConfig {
            temperature: 0.3,
            min_new_tokens: 30,
            ..free.clone()
        },
        SamplingConfig {
            temperature: 0.2,
            top_k: Some(5),
            repetition_penalty: 1.05,
            ..free.clone()
        },
        SamplingConfig {
            temperature: 0.3,
            top_p: Some(0.8),
            stop: vec!["a".into(), "e ".into(), "The".into()],
            ..free.clone()
        },
        free,
    ];
    let (mut guessed, mut hits) = (0, 0);
    for (i, config) in ways.into_iter().enumerate() {
        let plain = sample(&both, 2, &config);
        assert_eq!(guesses(&plain), (0, 0));
        for (max_rows, lookup) in [(64, 1), (64, 14), (3, 4), (1, 14)] {
            let rows = sample(
                &both,
                2,
                &SamplingConfig {
                    lookup,
                    max_rows,
                    ..config.clone()
                },
            );
            let what = format!("way {i}, {max_rows} rows, lookup {lookup}");
            // With fewer rows others are computed side by side from the start, guesses or not.
            assert_same(&rows, &plain, is_exact() && max_rows == 64, &what);
            let (tokens, right) = guesses(&rows);
            assert!(right <= tokens);
            (guessed, hits) = (guessed + tokens, hits + right);
        }
    }
    assert!(hits > 200 && guessed > hits, "{hits} of {guessed}");
}

/// Windows, soft caps, convolutions, layers that read the keys of earlier ones, experts.
#[test]
fn guesses_change_nothing_in_any_family_or_are_refused() {
    let config = SamplingConfig {
        temperature: 0.4,
        max_new_tokens: 25,
        ..SamplingConfig::default()
    };
    let with = SamplingConfig {
        lookup: 6,
        ..config.clone()
    };
    let mut refused = 0;
    let (mut guessed, mut hits) = (0, 0);
    for (name, of_model) in models::configs() {
        let model = CausalLm::new(&of_model, &params(&of_model, 5, DType::F32)).unwrap();
        let both = (model, trained(300, &["<|endoftext|>"]));
        if of_model.state_width() > 0 {
            let prompts = prompts(of_model.vocab_size() as u32);
            let error = generate(&both.0, &both.1, &prompts, 1, &with, &mut |_| {});
            let error = error.unwrap_err().to_string();
            assert!(error.contains("recurrent layers"), "{error}");
            refused += 1;
            continue;
        }
        let rows = sample(&both, 2, &with);
        assert_same(&rows, &sample(&both, 2, &config), false, name);
        let (tokens, right) = guesses(&rows);
        (guessed, hits) = (guessed + tokens, hits + right);
    }
    assert!(refused > 0);
    assert!(hits > 100 && guessed > hits, "{hits} of {guessed}");
}

#[test]
fn a_streamed_response_with_guesses_is_the_same_and_every_token_is_heard_once() {
    let (model, tokenizer) = setup();
    let config = SamplingConfig {
        temperature: 0.0,
        max_new_tokens: 30,
        ..SamplingConfig::default()
    };
    let with = SamplingConfig {
        lookup: 14,
        ..config.clone()
    };
    for prompt in prompts(300) {
        let mut heard = Vec::new();
        let mut hear = |token| {
            heard.push(token);
            Ok(true)
        };
        let guessed = stream_response(&model, &tokenizer, &prompt, &with, &mut hear).unwrap();
        let mut ignore = |_| Ok(true);
        let plain = stream_response(&model, &tokenizer, &prompt, &config, &mut ignore).unwrap();
        assert_eq!(guessed.tokens, plain.tokens);
        assert_eq!(heard, guessed.tokens);
    }
}
