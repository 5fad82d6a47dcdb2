//! From the table of atomics to Prometheus text.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::slab::{BOUNDS, CLASSES, Reading};
use super::{Format, Gauges, Inner, SharedResult, StoreOp, StoreResult, StoreTier};
use crate::semantics::cache_status::Outcome;

const CLASS_NAMES: [&str; CLASSES] = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half-open"];

/// Renders everything in one of the two formats.
pub(super) fn render(inner: &Arc<Inner>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(inner.clone())));
    let mut text = String::with_capacity(16 * 1024);
    // Writing into a String cannot fail; an encoder's own error would leave a text without `# EOF`.
    if encode(&mut text, &registry).is_err() {
        tracing::error!("the metrics could not be encoded");
    }
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => downgrade(&text),
    }
}

/// OpenMetrics to text format 0.0.4: there, a counter's family bears the name of its samples (`…_total`),
/// and `UNIT` and `EOF` are unknown.
fn downgrade(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 512);
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                out.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// What one scrape reads.
struct Scrape(Arc<Inner>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let gauges = self.0.gauges.lock().clone();
        self.requests(&mut encoder)?;
        self.upstream(&mut encoder, &gauges)?;
        self.store(&mut encoder)?;
        self.coalescing(&mut encoder)?;
        self.purges(&mut encoder)?;
        self.coherence(&mut encoder, &gauges)?;
        state(&mut encoder, &gauges)
    }
}

/// One family under way: `# HELP` and `# TYPE` are written, samples follow.
struct FamilyWriter<'a>(MetricEncoder<'a>);

fn family<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<FamilyWriter<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind).map(FamilyWriter)
}

/// The labels of a family with one sample.
const NONE: [(&str, &str); 0] = [];

impl FamilyWriter<'_> {
    fn counter<const N: usize>(&mut self, labels: [(&str, &str); N], value: u64) -> fmt::Result {
        with(&mut self.0, &labels, |out| out.encode_counter::<NoLabelSet, u64, f64>(&value, None))
    }
    fn gauge<const N: usize>(&mut self, labels: [(&str, &str); N], value: f64) -> fmt::Result {
        with(&mut self.0, &labels, |out| out.encode_gauge(&value))
    }
    fn histogram<const N: usize>(&mut self, labels: [(&str, &str); N], reading: &Reading) -> fmt::Result {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(reading.buckets).collect();
        with(&mut self.0, &labels, |out| {
            out.encode_histogram::<NoLabelSet>(reading.sum, reading.count, &buckets, None)
        })
    }
}

/// A sample under these labels; an empty set is written as none at all rather than as `{}`.
fn with<const N: usize>(
    encoder: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { write(encoder) } else { write(&mut encoder.encode_family(labels)?) }
}

impl Scrape {
    fn requests(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Inner { routes, layout, slab, .. } = &*self.0;
        let readings: Vec<(&str, &str, Reading)> = routes
            .iter()
            .enumerate()
            .flat_map(|(index, route)| {
                Outcome::ALL.iter().map(move |outcome| {
                    let cell = layout.request(index, *outcome as usize);
                    (route.as_str(), outcome.as_str(), slab.histogram(cell))
                })
            })
            .collect();
        let help = "Requests ended, by route (- = none) and outcome.";
        let mut out = family(encoder, "weir_requests", help, MetricType::Counter)?;
        for (route, outcome, reading) in &readings {
            out.counter([("route", *route), ("outcome", *outcome)], reading.count)?;
        }
        let help =
            "Time from a request's arrival to its response head. Series appear with their first request.";
        let mut out = family(encoder, "weir_request_duration_seconds", help, MetricType::Histogram)?;
        for (route, outcome, reading) in readings.iter().filter(|(_, _, reading)| reading.count > 0) {
            out.histogram([("route", *route), ("outcome", *outcome)], reading)?;
        }
        let help = "Content bytes sent to clients, by outcome.";
        let mut out = family(encoder, "weir_response_bytes", help, MetricType::Counter)?;
        for outcome in Outcome::ALL {
            let bytes = slab.counter(layout.response_bytes(outcome as usize));
            out.counter([("outcome", outcome.as_str())], bytes)?;
        }
        let help = "Responses sent to clients, by status class.";
        let mut out = family(encoder, "weir_responses", help, MetricType::Counter)?;
        for (class, name) in CLASS_NAMES.iter().enumerate() {
            out.counter([("class", *name)], slab.counter(layout.response_class(class)))?;
        }
        Ok(())
    }

    fn upstream(&self, encoder: &mut DescriptorEncoder, gauges: &Gauges) -> fmt::Result {
        let Inner { layout, slab, .. } = &*self.0;
        let help = "Requests sent to the upstream, by status class of the answer, or failure.";
        let mut out = family(encoder, "weir_upstream_requests", help, MetricType::Counter)?;
        for (result, name) in CLASS_NAMES.iter().chain(&["failure"]).enumerate() {
            out.counter([("result", *name)], slab.counter(layout.upstream_result(result)))?;
        }
        let help = "Time to the first byte of the upstream's answers.";
        let mut out = family(encoder, "weir_upstream_first_byte_seconds", help, MetricType::Histogram)?;
        out.histogram(NONE, &slab.histogram(layout.upstream_first_byte()))?;
        let help = "Connections to the upstream.";
        let mut out = family(encoder, "weir_upstream_connections", help, MetricType::Gauge)?;
        let (open, idle) = gauges.upstream_connections;
        out.gauge([("state", "busy")], open.saturating_sub(idle) as f64)?;
        out.gauge([("state", "idle")], idle as f64)
    }

    fn store(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Inner { layout, slab, .. } = &*self.0;
        let series = || StoreTier::ALL.into_iter().flat_map(|tier| StoreOp::ALL.map(|op| (tier, op)));
        let help = "Store operations, by tier, operation and result.";
        let mut out = family(encoder, "weir_store_operations", help, MetricType::Counter)?;
        for (tier, op) in series() {
            for result in StoreResult::ALL {
                let count = slab.counter(layout.store_result(tier as usize, op as usize, result as usize));
                let labels = [("tier", tier.as_str()), ("op", op.as_str()), ("result", result.as_str())];
                out.counter(labels, count)?;
            }
        }
        let help = "Time store operations took, by tier and operation.";
        let mut out = family(encoder, "weir_store_operation_seconds", help, MetricType::Histogram)?;
        for (tier, op) in series() {
            let reading = slab.histogram(layout.store_seconds(tier as usize, op as usize));
            out.histogram([("tier", tier.as_str()), ("op", op.as_str())], &reading)?;
        }
        Ok(())
    }

    fn coalescing(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Inner { layout, slab, waiting, .. } = &*self.0;
        let help = "Requests, and refreshes behind answers, that wait for another's fetch.";
        let mut out = family(encoder, "weir_coalesced_waiting", help, MetricType::Gauge)?;
        out.gauge(NONE, waiting.load(Ordering::Relaxed) as f64)?;
        let help = "Fetches that asked the other instances first, by what came of it.";
        let mut out = family(encoder, "weir_shared_coalesce", help, MetricType::Counter)?;
        for result in SharedResult::ALL {
            out.counter([("result", result.as_str())], slab.counter(layout.shared(result as usize)))?;
        }
        Ok(())
    }

    fn purges(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Inner { layout, slab, not_stored, .. } = &*self.0;
        let help = "Purges published; owed = the log could not be reached then.";
        let mut out = family(encoder, "weir_purges", help, MetricType::Counter)?;
        out.counter([("result", "logged")], slab.counter(layout.purges(false)))?;
        out.counter([("result", "owed")], slab.counter(layout.purges(true)))?;
        let help = "Tags named by published purges.";
        let mut out = family(encoder, "weir_purge_tags", help, MetricType::Counter)?;
        out.counter(NONE, slab.counter(layout.purge_tags()))?;
        let help = "Time mutations waited for the purge log: to be announced, and until nobody answers with anything older.";
        let mut out = family(encoder, "weir_mutation_wait_seconds", help, MetricType::Histogram)?;
        out.histogram(NONE, &slab.histogram(layout.mutation_wait()))?;
        let help = "Answers that were fetched and not stored, by reason.";
        let mut out = family(encoder, "weir_not_stored", help, MetricType::Counter)?;
        for (reason, count) in not_stored.lock().iter() {
            out.counter([("reason", *reason)], *count)?;
        }
        Ok(())
    }
}

impl Scrape {
    /// The purge log, and what it makes of entries.
    fn coherence(&self, encoder: &mut DescriptorEncoder, gauges: &Gauges) -> fmt::Result {
        let Inner { layout, slab, .. } = &*self.0;
        let help = "Entries that look-ups could not use, or only as stale, by reason.";
        let mut out = family(encoder, "weir_entries_void", help, MetricType::Counter)?;
        for (reason, count) in &gauges.void {
            out.counter([("reason", *reason)], *count)?;
        }
        let help = "Entries void only because one of their tags shares a mark with another that was purged.";
        family(encoder, "weir_false_voids", help, MetricType::Counter)?.counter(NONE, gauges.false_voids)?;
        let Some(log) = &gauges.log else { return Ok(()) };
        let help = "Changes of the purge log's epoch seen here; each voids every older entry.";
        let mut out = family(encoder, "weir_log_epochs", help, MetricType::Counter)?;
        out.counter(NONE, slab.counter(layout.log_epochs()))?;
        let help = "Silent instances that this one has taken off the purge log's list of members.";
        let mut out = family(encoder, "weir_log_evictions", help, MetricType::Counter)?;
        out.counter(NONE, slab.counter(layout.log_evictions()))?;
        let mut plain = |name: &str, help: &str, value: f64| {
            family(encoder, name, help, MetricType::Gauge)?.gauge(NONE, value)
        };
        plain("weir_log_end_sequence", "Newest sequence of the purge log, as last told.", log.end as f64)?;
        let lag = log.end.saturating_sub(gauges.log_applied);
        plain("weir_log_lag", "Events of the purge log not applied here yet.", lag as f64)?;
        plain("weir_log_members", "Instances registered with the purge log.", log.members as f64)?;
        let help = "1 while this instance holds a lease: without one it answers nothing from the cache.";
        plain("weir_log_lease_held", help, flag(log.lease_held))?;
        if let Some(left) = log.lease_left {
            plain("weir_log_lease_seconds_left", "How much of the lease is left.", left.as_secs_f64())?;
        }
        let help = "Purges in force here that the purge log does not have yet.";
        plain("weir_log_owed_purges", help, log.owed as f64)?;
        let help = "Mutations under way whose purge is not in the log yet.";
        plain("weir_log_open_intents", help, log.open_intents as f64)
    }
}

/// Gauges of other modules' state.
fn state(encoder: &mut DescriptorEncoder, gauges: &Gauges) -> fmt::Result {
    let seconds = |t: crate::semantics::timestamp::Timestamp| t.0 as f64 / 1000.0;
    let mut plain = |name: &str, help: &str, value: f64| {
        family(encoder, name, help, MetricType::Gauge)?.gauge(NONE, value)
    };
    plain("weir_memory_entries", "Entries in memory.", gauges.memory_entries as f64)?;
    plain("weir_memory_bytes", "Bytes of entries in memory.", gauges.memory_bytes as f64)?;
    let help = "Newest sequence of the purge log that is applied here.";
    plain("weir_log_applied_sequence", help, gauges.log_applied as f64)?;
    plain("weir_enabled", "1 while the cache is switched on.", flag(gauges.enabled))?;
    plain("weir_ready", "1 while ready, 0 while draining.", flag(gauges.ready))?;
    let (loaded, succeeded) = gauges.config_loaded;
    let help = "1 if the newest attempt to load the configuration succeeded.";
    plain("weir_config_last_reload_successful", help, flag(succeeded))?;
    let help = "When the configuration in force was loaded, seconds since the Unix epoch.";
    plain("weir_config_last_reload_success_timestamp_seconds", help, seconds(loaded))?;
    let help = "When the process began, seconds since the Unix epoch.";
    plain("process_start_time_seconds", help, seconds(gauges.started))?;
    if let Some((up, _)) = gauges.redis {
        plain("weir_redis_up", "1 if Redis answered just now.", flag(up))?;
    }
    if let Some(certificate) = gauges.certificate {
        if let Some(end) = certificate.not_after {
            let help = "When the certificate in force expires, seconds since the Unix epoch.";
            plain("weir_tls_certificate_expiry_timestamp_seconds", help, end as f64)?;
        }
        let help =
            "1 while the files hold a certificate or key that cannot be used; the old one is in force then.";
        plain("weir_tls_certificate_renewal_failed", help, flag(certificate.renewal_failed))?;
    }
    if let Some((_, breaker)) = gauges.redis {
        let help = "State of the breaker in front of Redis: 1 for the one it is in.";
        let mut out = family(encoder, "weir_redis_breaker", help, MetricType::Gauge)?;
        for name in BREAKER_STATES {
            out.gauge([("state", name)], flag(name == breaker))?;
        }
    }
    let help = "Access-log lines dropped because the queue was full.";
    let mut out = family(encoder, "weir_access_log_dropped_lines", help, MetricType::Counter)?;
    out.counter(NONE, gauges.access_log_dropped)?;
    let help = "1; the label says which version runs.";
    let mut out = family(encoder, "weir_build_info", help, MetricType::Gauge)?;
    out.gauge([("version", env!("CARGO_PKG_VERSION"))], 1.0)
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}
