//! Settings of supervised fine-tuning, `[sft]` in a configuration file.

use std::path::PathBuf;

use rlhf_train::{ScheduleKind, Training};

rlhf_train::settings! {
    /// Settings of `rlhf sft`.
    pub struct Config {
        /// The model to fine-tune: a run, a directory, a GGUF file or a hub id (gpt2, org/name, org/name@revision); empty means
        /// the bundled one.
        pub model: String = String::new(),
        /// Demonstrations, {"prompt", "completion"} or {"messages"}: files, folders or data sets of the hub; empty means the bundled ones.
        pub data: Vec<PathBuf> = Vec::new(),
        /// Held-out demonstrations for the loss that is reported; empty keeps back a share of the prompts.
        pub eval_data: Vec<PathBuf> = Vec::new(),
        /// Share of the prompts kept back for evaluation when `eval_data` is empty.
        pub eval_fraction: f64 = 0.05 => 0.0..1.0,
        /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
        pub allow_special: bool = false,
        /// Take plain strings as they are, although the model has a chat template; the model is then asked so too.
        pub raw: bool = false,
        /// Rows are cut to this many tokens; absent takes 1024, or what the model reads if that is less.
        pub max_length: Option<usize> = None => 1..=10_000_000,
        /// Weight of the loss that spreads tokens evenly over the experts of a mixture of experts; absent takes what its config.json says:
        /// router_aux_loss_coef where output_router_logits is on, else 0.
        pub router_aux_loss_coef: Option<f64> = None => 0.0..=100.0,
        /// Let the prompt's tokens carry loss too.
        pub train_on_prompt: bool = false,
        /// Take answers with a thumb up as demonstrations and leave out those with a thumb down; without this, rows with thumbs are
        /// refused.
        pub liked_only: bool = false,
    }
    parts {
        /// How the model learns from the rows.
        pub training: Training = Training {
            schedule: ScheduleKind::Cosine,
            ..Training::default()
        },
    }
}
