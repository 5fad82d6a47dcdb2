//! The rig of the stories: a backend that misbehaves on request, a real Redis, the real binary, and clients.
//!
//! A story starts what it needs (`Origin`, `Redis`, `Weir`), speaks HTTP to it over real sockets, and looks at
//! two sides: what the client got, and what reached the backend. Every piece has its own port and its own
//! directory, so stories run side by side. Nothing sleeps to wait for a condition: [`eventually`] polls it with
//! a deadline, and [`Hold`] keeps an answer at the backend until the story lets it go.
#![allow(dead_code, reason = "each story uses the part of the rig that it needs")]
#![allow(unused_imports, reason = "each story uses the part of the rig that it needs")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a rig that cannot go on fails its test")]

mod client;
mod cluster;
mod forwarder;
mod origin;
mod redis_server;
mod sentinel;
mod weir;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use client::{Answer, Ask, CacheStatus, Client, Conn, Opened};
pub use cluster::RedisCluster;
pub use forwarder::Forwarder;
pub use origin::{Hold, Origin, OriginBody, RawOrigin, Reply, Seen, body_of};
pub use redis_server::{Redis, tls_file, tls_section};
pub use sentinel::RedisWithSentinels;
pub use weir::{ADMIN_TOKEN, Run, Weir, WeirConfig, run_weir};

/// Long enough for a slow machine, short enough that a hang is noticed.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Polls `condition` until it holds; fails with `what` when `deadline` has passed. Returns the time it took.
pub async fn eventually<F, Fut>(what: &str, deadline: Duration, mut condition: F) -> Duration
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    loop {
        if condition().await {
            return began.elapsed();
        }
        assert!(began.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails with `what` when `work` takes longer than [`DEADLINE`].
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// A loopback port that nobody listens on now. Taken below the range from which outgoing connections get theirs,
/// so that only another listener can take it before it is used; who starts something on it retries.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(131);
    for _ in 0..20_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (start.wrapping_add(step) % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 30000");
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Sends a signal by name (`TERM`, `STOP`, `CONT`, `KILL`) to one process that the test started.
pub fn signal(pid: u32, name: &str) {
    let done = std::process::Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()
        .expect("a shell can be started");
    assert!(done.success(), "kill -{name} {pid}");
}

/// The value below which `share` (0.0–1.0) of the durations lie.
pub fn percentile(durations: &mut [Duration], share: f64) -> Duration {
    durations.sort_unstable();
    match durations.len() {
        0 => Duration::ZERO,
        n => durations[(((n - 1) as f64) * share).round() as usize],
    }
}
