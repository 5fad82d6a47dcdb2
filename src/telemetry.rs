//! Logs: `tracing` for what Weir does, and the access log, one line per request.

use std::time::Duration;

use crate::semantics::cache_status::Outcome;

/// One finished request, for the access log. Paths are logged without their query.
#[derive(Debug)]
pub struct AccessRecord<'a> {
    /// Wall-clock end, ms.
    pub at: crate::semantics::timestamp::Timestamp,
    /// Client address.
    pub peer: std::net::IpAddr,
    /// Method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Status sent.
    pub status: u16,
    /// Route name, `-` without one.
    pub route: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, as in `Cache-Status` detail.
    pub reason: Option<&'a str>,
    /// Age of what was served, where it came from the cache.
    pub age: Option<Duration>,
    /// From arrival to the response head.
    pub elapsed: Duration,
    /// Time to the upstream's first byte, where it was asked.
    pub upstream: Option<Duration>,
    /// Content bytes, where known beforehand.
    pub bytes: Option<u64>,
    /// Trace id of `traceparent`, else `X-Request-Id`, else one made here.
    pub request_id: &'a str,
}

/// Writes access lines without holding the request path up.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {}

impl AccessLog {
    /// Writes one line, if the log is on.
    pub fn write(&self, _record: &AccessRecord<'_>) {}
    /// Whether anybody listens (so that callers need not build a record).
    pub fn enabled(&self) -> bool {
        false
    }
}
