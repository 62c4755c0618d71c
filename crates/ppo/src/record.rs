//! The numbers that one PPO step leaves in `metrics.jsonl`.

use anyhow::Result;
use rlhf_train::statistics;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::critic::CriticMetrics;
use crate::kl::{KlEstimator, KlIn};
use crate::loss::UpdateStats;
use crate::policy_optimization::PolicyOptimization;
use crate::rewards::MissingEos;
use crate::trajectory::Trajectory;
use crate::updates::Updates;

impl PolicyOptimization {
    /// The numbers of one step, under the names people know from TRL and its ancestors, over response tokens only. Those of a critic, of
    /// demonstrations and of a KL penalty in the loss are there where the objective has them.
    pub(crate) fn record(
        &self,
        step: u64,
        t: &Trajectory,
        updates: &Updates,
        (beta, lr): (f64, f64),
        clock: &Clock,
    ) -> Result<Map<String, Value>> {
        let config = &self.config;
        let episodes = t.episodes.len() as f64;
        let per_episode = |estimator: KlEstimator| -> Vec<f64> {
            let sum = |(p, r): (&Vec<f32>, &Vec<f32>)| {
                p.iter()
                    .zip(r)
                    .map(|(p, r)| estimator.estimate(*p, *r))
                    .sum()
            };
            t.logprobs.iter().zip(&t.ref_logprobs).map(sum).collect()
        };
        let kl = statistics::mean(&per_episode(KlEstimator::K1));
        let k3 = per_episode(KlEstimator::K3);
        let in_reward = config.kl_in.reward_coef(beta);
        let penalty = -in_reward * statistics::mean(&per_episode(config.kl_estimator));
        let score = statistics::mean(&t.scores);
        let logprobs = t.logprobs.iter().flatten().map(|p| f64::from(*p));
        let entropy = -logprobs.sum::<f64>() / episodes;
        let ends = self.language_model.tokenizer.end_ids();
        let ended = t.episodes.iter();
        let ended = ended
            .filter(|e| e.response.last().is_some_and(|id| ends.contains(id)))
            .count();
        let tokens: usize = t.episodes.iter().map(|e| e.response.len()).sum();
        let prompt_tokens: usize = t.prompts.iter().map(Vec::len).sum();
        let over_epochs = |pick: fn(&UpdateStats) -> f64| {
            let sum = updates.per_epoch.iter().map(pick).sum::<f64>();
            json!(sum / updates.per_epoch.len().max(1) as f64)
        };
        let by_epoch = |pick: fn(&UpdateStats) -> f64| {
            json!(updates.per_epoch.iter().map(pick).collect::<Vec<_>>())
        };
        let (ratio, ratio_var) = updates.ratio();
        let critic = self.critic.as_ref().zip(t.critic.as_ref());
        let critic = critic.map(|(critic, targets)| critic.metrics(targets, updates));
        let critic = |pick: fn(&CriticMetrics) -> Option<f64>| {
            let number = critic.as_ref().and_then(pick);
            number.map(Value::from)
        };
        let only = |present: bool, number: f64| present.then(|| json!(number));
        let by_prompt = config.advantage.compares_responses();
        let finished = t.episodes.iter().filter(|e| e.finished).count() as f64;

        let numbers = [
            ("episode", Some(json!((step + 1) * t.episodes.len() as u64))),
            ("objective/kl", Some(json!(kl))),
            ("objective/kl_k3", Some(json!(statistics::mean(&k3)))),
            (
                "objective/kl_k3_se",
                Some(json!(statistics::standard_error(&k3))),
            ),
            ("objective/entropy", Some(json!(entropy))),
            ("objective/non_score_reward", Some(json!(penalty))),
            ("objective/rlhf_reward", Some(json!(score + penalty))),
            ("objective/scores", Some(json!(score))),
            (
                "objective/score_sd",
                t.sd.as_deref().map(|sd| json!(statistics::mean(sd))),
            ),
            (
                "objective/score_range",
                t.score_range(by_prompt).map(Value::from),
            ),
            (
                "objective/equal_groups",
                by_prompt.then(|| json!(t.equal_groups())),
            ),
            (
                "objective/missing_eos",
                only(
                    config.conventions().missing_eos != MissingEos::None,
                    statistics::mean(&t.missing_eos),
                ),
            ),
            ("policy/approxkl_avg", Some(over_epochs(|s| s.approx_kl))),
            ("policy/approxkl_by_epoch", Some(by_epoch(|s| s.approx_kl))),
            (
                "policy/clipfrac_avg",
                Some(over_epochs(|s| s.clip_fraction)),
            ),
            (
                "policy/clipfrac_by_epoch",
                Some(by_epoch(|s| s.clip_fraction)),
            ),
            ("policy/entropy_avg", Some(over_epochs(|s| s.entropy))),
            ("loss/policy_avg", Some(over_epochs(|s| s.policy_loss))),
            (
                "loss/kl_avg",
                only(config.kl_in == KlIn::Loss, updates.kl_loss),
            ),
            ("loss/value_avg", critic(|c| Some(c.loss))),
            (
                "loss/ptx_avg",
                only(config.ptx_coef > 0.0, updates.ptx_loss),
            ),
            ("val/clipfrac_avg", critic(|c| Some(c.clip_fraction))),
            ("val/ratio", Some(json!(ratio))),
            ("val/ratio_var", Some(json!(ratio_var))),
            ("val/num_eos_tokens", Some(json!(ended))),
            (
                "val/explained_variance",
                critic(|c| Some(c.explained_variance)),
            ),
            ("lr", Some(json!(lr))),
            ("kl_coef", Some(json!(beta))),
            ("grad_norm/policy", Some(json!(updates.policy_grad_norm))),
            ("grad_norm/critic", critic(|c| c.grad_norm)),
            ("optimizer_steps", Some(json!(updates.optimizer_steps))),
            ("skipped_updates", Some(json!(updates.skipped))),
            ("stopped_early", Some(json!(updates.stopped_early))),
            ("response/length", Some(json!(tokens as f64 / episodes))),
            ("response/eos_fraction", Some(json!(finished / episodes))),
            ("tokens", Some(json!(prompt_tokens + tokens))),
        ];
        let sampler = config.sampler_metrics(&t.drawings, &t.logprobs).into_iter();
        let sampler = sampler.map(|(name, number)| (name.to_owned(), number));
        let times = clock.laps.iter();
        let times = times.map(|(name, seconds)| (format!("time/{name}"), json!(seconds)));
        let per_second = json!((prompt_tokens + tokens) as f64 / clock.total());
        Ok(numbers
            .into_iter()
            .filter_map(|(name, number)| Some((name.to_owned(), number?)))
            .chain(sampler)
            .chain(times)
            .chain([("tokens_per_second".to_owned(), per_second)])
            .collect())
    }
}
