//! How well scores predict held-out feedback, beside how well length alone would: those of a reward model, or the implicit rewards of a
//! policy.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};

use rlhf_dataset::count_shared;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::items::{Item, Judgement};
use crate::statistics;

/// A share with its 95 % interval ([`statistics::grouped_wilson_interval`], a prompt a group) and the number of comparisons behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// The share, between 0 and 1.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Comparisons counted.
    pub n: usize,
}

/// One bin of the calibration curve: predicted against observed share of comparisons won.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CalibrationBin {
    /// Mean predicted probability that the one with the higher score wins, in the bin.
    pub predicted: f64,
    /// Share of the comparisons in which it did.
    pub observed: f64,
    /// Comparisons in the bin.
    pub n: usize,
}

/// Counts of the evaluation data: rows used, cut, left out, and shared with the training data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Held-out prompts that were scored.
    pub prompts: usize,
    /// Among them those that were cut to fit.
    pub cut: usize,
    /// Prompts left out because all their responses are the same.
    pub identical: usize,
    /// Prompts that were trained on too, where the training data is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_on: Option<usize>,
}

impl Counts {
    /// Of held-out items; `identical` as [`Items`](super::Items) counted them, `trained` the items of the training set if they are known.
    pub fn of(held_out: &[Item], identical: usize, trained: Option<&[Item]>) -> Self {
        let known = |trained: &[Item]| {
            count_shared(
                trained.iter().map(Item::subject),
                held_out.iter().map(Item::subject),
            )
        };
        Self {
            prompts: held_out.len(),
            cut: held_out.iter().filter(|item| !item.whole).count(),
            identical,
            trained_on: trained.map(known),
        }
    }
}

/// The report on scores; fields that the data has nothing to say about are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Counts of the data.
    #[serde(flatten)]
    pub counts: Counts,
    /// Share of preferred responses that score higher; equal scores count half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Share>,
    /// What "the longer answer wins" would get on the same comparisons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longer_wins: Option<Share>,
    /// Accuracy by `source`, where rows name one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_source: BTreeMap<String, Share>,
    /// Accuracy by how much longer the preferred response is, in tokens.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub by_length_gap: BTreeMap<String, Share>,
    /// Predicted P(win) = σ(r_i − r_j) against observed, in bins of one tenth from ½ to 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<CalibrationBin>,
    /// Kendall's τ-b between scores and ranks, averaged over rankings of three or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kendall_tau: Option<f64>,
    /// Spearman's ρ between scores and ratings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spearman: Option<f64>,
    /// Pearson's r between scores and ratings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pearson: Option<f64>,
    /// Area under the ROC curve for thumbs up against thumbs down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auc: Option<f64>,
    /// What shows that the model has learnt nothing of use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One comparison "the first was preferred", as seen by the model.
struct Seen {
    item: usize,
    /// Which of the distinct prompts it is about.
    prompt: usize,
    gap: f64,
    longer_by: i64,
}

/// What `scores`, one for each response of `items`, say of the model that gave them.
pub fn report(items: &[Item], scores: &[Vec<f64>], counts: Counts) -> Report {
    let mut seen = Vec::new();
    let mut prompts = HashMap::new();
    let (mut taus, mut rated, mut thumbs) = (Vec::new(), Vec::new(), Vec::new());
    for (n, (item, scores)) in items.iter().zip(scores).enumerate() {
        let next = prompts.len();
        let prompt = *prompts.entry(item.subject()).or_insert(next);
        match &item.judgement {
            Judgement::Ranks { .. } | Judgement::AllBad(_) | Judgement::Best(_) => {
                let ranks = item.ranks();
                for i in 0..ranks.len() {
                    for j in (0..ranks.len()).filter(|&j| ranks[i] < ranks[j]) {
                        let longer_by =
                            item.responses[i].len() as i64 - item.responses[j].len() as i64;
                        seen.push(Seen {
                            item: n,
                            prompt,
                            gap: scores[i] - scores[j],
                            longer_by,
                        });
                    }
                }
                if ranks.len() > 2 && !matches!(item.judgement, Judgement::Best(_)) {
                    let goodness: Vec<f64> = ranks.iter().map(|r| -r).collect();
                    taus.push(statistics::kendall_tau_b(scores, &goodness));
                }
            }
            Judgement::Rating(rating) => rated.push((scores[0], *rating)),
            Judgement::Thumbs(up) => thumbs.push((scores[0], *up)),
        }
    }
    // τ is not defined where one side is constant.
    taus.retain(|tau| tau.is_finite());
    let (rated_scores, ratings): (Vec<f64>, Vec<f64>) = rated.into_iter().unzip();
    let (thumb_scores, ups): (Vec<f64>, Vec<bool>) = thumbs.into_iter().unzip();

    let share = |pick: &dyn Fn(&Seen) -> bool, win: fn(&Seen) -> f64| {
        share_by_prompt(seen.iter().filter(|s| pick(s)), win)
    };
    let mut by_source = BTreeMap::new();
    let sources: std::collections::BTreeSet<_> =
        items.iter().filter_map(|i| i.source.clone()).collect();
    for source in sources {
        if let Some(found) = share(&|s| items[s.item].source.as_ref() == Some(&source), won) {
            by_source.insert(source, found);
        }
    }
    let mut by_length_gap = BTreeMap::new();
    for (name, low, high) in [
        ("preferred shorter by 10 or more", i64::MIN, -10),
        ("preferred shorter by 1 to 9", -9, -1),
        ("same length", 0, 0),
        ("preferred longer by 1 to 9", 1, 9),
        ("preferred longer by 10 or more", 10, i64::MAX),
    ] {
        if let Some(found) = share(&|s| (low..=high).contains(&s.longer_by), won) {
            by_length_gap.insert(name.to_owned(), found);
        }
    }
    let (accuracy, longer_wins) = (share(&|_| true, won), share(&|_| true, longer));
    Report {
        counts,
        accuracy,
        longer_wins,
        warnings: accuracy
            .zip(longer_wins)
            .map_or_else(Vec::new, |(accuracy, longer)| warnings(&accuracy, &longer)),
        by_source,
        by_length_gap,
        calibration: calibration(&seen),
        kendall_tau: (!taus.is_empty()).then(|| statistics::mean(&taus)),
        spearman: (ratings.len() > 1).then(|| statistics::spearman(&rated_scores, &ratings)),
        pearson: (ratings.len() > 1).then(|| statistics::pearson(&rated_scores, &ratings)),
        auc: (ups.contains(&true) && ups.contains(&false))
            .then(|| statistics::auc(&thumb_scores, &ups)),
    }
}

fn won(seen: &Seen) -> f64 {
    half_on_tie(seen.gap)
}

fn longer(seen: &Seen) -> f64 {
    half_on_tie(seen.longer_by as f64)
}

fn half_on_tie(gap: f64) -> f64 {
    if gap == 0.0 {
        0.5
    } else {
        f64::from(u8::from(gap > 0.0))
    }
}

/// The mean over comparisons, with an interval over prompts: comparisons of one ranking, or of several rows about one prompt, are
/// not independent.
fn share_by_prompt<'a>(
    seen: impl Iterator<Item = &'a Seen>,
    win: fn(&Seen) -> f64,
) -> Option<Share> {
    let mut prompts: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for s in seen {
        let (wins, n) = prompts.entry(s.prompt).or_default();
        *wins += win(s);
        *n += 1.0;
    }
    let (wins, counts): (Vec<f64>, Vec<f64>) = prompts.into_values().unzip();
    let n: f64 = counts.iter().sum();
    if n == 0.0 {
        return None;
    }
    let (low, high) = statistics::grouped_wilson_interval(&wins, &counts);
    Some(Share {
        value: wins.iter().sum::<f64>() / n,
        low,
        high,
        n: n as usize,
    })
}

/// What an accuracy shows of a model that has learnt nothing, or length alone.
fn warnings(accuracy: &Share, longer_wins: &Share) -> Vec<String> {
    let mut warnings = Vec::new();
    let more =
        "more feedback and more steps help, and `rlhf data` shows whether the labels are as meant";
    if accuracy.high < 0.5 {
        warnings.push(format!(
            "the accuracy, {accuracy}, is below chance: the preferred and the other answer may be exchanged in the data; look at it with \
             `rlhf data`"
        ));
    } else if accuracy.low <= 0.5 {
        warnings.push(format!(
            "the accuracy, {accuracy}, cannot be told from chance, 50 %: {more}"
        ));
    }
    if accuracy.value <= longer_wins.value {
        warnings.push(format!(
            "the accuracy, {accuracy}, is not above that of \"the longer answer wins\", {longer_wins}: the model may have learnt length \
             and no more; {more}"
        ));
    }
    warnings
}

fn calibration(seen: &[Seen]) -> Vec<CalibrationBin> {
    let mut bins = [(0.0, 0.0, 0usize); 5];
    for s in seen {
        let predicted = 1.0 / (1.0 + (-s.gap.abs()).exp());
        let bin = &mut bins[(((predicted - 0.5) * 10.0) as usize).min(4)];
        *bin = (bin.0 + predicted, bin.1 + won(s), bin.2 + 1);
    }
    let filled = bins.into_iter().filter(|bin| bin.2 > 0);
    filled
        .map(|(p, o, n)| CalibrationBin {
            predicted: p / n as f64,
            observed: o / n as f64,
            n,
        })
        .collect()
}

impl Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [value, low, high] = [self.value, self.low, self.high].map(|x| 100.0 * x);
        write!(f, "{value:.1} % [{low:.1}, {high:.1}] of {}", self.n)
    }
}

impl Report {
    /// The most telling numbers, in a line.
    pub fn headline(&self) -> String {
        let shares = [
            ("accuracy", self.accuracy),
            ("longer wins", self.longer_wins),
        ];
        let shares = shares
            .iter()
            .filter_map(|(name, s)| Some(format!("{name} {}", (*s)?)));
        let numbers = [("Spearman ρ", self.spearman), ("AUC", self.auc)];
        let numbers = numbers
            .iter()
            .filter_map(|(name, x)| Some(format!("{name} {:.3}", (*x)?)));
        format!(
            "held out: {}",
            shares.chain(numbers).collect::<Vec<_>>().join(", ")
        )
    }

    /// The headline numbers under their names in `metrics.jsonl`.
    pub fn metrics(&self) -> Map<String, Value> {
        let mut line = Map::new();
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                line.insert(format!("eval/{name}"), json!(value));
            }
        };
        put("accuracy", self.accuracy.map(|s| s.value));
        put("accuracy_low", self.accuracy.map(|s| s.low));
        put("accuracy_high", self.accuracy.map(|s| s.high));
        put("comparisons", self.accuracy.map(|s| s.n as f64));
        put("longer_wins", self.longer_wins.map(|s| s.value));
        put("kendall_tau", self.kendall_tau);
        put("spearman", self.spearman);
        put("pearson", self.pearson);
        put("auc", self.auc);
        line
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, s: &Share| {
            writeln!(
                f,
                "{name:<34} {:>6.1} %  [{:.1}, {:.1}]  of {}",
                100.0 * s.value,
                100.0 * s.low,
                100.0 * s.high,
                s.n
            )
        };
        for (what, count) in [
            ("held-out prompts", Some(self.counts.prompts)),
            ("  cut to fit", Some(self.counts.cut).filter(|n| *n > 0)),
            (
                "  left out, all responses the same",
                Some(self.counts.identical).filter(|n| *n > 0),
            ),
            (
                "  trained on too, which flatters",
                self.counts.trained_on.filter(|n| *n > 0),
            ),
        ] {
            if let Some(count) = count {
                writeln!(f, "{what:<34} {count:>6}")?;
            }
        }
        if let Some(s) = &self.accuracy {
            row(f, "accuracy", s)?;
        }
        if let Some(s) = &self.longer_wins {
            row(f, "\"the longer answer wins\" gets", s)?;
        }
        for (name, s) in self.by_source.iter().chain(&self.by_length_gap) {
            row(f, &format!("  {name}"), s)?;
        }
        for bin in &self.calibration {
            writeln!(
                f,
                "  says {:>5.1} % sure, is right in     {:>6.1} %  of {}",
                100.0 * bin.predicted,
                100.0 * bin.observed,
                bin.n
            )?;
        }
        for (name, value) in [
            ("Kendall τ over rankings", self.kendall_tau),
            ("Spearman ρ with ratings", self.spearman),
            ("Pearson r with ratings", self.pearson),
            ("AUC for thumbs", self.auc),
        ] {
            if let Some(value) = value {
                writeln!(f, "{name:<34} {value:>6.3}")?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        Ok(())
    }
}
