//! Counters and histograms, kept as handles so that the request path never looks a label up.
//! No raw path, key or subject is ever a label.

use std::sync::Arc;
use std::time::Duration;

use crate::semantics::cache_status::Outcome;

/// All of Weir's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(#[allow(dead_code)] Arc<Inner>);

#[derive(Debug)]
struct Inner {}

/// Which store an operation was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreTier {
    /// L1.
    Memory,
    /// L2.
    Redis,
}

/// Store operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreOp {
    /// Look-up.
    Get,
    /// Write.
    Set,
    /// Removal.
    Delete,
    /// Append to the purge log, reads of it.
    Log,
}

/// How a store operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreResult {
    /// Found, or done.
    Ok,
    /// Not there.
    Absent,
    /// There, but void (purged, other epoch, other rules).
    Void,
    /// There, but undecodable or its checksum failed.
    Corrupt,
    /// Out of time.
    Timeout,
    /// Any other failure.
    Error,
    /// Not tried: the breaker is open, or a queue is full.
    Skipped,
}

impl Metrics {
    /// A new registry; `routes` are the route names in force, plus `-` for traffic without a route.
    pub fn new(_routes: &[&str]) -> Metrics {
        unimplemented!()
    }
    /// A request ended. `route` is an index into the policy's table; `None` = no route.
    pub fn request(
        &self,
        _route: Option<usize>,
        _outcome: Outcome,
        _status: u16,
        _elapsed: Duration,
        _bytes: u64,
    ) {
    }
    /// An exchange with the upstream: time to its first byte, and the status or failure (`None`).
    pub fn upstream(&self, _status: Option<u16>, _first_byte: Duration) {}
    /// A store operation ended.
    pub fn store(&self, _tier: StoreTier, _op: StoreOp, _result: StoreResult, _elapsed: Duration) {}
    /// A purge was published with this many tags; `owed` = the log could not be reached.
    pub fn purge(&self, _tags: usize, _owed: bool) {}
    /// An answer was not stored; `reason` is a static token.
    pub fn not_stored(&self, _reason: &'static str) {}
    /// The Prometheus text exposition, with the store's gauges filled in by the caller beforehand.
    pub fn render(&self) -> String {
        unimplemented!()
    }
}
