//! The numbers that one PPO step leaves in `metrics.jsonl`.

use std::time::Instant;

use anyhow::Result;
use rlhf_train::statistics;
use serde_json::{Map, Value, json};

use crate::config::CriticKind;
use crate::kl::KlEstimator;
use crate::loss::UpdateStats;
use crate::train::Ppo;
use crate::trajectory::Trajectory;
use crate::updates::Updates;

impl Ppo<'_> {
    /// The numbers of one step, under the names people know from TRL and its ancestors, over response tokens only.
    pub(crate) fn record(
        &self,
        step: u64,
        t: &Trajectory,
        updates: &Updates,
        (beta, lr): (f64, f64),
        clock: &Clock,
    ) -> Result<Map<String, Value>> {
        let config = self.config;
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
        let penalty = -beta * statistics::mean(&per_episode(config.kl_estimator));
        let score = statistics::mean(&t.scores);
        let entropy = -t
            .logprobs
            .iter()
            .flatten()
            .map(|p| f64::from(*p))
            .sum::<f64>()
            / episodes;
        let end = self.language_model.tokenizer.eos_id()?;
        let ended = t
            .episodes
            .iter()
            .filter(|e| e.response.last() == Some(&end))
            .count();
        let tokens: usize = t.episodes.iter().map(|e| e.response.len()).sum();
        let prompt_tokens: usize = t.prompts.iter().map(Vec::len).sum();
        let over_epochs = |pick: fn(&UpdateStats) -> f64| {
            updates.per_epoch.iter().map(pick).sum::<f64>() / updates.per_epoch.len().max(1) as f64
        };
        let by_epoch = |pick: fn(&UpdateStats) -> f64| {
            Value::from(updates.per_epoch.iter().map(pick).collect::<Vec<_>>())
        };
        let ratio = over_epochs(|s| s.ratio);

        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("episode", json!((step + 1) * t.episodes.len() as u64));
        put("objective/kl", json!(kl));
        put("objective/kl_k3", json!(statistics::mean(&k3)));
        put("objective/kl_k3_se", json!(statistics::standard_error(&k3)));
        put("objective/entropy", json!(entropy));
        put("objective/non_score_reward", json!(penalty));
        put("objective/rlhf_reward", json!(score + penalty));
        put("objective/scores", json!(score));
        put("policy/approxkl_avg", json!(over_epochs(|s| s.approx_kl)));
        put("policy/approxkl_by_epoch", by_epoch(|s| s.approx_kl));
        put(
            "policy/clipfrac_avg",
            json!(over_epochs(|s| s.clip_fraction)),
        );
        put("policy/clipfrac_by_epoch", by_epoch(|s| s.clip_fraction));
        put("policy/entropy_avg", json!(over_epochs(|s| s.entropy)));
        put("loss/policy_avg", json!(over_epochs(|s| s.policy_loss)));
        put("loss/value_avg", json!(updates.value_loss));
        if config.ptx_coef > 0.0 {
            put("loss/ptx_avg", json!(updates.ptx_loss));
        }
        put("val/clipfrac_avg", json!(updates.value_clip_fraction));
        put("val/ratio", json!(ratio));
        put(
            "val/ratio_var",
            json!(over_epochs(|s| s.ratio_squared) - ratio * ratio),
        );
        put("val/num_eos_tokens", json!(ended));
        put(
            "val/explained_variance",
            json!(explained_variance(&t.values, &t.returns)),
        );
        put("lr", json!(lr));
        put("kl_coef", json!(beta));
        put("grad_norm/policy", json!(updates.policy_grad_norm));
        if config.critic == CriticKind::Separate {
            put("grad_norm/critic", json!(updates.critic_grad_norm));
        }
        put("optimizer_steps", json!(updates.optimizer_steps));
        put("skipped_updates", json!(updates.skipped));
        put("stopped_early", json!(updates.stopped_early));
        put("response/length", json!(tokens as f64 / episodes));
        put(
            "response/eos_fraction",
            json!(t.episodes.iter().filter(|e| e.finished).count() as f64 / episodes),
        );
        put("tokens", json!(prompt_tokens + tokens));
        for (name, seconds) in &clock.laps {
            put(&format!("time/{name}"), json!(seconds));
        }
        put(
            "tokens_per_second",
            json!((prompt_tokens + tokens) as f64 / clock.total()),
        );
        Ok(line)
    }
}

/// `1 − Var(R − V) / Var(R)`: 1 when the critic foresees every return, 0 when it is no better than their mean.
fn explained_variance(values: &[Vec<f32>], returns: &[Vec<f64>]) -> f64 {
    let returns: Vec<f64> = returns.iter().flatten().copied().collect();
    let errors: Vec<f64> = values
        .iter()
        .flatten()
        .zip(&returns)
        .map(|(v, r)| r - f64::from(*v))
        .collect();
    let variance = |x: &[f64]| {
        let mean = statistics::mean(x);
        x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64
    };
    1.0 - variance(&errors) / variance(&returns)
}

/// Wall-clock seconds of the parts of a step.
pub(crate) struct Clock {
    begun: Instant,
    last: Instant,
    laps: Vec<(&'static str, f64)>,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    pub(crate) fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }

    fn total(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}
