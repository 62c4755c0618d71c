//! Scorers: S(x, y) from a learned model, a rule or a program.
//!
//! To add one: a file with a [`Scorer`] and an `open` that reads its argument, and a line in the table `KINDS`.

mod command;
mod length;
mod model;
mod regex;
mod texts;
mod tiny_world;

pub use texts::score_texts;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};
use candle_core::{DType, Device};
use rlhf_lm::{Bases, RewardModel, Tokenizer, WeightFormat};

use crate::{Episode, PromptRow};

/// A reward, ready to score.
pub trait Scorer {
    /// S(x, y) of every episode, `[B]`, before clipping and the rule for a missing EOS token. `tokenizer` made the responses.
    fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>>;

    /// [`Scorer::scores`], and for each the standard deviation over an ensemble of heads, where the reward has one and takes it into account.
    fn scores_and_sd(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<(Vec<f64>, Option<Vec<f64>>)> {
        Ok((self.scores(tokenizer, prompts, episodes)?, None))
    }

    /// The learned model, if it is one: a critic may start from its weights.
    fn model(&self) -> Option<&RewardModel> {
        None
    }

    /// Holds the weights of a learned model as `format` does; a rule has none.
    fn round(&mut self, _format: WeightFormat) -> Result<()> {
        Ok(())
    }

    /// The files that its scores depend on.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// Reads the argument of a scorer; a batch may take the duration, where the scorer can wait.
type Open = fn(&str, Duration) -> Result<Box<dyn Scorer>>;

/// Scorers that are written `KIND:ARGUMENT`.
const KINDS: [(&str, Open); 4] = [
    ("length", length::open),
    ("regex", regex::open),
    ("gold", tiny_world::open),
    ("command", command::open),
];

/// What a reward is, as a user writes it.
///
/// | written | S(x, y) |
/// |---|---|
/// | a directory or a run | the reward model's score, calibrated |
/// | `length:N` | `1 − abs(n − N) / N` for a response of n tokens before the EOS token |
/// | `regex:PATTERN` | 1 where the pattern occurs in the response, else 0 |
/// | `gold:tiny-world` | the Tiny World's judge, 0 to 1; its questions only |
/// | `command:LINE` | what the program answers to `{"prompt", "response"}`, a line each |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewardSource {
    /// A reward model's directory.
    Model(PathBuf),
    /// A rule or a program, as written: `KIND:ARGUMENT`.
    Rule(String),
}

impl FromStr for RewardSource {
    type Err = Error;

    /// Text without a known `KIND:` names a model. An argument that its kind refuses is an error.
    fn from_str(spec: &str) -> Result<Self> {
        match kind(spec) {
            None => match KINDS.iter().find(|(name, _)| *name == spec) {
                Some((name, _)) => bail!(
                    "the reward \"{spec}\" is a kind of rule without its argument: write {name}:ARGUMENT ({name}@main is a model on the hub)"
                ),
                None => Ok(Self::Model(spec.into())),
            },
            Some(_) => {
                open_rule(spec, Duration::ZERO)?;
                Ok(Self::Rule(spec.to_owned()))
            }
        }
    }
}

impl RewardSource {
    /// The files that the reward depends on: a model's folder, the programs and data that a command names.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Model(folder) => vec![folder.clone()],
            // Parsing has opened it already; one made by hand that cannot be opened depends on no file.
            Self::Rule(spec) => {
                open_rule(spec, Duration::ZERO).map_or_else(|_| Vec::new(), |s| s.files())
            }
        }
    }

    /// Ready to score; a batch may take a command `timeout`. A model that is an adapter shares its base with those over `bases`.
    pub fn open(
        &self,
        bases: &Bases,
        dtype: DType,
        device: &Device,
        timeout: Duration,
    ) -> Result<Box<dyn Scorer>> {
        match self {
            Self::Model(folder) => model::open(folder, bases, dtype, device),
            Self::Rule(spec) => open_rule(spec, timeout),
        }
    }
}

/// The reward model in `folder`, ready to score with `mean − κ·sd` over its heads, on the calibrated scale, in place of its own score.
///
/// # Errors
/// If it has no heads.
pub fn open_pessimistic(
    folder: &Path,
    bases: &Bases,
    dtype: DType,
    device: &Device,
    kappa: f64,
) -> Result<Box<dyn Scorer>> {
    model::open_pessimistic(folder, bases, dtype, device, kappa)
}

/// The line of the table and the argument that `spec` names.
fn kind(spec: &str) -> Option<(Open, &str)> {
    let (name, argument) = spec.split_once(':')?;
    let (_, open) = KINDS.iter().find(|(kind, _)| *kind == name)?;
    Some((*open, argument))
}

fn open_rule(spec: &str, timeout: Duration) -> Result<Box<dyn Scorer>> {
    let (open, argument) = kind(spec).with_context(|| {
        let kinds = KINDS.map(|(kind, _)| kind).join(", ");
        format!("the reward \"{spec}\" is no rule: expected KIND:ARGUMENT, the kind one of {kinds}")
    })?;
    open(argument, timeout).with_context(|| format!("the reward \"{spec}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    use rlhf_base::Text;
    use rlhf_lm::train_bpe;

    #[test]
    fn what_names_no_rule_names_a_model() {
        let parse = |spec: &str| spec.parse::<RewardSource>();
        for model in ["runs/reward", "C:/reward", "somebody/else:v1"] {
            assert_eq!(parse(model).unwrap(), RewardSource::Model(model.into()));
        }
        for rule in [
            "length:20",
            "regex:a:b",
            "gold:tiny-world",
            "command:./s.py -v",
        ] {
            assert_eq!(parse(rule).unwrap(), RewardSource::Rule(rule.into()));
        }
        for (bad, named) in [
            ("length", "length:ARGUMENT"),
            ("gold", "gold:ARGUMENT"),
            ("length:", "length:N"),
            ("length:0", "length:N"),
            ("regex:(", "regex:("),
            ("gold:earth", "gold:tiny-world"),
            ("command: ", "command:LINE"),
        ] {
            let said = format!("{:#}", parse(bad).unwrap_err());
            assert!(
                said.contains(&format!("the reward \"{bad}\"")) && said.contains(named),
                "{said}"
            );
        }
    }

    #[test]
    fn a_command_depends_on_the_files_it_names() {
        let source: RewardSource = "command:cat Cargo.toml no-such-file".parse().unwrap();
        assert_eq!(source.files(), [PathBuf::from("Cargo.toml")]);
        let model = RewardSource::Model("runs/reward".into());
        assert_eq!(model.files(), [PathBuf::from("runs/reward")]);
    }

    /// By hand: "red." against a wanted length, a pattern, and the fox, which is red.
    #[test]
    fn rules_score_the_response_without_its_end_token() {
        let tokenizer = train_bpe(["red. blue."].into_iter(), 300, &["<|endoftext|>"]).unwrap();
        let text = Text::from("Question: what colour is the fox?\nAnswer:");
        let prompts = [PromptRow::new(text, vec![1])];
        let mut response = tokenizer.encode(" the fox is red.").unwrap();
        let n = response.len();
        response.push(tokenizer.eos_id().unwrap());
        let episodes = [Episode {
            prompt: 0,
            response,
            finished: true,
        }];
        let score = |spec: &str| {
            let source: RewardSource = spec.parse().unwrap();
            let scorer = source
                .open(
                    &Bases::default(),
                    DType::F32,
                    &Device::Cpu,
                    Duration::from_secs(60),
                )
                .unwrap();
            scorer.scores(&tokenizer, &prompts, &episodes).unwrap()[0]
        };
        assert_eq!(score(&format!("length:{n}")), 1.0);
        assert_eq!(score(&format!("length:{}", 2 * n)), 0.5);
        assert_eq!(score(r"regex:\bred\.$"), 1.0);
        assert_eq!(score("regex:endoftext"), 0.0);
        assert_eq!(score("gold:tiny-world"), 1.0);
    }

    /// By hand: the fox is red; an answer that was cut off is not well-formed, a quarter of the gold score.
    #[test]
    fn answers_that_are_texts_score_as_if_they_were_sampled() {
        let tokenizer = train_bpe(["red. blue."].into_iter(), 300, &["<|endoftext|>"]).unwrap();
        let prompt = Text::from("Question: what colour is the fox?\nAnswer:");
        let texts = [" the fox is red.", " the fox is blue."].map(Text::from);
        let answers = [(&texts[0], true), (&texts[1], true), (&texts[0], false)];
        let scorer = open_rule("gold:tiny-world", Duration::ZERO).unwrap();
        let scores = score_texts(scorer.as_ref(), &tokenizer, &prompt, &answers).unwrap();
        assert_eq!(scores, [1.0, 0.75, 0.75]);
        // A conversation needs no template where a rule reads it.
        let chat = Text::from(vec![rlhf_base::Message::new("user", "?")]);
        let turn = Text::from(vec![rlhf_base::Message::new(
            "assistant",
            "the fox is red.",
        )]);
        let scorer = open_rule("regex:^the fox", Duration::ZERO).unwrap();
        let scores = score_texts(scorer.as_ref(), &tokenizer, &chat, &[(&turn, true)]).unwrap();
        assert_eq!(scores, [1.0]);
    }
}
