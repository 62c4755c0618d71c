//! The commands, as typed, with what `--help` says of each.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use toml::Table;

use crate::flags::{
    ChatArgs, CompletionsArgs, DataArgs, DoctorArgs, EvalArgs, ExplainArgs, ExportArgs,
    GenerateArgs, InitArgs, LabelArgs, ManualArgs, MdpArgs, MergeArgs, PushArgs, ReportArgs,
    RunArgs, ScoreArgs, ServeArgs, StageArgs, derived,
};
use crate::help::two_lengths;
use crate::manual::{pipeline_manual, rows_of_all, settings_help, stage_manual};
use crate::stages::{AnyStage, STAGES, stage};
use crate::synonyms::synonym;

/// Reinforcement learning from human feedback for small language models, on one machine: supervised fine-tuning, a
/// reward model from human rankings, PPO.
#[derive(Debug, Parser)]
#[command(name = "rlhf", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Data: JSON in any layout, CSV, TSV, Parquet, Arrow or .txt, also with .gz or .zst; a folder of it;\n\
    or a data set of the hub: ORG/NAME, ORG/NAME:SPLIT, hf://datasets/ORG/NAME/FILE.\n\
    Settings: built-in default < rlhf.toml in the current folder < --config FILE < flags.\n\
    Results go to stdout, everything else to stderr.\n\
    Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a configuration file for a model and rows of your own, every choice explained, or from a template.
    ///
    /// Looks at what it is given: the model's size, template and context, the kinds of rows and their lengths in its tokens, and the memory
    /// that is free. From that follow which stages there are, whether all weights or an adapter are trained, lengths, batches, rates and what
    /// is held out. The file says why in a line each, is checked by `rlhf doctor`, and is there to be changed. With --template the file is one
    /// of those in configs/, with the model and the files that are named.
    #[command(after_help = example("rlhf init --model HuggingFaceTB/SmolLM2-135M-Instruct --data demos.jsonl --prefs prefs.jsonl"))]
    Init(InitArgs),
    /// Run a whole pipeline from one file, stage after stage, skipping what is finished and unchanged.
    ///
    /// The stages are the sections of CONFIG, such as [sft], [reward], [ppo], each starting from the one before.
    /// A stage runs again only if its settings, its data or its predecessor changed; one that was interrupted continues. At
    /// the end every model answers held-out prompts, and a table compares them: truth where it is known, learned reward, KL
    /// to the fine-tuned model, wins against it. The table is kept in evaluation.json of the run directory.
    ///
    /// With a section [label] the model's answers are judged first, by you or by programs; what learns from judgements (reward, dpo, ppo) is trained on
    /// them, and with label.rounds the policy's answers are judged again: each round in a folder round-N of its own.
    #[command(after_help = example("rlhf run configs/demo.toml"), after_long_help = pipeline_manual(&example("rlhf run configs/demo.toml")))]
    Run(RunArgs),
    /// Sample responses from a model.
    ///
    /// Prompts are given one by one, or as a file of any kind whose rows have one. On a terminal responses are printed for
    /// reading, otherwise as JSON Lines {"prompt", "response", "finished", "tokens"}. The speed is printed to stderr.
    #[command(after_help = example("rlhf generate --model runs/ppo --prompt \"Which colour is the fox?\""))]
    Generate(GenerateArgs),
    /// Talk to a model in the terminal, or to two side by side, and keep which answer was better.
    ///
    /// A model with a chat template remembers the conversation; without one every line is a prompt of its own, which
    /// --format completes. With --save two answers are shown without their models' names, and each verdict becomes a row of
    /// feedback: preferences of your own for `rlhf reward`. Lines can also come from a pipe; without a terminal the answers
    /// are JSON Lines.
    #[command(after_help = example("rlhf chat --model runs/ppo --against runs/sft --save prefs.jsonl"))]
    Chat(ChatArgs),
    /// Judge answers, and keep every judgement as feedback to learn from: pairs, rankings, ratings, thumbs, better answers.
    ///
    /// A page opens on this machine, for one person or several (`--terminal` asks there). The answers are sampled from --model (and --against) on --prompts, a few ahead, or exist already (--data). Sides are drawn at random
    /// and models never named. Each judgement is on the disk before the next item is shown, as one row of feedback in --save that says who
    /// judged, when, how long it took, which answer stood where and which model gave it; the same command goes on where it was. A rewritten
    /// answer is preferred to the one that it replaces, and is a demonstration in a file beside (.demos.jsonl). `both bad` is a tie
    /// that also says that neither is good. At the end a summary: agreement with oneself and between annotators, position and length bias.
    /// Annotators can be programs: then nobody is asked.
    #[command(after_help = example("rlhf label --model runs/sft --against runs/ppo --prompts prompts.jsonl --save prefs.jsonl"))]
    Label(Box<LabelArgs>),
    /// Answer over HTTP: OpenAI's API, and a page to chat with a model or with two side by side.
    ///
    /// The API is that of OpenAI's clients: /v1/chat/completions, /v1/completions and /v1/models, streaming included. What a client asks
    /// for and cannot have is refused by name. Requests are answered side by side, a token for each at a time. With --against or --save
    /// the page shows two answers without their models' names, and with --save each vote becomes a row of feedback for
    /// `rlhf reward`. Only this machine is answered, unless --host says otherwise.
    #[command(after_help = example("rlhf serve --model runs/ppo --against runs/sft --save prefs.jsonl"))]
    #[command(mut_arg("port", |port| port.default_value("8000")))]
    Serve(ServeArgs),
    /// Score every row of a data file: per-token log-probabilities under a language model, or the reward model's score.
    ///
    /// One JSON line per row (on a terminal one line for reading). Under a language model {"index", "tokens", "logprobs", "entropy",
    /// "perplexity"}: natural logarithms, one number per predicted token (the first token has none). A text begins with the begin token
    /// if the tokenizer adds one, and no end token is added to it; an answer is counted with its end token. "perplexity" is over all
    /// of "logprobs", "answer_perplexity" over the answer alone: that is what `rlhf eval` measures. Under a reward model
    /// {"index", "score"} on the calibrated scale, with "sd" where it has an ensemble of heads (`reward.heads`): how far they disagree. Rows are texts, demonstrations, or feedback: then one line per answer, which "answer" names.
    #[command(after_help = example("rlhf score --model runs/reward --data prefs.jsonl > scores.jsonl"))]
    Score(ScoreArgs),
    /// Measure a model: held-out loss, agreement with human feedback, or one model against another.
    ///
    /// With --model and --data: loss per token and perplexity, of texts as they are written (the begin token if the tokenizer adds one,
    /// no end token) or of the answers of demonstrations, each with its end token, as in `rlhf score`. With --reward and --data: the
    /// report on a reward model (accuracy with interval, by source and length, calibration, correlations); --calibrate
    /// also keeps the scale of its scores, which a model from elsewhere lacks. With --model,
    /// --against and --reward: both models answer prompts; reward, KL and win rate, and the truth where it is known.
    #[command(after_help = example("rlhf eval --reward runs/reward --data prefs.heldout.jsonl"), after_long_help = format!("{}\n\n{}", example("rlhf eval --reward runs/reward --data prefs.heldout.jsonl"), settings_help("eval")))]
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
    /// Reads what the stages read: demonstrations, prompts, pairs, rankings, choices of the best, ratings, thumbs or texts, as JSON, CSV,
    /// Parquet, Arrow or .txt, also compressed; files, folders, or data sets of the hub such as ORG/NAME:train. A bad row is named by
    /// file and line. With --model rows
    /// are shown as the model will see them: chat template, BOS and EOS tokens, lengths in tokens.
    #[command(after_help = example("rlhf data prefs.jsonl --show 3 --model runs/sft"), after_long_help = format!("{}\n\n{}", example("rlhf data prefs.jsonl --show 3 --model runs/sft"), rows_of_all()))]
    Data(DataArgs),
    /// Check everything that can be checked before anything is spent: machine, settings, models, data, memory, disk.
    ///
    /// The machine computes a training step of the bundled model and compares it with the reference forms. With CONFIG every
    /// stage's settings, files and model are read as the stage will read them, rows are tokenised and counted, the reward
    /// scores an answer on trial, and memory and disk are estimated. Nothing is trained and nothing kept. Exits with 2 if a check fails.
    #[command(after_help = example("rlhf doctor configs/demo.toml"))]
    Doctor(DoctorArgs),
    /// Make one whole model of an adapter and its base.
    ///
    /// ADAPTER is a run that trained with --lora, or a folder in PEFT's layout: of a language model or of a reward model. The base is found
    /// by base_model_name_or_path in adapter_config.json: a path from that folder, a path from here, or a hub id. The weights are saved in
    /// f32, with the tokenizer and what else belongs to the model.
    #[command(after_help = example("rlhf merge runs/sft --out models/sft"))]
    Merge(MergeArgs),
    /// Take a model away: as a GGUF file for llama.cpp and Ollama, or as a Hugging Face directory with a model card.
    ///
    /// --gguf puts weights, tokenizer and chat template into one file. Its TYPE says how many bits a weight has: f16 loses next to nothing,
    /// q8_0 halves that, q4_k_m and q4_0 quarter it, at a price that `rlhf eval --model FILE` measures. A tensor whose rows do not fill the
    /// blocks of its type gets a larger one, and is named. A tokenizer that llama.cpp would run differently is refused. The file is a model for
    /// every command here too. --hf writes what transformers and vLLM load, with a card of what the run recorded: data, settings, results.
    /// An adapter is merged into its base either way.
    #[command(after_help = example("rlhf export runs/ppo --gguf q8_0 --ollama"))]
    Export(ExportArgs),
    /// Publish a model on the Hugging Face hub, with a model card.
    ///
    /// The repository is made unless it is there; its other files stay. What the hub has already is not sent again, so that a push
    /// that was cut off goes on when it is repeated. Where the folder has no README.md, the card of `rlhf export --hf` is published with it. The token is
    /// HF_TOKEN or what `hf auth login` has stored; it must be one that may write. HF_ENDPOINT names another hub.
    #[command(after_help = example("rlhf push runs/ppo my-name/my-model --private"))]
    Push(PushArgs),
    /// Write one self-contained HTML page about runs: what came of them, gold and learned reward over KL, answers, curves.
    ///
    /// A RUN is a run directory such as runs/ppo, or the folder of a whole pipeline, of several seeds too. Several runs of one stage are drawn
    /// into the same charts, with what differs in their settings. The page needs no network: it can be mailed and archived. With --live it is
    /// served on this machine and follows runs that go on.
    #[command(after_help = example("rlhf report runs/ppo runs/ppo-low-kl --out compare.html"))]
    Report(ReportArgs),
    /// Solve a small Markov decision process: the theory under PPO, on the command line.
    ///
    /// Prints the value of every state and the policy that follows from it. The environments: gridworld (4×3, a wall, ends
    /// with +1 and −1), small-grid (Sutton & Barto's 4×4), cliff, chain (a random walk), token-tree (every response of three
    /// tokens, which is language generation in small).
    #[command(after_help = example("rlhf mdp gridworld --method q-learning --episodes 5000"))]
    Mdp(MdpArgs),
    /// Print what lets a shell complete commands and flags.
    ///
    /// Where it belongs depends on the shell: for bash a file in ~/.local/share/bash-completion/completions/, for zsh a file _rlhf in a
    /// folder of $fpath, for fish ~/.config/fish/completions/rlhf.fish.
    #[command(after_help = example("rlhf completions bash > ~/.local/share/bash-completion/completions/rlhf"))]
    Completions(CompletionsArgs),
    /// Print the tables of commands and settings of README.md and docs/settings.md, or write man pages.
    #[command(hide = true)]
    Manual(ManualArgs),
}

impl Command {
    /// Whether --quiet was given.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Self::Run(args) => args.common.quiet,
            Self::Generate(args) => args.common.quiet,
            Self::Chat(args) => args.common.quiet,
            Self::Label(args) => args.common.quiet,
            Self::Score(args) => args.common.quiet,
            Self::Serve(args) => args.common.quiet,
            Self::Doctor(args) => args.common.quiet,
            Self::Eval(args) => args.common.quiet,
            Self::Merge(args) => args.quiet,
            Self::Export(args) => args.quiet,
            Self::Push(args) => args.quiet,
            Self::Data(_)
            | Self::Init(_)
            | Self::Explain(_)
            | Self::Report(_)
            | Self::Mdp(_)
            | Self::Completions(_)
            | Self::Manual(_) => false,
        }
    }
}

/// What was typed.
pub(crate) enum Typed {
    /// A stage with the flags that are its settings.
    Stage(&'static dyn AnyStage, Table, StageArgs),
    /// Any other command.
    Command(Command),
}

impl Typed {
    /// The command line of this process.
    pub(crate) fn parse() -> Result<Self, clap::Error> {
        let matches = command().try_get_matches().map_err(with_synonym)?;
        if let Some((name, matches)) = matches.subcommand()
            && let Some(stage) = stage(name)
        {
            let flags = derived::given(&stage.settings(), matches);
            return Ok(Self::Stage(
                stage,
                flags,
                StageArgs::from_arg_matches(matches)?,
            ));
        }
        Ok(Self::Command(Cli::from_arg_matches(&matches)?.command))
    }

    /// Whether --quiet was given.
    pub(crate) fn quiet(&self) -> bool {
        match self {
            Self::Stage(_, _, args) => args.common.quiet,
            Self::Command(command) => command.quiet(),
        }
    }
}

/// Adds the flag that was meant to an error about an unknown one that has another name elsewhere.
fn with_synonym(mut error: clap::Error) -> clap::Error {
    let typed = std::env::args().nth(1).unwrap_or_default();
    let all = command();
    let known = |name: &str| {
        let flags = all.find_subcommand(&typed).into_iter();
        let mut flags = flags.flat_map(clap::Command::get_arguments);
        flags.any(|flag| flag.get_long() == Some(&name.replace('_', "-")))
    };
    let meant = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if error.kind() == ErrorKind::UnknownArgument => {
            synonym(flag.trim_start_matches('-'), known)
        }
        _ => None,
    };
    if let Some(name) = meant {
        let flag = ContextValue::String(format!("--{}", name.replace('_', "-")));
        error.insert(ContextKind::SuggestedArg, flag);
    }
    error
}

/// The whole command line: the stages stand after `init` and `run`.
pub(crate) fn command() -> clap::Command {
    let mut order = 1 + STAGES.len();
    let all = Cli::command().mut_subcommands(|command| {
        match command.get_name() {
            "init" => return command.display_order(0),
            "run" => return command.display_order(1),
            _ => {}
        }
        order += 1;
        command.display_order(order)
    });
    let stages = STAGES.iter().copied().enumerate();
    let stages = stages.map(|(i, stage)| stage_command(stage).display_order(2 + i));
    two_lengths(all.subcommands(stages))
}

fn stage_command(stage: &dyn AnyStage) -> clap::Command {
    let (name, settings) = (stage.name(), stage.settings());
    let command = clap::Command::new(name)
        .about(stage.about())
        .long_about(format!("{}.\n\n{}", stage.about(), stage.manual()))
        .after_help(example(stage.example()))
        .after_long_help(stage_manual(stage, &example(stage.example())))
        .args(derived::args(&settings, stage.short_help()));
    StageArgs::augment_args(command)
}

fn example(command: &str) -> String {
    format!("Example: {command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// clap's own check: among others, no setting of a stage has the name of a flag that every command has.
    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
