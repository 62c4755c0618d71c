//! Rows that grow side by side over one cache of keys and values: what [`generate`](crate::generate()) and
//! [`serve`](crate::serving::serve) share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rlhf_base::rng::uniform;
use rlhf_ops::{DecodeRows, SampleRow};

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
        }
    }

    /// The response so far.
    pub(crate) fn response(&self) -> &[u32] {
        &self.seen[self.prompt_length..]
    }
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
        let last = Tensor::new(last, &self.device)?;
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
        rows: Vec<Row>,
        logits: &[&Tensor],
        finished: &mut Vec<(Row, End)>,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.draw(rows, &Tensor::cat(logits, 0)?, finished)
    }

    /// Draws the next token of every active row; those that end with it are `finished`.
    pub(crate) fn step(&mut self, finished: &mut Vec<(Row, End)>) -> Result<()> {
        if self.active.is_empty() {
            return Ok(());
        }
        let logits = self.decode()?;
        let rows = std::mem::take(&mut self.active);
        self.draw(rows, &logits, finished)
    }

    /// Runs the newest token of every active row through the model: logits `[R, V]`.
    fn decode(&mut self) -> Result<Tensor> {
        let first = self.cache.len();
        let mut ids: Vec<u32> = Vec::with_capacity(self.active.len());
        let mut positions: Vec<u32> = Vec::with_capacity(self.active.len());
        for (i, row) in self.active.iter_mut().enumerate() {
            ids.extend(row.seen.last());
            positions.push(row.places.len() as u32);
            row.places.push((first + i) as u32);
        }
        let rows = DecodeRows::new(self.active.iter().map(|row| row.places.clone()).collect());
        let ids = Tensor::new(ids, &self.device)?;
        let positions = Tensor::new(positions, &self.device)?;
        let hidden = self
            .model
            .decode(&ids, &positions, &rows, &mut self.cache)?;
        self.logits(&hidden)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.model.logits(hidden)?.to_dtype(DType::F32)?)
    }

    /// Draws the next token of each of `rows` from its logits in `[R, V]`, and puts the row among the `finished` or back among the active ones.
    fn draw(
        &mut self,
        mut rows: Vec<Row>,
        logits: &Tensor,
        finished: &mut Vec<(Row, End)>,
    ) -> Result<()> {
        let chances: Vec<f64> = rows.iter_mut().map(|row| uniform(&mut row.rng)).collect();
        let scored = rows.iter().any(|row| row.manner.likeliest.is_some());
        let draws = match !scored && rlhf_ops::samples_on_device(logits) {
            true => self.draws_on_device(&rows, logits, &chances)?,
            false => self.draws_on_host(&rows, logits, &chances)?,
        };
        for (mut row, draw) in rows.into_iter().zip(draws) {
            let (draw, scored) = draw?;
            row.scores.extend(scored);
            match self.extend(&mut row, draw)? {
                Some(end) => finished.push((row, end)),
                None => self.active.push(row),
            }
        }
        Ok(())
    }

    /// Tokens that may not come next.
    fn forbidden(&self, row: &Row) -> &[u32] {
        match row.response().len() < row.manner.config.min_new_tokens {
            true => self.tokenizer.end_ids(),
            false => &[],
        }
    }

    fn draws_on_device(
        &self,
        rows: &[Row],
        logits: &Tensor,
        chances: &[f64],
    ) -> Result<Vec<Drawn>> {
        let ways = rows.iter().zip(chances).map(|(row, &uniform)| {
            let config = &row.manner.config;
            SampleRow {
                temperature: config.temperature,
                top_k: config.top_k,
                top_p: config.top_p,
                penalty: config.repetition_penalty,
                seen: &row.seen,
                forbidden: self.forbidden(row),
                uniform,
            }
        });
        let drawn = rlhf_ops::sample(logits, &ways.collect::<Vec<_>>())?;
        let draws = drawn.into_iter().map(|drawn| match drawn {
            Some((token, logprob)) => Ok((Draw { token, logprob }, None)),
            None => Err(Error::NotSampled(
                "the largest logit is not finite, or one is NaN (weights that are not finite, or every token forbidden)".to_owned(),
            )),
        });
        Ok(draws.collect())
    }

    fn draws_on_host(&self, rows: &[Row], logits: &Tensor, chances: &[f64]) -> Result<Vec<Drawn>> {
        let (all, vocabulary) = (rlhf_ops::read_to_host(logits)?, logits.dim(1)?);
        Ok(rlhf_ops::parallel_map(rows.len(), |i| {
            let (row, z) = (&rows[i], &all[i * vocabulary..][..vocabulary]);
            let (config, forbidden) = (&row.manner.config, self.forbidden(row));
            let mut sampler = self.idle_samplers().pop().unwrap_or_default();
            let draw = sampler.draw(config, z, &row.seen, forbidden, chances[i]);
            self.idle_samplers().push(sampler);
            let draw = draw?;
            let scored = row.manner.likeliest.map(|n| score(z, draw.token, n));
            Ok((draw, scored))
        }))
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
