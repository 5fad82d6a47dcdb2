//! May this response be stored, and for how long? (RFC 9111 §3, §4.2; DESIGN "Lifetimes")

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use super::stored::Lifetimes;
use super::timestamp::Timestamp;

/// Whose word counts when the backend and the operator disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OriginMode {
    /// The operator's TTL applies, but a stricter word from the backend wins (default).
    #[default]
    Stricter,
    /// The operator's TTL applies whatever the backend says (`no-store` and `private` included).
    Ignore,
    /// RFC 9111 to the letter; the operator's TTL is used only where the backend gives no freshness at all.
    Honour,
}

/// The operator's words about one route, as `semantics` understands them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Lifetime for cacheable answers; `None` means only what the backend's fields (or the heuristic) give.
    pub ttl: Option<Duration>,
    /// Lifetime for 404 and 410; `None` means they are not stored unless the backend says so.
    pub negative_ttl: Option<Duration>,
    /// Window in which a stale answer may be served while it is refreshed, when the backend gives none.
    pub stale_while_revalidate: Option<Duration>,
    /// Window in which a stale answer may be served when the upstream fails, when the backend gives none.
    pub stale_if_error: Option<Duration>,
    /// How long a stale entry with a validator is kept to be validated.
    pub keep: Duration,
    /// Whose word counts.
    pub origin: OriginMode,
    /// The entry is keyed by a subject (so `private` and `Authorization` are no obstacle).
    pub per_subject: bool,
    /// The operator declared the route public (so `Authorization` is no obstacle).
    pub public: bool,
    /// Store answers that carry `Set-Cookie` (off by default; the field itself is then kept).
    pub store_set_cookie: bool,
    /// Client `no-cache`/`max-age` request directives are honoured (default true).
    pub client_refresh: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            ttl: None,
            negative_ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            keep: Duration::from_secs(60),
            origin: OriginMode::Stricter,
            per_subject: false,
            public: false,
            store_set_cookie: false,
            client_refresh: true,
        }
    }
}

/// Why a response is not stored. Each reason is a sentence an operator can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStored {
    /// Placeholder variant list is completed in this file.
    NoStore,
}

/// Decides from the heads alone. `Ok` carries the windows of the entry-to-be.
pub fn admit(
    _method: &Method,
    _request: &HeaderMap,
    _status: StatusCode,
    _response: &HeaderMap,
    _request_time: Timestamp,
    _response_time: Timestamp,
    _terms: &Terms,
) -> Result<Lifetimes, NotStored> {
    unimplemented!()
}
