//! A stored response (RFC 9111 §3) and the windows of its life.
//!
//! ```text
//! response_time - initial_age
//!   |--------- fresh ---------|- stale-while-revalidate -|
//!                             |- stale-if-error -------------|
//!                             |- keep: only to validate --------|→ gone
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::timestamp::Timestamp;
use super::vary::Selecting;

/// A whole response as the cache keeps it.
///
/// `headers` holds what may be sent again: no hop-by-hop fields, no `Age`, no tag-carrying fields
/// (`Surrogate-Key`, `Cache-Tag`, `xkey`). `Content-Length` is not kept; it follows from `body`.
#[derive(Debug, Clone)]
pub struct StoredResponse {
    /// Status of the response.
    pub status: StatusCode,
    /// End-to-end fields, in the order received.
    pub headers: HeaderMap,
    /// The complete content.
    pub body: Bytes,
    /// When the request that brought it was sent upstream (RFC 9111 §4.2.3 `request_time`).
    pub request_time: Timestamp,
    /// When its head arrived (`response_time`).
    pub response_time: Timestamp,
    /// `corrected_initial_age` of RFC 9111 §4.2.3.
    pub initial_age: Duration,
    /// Its windows, computed once when it was stored or freshened.
    pub lifetimes: Lifetimes,
    /// The request fields its `Vary` nominated, with the (normalised) values of its own request.
    pub selecting: Selecting,
}

/// The windows of a stored response, all counted from the moment its age was zero except where said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// Freshness lifetime: how long it may be reused without a word to the upstream.
    pub fresh: Duration,
    /// How long after `fresh` it may be served while a refresh runs (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// How long after `fresh` it may be served when the upstream fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// How long after `fresh` it is kept at all, to be validated.
    pub keep: Duration,
    /// `no-cache`: every reuse needs a successful validation first.
    pub always_validate: bool,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never served stale, by nobody's leave.
    pub must_revalidate: bool,
}

impl Lifetimes {
    /// The age past which nothing can be done with the entry any more.
    pub fn gone_after(&self) -> Duration {
        self.fresh + self.stale_while_revalidate.max(self.stale_if_error).max(self.keep)
    }
}

impl StoredResponse {
    /// `current_age` of RFC 9111 §4.2.3.
    pub fn current_age(&self, now: Timestamp) -> Duration {
        self.initial_age + now.since(self.response_time)
    }

    /// Whether every window has closed.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.current_age(now) >= self.lifetimes.gone_after()
    }
}
