use candle_core::{DType, Device};
use rlhf_dataset::Pair;
use rlhf_lm::{LanguageModel, ModelConfig, train_bpe};
use serde_json::json;

use super::*;
use crate::item::Answer;
use crate::judgement::Shown;

/// A model with random weights: its hidden states tell answers apart, and nothing more.
fn features() -> Features {
    let tokenizer = train_bpe(["red fox, blue fox"].into_iter(), 260, &["<|end|>"]).unwrap();
    let config = ModelConfig::from_json(json!({
        "model_type": "gpt2", "vocab_size": tokenizer.vocab_size(), "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2,
        "initializer_range": 0.5
    }));
    let (f32, cpu) = (DType::F32, &Device::Cpu);
    let model = LanguageModel::fresh(config.unwrap(), tokenizer, 0, f32, cpu).unwrap();
    Features::of_language_model(model).unwrap()
}

fn pool(prompts: usize) -> Vec<Candidates> {
    let of = |prompt: usize| {
        let answer = |i: usize| Answer {
            text: Text::from(["a", "b", "red", "fox"][i].repeat(1 + (prompt + i) % 5)),
            model: None,
            finished: true,
        };
        let answers = (0..4).map(answer).collect();
        Candidates::new(Text::from(format!("q{prompt}")), answers, None)
    };
    (0..prompts).map(of).collect()
}

/// The longer of two answers is better.
fn judged(candidates: &Candidates, choice: &Choice) -> Judgement {
    let item = candidates.item(Kind::Pair, &choice.answers);
    let longer = |i: usize| item.answers[i].text.to_string().len();
    Judgement {
        verdict: match longer(0).cmp(&longer(1)) {
            std::cmp::Ordering::Equal => Verdict::Tie,
            order => Verdict::Better {
                side: usize::from(order.is_lt()),
                strength: 1,
            },
        },
        shown: Shown {
            id: format!("{}.0", item.id),
            item,
            sides: vec![0, 1],
            repeat: false,
            strategy: choice.strategy.clone(),
        },
        rewritten: None,
        annotator: "ann".to_owned(),
        seconds: None,
        shown_at: None,
    }
}

/// Lets `strategy` choose from a pool and judges what it chooses; what was said.
fn session(mut strategy: Learned, pool: &[Candidates], items: usize) -> Vec<Judgement> {
    let mut open: Vec<&Candidates> = pool.iter().collect();
    let mut said = Vec::new();
    for _ in 0..items {
        let choice = strategy.choose(Kind::Pair, &open);
        let judgement = judged(open[choice.candidates], &choice);
        open.remove(choice.candidates);
        strategy.heard(&judgement);
        said.push(judgement);
    }
    said
}

/// The first ten judgements come at random, and a share of the later ones; where the thread is waited for, a second session is the same.
#[test]
fn a_rule_chooses_once_there_is_something_to_learn_from_and_not_the_share_at_random() {
    let pool = pool(40);
    for rule in Rule::ALL {
        let start = |share| Learned::start((rule, share), features(), &[], 5, true).unwrap();
        let said = session(start(0.0), &pool, 20);
        let strategies: Vec<&str> = said.iter().map(|it| &*it.shown.strategy).collect();
        assert!(strategies[..10].iter().all(|it| *it == "random"));
        let by_rule = strategies[10..].iter().filter(|it| **it == rule.name());
        // Thompson finds no pair where all heads name the same best answer.
        let enough = if rule == Rule::Thompson { 1 } else { 10 };
        assert!(by_rule.count() >= enough, "{strategies:?}");
        assert_eq!(said, session(start(0.0), &pool, 20));
        let all = session(start(1.0), &pool, 12);
        assert!(all.iter().all(|it| it.shown.strategy == "random"));
    }
}

/// A file of judgements is learnt from before the first choice; a row about the same answers under the same name counts once.
#[test]
fn what_the_file_says_is_known_at_the_start() {
    let pool = pool(30);
    let row = |i: usize| {
        let answers = &pool[i].answers;
        Feedback::Pair(Pair {
            prompt: pool[i].prompt.clone(),
            chosen: answers[0].text.clone(),
            rejected: answers[1].text.clone(),
            margin: None,
            strength: None,
            preference: None,
            source: None,
            id: Some(pool[i].item(Kind::Pair, &[0, 1]).id),
        })
    };
    let first = |known: &[Feedback]| {
        let mut strategy =
            Learned::start((Rule::Infomax, 0.0), features(), known, 5, true).unwrap();
        let open: Vec<&Candidates> = pool[10..].iter().collect();
        strategy.choose(Kind::Pair, &open).strategy
    };
    let rows: Vec<Feedback> = (0..10).map(row).collect();
    assert_eq!(first(&rows), "infomax");
    assert_eq!(first(&[&rows[..9], &rows[..1]].concat()), "random");
}

/// A judgement and the row that is written of it are one, so that a restart, or a second thought, does not count twice.
#[test]
fn a_judgement_and_its_row_have_one_name_and_say_the_same() {
    let pool = pool(3);
    for (candidates, answers) in pool.iter().zip([[0, 1], [2, 3], [1, 3]]) {
        let choice = Choice {
            candidates: 0,
            answers: answers.to_vec(),
            strategy: "random".to_owned(),
        };
        let judgement = judged(candidates, &choice);
        let heard = Opinion::in_judgement(&judgement);
        let row = judgement.rows()[0].to_string();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prefs.jsonl");
        fs_err::write(&file, row).unwrap();
        let read = rlhf_dataset::read::<Feedback, _>(&[file], &rlhf_dataset::Reading::default());
        let known = Opinion::of(&read.unwrap().rows[0].record);
        assert_eq!(known.name, heard[0].name);
        let best = |it: &Opinion| {
            let ranks = match &it.judgement {
                feedback::Judgement::Ranks { ranks, .. } => ranks.clone(),
                _ => Vec::new(),
            };
            let tied = ranks[0] == ranks[1];
            let first = usize::from(ranks[0] > ranks[1]);
            (!tied).then(|| it.answers[first].to_string())
        };
        assert_eq!(best(&known), best(&heard[0]));
    }
}
