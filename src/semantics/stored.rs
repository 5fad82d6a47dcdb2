//! A stored response (RFC 9111 §3) and the windows of its life.
//!
//! ```text
//! response_time - initial_age
//!   |--------- fresh ---------|- stale-while-revalidate -|
//!                             |- stale-if-error -------------|
//!                             |- keep: only to validate --------|→ gone
//! ```
//!
//! All arithmetic saturates: a window may be as long as the operator likes.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, DATE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::coding::Coded;
use super::timestamp::Timestamp;
use super::vary::Selecting;
use super::{fields, freshness, validation};

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
    /// The complete content, coded by this cache if `coded` says so.
    pub body: Bytes,
    /// How this cache coded the content; by `headers` it is uncoded.
    pub coded: Option<Coded>,
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
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never served stale by the client's leave. The windows
    /// above are then zero, unless the backend itself gave them beside `s-maxage`.
    pub must_revalidate: bool,
}

impl Lifetimes {
    /// The age past which nothing can be done with the entry any more.
    pub fn gone_after(&self) -> Duration {
        self.fresh.saturating_add(self.stale_while_revalidate.max(self.stale_if_error).max(self.keep))
    }
}

/// Fields that carry tags for Weir alone (and would tell a client which); they go before storing.
const TAG_FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("xkey"),
    HeaderName::from_static("cache-groups"),
];

/// Removes what a stored response does not keep: hop-by-hop fields, `Age`, `Content-Length`, `Trailer`
/// (trailers are not stored) and tag-carrying fields.
pub fn strip_for_storage(headers: &mut HeaderMap) {
    fields::strip_hop_by_hop(headers);
    for name in [AGE, CONTENT_LENGTH, TRAILER] {
        headers.remove(name);
    }
    for name in &TAG_FIELDS {
        headers.remove(name);
    }
}

/// Records the moment of receipt as `Date` where a response has none (RFC 9110 §6.6.1).
pub(super) fn ensure_date(headers: &mut HeaderMap, response_time: Timestamp) {
    if headers.contains_key(DATE) {
        return;
    }
    // An IMF-fixdate is visible ASCII, so the conversion cannot fail.
    if let Ok(date) = HeaderValue::try_from(response_time.to_http_date()) {
        headers.insert(DATE, date);
    }
}

impl StoredResponse {
    /// Makes one from a response as received: computes its age, strips what is not kept, dates it.
    pub fn new(
        status: StatusCode,
        mut headers: HeaderMap,
        body: Bytes,
        request_time: Timestamp,
        response_time: Timestamp,
        lifetimes: Lifetimes,
        selecting: Selecting,
    ) -> StoredResponse {
        let initial_age = freshness::initial_age(&headers, request_time, response_time);
        strip_for_storage(&mut headers);
        ensure_date(&mut headers, response_time);
        StoredResponse {
            status,
            headers,
            body,
            coded: None,
            request_time,
            response_time,
            initial_age,
            lifetimes,
            selecting,
        }
    }

    /// `current_age` of RFC 9111 §4.2.3.
    pub fn current_age(&self, now: Timestamp) -> Duration {
        self.initial_age.saturating_add(now.since(self.response_time))
    }

    /// Length of the content as the backend sent it, bytes.
    pub fn content_length(&self) -> u64 {
        self.coded.map_or(self.body.len() as u64, |coded| coded.length)
    }

    /// Whether every window has closed.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.current_age(now) >= self.lifetimes.gone_after()
    }

    /// How long from `now` until every window has closed; zero when they have.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.lifetimes.gone_after().saturating_sub(self.current_age(now))
    }

    /// Whether there is something to ask the upstream about: an `ETag` or a usable `Last-Modified`.
    pub fn has_validator(&self) -> bool {
        validation::has_validator(&self.headers, self.response_time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(headers: HeaderMap) -> StoredResponse {
        StoredResponse::new(
            StatusCode::OK,
            headers,
            Bytes::from_static(b"x"),
            Timestamp(9_000),
            Timestamp(10_000),
            Lifetimes {
                fresh: Duration::from_secs(60),
                keep: Duration::from_secs(30),
                ..Lifetimes::default()
            },
            Selecting::default(),
        )
    }

    #[test]
    fn what_is_not_kept_goes_and_what_is_missing_comes() {
        let mut headers = HeaderMap::new();
        for name in [
            "connection",
            "transfer-encoding",
            "age",
            "content-length",
            "trailer",
            "surrogate-key",
            "cache-tag",
            "xkey",
            "cache-groups",
            "x-nominated",
            "content-type",
            "etag",
        ] {
            headers.insert(name, HeaderValue::from_static("x-nominated"));
        }
        headers.insert(AGE, HeaderValue::from_static("5"));
        let stored = stored(headers);
        let mut names: Vec<_> = stored.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "date", "etag"]);
        assert_eq!(stored.headers[DATE], "Thu, 01 Jan 1970 00:00:10 GMT");
        assert_eq!(stored.initial_age, Duration::from_secs(6));
        assert!(stored.has_validator());
    }

    #[test]
    fn windows_close() {
        let stored = stored(HeaderMap::new());
        assert!(!stored.is_gone(Timestamp(10_000)));
        assert_eq!(stored.remaining(Timestamp(10_000)), Duration::from_secs(89));
        assert!(!stored.is_gone(Timestamp(98_999)));
        assert!(stored.is_gone(Timestamp(99_000)));
        assert_eq!(stored.remaining(Timestamp(100_000)), Duration::ZERO);
        assert!(!stored.has_validator());
    }

    #[test]
    fn endless_windows_do_not_overflow() {
        let endless = Lifetimes { fresh: Duration::MAX, keep: Duration::MAX, ..Lifetimes::default() };
        let stored =
            StoredResponse { lifetimes: endless, initial_age: Duration::MAX, ..stored(HeaderMap::new()) };
        assert_eq!(stored.current_age(Timestamp(u64::MAX)), Duration::MAX);
        assert_eq!(endless.gone_after(), Duration::MAX);
    }

    proptest! {
        #[test]
        fn age_never_falls_as_time_passes(earlier: u64, later: u64) {
            let (earlier, later) = (earlier.min(later), earlier.max(later));
            let stored = stored(HeaderMap::new());
            prop_assert!(stored.current_age(Timestamp(earlier)) <= stored.current_age(Timestamp(later)));
            prop_assert!(!stored.is_gone(Timestamp(earlier)) || stored.is_gone(Timestamp(later)));
        }
    }
}
