//! The flags of the commands. Nothing here is validated beyond its form: `settings` does that.
//!
//! A flag that is a setting has the setting's name, and is a layer over the configuration files: what is not given is
//! not in it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

pub(crate) use self::asking::{ChatArgs, EvalArgs, GenerateArgs, ScoreArgs};

mod asking;

// Flags of every command that computes; most are settings of `[run]`.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct CommonArgs {
    /// Any setting, such as --set ppo.kl_coef=0.1; may be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) run: RunFlags,
    /// No progress, no plan: errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

// Flags for `[run]`; what is not given is left to the configuration.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct RunFlags {
    /// The one seed: same settings and seed, same bytes [default: 0].
    #[arg(long)]
    seed: Option<u64>,
    /// Run directory [default: runs/ and the name of the stage or of CONFIG].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Threads on the CPU [default: all cores].
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// auto, cpu, cuda, cuda:N or metal [default: auto].
    #[arg(long)]
    device: Option<String>,
    /// f32, bf16 or f16 [default: f32].
    #[arg(long)]
    dtype: Option<String>,
    /// Training computes activations again instead of keeping them: less memory, more time, the same gradients.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    recompute: Option<bool>,
}

// A training stage: its own flags, those of every training loop, those of every command.
#[derive(Debug, Args)]
pub(crate) struct StageArgs<F: Args> {
    #[command(flatten)]
    pub(crate) own: F,
    #[command(flatten)]
    pub(crate) training: TrainingFlags,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Settings from a TOML file, one table a section: [run], [sft], [ppo], …
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Continue from the latest checkpoint; the result is the same as without the interruption.
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace the run that is in the run directory.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

// Flags of every training loop.
#[derive(Debug, Args, Serialize)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainingFlags {
    /// Passes over the data (PPO: over each rollout).
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Optimizer steps (PPO: steps of rollout and update).
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Rows a step (reward: prompts, PPO: episodes).
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Tokens per forward and backward pass; memory depends on it, the result does not [default: by the model's size].
    #[arg(long, value_name = "TOKENS")]
    micro_batch: Option<usize>,
    /// Peak learning rate.
    #[arg(long, value_name = "RATE")]
    lr: Option<f64>,
    /// How the learning rate moves after the warm-up: constant, linear or cosine.
    #[arg(long)]
    schedule: Option<String>,
    /// Steps over which the learning rate rises from 0.
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u64>,
    /// Evaluate every so many steps.
    #[arg(long, value_name = "STEPS")]
    eval_every: Option<u64>,
    /// Save a checkpoint every so many steps.
    #[arg(long, value_name = "STEPS")]
    save_every: Option<u64>,
    /// Tolerate up to N bad rows in data files, and report each.
    #[arg(long, value_name = "N")]
    skip_bad: Option<usize>,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct PretrainFlags {
    /// Texts: plain .txt, or {"text"} a line; files or folders.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Option<Vec<PathBuf>>,
    /// Entries of the vocabulary.
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Hidden size.
    #[arg(long, value_name = "N")]
    hidden_size: Option<usize>,
    /// Transformer blocks.
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Attention heads.
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Texts longer than this many tokens become several rows.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Texts in the order of the files.
    #[arg(long = "no-shuffle", num_args = 0, default_missing_value = "false")]
    shuffle: Option<bool>,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct SftFlags {
    /// A hub id (gpt2, org/name, org/name@revision), a directory, a GGUF file, or a run.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Demonstrations: {"prompt", "completion"} or {"messages"} a line; files or folders.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Option<Vec<PathBuf>>,
    /// Held-out demonstrations [default: a share of the data].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_data: Option<Vec<PathBuf>>,
    /// Rows are cut to this many tokens.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// Let the prompt's tokens carry loss too.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    train_on_prompt: Option<bool>,
    /// Rows in the order of the files.
    #[arg(long = "no-shuffle", num_args = 0, default_missing_value = "false")]
    shuffle: Option<bool>,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct RewardFlags {
    /// The language model to start from: a run, a directory, a GGUF file or a hub id [default: runs/sft].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Feedback: pairs, rankings, choices of the best, ratings, thumbs; files or folders.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    prefs: Option<Vec<PathBuf>>,
    /// Held-out feedback [default: a share of the prompts].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_prefs: Option<Vec<PathBuf>>,
    /// Longest prompt plus response in tokens.
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// What a tied pair of a ranking contributes: half its symmetric term, or skip.
    #[arg(long)]
    ties: Option<String>,
    /// Prompts in the order of the files.
    #[arg(long = "no-shuffle", num_args = 0, default_missing_value = "false")]
    shuffle: Option<bool>,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct PpoFlags {
    /// Policy and reference start here: a run, a directory, a GGUF file or a hub id [default: runs/sft].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// A reward model (a run or a directory), length:N, regex:PATTERN, gold:tiny-world or command:LINE [default: runs/reward].
    #[arg(long, value_name = "REWARD")]
    reward: Option<String>,
    /// Whiten, place the score and treat a missing end as openai or trl do.
    #[arg(long, value_name = "openai|trl")]
    compat: Option<String>,
    /// The critic: a separate model, or a value head on the policy's shared trunk [default: separate].
    #[arg(long, value_name = "separate|shared")]
    critic: Option<String>,
    /// Prompts: any data file whose rows have one; files or folders.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    prompts: Option<Vec<PathBuf>>,
    /// Held-out prompts [default: a share of the prompts].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_prompts: Option<Vec<PathBuf>>,
    /// Responses sampled per prompt.
    #[arg(long, value_name = "N")]
    samples_per_prompt: Option<usize>,
    /// Longest response in tokens.
    #[arg(long, value_name = "TOKENS")]
    response_length: Option<usize>,
    /// Sampling temperature.
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// β, the price of a nat of distance to the reference.
    #[arg(long, value_name = "BETA")]
    kl_coef: Option<f64>,
    /// Steer β towards this KL an episode.
    #[arg(long, value_name = "NATS")]
    kl_target: Option<f64>,
    /// Stop once the KL an episode exceeds this, and publish the best policy within it.
    #[arg(long, value_name = "NATS")]
    max_kl: Option<f64>,
    /// Take a reward model's scores as they are when it has no calibration.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    uncalibrated: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The pipeline: a TOML file with one section a stage.
    #[arg(value_name = "CONFIG")]
    pub(crate) pipeline: PathBuf,
    /// Run every stage again, finished or not.
    #[arg(long)]
    pub(crate) overwrite: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A pipeline's file, as for `rlhf run` [default: the machine alone].
    #[arg(value_name = "CONFIG")]
    pub(crate) pipeline: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A run directory of PPO.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// The PPO step [default: the last one kept].
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u64>,
    /// Which of the step's kept rollouts, counted from 0.
    #[arg(long, value_name = "I", default_value_t = 0)]
    pub(crate) episode: usize,
    /// Print {"prompt", "response", "tokens": [{"text", "logprob", …}], "totals", …} instead.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Files or folders.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Show rows and lengths in the tokens of this model: a run, a directory, a GGUF file or a hub id.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// How many rows to show.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) show: usize,
    /// Tolerate up to N bad rows, and report each.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip_bad: usize,
    /// Print {"summary", "skipped"} instead.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run directories.
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
    /// Print {"out", "runs"} instead of the page's path.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MdpArgs {
    /// The environment.
    #[arg(default_value = "gridworld", value_name = "ENVIRONMENT")]
    pub(crate) environment: String,
    /// value-iteration, policy-iteration and kl-regularised find a best policy from the model; evaluate, mc and td find
    /// the values of the uniform policy; sarsa and q-learning learn a policy from samples.
    #[arg(long, default_value_t = rlhf_mdp::Method::ValueIteration)]
    pub(crate) method: rlhf_mdp::Method,
    /// γ, how much later reward counts [default: the environment's own].
    #[arg(long, value_name = "GAMMA")]
    pub(crate) discount: Option<f64>,
    /// How many episodes the learners see.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) episodes: u64,
    /// λ of td: 0 looks one step ahead, 1 at the whole episode.
    #[arg(long, default_value_t = 0.0)]
    pub(crate) lambda: f64,
    /// β of kl-regularised: the price of a nat of distance from the uniform policy.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) beta: f64,
    /// Seed of the learners.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print {"values", "policy", …} instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}
