//! A run from its directory to its end: what it has started is ended before its directory goes, also when it is
//! interrupted.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, during};

/// How long what is still held may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// Does `work` in `dir`, which stays there if `keep` says so. SIGINT and SIGTERM end it with 130. `name` is the
/// program's.
pub fn run(
    name: &str,
    mut dir: TempDir,
    keep: bool,
    work: impl AsyncFnOnce(&Path) -> Outcome<ExitCode>,
) -> Outcome<ExitCode> {
    dir.disable_cleanup(keep);
    if keep {
        eprintln!("configurations and logs: {}", dir.path().display());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(during("starting"))?;
    let code = runtime.block_on(async {
        tokio::select! {
            code = work(dir.path()) => code,
            code = interrupted(name) => code,
        }
    });
    // Whatever tasks still hold (processes above all) is dropped, and so ended, before the directory goes.
    runtime.shutdown_timeout(ENDING);
    code
}

/// SIGINT or SIGTERM.
async fn interrupted(name: &str) -> Outcome<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).map_err(during("signals"))?;
    tokio::select! {
        asked = tokio::signal::ctrl_c() => asked.map_err(during("signals"))?,
        _ = terminate.recv() => {}
    }
    eprintln!("{name}: interrupted; ending what was started");
    Ok(ExitCode::from(130))
}
