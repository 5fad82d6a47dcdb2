//! What the benchmarks share: child processes that are ended again, Redis servers, what /proc knows of a tree of
//! processes, histograms, random choices that a seed repeats, and a run from its directory to its end.
//!
//! Nothing here knows what is measured. Everything listens on loopback.

pub mod histogram;
pub mod process;
pub mod random;
pub mod redis;
pub mod stage;
pub mod tree;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What goes wrong outside of what is measured: said to the user, and the end of the run.
pub type Outcome<T> = Result<T, String>;

/// Puts what was attempted before an error.
pub fn during<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// How long a process may take to be there.
pub const START: Duration = Duration::from_secs(20);

/// A loopback port that nobody listens on now. Below the range from which outgoing connections get theirs, so that
/// only another listener can take it before it is used.
pub fn free_port() -> Outcome<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(257);
    for _ in 0..20_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(start.wrapping_add(step) % 20_000).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("there is no free port between 10000 and 30000".to_owned())
}

/// Polls until `condition` holds; after `deadline` an error that says what was waited for.
pub async fn until<F, Fut>(what: &str, deadline: Duration, mut condition: F) -> Outcome<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = Instant::now();
    while !condition().await {
        if began.elapsed() > deadline {
            return Err(format!("not within {deadline:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
