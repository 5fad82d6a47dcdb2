//! `Cache-Status` (RFC 9211) and the one vocabulary of outcomes that the response header, the access
//! log, the metrics labels and the admin API share.

use std::time::Duration;

use http::HeaderValue;

/// Why a request went forward to the upstream (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// The cache was configured not to handle this request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// No stored response for the URI.
    UriMiss,
    /// A stored response for the URI, but none this request's fields select.
    VaryMiss,
    /// No stored response could be used, and no closer reason is known.
    Miss,
    /// A fresh response was stored, but the request's fields asked for the upstream.
    Request,
    /// A stored response was stale.
    Stale,
    /// Only part of the representation was stored.
    Partial,
}

/// How a request ended, as one word: metrics label, log field, `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered from a fresh stored response.
    Hit,
    /// Answered from a stale stored response, while it is refreshed or because the upstream failed.
    Stale,
    /// Fetched from the upstream for this request.
    Miss,
    /// Answered from a fetch that another request had begun.
    Coalesced,
    /// A stored response was validated upstream (304) and reused.
    Revalidated,
    /// Forwarded without the cache taking part.
    Pass,
    /// An unsafe method forwarded, with the purges that follow.
    Mutation,
    /// Answered by Weir itself because the upstream could not (502, 503, 504) or the request was refused.
    Error,
}

impl Outcome {
    /// All of them, for tables and metrics.
    pub const ALL: [Outcome; 8] = [
        Outcome::Hit,
        Outcome::Stale,
        Outcome::Miss,
        Outcome::Coalesced,
        Outcome::Revalidated,
        Outcome::Pass,
        Outcome::Mutation,
        Outcome::Error,
    ];
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Stale => "stale",
            Outcome::Miss => "miss",
            Outcome::Coalesced => "coalesced",
            Outcome::Revalidated => "revalidated",
            Outcome::Pass => "pass",
            Outcome::Mutation => "mutation",
            Outcome::Error => "error",
        }
    }
}

/// One member of a `Cache-Status` field: what Weir did with a request, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// `hit`: answered without going forward.
    pub hit: bool,
    /// `fwd`: why it went forward. Never together with `hit`.
    pub forward: Option<Forward>,
    /// `fwd-status`: the upstream's status where it differs from the one sent.
    pub forward_status: Option<u16>,
    /// `stored`: the answer was stored.
    pub stored: bool,
    /// `collapsed`: the request shared another's fetch.
    pub collapsed: bool,
    /// `ttl`: remaining freshness in seconds, negative when stale.
    pub ttl: Option<i64>,
    /// `key`: the cache key's digest in hex, where the operator asked for it.
    pub key: Option<String>,
    /// `detail`: a short token or sentence naming the reason (`memory`, `redis`, `no-store`, …).
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// Renders the member under the cache's name, e.g. `weir; hit; ttl=278; detail=memory`.
    pub fn render(&self, _cache: &str) -> HeaderValue {
        unimplemented!()
    }
}

/// Remaining freshness as RFC 9211 `ttl` counts it.
pub fn ttl_seconds(fresh: Duration, age: Duration) -> i64 {
    let (f, a) = (fresh.as_millis() as i128, age.as_millis() as i128);
    i64::try_from((f - a).div_euclid(1000)).unwrap_or(i64::MAX)
}
