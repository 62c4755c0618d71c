//! Answers that exist in files, to be judged by `rlhf label --data`.

use std::collections::HashMap;
use std::path::PathBuf;

use rlhf_base::Text;
use rlhf_dataset::{Answers, Loaded, Reading, read};
use rlhf_label::{Answer, Candidates, Kind, Pool};
use rlhf_train::tell_skipped;

use crate::data_files::found;
use crate::exit::usage;

/// The pool of answers that exist in `files`. Answers that stand alone in their rows are put together by prompt.
pub(crate) fn existing(
    files: &[PathBuf],
    reading: &Reading,
    kind: Kind,
    seed: u64,
) -> anyhow::Result<Pool> {
    let Loaded {
        rows, tolerance, ..
    } = read::<Answers, _>(&found(files)?, reading)?;
    tell_skipped(&tolerance);
    let read = rows.len();
    let mut all: Vec<Candidates> = Vec::new();
    // The place of a prompt whose answers come one by one.
    let mut alone: HashMap<Text, usize> = HashMap::new();
    for row in rows.into_iter().map(|row| row.record) {
        let answers = row.responses.into_iter().zip(row.models);
        let answers = answers.map(|(text, model)| Answer {
            text,
            model,
            finished: true,
        });
        let answers: Vec<Answer> = answers.collect();
        let one_by_one = answers.len() == 1 && !row.prompt.is_empty();
        match alone.get(&row.prompt).filter(|_| one_by_one) {
            Some(&known) => {
                let known: &mut Candidates = &mut all[known];
                let (prompt, source) = (known.prompt.clone(), known.source.clone());
                let answers = known.answers.iter().cloned().chain(answers).collect();
                *known = Candidates::new(prompt, answers, source);
            }
            None => {
                if one_by_one {
                    alone.insert(row.prompt.clone(), all.len());
                }
                all.push(Candidates::new(row.prompt, answers, row.source));
            }
        }
    }
    let all: Vec<Candidates> = all.into_iter().flat_map(|it| it.for_kind(kind)).collect();
    if all.is_empty() {
        return Err(usage!(
            "nothing to judge: none of the {read} rows has two different answers to compare; judge them one by one (--kind rating or thumbs), \
             or put several answers to a prompt into the file"
        ));
    }
    Ok(Pool::of(all, seed))
}
