//! Answers: JSON, and problem+json (RFC 9457) for every refusal.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::Body;

/// A refusal with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Static token, for machines.
    pub(super) token: &'static str,
    /// A sentence, for people: what is wrong and what to do about it.
    pub(super) detail: String,
    allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, token: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, token, detail: detail.into(), allow: None }
    }

    /// `Allow` for a 405 (RFC 9110 §15.5.6).
    pub(super) fn allow(mut self, methods: &'static str) -> Problem {
        self.allow = Some(methods);
        self
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let value = json!({
            "type": format!("urn:weir:problem:{}", self.token),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = typed(self.status, "application/problem+json", render(&value));
        if let Some(methods) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"weir admin\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// A JSON answer, indented: people read these with curl.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    typed(status, "application/json", render(value))
}

/// Any text; never to be cached.
pub(super) fn typed(status: StatusCode, content_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn render(value: &Value) -> String {
    format!("{value:#}\n")
}
