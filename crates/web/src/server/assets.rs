//! Files that are part of the program.

use axum::Router;
use axum::http::header;
use axum::routing::get;

/// The style that all pages share: colours for light and dark, type, buttons, focus.
pub const BASE_CSS: Asset = Asset {
    path: "/base.css",
    kind: "text/css; charset=utf-8",
    body: include_str!("../assets/base.css"),
};

/// A file that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its whole path on the server, such as `/chat.js`.
    pub path: &'static str,
    /// Its media type, such as `text/javascript; charset=utf-8`.
    pub kind: &'static str,
    /// Its contents.
    pub body: &'static str,
}

/// A router that answers with `files`, each at its path and nowhere else.
pub fn assets(files: &[Asset]) -> Router {
    files.iter().fold(Router::new(), |router, file| {
        let (kind, body) = (file.kind, file.body);
        router.route(
            file.path,
            get(move || async move { ([(header::CONTENT_TYPE, kind)], body) }),
        )
    })
}
