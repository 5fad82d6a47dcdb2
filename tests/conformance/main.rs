//! The field's own tests of HTTP caches (`http-tests/cache-tests`, its npm release) through the binary, with memory alone
//! and with Redis alone: what comes of them is what `expected-*.json` beside this says, test by test. Why those that are
//! not passed are not is in `docs/conformance.md`.
//!
//! Needs node, npm, redis-server, and the network once, for npm; `scripts/install-test-deps` installs them.
//! `WEIR_BIN` names the binary to test, else it is the one of this build. `WEIR_REAL=skip` leaves this out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::Command;
use std::sync::OnceLock;

/// The script's exit and words.
fn run(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/run.mjs");
    let run = Command::new("node").arg(script).args(arguments).output().expect("node can be started");
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    println!("{said}");
    assert!(run.status.success(), "{}: {said}", run.status);
}

fn as_expected(arguments: &[&str]) {
    if std::env::var("WEIR_REAL").is_ok_and(|v| v == "skip") {
        println!("left out: WEIR_REAL=skip");
        return;
    }
    let weir = std::env::var("WEIR_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").to_owned());
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| run(&["--install"]));
    run(&[&["--weir", weir.as_str()], arguments].concat());
}

#[test]
fn with_memory_alone() {
    as_expected(&[]);
}

#[test]
fn with_redis_alone() {
    as_expected(&["--redis"]);
}
