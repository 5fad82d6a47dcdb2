//! `/healthz`, `/stats` and `/metrics`: what other modules say about themselves, put together.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::AdminState;
use super::reply::typed;
use crate::body::Body;
use crate::metrics::{CertificateGauges, Format, Gauges};
use crate::semantics::cache_status::Outcome;
use crate::server::tls::InForce;
use crate::store::RedisHealth;

/// Longest wait for Redis' word on itself; a frozen Redis must not hold up a probe.
const REDIS_LIMIT: Duration = Duration::from_secs(1);

impl AdminState {
    /// `/healthz`. `status` is `ok`, `degraded` (Redis away, its purge log not followed, no lease held, purges owed, or
    /// a key set that could not be refreshed, a certificate that has expired or whose renewal cannot be used) or
    /// `draining`.
    pub(super) async fn health(&self) -> Value {
        let redis = self.redis().await;
        let ready = self.ready.load(Ordering::Acquire);
        let stale_keys = self.refresher.failures();
        let away = redis
            .as_ref()
            .is_some_and(|redis| !redis.connected || redis.breaker == "open" || !redis.log_followed);
        let log = self.log();
        let certificate = self.certificates.as_ref().map(|certificates| certificates.in_force());
        let unsound = certificate.as_ref().is_some_and(|c| c.failure.is_some() || self.has_expired(c));
        let degraded = away || log.is_degraded() || !stale_keys.is_empty() || unsound;
        let status = match (ready, degraded) {
            (false, _) => "draining",
            (true, true) => "degraded",
            (true, false) => "ok",
        };
        let stats = self.store.stats();
        let (open, idle) = self.upstream.connections();
        json!({
            "status": status,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.uptime().as_secs(),
            "enabled": self.store.enabled(),
            "redis": redis.as_ref().map(redis_json),
            "log": log.json(),
            "upstream": {
                "origin": self.upstream.config().origin.to_string(),
                "connections": open,
                "idle": idle,
            },
            "memory": { "entries": stats.memory_entries, "bytes": stats.memory_bytes },
            "certificate": certificate.map(|certificate| certificate_json(&certificate)),
            "keys": {
                "sets": self.keys.load().0.len(),
                "failures": stale_keys.into_iter().collect::<BTreeMap<_, _>>(),
            },
        })
    }

    /// `/stats`. Counts since the process began; `hit_rate` in percent.
    ///
    /// - `hits`: answered without a request of their own to the upstream (`hit`, `stale`, `coalesced`).
    /// - `misses`: cacheable reads for which the upstream was asked (`miss`, `revalidated`). Requests that the
    ///   cache had no part in (`pass`, `mutation`, `error`) count as neither.
    /// - `keys`, `size_mb` (10^6 bytes): of Redis where it answers (its `used_memory`, which includes what else
    ///   lives there), else of memory. Each tier's own figures follow.
    pub(super) async fn stats(&self) -> Value {
        let (totals, stats) = (self.metrics.outcomes(), self.store.stats());
        let redis = self.redis().await;
        let answering = redis.as_ref().filter(|redis| redis.connected);
        let keys = answering.and_then(|redis| redis.entries).unwrap_or(stats.memory_entries);
        let bytes = answering.and_then(|redis| redis.used_memory).unwrap_or(stats.memory_bytes);
        let outcomes: Map<String, Value> =
            Outcome::ALL.iter().map(|o| (o.as_str().to_owned(), totals.of(*o).into())).collect();
        json!({
            "enabled": self.store.enabled(),
            "hits": totals.hits(),
            "misses": totals.misses(),
            "sets": stats.sets,
            "deletes": stats.deletes,
            "hit_rate": totals.hit_rate_percent(),
            "size_mb": megabytes(bytes),
            "keys": keys,
            "requests": totals.requests(),
            "outcomes": outcomes,
            "uptime_seconds": self.uptime().as_secs(),
            "memory": { "keys": stats.memory_entries, "size_mb": megabytes(stats.memory_bytes) },
            "redis": redis.as_ref().map(redis_json),
            "log": self.log().brief(),
        })
    }

    /// `/metrics`, in the format that `Accept` asks for.
    pub(super) async fn metrics_text(&self, headers: &HeaderMap) -> Response<Body> {
        let redis = self.redis().await;
        let stats = self.store.stats();
        let (log, tally) = (self.log(), self.store.coherence().tally());
        self.metrics.set_gauges(Gauges {
            upstream_connections: self.upstream.connections(),
            memory_entries: stats.memory_entries,
            memory_bytes: stats.memory_bytes,
            redis: redis.map(|redis| (redis.connected, redis.breaker)),
            log_applied: log.applied,
            log: log.gauges(),
            void: tally.reasons().collect(),
            false_voids: tally.falsely(),
            enabled: self.store.enabled(),
            ready: self.ready.load(Ordering::Acquire),
            started: self.started.at,
            config_loaded: (self.started.at, true),
            access_log_dropped: self.access.dropped_lines(),
            certificate: self.certificates.as_ref().map(|certificates| gauges(&certificates.in_force())),
        });
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let format = Format::accepted(accept);
        typed(StatusCode::OK, format.content_type(), self.metrics.render_as(format))
    }

    fn has_expired(&self, certificate: &InForce) -> bool {
        certificate.leaf.as_ref().is_some_and(|leaf| leaf.is_over(self.clock.now().0))
    }

    fn uptime(&self) -> Duration {
        self.clock.elapsed().saturating_sub(self.started.elapsed)
    }

    async fn redis(&self) -> Option<RedisHealth> {
        let asked = tokio::time::timeout(REDIS_LIMIT, self.store.redis_health()).await;
        asked.unwrap_or_else(|_| {
            let last_error = Some(format!("no answer within {} s", REDIS_LIMIT.as_secs()));
            Some(RedisHealth { breaker: "open", last_error, ..RedisHealth::default() })
        })
    }
}

fn certificate_json(certificate: &InForce) -> Value {
    json!({
        "names": certificate.leaf.as_ref().map(|leaf| &leaf.names),
        "not_after": certificate.leaf.as_ref().map(|leaf| leaf.not_after.to_string()),
        "failure": certificate.failure,
    })
}

fn gauges(certificate: &InForce) -> CertificateGauges {
    CertificateGauges {
        not_after: certificate.leaf.as_ref().map(|leaf| leaf.not_after.as_second()),
        renewal_failed: certificate.failure.is_some(),
    }
}

fn redis_json(redis: &RedisHealth) -> Value {
    json!({
        "connected": redis.connected,
        "log_followed": redis.log_followed,
        "breaker": redis.breaker,
        "response_ms": redis.response_ms.map(|ms| (ms * 1000.0).round() / 1000.0),
        "entries": redis.entries,
        "used_memory": redis.used_memory,
        "eviction_policy": redis.eviction_policy,
        "uptime_seconds": redis.uptime_seconds,
        "clients": redis.clients,
        "total_commands": redis.total_commands,
        "version": redis.version,
        "last_error": redis.last_error,
        "warnings": redis.warnings,
    })
}

fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e6 * 1000.0).round() / 1000.0
}
