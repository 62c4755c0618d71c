//! Rows that grow side by side over one cache of keys and values: what [`generate`](crate::generate()) and
//! [`serve`](crate::serving::serve) share.

mod lookup;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rlhf_base::rng::uniform;
use rlhf_ops::{DecodeRows, SampleRow, Sampling};

use crate::likely::{TokenScore, score};
use crate::sampling::{Draw, Sampler};
use crate::{CausalLm, Error, KvCache, Packer, Result, SamplingConfig, Tokenizer};

/// Why a row ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// With an EOS token or a stop string.
    Said,
    /// With as many tokens as it may have.
    Limit,
}

/// How the rows of a request are sampled.
pub(crate) struct Manner {
    pub(crate) config: SamplingConfig,
    /// A stop string that ends in the newest token begins at most this many tokens before the end.
    stop_window: usize,
    /// How many of the likeliest tokens are kept beside every token, with the log-probabilities of the model itself.
    pub(crate) likeliest: Option<usize>,
}

impl Manner {
    pub(crate) fn new(config: SamplingConfig, likeliest: Option<usize>) -> Arc<Self> {
        // Every token but a special one is at least a byte; the rest is for a character cut at the window's start.
        let longest = config.stop.iter().map(String::len).max();
        Arc::new(Self {
            stop_window: longest.map_or(0, |n| n + 4),
            config,
            likeliest,
        })
    }
}

/// A prompt whose keys and values are in the cache.
pub(crate) struct Computed {
    /// Where its tokens are.
    pub(crate) places: Vec<u32>,
    /// Logits after its last token, `[1, V]`.
    pub(crate) logits: Tensor,
}

/// Tokens that a device draws before the host reads them, where nobody waits for each: a read costs as much as a few launches, and a row computes at
/// most this many tokens less one after its end.
pub(crate) const TOKENS_A_READ: usize = 16;

/// A row's next token, and beside it the likeliest ones where the manner asks for them.
type Drawn = Result<(Draw, Option<TokenScore>)>;

/// A response in the making.
pub(crate) struct Row {
    /// Whose it is: two numbers of the caller's.
    pub(crate) index: (usize, usize),
    /// Where prompt and response are in the cache; the newest token is not there yet.
    places: Vec<u32>,
    /// Prompt and response.
    seen: Vec<u32>,
    prompt_length: usize,
    /// The most tokens the response can have.
    limit: usize,
    pub(crate) logprobs: Vec<f32>,
    /// One a token, where the manner asks for them.
    pub(crate) scores: Vec<TokenScore>,
    rng: ChaCha8Rng,
    manner: Arc<Manner>,
    /// What is guessed to follow, each token with its place in the cache.
    guess: VecDeque<(u32, u32)>,
    /// Tokens guessed so far.
    pub(crate) guessed: usize,
    /// Those of them that were drawn.
    pub(crate) hits: usize,
}

impl Row {
    /// A row that answers `prompt`, which is in the cache at `places`, with at most `limit` tokens.
    pub(crate) fn new(
        index: (usize, usize),
        prompt: &[u32],
        places: &[u32],
        limit: usize,
        rng: ChaCha8Rng,
        manner: Arc<Manner>,
    ) -> Self {
        Self {
            index,
            places: places.to_vec(),
            seen: prompt.to_vec(),
            prompt_length: prompt.len(),
            limit,
            logprobs: Vec::new(),
            scores: Vec::new(),
            rng,
            manner,
            guess: VecDeque::new(),
            guessed: 0,
            hits: 0,
        }
    }

    /// How many tokens the response may still have.
    fn left(&self) -> usize {
        self.limit - self.response().len()
    }

    /// How many tokens come before one may end the response.
    fn end_allowed_after(&self) -> usize {
        let least = self.manner.config.min_new_tokens;
        least.saturating_sub(self.response().len())
    }

    /// The response so far.
    pub(crate) fn response(&self) -> &[u32] {
        &self.seen[self.prompt_length..]
    }
}

/// By row, what was drawn one after another.
fn drawn(sampling: Sampling) -> Result<Vec<Vec<Drawn>>> {
    let by_step = sampling.read()?;
    let mut by_row: Vec<Vec<Drawn>> = Vec::new();
    by_row.resize_with(by_step.first().map_or(0, Vec::len), Vec::new);
    for step in by_step {
        for (row, drawn) in by_row.iter_mut().zip(step) {
            row.push(match drawn {
                Some((token, logprob)) => Ok((Draw { token, logprob }, None)),
                None => Err(Error::NotSampled(
                    "the largest logit is not finite, or one is NaN (weights that are not finite, or every token forbidden)".to_owned(),
                )),
            });
        }
    }
    Ok(by_row)
}

/// Rows of one model side by side: some leave, others enter, and none can tell.
pub(crate) struct Decoder<'a> {
    model: &'a CausalLm,
    tokenizer: &'a Tokenizer,
    device: Device,
    cache: KvCache,
    /// The rows that go on.
    pub(crate) active: Vec<Row>,
    /// As many as drew at once so far: one a thread.
    samplers: Mutex<Vec<Sampler>>,
}

impl<'a> Decoder<'a> {
    /// No rows yet.
    pub(crate) fn new(model: &'a CausalLm, tokenizer: &'a Tokenizer) -> Self {
        Self {
            model,
            tokenizer,
            device: model.device().clone(),
            cache: KvCache::new(model.config().layers()),
            active: Vec::new(),
            samplers: Mutex::default(),
        }
    }

    /// Computes prompts packed end to end.
    pub(crate) fn prefill(&mut self, prompts: &[&[u32]]) -> Result<Vec<Computed>> {
        if prompts.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.cache.len();
        let mut packer = Packer::new();
        let rows: Vec<_> = prompts.iter().map(|ids| packer.sequence(ids)).collect();
        let last: Vec<u32> = rows.iter().map(|rows| (rows.end - 1) as u32).collect();
        let hidden = self
            .model
            .prefill(&packer.finish(&self.device)?, &mut self.cache)?;
        let last = rlhf_ops::upload(&last, last.len(), &self.device)?;
        let logits = self.logits(&hidden.index_select(&last, 0)?)?;
        let computed = rows.into_iter().enumerate().map(|(i, rows)| {
            Ok(Computed {
                places: rows.map(|row| (first + row) as u32).collect(),
                logits: logits.narrow(0, i, 1)?,
            })
        });
        computed.collect()
    }

    /// Draws the first token of `rows`; `logits` gives what follows the prompt of each. Those that end with it are `finished`.
    pub(crate) fn start(
        &mut self,
        mut rows: Vec<Row>,
        logits: &[&Tensor],
        finished: &mut Vec<(Row, End)>,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let logits = Tensor::cat(logits, 0)?;
        let draws = match self.draws_on_device(&rows)? {
            true => {
                let mut sampling = self.sampling(&mut rows, 1)?;
                sampling.draw(&logits)?;
                drawn(sampling)?
            }
            false => self.draw_each_on_host(&mut rows, &logits)?,
        };
        self.extend_all(rows, draws, finished)
    }

    /// Draws the next token of every active row; those that end with it are `finished`. Where tokens are drawn on the device, up to `most` of them are
    /// before the host reads any: what a row draws after its end is thrown away. Where a row takes [guesses](lookup), each is drawn as far as it was guessed.
    pub(crate) fn step(&mut self, most: usize, finished: &mut Vec<(Row, End)>) -> Result<()> {
        if self.active.is_empty() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.active);
        if rows.iter().any(|row| row.manner.config.lookup > 0) {
            return self.step_guessing(rows, finished);
        }
        let draws = match self.draws_on_device(&rows)? {
            true => {
                let left = rows.iter().map(Row::left).max().unwrap_or(1);
                // States of recurrent layers are kept for the newest token alone.
                let recurrent = self.model.config().state_width() > 0;
                let steps = if recurrent { 1 } else { most.min(left) };
                let mut sampling = self.sampling(&mut rows, steps)?;
                let (mut ids, ahead) = self.ahead(&mut rows, steps)?;
                for (positions, rows) in &ahead {
                    let logits = self.decode(&ids, positions, rows)?;
                    ids = sampling.draw(&logits)?;
                }
                drawn(sampling)?
            }
            false => {
                let (ids, ahead) = self.ahead(&mut rows, 1)?;
                let (positions, seen) = &ahead[0];
                let logits = self.decode(&ids, positions, seen)?;
                self.draw_each_on_host(&mut rows, &logits)?
            }
        };
        self.extend_all(rows, draws, finished)
    }

    /// The newest token of each row, u32 `[R]`; and for each of the next steps the positions, u32 `[R]`, and what the rows see. None of it depends on the
    /// tokens that will be drawn, so that it is uploaded for all steps at once.
    fn ahead(&self, rows: &mut [Row], steps: usize) -> Result<(Tensor, Vec<(Tensor, DecodeRows)>)> {
        let (first, count) = (self.cache.len(), rows.len());
        let mut numbers: Vec<u32> = rows
            .iter()
            .filter_map(|row| row.seen.last().copied())
            .collect();
        let mut lengths = Vec::with_capacity(steps);
        for step in 0..steps {
            for (i, row) in rows.iter_mut().enumerate() {
                // A row that has all its tokens by then stays where it is.
                if step < row.left() {
                    row.places.push((first + step * count + i) as u32);
                }
            }
            let seen = rows.iter().map(|row| row.places.len());
            lengths.push(seen.clone().collect());
            numbers.extend(seen.map(|seen| (seen - 1) as u32));
        }
        let numbers = rlhf_ops::upload(&numbers, (steps + 1, count), &self.device)?;
        let places = rows.iter().map(|row| row.places.clone()).collect();
        let seen = DecodeRows::steps(places, lengths).into_iter();
        let ahead = seen.enumerate().map(|(step, seen)| {
            let positions = numbers.get(step + 1)?;
            Ok((positions, seen))
        });
        Ok((numbers.get(0)?, ahead.collect::<Result<_>>()?))
    }

    /// Runs a token of every row through the model: logits `[R, V]`.
    fn decode(&mut self, ids: &Tensor, positions: &Tensor, rows: &DecodeRows) -> Result<Tensor> {
        let hidden = self.model.decode(ids, positions, rows, &mut self.cache)?;
        self.logits(&hidden)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.model.logits(hidden)?.to_dtype(DType::F32)?)
    }

    /// Adds to each of `rows` what it drew, up to its end, and puts it among the `finished` or back among the active ones.
    fn extend_all(
        &mut self,
        rows: Vec<Row>,
        draws: Vec<Vec<Drawn>>,
        finished: &mut Vec<(Row, End)>,
    ) -> Result<()> {
        for (mut row, draws) in rows.into_iter().zip(draws) {
            let mut end = None;
            for draw in draws {
                let (draw, scored) = draw?;
                row.scores.extend(scored);
                end = self.extend(&mut row, draw)?;
                if end.is_some() {
                    break;
                }
            }
            match end {
                Some(end) => finished.push((row, end)),
                None => self.active.push(row),
            }
        }
        Ok(())
    }

    /// Tokens that may not come next.
    fn forbidden(&self, row: &Row) -> &[u32] {
        match row.end_allowed_after() {
            0 => &[],
            _ => self.tokenizer.end_ids(),
        }
    }

    fn draws_on_device(&self, rows: &[Row]) -> Result<bool> {
        let scored = rows.iter().any(|row| row.manner.likeliest.is_some());
        let vocabulary = self.model.vocab_weight().dim(0)?;
        Ok(!scored && rlhf_ops::samples_on_device(&self.device, vocabulary))
    }

    /// How the next `steps` tokens of the rows are drawn.
    fn sampling(&self, rows: &mut [Row], steps: usize) -> Result<Sampling> {
        let draw = |row: &mut Row| (0..steps).map(|_| uniform(&mut row.rng)).collect();
        let uniforms: Vec<Vec<f64>> = rows.iter_mut().map(draw).collect();
        let ways = rows.iter().zip(&uniforms).map(|(row, uniforms)| {
            let config = &row.manner.config;
            SampleRow {
                temperature: config.temperature,
                top_k: config.top_k,
                top_p: config.top_p,
                penalty: config.repetition_penalty,
                seen: &row.seen,
                forbidden: self.forbidden(row),
                allowed_after: row.end_allowed_after(),
                uniforms,
            }
        });
        let vocabulary = self.model.vocab_weight().dim(0)?;
        let ways: Vec<SampleRow<'_>> = ways.collect();
        Ok(Sampling::new(&ways, vocabulary, &self.device)?)
    }

    /// A token of each row, from its logits in `[R, V]`.
    fn draw_each_on_host(&self, rows: &mut [Row], logits: &Tensor) -> Result<Vec<Vec<Drawn>>> {
        let (all, vocabulary) = (rlhf_ops::read_to_host(logits)?, logits.dim(1)?);
        let logits: Vec<&[f32]> = all.chunks_exact(vocabulary).collect();
        let draws = self.draw_on_host(rows, &logits);
        Ok(draws.into_iter().map(|draw| vec![draw]).collect())
    }

    /// A token of each row, from its `logits` of the whole vocabulary.
    fn draw_on_host(&self, rows: &mut [Row], logits: &[&[f32]]) -> Vec<Drawn> {
        let chances: Vec<f64> = rows.iter_mut().map(|row| uniform(&mut row.rng)).collect();
        rlhf_ops::parallel_map(rows.len(), |i| {
            let (row, z) = (&rows[i], logits[i]);
            let (config, forbidden) = (&row.manner.config, self.forbidden(row));
            let mut sampler = self.idle_samplers().pop().unwrap_or_default();
            let draw = sampler.draw(config, z, &row.seen, forbidden, chances[i]);
            self.idle_samplers().push(sampler);
            let draw = draw?;
            let scored = row.manner.likeliest.map(|n| score(z, draw.token, n));
            Ok((draw, scored))
        })
    }

    /// Samplers hold scratch memory alone, so a panic leaves them usable.
    fn idle_samplers(&self) -> MutexGuard<'_, Vec<Sampler>> {
        self.samplers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a token to `row`, and says whether the row ends with it.
    fn extend(&self, row: &mut Row, draw: Draw) -> Result<Option<End>> {
        row.seen.push(draw.token);
        row.logprobs.push(draw.logprob);
        Ok(
            if self.tokenizer.end_ids().contains(&draw.token) || self.stops(row)? {
                Some(End::Said)
            } else if row.response().len() >= row.limit {
                Some(End::Limit)
            } else {
                None
            },
        )
    }

    /// Whether a stop string is complete with the newest token.
    fn stops(&self, row: &Row) -> Result<bool> {
        let stop = &row.manner.config.stop;
        if stop.is_empty() {
            return Ok(false);
        }
        let response = row.response();
        let from = response.len().saturating_sub(row.manner.stop_window);
        let text = self.tokenizer.decode_with_special(&response[from..])?;
        Ok(stop.iter().any(|stop| text.contains(stop.as_str())))
    }

    /// Gives back the room of rows that have left, once that is half of the cache. `held` are the places of prompts whose rows have not
    /// all started.
    pub(crate) fn compact(&mut self, held: &mut [&mut Vec<u32>]) -> Result<()> {
        let mut live = vec![false; self.cache.len()];
        let rows = self.active.iter().map(|row| &row.places);
        for place in held.iter().map(|p| &**p).chain(rows).flatten() {
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
        let rows = self.active.iter_mut().map(|row| &mut row.places);
        for place in held.iter_mut().map(|p| &mut **p).chain(rows).flatten() {
            *place = moved[*place as usize];
        }
        self.cache.compact(&keep)
    }
}
