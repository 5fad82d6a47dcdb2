//! Redis: connect (where it is), link (pool, deadlines, breaker), tier and writer (entries), log (purges).
//!
//! ```text
//!  look-ups ── tier ── reads ── link ══ bb8 pool ╗
//!  inserts ─queue─ writer ─ own connection ══════╬══ entries: Redis, or every primary of a cluster
//!  sweeper, count ── scan ─ own connection ══════╝
//!  publish ─queue─ log ──── own connection ══════╦══ log: the primary that has it
//!  others' events ─ follow  own connection ══════╣
//!  ends of locks ── lock ── own connection ══════╝
//! ```

pub mod breaker;
pub mod connect;
pub mod connection;
pub mod failure;
pub mod gather;
pub mod health;
pub mod inbox;
pub mod lanes;
pub mod link;
pub mod lock;
pub mod log;
pub mod reads;
pub mod scan;
pub mod tier;
pub mod wire;
pub mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connect::node::Node;
use self::link::{Connector, Dedicated, Link};
use self::lock::Locks;
use self::log::Log;
use self::reads::Reads;
use self::scan::Walk;
use self::tier::{Names, RedisTier};
use self::writer::{Writer, Writes};
use super::settling::Settling;
use super::{RedisHealth, StoreConfig};
use crate::coherence::{Coherence, MemberId};
use crate::metrics::Metrics;
use crate::time::Clock;

/// How to reach Redis and how long to wait for it.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://…` or `rediss://…` with user, password and database filled in: how to log in to every server that
    /// has entries or the log. Its host is where Redis is, unless `servers` says more. Never logged.
    pub url: String,
    /// Who knows where Redis is.
    pub servers: Servers,
    /// The same without credentials, for logs and health.
    pub shown: String,
    /// Key prefix, default `cache`.
    pub prefix: String,
    /// Multiplexed connections kept by bb8.
    pub pool: u32,
    /// Budget of one store operation on the request path (default 50 ms).
    pub timeout: Duration,
    /// Budget of a connection attempt (default 200 ms).
    pub connect_timeout: Duration,
    /// Budget of an append to the purge log (default 2 s).
    pub append_timeout: Duration,
    /// PEM file of the authority that signed Redis' certificate (`rediss://`), instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate to show to servers that ask for one; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// Most writes under way or waiting, and their bytes; beyond them an entry stays in memory only.
    pub max_pending_writes: usize,
    /// See `max_pending_writes`.
    pub max_pending_bytes: u64,
}

/// Who knows where Redis is.
#[derive(Clone, Default)]
pub enum Servers {
    /// The URL does.
    #[default]
    One,
    /// Sentinels do.
    Sentinel {
        /// The sentinels.
        nodes: Vec<Node>,
        /// What they call the primary and its replicas.
        service: String,
        /// User at the sentinels, if they want one.
        username: Option<String>,
        /// Password at the sentinels. Never logged.
        password: Option<String>,
    },
    /// Any node of the cluster does. Database 0.
    Cluster {
        /// Some of its nodes.
        nodes: Vec<Node>,
    },
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.shown)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// Everything that talks to Redis.
#[derive(Debug)]
pub struct Redis {
    /// Look-ups and the write queue.
    pub tier: RedisTier,
    /// The purge log.
    pub log: Arc<Log>,
    /// Who fetches for all instances.
    pub locks: Arc<Locks>,
    connector: Arc<Connector>,
    /// Entries seen by the last whole walk of the sweeper, plus 1; 0 = none finished yet.
    seen: AtomicU64,
}

/// What [`Redis::start`] needs besides the configuration.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Who this is.
    pub me: MemberId,
    /// What may not be stored for a while.
    pub settling: &'a Arc<Settling>,
    /// Liveness, and where events go.
    pub coherence: &'a Arc<Coherence>,
    /// Time.
    pub clock: &'a Clock,
    /// Counters.
    pub metrics: &'a Metrics,
    /// Counts removed entries.
    pub deletes: &'a Arc<AtomicU64>,
    /// Where tasks are spawned.
    pub tasks: &'a TaskTracker,
    /// Ends them.
    pub stop: &'a CancellationToken,
}

/// The first part of every key of a namespace.
fn prefix(config: &RedisConfig, namespace: &str) -> String {
    match namespace {
        "default" => config.prefix.clone(),
        namespace => format!("{}:{namespace}", config.prefix),
    }
}

impl Redis {
    /// Sets everything up and spawns its tasks. Redis need not be there.
    pub fn start(config: &RedisConfig, store: &StoreConfig, around: &Surroundings<'_>) -> Redis {
        let prefix = prefix(config, &store.namespace);
        let (coherence, clock, metrics) = (around.coherence, around.clock, around.metrics);
        let connector = Arc::new(Connector::new(config, &wire::LogKeys::new(&prefix).stream));
        let link = Arc::new(Link::new(config, Arc::clone(&connector)));
        let names = Names::new(&prefix);
        let (writes, queue) = Writes::new(config, metrics.clone());
        let writer = Writer {
            queue,
            writes: writes.clone(),
            names: names.clone(),
            connector: Arc::clone(&connector),
            link: Arc::clone(&link),
            clock: clock.clone(),
            metrics: metrics.clone(),
            max_variants: store.max_variants,
            deletes: Arc::clone(around.deletes),
        };
        let log = Arc::new(Log::new(log::Settings {
            config,
            prefix: &prefix,
            secret: store.secret,
            me: around.me,
            agreement: store.agreement,
            alone: store.alone,
            unreachable: store.unreachable_log,
            coherence,
            settling: around.settling,
            connector: &connector,
            clock,
            metrics,
        }));
        let locks = Arc::new(Locks::new(&prefix, &names, &link, &writes, &connector, config.timeout));
        let stop = || around.stop.clone();
        around.tasks.spawn(writer.run(stop()));
        around.tasks.spawn(Arc::clone(&log).follow(stop()));
        around.tasks.spawn(Arc::clone(&log).append(stop()));
        around.tasks.spawn(Arc::clone(&log).take_part(stop()));
        around.tasks.spawn(Arc::clone(&log).acknowledge(stop()));
        around.tasks.spawn(Arc::clone(&locks).run(stop()));
        let (probed, stopped) = (Arc::clone(&link), stop());
        around.tasks.spawn(async move { probed.probe(stopped).await });
        let tier = RedisTier {
            names,
            reads: Reads::new(&link),
            link,
            writes,
            coherence: Arc::clone(coherence),
            clock: clock.clone(),
            metrics: metrics.clone(),
            max_body: store.max_body,
        };
        Redis { tier, log, locks, connector, seen: AtomicU64::new(0) }
    }

    /// Whether what lies in Redis may be judged: its log is in force here and is being followed.
    pub fn may_judge(&self) -> bool {
        self.tier.link.is_closed() && self.log.joined() && self.log.following()
    }

    /// A walk over our entries, on a connection of its own.
    pub fn walk(&self) -> (Walk, Dedicated) {
        (Walk::new(self.tier.names.clone()), Dedicated::entries(Arc::clone(&self.connector)))
    }

    /// Remembers how many entries a whole walk has seen.
    pub fn saw(&self, entries: u64) {
        self.seen.store(entries.saturating_add(1), Ordering::Relaxed);
    }

    /// Asks Redis how it is; every question has the operation's deadline. Entries are counted in passing while they
    /// are few, else the last whole walk's count stands.
    pub async fn health(&self) -> RedisHealth {
        let mut health = RedisHealth { mode: self.connector.mode(), ..RedisHealth::default() };
        let clock = &self.tier.clock;
        let started = clock.elapsed();
        if self.tier.link.command(&::redis::cmd("PING")).await.is_ok() {
            let elapsed = clock.elapsed().saturating_sub(started);
            health.connected = true;
            health.response_ms = Some(elapsed.as_secs_f64() * 1000.0);
            health::ask(&mut health, &self.tier.link).await;
        }
        if health.connected
            && let Some(entries) = scan::count(&self.tier.link, &self.tier.names).await
        {
            self.saw(entries);
        }
        health.breaker = self.tier.link.breaker();
        health.entries = self.seen.load(Ordering::Relaxed).checked_sub(1).filter(|_| health.connected);
        health.primary = self.connector.place().map(|node| node.to_string());
        health.last_error = self.connector.last_error();
        health.log_followed = self.log.following();
        if !health.log_followed {
            health.warnings.push(
                "the purge log is not being followed: other instances' purges do not arrive".to_owned(),
            );
        }
        let waiting = self.log.waiting();
        if waiting > 0 {
            health.warnings.push(format!("{waiting} purges wait to be appended to the log"));
        }
        health
    }
}
