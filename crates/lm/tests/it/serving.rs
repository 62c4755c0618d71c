//! What requests that share a model must not notice of each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rlhf_lm::serving::{Event, Limits, Listener, Load, Queue, Refused, Request, serve};
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer, generate};

use crate::generate::setup;

const LIMITS: Limits = Limits {
    rows: 8,
    tokens: 1000,
    waiting: 100,
    longest: 48,
};

/// What was heard by all, in order: who, and what.
type Heard = Arc<Mutex<Vec<(usize, Event)>>>;

struct Ear {
    who: usize,
    heard: Heard,
    gone: Arc<AtomicBool>,
    /// Goes by itself after this many events.
    patience: usize,
}

impl Listener for Ear {
    fn hear(&mut self, event: Event) {
        self.heard.lock().unwrap().push((self.who, event));
        self.patience -= 1;
        if self.patience == 0 {
            self.gone.store(true, Ordering::SeqCst);
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

fn ear(who: usize, heard: &Heard) -> Box<Ear> {
    Box::new(Ear {
        who,
        heard: heard.clone(),
        gone: Arc::default(),
        patience: usize::MAX,
    })
}

fn request(prompt: &[u32], sampling: SamplingConfig, listener: Box<Ear>) -> Request {
    Request {
        prompt: prompt.to_vec(),
        choices: 1,
        sampling,
        likeliest: None,
        listener,
    }
}

/// Different in everything that a request can say.
fn asked() -> Vec<(Vec<u32>, usize, SamplingConfig)> {
    let config = |seed: u64, temperature: f64, max_new_tokens: usize| SamplingConfig {
        seed,
        temperature,
        max_new_tokens,
        ..SamplingConfig::default()
    };
    let prompt = |seed: u32, n: u32| (0..n).map(|i| (seed + 37 * i) % 300).collect::<Vec<u32>>();
    let mut all: Vec<_> = (0..12)
        .map(|i| {
            let temperature = [1.0, 0.0, 0.7][i as usize % 3];
            (
                prompt(i, 1 + i),
                1,
                config(u64::from(i), temperature, 5 + 2 * i as usize),
            )
        })
        .collect();
    all[3].1 = 4;
    all[4].2.top_p = Some(0.5);
    all[5].2.stop = vec!["e".to_owned(), "a".to_owned()];
    all[6].2.min_new_tokens = 10;
    all[8].0 = prompt(8, 40); // reaches the longest sequence
    all[8].2.max_new_tokens = 1000;
    all
}

/// The text of a response by the decoder that knows no queue, up to the first stop string, and whether it was ended.
fn alone(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    choices: usize,
    config: &SamplingConfig,
) -> Vec<(String, bool, usize)> {
    let prompts = [prompt.to_vec()];
    let sampled = generate(model, tokenizer, &prompts, choices, config, &mut |_| {}).unwrap();
    let said = sampled.into_iter().map(|s| {
        let text = tokenizer.decode_response(prompt, &s.tokens).unwrap();
        let end = config
            .stop
            .iter()
            .filter_map(|stop| text.find(stop.as_str()));
        let end = end.min().unwrap_or(text.len());
        (text[..end].to_owned(), s.finished, s.tokens.len())
    });
    said.collect()
}

/// What each answer of `who` was in the end.
fn answers(heard: &Heard, who: usize) -> Vec<(String, bool, usize)> {
    let mut answers: Vec<(String, bool, usize)> = Vec::new();
    for (_, event) in heard.lock().unwrap().iter().filter(|(w, _)| *w == who) {
        match event {
            Event::Text { choice, text, .. } => {
                answers.resize(answers.len().max(choice + 1), Default::default());
                answers[*choice].0.push_str(text);
            }
            Event::End {
                choice,
                said,
                tokens,
            } => {
                answers.resize(answers.len().max(choice + 1), Default::default());
                assert_eq!(answers[*choice].2, 0, "an answer ends once");
                (answers[*choice].1, answers[*choice].2) = (*said, *tokens);
            }
            Event::Failed(what) => panic!("{what}"),
        }
    }
    answers
}

/// Waits until `done`: for what another thread does.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn ended(heard: &Heard) -> usize {
    let heard = heard.lock().unwrap();
    let ends = heard.iter().filter(|(_, e)| matches!(e, Event::End { .. }));
    ends.count()
}

#[test]
fn a_request_is_answered_as_if_it_were_alone_whoever_is_there() {
    let (model, tokenizer) = setup();
    let queue = Queue::new(LIMITS);
    let heard = Heard::default();
    let all = asked();
    let total: usize = all.iter().map(|(_, choices, _)| choices).sum();
    thread::scope(|scope| {
        scope.spawn(|| serve(&model, &tokenizer, &queue));
        for (who, (prompt, choices, sampling)) in all.iter().enumerate() {
            let mut request = request(prompt, sampling.clone(), ear(who, &heard));
            request.choices = *choices;
            queue.submit(request).unwrap();
            if who % 4 == 3 {
                // Others are in the middle of their answers.
                wait_until(|| heard.lock().unwrap().len() > who);
            }
        }
        wait_until(|| ended(&heard) == total);
        wait_until(|| queue.load() == Load::default());
        queue.close();
    });
    for (who, (prompt, choices, sampling)) in all.iter().enumerate() {
        let expected = alone(&model, &tokenizer, prompt, *choices, sampling);
        assert_eq!(answers(&heard, who), expected, "request {who}");
    }
}

#[test]
fn tokens_come_with_their_texts_and_log_probabilities() {
    let (model, tokenizer) = setup();
    let queue = Queue::new(LIMITS);
    let heard = Heard::default();
    // At temperature 1 what a token was drawn with is the model's own log-probability.
    let sampling = SamplingConfig {
        max_new_tokens: 20,
        seed: 5,
        ..SamplingConfig::default()
    };
    let prompt = [1, 2, 3];
    let prompts = [prompt.to_vec()];
    let expected = generate(&model, &tokenizer, &prompts, 1, &sampling, &mut |_| {}).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| serve(&model, &tokenizer, &queue));
        let mut request = request(&prompt, sampling.clone(), ear(0, &heard));
        request.likeliest = Some(3);
        queue.submit(request).unwrap();
        wait_until(|| ended(&heard) == 1);
        queue.close();
    });
    let heard = heard.lock().unwrap();
    let tokens: Vec<_> = heard
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Text { tokens, .. } => Some(tokens),
            _ => None,
        })
        .flatten()
        .collect();
    let spoken = tokenizer.without_end(&expected[0].tokens);
    let ids: Vec<u32> = tokens.iter().map(|token| token.score.token).collect();
    assert_eq!(ids, spoken);
    for (token, logprob) in tokens.iter().zip(&expected[0].logprobs) {
        assert!((token.score.logprob - logprob).abs() < 1e-4);
        assert_eq!(token.score.likeliest.len(), 3);
        assert!(token.score.likeliest[0].1 >= token.score.logprob);
        assert_eq!(
            token.text,
            tokenizer.decode_with_special(&[token.score.token]).unwrap()
        );
    }
}

#[test]
fn who_has_gone_makes_room_at_once() {
    let (model, tokenizer) = setup();
    let queue = Queue::new(Limits { rows: 2, ..LIMITS });
    let heard = Heard::default();
    let long = SamplingConfig {
        max_new_tokens: 40,
        min_new_tokens: 40,
        ..SamplingConfig::default()
    };
    thread::scope(|scope| {
        for who in 0..10 {
            let mut ear = ear(who, &heard);
            ear.patience = 1;
            queue.submit(request(&[1], long.clone(), ear)).unwrap();
        }
        // One that is gone before its turn is never answered.
        let never = ear(10, &heard);
        never.gone.store(true, Ordering::SeqCst);
        queue.submit(request(&[1], long.clone(), never)).unwrap();
        queue
            .submit(request(&[1], long.clone(), ear(11, &heard)))
            .unwrap();
        scope.spawn(|| serve(&model, &tokenizer, &queue));
        wait_until(|| ended(&heard) == 1 && queue.load() == Load::default());
        queue.close();
    });
    let heard = heard.lock().unwrap();
    for who in 0..10 {
        assert_eq!(heard.iter().filter(|(w, _)| *w == who).count(), 1);
    }
    assert!(!heard.iter().any(|(who, _)| *who == 10));
    assert!(matches!(
        heard.last(),
        Some((11, Event::End { tokens: 40, .. }))
    ));
}

#[test]
fn no_more_is_answered_at_once_than_there_is_room_for() {
    let (model, tokenizer) = setup();
    let short = SamplingConfig {
        max_new_tokens: 9,
        min_new_tokens: 9,
        ..SamplingConfig::default()
    };
    // Of rows there is room for three; of tokens for two, and one request is larger than that.
    for (limits, most) in [
        (Limits { rows: 3, ..LIMITS }, 3),
        (
            Limits {
                tokens: 20,
                ..LIMITS
            },
            2,
        ),
        (
            Limits {
                tokens: 1,
                ..LIMITS
            },
            1,
        ),
    ] {
        let queue = Queue::new(limits);
        let heard = Heard::default();
        for who in 0..7 {
            let request = request(&[1], short.clone(), ear(who, &heard));
            queue.submit(request).unwrap();
        }
        thread::scope(|scope| {
            scope.spawn(|| serve(&model, &tokenizer, &queue));
            wait_until(|| ended(&heard) == 7);
            queue.close();
        });
        let mut open: Vec<usize> = Vec::new();
        let mut peak = 0;
        for (who, event) in heard.lock().unwrap().iter() {
            match event {
                Event::End { .. } => open.retain(|other| other != who),
                _ if !open.contains(who) => open.push(*who),
                _ => {}
            }
            peak = peak.max(open.len());
        }
        assert_eq!(peak, most);
    }
}

#[test]
fn what_cannot_be_answered_is_refused_before_it_waits() {
    let queue = Queue::new(Limits {
        waiting: 2,
        ..LIMITS
    });
    let heard = Heard::default();
    let ask = |prompt: &[u32], who: usize| {
        queue.submit(request(prompt, SamplingConfig::default(), ear(who, &heard)))
    };
    assert!(matches!(ask(&[], 0), Err(Refused::Invalid(_))));
    assert!(matches!(ask(&[1; 48], 0), Err(Refused::Invalid(_))));
    let hot = SamplingConfig {
        temperature: -1.0,
        ..SamplingConfig::default()
    };
    let hot = queue.submit(request(&[1], hot, ear(0, &heard)));
    assert!(matches!(hot, Err(Refused::Invalid(_))));
    let mut many = request(&[1], SamplingConfig::default(), ear(0, &heard));
    many.choices = 9;
    assert!(matches!(queue.submit(many), Err(Refused::Invalid(_))));

    let gone = ear(1, &heard);
    let leave = gone.gone.clone();
    queue
        .submit(request(&[1], SamplingConfig::default(), gone))
        .unwrap();
    ask(&[1], 2).unwrap();
    assert!(matches!(ask(&[1], 3), Err(Refused::Full)));
    leave.store(true, Ordering::SeqCst);
    ask(&[1], 4).unwrap();
    assert_eq!(queue.load().waiting, 2);
    queue.close();
    assert!(matches!(ask(&[1], 5), Err(Refused::Closed)));
    assert_eq!(queue.load(), Load::default());
}
