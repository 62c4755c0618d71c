//! Captions of the metrics that several stages write; a stage puts them into its own list, which is the order of its page.

use rlhf_base::caption::Caption;

/// The training loss of the step.
pub const LOSS: Caption = Caption::main(
    "loss",
    "Loss",
    "What training minimises. It should fall, quickly at first; the shape says more than the value.",
);
/// The loss on held-out rows.
pub const EVAL_LOSS: Caption = Caption::main(
    "eval/loss",
    "Held-out loss",
    "The same loss on rows never trained on. When it rises while the training loss falls, the model is memorising.",
);
/// The global gradient norm.
pub const GRAD_NORM: Caption = Caption::health(
    "grad_norm",
    "Gradient norm",
    "The norm of the gradient before clipping. Spikes mark unusual batches; steady growth marks instability.",
);
/// How unevenly experts are used.
pub const LOAD_BALANCING: Caption = Caption::health(
    "load_balancing",
    "Load balancing",
    "Of a mixture of experts, how unevenly its experts are used: the number of experts that a token gets where all are used alike, and more the more some are \
        preferred. It rises where training sends ever more tokens to few experts; the setting router_aux_loss_coef works against that.",
);
/// Epochs so far.
pub const EPOCH: Caption = Caption::speed("epoch", "Epochs", "Passes over the data so far.");
/// The learning rate.
pub const LR: Caption = Caption::health("lr", "Learning rate", "As scheduled.");
/// Throughput.
pub const TOKENS_PER_SECOND: Caption = Caption::speed(
    "tokens_per_second",
    "Tokens per second",
    "Throughput of the step.",
);
/// Tokens processed.
pub const TOKENS: Caption = Caption::speed("tokens", "Tokens", "Processed so far, or in the step.");
/// Seconds of a step in which the leader waited for other ranks.
pub const RANKS_SECONDS: Caption = Caption::speed(
    "time/ranks",
    "Seconds for other ranks",
    "Of a step: what the first of several processes has waited for the others or exchanged with them.",
);
/// Seconds of an optimizer step.
pub const STEP_SECONDS: Caption = Caption::speed(
    "time/step",
    "Seconds per step",
    "Forward, backward and the optimizer.",
);
