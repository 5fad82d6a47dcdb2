//! Who is measured, and how each is started.
//!
//! The settings are files in `configs/`, one or more per server, with a comment at each that is not obvious. [`template`] fills
//! in ports and sizes; [`start`] starts the process on its core, waits until it answers, and ends it with all
//! its children when it is dropped.

mod commands;
mod template;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bench_rig::process::Process;
use bench_rig::redis::Redis;
use bench_rig::{Outcome, during, free_port, tree, until};
use serde::{Deserialize, Serialize};

pub use commands::let_in;

use crate::client::{Door, Target};
use crate::tls::Pair;
use crate::workloads::{Cores, Kind, Protocol, Workload};

/// How long a server may take to be there: HAProxy goes through all of its cache before it listens.
const READY: Duration = Duration::from_secs(60);

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The reference.
    Bare,
    /// Weir, in memory alone.
    Weir,
    /// Weir with Redis and nothing in memory.
    WeirRedis,
    /// Weir with memory and Redis.
    WeirBoth,
    /// nginx, its cache files in memory.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Varnish.
    Varnish,
    /// Squid.
    Squid,
    /// Apache Traffic Server.
    TrafficServer,
    /// nginx with srcache, Lua and Redis.
    NginxRedis,
}

impl Name {
    /// All of them.
    pub const ALL: [Name; 10] = [
        Name::Bare,
        Name::Weir,
        Name::WeirRedis,
        Name::WeirBoth,
        Name::Nginx,
        Name::Haproxy,
        Name::Varnish,
        Name::Squid,
        Name::TrafficServer,
        Name::NginxRedis,
    ];

    /// On the command line and in results.
    pub fn word(self) -> &'static str {
        match self {
            Name::Bare => "bare",
            Name::Weir => "weir",
            Name::WeirRedis => "weir-redis",
            Name::WeirBoth => "weir-both",
            Name::Nginx => "nginx",
            Name::Haproxy => "haproxy",
            Name::Varnish => "varnish",
            Name::Squid => "squid",
            Name::TrafficServer => "traffic-server",
            Name::NginxRedis => "nginx-redis",
        }
    }

    /// For readers.
    pub fn title(self) -> &'static str {
        match self {
            Name::Bare => "bare hyper",
            Name::Weir => "Weir",
            Name::WeirRedis => "Weir, Redis alone",
            Name::WeirBoth => "Weir, memory and Redis",
            Name::Nginx => "nginx",
            Name::Haproxy => "HAProxy",
            Name::Varnish => "Varnish",
            Name::Squid => "Squid",
            Name::TrafficServer => "Traffic Server",
            Name::NginxRedis => "nginx + Redis",
        }
    }

    /// Neither Weir nor the reference.
    pub fn is_peer(self) -> bool {
        !matches!(self, Name::Bare | Name::Weir | Name::WeirRedis | Name::WeirBoth)
    }

    /// Has a Redis of its own behind it.
    pub fn needs_redis(self) -> bool {
        matches!(self, Name::WeirRedis | Name::WeirBoth | Name::NginxRedis)
    }
}

/// What all servers of a workload are started with.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Where configurations and caches go.
    pub dir: &'a Path,
    /// The origin.
    pub origin: SocketAddr,
    /// A certificate.
    pub pair: &'a Pair,
    /// Weir's binary.
    pub weir: &'a Path,
    /// The core of generator, origin and Redis, and that of the server, where they are divided.
    pub cores: (usize, usize),
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    /// Which.
    pub name: Name,
    /// Where the workload's requests go.
    pub door: Door,
    /// Where what it caches is kept in files, if it does that.
    pub files: Option<PathBuf>,
    process: Process,
    redis: Option<Redis>,
}

/// What a server is started with.
#[derive(Debug)]
struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    /// The port that the generator uses.
    port: u16,
    files: Option<PathBuf>,
}

impl Stage<'_> {
    /// The core for what stands beside the server.
    pub fn beside(&self) -> Option<usize> {
        (self.workload.cores == Cores::Divided).then_some(self.cores.0)
    }

    fn core(&self) -> Option<usize> {
        (self.workload.cores == Cores::Divided).then_some(self.cores.1)
    }

    /// How many threads or workers a server that asks for a number is given.
    fn workers(&self) -> usize {
        match self.workload.cores {
            Cores::Divided => 1,
            Cores::Shared => std::thread::available_parallelism().map_or(2, usize::from).min(2),
        }
    }

    /// Starts a process on a core.
    pub fn process(
        &self,
        name: &str,
        core: Option<usize>,
        program: &Path,
        words: &[String],
    ) -> Outcome<Process> {
        let Some(core) = core else { return Process::start(name, program, words, self.dir) };
        let mut all = vec!["-c".to_owned(), core.to_string(), program.display().to_string()];
        all.extend_from_slice(words);
        Process::start(name, Path::new("taskset"), &all, self.dir)
    }
}

/// Starts a server and waits until it answers.
pub async fn start(name: Name, stage: &Stage<'_>) -> Outcome<Server> {
    let dir = stage.dir.join(name.word());
    std::fs::create_dir_all(&dir).map_err(during("a directory"))?;
    let_in(&dir)?;
    let redis = if name.needs_redis() { Some(redis(name, stage, &dir).await?) } else { None };
    let launch = commands::launch(name, stage, &dir, redis.as_ref().map(Redis::address))?;
    let process = stage.process(name.word(), stage.core(), &launch.program, &launch.arguments)?;
    let protocol = stage.workload.protocol;
    let door = Door {
        address: SocketAddr::from(([127, 0, 0, 1], launch.port)),
        h2: protocol.h2(),
        certificate: protocol.tls().then(|| stage.pair.certificate.clone()),
    };
    let server = Server { name, door, files: launch.files, process, redis };
    let what = format!("{} answers", name.word());
    // A path that no workload measures. `/pass` is not stored, so nothing is left behind.
    let target = Target::path("/pass/1/ready");
    let ready = until(&what, READY, || async {
        !server.process.runs() || server.door.get(&target).await.is_ok_and(|answer| answer.status == 200)
    });
    ready.await.map_err(|error| format!("{error}: {}", server.last_words()))?;
    if server.process.runs() {
        // Traffic Server binds its threads to cores itself, to others than it was started on.
        if let Some(core) = stage.core() {
            tree::bind(server.process.id(), core);
        }
        Ok(server)
    } else {
        Err(format!("ended at once: {}", server.last_words()))
    }
}

async fn redis(name: Name, stage: &Stage<'_>, dir: &Path) -> Outcome<Redis> {
    let memory = format!("{}mb", stage.workload.cache * 2);
    let arguments = ["--maxmemory", &memory, "--maxmemory-policy", "volatile-lru"].map(str::to_owned);
    let redis = Redis::start(&format!("redis-{}", name.word()), dir, &arguments).await?;
    if let Some(core) = stage.beside() {
        tree::bind(redis.process().id(), core);
    }
    Ok(redis)
}

impl Server {
    /// True while it runs.
    pub fn runs(&self) -> bool {
        self.process.runs()
    }

    /// Processor time so far, of the server and of its Redis, seconds.
    pub fn processor(&self) -> (f64, Option<f64>) {
        let redis = self.redis.as_ref().map(|redis| tree::processor(redis.process().id()).as_secs_f64());
        (tree::processor(self.process.id()).as_secs_f64(), redis)
    }

    /// Memory, with files that are kept in memory, bytes.
    pub fn memory(&self) -> u64 {
        tree::memory(self.process.id()) + self.files.as_deref().map_or(0, commands::allocated)
    }

    /// The end of what it wrote, on one line.
    pub fn last_words(&self) -> String {
        let text = self.process.last_words();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let text = lines[lines.len().saturating_sub(4)..].join(" · ");
        text.chars().take(400).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Most have children of their own, which they end themselves when asked.
        self.process.terminate();
        if let Some(files) = &self.files {
            std::fs::remove_dir_all(files).ok();
        }
        if self.name == Name::Squid {
            commands::remove_shared_memory(self.door.address.port());
        }
    }
}

impl Workload {
    /// The features that lines of configuration files ask for: `@tls`, `@users`…
    fn features(&self) -> Vec<&'static str> {
        let mut features = Vec::new();
        match self.protocol {
            Protocol::H1 => features.push("plain"),
            Protocol::H1Tls | Protocol::H2Tls => features.push("tls"),
            Protocol::H2c => features.push("h2c"),
        }
        match (self.area(), self.kind) {
            ("u", _) => features.push("users"),
            (_, Kind::Storm) => features.push("storm"),
            (_, Kind::Cold) => features.push("cold"),
            _ => {}
        }
        if self.size <= 32 * 1024 {
            features.push("small");
        }
        features
    }
}

/// A port for one of a server's listeners.
fn port() -> Outcome<u16> {
    free_port()
}
