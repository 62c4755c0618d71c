//! The commands, as typed, with what `--help` says of each.

use clap::{Parser, Subcommand};

use crate::flags::{
    ChatArgs, DataArgs, DoctorArgs, EvalArgs, ExplainArgs, GenerateArgs, MdpArgs, PpoFlags,
    PretrainFlags, ReportArgs, RewardFlags, RunArgs, ScoreArgs, SftFlags, StageArgs,
};
use crate::manual::settings_help;

/// Reinforcement learning from human feedback for small language models, on one machine: supervised fine-tuning, a
/// reward model from human rankings, PPO.
#[derive(Debug, Parser)]
#[command(name = "rlhf", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Settings: built-in default < rlhf.toml in the current folder < --config FILE < flags.\n\
    Results go to stdout, everything else to stderr.\n\
    Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole pipeline from one file, stage after stage, skipping what is finished and unchanged.
    ///
    /// The stages are the sections of CONFIG: any of [pretrain], [sft], [reward], [ppo], each starting from the one before.
    /// A stage runs again only if its settings, its data or its predecessor changed; one that was interrupted continues. At
    /// the end every model answers held-out prompts, and a table compares them: truth where it is known, learned reward, KL
    /// to the fine-tuned model, wins against it. The table is kept in evaluation.json of the run directory.
    #[command(after_help = example("rlhf run configs/demo.toml"), after_long_help = manual("rlhf run configs/demo.toml", "eval"))]
    Run(RunArgs),
    /// Train a tokenizer (byte-level BPE) and a small language model from nothing but text.
    ///
    /// A Llama of the given shape, from fresh weights. Without --data the bundled corpus of the Tiny World is used.
    #[command(after_help = example("rlhf pretrain --data corpus.txt --layers 4"), after_long_help = manual("rlhf pretrain --data corpus.txt --layers 4", "pretrain"))]
    Pretrain(StageArgs<PretrainFlags>),
    /// Fine-tune a language model on demonstrations: prompts and the answers it should give.
    ///
    /// Only the answers carry loss (the prompt is context), each with the end token, so that the model learns to stop. The
    /// result is a Hugging Face directory in the run's final/. Without --data the bundled demonstrations are used, without
    /// --model the bundled tiny model.
    #[command(after_help = example("rlhf sft --model gpt2 --data demos.jsonl --epochs 2"), after_long_help = manual("rlhf sft --model gpt2 --data demos.jsonl --epochs 2", "sft"))]
    Sft(StageArgs<SftFlags>),
    /// Train a reward model on human feedback: which answer people prefer.
    ///
    /// Starts from the fine-tuned model in runs/sft with a scalar head in place of the vocabulary. Takes pairs, rankings of
    /// several answers, choices of the best, ratings and thumbs, mixed as one likes, each with its own loss. Reports accuracy on held-out
    /// prompts with a 95 % interval beside what "the longer answer wins" would get, and measures the scale of the scores,
    /// which PPO needs. Without --prefs the bundled rankings are used.
    #[command(after_help = example("rlhf reward --prefs prefs.jsonl --lr 1e-5"), after_long_help = manual("rlhf reward --prefs prefs.jsonl --lr 1e-5", "reward"))]
    Reward(StageArgs<RewardFlags>),
    /// Improve a language model by PPO against a reward model, held close to where it started.
    ///
    /// Starts from runs/sft, scores responses with runs/reward; --reward takes another model, a rule, or a program of yours. A step samples responses, scores them, subtracts the price
    /// of every nat of distance to the frozen reference, and moves the policy in a clipped way towards what scored better
    /// than the critic expected. --steps counts such steps. Without --prompts the bundled ones are used.
    #[command(after_help = example("rlhf ppo --steps 1000 --kl-coef 0.05"), after_long_help = manual("rlhf ppo --steps 1000 --kl-coef 0.05", "ppo"))]
    Ppo(StageArgs<PpoFlags>),
    /// Sample responses from a model.
    ///
    /// Prompts are given one by one, or as a file of any kind whose rows have one. On a terminal responses are printed for
    /// reading, otherwise as JSON Lines {"prompt", "response", "finished", "tokens"}. The speed is told on stderr.
    #[command(after_help = example("rlhf generate --model runs/ppo --prompt \"Question: what colour is the fox?\nAnswer:\""))]
    Generate(GenerateArgs),
    /// Talk to a model in the terminal, or to two side by side, and keep which answer was better.
    ///
    /// A model with a chat template remembers the conversation; without one every line is a prompt of its own, which
    /// --format completes. With --save two answers are shown without saying whose they are, and each verdict becomes a row of
    /// feedback: preferences of your own for `rlhf reward`. Lines can also come from a pipe; without a terminal the answers
    /// are JSON Lines.
    #[command(after_help = example("rlhf chat --model runs/ppo --against runs/sft --save prefs.jsonl"))]
    Chat(ChatArgs),
    /// Score every row of a data file: per-token log-probabilities under a language model, or the reward model's score.
    ///
    /// One JSON line per row (on a terminal one line for reading). Under a language model {"index", "tokens", "logprobs", "entropy", "perplexity"}: natural
    /// logarithms, one number per predicted token (the first token has none). Under a reward model {"index", "score"} on the
    /// calibrated scale. Rows are texts, demonstrations, or feedback: then one line per answer, which "answer" names.
    #[command(after_help = example("rlhf score --model runs/reward --data prefs.jsonl > scores.jsonl"))]
    Score(ScoreArgs),
    /// Measure a model: held-out loss, agreement with human feedback, or one model against another.
    ///
    /// With --model and --data: loss per token and perplexity on texts or demonstrations. With --reward and --data: the
    /// report on a reward model (accuracy with interval, by source and length, calibration, correlations); --calibrate
    /// also keeps the scale of its scores, which a model from elsewhere lacks. With --model,
    /// --against and --reward: both models answer prompts; reward, KL and win rate, and the truth where it is known.
    #[command(after_help = example("rlhf eval --reward runs/reward --data prefs.heldout.jsonl"), after_long_help = manual("rlhf eval --reward runs/reward --data prefs.heldout.jsonl", "eval"))]
    Eval(EvalArgs),
    /// Show one saved rollout of PPO token by token: log-probabilities, KL, value, reward, advantage, ratio.
    ///
    /// RUN is a run directory such as runs/ppo, or the folder of a whole pipeline. PPO keeps the first rollouts of every step
    /// (ppo.log_samples). The score stands on the last token's reward, the price of the KL on every token's. Ratio is
    /// the token's probability after the step's updates over the one it was sampled with; a clipped token has gone as far as
    /// PPO lets it go. In a terminal green tokens did better than the critic expected, red ones worse.
    #[command(after_help = example("rlhf explain runs/ppo --step 10"))]
    Explain(ExplainArgs),
    /// Show what a data file holds: kinds of rows, lengths, repetitions, ties, and the first rows with their parts marked.
    ///
    /// Reads every format the stages read: JSON Lines of demonstrations, prompts, pairs, rankings, choices of the best, ratings, thumbs or texts,
    /// plain .txt, each also with .gz, one file, several, or a folder. A bad row is named by file and line. With --model rows
    /// are shown as the model will see them: chat template, begin and end tokens, lengths in tokens.
    #[command(after_help = example("rlhf data prefs.jsonl --show 3 --model runs/sft"))]
    Data(DataArgs),
    /// Check everything that can be checked before anything is spent: machine, settings, models, data, memory, disk.
    ///
    /// The machine computes a training step of the bundled model and compares it with the reference forms. With CONFIG every
    /// stage's settings, files and model are read as the stage will read them, rows are tokenised and counted, the reward
    /// scores an answer on trial, and memory and disk are estimated. Nothing is trained and nothing kept. Exits with 2 if a check fails.
    #[command(after_help = example("rlhf doctor configs/demo.toml"))]
    Doctor(DoctorArgs),
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
    /// Print the tables of commands and settings that the README holds.
    #[command(hide = true)]
    Manual,
}

impl Command {
    /// Whether only errors are to be told.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Self::Run(args) => args.common.quiet,
            Self::Pretrain(args) => args.common.quiet,
            Self::Sft(args) => args.common.quiet,
            Self::Reward(args) => args.common.quiet,
            Self::Ppo(args) => args.common.quiet,
            Self::Generate(args) => args.common.quiet,
            Self::Chat(args) => args.common.quiet,
            Self::Score(args) => args.common.quiet,
            Self::Doctor(args) => args.common.quiet,
            Self::Eval(args) => args.common.quiet,
            Self::Data(_) | Self::Explain(_) | Self::Report(_) | Self::Mdp(_) | Self::Manual => {
                false
            }
        }
    }
}

fn example(command: &str) -> String {
    format!("Example: {command}")
}

/// The end of `--help`: the example, then every setting with its default.
fn manual(command: &str, section: &str) -> String {
    format!(
        "{}\n\n{}\n{}",
        example(command),
        settings_help("run"),
        settings_help(section)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    use crate::settings::sections;

    #[test]
    fn every_flag_of_a_stage_is_a_setting_of_its_section() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        cli.build();
        let sections = sections();
        let keys = |name: &str| sections.iter().find(|s| s.name == name).unwrap().keys;
        // What to read, how to treat an earlier run, how to talk: no settings.
        let others = [
            "config",
            "set",
            "resume",
            "overwrite",
            "quiet",
            "json",
            "help",
            "version",
        ];
        for stage in ["pretrain", "sft", "reward", "ppo"] {
            for flag in cli.find_subcommand(stage).unwrap().get_arguments() {
                let id = flag.get_id().as_str();
                let known = [keys("run"), keys(stage), &others].concat();
                assert!(
                    known.contains(&id),
                    "rlhf {stage} --{id} is no setting of [{stage}]"
                );
            }
        }
    }
}
