//! Two backends that nobody here wrote, each behind the release binary with the very `proxy.toml` of
//! `examples/real/`, on a real `redis-server`.
//!
//! The tests assert correctness only, never speed: answers through Weir are the backend's own, no read is older than
//! a mutation that was answered before it began, and the backend is asked less often. They also print what they saw;
//! `examples/real/report` runs the same workloads longer and prints the table of the READMEs.
//!
//! What they need (python3 with venv, node, npm, redis-server, and the network once, for PyPI and npm) is installed
//! by `scripts/install-test-deps`. `WEIR_BIN` names the binary to test; without it `cargo build --release` provides
//! one. `WEIR_REAL=skip` leaves them out on a machine without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client;
mod datasette;
mod json_server;
mod machine;
mod report;
mod workload;

/// Whether this run is left out on purpose, said aloud.
fn skipped() -> bool {
    let skip = std::env::var("WEIR_REAL").is_ok_and(|v| v == "skip");
    if skip {
        report::say("left out: WEIR_REAL=skip");
    }
    skip
}

/// How much to do: `small` in the test run, `large` for `examples/real/report`.
fn amount(small: usize, large: usize) -> usize {
    if std::env::var_os("WEIR_REAL_REPORT").is_some() { large } else { small }
}

/// Held by one story at a time: each keeps both cores of a small machine busy, and times of two at once mean nothing.
async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ONE.lock().await
}
