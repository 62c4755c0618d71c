//! The configuration file that `rlhf init` writes for what it was given: every choice with its reason.

use std::path::PathBuf;

use rlhf_lm::Outline;
use rlhf_train::{micro_batch_tokens, readable_bytes};
use toml::Value;

use super::choices::{
    EPISODES, Learns, RANK, answers_each, batch, bytes_needed, epochs, fits, lr, round_up, share,
    steps, uncertainty,
};
use super::look::{Rows, names, quantile};
use super::text::Text;

/// What there is to make a pipeline of.
pub(super) struct Given {
    /// The model as it was named, and what is known of it.
    pub(super) model: String,
    pub(super) outline: Outline,
    pub(super) is_adapter: bool,
    pub(super) data: Option<Rows>,
    pub(super) prefs: Option<Rows>,
    pub(super) prompts: Option<Rows>,
    /// Bytes of memory that are free.
    pub(super) free: u64,
    /// The command line.
    pub(super) typed: String,
    /// The file that is written.
    pub(super) out: String,
}

fn files(files: &[PathBuf]) -> Value {
    let named = files
        .iter()
        .map(|file| Value::from(file.display().to_string()));
    Value::Array(named.collect())
}

impl Given {
    /// Rows of the three kinds, with the flags that named them.
    fn rows(&self) -> impl Iterator<Item = &Rows> {
        [&self.data, &self.prefs, &self.prompts]
            .into_iter()
            .flatten()
    }

    /// Whether a policy is to be improved: there is feedback, or there are prompts whose answers can be judged.
    fn has_ppo(&self) -> bool {
        self.prefs.is_some() || self.prompts.is_some()
    }

    /// Whether an adapter is trained, and why.
    fn lora(&self) -> Option<String> {
        let needed = bytes_needed(&self.outline, false, self.has_ppo());
        let (needed, free) = (readable_bytes(needed), readable_bytes(self.free));
        if self.is_adapter {
            return Some(format!(
                "{} is an adapter, whose training goes on.",
                self.model
            ));
        }
        if self.outline.gguf_bytes.is_some() {
            return Some(format!(
                "The model is a GGUF file: under an adapter its layers stay in their quantised blocks and take no more memory than in the file. \
                 Training all weights would turn them into f32 and take about {needed}."
            ));
        }
        (!fits(bytes_needed(&self.outline, false, self.has_ppo()), self.free)).then(|| {
            format!(
                "Training all weights would take about {needed} (weights, gradients and two moments, of policy and critic; reference and \
                 reward model), and {free} are free: so a small adapter is trained, over weights that stay as they are."
            )
        })
    }

    /// The whole file.
    pub(super) fn text(&self) -> String {
        let mut text = Text::default();
        let lora = self.lora();
        self.head(&mut text);
        if let Some(why) = &lora {
            text.section("lora", why);
            text.set(
                "rank",
                RANK as i64,
                "Usual, and enough for the sizes this program trains; twice the rank is twice the adapter.",
            );
        }
        let lora = lora.is_some();
        if let Some(data) = &self.data {
            self.sft(&mut text, data, lora);
        }
        match (&self.prefs, &self.prompts) {
            (None, None) => {
                text.verbatim("\n");
                text.comment(
                    "Next, to learn what is better: judge answers with `rlhf label --save prefs.jsonl`, then `rlhf init` again with --prefs, or \
                     `rlhf dpo --prefs prefs.jsonl`.",
                );
            }
            (prefs, prompts) => {
                if prefs.is_none() {
                    label(&mut text);
                }
                self.reward(&mut text, prefs.as_ref(), lora);
                self.ppo(&mut text, prompts.as_ref(), lora);
            }
        }
        text.finish()
    }

    fn head(&self, text: &mut Text) {
        let outline = &self.outline;
        text.comment(&format!(
            "Written by `{}` (rlhf {}); change what you like, every setting is in `rlhf STAGE --help`.",
            self.typed,
            env!("CARGO_PKG_VERSION")
        ));
        text.comment("");
        text.comment(&format!(
            "model: {}, {:.1} million parameters, reads {} tokens, {} chat template",
            outline.config.model_type(),
            outline.parameters as f64 / 1e6,
            outline.config.max_length(),
            match outline.tokenizer.has_chat_template() {
                true => "has a",
                false => "no",
            }
        ));
        for rows in self.rows() {
            text.comment(&format!("{}: {}", rows.names(), rows.described()));
        }
        text.comment(&format!("memory: {} free", readable_bytes(self.free)));
        text.comment("");
        text.comment(&format!(
            "`rlhf run {0} --dry-run` says what would happen; `rlhf run {0}` runs every stage, and ends with a table of all models.",
            self.out
        ));
    }

    fn model(&self, text: &mut Text) {
        let said = match self.outline.tokenizer.has_chat_template() {
            true => "Asked through its chat template, strings too.",
            false => {
                "It has no chat template: prompt and answer are put together as they stand in the rows, so a prompt ends with a blank or a line break."
            }
        };
        text.set("model", self.model.as_str(), said);
    }

    /// `max_length` for rows of these lengths.
    fn max_length(&self, text: &mut Text, rows: &Rows, what: &str) {
        let most = self.outline.config.max_length();
        let enough = quantile(&rows.row_tokens, 0.99);
        let chosen = round_up(enough.max(1), 64).min(most);
        let cut = rows.row_tokens.iter().filter(|&&n| n > chosen).count();
        let longest = rows.row_tokens.last().copied().unwrap_or(0);
        let cut = match cut {
            0 => "none is cut".to_owned(),
            n => format!("{n} are longer, up to {longest}, and cut there"),
        };
        text.set(
            "max_length",
            chosen as i64,
            &format!("Tokens of {what}, at most: 99 of 100 rows have no more than {enough}; {cut}. The model reads {most}."),
        );
    }

    /// What a stage over rows has in common: how it walks over them and how fast.
    fn walk(&self, text: &mut Text, count: usize, what: Learns, lora: bool) {
        let of = match what {
            Learns::Feedback => "prompts",
            _ => "rows",
        };
        let size = batch(count);
        let passes = match what {
            Learns::Feedback => epochs(count, size).min(2),
            _ => epochs(count, size),
        };
        let all = steps(count, size, passes);
        text.set(
            "batch",
            size as i64,
            &format!(
                "{} steps in a pass over {count} {of}.",
                steps(count, size, 1)
            ),
        );
        let more = match what {
            Learns::Feedback => "A reward model overfits soon.",
            _ => "A further pass would mostly memorise.",
        };
        text.set(
            "epochs",
            passes as i64,
            &format!("{all} steps in all. {more}"),
        );
        self.rate(text, what, lora);
        text.set(
            "warmup",
            (all / 20) as i64,
            "Steps over which the learning rate rises: a twentieth of all.",
        );
        text.set(
            "eval_every",
            (all / 5).max(1) as i64,
            "Measured on what is held out five times on the way.",
        );
    }

    fn rate(&self, text: &mut Text, what: Learns, lora: bool) {
        let millions = self.outline.parameters as f64 / 1e6;
        let why = match lora {
            true => "An adapter bears a larger rate than all weights.".to_owned(),
            false => {
                format!("For {millions:.0} million parameters; smaller models bear larger rates.")
            }
        };
        text.set("lr", lr(what, self.outline.parameters, lora), &why);
    }

    fn held_out(&self, text: &mut Text, prompts: usize, share: f64, use_of_it: &str) {
        let n = (prompts as f64 * share) as usize;
        text.set(
            "eval_fraction",
            share,
            &format!("Of {prompts} different prompts {n} are kept back, by prompt, so that none is on both sides: {use_of_it}"),
        );
    }

    fn sft(&self, text: &mut Text, data: &Rows, lora: bool) {
        text.section("sft", "Imitate the demonstrations.");
        self.model(text);
        text.set("data", files(&data.files), &data.counted());
        self.max_length(text, data, "a row");
        let share = share(data.prompts);
        self.held_out(
            text,
            data.prompts,
            share,
            "their loss says when imitating becomes memorising.",
        );
        let trained = data.rows - (data.rows as f64 * share) as usize;
        self.walk(text, trained, Learns::Demonstrations, lora);
    }

    fn reward(&self, text: &mut Text, prefs: Option<&Rows>, lora: bool) {
        text.section(
            "reward",
            "Learn from the feedback which answer people prefer.",
        );
        if self.data.is_none() {
            self.model(text);
        }
        let Some(prefs) = prefs else {
            self.rate(text, Learns::Feedback, lora);
            text.set(
                "eval_fraction",
                0.2,
                "Of few judgements a fifth is kept back: they say how good the reward model is, and set the scale of its scores.",
            );
            return;
        };
        text.set("prefs", files(&prefs.files), &prefs.counted());
        self.max_length(text, prefs, "prompt and answer");
        let share = share(prefs.prompts);
        let n = (prefs.prompts as f64 * share) as usize;
        self.held_out(
            text,
            prefs.prompts,
            share,
            &format!(
                "they say how good the reward model is (accuracy to about ±{:.0} points) and set the scale of its scores.",
                100.0 * uncertainty(n)
            ),
        );
        let trained = prefs.prompts.max(1) - n;
        self.walk(text, trained, Learns::Feedback, lora);
    }

    fn ppo(&self, text: &mut Text, prompts: Option<&Rows>, lora: bool) {
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
        let kept = asked.prompts - (asked.prompts as f64 * share) as usize;
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
            &format!("So a step asks {distinct} of {kept} prompts."),
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
        let tokens = micro_batch_tokens(&self.outline.config, false);
        text.comment(&format!(
            "micro_batch_tokens chooses itself: {tokens} tokens at a time, half a gibibyte of activations."
        ));
    }

    /// How long prompts and answers may be.
    fn lengths(&self, text: &mut Text, asked: &Rows) {
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
        let length = wanted.clamp(16, 512.min(most / 2));
        text.set(
            "response_length",
            length as i64,
            &format!("{why} Longer ones cost time, and a response that does not end scores −1."),
        );
        let longest = quantile(&asked.prompt_tokens, 0.99);
        let allowed = round_up(longest.max(1), 64).min(most - length);
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
}

fn label(text: &mut Text) {
    text.section(
        "label",
        "Nothing says yet which answers are better: so after [sft] you are asked, on a page, and the reward model learns from what you say. Stop \
         when you like; the same command goes on.",
    );
    text.set("items", 100_i64, "Pairs to judge; about an hour.");
    text.set(
        "rounds",
        1_i64,
        "With 2 the improved model's answers are judged again, and so on.",
    );
}
