//! The section `[ppo]`.

use candle_core::Device;
use rlhf_train::{Sampled, micro_batch_tokens};

use super::super::choices::{EPISODES, Learns, answers_each, round_up, share};
use super::super::look::{Rows, names, quantile};
use super::super::text::Text;
use super::{Given, files};

impl Given {
    /// What a step of PPO samples, where a policy is to be improved: there is feedback, or there are prompts whose answers can be judged.
    pub(super) fn sampled(&self) -> Option<Sampled> {
        let asked = self.prompts.as_ref().or(self.prefs.as_ref())?;
        let (response, _) = self.response_length();
        Some(Sampled {
            rows: EPISODES,
            per_prompt: answers_each(kept(asked)),
            prompt: self.prompt_length(asked, response),
            response,
        })
    }

    pub(super) fn ppo(&self, text: &mut Text, prompts: Option<&Rows>, lora: bool) {
        text.section(
            "ppo",
            "Improve the model by what the reward model likes, held close to where it started. `[ppo]` may be `[dpo]` with prefs instead, without \
             a reward model.",
        );
        if self.data.is_none() {
            self.model(text);
        }
        let (asked, why) = match (prompts, &self.prefs, &self.data) {
            (Some(rows), _, _) => (rows, rows.counted()),
            (None, Some(rows), _) | (None, None, Some(rows)) => (
                rows,
                "No prompts were named: those of the feedback, without its answers. Held out are the same ones there and here.".to_owned(),
            ),
            (None, None, None) => return,
        };
        text.set("prompts", files(&asked.files), &why);
        let share = share(asked.prompts);
        self.held_out(
            text,
            asked.prompts,
            share,
            "every model answers them at the end.",
        );
        self.lengths(text, asked);
        let kept = kept(asked);
        let each = answers_each(kept);
        let distinct = EPISODES / each;
        text.set(
            "batch",
            EPISODES as i64,
            "Responses of a step: fewer are too noisy to learn from. Memory does not depend on it.",
        );
        text.set(
            "samples_per_prompt",
            each as i64,
            &format!("So a step asks {distinct} of {kept} different prompts."),
        );
        text.set(
            "minibatches",
            4_i64,
            "With `epochs` at 2: eight optimizer steps for each batch of responses.",
        );
        text.set(
            "epochs",
            2_i64,
            "More would take the policy further from what its responses say.",
        );
        let all = (3 * kept).div_ceil(distinct).clamp(50, 500);
        text.set(
            "steps",
            all as i64,
            &format!(
                "Each prompt is asked about {} times.",
                (all * distinct / kept.max(1)).max(1)
            ),
        );
        self.rate(text, Learns::Policy, lora);
        text.set(
            "kl_coef",
            0.05,
            "The price of moving away from the start. Larger: it stays closer, and the reward rises less.",
        );
        text.set(
            "max_kl",
            10.0,
            "A budget, in nats a response: beyond it the run stops, and the best model within it is published.",
        );
        text.set(
            "score_clip",
            4.0,
            "A reward model is not to be trusted far beyond what it has seen; its scores have a standard deviation of 1.",
        );
        text.set(
            "eval_every",
            (all / 10).max(1) as i64,
            "Held-out prompts are answered ten times on the way.",
        );
        let tokens = micro_batch_tokens(&self.outline.config, self.how().recompute, &Device::Cpu);
        text.comment(&format!(
            "micro_batch_tokens chooses itself: {tokens} tokens at a time on the CPU, half a gibibyte of activations."
        ));
    }

    /// How long prompts and answers may be.
    pub(super) fn lengths(&self, text: &mut Text, asked: &Rows) {
        let most = self.outline.config.max_length();
        let (length, why) = self.response_length();
        text.set(
            "response_length",
            length as i64,
            &format!("{why} Longer ones cost time, and a response that does not end scores −1."),
        );
        let allowed = self.prompt_length(asked, length);
        let left_out = asked.prompt_tokens.iter().filter(|&&n| n > allowed).count();
        text.set(
            "max_prompt_length",
            allowed as i64,
            &match left_out {
                0 => format!("No prompt is longer; with the answer that is within the {most} tokens that the model reads."),
                n => format!("{n} prompts are longer, up to {}, and left out.", asked.prompt_tokens.last().unwrap_or(&0)),
            },
        );
    }

    /// The longest answer, in tokens, and why.
    fn response_length(&self) -> (usize, String) {
        let most = self.outline.config.max_length();
        let mut examples = [&self.data, &self.prefs].into_iter().flatten();
        let from = examples.find(|rows| !rows.answer_tokens.is_empty());
        let (wanted, why) = match from {
            Some(rows) => {
                let enough = quantile(&rows.answer_tokens, 0.95);
                let names = names(&rows.files);
                (
                    round_up(enough, 8),
                    format!("95 of 100 answers in {names} end within {enough} tokens."),
                )
            }
            None => (
                128,
                "There are no answers to measure; an answer that has not ended by then is cut."
                    .to_owned(),
            ),
        };
        (wanted.clamp(16, 512.min(most / 2)), why)
    }

    /// The longest prompt that is taken, in tokens, of those in `asked`, where an answer has up to `response`.
    fn prompt_length(&self, asked: &Rows, response: usize) -> usize {
        let longest = quantile(&asked.prompt_tokens, 0.99);
        round_up(longest.max(1), 64).min(self.outline.config.max_length() - response)
    }
}

/// How many prompts are not held out.
fn kept(asked: &Rows) -> usize {
    asked.prompts - (asked.prompts as f64 * share(asked.prompts)) as usize
}
