//! What a report says about the metrics of the reward model.

use rlhf_base::caption::Caption;
use rlhf_train::captions::{
    EPOCH, EVAL_LOSS, GRAD_NORM, LOSS, LR, RANKS_SECONDS, STEP_SECONDS, TOKENS, TOKENS_PER_SECOND,
};

/// The captions of this stage's metrics, in the order of its page.
pub const CAPTIONS: &[Caption] = &[
    LOSS,
    EVAL_LOSS,
    Caption::main(
        "accuracy",
        "Accuracy in training",
        "How often the reward model scores the preferred answer higher, on the rows of this step. One half is guessing.",
    ),
    Caption::main(
        "eval/accuracy",
        "Held-out accuracy",
        "How often the reward model agrees with the annotators on rows never trained on. One half is guessing; annotators disagree among themselves, so one cannot be reached.",
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
        "eval/heads_accuracy",
        "Held-out accuracy of the heads",
        "The accuracy of the mean of the small heads (reward.heads) on the same comparisons. It should be near that of the model.",
    ),
    Caption::health(
        "eval/heads_sd",
        "Disagreement of the heads",
        "The standard deviation over the heads of a held-out score, in units of the spread of scores. Near zero the heads agree and pessimism changes nothing; near one they know no more than chance.",
    ),
    Caption::health(
        "eval/comparisons",
        "Held-out comparisons",
        "How many comparisons the held-out accuracy is over.",
    ),
    Caption::health(
        "eval/longer_wins",
        "\"The longer answer wins\"",
        "The accuracy of this rule on the same comparisons. A reward model that is no better has learned length.",
    ),
    Caption::health(
        "eval/kendall_tau",
        "Rank agreement",
        "Kendall's τ between scores and annotators' ranks: 1 is the same order, 0 is no agreement.",
    ),
    Caption::health(
        "eval/spearman",
        "Rank correlation with ratings",
        "Spearman's ρ: 1 is the same order, 0 is no correlation.",
    ),
    Caption::health(
        "eval/pearson",
        "Correlation with ratings",
        "Pearson's r: 1 is a straight line, 0 is no correlation.",
    ),
    Caption::health(
        "eval/auc",
        "Area under the curve",
        "The probability that a liked answer scores above a disliked one.",
    ),
    GRAD_NORM,
    EPOCH,
    LR,
    TOKENS_PER_SECOND,
    TOKENS,
    STEP_SECONDS,
    RANKS_SECONDS,
];
