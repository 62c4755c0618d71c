//! Responses from a model: many rows side by side over one cache of keys and values.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rlhf_ops::DecodeRows;

use crate::{CausalLm, Draw, Error, KvCache, Packer, Result, Sampler, SamplingConfig, Tokenizer};
use rlhf_base::rng::{stream, uniform};

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
    config.check()?;
    let mut batch = Batch::new(model, tokenizer, prompts, samples_per_prompt, config)?;
    let total = batch.waiting.len();
    let mut finished: Vec<Sampled> = Vec::with_capacity(total);
    while finished.len() < total {
        let before = finished.len();
        batch.round(&mut finished)?;
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
    let mut batch = Batch::new(model, tokenizer, &prompts, 1, config)?;
    let mut finished = Vec::with_capacity(1);
    let mut told = 0;
    loop {
        batch.round(&mut finished)?;
        let spoken = match (finished.first(), batch.active.first()) {
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
        if !goes_on && let Some(row) = batch.active.pop() {
            return Ok(row.sampled(End::Limit));
        }
    }
}

/// Why a row ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Said,
    Limit,
}

/// A distinct prompt.
struct Prompt<'a> {
    ids: &'a [u32],
    /// Where its tokens are in the cache; empty before it is computed.
    places: Vec<u32>,
    /// Logits after its last token, until its last row has started.
    logits: Vec<f32>,
    /// Rows of it that have not started.
    to_start: usize,
    /// The most tokens a response can have.
    limit: usize,
}

/// A response in the making.
struct Row {
    /// Which distinct prompt it answers.
    prompt: usize,
    /// As in [`Sampled`].
    index: (usize, usize),
    /// Where prompt and response are in the cache; the newest token is not there yet.
    places: Vec<u32>,
    /// Prompt and response.
    seen: Vec<u32>,
    prompt_length: usize,
    logprobs: Vec<f32>,
    rng: ChaCha8Rng,
}

impl Row {
    fn response(&self) -> &[u32] {
        &self.seen[self.prompt_length..]
    }

    fn sampled(self, end: End) -> Sampled {
        Sampled {
            prompt: self.index.0,
            sample: self.index.1,
            tokens: self.response().to_vec(),
            finished: end == End::Said,
            logprobs: self.logprobs,
        }
    }
}

struct Batch<'a> {
    model: &'a CausalLm,
    tokenizer: &'a Tokenizer,
    config: &'a SamplingConfig,
    device: Device,
    cache: KvCache,
    prompts: Vec<Prompt<'a>>,
    /// (distinct prompt, prompt, sample) of rows that have not started.
    waiting: VecDeque<(usize, usize, usize)>,
    active: Vec<Row>,
    /// As many as drew at once so far: one a thread.
    samplers: Mutex<Vec<Sampler<'a>>>,
    /// A stop string that ends in the newest token begins at most this many tokens before the end.
    stop_window: usize,
}

impl<'a> Batch<'a> {
    fn new(
        model: &'a CausalLm,
        tokenizer: &'a Tokenizer,
        prompts: &'a [Vec<u32>],
        samples_per_prompt: usize,
        config: &'a SamplingConfig,
    ) -> Result<Self> {
        let longest = model.config().max_length();
        let mut distinct: Vec<Prompt<'a>> = Vec::new();
        let mut index_of: HashMap<&[u32], usize> = HashMap::new();
        let mut waiting = VecDeque::new();
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
                    places: Vec::new(),
                    logits: Vec::new(),
                    to_start: 0,
                    limit: config.max_new_tokens.min(longest - ids.len()),
                });
                distinct.len() - 1
            });
            distinct[at].to_start += samples_per_prompt;
            waiting.extend((0..samples_per_prompt).map(|sample| (at, i, sample)));
        }
        Ok(Self {
            model,
            tokenizer,
            config,
            device: model.vocab_weight().device().clone(),
            cache: KvCache::new(model.config().layers()),
            prompts: distinct,
            waiting,
            active: Vec::new(),
            samplers: Mutex::default(),
            // Every token but a special one is at least a byte; the rest is for a character cut at
            // the window's start.
            stop_window: config
                .stop
                .iter()
                .map(String::len)
                .max()
                .map_or(0, |n| n + 4),
        })
    }

    /// Lets waiting rows start and draws the next token of every row; those that end with it are `finished`.
    fn round(&mut self, finished: &mut Vec<Sampled>) -> Result<()> {
        let starting = self.admit()?;
        self.advance(starting, None, finished)?;
        self.forget_started_prompts();
        if !self.active.is_empty() {
            let logits = self.decode()?;
            let rows = std::mem::take(&mut self.active);
            self.advance(rows, Some(&logits), finished)?;
        }
        self.compact()
    }

    /// Takes rows from the queue while there is room, and computes the prompts they are the first
    /// to need.
    fn admit(&mut self) -> Result<Vec<Row>> {
        let room = self.config.max_rows - self.active.len();
        // A few at a time: several prompts side by side take little longer than one.
        if room < self.config.max_rows.div_ceil(8).min(self.waiting.len()) {
            return Ok(Vec::new());
        }
        let entering: Vec<_> = self.waiting.drain(..room.min(self.waiting.len())).collect();
        let mut fresh: Vec<usize> = Vec::new();
        for (prompt, _, _) in &entering {
            if self.prompts[*prompt].places.is_empty() && !fresh.contains(prompt) {
                fresh.push(*prompt);
            }
        }
        self.prefill(&fresh)?;
        let start = |(prompt, index, sample): (usize, usize, usize)| {
            let from = &mut self.prompts[prompt];
            from.to_start -= 1;
            // Indices are far below 2^32: each has a response in memory.
            let key = (index as u64) << 32 | sample as u64;
            Row {
                prompt,
                index: (index, sample),
                places: from.places.clone(),
                seen: from.ids.to_vec(),
                prompt_length: from.ids.len(),
                logprobs: Vec::new(),
                rng: stream(self.config.seed, "sample", key),
            }
        };
        Ok(entering.into_iter().map(start).collect())
    }

    /// Computes prompts packed end to end, and keeps the logits after the last token of each.
    fn prefill(&mut self, fresh: &[usize]) -> Result<()> {
        if fresh.is_empty() {
            return Ok(());
        }
        let first = self.cache.len();
        let mut packer = Packer::new();
        let mut last: Vec<u32> = Vec::with_capacity(fresh.len());
        for &i in fresh {
            let rows = packer.sequence(self.prompts[i].ids);
            last.push((rows.end - 1) as u32);
            self.prompts[i].places = rows.map(|row| (first + row) as u32).collect();
        }
        let hidden = self
            .model
            .prefill(&packer.finish(&self.device)?, &mut self.cache)?;
        let last = Tensor::new(last, &self.device)?;
        let logits = self.logits(&hidden.index_select(&last, 0)?)?;
        for (&i, z) in fresh
            .iter()
            .zip(logits.chunks_exact(logits.len() / fresh.len()))
        {
            self.prompts[i].logits = z.to_vec();
        }
        Ok(())
    }

    /// Runs the newest token of every active row through the model: logits `[R·V]`.
    fn decode(&mut self) -> Result<Vec<f32>> {
        let first = self.cache.len();
        let mut ids: Vec<u32> = Vec::with_capacity(self.active.len());
        let mut positions: Vec<u32> = Vec::with_capacity(self.active.len());
        for (i, row) in self.active.iter_mut().enumerate() {
            ids.extend(row.seen.last());
            positions.push(row.places.len() as u32);
            row.places.push((first + i) as u32);
        }
        let rows = DecodeRows {
            rows: self.active.iter().map(|row| row.places.clone()).collect(),
        };
        let ids = Tensor::new(ids, &self.device)?;
        let positions = Tensor::new(positions, &self.device)?;
        let hidden = self
            .model
            .decode(&ids, &positions, &rows, &mut self.cache)?;
        self.logits(&hidden)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let logits = self.model.logits(hidden)?.to_dtype(DType::F32)?;
        Ok(rlhf_ops::read_to_host(&logits)?)
    }

    /// Draws the next token of each of `rows`, from `logits` `[R·V]` or from what follows its prompt, and
    /// puts the row among the `finished` or back among the active ones.
    fn advance(
        &mut self,
        mut rows: Vec<Row>,
        logits: Option<&[f32]>,
        finished: &mut Vec<Sampled>,
    ) -> Result<()> {
        let chances: Vec<f64> = rows.iter_mut().map(|row| uniform(&mut row.rng)).collect();
        let draws = rlhf_ops::parallel_map(rows.len(), |i| {
            let row = &rows[i];
            let z = match logits {
                Some(all) => {
                    let vocabulary = all.len() / rows.len();
                    &all[i * vocabulary..][..vocabulary]
                }
                None => &self.prompts[row.prompt].logits,
            };
            let forbidden = match row.response().len() < self.config.min_new_tokens {
                true => self.tokenizer.end_ids(),
                false => &[],
            };
            let idle = self.idle_samplers().pop();
            let mut sampler = match idle {
                Some(sampler) => sampler,
                None => Sampler::new(self.config)?,
            };
            let draw = sampler.draw(z, &row.seen, forbidden, chances[i]);
            self.idle_samplers().push(sampler);
            draw
        });
        for (mut row, draw) in rows.into_iter().zip(draws) {
            match self.extend(&mut row, draw?)? {
                Some(end) => finished.push(row.sampled(end)),
                None => self.active.push(row),
            }
        }
        Ok(())
    }

    /// Samplers hold scratch memory alone, so a panic leaves them usable.
    fn idle_samplers(&self) -> MutexGuard<'_, Vec<Sampler<'a>>> {
        self.samplers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a token to `row`, and says whether the row ends with it.
    fn extend(&self, row: &mut Row, draw: Draw) -> Result<Option<End>> {
        row.seen.push(draw.token);
        row.logprobs.push(draw.logprob);
        Ok(
            if self.tokenizer.end_ids().contains(&draw.token) || self.stops(row.response())? {
                Some(End::Said)
            } else if row.response().len() >= self.prompts[row.prompt].limit {
                Some(End::Limit)
            } else {
                None
            },
        )
    }

    /// Whether a stop string is complete with the newest token.
    fn stops(&self, response: &[u32]) -> Result<bool> {
        if self.config.stop.is_empty() {
            return Ok(false);
        }
        let from = response.len().saturating_sub(self.stop_window);
        let text = self.tokenizer.decode_with_special(&response[from..])?;
        Ok(self
            .config
            .stop
            .iter()
            .any(|stop| text.contains(stop.as_str())))
    }

    fn forget_started_prompts(&mut self) {
        for prompt in self.prompts.iter_mut().filter(|p| p.to_start == 0) {
            prompt.logits = Vec::new();
        }
    }

    /// Gives back the room of rows that have left, once that is half of the cache.
    fn compact(&mut self) -> Result<()> {
        let mut live = vec![false; self.cache.len()];
        let waiting = self
            .prompts
            .iter()
            .filter(|p| p.to_start > 0)
            .map(|p| &p.places);
        for place in waiting
            .chain(self.active.iter().map(|r| &r.places))
            .flatten()
        {
            live[*place as usize] = true;
        }
        let keep: Vec<u32> = (0..live.len() as u32)
            .filter(|i| live[*i as usize])
            .collect();
        if live.is_empty() || 2 * keep.len() > live.len() {
            return Ok(());
        }
        let mut moved = vec![0u32; live.len()];
        for (new, old) in keep.iter().enumerate() {
            moved[*old as usize] = new as u32;
        }
        for prompt in &mut self.prompts {
            if prompt.to_start == 0 {
                prompt.places = Vec::new(); // its rows hold their own copies
            }
        }
        let waiting = self.prompts.iter_mut().map(|p| &mut p.places);
        for place in waiting
            .chain(self.active.iter_mut().map(|r| &mut r.places))
            .flatten()
        {
            *place = moved[*place as usize];
        }
        self.cache.compact(&keep)
    }
}
