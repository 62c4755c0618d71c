//! The configuration file that `rlhf init` writes for what it was given: every choice with its reason.

mod ppo;
mod rows;

use std::path::PathBuf;

use rlhf_lm::Outline;
use rlhf_train::readable_bytes;
use toml::Value;

use super::choices::{How, RANK, bytes_needed, how};
use super::look::Rows;
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

    /// How the model is trained.
    fn how(&self) -> How {
        let must = self.is_adapter || self.outline.is_gguf;
        how(&self.outline, must, self.sampled(), self.free)
    }

    /// Bytes that `how` takes, for people.
    fn bytes(&self, how: How) -> String {
        readable_bytes(bytes_needed(&self.outline, how, self.sampled()))
    }

    /// Why an adapter is trained.
    fn why_adapter(&self) -> String {
        let all = self.bytes(How {
            lora: false,
            recompute: true,
        });
        if self.is_adapter {
            return format!("{} is an adapter, whose training goes on.", self.model);
        }
        if self.outline.is_gguf {
            return format!(
                "The model is a GGUF file: under an adapter its layers stay in their quantised blocks and take no more memory than in the file. \
                 Training all weights would turn them into f32 and take about {all}."
            );
        }
        format!(
            "Training all weights would take about {all} (weights, gradients and two moments, of policy and critic; reference and reward \
             model), and {} are free: so a small adapter is trained, over weights that stay as they are.",
            readable_bytes(self.free)
        )
    }

    /// `[run]` and `[lora]`, where memory asks for them.
    fn memory(&self, text: &mut Text, how: How) {
        if how.recompute {
            let kept = How {
                recompute: false,
                ..how
            };
            text.section("run", "What is computed, and how.");
            text.set(
                "recompute",
                true,
                &format!(
                    "Activations are computed again in place of being kept: about {}, with all kept {}; {} are free.",
                    self.bytes(how),
                    self.bytes(kept),
                    readable_bytes(self.free)
                ),
            );
        }
        if how.lora {
            text.section("lora", &self.why_adapter());
            text.set(
                "rank",
                RANK as i64,
                "Usual, and enough for the sizes this program trains; twice the rank is twice the adapter.",
            );
        }
    }

    /// The whole file.
    pub(super) fn text(&self) -> String {
        let mut text = Text::default();
        let how = self.how();
        self.head(&mut text);
        self.memory(&mut text, how);
        let lora = how.lora;
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
            outline.size.parameters as f64 / 1e6,
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
