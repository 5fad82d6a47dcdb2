//! Age and freshness arithmetic (RFC 9111 §4.2).

use std::time::Duration;

use http::HeaderMap;

use super::timestamp::Timestamp;

/// `corrected_initial_age` (RFC 9111 §4.2.3) from a response's `Date` and `Age`.
pub fn initial_age(_response: &HeaderMap, _request_time: Timestamp, _response_time: Timestamp) -> Duration {
    unimplemented!()
}
