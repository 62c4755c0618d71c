//! What a report says about the metrics of pretraining and supervised fine-tuning.

use rlhf_base::caption::Caption;
use rlhf_train::captions::{
    EPOCH, EVAL_LOSS, GRAD_NORM, LOAD_BALANCING, LOSS, LR, RANKS_SECONDS, STEP_SECONDS, TOKENS,
    TOKENS_PER_SECOND,
};

/// The captions of this stage's metrics, in the order of its page.
pub const CAPTIONS: &[Caption] = &[
    LOSS,
    EVAL_LOSS,
    Caption::main(
        "eval/perplexity",
        "Held-out perplexity",
        "e to the power of the held-out loss: the number of equally likely tokens that the model chooses between, on average. Lower is better.",
    ),
    Caption::health(
        rlhf_train::GUESSING_LOSS,
        "Loss of guessing",
        "ln V: the loss of a model that finds all tokens of the vocabulary equally likely. One that comes back to it has been killed by its learning rate.",
    ),
    LOAD_BALANCING,
    GRAD_NORM,
    EPOCH,
    LR,
    TOKENS_PER_SECOND,
    TOKENS,
    STEP_SECONDS,
    RANKS_SECONDS,
];
