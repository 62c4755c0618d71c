//! The thread that drives a model: rounds of one token for every row.

use std::collections::BTreeMap;

use candle_core::Tensor;
use rlhf_base::rng::stream;

use super::queue::{Load, Queue};
use super::voice::Voice;
use super::{Event, Listener, Request};
use crate::decoding::{Decoder, End, Manner, Row};
use crate::{CausalLm, Result, Tokenizer};

/// Answers the requests of `queue` until it is [closed](Queue::close). What a model that fails was asked is told the failure; what
/// is asked afterwards is tried again.
pub fn serve(model: &CausalLm, tokenizer: &Tokenizer, queue: &Queue) {
    /// However the thread ends, nobody waits for it.
    struct Closing<'q>(&'q Queue);
    impl Drop for Closing<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }
    let _closing = Closing(queue);
    let mut engine = Engine {
        model,
        tokenizer,
        queue,
        decoder: Decoder::new(model, tokenizer),
        asked: BTreeMap::new(),
        next: 0,
    };
    while let Some(entering) = queue.next(engine.load()) {
        // Waiting happens here and computing there, so that engines of several models share the threads.
        if let Err(error) = rlhf_ops::on_workers(|| engine.round(entering)) {
            engine.fail(&error.to_string());
        }
    }
}

/// A request that is being answered.
struct Asked<'a> {
    listener: Box<dyn Listener>,
    /// One for each answer that goes on.
    voices: BTreeMap<usize, Voice<'a>>,
    /// Tokens that it may take in the cache.
    reserved: usize,
}

struct Engine<'a> {
    model: &'a CausalLm,
    tokenizer: &'a Tokenizer,
    queue: &'a Queue,
    decoder: Decoder<'a>,
    /// By number, which a row's index begins with.
    asked: BTreeMap<usize, Asked<'a>>,
    /// The number of the next request.
    next: usize,
}

impl Engine<'_> {
    /// Lets those out who have gone and those in who wait, draws a token for every row, and tells what is new.
    fn round(&mut self, entering: Vec<Request>) -> Result<()> {
        self.asked.retain(|_, asked| !asked.listener.is_gone());
        let mut ended = Vec::new();
        self.admit(entering, &mut ended)?;
        let asked = &self.asked;
        let goes_on = |row: &Row| {
            asked
                .get(&row.index.0)
                .is_some_and(|a| a.voices.contains_key(&row.index.1))
        };
        self.decoder.active.retain(goes_on);
        self.decoder.step(1, &mut ended)?;
        for (row, end) in ended {
            self.tell(&row, Some(end))?;
        }
        let rows = std::mem::take(&mut self.decoder.active);
        for row in rows {
            if self.tell(&row, None)? {
                self.decoder.active.push(row);
            }
        }
        self.asked.retain(|_, asked| !asked.voices.is_empty());
        self.decoder.compact(&mut [])
    }

    /// Computes the prompts of new requests and draws the first token of each answer.
    fn admit(&mut self, entering: Vec<Request>, ended: &mut Vec<(Row, End)>) -> Result<()> {
        let first = self.next;
        let mut rows = Vec::new();
        let mut prompts: Vec<(Vec<u32>, usize)> = Vec::new();
        for request in entering {
            let (limit, reserved) = (self.queue.limit(&request), self.queue.reserved(&request));
            let manner = Manner::new(request.sampling, request.likeliest);
            let voice = || Voice::new(self.tokenizer, &request.prompt, &manner.config.stop);
            let asked = Asked {
                listener: request.listener,
                voices: (0..request.choices)
                    .map(|choice| (choice, voice()))
                    .collect(),
                reserved,
            };
            rows.push((manner, limit, request.choices));
            self.asked.insert(self.next, asked);
            prompts.push((request.prompt, self.next));
            self.next += 1;
        }
        let ids: Vec<&[u32]> = prompts.iter().map(|(ids, _)| &ids[..]).collect();
        let computed = self.decoder.prefill(&ids)?;
        let (mut starting, mut logits): (Vec<Row>, Vec<&Tensor>) = (Vec::new(), Vec::new());
        for (i, (manner, limit, choices)) in rows.into_iter().enumerate() {
            for choice in 0..choices {
                let index = (first + i, choice);
                let rng = stream(manner.config.seed, "sample", choice as u64);
                let (ids, places) = (ids[i], &computed[i].places);
                starting.push(Row::new(index, ids, places, limit, rng, manner.clone()));
                logits.push(&computed[i].logits);
            }
        }
        self.decoder.start(starting, &logits, ended)
    }

    /// Tells the listener of `row` what is new. Whether the row goes on.
    fn tell(&mut self, row: &Row, end: Option<End>) -> Result<bool> {
        let choice = row.index.1;
        let Some(asked) = self.asked.get_mut(&row.index.0) else {
            return Ok(false);
        };
        let Some(voice) = asked.voices.get_mut(&choice) else {
            return Ok(false);
        };
        let spoken = voice.hear(row.response(), &row.scores, end.is_some())?;
        if !spoken.text.is_empty() || !spoken.tokens.is_empty() {
            asked.listener.hear(Event::Text {
                choice,
                text: spoken.text,
                tokens: spoken.tokens,
            });
        }
        if end.is_none() && !spoken.stopped {
            return Ok(true);
        }
        asked.voices.remove(&choice);
        asked.listener.hear(Event::End {
            choice,
            said: spoken.stopped || end == Some(End::Said),
            tokens: row.response().len(),
        });
        Ok(false)
    }

    /// Tells everyone that the model failed, and begins anew.
    fn fail(&mut self, what: &str) {
        for asked in std::mem::take(&mut self.asked).values_mut() {
            asked.listener.hear(Event::Failed(what.to_owned()));
        }
        self.decoder = Decoder::new(self.model, self.tokenizer);
    }

    fn load(&self) -> Load {
        Load {
            rows: self.decoder.active.len(),
            tokens: self.asked.values().map(|asked| asked.reserved).sum(),
            waiting: 0,
        }
    }
}
