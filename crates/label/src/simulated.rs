//! Annotators that are programs: a score decides, with as much noise as is wanted.

use anyhow::{Context as _, Result, bail, ensure};
use rlhf_base::{Text, rng};
use rlhf_dataset::tiny_world::preferences::Annotator;
use rlhf_lm::Tokenizer;
use rlhf_rollout::{Scorer, score_texts};

use crate::Kind;
use crate::item::{Answer, Candidates};
use crate::judgement::Shown;
use crate::strategy::Random;
use crate::verdict::Verdict;

/// A simulated annotator as a user writes it: `gold:tiny-world`, `command:./score.py`, `length:40`, `regex:PATTERN` or `reward:MODEL`, with
/// `,noise=X` and `,tie=X` behind it.
///
/// The answer with the higher score is better. With noise the annotator feels `score / noise + G`, G from the standard Gumbel distribution:
/// of two answers the first is preferred with probability σ(Δ score / noise), as Bradley and Terry have it. Feelings (without noise: scores)
/// that differ by less than `tie` are a tie.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedSpec {
    /// As it was written: the annotator's name.
    pub name: String,
    /// The reward that decides, as `--reward` has it.
    pub reward: String,
    /// The scale of the noise, in units of the score.
    pub noise: f64,
    /// What is too close to tell.
    pub tie: f64,
}

impl SimulatedSpec {
    /// What `spec` names; nothing where it is the name of a person.
    ///
    /// # Errors
    /// If noise or tie is no number.
    pub fn parse(spec: &str) -> Result<Option<Self>> {
        const KINDS: [&str; 5] = ["gold", "command", "length", "regex", "reward"];
        let kind = spec.split_once(':').map(|(kind, _)| kind);
        if !kind.is_some_and(|kind| KINDS.contains(&kind)) {
            return Ok(None);
        }
        let (mut rest, mut noise, mut tie) = (spec, 0.0, 0.0);
        while let Some((before, option)) = rest.rsplit_once(',') {
            let (value, into) = match option.split_once('=') {
                Some(("noise", value)) => (value, &mut noise),
                Some(("tie", value)) => (value, &mut tie),
                _ => break,
            };
            *into = value
                .parse()
                .ok()
                .filter(|x: &f64| x.is_finite() && *x >= 0.0)
                .with_context(|| {
                    format!("the annotator \"{spec}\": {option} must be a number of at least 0")
                })?;
            rest = before;
        }
        Ok(Some(Self {
            name: spec.to_owned(),
            reward: rest.strip_prefix("reward:").unwrap_or(rest).to_owned(),
            noise,
            tie,
        }))
    }
}

/// A simulated annotator, ready to judge.
pub struct Simulated {
    spec: SimulatedSpec,
    scorer: Box<dyn Scorer>,
    /// Goes back to the text that it was given.
    tokenizer: Tokenizer,
    seed: u64,
}

impl Simulated {
    /// The annotator `spec` whose reward is `scorer`; `tokenizer` as [`score_texts`] wants it.
    pub fn new(
        spec: SimulatedSpec,
        scorer: Box<dyn Scorer>,
        tokenizer: Tokenizer,
        seed: u64,
    ) -> Self {
        Self {
            spec,
            scorer,
            tokenizer,
            seed,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Errors if it cannot judge `answers` answers to such a prompt in this way: known before there are any.
    pub fn trial(&self, kind: Kind, prompt: &Text, answers: usize) -> Result<()> {
        let answers = (1..=answers).map(|n| Answer {
            text: Text::from(format!(" answer {n}")),
            model: None,
            finished: true,
        });
        let one = Candidates::new(prompt.clone(), answers.collect(), None);
        let sides: Vec<usize> = (0..kind.shows(one.answers.len())).collect();
        let item = one.item(kind, &sides);
        let shown = Shown {
            id: item.id.clone(),
            item,
            sides,
            repeat: false,
            strategy: Random::NAME.to_owned(),
        };
        self.judge(kind, &shown).map(drop)
    }

    /// What it says about what is on its screen.
    pub fn judge(&self, kind: Kind, shown: &Shown) -> Result<Verdict> {
        let answers = shown.sides.iter().map(|&i| &shown.item.answers[i]);
        let answers: Vec<(&Text, bool)> = answers.map(|it| (&it.text, it.finished)).collect();
        let scores = score_texts(
            self.scorer.as_ref(),
            &self.tokenizer,
            &shown.item.prompt,
            &answers,
        )?;
        let SimulatedSpec {
            name, noise, tie, ..
        } = &self.spec;
        let about = format!("{name}/{}", shown.id);
        let mut draws = rng::stream(self.seed, "label/annotator", rng::fnv1a(about.as_bytes()));
        if kind.compares() {
            let ranks = match *noise > 0.0 {
                true => Annotator {
                    name: "",
                    noise: *noise,
                    tie: *tie,
                }
                .rank(&mut draws, &scores),
                false => ranks(&scores, *tie),
            };
            return Ok(match (kind, ranks.as_slice()) {
                (Kind::Pair, [a, b]) if a == b => Verdict::Tie,
                (Kind::Pair, [a, b]) => Verdict::Better {
                    side: usize::from(b < a),
                    strength: 1,
                },
                _ => Verdict::Ranks(ranks),
            });
        }
        let [score] = scores.as_slice() else {
            bail!(
                "the annotator \"{name}\" was shown {} answers at a time",
                scores.len()
            );
        };
        ensure!(
            (0.0..=1.0).contains(score),
            "the annotator \"{name}\" gives {score}: a {} needs scores from 0 to 1, as gold:tiny-world gives them; compare answers instead, \
             as pairs or rankings",
            kind.name()
        );
        // Logistic noise: the difference of two Gumbel draws.
        let u = rng::uniform(&mut draws).max(f64::MIN_POSITIVE);
        let felt = score + noise * (u / (1.0 - u)).ln();
        Ok(match kind {
            Kind::Thumbs => Verdict::Thumbs(felt >= 0.5),
            _ => {
                let steps = f64::from(Kind::BEST_RATING - 1);
                Verdict::Rating(1 + (felt.clamp(0.0, 1.0) * steps).round() as u32)
            }
        })
    }
}

/// Ranks by score, 1 the highest; a score ties with the best of the group above it where they differ by less than `tie`, or not at all.
fn ranks(scores: &[f64], tie: f64) -> Vec<u32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut ranks = vec![0; scores.len()];
    let (mut best_of_group, mut rank) = (f64::INFINITY, 0);
    for (place, &answer) in order.iter().enumerate() {
        let apart = best_of_group - scores[answer];
        if apart > 0.0 && apart >= tie {
            (best_of_group, rank) = (scores[answer], place as u32 + 1);
        }
        ranks[answer] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::{Answer, Candidates};
    use rlhf_lm::train_bpe;
    use rlhf_rollout::RewardSource;

    fn annotator(spec: &str) -> Simulated {
        let spec = SimulatedSpec::parse(spec).unwrap().unwrap();
        let source: RewardSource = spec.reward.parse().unwrap();
        let bases = rlhf_lm::Bases::default();
        let wait = std::time::Duration::from_secs(1);
        let scorer = source
            .open(
                &bases,
                candle_core::DType::F32,
                &candle_core::Device::Cpu,
                wait,
            )
            .unwrap();
        let tokenizer = train_bpe(["red"].into_iter(), 300, &["<|endoftext|>"]).unwrap();
        Simulated::new(spec, scorer, tokenizer, 0)
    }

    fn shown(kind: Kind, answers: &[&str], n: usize) -> Shown {
        let answer = |text: &&str| Answer {
            text: Text::from(*text),
            model: None,
            finished: true,
        };
        let prompt = Text::from("Question: what colour is the fox?\nAnswer:");
        let all = Candidates::new(prompt, answers.iter().map(answer).collect(), None);
        let every: Vec<usize> = (0..answers.len()).collect();
        let item = all.item(kind, &every);
        Shown {
            id: format!("{}.{n}", item.id),
            item,
            sides: every.into_iter().rev().collect(),
            repeat: false,
            strategy: "random".to_owned(),
        }
    }

    #[test]
    fn names_of_people_are_no_programs_and_options_stand_behind() {
        let parse = |spec: &str| SimulatedSpec::parse(spec).unwrap();
        assert_eq!(parse("Ann"), None);
        assert_eq!(parse("a:b"), None);
        let gold = parse("gold:tiny-world,noise=0.1,tie=.3").unwrap();
        assert_eq!(
            (gold.reward.as_str(), gold.noise, gold.tie),
            ("gold:tiny-world", 0.1, 0.3)
        );
        assert_eq!(
            parse("command:./s.py a,b").unwrap().reward,
            "command:./s.py a,b"
        );
        assert_eq!(parse("reward:runs/reward").unwrap().reward, "runs/reward");
        let error = SimulatedSpec::parse("gold:tiny-world,noise=-1").unwrap_err();
        assert!(error.to_string().contains("noise=-1"), "{error}");
    }

    /// By hand: the fox is red; what is rude is worth a quarter less.
    #[test]
    fn the_better_score_wins_whatever_the_side() {
        let gold = annotator("gold:tiny-world");
        let texts = [" the fox is red.", " the fox is blue."];
        let pair = shown(Kind::Pair, &texts, 0);
        let better = Verdict::Better {
            side: 1,
            strength: 1,
        };
        assert_eq!(gold.judge(Kind::Pair, &pair).unwrap(), better);
        let same = shown(Kind::Pair, &[" the fox is blue.", " the fox is green."], 0);
        assert_eq!(gold.judge(Kind::Pair, &same).unwrap(), Verdict::Tie);
        let ranking = shown(Kind::Ranking, &texts, 0);
        assert_eq!(
            gold.judge(Kind::Ranking, &ranking).unwrap(),
            Verdict::Ranks(vec![2, 1])
        );
        let one = shown(Kind::Rating, &texts[1..], 0);
        assert_eq!(gold.judge(Kind::Rating, &one).unwrap(), Verdict::Rating(4));
        assert_eq!(
            gold.judge(Kind::Thumbs, &one).unwrap(),
            Verdict::Thumbs(true)
        );
        let long = annotator("length:1").judge(Kind::Rating, &one).unwrap_err();
        assert!(long.to_string().contains("from 0 to 1"), "{long}");
    }

    /// Bradley and Terry: a quarter of the gold score at noise .25 is preferred with probability σ(1) = .731; four standard errors of 400
    /// draws are .089.
    #[test]
    fn noise_errs_as_often_as_the_formula_says() {
        let noisy = annotator("gold:tiny-world,noise=.25");
        let texts = [" the fox is red.", " the fox is blue."];
        let right = (0..400).filter(|n| {
            let verdict = noisy
                .judge(Kind::Pair, &shown(Kind::Pair, &texts, *n))
                .unwrap();
            verdict
                == (Verdict::Better {
                    side: 1,
                    strength: 1,
                })
        });
        let share = right.count() as f64 / 400.0;
        assert!((share - 0.731).abs() < 0.089, "{share}");
    }

    #[test]
    fn scores_that_are_close_tie() {
        assert_eq!(ranks(&[0.5, 1.0, 0.9], 0.2), [3, 1, 1]);
        assert_eq!(ranks(&[0.5, 0.5, 0.9], 0.0), [2, 2, 1]);
    }
}
