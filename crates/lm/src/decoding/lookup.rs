//! Prompt lookup: what may come next, guessed from what a row has said before.
//!
//! Where a text repeats itself (a name, a quotation, code, a loop), the tokens after an earlier occurrence of its end are a good guess at its
//! continuation, and cost no second model (Saxena 2023, "Prompt lookup decoding"). One forward pass computes the logits after every token of
//! the guess; those are kept that are drawn too (Leviathan et al. 2023, arXiv:2211.17192). A row draws its n-th token with the n-th number of
//! its own stream, whether there was a guess or not, so that guesses never change what is said.

use candle_core::Tensor;
use rlhf_ops::{DecodeRows, FEW_ROWS};

use super::{Decoder, Drawn, End, Row, drawn};
use crate::Result;

/// Shortest end of a row that is looked for: of single tokens most recur by chance.
const SHORTEST: usize = 2;

/// Longest end that is told apart from longer ones.
const LONGEST: usize = 16;

/// At most `most` tokens that followed the longest end of `seen` where it last occurred before; where they reach the end of `seen`, which is
/// then a repetition, it is repeated again. Empty where no two tokens recur.
fn continuation(seen: &[u32], most: usize) -> Vec<u32> {
    let (mut longest, mut after) = (SHORTEST - 1, None);
    if most == 0 {
        return Vec::new();
    }
    for end in (1..seen.len()).rev() {
        let same = seen[..end].iter().rev().zip(seen.iter().rev());
        let length = same.take(LONGEST).take_while(|(a, b)| a == b).count();
        if length > longest {
            (longest, after) = (length, Some(end));
        }
    }
    let Some(after) = after else {
        return Vec::new();
    };
    seen[after..].iter().copied().cycle().take(most).collect()
}

impl Row {
    /// Whether the newest token is the one that was guessed, so that it is in the cache and what follows it is known; else nothing that was
    /// guessed counts.
    fn hit(&mut self) -> bool {
        match self.guess.pop_front() {
            Some((token, place)) if self.seen.last() == Some(&token) => {
                self.places.push(place);
                self.hits += 1;
                true
            }
            _ => {
                self.guess.clear();
                false
            }
        }
    }
}

impl Decoder<'_> {
    /// Draws the next token of each of `rows`, and where it was guessed, those that follow. Puts every row among the `finished` or back among the
    /// active ones.
    pub(super) fn step_guessing(
        &mut self,
        mut rows: Vec<Row>,
        finished: &mut Vec<(Row, End)>,
    ) -> Result<()> {
        let (ids, positions, seen) = self.guess(&mut rows)?;
        let logits = self.decode(&ids, &positions, &seen)?;
        let vocabulary = logits.dim(1)?;
        let on_host = match self.draws_on_device(&rows)? {
            true => None,
            false => Some(rlhf_ops::read_to_host(&logits)?),
        };
        // Where the logits are that each row draws from: those after its newest token, then those after its guesses.
        let mut places = Vec::with_capacity(rows.len());
        let mut next = 0;
        for row in &rows {
            places.push(next);
            next += 1 + row.guess.len();
        }
        while !rows.is_empty() {
            let draws: Vec<Drawn> = match &on_host {
                Some(all) => {
                    let row = |place: &usize| &all[place * vocabulary..][..vocabulary];
                    self.draw_on_host(&mut rows, &places.iter().map(row).collect::<Vec<_>>())
                }
                None => {
                    let mut sampling = self.sampling(&mut rows, 1)?;
                    sampling.draw(&self.chosen(&logits, &places)?)?;
                    drawn(sampling)?.into_iter().flatten().collect()
                }
            };
            let drew = rows.into_iter().zip(places).zip(draws);
            (rows, places) = (Vec::new(), Vec::new());
            for ((mut row, place), draw) in drew {
                let (draw, scored) = draw?;
                row.scores.extend(scored);
                let end = self.extend(&mut row, draw)?;
                match (row.hit(), end) {
                    (_, Some(end)) => finished.push((row, end)),
                    (true, None) => {
                        rows.push(row);
                        places.push(place + 1);
                    }
                    (false, None) => self.active.push(row),
                }
            }
        }
        Ok(())
    }

    /// The newest token of each row, and after it what is guessed to follow: u32 `[R + guesses]`, their positions, and what they see.
    fn guess(&self, rows: &mut [Row]) -> Result<(Tensor, Tensor, DecodeRows)> {
        let first = self.cache.len();
        let (mut ids, mut positions, mut visible) = (Vec::new(), Vec::new(), Vec::new());
        // Guesses fill up a pass of a few rows, no more: there the products of a row have the same bits beside any others, so that guesses
        // change none, and their time is that of reading the weights.
        let mut room = FEW_ROWS.saturating_sub(rows.len());
        for row in rows {
            positions.push(row.places.len() as u32);
            row.places.push((first + ids.len()) as u32);
            ids.extend(row.seen.last());
            visible.push(row.places.clone());
            let most = row.manner.config.lookup.min(row.left() - 1).min(room);
            let mut places = row.places.clone();
            for token in continuation(&row.seen, most) {
                let place = (first + ids.len()) as u32;
                positions.push(places.len() as u32);
                places.push(place);
                ids.push(token);
                visible.push(places.clone());
                row.guess.push_back((token, place));
            }
            room -= row.guess.len();
            row.guessed += row.guess.len();
        }
        let ids = rlhf_ops::upload(&ids, ids.len(), &self.device)?;
        let positions = rlhf_ops::upload(&positions, positions.len(), &self.device)?;
        Ok((ids, positions, DecodeRows::new(visible)))
    }

    /// The rows of `logits` at `places`, which are in order.
    fn chosen(&self, logits: &Tensor, places: &[usize]) -> Result<Tensor> {
        if places.len() == logits.dim(0)? {
            return Ok(logits.clone());
        }
        let places: Vec<u32> = places.iter().map(|place| *place as u32).collect();
        let places = rlhf_ops::upload(&places, places.len(), &self.device)?;
        Ok(logits.index_select(&places, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand.
    #[test]
    fn the_continuation_is_what_followed_the_longest_end_last() {
        for (seen, most, expected) in [
            (&[][..], 3, &[][..]),
            (&[1], 3, &[]),
            (&[1, 2, 3, 1], 3, &[]), // one token is too short an end
            (&[1, 2, 3, 4, 1, 2], 3, &[3, 4, 1]),
            (&[1, 2, 3, 4, 1, 2], 0, &[]),
            (&[1, 2, 3, 7, 1, 2, 4, 1, 2], 1, &[4]), // the last of equals
            (&[9, 1, 2, 3, 1, 2, 4, 9, 1, 2], 2, &[3, 1]), // a longer end before a later one
            (&[5, 6, 5, 6], 5, &[5, 6, 5, 6, 5]),    // a repetition goes on
            (&[8, 8, 8], 4, &[8, 8, 8, 8]),
        ] {
            assert_eq!(continuation(seen, most), expected, "{seen:?}");
        }
    }
}
