//! A run: step after step, with evaluations, checkpoints and, at the end, the policy to publish.

use anyhow::Result;
use rand::RngCore;
use rlhf_base::rng::stream;
use rlhf_lm::SaveDtype;
use rlhf_train::{Interrupted, Metrics, Progress, Session};
use serde_json::json;

use crate::config::Config;
use crate::eval::{Evaluation, Yardstick};
use crate::guards::{Health, blame_training};
use crate::setup::{number, plan, prepare};
use crate::train::Ppo;

/// What a finished run has to say for itself.
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

/// Runs PPO from `config.model` against `config.reward`; the policy ends up in the run's `final/`.
pub fn train(config: &Config, session: &Session, dir: &rlhf_train::RunDir) -> Result<Outcome> {
    let mut ppo = prepare(config, session, dir)?;
    session.progress.say(&plan(&ppo, session)?.to_string());
    let first = ppo.resume(dir)?;
    let mut metrics = dir.metrics()?;
    let mut progress = Progress::new(session.progress, "ppo", config.steps, "step");
    let mut done = first;
    let mut stopped_by_kl = false;
    let mut health = Health::default();
    // A budget needs points to choose from.
    let eval_every = match (config.eval_every, config.max_kl) {
        (0, Some(_)) => (config.steps / 10).max(1),
        (every, _) => every,
    };
    if config.max_kl.is_some() && ppo.best.is_none() {
        ppo.start_frontier()?;
    }

    while done < config.steps && !stopped_by_kl {
        let (trajectory, record) = ppo.step(done)?;
        done += 1;
        metrics.log(done, &record)?;
        ppo.log_samples(done, &trajectory, number(&record, "kl_coef"), dir)?;
        let (kl, score) = (
            number(&record, "objective/kl"),
            number(&record, "objective/scores"),
        );
        let shown = [
            ("score", score),
            ("kl", kl),
            ("length", number(&record, "response/length")),
        ];
        progress.tick(done, &shown, number(&record, "tokens") as u64);

        let length = number(&record, "response/length");
        for warning in health.watch(length, number(&record, "response/eos_fraction")) {
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
            let evaluation = ppo
                .evaluate()
                .map_err(|error| blame_training(done, error))?;
            ppo.keep_if_best(done, &evaluation)?;
            metrics.log(done, &evaluation.metrics())?;
        }
        let stop = session.interrupt.requested();
        if stop || config.save_every > 0 && done.is_multiple_of(config.save_every) {
            ppo.refuse_to_keep_what_has_diverged(done, &trajectory)?;
            dir.checkpoint_save(&ppo.checkpoint(done)?, 2)?;
        }
        if stop {
            return Err(Interrupted { step: done }.into());
        }
    }
    progress.finish();

    let (published, evaluation) = ppo.publish(done, &mut metrics, session, dir)?;
    Ok(Outcome {
        steps: done,
        published,
        stopped_by_kl,
        evaluation,
    })
}

impl Ppo<'_> {
    /// Writes `final/` after the last step: the policy as it is, or under a budget the best within it. Returns the step it is from
    /// and how it does on held-out prompts.
    fn publish(
        &mut self,
        done: u64,
        metrics: &mut Metrics,
        session: &Session,
        dir: &rlhf_train::RunDir,
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
        dir.publish(|folder| -> Result<()> {
            Ok(self.language_model.save(folder, SaveDtype::F32)?)
        })?;
        Ok((published, evaluation))
    }

    /// The policy on held-out prompts, beside the reference's answers to the same prompts.
    pub(crate) fn evaluate(&mut self) -> Result<Evaluation> {
        let yardstick = Yardstick {
            prompts: &self.held_out,
            reference: &self.reference,
            reward: &self.reward,
            tokenizer: &self.language_model.tokenizer,
            sampling: self
                .config
                .sampling(stream(self.seed, "eval", 0).next_u64()),
            micro_tokens: self.micro_tokens,
        };
        let answers = match self.reference_answers.take() {
            Some(answers) => answers,
            None => yardstick.reference_answers()?,
        };
        let evaluation = yardstick.measure(&self.policy.view, &answers)?;
        self.reference_answers = Some(answers);
        Ok(evaluation)
    }
}
