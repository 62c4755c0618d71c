//! PPO as a stage: its manual, what it reads, what it finds out before the first step.

use anyhow::{Context as _, Result};
use rlhf_base::caption::Caption;
use rlhf_rollout::{Episode, RewardSource};
use rlhf_train::{
    Bundled, Finding, Makes, MayChange, Plan, Prepared, RunDir, Session, Source, Stage, Summary,
};
use serde_json::{Map, Value};

use crate::captions::CAPTIONS;
use crate::config::Config;
use crate::policy_optimization::PolicyOptimization;
use crate::prepare::Inputs;
use crate::run::Outcome;
use crate::signs::Signs;

/// `rlhf ppo`.
pub struct Ppo;

impl Stage for Ppo {
    const NAME: &'static str = "ppo";
    const TITLE: &'static str = "PPO";
    const ABOUT: &'static str =
        "Improve a language model by PPO against a reward model, held close to where it started";
    const MANUAL: &'static str = "Starts from runs/sft and scores responses with runs/reward; --reward takes another model, a rule, or a program of \
        yours. A step samples responses, scores them, subtracts a KL penalty against the frozen reference, and applies clipped PPO updates \
        towards what scored better than expected. --steps counts such steps. Without --prompts the bundled ones are used.";
    const EXAMPLE: &'static str = "rlhf ppo --steps 1000 --kl-coef 0.05";
    const SHORT_HELP: &'static [&'static str] = &[
        "model",
        "reward",
        "prompts",
        "eval_prompts",
        "steps",
        "batch",
        "samples_per_prompt",
        "epochs",
        "lr",
        "kl_coef",
        "max_kl",
        "temperature",
        "response_length",
        "advantage",
        "eval_every",
    ];
    const MAY_CHANGE: MayChange = MayChange {
        unseen: &["save_every", "reward_timeout", "keep_going"],
        seen: &[
            "steps",
            "micro_batch_tokens",
            "rollout_rows",
            "rollout_lookup",
            "log_samples",
        ],
    };
    const MAKES: Makes = Makes::Policy;
    const CAPTIONS: &'static [Caption] = CAPTIONS;
    const NEXT: (&'static str, &'static str) = ("rlhf chat --model {out}", "");

    type Config = Config;

    fn findings(lines: &[Map<String, Value>]) -> Vec<String> {
        Signs::findings(lines)
    }

    fn validate(config: &Config) -> Result<()> {
        config.validate()
    }

    fn sources(config: &mut Config) -> Result<Vec<Source<'_>>> {
        let Config {
            model,
            reward,
            prompts,
            eval_prompts,
            ptx_coef,
            ptx_data,
            ..
        } = config;
        let mut sources = vec![Source::Model {
            setting: "model",
            name: model,
            made_by: "sft",
            stand_in: None,
        }];
        match reward.parse()? {
            RewardSource::Model(_) => sources.push(Source::Model {
                setting: "reward",
                name: reward,
                made_by: "reward",
                stand_in: Some("length:1"),
            }),
            rule => sources.push(Source::Files(rule.files())),
        }
        sources.push(Source::Data {
            setting: "prompts",
            files: prompts,
            held_out: Some(eval_prompts),
            bundled: Bundled::Prompts,
        });
        if *ptx_coef > 0.0 {
            sources.push(Source::Data {
                setting: "ptx_data",
                files: ptx_data,
                held_out: None,
                bundled: Bundled::Demonstrations,
            });
        }
        Ok(sources)
    }

    fn prepare(config: &Config, session: &Session) -> Result<Box<dyn Prepared>> {
        let inputs = Inputs::load(config, session)?;
        Ok(Box::new(PolicyOptimization::new(config, session, inputs)?))
    }
}

impl Prepared for PolicyOptimization {
    fn plan(&self, session: &Session) -> Result<Plan> {
        PolicyOptimization::plan(self, session)
    }

    fn check(&mut self) -> Vec<Finding> {
        let longest = self.prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
        let found = format!(
            "{} prompts of up to {longest} tokens to train on, {} held out",
            self.prompts.len(),
            self.held_out.len()
        );
        let described = self.language_model.describe();
        vec![
            Finding::of("model", described.map_err(Into::into)),
            Finding::new("data", found, &self.warnings),
            Finding::of("reward", self.score_on_trial()),
        ]
    }

    fn run(&mut self, session: &Session, dir: &RunDir) -> Result<Summary> {
        let outcome = self.train(session, dir)?;
        Summary::new(&outcome, outcome.describe())
    }
}

impl PolicyOptimization {
    /// What the reward makes of an answer.
    fn score_on_trial(&self) -> Result<String> {
        let tokenizer = &self.language_model.tokenizer;
        let mut response = tokenizer.encode("This is an answer.")?;
        response.push(tokenizer.eos_id()?);
        let episode = Episode {
            prompt: 0,
            response,
            finished: true,
        };
        let scores = self
            .reward
            .scores(tokenizer, &self.prompts[..1], &[episode])?;
        let score = scores.first().context("the reward gave no score")?;
        let reward = &self.config.reward;
        Ok(format!("{reward} scores an answer on trial {score:.3}"))
    }
}

impl Outcome {
    fn describe(&self) -> String {
        let stopped = match self.stopped_by_kl {
            true => ", stopped by the KL budget",
            false => "",
        };
        let mut out = format!(
            "steps {}{stopped}, model of step {}\n",
            self.steps, self.published
        );
        let evaluation = &self.evaluation;
        let row = |name: &str, value: f64, rest: &str| format!("{name:<26}{value:>8.3}{rest}\n");
        let interval =
            |[low, high]: [f64; 2]| format!("  [{low:.3}, {high:.3}]  of {}", evaluation.prompts);
        out += &row(
            "score, held out",
            evaluation.score,
            &interval(evaluation.score_ci),
        );
        if evaluation.missing_eos != 0.0 {
            out += &row("  of it for no EOS token", evaluation.missing_eos, "");
        }
        out += &row("score, reference", evaluation.reference_score, "");
        let wins = interval(evaluation.win_rate_ci);
        out += &row("wins over the reference", evaluation.win_rate, &wins);
        out += &row("KL per response, nats", evaluation.kl, "");
        out += &row("length, tokens", evaluation.length, "");
        out += &row("ends by itself", evaluation.eos_fraction, "");
        out
    }
}
