//! Responses from a model: many rows side by side over one cache of keys and values.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use candle_core::Tensor;
use rlhf_base::rng::stream;

use crate::decoding::{Computed, Decoder, End, Manner, Row, TOKENS_A_READ};
use crate::{CausalLm, Error, Result, SamplingConfig, Tokenizer};

/// A sampled response.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Which of the prompts it answers.
    pub prompt: usize,
    /// Which of the samples of that prompt it is.
    pub sample: usize,
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Whether an EOS token or a stop string ended it, rather than the limit.
    pub finished: bool,
    /// log p of each token under the model at the sampling temperature, over the full vocabulary.
    pub logprobs: Vec<f32>,
    /// Of tokens guessed by [`lookup`](SamplingConfig::lookup), how many there were and how many were drawn.
    pub guessed: Guessed,
}

/// How often guesses were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guessed {
    /// Tokens guessed.
    pub tokens: usize,
    /// Those that were drawn.
    pub hits: usize,
}

/// Samples `samples_per_prompt` responses to each prompt, in order of prompt, then sample.
///
/// At most `config.max_rows` rows are decoded side by side: finished rows leave, waiting ones
/// enter. Equal prompts are computed once, whatever the number of samples. A row draws from the
/// stream (seed, "sample", prompt ‖ sample), one number a token, so a response does not depend on
/// what is sampled beside it. A row ends at an EOS token, at the token that completes a stop
/// string, after `max_new_tokens`, or where the model's longest sequence is reached.
///
/// `progress` is told the number of finished responses each time it grows.
pub fn generate(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    samples_per_prompt: usize,
    config: &SamplingConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Sampled>> {
    let of_prompt = |prompt| (0..samples_per_prompt).map(move |sample| (prompt, sample));
    let rows: Vec<(usize, usize)> = (0..prompts.len()).flat_map(of_prompt).collect();
    generate_rows(model, tokenizer, prompts, &rows, config, progress)
}

/// Those of the responses of [`generate`] that `rows` names, each a prompt and a sample, in the order of both: the very same ones.
pub fn generate_rows(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    rows: &[(usize, usize)],
    config: &SamplingConfig,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Sampled>> {
    config.check()?;
    let mut batch = Batch::new(model, tokenizer, prompts, rows, config)?;
    let total = batch.waiting.len();
    let mut finished: Vec<Sampled> = Vec::with_capacity(total);
    while finished.len() < total {
        let before = finished.len();
        batch.round(TOKENS_A_READ, &mut finished)?;
        if finished.len() > before {
            progress(finished.len());
        }
    }
    finished.sort_by_key(|s| (s.prompt, s.sample));
    Ok(finished)
}

/// Samples one response as [`generate`] does, and hands each token to `heard` as soon as it is drawn. When `heard` returns
/// `false` the response ends, unfinished.
pub fn stream_response(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    config: &SamplingConfig,
    heard: &mut dyn FnMut(u32) -> Result<bool>,
) -> Result<Sampled> {
    config.check()?;
    let prompts = [prompt.to_vec()];
    let mut batch = Batch::new(model, tokenizer, &prompts, &[(0, 0)], config)?;
    let mut finished = Vec::with_capacity(1);
    let mut told = 0;
    loop {
        batch.round(1, &mut finished)?;
        let spoken = match (finished.first(), batch.decoder.active.first()) {
            (Some(response), _) => &response.tokens,
            (None, Some(row)) => row.response(),
            (None, None) => continue,
        };
        let mut goes_on = true;
        for &token in &spoken[told..] {
            goes_on &= heard(token)?;
        }
        told = spoken.len();
        if let Some(response) = finished.pop() {
            return Ok(response);
        }
        if !goes_on && let Some(row) = batch.decoder.active.pop() {
            return Ok(sampled((row, End::Limit)));
        }
    }
}

/// A distinct prompt.
struct Prompt<'a> {
    ids: &'a [u32],
    /// `None` before it is computed, and once its last row has started.
    computed: Option<Computed>,
    /// Rows of it that have not started.
    to_start: usize,
    /// The most tokens a response can have.
    limit: usize,
}

fn sampled((row, end): (Row, End)) -> Sampled {
    Sampled {
        prompt: row.index.0,
        sample: row.index.1,
        tokens: row.response().to_vec(),
        finished: end == End::Said,
        guessed: Guessed {
            tokens: row.guessed,
            hits: row.hits,
        },
        logprobs: row.logprobs,
    }
}

struct Batch<'a> {
    decoder: Decoder<'a>,
    manner: Arc<Manner>,
    prompts: Vec<Prompt<'a>>,
    /// (distinct prompt, prompt, sample) of rows that have not started.
    waiting: VecDeque<(usize, usize, usize)>,
}

impl<'a> Batch<'a> {
    fn new(
        model: &'a CausalLm,
        tokenizer: &'a Tokenizer,
        prompts: &'a [Vec<u32>],
        rows: &[(usize, usize)],
        config: &SamplingConfig,
    ) -> Result<Self> {
        let longest = model.config().max_length();
        if config.lookup > 0 && model.config().state_width() > 0 {
            return Err(Error::Invalid(format!(
                "lookup is {}, and {} has recurrent layers, which cannot take back a guess: set it to 0",
                config.lookup,
                model.config().model_type()
            )));
        }
        let mut distinct: Vec<Prompt<'a>> = Vec::new();
        let mut index_of: HashMap<&[u32], usize> = HashMap::new();
        let mut places = Vec::with_capacity(prompts.len());
        for (i, ids) in prompts.iter().enumerate() {
            if ids.is_empty() || ids.len() >= longest {
                return Err(Error::Invalid(format!(
                    "prompt {i} has {} tokens; the model takes sequences of 1 to {longest} and needs room for an answer",
                    ids.len()
                )));
            }
            let at = *index_of.entry(ids).or_insert_with(|| {
                distinct.push(Prompt {
                    ids,
                    computed: None,
                    to_start: 0,
                    limit: config.max_new_tokens.min(longest - ids.len()),
                });
                distinct.len() - 1
            });
            places.push(at);
        }
        let mut waiting = VecDeque::with_capacity(rows.len());
        for &(prompt, sample) in rows {
            distinct[places[prompt]].to_start += 1;
            waiting.push_back((places[prompt], prompt, sample));
        }
        Ok(Self {
            decoder: Decoder::new(model, tokenizer),
            manner: Manner::new(config.clone(), None),
            prompts: distinct,
            waiting,
        })
    }

    /// Lets waiting rows start and draws the next token of every row, on a device up to `most` of them; those that end are `finished`.
    fn round(&mut self, most: usize, finished: &mut Vec<Sampled>) -> Result<()> {
        let mut ended = Vec::new();
        self.admit(&mut ended)?;
        self.decoder.step(most, &mut ended)?;
        finished.extend(ended.into_iter().map(sampled));
        let held = self.prompts.iter_mut().filter_map(|p| p.computed.as_mut());
        let mut held: Vec<&mut Vec<u32>> = held.map(|c| &mut c.places).collect();
        self.decoder.compact(&mut held)
    }

    /// Takes rows from the queue while there is room, computes the prompts they are the first to need, and draws their first tokens.
    fn admit(&mut self, ended: &mut Vec<(Row, End)>) -> Result<()> {
        let most = self.manner.config.max_rows;
        let room = most - self.decoder.active.len();
        // A few at a time: several prompts side by side take little longer than one.
        if room < most.div_ceil(8).min(self.waiting.len()) {
            return Ok(());
        }
        let entering: Vec<_> = self.waiting.drain(..room.min(self.waiting.len())).collect();
        let mut fresh: Vec<usize> = Vec::new();
        for (prompt, _, _) in &entering {
            if self.prompts[*prompt].computed.is_none() && !fresh.contains(prompt) {
                fresh.push(*prompt);
            }
        }
        let ids: Vec<&[u32]> = fresh.iter().map(|&i| self.prompts[i].ids).collect();
        for (i, computed) in fresh.into_iter().zip(self.decoder.prefill(&ids)?) {
            self.prompts[i].computed = Some(computed);
        }
        let (mut rows, mut logits): (Vec<Row>, Vec<&Tensor>) = (Vec::new(), Vec::new());
        for &(prompt, index, sample) in &entering {
            let from = &self.prompts[prompt];
            // Computed just now or by an earlier row, and kept until its last row has started.
            let Some(computed) = &from.computed else {
                continue;
            };
            // Indices are far below 2^32: each has a response in memory.
            let key = (index as u64) << 32 | sample as u64;
            let rng = stream(self.manner.config.seed, "sample", key);
            let (places, manner) = (&computed.places, self.manner.clone());
            let index = (index, sample);
            rows.push(Row::new(index, from.ids, places, from.limit, rng, manner));
            logits.push(&computed.logits);
        }
        self.decoder.start(rows, &logits, ended)?;
        for (prompt, _, _) in entering {
            let prompt = &mut self.prompts[prompt];
            prompt.to_start -= 1;
            if prompt.to_start == 0 {
                prompt.computed = None; // its rows hold their own places
            }
        }
        Ok(())
    }
}
