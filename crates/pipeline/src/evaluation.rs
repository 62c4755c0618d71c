//! Every model of a pipeline on the same held-out prompts.
//!
//! Each model answers each prompt once, sampled with the same seed. Gold scores come from the Tiny World's judge where it knows the
//! prompt, the learned reward from the reward model, the KL from the training forward of model and reference. No part of training sees the
//! judge.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use rlhf_dataset::tiny_world::{Gold, Judge};
use rlhf_dataset::{Loaded, Placed, Prompt};
use rlhf_lm::{CausalLm, LanguageModel, SamplingConfig};
use rlhf_rollout::{
    Episode, PromptRow, RewardSource, Scorer, best_of_n, best_of_n_kl_bound, kl_per_episode,
    respond, response_logprobs, scores_together, win,
};
use rlhf_train::{Comm, Progress, micro_batch_tokens, read_and_tell, statistics, tell_skipped};
use rlhf_web::Point;
use serde_json::{Map, Value, json};

use crate::exit::usage;
use crate::history;
use crate::machine::Machine;
use crate::questions::Questions;
use crate::table::{Evaluation, Example, GoldRow, ModelRow};

/// The models to compare, as folders, each under the name it has in the table.
#[derive(Clone, Debug)]
pub(crate) struct Lineup {
    /// What KL and wins are measured against; it is in the table too.
    pub(crate) reference: (String, PathBuf),
    /// Shown above the reference.
    pub(crate) before: Vec<(String, PathBuf)>,
    /// Shown below the reference and its best of n.
    pub(crate) after: Vec<(String, PathBuf)>,
    /// The runs of those whose checkpoints answer too, by the same names.
    pub(crate) on_the_way: Vec<(String, PathBuf)>,
    pub(crate) reward: Option<RewardSource>,
}

/// One model's answers, one a prompt, and what is known of each.
struct Answers {
    name: String,
    texts: Vec<String>,
    gold: Vec<Option<Gold>>,
    rewards: Option<Vec<f64>>,
    /// Scores of the second opinion.
    judged: Option<Vec<f64>>,
    kl: Kl,
}

impl Answers {
    /// As a point of a path, after `step` steps.
    fn point(&self, step: u64, seed: u64) -> Point {
        let gold = self.gold_scores();
        Point {
            step,
            published: false,
            kl: match self.kl {
                Kl::Measured(kl) | Kl::AtMost(kl) => kl,
            },
            gold: gold.as_deref().map(statistics::mean),
            gold_ci: gold.as_deref().map(|gold| interval(gold, seed)),
            judge: self.judged.as_deref().map(statistics::mean),
            judge_ci: self.judged.as_deref().map(|it| interval(it, seed)),
            reward: self.rewards.as_deref().map(statistics::mean),
            reward_ci: self
                .rewards
                .as_deref()
                .map(|rewards| interval(rewards, seed)),
        }
    }

    /// A judge who knows some of the prompts only would compare different questions: all or none.
    fn gold_scores(&self) -> Option<Vec<f64>> {
        let scores = self.gold.iter().map(|gold| gold.as_ref().map(Gold::score));
        scores.collect()
    }

    /// The answer to prompt `i` as `answers.jsonl` has it.
    fn told(&self, i: usize) -> Value {
        let mut told = json!({"text": self.texts[i]});
        if let Some(rewards) = &self.rewards {
            told["reward"] = json!(rewards[i]);
        }
        if let Some(gold) = &self.gold[i] {
            told["gold"] = json!(gold.score());
        }
        if let Some(judged) = &self.judged {
            told["judge"] = json!(judged[i]);
        }
        told
    }
}

/// A 95 % interval of the mean over prompts.
fn interval(values: &[f64], seed: u64) -> [f64; 2] {
    let (low, high) = statistics::bootstrap_interval(values, seed);
    [low, high]
}

/// Nats per response to the reference.
#[derive(Clone, Copy)]
enum Kl {
    /// Mean over responses of Σₜ (log π − log π_ref).
    Measured(f64),
    /// Known only to be no more than this.
    AtMost(f64),
}

/// Answers, judges and compares.
pub(crate) fn evaluate(
    lineup: &Lineup,
    questions: &Questions,
    machine: &Machine,
) -> anyhow::Result<Evaluation> {
    let started = Instant::now();
    let room = Room::open(lineup, questions, machine)?;
    let mut all = Vec::new();
    let count = (lineup.before.len() + lineup.after.len() + 1) as u64;
    let mut progress = Progress::new(machine.progress, "evaluation", count, "model");
    let tick = |progress: &mut Progress, all: &[Answers]| progress.tick(all.len() as u64, &[], 0);
    for (name, folder) in &lineup.before {
        machine.check_interrupt()?;
        all.push(room.ask(name, &load(folder, machine)?)?);
        tick(&mut progress, &all);
    }
    all.extend(room.ask_reference(&lineup.reference.0, questions.best_of)?);
    for (name, folder) in &lineup.after {
        machine.check_interrupt()?;
        tick(&mut progress, &all);
        all.push(room.ask(name, &load(folder, machine)?)?);
    }
    progress.finish();
    let mut paths = Vec::new();
    for (name, run) in &lineup.on_the_way {
        let made = lineup.after.iter().find(|(other, _)| other == name);
        let (_, folder) = made.context("a checkpoint's model is in the table")?;
        let starts = all.iter().find(|a| a.name == lineup.reference.0);
        let ends = all.iter().find(|a| a.name == *name);
        let points = room.ask_checkpoints(name, folder, run, machine)?;
        let seed = questions.sampling.seed;
        let first = starts.map(|answers| answers.point(0, seed));
        // The model that was published: under a KL budget perhaps that of an earlier step.
        let step = steps(run).unwrap_or_else(|| points.last().map_or(1, |p| p.step + 1));
        let published = ends.map(|answers| Point {
            published: true,
            ..answers.point(step, seed)
        });
        let others = points.into_iter().filter(|point| point.step != step);
        let mut path: Vec<Point> = first.into_iter().chain(others).chain(published).collect();
        path.sort_by_key(|point| point.step);
        paths.push((name.clone(), path));
    }

    let reference = all
        .iter()
        .find(|a| a.name == lineup.reference.0)
        .context("the reference answers too")?;
    let seed = questions.sampling.seed;
    let models = all
        .iter()
        .map(|answers| row(answers, reference, seed))
        .collect();
    let examples = (0..questions.examples.min(room.prompts.len()))
        // Spread over the file, whose neighbours are often alike.
        .map(|i| i * room.prompts.len() / questions.examples)
        .map(|i| Example {
            prompt: room.prompts[i].text.to_string(),
            answers: all
                .iter()
                .map(|a| (a.name.clone(), a.texts[i].clone().into()))
                .collect(),
        })
        .collect();
    let answers = (0..room.prompts.len())
        .map(|i| {
            let told = all.iter().map(|a| (a.name.clone(), a.told(i)));
            json!({
                "prompt": room.prompts[i].text.to_string(),
                "answers": Map::from_iter(told),
            })
        })
        .collect();
    Ok(Evaluation {
        models,
        answers,
        reference: lineup.reference.0.clone(),
        prompts: room.prompts.len(),
        examples,
        paths,
        rounds: Vec::new(),
        seconds: started.elapsed().as_secs_f64(),
        out: PathBuf::new(),
    })
}

/// The step whose model the finished run in `run` has published.
fn steps(run: &Path) -> Option<u64> {
    let result = history::result(run)?;
    result.get("published").or(result.get("steps"))?.as_u64()
}

fn load(folder: &Path, machine: &Machine) -> anyhow::Result<LanguageModel> {
    machine
        .load(folder)
        .with_context(|| format!("loading {}", folder.display()))
}

/// What stays the same while one model after the other answers.
struct Room<'a> {
    prompts: Vec<PromptRow>,
    sampling: &'a SamplingConfig,
    reference: LanguageModel,
    reward: Option<Box<dyn Scorer>>,
    /// The second opinion.
    second: Option<Box<dyn Scorer>>,
    judge: Judge,
    micro_batch_tokens: usize,
    comm: Comm,
}

impl<'a> Room<'a> {
    fn open(lineup: &Lineup, questions: &'a Questions, machine: &Machine) -> anyhow::Result<Self> {
        let reference = load(&lineup.reference.1, machine)?;
        let open = |source: &RewardSource| {
            let (bases, dtype, device) = (&machine.bases, machine.dtype, &machine.device);
            source.open(bases, dtype, device, questions.reward_timeout)
        };
        let reward = lineup.reward.as_ref().map(open).transpose()?;
        let second = questions.judge.as_ref().map(open).transpose();
        let second = second.context("eval.judge")?;
        let all = read_and_tell::<Prompt>(&questions.files, &questions.reading)?;
        let Loaded {
            rows,
            mut tolerance,
            ..
        } = questions.choose(all)?;
        let mut prompts = Vec::new();
        for Placed { record, place } in rows {
            let ids = reference.tokenizer.encode_prompt(&record.prompt);
            if let Some(ids) = tolerance.keep(&place, ids)? {
                prompts.push(PromptRow {
                    text: record.prompt,
                    ids,
                    fields: record.fields,
                });
            }
        }
        tell_skipped(&tolerance);
        if prompts.is_empty() {
            return Err(usage!("no prompt is left to compare models on"));
        }
        Ok(Self {
            prompts,
            sampling: &questions.sampling,
            micro_batch_tokens: micro_batch_tokens(&reference.config, false, &machine.device),
            comm: machine.comm.clone(),
            reference,
            reward,
            second,
            judge: Judge::new(),
        })
    }

    /// One response a prompt.
    fn ask(&self, name: &str, model: &LanguageModel) -> anyhow::Result<Answers> {
        let causal = CausalLm::new(&model.config, &model.params.frozen())?;
        // Each model reads the prompt by its own tokenizer.
        let mut prompts = self.prompts.clone();
        for prompt in &mut prompts {
            prompt.ids = model.tokenizer.encode_prompt(&prompt.text)?;
        }
        let tokenizer = &model.tokenizer;
        let episodes = respond(&causal, tokenizer, &prompts, 1, self.sampling, &self.comm)?;
        let rewards = self.rewards(model, &prompts, &episodes)?;
        let kl = Kl::Measured(self.kl(model, &causal, &prompts, &episodes)?);
        self.answers(
            name,
            model,
            &prompts,
            episodes.iter().collect(),
            rewards,
            kl,
        )
    }

    /// What the checkpoints of the run say, in the order of their steps; `folder` holds the model that the run has published.
    fn ask_checkpoints(
        &self,
        name: &str,
        folder: &Path,
        run: &Path,
        machine: &Machine,
    ) -> anyhow::Result<Vec<Point>> {
        let mut points = Vec::new();
        for (step, weights) in rlhf_train::policies_of_checkpoints(run)? {
            machine.check_interrupt()?;
            let model = (machine.bases)
                .as_trained(folder, machine.dtype, &machine.device)
                .with_context(|| format!("loading {}", folder.display()))?;
            (model.params.restore(&weights))
                .with_context(|| format!("{}: checkpoint of step {step}", run.display()))?;
            points.push(self.ask(name, &model)?.point(step, self.sampling.seed));
        }
        Ok(points)
    }

    /// The reference's own response (its KL to itself is 0), and with a reward model its best of n.
    ///
    /// A response depends on prompt and sample alone, so the first of n is the very response of a single one.
    fn ask_reference(&self, name: &str, n: usize) -> anyhow::Result<Vec<Answers>> {
        let model = &self.reference;
        let n = if self.reward.is_some() { n.max(1) } else { 1 };
        let causal = CausalLm::new(&model.config, &model.params.frozen())?;
        let (tokenizer, prompts) = (&model.tokenizer, &self.prompts);
        let episodes = respond(&causal, tokenizer, prompts, n, self.sampling, &self.comm)?;
        let rewards = self.rewards(model, &self.prompts, &episodes)?;
        let chosen = |name: &str, chosen: &[usize], kl| {
            let own = |rewards: &Vec<f64>| chosen.iter().map(|&i| rewards[i]).collect();
            let scores = rewards.as_ref().map(own);
            let episodes = chosen.iter().map(|&i| &episodes[i]).collect();
            self.answers(name, model, &self.prompts, episodes, scores, kl)
        };
        let first: Vec<usize> = (0..self.prompts.len()).map(|prompt| prompt * n).collect();
        let mut all = vec![chosen(name, &first, Kl::Measured(0.0))?];
        if let Some(rewards) = rewards.as_ref().filter(|_| n > 1) {
            let kl = Kl::AtMost(best_of_n_kl_bound(n));
            all.push(chosen(&format!("best_of_{n}"), &best_of_n(rewards, n), kl)?);
        }
        Ok(all)
    }

    fn rewards(
        &self,
        model: &LanguageModel,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> anyhow::Result<Option<Vec<f64>>> {
        match &self.reward {
            Some(reward) => self.scores(&**reward, model, prompts, episodes).map(Some),
            None => Ok(None),
        }
    }

    fn scores(
        &self,
        reward: &dyn Scorer,
        model: &LanguageModel,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> anyhow::Result<Vec<f64>> {
        Ok(scores_together(reward, &model.tokenizer, prompts, episodes, &self.comm)?.0)
    }

    /// Mean over responses of Σₜ (log π − log π_ref), both by the training forward at the sampling temperature.
    fn kl(
        &self,
        model: &LanguageModel,
        causal: &CausalLm,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> anyhow::Result<f64> {
        let ids: Vec<Vec<u32>> = prompts.iter().map(|p| p.ids.clone()).collect();
        if !model.tokenizer.encodes_like(&self.reference.tokenizer) {
            return Err(usage!(
                "the models have different tokenizers, so there is no KL between them: compare models made from the same one"
            ));
        }
        let reference = CausalLm::new(&self.reference.config, &self.reference.params.frozen())?;
        let (tau, micro_batch_tokens) = (self.sampling.temperature, self.micro_batch_tokens);
        let logprobs = |of: &CausalLm| {
            response_logprobs(of, &ids, episodes, tau, micro_batch_tokens, &self.comm)
        };
        Ok(statistics::mean(&kl_per_episode(
            &logprobs(causal)?,
            &logprobs(&reference)?,
        )))
    }

    fn answers(
        &self,
        name: &str,
        model: &LanguageModel,
        prompts: &[PromptRow],
        episodes: Vec<&Episode>,
        rewards: Option<Vec<f64>>,
        kl: Kl,
    ) -> anyhow::Result<Answers> {
        let judged = match &self.second {
            Some(second) => {
                let episodes: Vec<Episode> = episodes.iter().map(|it| (*it).clone()).collect();
                let scores = self.scores(&**second, model, prompts, &episodes);
                Some(scores.context("eval.judge")?)
            }
            None => None,
        };
        let mut texts = Vec::with_capacity(episodes.len());
        let mut gold = Vec::with_capacity(episodes.len());
        for (prompt, episode) in prompts.iter().zip(episodes) {
            let text = episode.text(&model.tokenizer, prompts)?;
            gold.push(
                self.judge
                    .gold(&prompt.text.to_string(), &text, episode.finished),
            );
            texts.push(text);
        }
        Ok(Answers {
            name: name.to_owned(),
            texts,
            gold,
            rewards,
            judged,
            kl,
        })
    }
}

fn row(answers: &Answers, reference: &Answers, seed: u64) -> ModelRow {
    let gold: Option<Vec<Gold>> = answers.gold.iter().cloned().collect();
    let scores = |answers: &Answers| {
        (answers.gold_scores())
            .or_else(|| answers.judged.clone())
            .or_else(|| answers.rewards.clone())
    };
    let wins: Option<Vec<f64>> = (answers.name != reference.name)
        .then(|| {
            Some(
                scores(answers)?
                    .iter()
                    .zip(&scores(reference)?)
                    .map(|(a, b)| win(*a, *b))
                    .collect(),
            )
        })
        .flatten();
    let (kl, kl_bound) = match answers.kl {
        Kl::Measured(kl) => (kl, false),
        Kl::AtMost(kl) => (kl, true),
    };
    ModelRow {
        name: answers.name.clone(),
        gold: gold.map(|gold| {
            let mean = |part: fn(&Gold) -> f64| {
                statistics::mean(&gold.iter().map(part).collect::<Vec<_>>())
            };
            GoldRow {
                gold: mean(Gold::score),
                gold_ci: interval(&gold.iter().map(Gold::score).collect::<Vec<_>>(), seed),
                truthful: mean(|g| g.truthful),
                helpful: mean(|g| g.helpful),
                harmless: mean(|g| g.harmless),
                well_formed: mean(|g| g.well_formed),
            }
        }),
        judge: answers.judged.as_deref().map(statistics::mean),
        judge_ci: answers.judged.as_deref().map(|it| interval(it, seed)),
        reward: answers.rewards.as_deref().map(statistics::mean),
        reward_ci: answers.rewards.as_deref().map(|it| interval(it, seed)),
        kl,
        kl_bound,
        win_rate: wins.as_ref().map(|wins| statistics::mean(wins)),
        win_rate_ci: wins.as_ref().map(|wins| {
            let (low, high) =
                statistics::wilson_interval(statistics::mean(wins), wins.len() as f64);
            [low, high]
        }),
    }
}
