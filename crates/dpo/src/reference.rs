//! log π_ref(y|x) of every response: computed once, before the first step, and kept beside the run. No second model is held.

use std::collections::BTreeMap;

use anyhow::Result;
use rlhf_lm::CausalLm;
use rlhf_train::feedback::Item;
use rlhf_train::{Comm, RunDir};

use crate::batch::response_logprobs;
use crate::judged::Judged;

/// Of the training data and of what is held out.
pub(crate) struct Reference {
    pub(crate) trained: Logprobs,
    pub(crate) held_out: Logprobs,
}

/// log π_ref(y|x) of judged feedback.
pub(crate) struct Logprobs {
    items: Grouped,
    mismatched: Grouped,
}

/// A number for each response, as one list with the place where each item's begin.
struct Grouped {
    numbers: Vec<f32>,
    first: Vec<usize>,
}

impl Reference {
    /// Reads what the run has kept, or computes it with `model`, which must be as it was before the first step, and keeps it.
    pub(crate) fn of(
        dir: &RunDir,
        model: &CausalLm,
        (trained, held_out): (&Judged, &Judged),
        normalise: bool,
        micro_batch_tokens: usize,
        comm: &Comm,
    ) -> Result<Self> {
        let parts = [
            ("trained", trained.items.as_slice()),
            ("trained/mismatched", &trained.mismatched),
            ("held_out", &held_out.items),
            ("held_out/mismatched", &held_out.mismatched),
        ];
        let fits = |kept: &BTreeMap<String, Vec<f32>>| {
            parts
                .iter()
                .all(|(name, items)| kept.get(*name).map(Vec::len) == Some(responses(items)))
        };
        let numbers = match dir.kept_reference()?.filter(fits) {
            Some(kept) => kept,
            None => {
                let mut numbers = BTreeMap::new();
                for (name, items) in parts {
                    let found =
                        response_logprobs(model, items, normalise, micro_batch_tokens, comm)?;
                    numbers.insert(name.to_owned(), found);
                }
                dir.keep_reference(&numbers)?;
                numbers
            }
        };
        let [trained, trained_mismatched, held_out, held_out_mismatched] =
            parts.map(|(name, items)| {
                Grouped::new(numbers.get(name).cloned().unwrap_or_default(), items)
            });
        Ok(Self {
            trained: Logprobs {
                items: trained,
                mismatched: trained_mismatched,
            },
            held_out: Logprobs {
                items: held_out,
                mismatched: held_out_mismatched,
            },
        })
    }
}

impl Logprobs {
    /// Those of the items `chosen`, end to end.
    pub(crate) fn of_items(&self, chosen: &[usize]) -> Vec<f32> {
        self.items.of(chosen)
    }

    /// Those of the mismatched answers to the prompts of the items `chosen`, end to end.
    pub(crate) fn of_mismatched(&self, chosen: &[usize]) -> Vec<f32> {
        self.mismatched.of(chosen)
    }
}

impl Grouped {
    fn new(numbers: Vec<f32>, items: &[Item]) -> Self {
        let mut first = vec![0];
        for item in items {
            first.push(first[first.len() - 1] + item.responses.len());
        }
        Self { numbers, first }
    }

    fn of(&self, chosen: &[usize]) -> Vec<f32> {
        let own = |&i: &usize| &self.numbers[self.first[i]..self.first[i + 1]];
        chosen.iter().flat_map(own).copied().collect()
    }
}

fn responses(items: &[Item]) -> usize {
    items.iter().map(|item| item.responses.len()).sum()
}
