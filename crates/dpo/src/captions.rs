//! What a report says about the metrics of learning from preferences.

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
        "rewards/margins",
        "Margin of the implicit rewards",
        "How much higher the implicit reward β log π/π_ref of the preferred answer is. It starts at zero and should grow.",
    ),
    Caption::main(
        "rewards/accuracies",
        "Accuracy in training",
        "How often the preferred answer has the higher implicit reward, on the rows of this step. One half is guessing.",
    ),
    Caption::main(
        "eval/accuracy",
        "Held-out accuracy",
        "How often the implicit reward agrees with the annotators on rows never trained on. One half is guessing; annotators disagree among themselves, so one cannot be reached.",
    ),
    Caption::health(
        "eval/accuracy_low",
        "Held-out accuracy, lower end",
        "The lower end of its 95 % interval.",
    ),
    Caption::health(
        "eval/accuracy_high",
        "Held-out accuracy, upper end",
        "The upper end of its 95 % interval.",
    ),
    Caption::health(
        "eval/comparisons",
        "Held-out comparisons",
        "How many comparisons the held-out accuracy is over.",
    ),
    Caption::health(
        "eval/longer_wins",
        "\"The longer answer wins\"",
        "The accuracy of this rule on the same comparisons. A policy that is no better has learned length.",
    ),
    Caption::health(
        "eval/kendall_tau",
        "Rank agreement",
        "Kendall's τ between implicit rewards and annotators' ranks: 1 is the same order, 0 is no agreement.",
    ),
    Caption::health(
        "eval/auc",
        "Area under the curve",
        "The probability that a liked answer has a higher implicit reward than a disliked one.",
    ),
    Caption::health(
        "rewards/chosen",
        "Implicit reward, preferred",
        "β log π/π_ref of preferred answers. If it falls, they too have become less likely than at the start: the policy moves away from both sides.",
    ),
    Caption::health(
        "rewards/rejected",
        "Implicit reward, others",
        "β log π/π_ref of the answers that were not preferred. It should fall below that of the preferred ones.",
    ),
    Caption::health(
        "logps/chosen",
        "Log-probability, preferred",
        "log π of preferred answers, in nats for a whole answer, or for a token if dpo.normalise is set.",
    ),
    Caption::health(
        "logps/rejected",
        "Log-probability, others",
        "The same of the answers that were not preferred.",
    ),
    Caption::health(
        "kl",
        "Reference point z₀",
        "KTO's estimate of how far the policy is from the reference, from answers to other prompts, in nats.",
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
