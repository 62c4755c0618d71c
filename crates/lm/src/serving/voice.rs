//! One answer as its listener hears it.

use super::SpokenToken;
use super::stop::StopFilter;
use crate::{Result, TextStream, TokenScore, Tokenizer};

/// Turns the tokens of one row into text.
pub(super) struct Voice<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    stop: StopFilter,
    /// Tokens heard.
    heard: usize,
    /// Tokens whose text has not been given out, each with where it begins.
    pending: Vec<(usize, SpokenToken)>,
}

/// What is new of an answer.
pub(super) struct Spoken {
    pub(super) text: String,
    pub(super) tokens: Vec<SpokenToken>,
    /// Whether a stop string ended it.
    pub(super) stopped: bool,
}

impl<'a> Voice<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, prompt: &[u32], stop: &[String]) -> Self {
        Self {
            tokenizer,
            stream: TextStream::new(tokenizer, prompt),
            stop: StopFilter::new(stop),
            heard: 0,
            pending: Vec::new(),
        }
    }

    /// Hears a response up to here, with the score of each token where they are wanted. `ended` says that it is whole.
    pub(super) fn hear(
        &mut self,
        response: &[u32],
        scores: &[TokenScore],
        ended: bool,
    ) -> Result<Spoken> {
        let mut text = String::new();
        let mut stopped = false;
        for (i, &token) in response.iter().enumerate().skip(self.heard) {
            let ends =
                ended && i + 1 == response.len() && self.tokenizer.end_ids().contains(&token);
            if let Some(score) = scores.get(i).filter(|_| !ends) {
                let token = self.spoken(score)?;
                self.pending.push((self.stop.length(), token));
            }
            let (more, hit) = self.stop.push(&self.stream.push(token)?);
            text.push_str(&more);
            stopped = hit;
            if stopped {
                break;
            }
        }
        self.heard = response.len();
        if ended && !stopped {
            let (more, hit) = self.stop.push(&self.stream.waiting()?);
            text.push_str(&more);
            stopped = hit;
            if !stopped {
                text.push_str(&self.stop.rest());
            }
        }
        let given = self.stop.given();
        let tokens = match ended || stopped {
            // A token that begins within the stop string is no part of the answer.
            true => {
                let all = std::mem::take(&mut self.pending).into_iter();
                all.filter(|(start, _)| !stopped || *start < given)
                    .map(|(_, token)| token)
                    .collect()
            }
            false => {
                let whole = self.pending.partition_point(|(start, _)| *start < given);
                self.pending
                    .drain(..whole)
                    .map(|(_, token)| token)
                    .collect()
            }
        };
        Ok(Spoken {
            text,
            tokens,
            stopped,
        })
    }

    fn spoken(&self, score: &TokenScore) -> Result<SpokenToken> {
        let text = |id: u32| self.tokenizer.piece(id);
        let likeliest = score.likeliest.iter().map(|(id, _)| text(*id));
        Ok(SpokenToken {
            text: text(score.token)?,
            likeliest: likeliest.collect::<Result<_>>()?,
            score: score.clone(),
        })
    }
}
