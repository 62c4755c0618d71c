//! What each metric means, in plain words.

/// Where a chart stands on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// What the stage is about.
    Main,
    /// What tells whether it is healthy.
    Health,
    /// What it costs.
    Speed,
}

/// Title, meaning and place of one metric.
pub(crate) struct Caption {
    pub(crate) title: String,
    pub(crate) text: &'static str,
    pub(crate) group: Group,
}

/// The caption of `metric`; a name that is not in the list is shown under its own name.
pub(crate) fn caption(metric: &str) -> Caption {
    match KNOWN.iter().find(|row| row.0 == metric) {
        Some(&(_, group, title, text)) => Caption {
            title: title.to_owned(),
            text,
            group,
        },
        None => Caption {
            title: metric.to_owned(),
            text: if metric.starts_with("time/") {
                "Seconds in a step."
            } else {
                ""
            },
            group: if metric.starts_with("time/") {
                Group::Speed
            } else if metric.starts_with("eval/") {
                Group::Main
            } else {
                Group::Health
            },
        },
    }
}

/// The place of `metric` in the list, which is the order of the page; unknown names come last, by name.
pub(crate) fn place(metric: &str) -> (Group, usize) {
    let place = KNOWN
        .iter()
        .position(|row| row.0 == metric)
        .unwrap_or(KNOWN.len());
    (caption(metric).group, place)
}

use Group::{Health, Main, Speed};

const KNOWN: &[(&str, Group, &str, &str)] = &[
    (
        "loss",
        Main,
        "Loss",
        "What training minimises. It should fall, quickly at first; the shape says more than the value.",
    ),
    (
        "eval/loss",
        Main,
        "Held-out loss",
        "The same loss on rows never trained on. When it rises while the training loss falls, the model is memorising.",
    ),
    (
        "eval/perplexity",
        Main,
        "Held-out perplexity",
        "e to the held-out loss: between how many equally likely tokens the model is torn, on average. Lower is better.",
    ),
    (
        "accuracy",
        Main,
        "Accuracy in training",
        "How often the reward model scores the preferred answer higher, on the rows of this step. One half is guessing.",
    ),
    (
        "eval/accuracy",
        Main,
        "Held-out accuracy",
        "How often the reward model agrees with the annotators on rows never trained on. One half is guessing; annotators disagree among themselves, so one is out of reach.",
    ),
    (
        "objective/scores",
        Main,
        "Score from the reward model",
        "What the reward model thinks of the responses, on average. PPO pushes this up; it is a stand-in for what people want, not the thing itself.",
    ),
    (
        "objective/rlhf_reward",
        Main,
        "Reward after the KL penalty",
        "The score minus the price of moving away from the reference. This is what PPO really maximises.",
    ),
    (
        "objective/kl",
        Main,
        "KL to the reference",
        "How far the policy has moved from where it started, in nats a response. Zero at first; if it runs away, the policy is exploiting the reward model.",
    ),
    (
        "eval/score",
        Main,
        "Held-out score",
        "The reward model's score on prompts never trained on.",
    ),
    (
        "eval/kl",
        Main,
        "Held-out KL",
        "The distance to the reference on prompts never trained on, in nats a response.",
    ),
    (
        "eval/win_rate",
        Main,
        "Held-out wins",
        "How often the policy's answer scores above the reference's on the same prompt, ties half.",
    ),
    (
        "eval/reference_score",
        Health,
        "Held-out score of the reference",
        "What the policy's held-out score is to be compared with.",
    ),
    (
        "eval/length",
        Health,
        "Held-out length",
        "Tokens in a response to a held-out prompt.",
    ),
    (
        "eval/eos_fraction",
        Health,
        "Held-out responses that end",
        "The share that stops by itself.",
    ),
    (
        "eval/accuracy_low",
        Health,
        "Held-out accuracy, lower end",
        "The lower end of its 95 % interval.",
    ),
    (
        "eval/accuracy_high",
        Health,
        "Held-out accuracy, upper end",
        "The upper end of its 95 % interval.",
    ),
    (
        "eval/longer_wins",
        Health,
        "\"The longer answer wins\"",
        "What this rule alone would get on the same comparisons. A reward model that is no better has learned length.",
    ),
    (
        "eval/kendall_tau",
        Health,
        "Rank agreement",
        "Kendall's τ between scores and annotators' ranks: 1 is the same order, 0 is chance.",
    ),
    (
        "eval/spearman",
        Health,
        "Rank correlation with ratings",
        "Spearman's ρ: 1 is the same order, 0 is chance.",
    ),
    (
        "eval/pearson",
        Health,
        "Correlation with ratings",
        "Pearson's r: 1 is a straight line, 0 is chance.",
    ),
    (
        "eval/auc",
        Health,
        "Area under the curve",
        "The chance that a liked answer scores above a disliked one.",
    ),
    (
        "response/length",
        Main,
        "Response length",
        "Tokens in a response. A steady climb often means that the reward model likes long answers; a collapse means that saying little pays.",
    ),
    (
        "response/eos_fraction",
        Main,
        "Responses that end by themselves",
        "The share that stops with the end token before the length limit. It should go towards one.",
    ),
    (
        "objective/non_score_reward",
        Health,
        "KL penalty",
        "What the distance to the reference costs in reward (negative). A visible share of the score, but not the larger part.",
    ),
    (
        "objective/kl_k3",
        Health,
        "KL to the reference, low-variance estimate",
        "The same distance by an estimator that is never negative. Both should tell one story.",
    ),
    (
        "objective/kl_k3_se",
        Health,
        "Standard error of the low-variance KL",
        "How far that estimate may be off by chance alone.",
    ),
    (
        "objective/entropy",
        Health,
        "Surprise of the responses",
        "−log π summed over a response. It falls as the policy grows sure of itself; near zero it says the same thing every time.",
    ),
    (
        "policy/entropy_avg",
        Health,
        "Entropy a token",
        "How undecided the policy is at each token, in nats. A fast fall to zero means that it stopped exploring.",
    ),
    (
        "policy/approxkl_avg",
        Health,
        "Movement in one step",
        "The distance between the policy before and after the updates of a step. Spikes mean that the learning rate or the number of epochs is too high.",
    ),
    (
        "policy/clipfrac_avg",
        Health,
        "Clipped tokens (policy)",
        "The share of tokens whose probability ratio left the trusted range. Some are fine; a third or more is too hasty.",
    ),
    (
        "loss/policy_avg",
        Health,
        "Policy loss",
        "Hovers around zero by construction; its level says nothing, its outliers do.",
    ),
    (
        "loss/value_avg",
        Health,
        "Value loss",
        "How wrong the critic is about what is to come, squared. It should fall, then follow the reward's changes.",
    ),
    (
        "val/explained_variance",
        Health,
        "Explained variance of the critic",
        "One: the critic foresees every return. Zero: it knows no more than the average. Below zero: worse than the average.",
    ),
    (
        "val/clipfrac_avg",
        Health,
        "Clipped tokens (critic)",
        "The share of value predictions held back because they moved too far in one step.",
    ),
    (
        "val/ratio",
        Health,
        "Probability ratio",
        "New over old probability of the sampled tokens. Near one; exactly one before the first update of a step.",
    ),
    (
        "val/ratio_var",
        Health,
        "Variance of the ratio",
        "How unevenly the step changed the tokens. Spikes precede trouble.",
    ),
    (
        "val/num_eos_tokens",
        Health,
        "End tokens",
        "How many responses of the step ended by themselves.",
    ),
    (
        "grad_norm",
        Health,
        "Gradient norm",
        "The length of the gradient before clipping. Spikes mark unusual batches; steady growth marks instability.",
    ),
    (
        "grad_norm/policy",
        Health,
        "Gradient norm (policy)",
        "Before clipping. Spikes mark unusual batches; steady growth marks instability.",
    ),
    (
        "grad_norm/critic",
        Health,
        "Gradient norm (critic)",
        "Before clipping. Large at first, while the critic finds the level of the returns.",
    ),
    (
        "kl_coef",
        Health,
        "KL coefficient β",
        "The price of a nat of distance. Constant, unless a KL target is set.",
    ),
    (
        "optimizer_steps",
        Health,
        "Optimizer steps in the step",
        "Epochs × minibatches, fewer when the epochs were stopped early.",
    ),
    ("epoch", Speed, "Epochs", "Passes over the data so far."),
    ("episode", Speed, "Episodes", "Responses sampled so far."),
    ("lr", Health, "Learning rate", "As scheduled."),
    (
        "tokens_per_second",
        Speed,
        "Tokens a second",
        "Throughput of the step.",
    ),
    (
        "tokens",
        Speed,
        "Tokens",
        "Processed so far, or in the step.",
    ),
    (
        "time/step",
        Speed,
        "Seconds a step",
        "Forward, backward and the optimizer.",
    ),
    (
        "time/rollout",
        Speed,
        "Seconds sampling",
        "Generating the responses of a step.",
    ),
    (
        "time/score",
        Speed,
        "Seconds scoring",
        "The reward model's forward pass.",
    ),
    (
        "time/forward",
        Speed,
        "Seconds re-reading",
        "Log-probabilities of policy and reference, and values, with the training forward.",
    ),
    (
        "time/update",
        Speed,
        "Seconds updating",
        "The epochs over the step's minibatches.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_once() {
        for (i, row) in KNOWN.iter().enumerate() {
            assert!(
                KNOWN[..i].iter().all(|earlier| earlier.0 != row.0),
                "{} twice",
                row.0
            );
        }
    }

    #[test]
    fn an_unknown_metric_is_shown_under_its_own_name() {
        assert_eq!(caption("zebra/stripes").title, "zebra/stripes");
        assert_eq!(caption("time/zebra").group, Group::Speed);
        assert!(place("loss") < place("zebra/stripes"));
    }
}
