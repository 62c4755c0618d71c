//! The command line, as typed. Nothing here is validated beyond its form: `settings` does that.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Reinforcement learning from human feedback for small language models, on one machine: supervised fine-tuning, a
/// reward model from human rankings, PPO.
#[derive(Debug, Parser)]
#[command(name = "rlhf", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Results go to stdout, everything else to stderr.\n\
    Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 interrupted.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write one self-contained HTML page about runs: curves, reward against KL, samples, settings.
    ///
    /// A RUN is a run directory such as runs/ppo, or the folder of a whole pipeline. Several runs of one stage are drawn
    /// into the same charts. The page needs no network: it can be mailed and archived.
    #[command(after_help = example("rlhf report runs/ppo runs/ppo-low-kl --out compare.html"))]
    Report(ReportArgs),
    /// Solve a small Markov decision process: the theory under PPO, on the command line.
    ///
    /// Prints the value of every state and the policy that follows from it. The environments: gridworld (4×3, a wall, ends
    /// with +1 and −1), small-grid (Sutton & Barto's 4×4), cliff, chain (a random walk), token-tree (every response of three
    /// tokens, which is language generation in small).
    #[command(after_help = example("rlhf mdp gridworld --method q-learning --episodes 5000"))]
    Mdp(MdpArgs),
}

fn example(command: &str) -> String {
    format!("Example: {command}")
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run directories.
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
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
