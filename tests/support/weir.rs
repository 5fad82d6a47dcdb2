//! The real binary, on ports and in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use toml::{Table, Value};

use super::{Ask, Client, DEADLINE, Origin, Redis, eventually, free_port, signal};

/// The admin token of every Weir that the rig starts.
pub const ADMIN_TOKEN: &str = "a-token-for-the-stories-0123456789abcdef";

/// A `proxy.toml` in the making: a story writes what it is about, the rig adds ports and quiet logs.
#[derive(Debug, Clone)]
pub struct WeirConfig {
    table: Table,
    env: Vec<(String, String)>,
}

impl WeirConfig {
    /// From the story's text. `listen`, `upstream`, `admin.listen`, `admin.token` and `log` are filled in where absent.
    pub fn new(text: &str) -> WeirConfig {
        let table = text.parse::<Table>().unwrap_or_else(|e| panic!("the story's proxy.toml: {e}\n{text}"));
        WeirConfig { table, env: Vec::new() }
    }

    fn section(&mut self, name: &str) -> &mut Table {
        let section = self.table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        section.as_table_mut().unwrap_or_else(|| panic!("[{name}] is a table"))
    }

    fn default(&mut self, section: &str, key: &str, value: impl Into<Value>) {
        self.section(section).entry(key).or_insert_with(|| value.into());
    }

    /// Where the backend is.
    pub fn upstream(mut self, url: &str) -> WeirConfig {
        self.default("upstream", "url", url);
        self
    }

    /// With this Redis.
    pub fn redis(self, redis: &Redis) -> WeirConfig {
        let url = redis.url();
        self.redis_url(&url)
    }

    /// With the Redis at this URL.
    pub fn redis_url(mut self, url: &str) -> WeirConfig {
        self.section("redis").insert("url".to_owned(), url.into());
        self
    }

    /// With this text as `[redis]`; what it says already is kept.
    pub fn redis_section(mut self, text: &str) -> WeirConfig {
        let table = text.parse::<Table>().unwrap_or_else(|e| panic!("the story's [redis]: {e}\n{text}"));
        self.section("redis").extend(table);
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> WeirConfig {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this lease.
    pub fn lease(mut self, lease: &str) -> WeirConfig {
        self.section("cache").insert("lease".to_owned(), lease.into());
        self
    }

    /// Without an admin token.
    pub fn without_token(mut self) -> WeirConfig {
        self.section("admin").insert("token".to_owned(), "".into());
        self
    }

    /// Starts the binary and waits until it is ready.
    pub async fn start(mut self) -> Weir {
        self.default("admin", "token", ADMIN_TOKEN);
        if self.section("admin")["token"].as_str() == Some("") {
            self.section("admin").remove("token");
        }
        self.default("log", "access", false);
        self.default("log", "level", "info");
        for _ in 0..5 {
            if let Some(weir) = self.try_start().await {
                return weir;
            }
        }
        panic!("weir found no free port five times over");
    }

    /// `None` when a port was taken in between.
    async fn try_start(&mut self) -> Option<Weir> {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        self.table.insert("listen".to_owned(), listen.to_string().into());
        self.section("admin").insert("listen".to_owned(), admin.to_string().into());
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = dir.path().join("proxy.toml");
        fs::write(&config, toml::to_string(&self.table).expect("a printable config")).expect("a config file");
        let mut command = weir_command(dir.path());
        command.arg("-c").arg(&config).envs(self.env.iter().map(|(n, v)| (n, v)));
        let child = command
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.path().join("stdout")).expect("a file"))
            .stderr(fs::File::create(dir.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("the weir binary can be started");
        let mut weir = Weir { client: Client::new(listen), listen, admin, child, dir };
        weir.wait_until_ready().await.then_some(weir)
    }
}

/// The binary, with an environment free of `WEIR_*` and of log filters.
fn weir_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").current_dir(dir);
    command
}

/// A Weir at work. Killed when dropped; what it said is shown when the story has failed.
pub struct Weir {
    client: Client,
    listen: SocketAddr,
    admin: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Weir {
    /// A Weir in front of `origin`, with this `proxy.toml` (ports and upstream are filled in).
    pub async fn start(origin: &Origin, text: &str) -> Weir {
        WeirConfig::new(text).upstream(&origin.url()).start().await
    }

    /// The same with a Redis.
    pub async fn with_redis(origin: &Origin, redis: &Redis, text: &str) -> Weir {
        WeirConfig::new(text).upstream(&origin.url()).redis(redis).start().await
    }

    /// Waits for `/readyz`; false when it ended because a port was taken.
    async fn wait_until_ready(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().expect("a child to ask") {
                let said = self.said();
                if said.contains("in use") {
                    return false;
                }
                panic!("weir ended with {status} before it was ready:\n{said}");
            }
            let ready = self.admin().get("/readyz").attempt().await;
            if ready.is_ok_and(|answer| answer.code() == 200) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("weir was not ready within {DEADLINE:?}:\n{}", self.said());
    }

    /// Everything it wrote to standard error and standard output.
    pub fn said(&self) -> String {
        ["stderr", "stdout"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// Waits until it has written these words, and returns everything it wrote.
    pub async fn says(&self, words: &str) -> String {
        eventually(&format!("Weir says `{words}`"), DEADLINE, || async { self.said().contains(words) }).await;
        self.said()
    }

    /// The value of one metric, by its name and labels as they are exposed.
    pub async fn figure(&self, name: &str) -> Option<f64> {
        let text = self.operator().get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse().expect("a number"))
    }

    /// Waits until this many requests wait for another's fetch.
    pub async fn coalesces(&self, n: usize) {
        let what = format!("{n} requests wait for another's fetch");
        let waiting = async || self.figure("weir_coalesced_waiting").await == Some(n as f64);
        eventually(&what, DEADLINE, waiting).await;
    }

    /// Asks on the traffic port.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks on the admin port, without a token.
    pub fn admin(&self) -> Client {
        Client::new(self.admin)
    }

    /// Asks on the admin port, with the token.
    pub fn operator(&self) -> Client {
        Client::new(self.admin).with_token(ADMIN_TOKEN)
    }

    /// GET on the traffic port.
    pub fn get(&self, path: &str) -> Ask {
        self.client.get(path)
    }

    /// PUT on the traffic port.
    pub fn put(&self, path: &str) -> Ask {
        self.client.put(path)
    }

    /// POST on the traffic port.
    pub fn post(&self, path: &str) -> Ask {
        self.client.post(path)
    }

    /// Any method on the traffic port.
    pub fn request(&self, method: &str, path: &str) -> Ask {
        self.client.request(method, path)
    }

    /// The traffic port.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// The admin port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Its `proxy.toml`.
    pub fn config_file(&self) -> std::path::PathBuf {
        self.dir.path().join("proxy.toml")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory now, bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process to look at");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// SIGSTOP: sockets stay open, nothing answers.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        signal(self.pid(), "TERM");
    }

    /// Waits until the process has ended; its exit code.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let began = Instant::now();
        while began.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().expect("a child to ask") {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("weir did not end within {DEADLINE:?}:\n{}", self.said());
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let said = self.said();
            let from = said.char_indices().rev().nth(6000).map_or(0, |(at, _)| at);
            eprintln!("--- weir said:\n{}\n---", &said[from..]);
        }
    }
}

/// How a run of the command line ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `weir` with arguments in `dir` until it ends by itself.
pub async fn run_weir(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Run {
    let mut command = weir_command(dir);
    command.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    let output =
        super::within("weir ends by itself", running).await.expect("a task").expect("the weir binary");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
