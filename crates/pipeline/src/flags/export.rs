//! Flags of `rlhf export` and `rlhf push`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use rlhf_lm::gguf::Quantisation;

/// What `rlhf export --gguf` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum QuantisationArg {
    /// Half precision: 16 bits a weight.
    F16,
    /// 8.5 bits a weight, hardly told from f16.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight, one scale for 32.
    #[value(name = "q4_0")]
    Q4_0,
    /// 4.5 to 6.6 bits a weight, more where it matters.
    #[value(name = "q4_k_m")]
    Q4KM,
}

impl QuantisationArg {
    pub(crate) fn quantisation(self) -> Quantisation {
        match self {
            Self::F16 => Quantisation::F16,
            Self::Q8_0 => Quantisation::Q8_0,
            Self::Q4_0 => Quantisation::Q4_0,
            Self::Q4KM => Quantisation::Q4KM,
        }
    }

    /// The value as it is typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4KM => "q4_k_m",
        }
    }
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("form").required(true).args(["gguf", "hf"])))]
pub(crate) struct ExportArgs {
    /// The model: a run, a directory, an adapter, a GGUF file or a hub id.
    #[arg(value_name = "RUN")]
    pub(crate) model: String,
    /// A language model as one file for llama.cpp, Ollama and others; TYPE says how its weights are stored.
    #[arg(long, value_name = "TYPE", ignore_case = true)]
    pub(crate) gguf: Option<QuantisationArg>,
    /// A directory for transformers, vLLM and others, an adapter merged into its base, with a model card: README.md.
    #[arg(long, conflicts_with_all = ["gguf", "ollama"])]
    pub(crate) hf: bool,
    /// What to write, a new file or folder [default: the run's name and -TYPE.gguf or -hf].
    #[arg(long, value_name = "PATH")]
    pub(crate) out: Option<PathBuf>,
    /// With --gguf: write a Modelfile for Ollama beside it, with the chat template in Ollama's language.
    #[arg(long)]
    pub(crate) ollama: bool,
    /// With --hf: the licence that the card names, as the hub spells it (apache-2.0).
    #[arg(long, value_name = "ID", conflicts_with = "gguf")]
    pub(crate) license: Option<String>,
    /// Warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print {"out", "from"} instead, with --gguf also {"bytes", "tensors", "fallbacks", "notes"}, with --ollama {"modelfile"}.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// What to publish: a run's model, the folder of a model, or a GGUF file.
    #[arg(value_name = "RUN")]
    pub(crate) model: String,
    /// The repository on the hub; made unless it is there.
    #[arg(value_name = "ORG/NAME")]
    pub(crate) repo: String,
    /// Make it visible to its owners alone, where it is made.
    #[arg(long)]
    pub(crate) private: bool,
    /// The branch; made unless it is there.
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    pub(crate) revision: String,
    /// The message of the commit [default: Add and the model's name].
    #[arg(long, value_name = "TEXT")]
    pub(crate) message: Option<String>,
    /// The licence that the card names, as the hub spells it (apache-2.0).
    #[arg(long, value_name = "ID")]
    pub(crate) license: Option<String>,
    /// Warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print {"url", "files", "bytes"} instead, and "commit" where there is something new.
    #[arg(long)]
    pub(crate) json: bool,
}
