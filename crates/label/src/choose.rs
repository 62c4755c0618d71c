//! A strategy that learns from the judgements which item to show next.
//!
//! A thread of its own computes the hidden states of the answers that may be shown and fits an ensemble of heads to the judgements so far, again
//! whenever there are some more; choosing looks at what it has found out by then, so that nobody waits for it. A program that judges does wait, so
//! that its judgements do not depend on the speed of the machine.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rlhf_base::{Text, rng};
use rlhf_dataset::Feedback;
use rlhf_ops::device::in_background;
use rlhf_rollout::{Features, Opinions, Rule};
use rlhf_train::feedback;

use crate::Kind;
use crate::item::Candidates;
use crate::judgement::Judgement;
use crate::learner::Learner;
use crate::strategy::{Choice, Random, Strategy};
use crate::verdict::{Verdict, competition_ranks};

/// Candidates that a rule looks over before it chooses one, where it has nothing to choose among the answers of one.
const LOOKS_OVER: usize = 8;
/// Candidates whose answers are read before they are looked over.
const READY: usize = 2 * LOOKS_OVER;

/// Shows what a rule finds most useful, and of the items a share at random.
pub struct Learned {
    rule: Rule,
    /// The share of items at random: what is measured on them alone is measured on a fair sample.
    share: f64,
    random: Random,
    waits: bool,
    orders: Sender<Order>,
    found: Arc<Found>,
    /// Orders sent.
    sent: u64,
    /// Candidates whose answers the thread knows.
    known: HashSet<String>,
}

/// What the thread is to take in.
pub(crate) enum Order {
    /// Answers that may be shown, under the name of their candidates.
    Answers(String, Text, Vec<Text>),
    /// What was said of answers, under a name that it replaces what was said before under.
    Said(Opinion),
}

/// What somebody said about answers to a prompt.
pub(crate) struct Opinion {
    pub(crate) name: String,
    pub(crate) prompt: Text,
    pub(crate) answers: Vec<Text>,
    pub(crate) judgement: feedback::Judgement,
}

/// What the thread has found out.
#[derive(Default)]
pub(crate) struct Found {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Orders carried out.
    done: u64,
    /// What the heads say, and which rows belong to which candidates.
    news: Option<Arc<News>>,
    failed: bool,
}

/// Opinions of the heads about the answers of candidates.
pub(crate) struct News {
    pub(crate) opinions: Opinions,
    pub(crate) rows: HashMap<String, Vec<usize>>,
}

impl Learned {
    /// Chooses by `rule` on the hidden states of `features`, after what `known` says already. `waits`: where programs judge.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        (rule, share): (Rule, f64),
        features: Features,
        known: &[Feedback],
        seed: u64,
        waits: bool,
    ) -> anyhow::Result<Self> {
        let (orders, received) = channel();
        let found = Arc::new(Found::default());
        let learner = Learner::new(features, seed);
        let theirs = Arc::clone(&found);
        in_background("choosing", move || work(learner, &received, &theirs))?;
        let mut strategy = Self {
            rule,
            share,
            random: Random { seed },
            waits,
            orders,
            found,
            sent: 0,
            known: HashSet::new(),
        };
        for feedback in known {
            strategy.send(Order::Said(Opinion::of(feedback)));
        }
        Ok(strategy)
    }

    fn send(&mut self, order: Order) {
        // A thread that has failed has said so; choices are at random from then on.
        if self.orders.send(order).is_ok() {
            self.sent += 1;
        }
    }

    /// What the thread has found out by now; all that can be known where that is waited for.
    fn news(&self) -> Option<Arc<News>> {
        let lock = |state| match state {
            Ok(state) => state,
            Err(poisoned) => PoisonError::into_inner(poisoned),
        };
        let mut state = lock(self.found.state.lock());
        while self.waits && state.done < self.sent && !state.failed {
            state = lock(self.found.changed.wait(state));
        }
        state.news.clone()
    }
}

impl Strategy for Learned {
    fn choose(&mut self, kind: Kind, open: &[&Candidates]) -> Choice {
        let near = open.iter().take(READY);
        let names: Vec<String> = near.map(|it| it.name()).collect();
        for (name, candidates) in names.iter().zip(open) {
            if self.known.insert(name.clone()) {
                let answers = candidates.answers.iter().map(|it| it.text.clone());
                let (prompt, answers) = (candidates.prompt.clone(), answers.collect());
                self.send(Order::Answers(name.clone(), prompt, answers));
            }
        }
        let seed = self.random.seed;
        let stream = |purpose: &str| rng::stream(seed, purpose, rng::fnv1a(names[0].as_bytes()));
        let at_random = rng::uniform(&mut stream("label/random")) < self.share;
        let news = self.news().filter(|_| !at_random);
        let chosen = news.and_then(|news| {
            // Those that the thread has scored, with their places among the open ones.
            let scored = names.iter().enumerate();
            let scored = scored.filter_map(|(i, name)| Some((i, news.rows.get(name)?.clone())));
            let scored: Vec<(usize, Vec<usize>)> = scored.collect();
            // Prompt after prompt, the best pair of its answers: choosing among prompts as well prefers strange ones (docs/choosing.md).
            let pairs_within = kind == Kind::Pair && scored.first()?.1.len() > 2;
            let over = if pairs_within { 1 } else { LOOKS_OVER };
            let (places, rows): (Vec<usize>, Vec<Vec<usize>>) =
                scored.into_iter().take(over).unzip();
            let (at, answers) = match kind {
                Kind::Rating | Kind::Thumbs => {
                    let rows: Vec<usize> = rows.concat();
                    (news.opinions.single(&rows)?, vec![0])
                }
                Kind::Pair | Kind::Ranking => {
                    let any = |_, _, _| true;
                    let rng = &mut stream("label/choose");
                    let (at, pair) = news.opinions.pair(self.rule, &rows, any, rng)?;
                    match kind {
                        Kind::Pair => (at, pair.to_vec()),
                        _ => (at, (0..rows[at].len()).collect()),
                    }
                }
            };
            Some(Choice {
                candidates: places[at],
                answers,
                strategy: self.rule.name().to_owned(),
            })
        });
        chosen.unwrap_or_else(|| self.random.choose(kind, open))
    }

    fn looks_over(&self) -> usize {
        READY
    }

    fn heard(&mut self, judgement: &Judgement) {
        for opinion in Opinion::in_judgement(judgement) {
            self.send(Order::Said(opinion));
        }
    }
}

/// Carries out orders until there are no more.
fn work(mut learner: Learner, orders: &Receiver<Order>, found: &Found) {
    while let Ok(first) = orders.recv() {
        let all: Vec<Order> = std::iter::once(first).chain(orders.try_iter()).collect();
        let count = all.len() as u64;
        let result = learner.take(all).map(|news| news.map(Arc::new));
        let mut state = found.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += count;
        match result {
            Ok(None) => {}
            Ok(Some(news)) => state.news = Some(news),
            Err(error) => {
                rlhf_base::tell(format!(
                    "choosing what to label: items come at random from here on: {error:#}"
                ));
                (state.news, state.failed) = (None, true);
            }
        }
        found.changed.notify_all();
        if state.failed {
            return;
        }
    }
}

impl Opinion {
    /// What a row of a file says. Rows about the same answers under the same `id` are one judgement, of which the last one counts.
    fn of(feedback: &Feedback) -> Self {
        let answers: Vec<Text> = feedback.responses().into_iter().cloned().collect();
        let id = feedback.id().unwrap_or_default();
        Self {
            name: Self::name(id, feedback.prompt(), &answers),
            prompt: feedback.prompt().clone(),
            answers,
            judgement: feedback::Judgement::of(feedback, 0.0),
        }
    }

    /// What a judgement says: of the answers on the screen, and of one that was written in place of one of them.
    fn in_judgement(judgement: &Judgement) -> Vec<Self> {
        let (shown, item) = (&judgement.shown, &judgement.shown.item);
        let on_screen = || shown.texts().into_iter().cloned().collect::<Vec<Text>>();
        let said = match &judgement.verdict {
            Verdict::Skip => None,
            Verdict::Better { side, .. } => Some(feedback::Judgement::ranked(
                &[1, 2].map(|rank| if *side == 0 { rank } else { 3 - rank }),
            )),
            Verdict::Tie | Verdict::BothBad => Some(feedback::Judgement::ranked(&[1, 1])),
            Verdict::Ranks(ranks) => Some(feedback::Judgement::ranked(&competition_ranks(ranks))),
            Verdict::Rating(rating) => Some(feedback::Judgement::Rating(f64::from(*rating))),
            Verdict::Thumbs(up) => Some(feedback::Judgement::Thumbs(*up)),
        };
        let about = |answers: Vec<Text>, judgement| Self {
            name: Self::name(&item.id, &item.prompt, &answers),
            prompt: item.prompt.clone(),
            answers,
            judgement,
        };
        let mut all = Vec::from_iter(said.map(|said| about(on_screen(), said)));
        if let Some(rewritten) = &judgement.rewritten {
            let old = on_screen()[rewritten.side].clone();
            let new = rewritten.in_place_of(&old);
            all.push(about(vec![new, old], feedback::Judgement::ranked(&[1, 2])));
        }
        all
    }

    fn name(id: &str, prompt: &Text, answers: &[Text]) -> String {
        let mut answers: Vec<String> = answers.iter().map(Text::to_string).collect();
        answers.sort_unstable();
        [id, &prompt.to_string(), &answers.join("\0")].join("\0")
    }
}

#[cfg(test)]
mod tests;
