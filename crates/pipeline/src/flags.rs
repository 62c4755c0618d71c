//! The flags of the commands. Nothing here is validated beyond its form: `settings` does that.
//!
//! A flag that is a setting has the setting's name, and is a layer over the configuration files: what is not given is
//! not in it. Those of the stages are made from their settings in `derived`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlhf_dataset::{FieldMap, Reading};
use serde::Serialize;

pub(crate) use self::asking::{ChatArgs, EvalArgs, GenerateArgs, ScoreArgs, ServeArgs};
pub(crate) use self::export::{ExportArgs, PushArgs, QuantisationArg};
pub(crate) use self::label::LabelArgs;
pub(crate) use self::listening::ListeningArgs;

mod asking;
pub(crate) mod derived;
mod export;
mod label;
mod listening;

// Flags of every command that computes; most are settings of `[run]`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct CommonArgs {
    /// Any setting, such as ppo.kl_coef=0.1; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) run: RunFlags,
    #[command(flatten)]
    pub(crate) lora: LoraFlags,
    /// No progress and no plan: warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

// Flags for `[run]`; what is not given is left to the configuration.
#[derive(Clone, Debug, Default, Args, Serialize)]
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
    /// Gradient checkpointing: compute activations again instead of keeping them; less memory, more time, the same gradients.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    recompute: Option<bool>,
    /// Share the optimizer's moments out to the processes under mpirun: less memory, the same result.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    shard_optimizer: Option<bool>,
    /// Longest time without a checkpoint, in minutes; 0: by steps alone [default: 10].
    #[arg(long, value_name = "MINUTES", allow_hyphen_values = true)]
    save_minutes: Option<f64>,
    /// How many of the newest checkpoints are kept [default: 2].
    #[arg(long, value_name = "N")]
    keep_checkpoints: Option<usize>,
}

// Flags for `[lora]`; the rest of its settings are set with --set or in a file.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct LoraFlags {
    /// Train a low-rank adapter of this rank over frozen weights; what else there is to choose: --set lora.alpha=…, lora.targets=…,
    /// lora.rank_stabilised=… [default: 0, train the weights].
    #[arg(long = "lora", value_name = "RANK")]
    rank: Option<usize>,
    /// With --lora: save the merged model instead of the adapter.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    merge: Option<bool>,
}

// What a stage takes besides its settings.
#[derive(Debug, Args)]
pub(crate) struct StageArgs {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// Settings from a TOML file, one table a section: [run], [sft], [ppo], …
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Continue the run in --out with its own settings from its latest checkpoint; the result is the same as without the
    /// interruption. Settings given beside it must be those of the run: only what says how long it lasts, when it saves and how it
    /// is computed may change, such as --steps, --save-every or --threads.
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace the run that is in the run directory.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The pipeline: a TOML file with one section a stage.
    #[arg(value_name = "CONFIG")]
    pub(crate) pipeline: PathBuf,
    /// Run it with this many seeds, from --seed on, each in a folder of its own, and compare over all of them [default: 1].
    #[arg(long, value_name = "N")]
    pub(crate) seeds: Option<u64>,
    /// Continue, and run no stage again: settings and inputs that have changed are refused, each by its name.
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Run every stage again, finished or not.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Run nothing and write nothing: check all that `rlhf doctor` checks of a pipeline, and show the plan of every stage and whether it
    /// would run, go on or be skipped.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// A whole file to start from: tiny-world (the bundled demo), chat, summarise (TL;DR), lora-1b, or loop (rounds of judging and learning).
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The model to train: a run, a directory, a GGUF file or a hub id.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Demonstrations, {"prompt", "completion"} or {"messages"}: files, folders or data sets of the hub.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) data: Vec<PathBuf>,
    /// Feedback, such as {"prompt", "chosen", "rejected"}.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) prefs: Vec<PathBuf>,
    /// Prompts [default: those of the feedback].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) prompts: Vec<PathBuf>,
    /// The file to write; rlhf.toml in the current folder is read by every command.
    #[arg(long, value_name = "FILE", default_value = "rlhf.toml")]
    pub(crate) out: PathBuf,
    /// Replace the file that is there.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Print {"out", "checks", "next"} instead; where files are not here yet {"out", "missing", "next"}.
    #[arg(long)]
    pub(crate) json: bool,
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

// How rows are to be understood.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Reading")]
pub(crate) struct ReadingArgs {
    /// Which field of a row is what, where its name does not say it: prompt=question,chosen=answers[0].text.
    #[arg(
        long,
        value_name = "PART=FIELD,…",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) map: FieldMap,
    /// The field with the rating, of rows that have several.
    #[arg(long, value_name = "FIELD")]
    pub(crate) rating_field: Option<String>,
    /// Take answers with a thumb up as demonstrations and leave out those with a thumb down.
    #[arg(long)]
    pub(crate) liked_only: bool,
    /// Tolerate up to N bad rows, and report each.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip_bad: usize,
}

impl ReadingArgs {
    /// The same for a reader.
    pub(crate) fn reading(&self) -> Reading {
        Reading {
            map: self.map.clone(),
            skip_bad: self.skip_bad,
            rating_field: self.rating_field.clone(),
            liked_only: self.liked_only,
        }
    }
}

/// What `rlhf data --as` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KindArg {
    /// Text to pretrain on.
    Text,
    /// What `rlhf sft` learns from.
    Demonstration,
    /// What models are asked.
    Prompt,
    /// What `rlhf reward` learns from.
    Feedback,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    /// Files, folders or data sets of the hub.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Show rows and lengths in the tokens of this model: a run, a directory, a GGUF file or a hub id.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// With --model: take strings as they are, although the model has a chat template.
    #[arg(long, requires = "model")]
    pub(crate) raw: bool,
    /// With --model: take special tokens that a text spells (<|im_end|>) as these tokens, not as plain text.
    #[arg(long, requires = "model")]
    pub(crate) allow_special: bool,
    /// How many rows to show.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) show: usize,
    /// Read the rows as a command would that needs this kind of record [default: whatever each row is].
    #[arg(long = "as", value_name = "KIND")]
    pub(crate) kind: Option<KindArg>,
    /// Write the rows in our own form, one JSON object a line, to a new file.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Print {"summary", "understood", "skipped"} instead.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(mut_args(|arg| match arg.get_help_heading() {
    Some("Server") => arg.requires("live"),
    _ => arg,
}))]
pub(crate) struct ReportArgs {
    /// Run directories.
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
    /// Serve the page instead, so that it follows runs that go on.
    #[arg(long, conflicts_with_all = ["out", "json"])]
    pub(crate) live: bool,
    /// Print {"out", "runs"} instead of the page's path.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) listening: ListeningArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The adapter: a run or a folder.
    #[arg(value_name = "ADAPTER")]
    pub(crate) adapter: String,
    /// Where the whole model goes, a new folder [default: the adapter's name and -merged].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print {"out", "adapter", "base"} instead.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManualArgs {
    /// Write man pages, one a command, to this folder instead.
    #[arg(long, value_name = "DIR")]
    pub(crate) man: Option<PathBuf>,
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
