//! The page where people judge.
//!
//! [`label_page`] is the page and its requests; what they mean is up to a [`Labelling`], which decides what is shown to whom and keeps
//! what is said. The page shows the next item before the judgement of the last one is on the disk, sends that again while the server is
//! gone, and takes the next judgement only when the last one is kept.
//!
//! - `label.html`, `label.css`: the page; `label.js`: names, judgements, keys;
//! - `view.js`: the item on the screen; `actions.js`: what can be done with it; `editor.js`: a better answer;
//! - `text.js`: texts as elements, never as markup, and what two of them have in common;
//! - `server.js`: requests; `figures.js`: what the judgements say;
//! - `guidelines`: Markdown for the person who judges.

mod guidelines;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use rlhf_base::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::html::escape;
use crate::server::{Asset, BASE_CSS, Refusal, assets};

/// What a person sees of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct ShownAnswer {
    /// What it says.
    pub text: Text,
    /// Whether it ended by itself.
    pub finished: bool,
}

/// What a person sees of an item: nothing that tells which model said what.
#[derive(Clone, Debug, Serialize)]
pub struct ShownItem {
    /// Its name, with which the judgement comes back.
    pub id: String,
    /// The prompt.
    pub prompt: Text,
    /// The answers in the order of the screen.
    pub answers: Vec<ShownAnswer>,
}

/// What is on an annotator's screen.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Now {
    /// An item to judge.
    Show {
        /// The item.
        now: ShownItem,
    },
    /// Nothing yet.
    Wait,
    /// Nothing more.
    Done,
}

/// What the page needs to go on.
#[derive(Clone, Debug, Serialize)]
pub struct Screen {
    /// What is on the screen.
    #[serde(flatten)]
    pub now: Now,
    /// What comes after it, if that is known.
    pub ahead: Option<ShownItem>,
    /// How many judgements the annotator has given.
    pub done: usize,
    /// How many items are left.
    pub left: usize,
    /// How many seconds an item takes.
    pub seconds: Option<f64>,
}

/// A judgement as it comes from the page.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Who judges.
    pub annotator: String,
    /// The name of the item.
    pub shown: String,
    /// What was said, in the words of the session.
    pub verdict: Value,
    /// The side of an answer and what was written in its place, in the words of the session.
    pub rewritten: Option<Value>,
    /// How long the item was looked at.
    pub seconds: Option<f64>,
}

/// What an annotator took back.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TakenBack {
    /// A judgement.
    Judgement,
    /// A skipped item.
    Skip,
}

/// What stands behind the page. Its functions may wait for the disk or for a model; they run on threads of their own.
pub trait Labelling: Send + Sync + 'static {
    /// What `annotator` has on the screen; the same until it is judged.
    fn screen(&self, annotator: &str) -> Result<Screen, Refusal>;
    /// Keeps a judgement; what is on the screen then.
    fn judge(&self, judged: Judged) -> Result<Screen, Refusal>;
    /// Takes back the annotator's last step.
    fn undo(&self, annotator: &str) -> Result<Option<TakenBack>, Refusal>;
    /// What the judgements say so far: the fields that `figures.js` shows.
    fn progress(&self, annotator: &str) -> Value;
    /// The scores of a reward model for the answers of an item, in the order of the screen, if `annotator` has judged it.
    fn opinion(&self, annotator: &str, shown: &str) -> Result<Option<Vec<f64>>, Refusal>;
    /// Ends the session: somebody has nothing left to judge, and says so.
    fn end(&self);
}

/// What is fixed while the page is open.
#[derive(Clone, Debug)]
pub struct LabelPage {
    /// What is asked: `pair`, `ranking`, `rating` or `thumbs`.
    pub kind: &'static str,
    /// The file that the judgements go to, as the user wrote it.
    pub file: String,
    /// The name of whoever judges, unless the page asks for it.
    pub annotator: Option<String>,
    /// How to judge, in Markdown.
    pub guidelines: Option<String>,
    /// Whether there is a reward model.
    pub opinions: bool,
    /// How the page goes on when the server is gone, as it ends with the number of a port: `rlhf label runs again with --port`.
    pub again: &'static str,
    /// Of a pipeline, the number of this round of judging and how many there are.
    pub round: Option<(usize, usize)>,
}

const JS: &str = "text/javascript; charset=utf-8";

/// A file of the page.
macro_rules! file {
    ($name:literal, $kind:expr) => {
        Asset {
            path: concat!("/", $name),
            kind: $kind,
            body: include_str!($name),
        }
    };
}

const FILES: [Asset; 9] = [
    BASE_CSS,
    file!("label.css", "text/css; charset=utf-8"),
    file!("label.js", JS),
    file!("view.js", JS),
    file!("actions.js", JS),
    file!("editor.js", JS),
    file!("text.js", JS),
    file!("figures.js", JS),
    file!("server.js", JS),
];

impl LabelPage {
    fn html(&self) -> String {
        let guidelines = self.guidelines.as_deref().map(guidelines::html);
        let (round, next, then, ended) = match self.round {
            None => (
                String::new(),
                String::new(),
                String::new(),
                "This page can be closed.".to_owned(),
            ),
            Some((round, of)) if round < of => (
                format!("Round {round} of {of}"),
                (round + 1).to_string(),
                format!(
                    "When you end it, the models learn from them, and then their new answers come here: round {} of {of}.",
                    round + 1
                ),
                format!(
                    "The models learn from them now. Leave this page open: round {} of {of} begins here by itself.",
                    round + 1
                ),
            ),
            Some((round, of)) => (
                format!("Round {round} of {of}"),
                String::new(),
                "When you end it, the models learn from them, and that was the last round."
                    .to_owned(),
                "The models learn from them now. This page can be closed.".to_owned(),
            ),
        };
        include_str!("label.html")
            .replace("{{round}}", &round)
            .replace("{{next}}", &next)
            .replace("{{then}}", &then)
            .replace("{{ended}}", &ended)
            .replace("{{again}}", self.again)
            .replace("{{kind}}", self.kind)
            .replace("{{opinions}}", if self.opinions { "true" } else { "false" })
            .replace(
                "{{annotator}}",
                &escape(self.annotator.as_deref().unwrap_or("")),
            )
            .replace("{{file}}", &escape(&self.file))
            // Last, because a person wrote it and may have written anything.
            .replace("{{guidelines}}", &guidelines.unwrap_or_default())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    annotator: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    annotator: String,
    shown: String,
}

type Behind = State<Arc<dyn Labelling>>;

/// The page at `/`, and what it asks for.
pub fn label_page(page: &LabelPage, behind: Arc<dyn Labelling>) -> Router {
    let html = page.html();
    Router::new()
        .route("/", get(move || async move { Html(html) }))
        .route("/label/screen", post(screen))
        .route("/label/judge", post(judge))
        .route("/label/undo", post(undo))
        .route("/label/progress", post(progress))
        .route("/label/opinion", post(opinion))
        .route("/label/end", post(end))
        .with_state(behind)
        .merge(assets(&FILES))
}

async fn screen(State(behind): Behind, Json(who): Json<Who>) -> Result<Json<Screen>, Refusal> {
    blocking(move || behind.screen(&who.annotator))
        .await
        .map(Json)
}

async fn judge(State(behind): Behind, Json(judged): Json<Judged>) -> Result<Json<Screen>, Refusal> {
    blocking(move || behind.judge(judged)).await.map(Json)
}

async fn undo(State(behind): Behind, Json(who): Json<Who>) -> Result<Json<Value>, Refusal> {
    let answer = move || {
        let undone = behind.undo(&who.annotator)?;
        let screen = behind.screen(&who.annotator)?;
        Ok(json!({"undone": undone, "screen": screen}))
    };
    blocking(answer).await.map(Json)
}

async fn progress(State(behind): Behind, Json(who): Json<Who>) -> Result<Json<Value>, Refusal> {
    let answer = move || Ok(behind.progress(&who.annotator));
    blocking(answer).await.map(Json)
}

async fn opinion(State(behind): Behind, Json(about): Json<About>) -> Result<Json<Value>, Refusal> {
    let answer = move || {
        let scores = behind.opinion(&about.annotator, &about.shown)?;
        Ok(json!({"scores": scores}))
    };
    blocking(answer).await.map(Json)
}

async fn end(State(behind): Behind, Json(_): Json<Who>) -> Json<Value> {
    behind.end();
    Json(json!({}))
}

/// Runs `work` on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Err(Refusal::new(status, "failed", panic.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_cannot_leave_its_place_in_the_page() {
        let page = LabelPage {
            kind: "pair",
            file: "\"><script>.jsonl".to_owned(),
            annotator: Some("{{file}}".to_owned()),
            guidelines: Some("# Be fair {{kind}}\n<script>alert(1)</script>".to_owned()),
            opinions: false,
            again: "rlhf label runs again with --port",
            round: None,
        };
        let html = page.html();
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)"));
        assert!(html.contains("<h1>Be fair {{kind}}</h1>"));
        assert_eq!(html.matches("{{").count(), 1);
    }

    #[test]
    fn the_page_of_a_round_says_what_follows() {
        let of = |round| {
            let page = LabelPage {
                kind: "pair",
                file: "judgements.jsonl".to_owned(),
                annotator: None,
                guidelines: None,
                opinions: false,
                again: "rlhf run runs again with label.port =",
                round,
            };
            page.html()
        };
        assert!(of(Some((1, 2))).contains("Leave this page open: round 2 of 2"));
        assert!(of(Some((1, 2))).contains("data-next=\"2\""));
        assert!(of(Some((2, 2))).contains("the last round"));
        for last in [of(Some((2, 2))), of(None)] {
            assert!(last.contains("can be closed") && last.contains("data-next=\"\""));
        }
    }

    /// The policy of the server allows nothing inline.
    #[test]
    fn the_page_has_no_script_or_style_of_its_own() {
        let html = include_str!("label.html");
        for inline in [" style=", "<style", " onclick", "javascript:", "http"] {
            assert!(!html.contains(inline), "{inline}");
        }
        for file in FILES {
            for markup in ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval("] {
                assert!(!file.body.contains(markup), "{}: {markup}", file.path);
            }
        }
    }
}
