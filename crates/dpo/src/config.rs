//! Settings of learning from preferences, `[dpo]` in a configuration file.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use rlhf_train::feedback::Ties;
use rlhf_train::{Range, Training};

use crate::loss::Loss;

rlhf_train::settings! {
    /// Settings of `rlhf dpo`.
    pub struct Config {
        /// Policy and reference start here, usually the SFT run: a run, a directory, a GGUF file or a hub id.
        pub model: String = "runs/sft".into(),
        /// Human feedback (pairs, rankings, choices of the best; thumbs for `kto`): files, folders or data sets of the hub; empty means the
        /// bundled rankings.
        pub prefs: Vec<PathBuf> = Vec::new(),
        /// Held-out feedback; empty keeps back a share of the prompts.
        pub eval_prefs: Vec<PathBuf> = Vec::new(),
        /// Share of the prompts kept back for evaluation when `eval_prefs` is empty.
        pub eval_fraction: f64 = 0.1 => 0.0..1.0,
        /// The loss: `sigmoid` (DPO), `ipo` or `hinge` of the gap between two implicit rewards, or `kto`, of each answer by itself.
        pub loss: Loss = Loss::Sigmoid,
        /// β: how dear it is to move away from the reference; small values let the policy move further.
        pub beta: f64 = 0.1 => Range::above(0.0, 1e3),
        /// ε of `sigmoid`: the share of labels believed to be flipped.
        pub label_smoothing: f64 = 0.0 => 0.0..0.5,
        /// Take the mean log-probability of an answer's tokens, not their sum: long answers then count no more than short ones. TRL's IPO
        /// takes means, the paper sums.
        pub normalise: bool = false,
        /// μ: a pair with a strength (a difference of scores, a preference from 1 to 3) and no margin of its own gets the margin
        /// μ·strength, by which the gap of its rewards is to exceed zero; 0 leaves strengths unused.
        pub margin_per_strength: f64 = 0.0 => 0.0..=1e3,
        /// What a tied pair of a ranking contributes: `half` its symmetric term, `skip` nothing.
        pub ties: Ties = Ties::Half,
        /// λ_D of `kto`: weight of liked answers.
        pub desirable_weight: f64 = 1.0 => 0.0..=1e3,
        /// λ_U of `kto`: weight of disliked answers. The authors advise that λ_D times the liked ones be 1 to 4/3 of λ_U times the
        /// disliked ones.
        pub undesirable_weight: f64 = 1.0 => 0.0..=1e3,
        /// Weight of the loss that spreads tokens evenly over the experts of a mixture of experts; absent takes what its config.json says:
        /// router_aux_loss_coef where output_router_logits is on, else 0.
        pub router_aux_loss_coef: Option<f64> = None => 0.0..=100.0,
        /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Take plain strings as they are, although the model has a chat template; the model is then asked so too.
        pub raw: bool = false,
        /// Longest prompt plus response in tokens; longer rows are cut, counted and reported; absent takes 1024, or what the model reads
        /// if that is less.
        pub max_length: Option<usize> = None => 1..=10_000_000,
    }
    parts {
        /// How the policy learns from the feedback.
        pub training: Training = Training {
            lr: 5e-6,
            ..Training::default()
        },
    }
}

impl Config {
    /// Errors on settings that the loss has no place for.
    pub(crate) fn validate(&self) -> Result<()> {
        let (name, defaults) = (self.loss.name(), Self::default());
        let of = |loss: Loss| self.loss == loss;
        ensure!(
            self.label_smoothing == 0.0 || of(Loss::Sigmoid),
            "dpo.label_smoothing is {}, and dpo.loss = \"{name}\" has no place for it: leave out one of the two",
            self.label_smoothing
        );
        ensure!(
            self.margin_per_strength == 0.0 || of(Loss::Sigmoid) || of(Loss::Hinge),
            "dpo.margin_per_strength is {}, and dpo.loss = \"{name}\" knows no margins: leave out one of the two",
            self.margin_per_strength
        );
        ensure!(
            self.ties == defaults.ties || !of(Loss::Kto),
            "dpo.ties says what a tied pair contributes, and dpo.loss = \"kto\" compares no pairs: leave out one of the two"
        );
        for (setting, weight) in [
            ("desirable_weight", self.desirable_weight),
            ("undesirable_weight", self.undesirable_weight),
        ] {
            ensure!(
                weight == 1.0 || of(Loss::Kto),
                "dpo.{setting} is {weight}, and dpo.loss = \"{name}\" compares answers with each other: it is for \"kto\""
            );
        }
        ensure!(
            self.desirable_weight > 0.0 || self.undesirable_weight > 0.0,
            "dpo.desirable_weight and dpo.undesirable_weight are both 0, so that nothing would be learnt"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loss_has_no_place_for_is_refused_by_name() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        for (change, named) in [
            (
                (|c| (c.loss, c.label_smoothing) = (Loss::Ipo, 0.1)) as fn(&mut Config),
                "dpo.label_smoothing is 0.1",
            ),
            (
                |c| (c.loss, c.margin_per_strength) = (Loss::Ipo, 1.0),
                "dpo.margin_per_strength is 1",
            ),
            (|c| (c.loss, c.ties) = (Loss::Kto, Ties::Skip), "dpo.ties"),
            (|c| c.desirable_weight = 2.0, "dpo.desirable_weight is 2"),
            (
                |c| c.undesirable_weight = 2.0,
                "dpo.undesirable_weight is 2",
            ),
            (
                |c| (c.loss, c.desirable_weight, c.undesirable_weight) = (Loss::Kto, 0.0, 0.0),
                "both 0",
            ),
        ] {
            let said = refused(change);
            assert!(said.contains(named), "{said}");
        }
        Config::default().validate().unwrap();
    }
}
