//! An answer with its explanation: what is sent, how it came about, in the vocabulary of RFC 9211.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;

use super::problem::problem;
use crate::body::Body;
use crate::config::ExchangeConfig;
use crate::policy::route::Route;
use crate::semantics::cache_status::{CACHE_STATUS, CacheStatus, Forward, Outcome, is_readable};
use crate::upstream::UpstreamError;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// What one way returns.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) outcome: Outcome,
    pub(crate) status: CacheStatus,
    /// The matched route.
    pub(crate) route: Option<Arc<Route>>,
    /// Age of what is served from the cache.
    pub(crate) age: Option<Duration>,
    /// Time to the upstream's first byte, where it was asked.
    pub(crate) upstream: Option<Duration>,
}

/// An answer, as metrics and the access log are told of it.
pub(super) struct Told {
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    pub(super) reason: Option<&'static str>,
    pub(super) age: Option<Duration>,
    pub(super) upstream: Option<Duration>,
    pub(super) bytes: Option<u64>,
}

/// Content bytes, where known beforehand.
pub(super) fn content_length(body: &Body) -> Option<u64> {
    match body {
        Body::Head(_) => Some(0),
        body => body.size_hint().exact(),
    }
}

/// A failure that is answered by Weir itself. Cloned to those who waited for the same fetch.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) token: &'static str,
    pub(crate) detail: &'static str,
}

impl Failure {
    /// Logs the failure whole and keeps what a client may read: addresses and causes stay in the log.
    pub(crate) fn of(error: &UpstreamError, method: &http::Method, path: &str) -> Failure {
        tracing::warn!(%method, path, reason = error.token(), "{error}");
        let detail = match error {
            UpstreamError::Connect(_) => "The upstream could not be reached.",
            UpstreamError::ConnectTimeout(_) => "Connecting to the upstream took too long.",
            UpstreamError::Busy => "The upstream's connection limit was reached.",
            UpstreamError::FirstByteTimeout(_) => "The upstream took too long to respond.",
            UpstreamError::Closed(_) => "The upstream closed the connection without a response.",
            UpstreamError::Protocol(_) => "The upstream's response could not be understood.",
            UpstreamError::RequestBody(_) => "The request body broke off.",
        };
        Failure { status: error.status(), token: error.token(), detail }
    }
}

impl Answer {
    /// An answer that went forward.
    pub(crate) fn forwarded(
        response: Response<Body>,
        outcome: Outcome,
        forward: Forward,
        detail: Option<&'static str>,
    ) -> Answer {
        let status = CacheStatus { forward: Some(forward), detail, ..CacheStatus::default() };
        Answer { response, outcome, status, route: None, age: None, upstream: None }
    }

    /// Weir's own answer after a failure.
    pub(crate) fn failed(failure: &Failure, forward: Forward) -> Answer {
        let response = problem(failure.status, failure.token, failure.detail);
        Answer::forwarded(response, Outcome::Error, forward, Some(failure.token))
    }

    /// Names the route.
    pub(crate) fn on(mut self, route: Option<Arc<Route>>) -> Answer {
        self.route = route;
        self
    }

    /// Notes how long the upstream took to its first byte.
    pub(crate) fn after(mut self, upstream: Duration) -> Answer {
        self.upstream = Some(upstream);
        self
    }

    /// What metrics and the access log are told of it.
    pub(super) fn told(&self) -> Told {
        Told {
            outcome: self.outcome,
            status: self.response.status().as_u16(),
            reason: self.status.detail,
            age: self.age,
            upstream: self.upstream,
            bytes: content_length(self.response.body()),
        }
    }

    /// The response with its explanation in the header.
    pub(crate) fn into_response(self, config: &ExchangeConfig) -> Response<Body> {
        let status = self.status.render(&config.name);
        self.explained(status, config)
    }

    /// The same with the explanation rendered already.
    pub(super) fn explained(self, status: HeaderValue, config: &ExchangeConfig) -> Response<Body> {
        let mut response = self.response;
        if response.headers().contains_key(CACHE_STATUS) && !is_readable(response.headers()) {
            response.headers_mut().remove(CACHE_STATUS);
        }
        // The cache closest to the client comes last (RFC 9211 §2).
        response.headers_mut().append(CACHE_STATUS, status);
        if config.x_cache {
            let word = if self.status.hit || self.status.collapsed { "HIT" } else { "MISS" };
            response.headers_mut().insert(X_CACHE, HeaderValue::from_static(word));
        }
        // An answer without a date would be dated by nobody behind a cache (RFC 9110 §6.6.1): the server adds it.
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        debug_assert!(switching || !response.headers().contains_key(header::CONNECTION));
        response
    }
}
