//! Release binaries of Weir with a generated `proxy.toml` each.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Process;
use super::{Outcome, START, during, free_port, until};
use crate::client::Connection;

/// The admin token of every Weir here.
pub const TOKEN: &str = "a-token-for-the-benchmark-0123456789abcdef";

/// Where the purge log is.
#[derive(Debug, Clone)]
pub enum Log {
    /// In the process: one Weir alone.
    Memory,
    /// In this Redis.
    Redis(SocketAddr),
    /// In the Redis that these sentinels name.
    Sentinels(Vec<SocketAddr>),
}

/// What the Weirs of a run have in common.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The binary.
    pub binary: PathBuf,
    /// The backend.
    pub backend: SocketAddr,
    /// `strong` or `eventual`; `None` for a release that does not know of it.
    pub coherence: Option<&'static str>,
    /// `[cache] lease`.
    pub lease: Duration,
    /// `[cache] on_unreachable_log`.
    pub unreachable: &'static str,
    /// `[redis] prefix`.
    pub prefix: &'static str,
    /// `[cache] memory`.
    pub memory: &'static str,
}

/// One Weir.
#[derive(Debug)]
pub struct Weir {
    /// Its process.
    pub process: Process,
    /// Where clients come in.
    pub address: SocketAddr,
    /// Where its admin listener is.
    pub admin: SocketAddr,
}

impl Weir {
    /// Starts one in `dir` and waits until it is ready and follows its log.
    pub async fn start(name: &str, dir: &Path, settings: &Settings, log: &Log) -> Outcome<Weir> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = dir.join(format!("{name}.toml"));
        std::fs::write(&file, proxy_toml(settings, log, address, admin)).map_err(during("a proxy.toml"))?;
        let arguments = ["-c".to_owned(), file.display().to_string()];
        let process = Process::start(name, &settings.binary, &arguments, dir)?;
        let weir = Weir { process, address, admin };
        let what = format!("{name} is ready");
        let ready = until(&what, START, || async { !weir.process.runs() || weir.ready(log).await });
        ready.await.map_err(|error| format!("{error}\n{}", weir.process.last_words()))?;
        if weir.process.runs() {
            Ok(weir)
        } else {
            let old = if settings.coherence.is_some() {
                "\n(a release that does not know `coherence`, `lease` and `on_unreachable_log` yet: --old)"
            } else {
                ""
            };
            Err(format!("{name} ended:\n{}{old}", weir.process.last_words()))
        }
    }

    async fn ready(&self, log: &Log) -> bool {
        let Ok(mut connection) = Connection::open(self.admin).await else { return false };
        let Ok(health) = connection.read("/healthz", None).await else { return false };
        let Ok(health) = serde_json::from_slice::<serde_json::Value>(&health.body) else { return false };
        matches!(log, Log::Memory) || health["redis"]["log_followed"] == true
    }
}

fn proxy_toml(settings: &Settings, log: &Log, address: SocketAddr, admin: SocketAddr) -> String {
    let Settings { backend, lease, unreachable, prefix, memory, .. } = settings;
    let mut text = format!(
        "listen = \"{address}\"\nupstream = \"http://{backend}\"\n\n\
         [admin]\nlisten = \"{admin}\"\ntoken = \"{TOKEN}\"\n\n\
         [log]\nlevel = \"warn\"\naccess = false\n\n\
         [cache]\nmemory = \"{memory}\"\nsecret = \"the secret of a benchmark, 32 bytes or more\"\n"
    );
    // Writing to a String cannot fail.
    if let Some(coherence) = settings.coherence {
        let lease = lease.as_millis();
        let _ = write!(
            text,
            "coherence = \"{coherence}\"\nlease = \"{lease}ms\"\non_unreachable_log = \"{unreachable}\"\n"
        );
    }
    match log {
        Log::Memory => {}
        Log::Redis(address) => {
            let _ = write!(text, "\n[redis]\nurl = \"redis://{address}/1\"\nprefix = \"{prefix}\"\n");
        }
        Log::Sentinels(addresses) => {
            let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
            let (list, service) = (list.join(", "), super::redis::SERVICE);
            let _ = write!(
                text,
                "\n[redis]\nsentinels = [{list}]\nservice = \"{service}\"\nprefix = \"{prefix}\"\n"
            );
        }
    }
    text.push_str(ROUTES);
    text
}

/// Each kind of page is purged in one way only; see [`crate::world`].
const ROUTES: &str = r#"
[defaults]
ttl = "1h"
subject = "none"

[[route]]
name = "item"
match = "GET /items/{id}"
tags = ["item:{path.id}"]

[[route]]
name = "list"
match = "GET /lists/{n}"
tags = ["item:{response.items[*].id}"]

[[route]]
name = "board"
match = "GET /boards/{n}"
tags = ["board:{path.n}"]

[[purge]]
on = "PUT /items/{id}"
tags = ["item:{path.id}", "board:{response.boards[*]}"]

[[route]]
name = "entry"
match = "GET /entries/{set}/{n}"
tags = ["set:{path.set}", "entry:{path.set}-{path.n}"]

[[purge]]
on = "PUT /entries/{set}/{n}"
tags = ["entry:{path.set}-{path.n}"]
"#;
