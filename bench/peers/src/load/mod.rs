//! The generators: `wrk` and `h2load` at full speed, our own at a fixed rate.
//!
//! At full speed a fixed number of connections ask as fast as they are answered: requests per second and processor time
//! per request come from there. How long answers take is compared at a rate that is the same for every server
//! ([`paced`]): at full speed, the faster server would be asked more.

pub mod h2load;
pub mod paced;
pub mod wrk;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use bench_rig::{Outcome, during};
use tokio::process::Command;

use crate::client::Door;

/// What generators ask for.
#[derive(Debug, Clone)]
pub enum Targets {
    /// One path.
    One(String),
    /// A file of requests, in turn.
    List(PathBuf),
    /// Paths that begin so and are all different.
    Fresh(String),
}

/// A generator's task.
#[derive(Debug, Clone)]
pub struct Task {
    /// The server.
    pub door: Door,
    /// Connections.
    pub connections: usize,
    /// Requests at once on each.
    pub streams: usize,
    /// What is asked for.
    pub targets: Targets,
    /// For how long.
    pub seconds: u64,
    /// The generator's core; `None`: any.
    pub core: Option<usize>,
    /// Where generators' own files go.
    pub scratch: PathBuf,
}

/// What came of a run at full speed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Full {
    /// Answers.
    pub requests: u64,
    /// Seconds.
    pub seconds: f64,
    /// Median, µs.
    pub p50: f64,
    /// 99th percentile, µs.
    pub p99: f64,
    /// Failed connections, time-outs, answers other than 2xx (wrk: above 399).
    pub errors: u64,
}

/// Full speed: wrk for HTTP/1.1, h2load for HTTP/2.
pub async fn full(task: &Task) -> Outcome<Full> {
    if task.door.h2 { h2load::run(task).await } else { wrk::run(task).await }
}

/// Runs a generator to its end, on its core; what it wrote to standard output.
async fn output<S: AsRef<OsStr>>(core: Option<usize>, words: &[S], limit: Duration) -> Outcome<String> {
    let mut all: Vec<&OsStr> = Vec::new();
    let core = core.map(|core| core.to_string());
    if let Some(core) = &core {
        all.extend(["taskset", "-c", core].map(OsStr::new));
    }
    all.extend(words.iter().map(AsRef::as_ref));
    let (program, arguments) = all.split_first().ok_or("no program")?;
    let name = words.first().map(|word| word.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
    let run = Command::new(program).args(arguments).kill_on_drop(true).output();
    let done = tokio::time::timeout(limit, run).await;
    let done = done.map_err(|_| format!("{name} did not end within {limit:?}"))?.map_err(during(&name))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        Ok(text)
    } else {
        Err(format!("{name}: {}: {text}{}", done.status, String::from_utf8_lossy(&done.stderr)))
    }
}
