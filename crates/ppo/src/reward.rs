//! Where the reward comes from: a learned model, a rule, or a program.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail, ensure};
use candle_core::{DType, Device};
use regex::Regex;
use rlhf_dataset::tiny_world::{Gold, Judge};
use rlhf_lm::{RewardModel, Tokenizer};

use crate::command::ScoreCommand;
use crate::score::{PromptRow, reward_scores};
use crate::trajectory::Episode;

/// What `ppo.reward` names.
///
/// | written | S(x, y) |
/// |---|---|
/// | a directory or a run | the reward model's score, calibrated |
/// | `length:N` | `1 − abs(n − N) / N` for a response of n tokens before the end token |
/// | `regex:PATTERN` | 1 where the pattern occurs in the response, else 0 |
/// | `gold:tiny-world` | the Tiny World's judge, 0 to 1; its questions only |
/// | `command:LINE` | what the program answers, see [`ScoreCommand`] |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewardSource {
    /// A reward model's directory.
    Model(PathBuf),
    /// The wanted length in tokens.
    Length(usize),
    /// A pattern in the syntax of the crate `regex`.
    Regex(String),
    /// The judge of the Tiny World.
    TinyWorld,
    /// A line for the shell.
    Command(String),
}

impl FromStr for RewardSource {
    type Err = Error;

    fn from_str(spec: &str) -> Result<Self> {
        let Some((kind, rest)) = spec.split_once(':') else {
            return Ok(Self::Model(spec.into()));
        };
        match kind {
            "length" => match rest.parse() {
                Ok(tokens) if tokens > 0 => Ok(Self::Length(tokens)),
                _ => bail!("ppo.reward is \"{spec}\": expected length:N with N at least 1"),
            },
            "regex" => {
                Regex::new(rest).with_context(|| format!("ppo.reward is \"{spec}\""))?;
                Ok(Self::Regex(rest.to_owned()))
            }
            "gold" => {
                ensure!(
                    rest == "tiny-world",
                    "ppo.reward is \"{spec}\": the one gold scorer is gold:tiny-world"
                );
                Ok(Self::TinyWorld)
            }
            "command" => {
                ensure!(
                    !rest.trim().is_empty(),
                    "ppo.reward is \"{spec}\": expected command:LINE, such as command:./score.py"
                );
                Ok(Self::Command(rest.to_owned()))
            }
            _ => Ok(Self::Model(spec.into())),
        }
    }
}

impl RewardSource {
    /// The files that the reward depends on: a model's folder, the programs and data that a command names.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Model(folder) => vec![folder.clone()],
            Self::Command(line) => line
                .split_whitespace()
                .map(Path::new)
                .filter(|word| word.is_file())
                .map(Path::to_owned)
                .collect(),
            Self::Length(_) | Self::Regex(_) | Self::TinyWorld => Vec::new(),
        }
    }

    /// Ready to score; a batch may take a command `timeout`.
    pub fn open(&self, dtype: DType, device: &Device, timeout: Duration) -> Result<Scorer> {
        Ok(match self {
            Self::Model(folder) => Scorer::Model(Box::new(
                RewardModel::load(folder, dtype, device)
                    .with_context(|| format!("loading the reward model {}", folder.display()))?,
            )),
            Self::Length(tokens) => Scorer::Length(*tokens),
            Self::Regex(pattern) => Scorer::Regex(Regex::new(pattern)?),
            Self::TinyWorld => Scorer::TinyWorld(Box::new(Judge::new())),
            Self::Command(line) => Scorer::Command(ScoreCommand::new(line, timeout)),
        })
    }
}

/// A reward, ready to score.
pub enum Scorer {
    /// A learned reward model.
    Model(Box<RewardModel>),
    /// A wanted length in tokens.
    Length(usize),
    /// A pattern.
    Regex(Regex),
    /// The truth about the Tiny World.
    TinyWorld(Box<Judge>),
    /// A program.
    Command(ScoreCommand),
}

impl Scorer {
    /// S(x, y) of every episode, `[B]`, before clipping and the end-token rule.
    pub fn scores(
        &self,
        tokenizer: &Tokenizer,
        prompts: &[PromptRow],
        episodes: &[Episode],
    ) -> Result<Vec<f64>> {
        let text = |episode: &Episode| tokenizer.decode(&episode.response);
        match self {
            Self::Model(reward) => reward_scores(reward, tokenizer, prompts, episodes),
            Self::Length(wanted) => {
                let end = tokenizer.eos_id()?;
                let spoken = |episode: &Episode| {
                    let response = &episode.response;
                    response.len() - usize::from(response.last() == Some(&end))
                };
                let score = |n: usize| 1.0 - n.abs_diff(*wanted) as f64 / *wanted as f64;
                Ok(episodes.iter().map(|e| score(spoken(e))).collect())
            }
            Self::Regex(pattern) => episodes
                .iter()
                .map(|e| Ok(f64::from(u8::from(pattern.is_match(&text(e)?)))))
                .collect(),
            Self::TinyWorld(judge) => episodes
                .iter()
                .map(|e| {
                    let prompt = prompts[e.prompt].text.to_string();
                    let gold = judge.gold(&prompt, &text(e)?, e.finished);
                    gold.as_ref().map(Gold::score).with_context(|| {
                        format!(
                            "ppo.reward is gold:tiny-world, and {prompt:?} is no question of the Tiny World; use its prompts, \
                             or another reward"
                        )
                    })
                })
                .collect(),
            Self::Command(command) => {
                let mut rows = Vec::with_capacity(episodes.len());
                for episode in episodes {
                    rows.push((&prompts[episode.prompt].text, text(episode)?));
                }
                command.scores(&rows)
            }
        }
    }

    /// The learned model, if it is one.
    pub fn model(&self) -> Option<&RewardModel> {
        match self {
            Self::Model(reward) => Some(reward),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rlhf_base::Text;
    use rlhf_lm::train_bpe;

    #[test]
    fn what_names_no_rule_names_a_model() {
        let parse = |spec: &str| spec.parse::<RewardSource>();
        assert_eq!(
            parse("runs/reward").unwrap(),
            RewardSource::Model("runs/reward".into())
        );
        assert_eq!(parse("length:20").unwrap(), RewardSource::Length(20));
        assert_eq!(
            parse("regex:a:b").unwrap(),
            RewardSource::Regex("a:b".into())
        );
        assert_eq!(parse("gold:tiny-world").unwrap(), RewardSource::TinyWorld);
        assert_eq!(
            parse("command:./s.py -v").unwrap(),
            RewardSource::Command("./s.py -v".into())
        );
        for (bad, named) in [
            ("length:", "length:N"),
            ("length:0", "length:N"),
            ("regex:(", "regex:("),
            ("gold:earth", "gold:tiny-world"),
            ("command: ", "command:LINE"),
        ] {
            let said = format!("{:#}", parse(bad).unwrap_err());
            assert!(
                said.contains("ppo.reward") && said.contains(named),
                "{said}"
            );
        }
    }

    /// By hand: "red." against a wanted length, a pattern, and the fox, which is red.
    #[test]
    fn rules_score_the_response_without_its_end_token() {
        let tokenizer = train_bpe(["red. blue."].into_iter(), 300, &["<|endoftext|>"]).unwrap();
        let prompts = [PromptRow {
            text: Text::from("Question: what colour is the fox?\nAnswer:"),
            ids: vec![1],
        }];
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
                .open(DType::F32, &Device::Cpu, Duration::from_secs(60))
                .unwrap();
            scorer.scores(&tokenizer, &prompts, &episodes).unwrap()[0]
        };
        assert_eq!(score(&format!("length:{n}")), 1.0);
        assert_eq!(score(&format!("length:{}", 2 * n)), 0.5);
        assert_eq!(score(r"regex:\bred\.$"), 1.0);
        assert_eq!(score("regex:endoftext"), 0.0);
        assert_eq!(score("gold:tiny-world"), 1.0);
    }
}
