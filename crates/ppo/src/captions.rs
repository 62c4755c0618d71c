//! What a report says about the metrics of PPO.

use rlhf_base::caption::Caption;
use rlhf_train::captions::{LR, RANKS_SECONDS, TOKENS, TOKENS_PER_SECOND};

/// The captions of this stage's metrics, in the order of its page.
pub const CAPTIONS: &[Caption] = &[
    Caption::main(
        "objective/scores",
        "Score of the responses",
        "The mean score: the reward's, normalised, clipped, and with the rule for a response that does not end. PPO maximises it; it is a stand-in for what people want, not the thing itself.",
    ),
    Caption::main(
        "objective/rlhf_reward",
        "Reward after the KL penalty",
        "The score minus the KL penalty. This is what PPO really maximises.",
    ),
    Caption::main(
        "objective/kl",
        "KL to the reference",
        "How far the policy has moved from where it started, in nats per response. Zero at first; if it grows without bound, the policy is exploiting the reward model.",
    ),
    Caption::main(
        "eval/score",
        "Held-out score",
        "The same score on prompts never trained on.",
    ),
    Caption::main(
        "eval/kl",
        "Held-out KL",
        "The KL to the reference on prompts never trained on, in nats per response.",
    ),
    Caption::main(
        "eval/win_rate",
        "Held-out win rate",
        "How often the policy's answer scores above the reference's on the same prompt; ties count half.",
    ),
    Caption::health(
        "eval/win_rate_low",
        "Held-out win rate, lower end",
        "The lower end of its 95 % interval.",
    ),
    Caption::health(
        "eval/win_rate_high",
        "Held-out win rate, upper end",
        "The upper end of its 95 % interval.",
    ),
    Caption::health(
        "eval/score_low",
        "Held-out score, lower end",
        "The lower end of its 95 % interval.",
    ),
    Caption::health(
        "eval/score_high",
        "Held-out score, upper end",
        "The upper end of its 95 % interval.",
    ),
    Caption::health(
        "eval/prompts",
        "Held-out prompts",
        "How many prompts the held-out numbers are over.",
    ),
    Caption::health(
        "eval/missing_eos",
        "Held-out effect of a missing end",
        "What of the held-out score is due to responses that do not end (ppo.missing_eos).",
    ),
    Caption::health(
        "eval/reference_score",
        "Held-out score of the reference",
        "The reference's score on the same prompts, to compare the policy's with.",
    ),
    Caption::health(
        "eval/length",
        "Held-out length",
        "Tokens per response to a held-out prompt.",
    ),
    Caption::health(
        "eval/eos_fraction",
        "Held-out responses that end",
        "The share that ends with the EOS token before the length limit.",
    ),
    Caption::main(
        "response/length",
        "Response length",
        "Tokens per response. A steady rise often means that the reward model prefers long answers; a collapse means that short answers score well.",
    ),
    Caption::main(
        "response/eos_fraction",
        "Responses that end by themselves",
        "The share that ends with the EOS token before the length limit. It should approach one.",
    ),
    Caption::main(
        "objective/score_sd",
        "Disagreement about the responses",
        "The standard deviation of the score over the heads of the reward model, of which ppo.pessimism is subtracted κ times. If it rises, the policy moves to responses that the reward model knows little about.",
    ),
    Caption::health(
        "objective/score_range",
        "Range of the scores",
        "The highest score minus the lowest: of the step, or with rloo, grpo and dr-grpo of the prompt where they differ most. At zero there is nothing to learn from.",
    ),
    Caption::health(
        "objective/equal_groups",
        "Prompts that teach nothing",
        "How many of the step's prompts have responses with one and the same score, so that a comparison among them teaches nothing but the KL penalty. Where they are most of a step, more responses to a prompt or harder (or easier) prompts help.",
    ),
    Caption::health(
        "objective/missing_eos",
        "Effect of a missing end",
        "What of the mean score is due to responses that do not end (ppo.missing_eos). Zero where all end.",
    ),
    Caption::health(
        "objective/non_score_reward",
        "KL penalty",
        "The KL penalty in the reward (negative). A visible share of the score, but not the larger part.",
    ),
    Caption::health(
        "objective/kl_k3",
        "KL to the reference, low-variance estimate",
        "The same KL by an estimator that is never negative. The two should agree.",
    ),
    Caption::health(
        "objective/kl_k3_se",
        "Standard error of the low-variance KL",
        "The standard error of that mean.",
    ),
    Caption::health(
        "objective/entropy",
        "Negative log-probability of the responses",
        "−log π summed over a response. It falls as the policy grows sure of itself; near zero it gives the same response every time.",
    ),
    Caption::health(
        "policy/entropy_avg",
        "Entropy per token",
        "The entropy of the policy at each token, in nats. A fast fall to zero means that it has stopped exploring.",
    ),
    Caption::health(
        "policy/approxkl_avg",
        "KL of one step",
        "The KL between the policy before and after the updates of a step. Spikes mean that the learning rate or the number of epochs is too high.",
    ),
    Caption::health(
        "policy/clipfrac_avg",
        "Clipped tokens (policy)",
        "The share of tokens whose probability ratio was clipped. Some are fine; at a third or more the updates are too large.",
    ),
    Caption::health(
        "loss/policy_avg",
        "Policy loss",
        "Close to zero by construction; its level says nothing, its outliers do.",
    ),
    Caption::health(
        "loss/value_avg",
        "Value loss",
        "The squared error of the critic's predicted returns. It should fall, then follow the changes of the reward.",
    ),
    Caption::health(
        "loss/kl_avg",
        "KL loss",
        "The KL penalty in the loss, before β, per token.",
    ),
    Caption::health(
        "loss/ptx_avg",
        "Loss on demonstrations",
        "The loss of PPO-ptx per answer token, in nats. A steady rise means that the policy forgets what it was fine-tuned on.",
    ),
    Caption::health(
        "val/explained_variance",
        "Explained variance of the critic",
        "One: the critic predicts every return. Zero: it does no better than their mean. Below zero: worse than the mean.",
    ),
    Caption::health(
        "val/clipfrac_avg",
        "Clipped tokens (critic)",
        "The share of value predictions whose loss the clip has stopped moving.",
    ),
    Caption::health(
        "val/ratio",
        "Probability ratio",
        "New over old probability of the sampled tokens. Near one; exactly one before the first update of a step.",
    ),
    Caption::health(
        "val/ratio_var",
        "Variance of the updates' mean ratios",
        "How far the mean ratios of the step's updates lie apart. Spikes often come before instability.",
    ),
    Caption::health(
        "val/num_eos_tokens",
        "EOS tokens",
        "How many responses of the step ended by themselves.",
    ),
    Caption::health(
        "grad_norm/policy",
        "Gradient norm (policy)",
        "Before clipping. Spikes mark unusual batches; steady growth marks instability.",
    ),
    Caption::health(
        "grad_norm/critic",
        "Gradient norm (critic)",
        "Before clipping. Large at first, while the critic learns the level of the returns.",
    ),
    Caption::health(
        "kl_coef",
        "KL coefficient β",
        "The penalty per nat of KL. Constant, unless a KL target is set.",
    ),
    Caption::health(
        "optimizer_steps",
        "Optimizer steps in the step",
        "Epochs × minibatches, fewer when the epochs were stopped early.",
    ),
    Caption::health(
        "skipped_updates",
        "Skipped updates",
        "Updates that were left out because a number was not finite. It should stay at zero.",
    ),
    Caption::health(
        "rollout/logprob_gap",
        "Sampler's gap",
        "How far a token's log-probability under the weights that responses are sampled with is from the policy's own, in nats, on average (ppo.rollout_weights).",
    ),
    Caption::health(
        "rollout/logprob_gap_max",
        "Sampler's largest gap",
        "The same for the token of the step that is furthest off.",
    ),
    Caption::speed(
        "rollout/guesses",
        "Tokens guessed",
        "Tokens of the step that were guessed from what a response had said before (ppo.rollout_lookup).",
    ),
    Caption::speed(
        "rollout/guesses_hit",
        "Guesses that were right",
        "The share of them that was then drawn.",
    ),
    Caption::speed("episode", "Episodes", "Responses sampled so far."),
    LR,
    TOKENS_PER_SECOND,
    TOKENS,
    Caption::speed(
        "time/rollout",
        "Seconds sampling",
        "Generating the responses of a step.",
    ),
    Caption::speed(
        "time/score",
        "Seconds scoring",
        "The reward model's forward pass.",
    ),
    Caption::speed(
        "time/forward",
        "Seconds computing log-probabilities and values",
        "Log-probabilities under policy and reference, and values, by the training forward.",
    ),
    Caption::speed(
        "time/update",
        "Seconds updating",
        "The epochs over the step's minibatches.",
    ),
    RANKS_SECONDS,
];
