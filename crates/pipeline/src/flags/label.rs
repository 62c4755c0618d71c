//! The flags of `rlhf label`.

use std::path::PathBuf;

use clap::Args;
use rlhf_label::{Choose, Kind};

use super::asking::{ComputeArgs, SamplingArgs};
use super::{ListeningArgs, ReadingArgs};

#[derive(Debug, Args)]
pub(crate) struct LabelArgs {
    /// Answers that exist: feedback of any kind, lists of answers, or what `rlhf generate` printed; files, folders or data sets of the hub.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["model", "against", "prompts", "answers"])]
    pub(crate) data: Vec<PathBuf>,
    /// The model that answers: a run, a directory, a GGUF file or a hub id [default: the bundled model].
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// A second model, which gives half of the answers.
    #[arg(long, value_name = "MODEL")]
    pub(crate) against: Option<String>,
    /// What the models are asked: files, folders or data sets of the hub [default: the bundled prompts, for the bundled model].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) prompts: Vec<PathBuf>,
    /// Answers sampled to a prompt [default: 2; 4 for a ranking, and for pairs with --choose; 1 for ratings and thumbs].
    #[arg(long, value_name = "N")]
    pub(crate) answers: Option<usize>,
    /// Append the judgements to this file, as feedback that `rlhf reward` reads; a session goes on with the file that it has begun.
    #[arg(long, value_name = "FILE")]
    pub(crate) save: PathBuf,
    /// What is asked: pair (which is better), ranking, rating (1 to 5) or thumbs.
    #[arg(long, value_name = "KIND", default_value_t = Kind::Pair)]
    pub(crate) kind: Kind,
    /// Who judges: a name [default: the page asks, in a terminal the user's], or a program, which may be repeated: gold:tiny-world, command:LINE, length:N,
    /// regex:PATTERN, reward:MODEL, and behind any of them ,noise=X (a difference of X is seen with probability 73 %) and ,tie=X.
    #[arg(long, value_name = "NAME")]
    pub(crate) annotator: Vec<String>,
    /// In the terminal instead of on a page. It also takes keys from a pipe, a line each.
    #[arg(long, conflicts_with_all = ["host", "port", "token", "no_open"])]
    pub(crate) terminal: bool,
    /// Which item comes next: random, or what teaches most, by an ensemble of small heads that is refitted as judgements come: thompson
    /// (two heads name different best answers), infomax (they are sure of different winners), deltaucb (the answers may lie far apart). docs/choosing.md
    /// says what each is worth.
    #[arg(long, value_name = "RULE", default_value_t = Choose::Random)]
    pub(crate) choose: Choose,
    /// The model on whose hidden states the heads of --choose learn: a reward model, or a language model [default: that of --reward, else --model].
    #[arg(long, value_name = "MODEL")]
    pub(crate) choose_by: Option<String>,
    /// With --choose: share of the items that come at random all the same, as their "strategy" says, for an unbiased measurement.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub(crate) random: f64,
    /// End after this many items.
    #[arg(long, value_name = "N")]
    pub(crate) items: Option<usize>,
    /// Share of the items that come back to the same annotator, to measure agreement with oneself.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub(crate) repeat: f64,
    /// Share of the items that every annotator gets, to measure their agreement.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) overlap: f64,
    /// Guidelines for annotators, a text or Markdown file.
    #[arg(long, value_name = "FILE")]
    pub(crate) guidelines: Option<PathBuf>,
    /// After each judgement, show what this reward gives to the answers: a reward model, or a rule as in `rlhf ppo --reward`.
    #[arg(long, value_name = "MODEL")]
    pub(crate) reward: Option<String>,
    /// Ask through no chat template: strings as they are.
    #[arg(long)]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) listening: ListeningArgs,
    #[command(flatten)]
    pub(crate) common: ComputeArgs,
    /// Print {"annotators", "said", …} instead of the summary.
    #[arg(long)]
    pub(crate) json: bool,
}
