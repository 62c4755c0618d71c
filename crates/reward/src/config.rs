//! Settings of reward-model training, `[reward]` in a configuration file.

use std::path::PathBuf;

use rlhf_train::{Training, feedback::Ties};

rlhf_train::settings! {
    /// Settings of `rlhf reward`.
    pub struct Config {
        /// The language model to start from, usually the SFT run: a run, a directory, a GGUF file or a hub id.
        pub model: String = "runs/sft".into(),
        /// Human feedback (pairs, rankings, choices of the best, ratings, thumbs, mixed): files, folders or data sets of the hub; empty means the bundled
        /// rankings.
        pub prefs: Vec<PathBuf> = Vec::new(),
        /// Held-out feedback; empty keeps back a share of the prompts.
        pub eval_prefs: Vec<PathBuf> = Vec::new(),
        /// Share of the prompts kept back for evaluation and calibration when `eval_prefs` is empty.
        pub eval_fraction: f64 = 0.1 => 0.0..1.0,
        /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Take plain strings as they are, although the model has a chat template; the model is then asked so too.
        pub raw: bool = false,
        /// Longest prompt plus response in tokens; longer rows are cut, counted and reported; absent takes 1024, or what the model reads
        /// if that is less.
        pub max_length: Option<usize> = None => 1..=10_000_000,
        /// The field with the rating, of rows that have several: `helpfulness`, `correctness`, …; absent takes `helpfulness`.
        pub rating_field: Option<String> = None,
        /// μ: a pair with a strength (a difference of scores, a preference from 1 to 3) and no margin of its own gets the margin
        /// μ·strength; 0 leaves strengths unused.
        pub margin_per_strength: f64 = 0.0 => 0.0..=1e3,
        /// What a tied pair of a ranking contributes: `half` its symmetric term, `skip` nothing.
        pub ties: Ties = Ties::Half,
        /// ε: the share of labels believed to be flipped.
        pub label_smoothing: f64 = 0.0 => 0.0..0.5,
        /// λ of the centering term λ·mean((r_c + r_r)²), which keeps rewards near zero; 0 turns it off.
        pub center_rewards: f64 = 0.0 => 0.0..=1e3,
        /// Small heads fitted to the finished model's hidden states (16 is usual), which say how sure its scores are: `rlhf ppo --pessimism` and
        /// `rlhf score` read them. 0: none.
        pub heads: usize = 0 => 0..=256,
    }
    parts {
        /// How the model learns from the feedback; reward models overfit after the first epoch.
        pub training: Training = Training {
            batch: 16,
            lr: 1e-5,
            ..Training::default()
        },
    }
}
