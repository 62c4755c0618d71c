//! A session of judging on a page.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use rlhf_base::{Interrupt, Text};
use rlhf_label::{Error, Next, Rewritten, Session, Shown, Undone, Verdict};
use rlhf_lm::Tokenizer;
use rlhf_rollout::{Scorer, score_texts};
use rlhf_web::label::{
    Judged, LabelPage, Labelling, Now, Screen, ShownAnswer, ShownItem, TakenBack, label_page,
};
use rlhf_web::server::{Refusal, Server, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::lossless_tokenizer;
use crate::locate::reward_source;
use crate::machine::Machine;

/// A reward, learned or a rule, that is asked what it thinks of answers.
pub(crate) struct Opinion {
    reward: Box<dyn Scorer>,
    tokenizer: Tokenizer,
}

impl Opinion {
    /// The reward that `rlhf ppo --reward` would take under this name, if there is one.
    pub(crate) fn open(name: Option<&str>, machine: &Machine) -> anyhow::Result<Option<Self>> {
        let Some(name) = name else {
            return Ok(None);
        };
        let timeout = rlhf_ppo::Config::default().timeout();
        let (bases, dtype, device) = (&machine.bases, machine.dtype, &machine.device);
        Ok(Some(Self {
            reward: reward_source(name)?.open(bases, dtype, device, timeout)?,
            tokenizer: lossless_tokenizer()?,
        }))
    }

    /// The score of each answer, in the order of the screen.
    pub(crate) fn scores(&self, shown: &Shown) -> anyhow::Result<Vec<f64>> {
        let answers = shown.sides.iter().map(|&i| &shown.item.answers[i]);
        let answers: Vec<(&Text, bool)> = answers.map(|it| (&it.text, it.finished)).collect();
        let prompt = &shown.item.prompt;
        score_texts(self.reward.as_ref(), &self.tokenizer, prompt, &answers)
    }
}

/// How long the thread with the reward model waits before it looks whether the session has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Lets people judge at `server` until one of them ends the session, or Ctrl-C does. `opinion` says what a reward model thinks.
pub(crate) fn judge_on_page(
    session: Session,
    server: Server,
    page: &LabelPage,
    opinion: Option<&Opinion>,
    machine: &Machine,
) -> anyhow::Result<Session> {
    let (ask, asked) = channel();
    let closing = Interrupt::new();
    let desk = Arc::new(Desk {
        session: Mutex::new(session),
        last: Mutex::new(HashMap::new()),
        ask,
        closing: closing.clone(),
    });
    let router = label_page(page, Arc::clone(&desk) as Arc<dyn Labelling>);
    let serving = thread::spawn(move || server.serve(router, &closing));
    while !serving.is_finished() {
        if machine.interrupt.requested() {
            desk.closing.request();
        }
        answer(&asked, opinion);
    }
    serving.join().map_err(|_| anyhow!("the server failed"))??;
    let desk = Arc::into_inner(desk).ok_or_else(|| anyhow!("a request is still open"))?;
    let session = desk.session.into_inner();
    Ok(session.unwrap_or_else(PoisonError::into_inner))
}

/// Waits a moment for a question to the reward model, and answers it.
fn answer(asked: &Receiver<Question>, opinion: Option<&Opinion>) {
    match asked.recv_timeout(LOOK) {
        Ok(Question { shown, reply }) => {
            let scores = opinion.map(|opinion| opinion.scores(&shown)).transpose();
            // Whoever asked may have gone.
            let _ = reply.send(scores);
        }
        Err(RecvTimeoutError::Timeout) => {}
        // The last request has ended with the server.
        Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
    }
}

struct Question {
    shown: Shown,
    reply: Sender<anyhow::Result<Option<Vec<f64>>>>,
}

/// A session between the threads of a server. The reward model stays on the thread that has loaded it.
struct Desk {
    session: Mutex<Session>,
    /// What each annotator judged last.
    last: Mutex<HashMap<String, Shown>>,
    ask: Sender<Question>,
    closing: Interrupt,
}

/// What a thread that panicked left behind is whole: a session changes only once a judgement is on the disk.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Labelling for Desk {
    fn screen(&self, annotator: &str) -> Result<Screen, Refusal> {
        screen(&mut lock(&self.session), annotator).map_err(refusal)
    }

    fn judge(&self, judged: Judged) -> Result<Screen, Refusal> {
        let verdict: Verdict = of("verdict", judged.verdict)?;
        let rewritten: Option<Rewritten> =
            judged.rewritten.map(|it| of("rewritten", it)).transpose()?;
        let annotator = judged.annotator.as_str();
        let mut session = lock(&self.session);
        let shown = session.next(annotator).map_err(refusal)?;
        let skips = verdict == Verdict::Skip;
        session
            .judge(annotator, &judged.shown, verdict, rewritten, judged.seconds)
            .map_err(refusal)?;
        match shown {
            Next::Show(shown) if !skips => lock(&self.last).insert(annotator.to_owned(), shown),
            _ => lock(&self.last).remove(annotator),
        };
        screen(&mut session, annotator).map_err(refusal)
    }

    fn undo(&self, annotator: &str) -> Result<Option<TakenBack>, Refusal> {
        let undone = lock(&self.session).undo(annotator).map_err(refusal)?;
        lock(&self.last).remove(annotator);
        Ok(undone.map(|undone| match undone {
            Undone::Judgement(_) => TakenBack::Judgement,
            Undone::Skip => TakenBack::Skip,
        }))
    }

    fn progress(&self, annotator: &str) -> Value {
        json!(lock(&self.session).progress(annotator))
    }

    fn opinion(&self, annotator: &str, shown: &str) -> Result<Option<Vec<f64>>, Refusal> {
        let last = lock(&self.last).get(annotator).cloned();
        let Some(shown) = last.filter(|last| last.id == shown) else {
            return Ok(None);
        };
        let (reply, answer) = channel();
        let asked = self.ask.send(Question { shown, reply });
        match asked.ok().and_then(|()| answer.recv().ok()) {
            Some(Ok(scores)) => Ok(scores),
            Some(Err(error)) => Err(failed(format!("the reward: {error:#}"))),
            // The session is ending.
            None => Ok(None),
        }
    }

    fn end(&self) {
        self.closing.request();
    }
}

fn screen(session: &mut Session, annotator: &str) -> Result<Screen, Error> {
    let now = match session.next(annotator)? {
        Next::Show(shown) => Now::Show { now: seen(&shown) },
        Next::Wait => Now::Wait,
        Next::Done => Now::Done,
    };
    let ahead = match now {
        Now::Show { .. } => session.ahead(annotator)?,
        _ => None,
    };
    let (done, left) = session.counts(annotator);
    Ok(Screen {
        now,
        ahead: ahead.as_ref().map(seen),
        done,
        left,
        seconds: session.seconds(annotator),
    })
}

/// An item without the names of the models.
fn seen(shown: &Shown) -> ShownItem {
    let answers = shown.sides.iter().map(|&i| &shown.item.answers[i]);
    ShownItem {
        id: shown.id.clone(),
        prompt: shown.item.prompt.clone(),
        answers: answers
            .map(|answer| ShownAnswer {
                text: answer.text.clone(),
                finished: answer.finished,
            })
            .collect(),
    }
}

/// A field of a request as what it means.
fn of<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let mut refusal = Refusal::new(status, "verdict", format!("{name}: {error}"));
        refusal.param = Some(name.to_owned());
        refusal
    })
}

fn refusal(error: Error) -> Refusal {
    let (status, code) = match error {
        Error::NotOnScreen { .. } => (StatusCode::CONFLICT, "not_on_screen"),
        Error::Verdict(_) => (StatusCode::UNPROCESSABLE_ENTITY, "verdict"),
        Error::Name(_) => (StatusCode::UNPROCESSABLE_ENTITY, "name"),
        Error::NotWritable { .. } => (StatusCode::INSUFFICIENT_STORAGE, "not_writable"),
        _ => return failed(error.to_string()),
    };
    Refusal::new(status, code, error.to_string())
}

fn failed(why: String) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", why)
}
