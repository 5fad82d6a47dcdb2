//! May this stored response answer this request now? (RFC 9111 §4, RFC 5861)

use std::time::Duration;

use http::HeaderMap;

use super::stored::StoredResponse;
use super::storing::Terms;
use super::timestamp::Timestamp;

/// What may be done with a stored response whose key and selecting fields match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Fresh {
        /// `current_age`.
        age: Duration,
    },
    /// Serve it stale, and refresh it behind.
    WhileRevalidate {
        /// `current_age`.
        age: Duration,
    },
    /// Serve it stale: the client itself said so (`max-stale`).
    ClientAcceptsStale {
        /// `current_age`.
        age: Duration,
    },
    /// It must be validated (or fetched anew) first.
    MustValidate(Validate),
    /// Every window has closed.
    Gone,
}

/// Why a validation is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validate {
    /// Its freshness is over.
    Stale,
    /// The response says `no-cache`.
    ResponseNoCache,
    /// The request says `no-cache`, `max-age`, `min-fresh` or `Pragma: no-cache`.
    RequestAsks,
}

/// Decides. `request` are the client's fields.
pub fn decide(_stored: &StoredResponse, _request: &HeaderMap, _now: Timestamp, _terms: &Terms) -> Reuse {
    unimplemented!()
}

/// Whether the stored response may stand in for a failed fetch (RFC 5861 §4): a connection error, a
/// timeout, or a 500, 502, 503, 504 from the upstream.
pub fn on_error(_stored: &StoredResponse, _request: &HeaderMap, _now: Timestamp, _terms: &Terms) -> bool {
    unimplemented!()
}

/// `only-if-cached` (RFC 9111 §5.2.1.7).
pub fn only_if_cached(_request: &HeaderMap) -> bool {
    unimplemented!()
}
