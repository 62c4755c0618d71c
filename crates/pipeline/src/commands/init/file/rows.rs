//! The sections `[sft]` and `[reward]`: stages that walk over rows.

use super::super::choices::{Learns, batch, epochs, lr, round_up, share, steps, uncertainty};
use super::super::look::{Rows, quantile};
use super::super::text::Text;
use super::{Given, files};

impl Given {
    pub(super) fn model(&self, text: &mut Text) {
        let said = match self.outline.tokenizer.has_chat_template() {
            true => "Asked through its chat template, strings too.",
            false => {
                "It has no chat template: prompt and answer are put together as they stand in the rows, so a prompt ends with a blank or a line break."
            }
        };
        text.set("model", self.model.as_str(), said);
    }

    /// `max_length` for rows of these lengths.
    pub(super) fn max_length(&self, text: &mut Text, rows: &Rows, what: &str) {
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
    pub(super) fn walk(&self, text: &mut Text, count: usize, what: Learns, lora: bool) {
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
                "{} steps in a pass over {count} rows.",
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

    pub(super) fn rate(&self, text: &mut Text, what: Learns, lora: bool) {
        let millions = self.outline.size.parameters as f64 / 1e6;
        let why = match lora {
            true => "An adapter bears a larger rate than all weights.".to_owned(),
            false => {
                format!("For {millions:.0} million parameters; smaller models bear larger rates.")
            }
        };
        text.set("lr", lr(what, self.outline.size.parameters, lora), &why);
    }

    pub(super) fn held_out(&self, text: &mut Text, prompts: usize, share: f64, use_of_it: &str) {
        let n = (prompts as f64 * share) as usize;
        text.set(
            "eval_fraction",
            share,
            &format!("Of {prompts} different prompts {n} are kept back, by prompt, so that none is on both sides: {use_of_it}"),
        );
    }

    pub(super) fn sft(&self, text: &mut Text, data: &Rows, lora: bool) {
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
        self.walk(text, data.left(share), Learns::Demonstrations, lora);
    }

    pub(super) fn reward(&self, text: &mut Text, prefs: Option<&Rows>, lora: bool) {
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
        self.walk(text, prefs.left(share), Learns::Feedback, lora);
    }
}
