//! An answer that says no: to a browser in words, to a program in the form that OpenAI's clients read.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// The same as one word, for programs.
    pub code: &'static str,
    /// The field of the request that is to blame.
    pub param: Option<String>,
}

impl Refusal {
    /// A refusal that blames no field.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code,
            param: None,
        }
    }

    /// A request that makes no sense, with the field that is to blame.
    pub fn bad(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, code, message)
        }
    }

    /// Too much to do.
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", message)
    }

    /// Nothing can be done any more.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// As plain text for a browser that wants a page, else as [JSON](Self::json).
    pub(super) fn for_reader(self, headers: &HeaderMap) -> Response {
        let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        match accepts.is_some_and(|accepts| accepts.contains("text/html")) {
            true => (self.status, self.message).into_response(),
            false => self.into_response(),
        }
    }
}

impl Refusal {
    /// `{"error": {"message", "type", "param", "code"}}`.
    pub fn json(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        });
        json!({ "error": error })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.json())).into_response()
    }
}

pub(super) async fn not_found(uri: axum::http::Uri, headers: HeaderMap) -> Response {
    let message = format!("there is nothing at {}", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, "not_found", message).for_reader(&headers)
}

pub(super) async fn method_not_allowed(
    method: axum::http::Method,
    uri: axum::http::Uri,
    headers: HeaderMap,
) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Refusal::new(status, "method_not_allowed", message).for_reader(&headers)
}
