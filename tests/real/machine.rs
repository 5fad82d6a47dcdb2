//! Processes of a story: a backend, a Redis, a Weir; each on a free port, each ended with the value that owns it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::client::Client;

/// How long anything may take to come up. Generous: the first start installs the backend.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const TOKEN: &str = "a-token-for-this-test-only";

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A port that was free a moment ago, below the range from which outgoing connections get theirs.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(131);
    (0..2_000)
        .map(|_| start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 2_000)
        .filter_map(|step| u16::try_from(30_000 + step).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port between 30000 and 32000")
}

/// A child process with its log. Killed when dropped.
struct Process {
    what: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    fn spawn(what: &str, command: &mut Command, log: PathBuf) -> Process {
        let out = File::create(&log).unwrap();
        for (name, _) in std::env::vars_os().filter(|(n, _)| n != "WEIR_REAL_DIR") {
            if name.to_string_lossy().starts_with("WEIR_") && !command.get_envs().any(|(n, _)| n == name) {
                command.env_remove(name);
            }
        }
        let child =
            command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap_or_else(
                |e| {
                    panic!("cannot start {what}: {e}. scripts/install-test-deps installs what the tests need")
                },
            );
        Process { what: what.to_owned(), child, log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Polls until `ready` says yes; fails with the log if the process ends or the patience does.
    async fn wait_until(&mut self, mut ready: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !ready().await {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status}:\n{}", self.what, self.log());
            }
            assert!(Instant::now() < deadline, "{} did not come up:\n{}", self.what, self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A backend started by its own `examples/real/<name>/start`.
pub(crate) struct Backend {
    process: Process,
    pub(crate) addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Backend {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(root().join("examples/real").join(name).join("start"));
        command.env("PORT", port.to_string()).env_remove("HOST");
        let mut process = Process::spawn(name, &mut command, dir.path().join("start.log"));
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        process.wait_until(async || answers(addr, "/").await).await;
        Backend { process, addr, _dir: dir }
    }

    /// The file that holds its data, as `start` printed it.
    pub(crate) fn database(&self) -> PathBuf {
        let log = self.process.log();
        log.lines().find_map(|l| l.strip_prefix("database ")).expect("start prints the database").into()
    }

    /// How many requests the backend itself has logged whose line contains `needle`.
    pub(crate) fn requests_logged(&self, needle: &str) -> usize {
        let log = self.database().with_file_name("log");
        let bytes = std::fs::read(&log).unwrap();
        String::from_utf8_lossy(&bytes).lines().filter(|l| l.contains(needle)).count()
    }
}

impl Drop for Backend {
    /// The copy of the data that `start` made for this port is of no more use.
    fn drop(&mut self) {
        let log = self.process.log();
        let database = log.lines().find_map(|l| l.strip_prefix("database ")).map(PathBuf::from);
        if let Some(run) = database.as_deref().and_then(Path::parent) {
            let _ = std::fs::remove_dir_all(run);
        }
    }
}

/// A Redis of our own.
pub(crate) struct Redis {
    _process: Process,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Redis {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command
            .args(["--maxmemory", "512mb", "--maxmemory-policy", "volatile-lru"])
            .arg("--dir")
            .arg(dir.path());
        let mut process = Process::spawn("redis-server", &mut command, dir.path().join("log"));
        process.wait_until(async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Redis { _process: process, port, _dir: dir }
    }
}

/// The release binary with an example's `proxy.toml`; only the ports are changed, from the environment.
pub(crate) struct Weir {
    process: Process,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Weir {
    pub(crate) async fn start(example: &str, backend: &Backend, redis: &Redis) -> Weir {
        let dir = tempfile::tempdir().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(binary());
        command
            .arg("-c")
            .arg(root().join("examples/real").join(example).join("proxy.toml"))
            .env("WEIR_LISTEN", addr.to_string())
            .env("WEIR_ADMIN_LISTEN", admin.to_string())
            .env("WEIR_ADMIN_TOKEN", TOKEN)
            .env("WEIR_UPSTREAM", format!("http://{}", backend.addr))
            .env("WEIR_REDIS_URL", format!("redis://127.0.0.1:{}/1", redis.port))
            .env("WEIR_LOG_ACCESS", "false");
        // Its JSON access log would be as long as the workload; what it has to say of itself is enough here.
        let mut process = Process::spawn("weir", &mut command, dir.path().join("log"));
        process.wait_until(async || answers(admin, "/readyz").await).await;
        Weir { process, addr, admin, _dir: dir }
    }

    /// Calls the admin listener with the token; the answer must be 200 and JSON.
    pub(crate) async fn admin(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        let mut client = Client::new(self.admin);
        let bearer = format!("Bearer {TOKEN}");
        let answer = client.send("POST", path, &[("authorization", &bearer)], Some(&body)).await;
        assert_eq!(answer.status, 200, "POST {path} {body}: {}", answer.text());
        answer.json()
    }

    /// What it has logged, for messages of failed assertions.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Whether a GET of `path` is answered with a 200.
async fn answers(addr: SocketAddr, path: &str) -> bool {
    if tokio::net::TcpStream::connect(addr).await.is_err() {
        return false;
    }
    Client::new(addr).try_send("GET", path, &[], None).await.is_ok_and(|a| a.status == 200)
}

/// The binary under test: `WEIR_BIN`, else whatever `cargo build --release` gives, built here if need be, so that a
/// stale one is never tested by mistake.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("WEIR_BIN") {
            let given = root().join(given);
            assert!(given.is_file(), "WEIR_BIN: there is no {}", given.display());
            return given;
        }
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        let status = Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "--bin", "weir"])
            .current_dir(root())
            .env("CARGO_TARGET_DIR", &target)
            .status()
            .unwrap();
        assert!(status.success(), "cargo build --release failed");
        target.join("release/weir")
    })
}
