//! Counters and histograms, kept as handles so that the request path never looks a label up.
//!
//! Everything a request touches lies in one flat table of atomics (`slab`), copied per shard so that
//! threads do not fight over cache lines; a request ended is four relaxed additions. `exposition` turns the
//! table into Prometheus text when somebody asks. Gauges describe other modules' state: whoever renders
//! fills them in beforehand ([`Metrics::set_gauges`]).
//!
//! Labels are bounded by construction: route names, and words of enums. No raw path, key or subject is ever
//! a label.

mod exposition;
mod slab;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::semantics::cache_status::Outcome;
use crate::semantics::timestamp::Timestamp;
use slab::{Layout, Slab};

/// All of Weir's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Route names in the policy's order, `-` last.
    routes: Vec<String>,
    layout: Layout,
    slab: Slab,
    /// Reasons are static tokens of reason enums, so this map stays small.
    not_stored: Mutex<BTreeMap<&'static str, u64>>,
    gauges: Mutex<Gauges>,
    /// Requests (and refreshes behind answers) that wait for another's fetch.
    waiting: AtomicUsize,
}

/// Which store an operation was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreTier {
    /// L1.
    Memory,
    /// L2.
    Redis,
}

impl StoreTier {
    /// All of them, in the order of their discriminants.
    pub const ALL: [StoreTier; 2] = [StoreTier::Memory, StoreTier::Redis];
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreTier::Memory => "memory",
            StoreTier::Redis => "redis",
        }
    }
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

impl StoreOp {
    /// All of them, in the order of their discriminants.
    pub const ALL: [StoreOp; 4] = [StoreOp::Get, StoreOp::Set, StoreOp::Delete, StoreOp::Log];
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreOp::Get => "get",
            StoreOp::Set => "set",
            StoreOp::Delete => "delete",
            StoreOp::Log => "log",
        }
    }
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

impl StoreResult {
    /// All of them, in the order of their discriminants.
    pub const ALL: [StoreResult; 7] = [
        StoreResult::Ok,
        StoreResult::Absent,
        StoreResult::Void,
        StoreResult::Corrupt,
        StoreResult::Timeout,
        StoreResult::Error,
        StoreResult::Skipped,
    ];
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreResult::Ok => "ok",
            StoreResult::Absent => "absent",
            StoreResult::Void => "void",
            StoreResult::Corrupt => "corrupt",
            StoreResult::Timeout => "timeout",
            StoreResult::Error => "error",
            StoreResult::Skipped => "skipped",
        }
    }
}

/// What came of asking the other instances before a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedResult {
    /// This instance fetched for all.
    Led,
    /// Another instance's answer served.
    Found,
    /// It took longer than anybody waits.
    Timeout,
    /// Redis did not answer.
    StoreUnavailable,
    /// The other's answer was for nobody else.
    NotShareable,
}

impl SharedResult {
    /// All of them, in the order of their discriminants.
    pub const ALL: [SharedResult; 5] = [
        SharedResult::Led,
        SharedResult::Found,
        SharedResult::Timeout,
        SharedResult::StoreUnavailable,
        SharedResult::NotShareable,
    ];
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            SharedResult::Led => "led",
            SharedResult::Found => "found",
            SharedResult::Timeout => "timeout",
            SharedResult::StoreUnavailable => "store_unavailable",
            SharedResult::NotShareable => "not_shareable",
        }
    }
}

/// State of other modules at the moment of a scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// Upstream connections open now, and idle among them.
    pub upstream_connections: (usize, usize),
    /// Entries in memory.
    pub memory_entries: u64,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Redis answers, and its breaker's state (`closed`, `open`, `half-open`); `None` = no Redis configured.
    pub redis: Option<(bool, &'static str)>,
    /// Newest purge-log sequence applied here.
    pub log_applied: u64,
    /// The purge log that instances share; `None` = it is this process alone.
    pub log: Option<LogGauges>,
    /// Entries that look-ups could not use, or only as stale, by reason (static tokens).
    pub void: Vec<(&'static str, u64)>,
    /// Of them, those void only because their tags share a mark with others.
    pub false_voids: u64,
    /// The cache is switched on.
    pub enabled: bool,
    /// Readiness: false while draining.
    pub ready: bool,
    /// When the process began.
    pub started: Timestamp,
    /// When the configuration in force was loaded, and whether the newest attempt to load one succeeded.
    pub config_loaded: (Timestamp, bool),
    /// Access-log lines dropped because the queue was full.
    pub access_log_dropped: u64,
    /// The traffic listener's certificate; `None` = no TLS.
    pub certificate: Option<CertificateGauges>,
}

/// The certificate in force at the moment of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CertificateGauges {
    /// Its end, seconds since the Unix epoch; `None` = it could not be read.
    pub not_after: Option<i64>,
    /// What is in the files now cannot be used.
    pub renewal_failed: bool,
}

/// The shared purge log at the moment of a scrape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LogGauges {
    /// Its end as last told.
    pub end: u64,
    /// Instances registered, this one included.
    pub members: u64,
    /// This instance may answer from the cache.
    pub lease_held: bool,
    /// How much of its lease is left; `None` = it never ends.
    pub lease_left: Option<Duration>,
    /// Purges in force here that are not in the log.
    pub owed: u64,
    /// Mutations under way whose purge is not in the log yet.
    pub open_intents: u64,
}

/// A request that waits for another's fetch.
#[derive(Debug)]
#[must_use]
pub struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How requests ended since start, over all routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    by_outcome: [u64; Outcome::ALL.len()],
}

impl Totals {
    /// Requests that ended this way.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.by_outcome[outcome as usize]
    }
    /// Answered without a request of their own to the upstream: hits, stale answers, coalesced waits.
    pub fn hits(&self) -> u64 {
        self.of(Outcome::Hit) + self.of(Outcome::Stale) + self.of(Outcome::Coalesced)
    }
    /// Cacheable reads for which the upstream was asked: misses and revalidations.
    pub fn misses(&self) -> u64 {
        self.of(Outcome::Miss) + self.of(Outcome::Revalidated)
    }
    /// `hits / (hits + misses)` in percent, two decimals; 0 before the first request.
    pub fn hit_rate_percent(&self) -> f64 {
        let (hits, all) = (self.hits() as f64, (self.hits() + self.misses()) as f64);
        if all == 0.0 { 0.0 } else { (hits / all * 10_000.0).round() / 100.0 }
    }
    /// Every request, also those the cache had no part in.
    pub fn requests(&self) -> u64 {
        self.by_outcome.iter().sum()
    }
}

/// Text formats of `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
    /// The older Prometheus text format 0.0.4, which everything reads.
    Prometheus,
}

impl Format {
    /// What an `Accept` field asks for.
    pub fn accepted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Prometheus }
    }
    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Metrics {
    /// A new registry; `routes` are the route names in force, in the policy's order. Traffic without a route is
    /// counted under `-`, which is added here.
    pub fn new(routes: &[&str]) -> Metrics {
        let mut names: Vec<String> = routes.iter().map(|r| (*r).to_owned()).collect();
        names.push("-".to_owned());
        let layout = Layout::new(names.len());
        Metrics(Arc::new(Inner {
            routes: names,
            layout,
            slab: Slab::new(layout.cells()),
            not_stored: Mutex::default(),
            gauges: Mutex::new(Gauges { enabled: true, ready: true, ..Gauges::default() }),
            waiting: AtomicUsize::new(0),
        }))
    }

    /// A request ended. `route` is an index into the policy's table; `None` (or an unknown index) = no route.
    pub fn request(
        &self,
        route: Option<usize>,
        outcome: Outcome,
        status: u16,
        elapsed: Duration,
        bytes: u64,
    ) {
        let Inner { routes, layout, slab, .. } = &*self.0;
        let last = routes.len() - 1; // `new` always adds `-`
        let route = route.filter(|index| *index < last).unwrap_or(last);
        let cells = slab.mine();
        cells.observe(layout.request(route, outcome as usize), elapsed);
        cells.add(layout.response_bytes(outcome as usize), bytes);
        cells.add(layout.response_class(slab::class(status)), 1);
    }

    /// An exchange with the upstream: time to its first byte, and the status or failure (`None`).
    pub fn upstream(&self, status: Option<u16>, first_byte: Duration) {
        let Inner { layout, slab, .. } = &*self.0;
        let cells = slab.mine();
        cells.add(layout.upstream_result(status.map_or(slab::CLASSES, slab::class)), 1);
        if status.is_some() {
            cells.observe(layout.upstream_first_byte(), first_byte);
        }
    }

    /// A store operation ended.
    pub fn store(&self, tier: StoreTier, op: StoreOp, result: StoreResult, elapsed: Duration) {
        let Inner { layout, slab, .. } = &*self.0;
        let cells = slab.mine();
        cells.add(layout.store_result(tier as usize, op as usize, result as usize), 1);
        if result != StoreResult::Skipped {
            cells.observe(layout.store_seconds(tier as usize, op as usize), elapsed);
        }
    }

    /// A purge was published with this many tags; `owed` = the log could not be reached.
    pub fn purge(&self, tags: usize, owed: bool) {
        let Inner { layout, slab, .. } = &*self.0;
        let cells = slab.mine();
        cells.add(layout.purges(owed), 1);
        cells.add(layout.purge_tags(), tags as u64);
    }

    /// A request waits for another's fetch, until this is dropped.
    pub fn waiting(&self) -> Waiting<'_> {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.0.waiting)
    }

    /// A fetch asked the other instances first.
    pub fn shared(&self, result: SharedResult) {
        let Inner { layout, slab, .. } = &*self.0;
        slab.mine().add(layout.shared(result as usize), 1);
    }

    /// A mutation has waited this long for the purge log, before it was forwarded and after it was answered.
    pub fn mutation_wait(&self, waited: Duration) {
        let Inner { layout, slab, .. } = &*self.0;
        slab.mine().observe(layout.mutation_wait(), waited);
    }

    /// An answer was not stored; `reason` is a static token.
    pub fn not_stored(&self, reason: &'static str) {
        *self.0.not_stored.lock().entry(reason).or_default() += 1;
    }

    /// The purge log's epoch has changed, as this instance sees it.
    pub fn log_epoch(&self) {
        let Inner { layout, slab, .. } = &*self.0;
        slab.mine().add(layout.log_epochs(), 1);
    }

    /// This instance has evicted another that had fallen silent.
    pub fn log_eviction(&self) {
        let Inner { layout, slab, .. } = &*self.0;
        slab.mine().add(layout.log_evictions(), 1);
    }

    /// How requests ended since start, for `/stats`.
    pub fn outcomes(&self) -> Totals {
        let Inner { routes, layout, slab, .. } = &*self.0;
        let mut totals = Totals::default();
        for route in 0..routes.len() {
            for (outcome, total) in totals.by_outcome.iter_mut().enumerate() {
                *total += slab.histogram(layout.request(route, outcome)).count;
            }
        }
        totals
    }

    /// Takes the state of other modules, to be shown by the next [`Metrics::render`].
    pub fn set_gauges(&self, gauges: Gauges) {
        *self.0.gauges.lock() = gauges;
    }

    /// The Prometheus text exposition (0.0.4), with the gauges filled in by the caller beforehand.
    pub fn render(&self) -> String {
        self.render_as(Format::Prometheus)
    }

    /// The exposition in either format.
    pub fn render_as(&self, format: Format) -> String {
        exposition::render(&self.0, format)
    }
}

#[cfg(test)]
mod tests;
