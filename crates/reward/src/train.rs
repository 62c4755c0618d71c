//! Training a reward model from human feedback.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rlhf_dataset::order::{micro_batches, step_rows};
use rlhf_lm::{Gradients, ModelConfig, Params, RewardCard, RewardModel, ScalarModel, Tokenizer};
use rlhf_train::feedback::{Counts, Item, Judgement, Report, report};
use rlhf_train::{
    Checkpoint, DiskUse, Extent, Finding, Interrupted, LossMonitor, MemoryItem, Plan, Prepared,
    Progress, RunDir, Session, Summary, check_finite, check_update,
};
use serde_json::{Map, json};

use crate::calibrate::calibrate;
use crate::config::Config;
use crate::loss::{best_of_loss, centering_loss, comparison_loss, rating_loss, thumbs_loss};
use crate::scores::{Batch, raw_scores};

/// The result of a finished run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Optimizer steps made.
    pub steps: u64,
    /// Loss per prompt of the last step.
    pub loss: f64,
    /// How well held-out feedback is predicted.
    pub report: Report,
}

/// A scalar model with a fresh head on a language model's trunk, and the feedback it is to learn.
pub(crate) struct RewardModelling {
    pub(crate) config: Config,
    pub(crate) extent: Extent,
    pub(crate) model: ModelConfig,
    pub(crate) params: Params,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) items: Vec<Item>,
    pub(crate) held_out: Vec<Item>,
    pub(crate) counts: Counts,
    /// The language model it starts from, in words.
    pub(crate) described: String,
    /// What was cut, left out, or flatters.
    pub(crate) warnings: Vec<String>,
}

impl Prepared for RewardModelling {
    fn plan(&self, session: &Session) -> Result<Plan> {
        let items = &self.items;
        let tokens: usize = items.iter().map(Item::tokens).sum();
        let responses: usize = items.iter().map(|item| item.responses.len()).sum();
        let parameters = self.params.num_trainable() as u64;
        let batch = self.extent.rows_per_step;
        let per_step = self.extent.tokens_per_step(tokens);
        let mut memory = MemoryItem::trained("model", &self.params);
        let micro_batch_tokens = self.extent.micro_batch_tokens;
        let held = (per_step as u64).min(micro_batch_tokens as u64);
        memory.push(MemoryItem::activations(
            held,
            &self.model,
            session.recompute,
        ));
        let example = &items[0];
        let (end, response) = example.responses[0]
            .split_last()
            .context("a response without its EOS token")?;
        let given = [&example.prompt, response].concat();
        let tokenizer = &self.tokenizer;
        Ok(Plan {
            stage: "reward".into(),
            model: self.model.model_type().into(),
            parameters,
            data: vec![(
                "prompts".into(),
                format!(
                    "{} with {responses} responses, {tokens} tokens",
                    items.len()
                ),
            )],
            batch: format!(
                "{batch} prompts a step, about {per_step:.0} tokens, in micro-batches of at most {micro_batch_tokens} tokens"
            ),
            steps: self.extent.steps,
            tokens: self.extent.tokens_of_run(tokens),
            at_most: false,
            notes: self.config.training.notes("reward", &self.extent),
            memory,
            disk: DiskUse {
                checkpoints: DiskUse::checkpoints_at_once(
                    self.config.training.saves(self.extent.steps),
                    session.saving.keep,
                ),
                checkpoint: DiskUse::CHECKPOINT * parameters,
                model: DiskUse::model(&self.params),
            },
            device: session.describe_device(),
            example: vec![
                (tokenizer.spell_out(&[], &given)?, false),
                (tokenizer.spell_out(&given, &[*end])?, true),
            ],
        })
    }

    fn check(&mut self) -> Vec<Finding> {
        let tokens: usize = self.items.iter().map(Item::tokens).sum();
        let found = format!(
            "{} prompts to train on, {} held out; {tokens} tokens",
            self.items.len(),
            self.held_out.len()
        );
        vec![
            Finding::new("model", self.described.clone(), &[]),
            Finding::new("data", found, &self.warnings),
        ]
    }

    /// Minimises the loss per prompt over the feedback with AdamW, then measures the scale of the scores.
    fn run(&mut self, session: &Session, dir: &RunDir) -> Result<Summary> {
        let (config, training) = (&self.config, &self.config.training);
        let (params, items, held_out) = (&self.params, &self.items, &self.held_out);
        let Extent {
            steps_per_epoch,
            steps,
            schedule,
            micro_batch_tokens,
            ..
        } = self.extent;
        let model =
            ScalarModel::new(&self.model, params)?.gradient_checkpointing(session.recompute);
        let evaluated = ScalarModel::new(&self.model, &params.frozen())?;
        let evaluate = || -> Result<(Vec<Vec<f64>>, Report)> {
            let scores = raw_scores(&evaluated, held_out, micro_batch_tokens)?;
            let report = report(held_out, &scores, self.counts);
            Ok((scores, report))
        };
        let mut optimizer = training.optimizer();
        let mut first = 0;
        if let Some(checkpoint) = dir.resume()? {
            checkpoint.restore(params, &mut optimizer)?;
            first = checkpoint.step;
            tracing::info!("resuming after step {first}");
        }
        let mut metrics = dir.metrics()?;
        let mut save_clock = session.saving.clock();
        let mut progress = Progress::new(session.progress, "reward", steps, "step");
        let mut monitor = LossMonitor::after(&dir.logged()?);
        let mut last_loss = f64::NAN;
        let mut checked = false;

        let loss_of = |items: &[&Item], share: f32| -> Result<Tensor> {
            let packed = Batch::pack(items, &session.device)?;
            let hidden = model
                .hidden(&packed.packed)?
                .index_select(&packed.last, 0)?;
            feedback_loss(&model.scores(&hidden)?, items, share, config)
        };
        for step in first..steps {
            let begun = Instant::now();
            let order = step_rows(
                session.seed,
                items.len(),
                training.batch,
                training.shuffle,
                step,
            );
            let batch: Vec<&Item> = order.iter().map(|&i| &items[i]).collect();
            let tokens: usize = batch.iter().map(|item| item.tokens()).sum();
            let share = 1.0 / batch.len() as f32;

            let mut gradients = Gradients::new();
            let mut total = Tensor::zeros((), DType::F32, &session.device)?;
            let lengths: Vec<usize> = batch.iter().map(|item| item.tokens()).collect();
            for micro in micro_batches(&lengths, micro_batch_tokens) {
                let loss = loss_of(&batch[micro], share)?;
                gradients.accumulate(params, &loss)?;
                total = (total + loss.detach())?;
            }
            last_loss = f64::from(Gradients::read(&total, &[&gradients])?[0]);
            if !checked {
                // A comparison stays the same when all scores move by one amount.
                checked = gradients.check_all_but(params, self.model.shared_shifts())?;
            }
            check_finite(step + 1, "the loss", last_loss)?;
            let lr = schedule.lr(training.lr, step);
            let grad_norm = optimizer
                .step(params, &gradients, lr, training.clip())
                .with_context(|| format!("step {}", step + 1))?;
            drop(gradients);

            let done = step + 1;
            let seconds = begun.elapsed().as_secs_f64();
            let line = Map::from_iter([
                ("loss".to_owned(), json!(last_loss)),
                ("grad_norm".to_owned(), json!(grad_norm)),
                ("lr".to_owned(), json!(lr)),
                ("tokens".to_owned(), json!(tokens)),
                (
                    "epoch".to_owned(),
                    json!(done as f64 / steps_per_epoch as f64),
                ),
                ("time/step".to_owned(), json!(seconds)),
                (
                    "tokens_per_second".to_owned(),
                    json!(tokens as f64 / seconds),
                ),
            ]);
            metrics.log(done, &line)?;
            if let Some(warning) = monitor.observe(done, &line) {
                tracing::warn!("reward: {warning}");
            }
            if done < steps && training.evaluates_after(done, steps) {
                let report = evaluate()?.1;
                metrics.log(done, &report.metrics())?;
                progress.say(&format!("{} after step {done}", report.headline()));
            }
            progress.tick(done, &[("loss", last_loss)], tokens as u64);

            let stop = session.interrupt.requested() && done < steps;
            let save =
                stop || training.saves_after(done, steps) || done < steps && save_clock.due();
            if save || done == steps {
                check_update(done, params, &loss_of(&batch[..1], 1.0)?)?;
            }
            if save {
                let checkpoint = Checkpoint::of(done, params, &optimizer)?;
                dir.checkpoint_save(&checkpoint, session.saving.keep)?;
                save_clock.saved();
            }
            if stop {
                return Err(Interrupted { step: done }.into());
            }
        }
        progress.finish();

        let (scores, report) = evaluate()?;
        metrics.log(steps, &report.metrics())?;
        let card = card(config, held_out, &scores, &report)?;
        dir.publish(|folder| -> Result<()> {
            Ok(RewardModel::save(
                folder,
                &self.model,
                params,
                &self.tokenizer,
                &card,
            )?)
        })?;
        let text = format!("steps {steps}, last loss {last_loss:.4}\n{report}");
        let outcome = Outcome {
            steps,
            loss: last_loss,
            report,
        };
        Summary::new(&outcome, text)
    }
}

/// Loss of a micro-batch; each prompt weighs `share`, whatever its kind of feedback and number of responses.
fn feedback_loss(scores: &Tensor, items: &[&Item], share: f32, config: &Config) -> Result<Tensor> {
    let mut loss = Tensor::zeros((), DType::F32, scores.device())?;
    // Terms of the pairwise loss, and the larger set of terms that centering applies to.
    let (mut comparisons, mut centred) = (Vec::new(), Vec::new());
    // (index of the score, target) of responses judged by themselves.
    let (mut ratings, mut thumbs) = (Vec::new(), Vec::new());
    let mut first = 0;
    for item in items {
        let terms = item.comparisons(first, config.ties, share);
        centred.extend_from_slice(&terms);
        match &item.judgement {
            Judgement::Ranks { .. } => comparisons.extend(terms),
            Judgement::Best(best) => {
                let own = scores.narrow(0, first, item.responses.len())?;
                let one = best_of_loss(&own, *best, config.label_smoothing)?;
                loss = (loss + (one * f64::from(share))?)?;
            }
            Judgement::Rating(rating) => ratings.push((first as u32, *rating as f32)),
            Judgement::Thumbs(up) => thumbs.push((first as u32, f32::from(u8::from(*up)))),
        }
        first += item.responses.len();
    }
    if !comparisons.is_empty() {
        loss = (loss + comparison_loss(scores, &comparisons, config.label_smoothing)?)?;
    }
    if config.center_rewards > 0.0 && !centred.is_empty() {
        loss = (loss + (centering_loss(scores, &centred)? * config.center_rewards)?)?;
    }
    for (judged, per_kind) in [(ratings, rating_loss as LossOfOne), (thumbs, thumbs_loss)] {
        if !judged.is_empty() {
            let (rows, targets): (Vec<u32>, Vec<f32>) = judged.into_iter().unzip();
            let weights = Tensor::full(share, targets.len(), scores.device())?;
            let chosen = scores.index_select(&Tensor::new(rows, scores.device())?, 0)?;
            loss = (loss + per_kind(&chosen, &Tensor::new(targets, scores.device())?, &weights)?)?;
        }
    }
    Ok(loss)
}

type LossOfOne = fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>;

/// The content of `reward.json`: the scale of held-out scores, and probe texts with their scores.
fn card(
    config: &Config,
    held_out: &[Item],
    scores: &[Vec<f64>],
    report: &Report,
) -> Result<RewardCard> {
    let (calibration, probes) = calibrate(held_out, scores)?;
    // Names, not paths: the folder may be published.
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        let names = paths.iter().filter_map(|path| path.file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    };
    Ok(RewardCard {
        calibration: Some(calibration),
        trained: json!({ "from": config.model, "prefs": names(&config.prefs), "report": report }),
        probes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rlhf_base::Text;
    use rlhf_train::feedback::Ties;

    /// A pair with a margin, a ranking with a tie, a choice of the best, a rating and a thumb down, with their scores.
    fn one_of_each() -> (Vec<Item>, Tensor) {
        let judgements = [
            Judgement::Ranks {
                ranks: vec![1.0, 2.0],
                margin: 0.5,
                preference: 1.0,
            },
            Judgement::Ranks {
                ranks: vec![1.0, 2.0, 2.0, 4.0],
                margin: 0.0,
                preference: 1.0,
            },
            Judgement::Best(0),
            Judgement::Rating(0.25),
            Judgement::Thumbs(false),
        ];
        let items = judgements.into_iter().zip([2, 4, 4, 1, 1]);
        let items = items.map(|(judgement, responses)| Item {
            prompt: vec![1],
            responses: vec![vec![2]; responses],
            judgement,
            source: None,
            whole: true,
            texts: (Text::from(""), Vec::new()),
        });
        let scores = [
            2.0f32, 1.0, 2.0, 1.0, 0.5, -1.0, 2.0, 1.0, 0.5, -1.0, 1.5, 2.0,
        ];
        let scores = Tensor::new(&scores, &candle_core::Device::Cpu).unwrap();
        (items.collect(), scores)
    }

    /// The loss of a step that is cut into micro-batches of this many prompts.
    fn loss_of(config: &Config, parts: &[usize]) -> f64 {
        let (items, scores) = one_of_each();
        let (mut items, mut first) = (items.iter(), 0);
        let mut total = 0.0;
        for &prompts in parts {
            let part: Vec<&Item> = items.by_ref().take(prompts).collect();
            let own: usize = part.iter().map(|item| item.responses.len()).sum();
            let scores = scores.narrow(0, first, own).unwrap();
            let loss = feedback_loss(&scores, &part, 0.2, config).unwrap();
            total += f64::from(loss.to_scalar::<f32>().unwrap());
            first += own;
        }
        total
    }

    /// The numbers of scripts/oracle/losses.py for each kind alone, and ½(1.5 − .25)² for the rating; each prompt weighs a fifth.
    #[test]
    fn all_kinds_of_feedback_in_one_batch_weigh_the_same_however_it_is_cut() {
        let rest = 0.474_077 + 0.495_182 + 0.781_25 + 2.126_928;
        for (ties, ranking) in [(Ties::Half, 0.269_280), (Ties::Skip, 0.178_321)] {
            let config = Config {
                ties,
                ..Config::default()
            };
            for parts in [&[5][..], &[1, 1, 1, 1, 1], &[3, 2]] {
                let got = loss_of(&config, parts);
                assert!(
                    (got - 0.2 * (rest + ranking)).abs() < 1e-5,
                    "{ties:?} {parts:?}: {got}"
                );
            }
        }
    }

    /// Written out from the definitions in f64: smoothing is about what is compared, centering about the sums of what is compared.
    #[test]
    fn smoothing_and_centering_reach_pairs_rankings_and_choices_of_the_best_alone() {
        let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
        let smooth = |gap: f64| -0.9 * log_sigmoid(gap) - 0.1 * log_sigmoid(-gap);
        let r = [2.0f64, 1.0, 0.5, -1.0];
        let tie = -0.5 * (log_sigmoid(0.5) + log_sigmoid(-0.5));
        let pairs = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)];
        let ranking = (pairs.iter().map(|&(i, j)| smooth(r[i] - r[j])).sum::<f64>() + tie) / 6.0;
        let total = r.iter().map(|r| r.exp()).sum::<f64>().ln();
        let others = r[1..].iter().map(|r| total - r).sum::<f64>() / 3.0;
        let best = 0.9 * (total - r[0]) + 0.1 * others;
        let alone = 0.781_25 + 2.126_928;
        let square = |(i, j): (usize, usize)| (r[i] + r[j]).powi(2);
        let centering = 9.0
            + (pairs.into_iter().map(square).sum::<f64>() + square((1, 2))) / 6.0
            + [(0, 1), (0, 2), (0, 3)]
                .into_iter()
                .map(square)
                .sum::<f64>()
                / 3.0;
        let config = Config {
            label_smoothing: 0.1,
            center_rewards: 0.01,
            ..Config::default()
        };
        let want = 0.2 * (smooth(0.5) + ranking + best + alone + 0.01 * centering);
        let got = loss_of(&config, &[5]);
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }
}
