//! The report of runs that go on: the same page, served, which looks for news every few seconds.
//!
//! The page and its contents are one and the same HTML: without a script it is the report as it was when it was loaded.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use crate::report::{contents, title};
use crate::run::{Error, Run};
use crate::section::Section;
use crate::server::{Asset, BASE_CSS, Refusal, assets};

/// Where the runs come from.
pub trait Source: Send + Sync + 'static {
    /// Changes whenever the runs do; cheap.
    fn version(&self) -> u64;
    /// The runs as they are.
    ///
    /// # Errors
    /// Where a file cannot be read.
    fn read(&self) -> Result<Vec<Run>, Error>;
}

const CSS: &str = "text/css; charset=utf-8";
const FILES: [Asset; 4] = [
    BASE_CSS,
    Asset {
        path: "/chart.css",
        kind: CSS,
        body: include_str!("../assets/chart.css"),
    },
    Asset {
        path: "/report.css",
        kind: CSS,
        body: include_str!("../assets/report.css"),
    },
    Asset {
        path: "/live.js",
        kind: "text/javascript; charset=utf-8",
        body: include_str!("live.js"),
    },
];

/// The name of the header with the version of the contents.
const VERSION: &str = "x-version";

/// The page at `/`, and at `/contents` what is in it, if it is no longer of the version that is asked about.
pub fn live(source: impl Source, sections: Vec<Section>) -> Router {
    let page = Page {
        source: Box::new(source),
        sections,
        latest: Mutex::new(None),
    };
    Router::new()
        .route("/", get(whole))
        .route("/contents", get(news))
        .with_state(Arc::new(page))
        .merge(assets(&FILES))
}

struct Page {
    source: Box<dyn Source>,
    sections: Vec<Section>,
    latest: Mutex<Option<Arc<Contents>>>,
}

/// The contents of the page at one time.
struct Contents {
    version: u64,
    title: String,
    main: String,
}

impl Page {
    /// The contents as they are, made anew where the runs have changed: for all browsers together.
    fn latest(&self) -> Result<Arc<Contents>, Error> {
        // What a panic left behind is a whole value or none.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Before reading: what changes meanwhile is news to the next who asks.
        let version = self.source.version();
        if let Some(known) = latest.as_ref().filter(|known| known.version == version) {
            return Ok(Arc::clone(known));
        }
        let runs = self.source.read()?;
        let made = Arc::new(Contents {
            version,
            title: title(&runs),
            main: contents(&runs, &self.sections),
        });
        *latest = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// The contents, read on a thread that may wait for the disk.
async fn latest(page: Arc<Page>) -> Result<Arc<Contents>, Refusal> {
    let refuse =
        |what: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "not_readable", what);
    match tokio::task::spawn_blocking(move || page.latest()).await {
        Ok(Ok(contents)) => Ok(contents),
        Ok(Err(error)) => Err(refuse(error.to_string())),
        Err(error) => Err(refuse(error.to_string())),
    }
}

async fn whole(State(page): State<Arc<Page>>) -> Result<Html<String>, Refusal> {
    let contents = latest(page).await?;
    Ok(Html(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/base.css\">\n<link rel=\"stylesheet\" href=\"/chart.css\">\n\
         <link rel=\"stylesheet\" href=\"/report.css\">\n<script src=\"/live.js\" defer></script>\n</head>\n\
         <body data-version=\"{}\">\n<p id=\"state\" role=\"status\"></p>\n{}</body>\n</html>\n",
        crate::html::escape(&contents.title),
        contents.version,
        contents.main
    )))
}

async fn news(State(page): State<Arc<Page>>, uri: Uri) -> Result<Response, Refusal> {
    let contents = latest(page).await?;
    let version = contents.version.to_string();
    if uri.query() == Some(&format!("version={version}")) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let html = (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned());
    let version = (header::HeaderName::from_static(VERSION), version);
    Ok(([html, version], contents.main.clone()).into_response())
}
