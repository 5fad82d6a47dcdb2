//! Validation: client conditionals, conditional fetches, 304 freshening (RFC 9111 §4.3, RFC 9110 §13).

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::stored::StoredResponse;
use super::storing::{NotStored, Terms};
use super::timestamp::Timestamp;

/// What the client's preconditions say about a stored response that may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Send it.
    Send,
    /// The client has it: 304.
    NotModified,
}

/// Evaluates `If-None-Match`, else `If-Modified-Since`, against a stored response (RFC 9110 §13.2.2).
pub fn evaluate(_method: &Method, _request: &HeaderMap, _stored: &StoredResponse) -> Precondition {
    unimplemented!()
}

/// Client fields that make a request conditional or partial; removed before a fetch that fills the cache.
pub const CONDITIONAL: [HeaderName; 6] = [
    http::header::IF_NONE_MATCH,
    http::header::IF_MODIFIED_SINCE,
    http::header::IF_MATCH,
    http::header::IF_UNMODIFIED_SINCE,
    http::header::IF_RANGE,
    http::header::RANGE,
];

/// The fields that turn a fetch into a validation of `stored`. `purged`: the entry is void, so only a
/// strong or weak ETag may vouch for it, never a date. Empty = it has no validator to use.
pub fn conditional_fields(_stored: &StoredResponse, _purged: bool) -> Vec<(HeaderName, HeaderValue)> {
    unimplemented!()
}

/// Whether this 304 speaks about `stored` (RFC 9111 §4.3.4).
pub fn selects(_stored: &StoredResponse, _not_modified: &HeaderMap) -> bool {
    unimplemented!()
}

/// `stored` with the 304's fields taken over (RFC 9111 §3.2) and its windows computed anew.
/// `Err` = the freshened response may no longer be stored (it is still good for this one answer).
pub fn freshen(
    _stored: &StoredResponse,
    _request: &Parts,
    _not_modified: &HeaderMap,
    _request_time: Timestamp,
    _response_time: Timestamp,
    _terms: &Terms,
) -> (StoredResponse, Result<(), NotStored>) {
    unimplemented!()
}
