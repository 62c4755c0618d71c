//! A run: step after step, with evaluations, checkpoints and, at the end, the policy to publish.

use std::rc::Rc;

use anyhow::{Result, bail};
use rand::RngCore;
use rlhf_base::rng::stream;
use rlhf_lm::{CausalLm, SaveDtype};
use rlhf_rollout::{Evaluation, Evaluator, ScoredAnswers, SideBySide};
use rlhf_train::{Interrupted, Metrics, Pace, Progress, RunDir, Session};
use serde_json::{Map, Value, json};

use crate::guards::blame_training;
use crate::policy_optimization::PolicyOptimization;
use crate::signs::Signs;

/// The result of a finished run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// PPO steps made.
    pub steps: u64,
    /// The step whose policy was published: the last, or under `max_kl` the best within the budget.
    pub published: u64,
    /// Whether the KL budget ended the run before its last step.
    pub stopped_by_kl: bool,
    /// On held-out prompts, at the end.
    pub evaluation: Evaluation,
}

impl PolicyOptimization {
    /// All steps, from the latest checkpoint if the run resumes; the policy ends up in `final/`.
    pub(crate) fn train(&mut self, session: &Session, dir: &RunDir) -> Result<Outcome> {
        let config = Rc::clone(&self.config);
        self.skipped = Some(dir.skipped_dir());
        let mut done = self.resume(dir)?;
        let mut metrics = dir.metrics()?;
        let mut save_clock = session.saving.clock();
        let mut progress = Progress::new(session.progress, "ppo", config.steps, "step");
        let mut stopped_by_kl = false;
        let mut pace = Pace::new(&self.comm);
        let mut signs = Signs::after(&dir.logged()?);
        // A budget needs points to choose from.
        let eval_every = match (config.eval_every, config.max_kl) {
            (0, Some(_)) => (config.steps / 10).max(1),
            (every, _) => every,
        };
        // Logged with the first step: a run that fails before it leaves nothing behind.
        let mut start = match done {
            0 => Some(self.evaluate_start()?),
            _ => None,
        };
        if let Some(start) = &start {
            self.keep_if_best(0, start)?;
        }

        while done < config.steps && !stopped_by_kl {
            let (trajectory, mut record) = self.step(done)?;
            pace.step(&self.comm, &mut record)?;
            done += 1;
            if let Some(start) = start.take() {
                metrics.log(0, &start.metrics())?;
            }
            metrics.log(done, &record)?;
            self.log_samples(done, &trajectory, number(&record, "kl_coef"), dir)?;
            let (kl, score) = (
                number(&record, "objective/kl"),
                number(&record, "objective/scores"),
            );
            let shown = [
                ("score", score),
                ("kl", kl),
                ("length", number(&record, "response/length")),
                ("ended", number(&record, "response/eos_fraction")),
            ];
            progress.tick(done, &shown, number(&record, "tokens") as u64);

            for warning in signs.observe(&record) {
                tracing::warn!("step {done}: {warning}");
            }
            if let Some(budget) = config.max_kl.filter(|budget| kl > *budget) {
                tracing::warn!(
                    "step {done}: the KL to the reference is {kl:.2}, above the budget ppo.max_kl = {budget}: stopping here"
                );
                stopped_by_kl = true;
            }
            if stopped_by_kl || done == config.steps {
                continue;
            }
            if eval_every > 0 && done.is_multiple_of(eval_every) {
                let evaluation = self
                    .evaluate()
                    .map_err(|error| blame_training(done, error))?;
                self.keep_if_best(done, &evaluation)?;
                metrics.log(done, &evaluation.metrics())?;
                progress.say(&format!("{} after step {done}", evaluation.headline()));
            }
            let asked = [session.interrupt.requested(), save_clock.due()];
            let [stop, by_time] = self.comm.any(asked)?;
            let nothing_to_learn = signs.nothing_to_learn().filter(|_| !config.keep_going);
            let due = config.save_every > 0 && done.is_multiple_of(config.save_every);
            if stop || nothing_to_learn.is_some() || due || by_time {
                self.check_before_checkpoint(done, &trajectory)?;
                dir.checkpoint_save(&self.checkpoint(done)?, session.saving.keep)?;
                save_clock.saved();
            }
            if let Some(why) = nothing_to_learn {
                bail!(
                    "PPO step {done}: {why}. The checkpoint of this step is kept: mend the cause and start anew (--overwrite), or go on \
                     all the same with --resume --keep-going (in a configuration ppo.keep_going = true)"
                );
            }
            if stop {
                return Err(Interrupted { step: done }.into());
            }
        }
        progress.finish();

        let (published, evaluation) = self.publish(done, &mut metrics, session, dir)?;
        Ok(Outcome {
            steps: done,
            published,
            stopped_by_kl,
            evaluation,
        })
    }

    /// Writes `final/` after the last step: the policy as it is, or under a budget the best within it. Returns the step it is from
    /// and its evaluation on held-out prompts.
    fn publish(
        &mut self,
        done: u64,
        metrics: &mut Metrics,
        session: &Session,
        dir: &RunDir,
    ) -> Result<(u64, Evaluation)> {
        let evaluated = self.evaluate();
        let mut evaluation = evaluated.map_err(|error| blame_training(done, error))?;
        metrics.log(done, &evaluation.metrics())?;
        self.keep_if_best(done, &evaluation)?;
        let mut published = done;
        if let Some(best) = self.best.take().filter(|best| best.step != done) {
            self.policy.params.restore(&best.params)?;
            published = best.step;
            evaluation = self.evaluate()?;
            session.progress.say(&format!(
                "publishing the policy of step {published}, whose score on held-out prompts is the highest within ppo.max_kl"
            ));
        }
        for sample in evaluation.samples.iter().take(self.config.log_samples) {
            dir.append_sample(&json!({ "step": published, "kind": "eval", "sample": sample }))?;
        }
        let answered: Vec<_> = (evaluation.samples.iter())
            .map(SideBySide::answered)
            .collect();
        dir.write_answers(&answered)?;
        dir.publish(|folder| -> Result<()> {
            Ok(self.language_model.save(folder, SaveDtype::F32)?)
        })?;
        Ok((published, evaluation))
    }

    /// The policy on held-out prompts, beside the reference's answers to the same prompts, which are computed once.
    pub(crate) fn evaluate(&mut self) -> Result<Evaluation> {
        self.evaluate_by(|evaluator, policy, answers| evaluator.measure(policy, answers))
    }

    /// The policy before it has moved: the reference's answers are its own.
    fn evaluate_start(&mut self) -> Result<Evaluation> {
        self.evaluate_by(|evaluator, _, answers| evaluator.start(answers))
    }

    fn evaluate_by(
        &mut self,
        measure: impl Fn(&Evaluator<'_>, &CausalLm, &ScoredAnswers) -> Result<Evaluation>,
    ) -> Result<Evaluation> {
        let seed = stream(self.seed, "eval", 0).next_u64();
        let evaluator = Evaluator {
            prompts: &self.held_out,
            reference: &self.reference,
            reward: &*self.reward,
            score_rule: &|score, finished| self.config.score_rule(score, finished),
            tokenizer: &self.language_model.tokenizer,
            sampling: self.config.sampling(seed),
            micro_batch_tokens: self.micro_batch_tokens,
            comm: &self.comm,
        };
        let answers = match self.reference_answers.take() {
            Some(answers) => answers,
            None => evaluator.answers(&self.reference)?,
        };
        let evaluation = measure(&evaluator, &self.policy.view, &answers)?;
        self.reference_answers = Some(answers);
        Ok(evaluation)
    }
}

/// A number of a step's record; NaN when it is not there.
fn number(record: &Map<String, Value>, name: &str) -> f64 {
    record.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
