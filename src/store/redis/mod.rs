//! Redis: link (pool, deadlines, breaker), tier (entries), log (purges).

pub mod link;
pub mod log;
pub mod tier;

use std::time::Duration;

/// How to reach Redis and how long to wait for it.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://…` or `rediss://…` with user, password and database (default 1) filled in. Never logged.
    pub url: String,
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
    /// PEM file of the authority that signed Redis' certificate (`rediss://`), besides the system's.
    pub ca_file: Option<std::path::PathBuf>,
    /// Most writes under way or waiting, and their bytes; beyond them an entry stays in memory only.
    pub max_pending_writes: usize,
    /// See `max_pending_writes`.
    pub max_pending_bytes: u64,
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisConfig")
            .field("url", &self.shown)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
