//! How many judgements a rule that chooses them saves: judges a pool of answers that people have judged already, pair after pair, by each rule, and
//! measures after every few what the heads have learnt. `scripts/bench/choosing` calls it and draws the curves.
//!
//!     cargo run --release -p rlhf-rollout --example choosing -- model=data/model pool=data/preferences.jsonl held_out=data/preferences.heldout.jsonl
//!
//! Without `held_out` a quarter of the prompts is held out, another one for each seed. Prints one JSON object.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Device, Tensor};
use rlhf_base::Text;
use rlhf_base::rng::{below, shuffle, stream};
use rlhf_dataset::{Feedback, Reading, read};
use rlhf_lm::{LanguageModel, RewardModel, ScoreGroup, Weights};
use rlhf_rollout::{Ensemble, Features, Judged, Opinions, Rule, win};
use rlhf_train::feedback::{Judgement, Ties, encode_to_fit};
use rlhf_train::statistics;
use serde_json::json;

/// A prompt, the rows of its answers among the features, and what people said of pairs of them: the ranks of both.
#[derive(Clone, Default)]
struct Prompt {
    rows: Vec<usize>,
    said: BTreeMap<(usize, usize), [f64; 2]>,
}

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    fn number(&self, name: &str, default: usize) -> Result<usize> {
        let given = self.0.get(name);
        given.map_or(Ok(default), |text| {
            text.parse().with_context(|| format!("{name}={text}"))
        })
    }
}

fn main() -> Result<()> {
    let words = std::env::args().skip(1);
    let pairs = words.map(|word| {
        let pair = word.split_once('=');
        let (name, value) = pair.with_context(|| format!("{word}: expected name=value"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let arguments = Arguments(pairs.collect::<Result<_>>()?);
    let model = arguments.path("model").context("model=FOLDER is missing")?;
    let pool_file = arguments.path("pool").context("pool=FILE is missing")?;
    let labels = arguments.number("labels", 400)?;
    let first = arguments.number("first", 20)?;
    let every = arguments.number("every", 20)?;
    let over = arguments.number("over", 1)?;
    let seeds = arguments.number("seeds", 5)?;

    let features = open(&model)?;
    let mut all = Vec::new();
    let pool = prompts(&pool_file, &features, &mut all)?;
    let held_out = match arguments.path("held_out") {
        Some(file) => Some(prompts(&file, &features, &mut all)?),
        None => None,
    };
    let all = Tensor::cat(&all, 0)?;
    rlhf_base::tell(format!("{} answers read", all.dim(0)?));

    let mut curves = BTreeMap::new();
    let rules = Rule::ALL.into_iter().map(Some);
    for rule in std::iter::once(None).chain(rules) {
        let name = rule.map_or("random", Rule::name);
        for seed in 0..seeds as u64 {
            let (pool, held_out) = split(&pool, held_out.as_deref(), seed);
            let curve = judge(
                rule,
                (&pool, &held_out),
                &all,
                (labels, first, every, over),
                seed,
            )?;
            let (_, last) = curve.last().copied().unwrap_or_default();
            rlhf_base::tell(format!("{name}, seed {seed}: {last:.3}"));
            let seeds: &mut Vec<_> = curves.entry(name).or_default();
            seeds.push(curve);
        }
    }
    let name = |path: &Path| path.file_name().map(|it| it.to_string_lossy().into_owned());
    let result = json!({
        "model": name(&model), "pool": name(&pool_file), "prompts": pool.len(), "over": over, "curves": curves,
    });
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{result}")?)
}

fn open(model: &Path) -> Result<Features> {
    if let Ok(reward) = RewardModel::load(model, DType::F32, &Device::Cpu) {
        return Ok(Features::Reward(Box::new(reward)));
    }
    let model = LanguageModel::load(model, Weights::Frozen, DType::F32, &Device::Cpu)?;
    Features::of_language_model(model)
}

/// The judged prompts of a file. Features are appended to `all`.
fn prompts(file: &Path, features: &Features, all: &mut Vec<Tensor>) -> Result<Vec<Prompt>> {
    let rows = read::<Feedback, _>(&[file], &Reading::default())?.rows;
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut gathered: Vec<(Text, Vec<Text>, Prompt)> = Vec::new();
    for row in &rows {
        let ranks: Vec<f64> = match &row.record {
            Feedback::Pair(_) => vec![1.0, 2.0],
            Feedback::Ranking(ranking) => ranking.ranks.iter().map(|r| f64::from(*r)).collect(),
            _ => continue,
        };
        let at = *known.entry(row.prompt().to_string()).or_insert_with(|| {
            gathered.push((row.prompt().clone(), Vec::new(), Prompt::default()));
            gathered.len() - 1
        });
        let (_, answers, prompt) = &mut gathered[at];
        let place: Vec<usize> = row
            .responses()
            .into_iter()
            .map(|text| match answers.iter().position(|it| it == text) {
                Some(place) => place,
                None => {
                    answers.push(text.clone());
                    answers.len() - 1
                }
            })
            .collect();
        for i in 0..place.len() {
            for j in 0..place.len() {
                if place[i] < place[j] {
                    let pair = (place[i], place[j]);
                    prompt.said.entry(pair).or_insert([ranks[i], ranks[j]]);
                }
            }
        }
    }
    let mut next = all.iter().map(|t| t.dim(0).unwrap_or(0)).sum();
    let mut groups = Vec::new();
    let mut judged = Vec::new();
    for (text, answers, mut prompt) in gathered {
        let answers: Vec<&Text> = answers.iter().collect();
        let (tokenizer, most) = (features.tokenizer(), features.max_length());
        let (ids, responses, _) = encode_to_fit(tokenizer, &text, &answers, most)?;
        prompt.rows = (next..next + responses.len()).collect();
        next += responses.len();
        groups.push(ScoreGroup {
            prompt: ids,
            responses,
        });
        judged.push(prompt);
    }
    all.push(features.of(&groups)?);
    Ok(judged)
}

fn split(pool: &[Prompt], held_out: Option<&[Prompt]>, seed: u64) -> (Vec<Prompt>, Vec<Prompt>) {
    let mut pool = pool.to_vec();
    shuffle(&mut stream(seed, "choosing/order", 0), &mut pool);
    match held_out {
        Some(held_out) => (pool, held_out.to_vec()),
        None => {
            let held_out = pool.split_off(pool.len() * 3 / 4);
            (pool, held_out)
        }
    }
}

/// Labels and held-out accuracy after each fit. Prompts come up one after another in a random order and again once all have been judged; of the next
/// `over` of them the rule shows a pair that has not been judged.
fn judge(
    rule: Option<Rule>,
    (pool, held_out): (&[Prompt], &[Prompt]),
    features: &Tensor,
    (labels, first, every, over): (usize, usize, usize, usize),
    seed: u64,
) -> Result<Vec<(usize, f64)>> {
    let mut rng = stream(seed, "choosing/rule", 0);
    let fresh = Ensemble::fresh(features, 16, seed)?;
    let rows: Vec<Vec<usize>> = pool.iter().map(|prompt| prompt.rows.clone()).collect();
    let mut left: Vec<Vec<(usize, usize)>> = pool
        .iter()
        .map(|prompt| prompt.said.keys().copied().collect())
        .collect();
    let mut turn: Vec<usize> = (0..pool.len()).collect();
    let mut judged = Vec::new();
    let mut opinions: Option<Opinions> = None;
    let mut curve = Vec::new();
    while judged.len() < labels {
        turn.retain(|&prompt| !left[prompt].is_empty());
        ensure!(!turn.is_empty(), "the pool has only {} pairs", judged.len());
        let near = &turn[..over.min(turn.len())];
        let chosen = match (&opinions, rule) {
            (Some(opinions), Some(rule)) => {
                let near_rows: Vec<Vec<usize>> = near.iter().map(|&it| rows[it].clone()).collect();
                let open =
                    |at: usize, i: usize, j: usize| left[near[at]].contains(&(i.min(j), i.max(j)));
                opinions.pair(rule, &near_rows, open, &mut rng)
            }
            _ => None,
        };
        let (prompt, pair) = match chosen {
            Some((at, [i, j])) => (near[at], (i.min(j), i.max(j))),
            None => {
                let open = &left[near[0]];
                (near[0], open[below(&mut rng, open.len())])
            }
        };
        left[prompt].retain(|it| *it != pair);
        turn.retain(|it| *it != prompt);
        turn.push(prompt);
        judged.push(Judged {
            judgement: Judgement::Ranks {
                ranks: pool[prompt].said[&pair].to_vec(),
                margin: 0.0,
                preference: 1.0,
            },
            rows: vec![rows[prompt][pair.0], rows[prompt][pair.1]],
        });
        if judged.len() >= first && (judged.len() - first).is_multiple_of(every) {
            let fitted = fresh.fit(features, &judged, Ties::Half, 0.0, seed)?;
            let scores = fitted.scores(features)?;
            curve.push((judged.len(), accuracy(&scores, held_out)));
            opinions = Some(Opinions::new(scores));
        }
    }
    Ok(curve)
}

/// The share of the comparisons in which people preferred one answer that the mean of the heads orders as they did.
fn accuracy(scores: &[Vec<f64>], held_out: &[Prompt]) -> f64 {
    let mean = |row: usize| scores.iter().map(|own| own[row]).sum::<f64>() / scores.len() as f64;
    let mut wins = Vec::new();
    for prompt in held_out {
        for (&(i, j), ranks) in &prompt.said {
            let (first, second) = (mean(prompt.rows[i]), mean(prompt.rows[j]));
            match ranks {
                [a, b] if a < b => wins.push(win(first, second)),
                [a, b] if a > b => wins.push(win(second, first)),
                _ => {}
            }
        }
    }
    statistics::mean(&wins)
}
