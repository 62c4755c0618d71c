//! What judgements say about those who judged: how well annotators agree with each other and with themselves, and what draws them besides
//! the answers.
//!
//! Comparisons are looked at pair by pair: of two answers one is better, or they tie. A rating and a thumb are values as they are.

use std::collections::BTreeMap;

use rlhf_train::statistics::{bootstrap_interval_of, grouped_wilson_interval, mean};
use serde::Serialize;

use crate::alpha::{Level, cohen_kappa, krippendorff_alpha};
use crate::judgement::{Past, Said};

/// A share with its 95 % interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The share.
    pub share: f64,
    /// Wilson's interval; comparisons of one item count as far as they are independent.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Of how many.
    pub of: usize,
}

/// A coefficient with its 95 % interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The coefficient.
    pub value: f64,
    /// The bootstrap interval over items, where it is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
}

/// What judgements say about those who judged. What cannot be said of them is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Of the comparisons, ratings or thumbs that came back to the same annotator: how many were judged as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oneself: Option<Share>,
    /// How many items more than one annotator judged.
    pub shared: usize,
    /// Cohen's κ; of more than two annotators the mean over all two of them that share items (Light 1971).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kappa: Option<Estimate>,
    /// Krippendorff's α on the nominal level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_nominal: Option<Estimate>,
    /// Krippendorff's α on the ordinal level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_ordinal: Option<Estimate>,
    /// Position bias: of the comparisons that were decided, how often for the answer that stood first (left, or higher).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Share>,
    /// Length bias: how often for the longer answer, in characters. Good answers may well be longer; compare annotators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longer: Option<Share>,
}

/// One thing that was judged: the first and the second of two answers in a fixed order, or one answer by itself.
type Unit = (usize, usize);

/// Items, and of each the units with the value that every annotator gave first.
type Values<'a> = Vec<BTreeMap<Unit, BTreeMap<&'a str, f64>>>;

impl Agreement {
    /// Of the judgements of one annotator, or of all; agreement between annotators is always that of all.
    pub fn of<'a>(past: impl Iterator<Item = &'a Past> + Clone, annotator: Option<&str>) -> Self {
        let own = past
            .clone()
            .filter(|it| annotator.is_none_or(|name| it.annotator == name));
        let values = values(past);
        let shared: Values<'_> = values
            .into_iter()
            .filter(|units| units.values().any(|by| by.len() > 1))
            .collect();
        let all: Vec<usize> = (0..shared.len()).collect();
        let estimate = |statistic: &dyn Fn(&[usize]) -> f64| {
            let value = statistic(&all);
            let (low, high) = bootstrap_interval_of(all.len(), 0, statistic);
            let interval = (!low.is_nan()).then_some((low, high));
            (!value.is_nan()).then_some(Estimate { value, interval })
        };
        let units: Vec<Vec<Vec<f64>>> = shared
            .iter()
            .map(|units| {
                units
                    .values()
                    .map(|by| by.values().copied().collect())
                    .collect()
            })
            .collect();
        let alpha = |level| {
            estimate(&|drawn| krippendorff_alpha(drawn.iter().flat_map(|&i| &units[i]), level))
        };
        Self {
            oneself: oneself(own.clone()),
            shared: shared.len(),
            kappa: estimate(&|drawn| light_kappa(&shared, drawn)),
            alpha_nominal: alpha(Level::Nominal),
            alpha_ordinal: alpha(Level::Ordinal),
            first: bias(own.clone(), |(_, a), (_, b)| b.cmp(a)),
            longer: bias(own, |(a, _), (b, _)| {
                a.chars().count().cmp(&b.chars().count())
            }),
        }
    }
}

/// The values of one judgement. Of two answers, in the order of their texts: 0 where the first is better, 1 for a tie, 2 for the second.
fn said(past: &Past) -> BTreeMap<Unit, f64> {
    let ranks = match &past.said {
        Said::Rating(rating) => return BTreeMap::from([((0, 0), *rating)]),
        Said::Thumbs(up) => return BTreeMap::from([((0, 0), f64::from(u8::from(*up)))]),
        Said::Ranks(ranks) => ranks,
    };
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by(|&a, &b| past.answers[a].0.cmp(&past.answers[b].0));
    let pairs = (0..order.len()).flat_map(|i| (i + 1..order.len()).map(move |j| (i, j)));
    let value = |(i, j): Unit| match ranks[order[i]].cmp(&ranks[order[j]]) {
        std::cmp::Ordering::Less => 0.0,
        std::cmp::Ordering::Equal => 1.0,
        std::cmp::Ordering::Greater => 2.0,
    };
    pairs.map(|unit| (unit, value(unit))).collect()
}

fn values<'a>(past: impl Iterator<Item = &'a Past>) -> Values<'a> {
    let mut items: BTreeMap<&str, BTreeMap<Unit, BTreeMap<&str, f64>>> = BTreeMap::new();
    for one in past {
        let units = items.entry(&one.item).or_default();
        for (unit, value) in said(one) {
            units
                .entry(unit)
                .or_default()
                .entry(&one.annotator)
                .or_insert(value);
        }
    }
    items.into_values().collect()
}

/// The mean of Cohen's κ over all two annotators that share units of the items `drawn`.
fn light_kappa(items: &Values<'_>, drawn: &[usize]) -> f64 {
    let mut pairs: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for by in drawn.iter().flat_map(|&i| items[i].values()) {
        for (a, x) in by {
            for (b, y) in
                by.range::<str, _>((std::ops::Bound::Excluded(*a), std::ops::Bound::Unbounded))
            {
                pairs.entry((a, b)).or_default().push((*x, *y));
            }
        }
    }
    let kappas: Vec<f64> = pairs
        .values()
        .map(|pairs| cohen_kappa(pairs))
        .filter(|k| !k.is_nan())
        .collect();
    mean(&kappas)
}

/// How often repetitions were judged as the first time.
fn oneself<'a>(past: impl Iterator<Item = &'a Past>) -> Option<Share> {
    let mut first: BTreeMap<(&str, &str), &Past> = BTreeMap::new();
    let (mut same, mut trials) = (Vec::new(), Vec::new());
    for one in past {
        let Some(before) = first.get(&(one.annotator.as_str(), one.item.as_str())) else {
            first.insert((&one.annotator, &one.item), one);
            continue;
        };
        let (before, now) = (said(before), said(one));
        let equal = now
            .iter()
            .filter(|(unit, value)| before.get(unit) == Some(value));
        same.push(equal.count() as f64);
        trials.push(now.len() as f64);
    }
    share(&same, &trials)
}

/// How often the better of two answers was the one that `greater` says has more of something; equals do not count.
fn bias<'a>(
    past: impl Iterator<Item = &'a Past>,
    greater: impl Fn(&(String, usize), &(String, usize)) -> std::cmp::Ordering,
) -> Option<Share> {
    let (mut won, mut trials) = (Vec::new(), Vec::new());
    for one in past {
        let Said::Ranks(ranks) = &one.said else {
            continue;
        };
        let (mut with, mut all) = (0.0, 0.0);
        for i in 0..ranks.len() {
            for j in 0..ranks.len() {
                // i is better than j.
                if ranks[i] < ranks[j] {
                    match greater(&one.answers[i], &one.answers[j]) {
                        std::cmp::Ordering::Greater => with += 1.0,
                        std::cmp::Ordering::Less => {}
                        std::cmp::Ordering::Equal => continue,
                    }
                    all += 1.0;
                }
            }
        }
        if all > 0.0 {
            won.push(with);
            trials.push(all);
        }
    }
    share(&won, &trials)
}

fn share(successes: &[f64], trials: &[f64]) -> Option<Share> {
    let of: f64 = trials.iter().sum();
    if of == 0.0 {
        return None;
    }
    let (low, high) = grouped_wilson_interval(successes, trials);
    Some(Share {
        share: successes.iter().sum::<f64>() / of,
        low,
        high,
        of: of as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(
        item: usize,
        annotator: &str,
        ranks: [u32; 2],
        sides: [usize; 2],
        repeat: bool,
    ) -> Past {
        let texts = ["long answer".to_owned(), "short".to_owned()];
        Past {
            item: item.to_string(),
            annotator: annotator.to_owned(),
            answers: texts.into_iter().zip(sides).collect(),
            said: Said::Ranks(ranks.to_vec()),
            all_bad: false,
            seconds: None,
            repeat,
            strategy: "random".to_owned(),
        }
    }

    /// Verdicts on eight pairs, the first better (1), a tie (2), the second better (3): 1,1,2,2,3,1,2,1 against 1,2,2,2,3,1,1,1.
    #[test]
    fn annotators_agree_on_the_items_that_both_judged() {
        let verdict = |v: i32| [[1, 2], [1, 1], [2, 1]][v as usize - 1];
        let (a, b) = ([1, 1, 2, 2, 3, 1, 2, 1], [1, 2, 2, 2, 3, 1, 1, 1]);
        let mut past: Vec<Past> = a
            .iter()
            .enumerate()
            .map(|(i, v)| pair(i, "a", verdict(*v), [0, 1], false))
            .collect();
        // The other order of the same answers in the file changes nothing.
        past.extend(b.iter().enumerate().map(|(i, v)| {
            let mut past = pair(i, "b", verdict(*v), [0, 1], false);
            past.answers.reverse();
            if let Said::Ranks(ranks) = &mut past.said {
                ranks.reverse();
            }
            past
        }));
        past.push(pair(8, "a", [1, 2], [0, 1], false));
        let found = Agreement::of(past.iter(), None);
        assert_eq!(found.shared, 8);
        let kappa = found.kappa.unwrap();
        // shared/design/algorithms.md §7.
        assert!((kappa.value - 0.578947).abs() < 5e-7, "{kappa:?}");
        let (low, high) = kappa.interval.unwrap();
        assert!(low < kappa.value && kappa.value < high && high <= 1.0);
        assert!(found.alpha_ordinal.unwrap().value > 0.5);
        assert_eq!(
            Agreement::of(past.iter().filter(|it| it.annotator == "a"), None).kappa,
            None
        );
    }

    /// By hand; Wilson's interval of 12 of 20: shared/design/algorithms.md §7.
    #[test]
    fn position_and_length_are_shares_of_decided_comparisons() {
        let mut past: Vec<Past> = (0..20)
            .map(|i| pair(i, "a", [1, 2], if i < 12 { [0, 1] } else { [1, 0] }, false))
            .collect();
        past.push(pair(20, "a", [1, 1], [0, 1], false));
        let found = Agreement::of(past.iter(), Some("a"));
        let first = found.first.unwrap();
        assert_eq!((first.share, first.of), (0.6, 20));
        assert!((first.low - 0.386582).abs() < 5e-7 && (first.high - 0.781193).abs() < 5e-7);
        let longer = found.longer.unwrap();
        assert_eq!((longer.share, longer.high), (1.0, 1.0));
        assert_eq!(Agreement::of(past.iter(), Some("b")).first, None);
    }

    /// By hand: two of two repetitions; the interval of 2 of 2 is that of shared/design/algorithms.md §7.
    #[test]
    fn agreement_with_oneself_looks_at_repetitions() {
        let past = [
            pair(0, "a", [1, 2], [0, 1], false),
            pair(1, "a", [1, 1], [0, 1], false),
            pair(1, "b", [2, 1], [0, 1], false),
            pair(0, "a", [1, 2], [1, 0], true),
            pair(1, "a", [1, 1], [1, 0], true),
        ];
        let oneself = Agreement::of(past.iter(), None).oneself.unwrap();
        assert_eq!((oneself.share, oneself.of), (1.0, 2));
        assert!((oneself.low - 0.342380).abs() < 5e-7);
    }

    #[test]
    fn a_ranking_is_all_its_pairs() {
        let ranking = |annotator: &str, ranks: [u32; 3]| Past {
            item: "i".to_owned(),
            annotator: annotator.to_owned(),
            answers: ["a", "b", "c"]
                .into_iter()
                .map(str::to_owned)
                .zip(0..)
                .collect(),
            said: Said::Ranks(ranks.to_vec()),
            all_bad: false,
            seconds: None,
            repeat: false,
            strategy: "random".to_owned(),
        };
        // By hand: a > b, a > c, b = c is (0, 0, 1); the others differ in the last.
        assert_eq!(
            said(&ranking("x", [1, 2, 2]))
                .into_values()
                .collect::<Vec<_>>(),
            [0.0, 0.0, 1.0]
        );
        let past = [ranking("x", [1, 2, 2]), ranking("x", [1, 3, 2])];
        let oneself = Agreement::of(past.iter(), None).oneself.unwrap();
        assert_eq!((oneself.share, oneself.of), (2.0 / 3.0, 3));
    }
}
