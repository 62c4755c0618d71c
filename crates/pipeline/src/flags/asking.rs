//! The flags of commands that use a model without training it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use rlhf_lm::{SamplingConfig, WeightFormat};

use super::{ListeningArgs, ReadingArgs};
use crate::settings::RunSettings;

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) answering: AnsweringArgs,
    /// A prompt; may be repeated. \n stands for a line break.
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub(crate) prompt: Vec<String>,
    /// Data whose rows have prompts: files, folders or data sets of the hub.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "prompt")]
    pub(crate) prompts: Vec<PathBuf>,
    /// Take strings as they are, although the model has a chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Take special tokens that a prompt spells (<|im_end|>) as these tokens, not as plain text.
    #[arg(long)]
    pub(crate) allow_special: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Responses per prompt.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) samples: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Responses decoded side by side; memory depends on it, the result does not.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) batch: usize,
    /// Weights to sample with; in fewer bits on a CPU alone.
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub(crate) weights: WeightsArg,
    /// Guess up to this many tokens at a time from what prompt and response have said before, where fewer than 15 responses are left; the result
    /// does not depend on it.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=14))]
    pub(crate) lookup: u64,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
    /// JSON Lines also on a terminal.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `rlhf generate --weights` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum WeightsArg {
    /// As they are.
    F32,
    /// 16 bits a weight.
    Bf16,
    /// 8.5 bits a weight.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight.
    #[value(name = "q4_0")]
    Q4_0,
}

impl WeightsArg {
    pub(crate) fn format(self) -> WeightFormat {
        match self {
            Self::F32 => WeightFormat::F32,
            Self::Bf16 => WeightFormat::Bf16,
            Self::Q8_0 => WeightFormat::Q8_0,
            Self::Q4_0 => WeightFormat::Q4_0,
        }
    }
}

// The model.
#[derive(Debug, Args)]
pub(crate) struct AnsweringArgs {
    /// The model: a run, a directory, a GGUF file or a hub id [default: the bundled model].
    #[arg(
        long,
        value_name = "MODEL",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) model: String,
}

// How the next token is chosen.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Sampling temperature; 0 takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    pub(crate) temperature: f64,
    /// Keep only this many of the most likely tokens.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Keep only the fewest most likely tokens with at least this probability together.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,
    /// Above 1 discourages tokens already in prompt or response.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(crate) repetition_penalty: f64,
    /// Longest response in tokens.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) max_new_tokens: usize,
    /// No end before this many tokens.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) min_new_tokens: usize,
    /// A text that ends a response; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// The same for the sampler.
    pub(crate) fn config(&self, seed: u64) -> SamplingConfig {
        SamplingConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens,
            min_new_tokens: self.min_new_tokens,
            stop: self.stop.clone(),
            seed,
            ..SamplingConfig::default()
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) answering: AnsweringArgs,
    /// A second model that answers too.
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<String>,
    /// Show what this reward gives to each answer: a reward model, or a rule as in `rlhf ppo --reward`.
    #[arg(long, value_name = "MODEL")]
    pub(crate) reward: Option<String>,
    /// Ask which of two answers is better, without their models' names, and add each verdict to this file as a row that
    /// `rlhf reward --prefs` reads. Without --against both answers are the model's.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// What a conversation begins with; for models with a chat template.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// For models without a chat template: the prompt, with {} where the typed line goes. \n stands for a line break.
    #[arg(long, value_name = "TEXT", default_value = "{}")]
    pub(crate) format: String,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
    /// One JSON line an answer: {"prompt", "model", "response", "finished", "tokens"}, and "score" with --reward.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) answering: AnsweringArgs,
    /// A second model, which requests name; on the page both answer side by side without names.
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<String>,
    /// Add each vote of the page to this file as a row that `rlhf reward --prefs` reads. Without --against both answers are the model's.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// For models without a chat template: what they are given for a chat's message, with {} where it goes. \n stands for a line break.
    #[arg(long, value_name = "TEXT", default_value = "{}")]
    pub(crate) format: String,
    /// Answers in the making side by side, for each model; more requests wait.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub(crate) batch: usize,
    #[command(flatten)]
    pub(crate) listening: ListeningArgs,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    /// A language model or a reward model: a run, a directory, a GGUF file or a hub id.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: String,
    /// Texts, demonstrations or feedback: files, folders or data sets of the hub.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) data: Vec<PathBuf>,
    /// Under a reward model: scores before calibration. Under a language model: strings as they are, although it has a chat template.
    #[arg(long)]
    pub(crate) raw: bool,
    /// Take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
    #[arg(long)]
    pub(crate) allow_special: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
    /// JSON Lines also on a terminal.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The language model to measure: a run, a directory, a GGUF file or a hub id.
    #[arg(long, value_name = "MODEL", required_unless_present = "reward")]
    pub(crate) model: Option<String>,
    /// Compare with this model: KL and wins are measured against it.
    #[arg(long, value_name = "MODEL", requires = "model")]
    pub(crate) against: Option<String>,
    /// The reward model: measured itself, or judging the comparison (there also a rule or command:LINE).
    #[arg(long, value_name = "MODEL")]
    pub(crate) reward: Option<String>,
    /// Rows to measure on: texts or demonstrations for a language model, feedback for a reward model.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "against")]
    pub(crate) data: Vec<PathBuf>,
    /// Measure the scale of the reward model's scores on the rows, and write it into the model's reward.json: PPO needs
    /// it of a model that was not trained here. Take rows that the model was not trained on.
    #[arg(long, requires = "reward", conflicts_with_all = ["model", "against"])]
    pub(crate) calibrate: bool,
    /// Prompts of a comparison [default: the bundled held-out ones].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) prompts: Vec<PathBuf>,
    /// Rows are cut to this many tokens [default: 1024, or what the model reads if that is less].
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_length: Option<usize>,
    /// With --data: strings as they are, although the language model has a chat template.
    #[arg(long, conflicts_with = "against")]
    pub(crate) raw: bool,
    /// With --data: take special tokens that the rows spell (<|im_end|>) as these tokens, not as plain text.
    #[arg(long, conflicts_with = "against")]
    pub(crate) allow_special: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    /// Settings from a TOML file; a comparison reads [eval] and [ppo].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Any setting, such as eval.best_of=16; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
    /// Print the result as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

// Flags of commands that compute but keep no run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub(crate) struct ComputeArgs {
    /// Seed.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Threads on the CPU [default: all cores].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,
    /// auto, cpu, cuda, cuda:N or metal.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: String,
    /// No progress: warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
}

impl ComputeArgs {
    /// The same as settings.
    pub(crate) fn run(&self) -> RunSettings {
        RunSettings {
            seed: self.seed,
            threads: self.threads,
            device: self.device.clone(),
            dtype: self.dtype.clone(),
            ..RunSettings::default()
        }
    }
}
