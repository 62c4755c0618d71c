//! The work on prompts and responses, dealt out to the ranks of a run.

use anyhow::Result;
use rlhf_lm::{CausalLm, SamplingConfig, Tokenizer, generate_rows};
use rlhf_train::{Comm, Parcel};

use crate::{Episode, PromptRow, Scorer};

/// How a response was drawn, in the sampler's numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawing {
    /// log q(y_t) of every token at the sampling temperature, where q is the model that was sampled from.
    pub logprobs: Vec<f32>,
    /// Tokens guessed.
    pub guesses: usize,
    /// Those of them that were drawn.
    pub hits: usize,
}

impl Parcel for Drawing {
    fn pack(&self, bytes: &mut Vec<u8>) {
        (self.logprobs.clone(), (self.guesses, self.hits)).pack(bytes);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (logprobs, (guesses, hits)) = Parcel::unpack(bytes)?;
        Some(Self {
            logprobs,
            guesses,
            hits,
        })
    }
}

impl Parcel for Episode {
    fn pack(&self, bytes: &mut Vec<u8>) {
        (self.prompt, (self.response.clone(), self.finished)).pack(bytes);
    }

    fn unpack(bytes: &mut &[u8]) -> Option<Self> {
        let (prompt, (response, finished)) = Parcel::unpack(bytes)?;
        Some(Self {
            prompt,
            response,
            finished,
        })
    }
}

/// Those of the episodes `chosen`, as places in it, that are this rank's: all ranks have much the same number of tokens.
///
/// The responses to one prompt, adjacent in `chosen`, stay together where there are prompts enough, so that none is computed twice.
pub fn deal_episodes(
    comm: &Comm,
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    chosen: &[usize],
) -> Vec<usize> {
    let prompt = |place: usize| episodes[chosen[place]].prompt;
    let response = |place: usize| episodes[chosen[place]].response.len();
    let places: Vec<usize> = (0..chosen.len()).collect();
    let groups: Vec<&[usize]> = places.chunk_by(|&a, &b| prompt(a) == prompt(b)).collect();
    let units: Vec<&[usize]> = match groups.len() >= ENOUGH * comm.size() || comm.size() == 1 {
        true => groups,
        false => places.chunks(1).collect(),
    };
    let tokens = |unit: &&[usize]| {
        let responses: usize = unit.iter().map(|&place| response(place)).sum();
        prompts[prompt(unit[0])].len() + responses
    };
    let costs: Vec<usize> = units.iter().map(tokens).collect();
    let own = comm.deal(&costs).into_iter();
    own.flat_map(|unit| units[unit].iter().copied()).collect()
}

/// Prompts for each rank from which on they are dealt out whole: with two and more the ranks come to much the same number of tokens.
const ENOUGH: usize = 2;

/// One value for each of `episodes`, in their order: every rank works on its own of them.
pub fn each_episode<T: Parcel>(
    comm: &Comm,
    prompts: &[Vec<u32>],
    episodes: &[Episode],
    work: impl FnOnce(&[Episode]) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    if comm.size() == 1 {
        return work(episodes);
    }
    let all: Vec<usize> = (0..episodes.len()).collect();
    let own = deal_episodes(comm, prompts, episodes, &all);
    let mine: Vec<Episode> = own.iter().map(|&i| episodes[i].clone()).collect();
    Ok(comm.in_order(&own, work(&mine)?)?)
}

/// Samples `samples` responses to each prompt, in order of prompt, so that the responses to one prompt are adjacent.
///
/// A response draws from the stream of its prompt and sample, so that it is the same whichever rank samples it.
pub fn respond(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[PromptRow],
    samples: usize,
    sampling: &SamplingConfig,
    comm: &Comm,
) -> Result<Vec<Episode>> {
    let drawn = respond_and_tell(model, tokenizer, prompts, samples, sampling, comm)?;
    Ok(drawn.into_iter().map(|(episode, _)| episode).collect())
}

/// [`respond`], and how each response was drawn.
pub fn respond_and_tell(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[PromptRow],
    samples: usize,
    sampling: &SamplingConfig,
    comm: &Comm,
) -> Result<Vec<(Episode, Drawing)>> {
    // How long a response becomes is not known: each counts as long as it may be.
    let cost = |prompt: &PromptRow| prompt.ids.len() + sampling.max_new_tokens;
    let rows = |prompt: usize| (0..samples).map(move |sample| (prompt, sample));
    let own: Vec<(usize, usize)> = if comm.size() == 1 || prompts.len() >= ENOUGH * comm.size() {
        let costs: Vec<usize> = prompts.iter().map(cost).collect();
        comm.deal(&costs).into_iter().flat_map(rows).collect()
    } else {
        let all: Vec<(usize, usize)> = (0..prompts.len()).flat_map(rows).collect();
        let costs: Vec<usize> = all
            .iter()
            .map(|(prompt, _)| cost(&prompts[*prompt]))
            .collect();
        comm.deal(&costs).into_iter().map(|row| all[row]).collect()
    };
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let sampled = generate_rows(model, tokenizer, &ids, &own, sampling, &mut |_| {})?;
    let episodes = sampled.into_iter().map(|s| {
        let episode = Episode {
            prompt: s.prompt,
            response: s.tokens,
            finished: s.finished,
        };
        let drawing = Drawing {
            logprobs: s.logprobs,
            guesses: s.guessed.tokens,
            hits: s.guessed.hits,
        };
        (episode, drawing)
    });
    let places: Vec<usize> = own
        .iter()
        .map(|(prompt, sample)| prompt * samples + sample)
        .collect();
    Ok(comm.in_order(&places, episodes.collect())?)
}

/// [`Scorer::scores_and_sd`] of all episodes: of a model every rank scores its own, a rule or a program sees them all, on the leader.
pub fn scores_together(
    reward: &dyn Scorer,
    tokenizer: &Tokenizer,
    prompts: &[PromptRow],
    episodes: &[Episode],
    comm: &Comm,
) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
    if comm.size() == 1 {
        return reward.scores_and_sd(tokenizer, prompts, episodes);
    }
    if reward.model().is_none() {
        return comm.by_leader(|| reward.scores_and_sd(tokenizer, prompts, episodes));
    }
    let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let scored = each_episode(comm, &ids, episodes, |own| {
        let (scores, sd) = match own {
            // A model takes no batch of nothing.
            [] => (Vec::new(), None),
            some => reward.scores_and_sd(tokenizer, prompts, some)?,
        };
        let sd = sd.map_or_else(
            || vec![None; own.len()],
            |sd| sd.into_iter().map(Some).collect(),
        );
        Ok(scores
            .into_iter()
            .zip(sd)
            .collect::<Vec<(f64, Option<f64>)>>())
    })?;
    let (scores, sd): (Vec<f64>, Vec<Option<f64>>) = scored.into_iter().unzip();
    Ok((scores, sd.into_iter().collect()))
}
