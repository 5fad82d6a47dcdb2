//! A real `redis-server` on a port and in a directory of its own, to be killed, frozen, flushed and spoilt.
//!
//! It may have a second, encrypted port, which wants a certificate of its clients; the rig itself uses the plain one.
//! `tls/` holds a certificate for `localhost` and 127.0.0.1, one for clients, and the authority that signed both,
//! whose key no longer exists; and a stranger's authority. They are good for nothing but these stories.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use super::{eventually, free_port, signal};

/// The server. Killed when dropped.
pub struct Redis {
    port: u16,
    password: Option<String>,
    role: Role,
    /// More of its command line.
    options: Vec<String>,
    dir: TempDir,
    child: Option<Child>,
}

/// What the process is.
#[derive(Debug, Clone)]
pub(super) enum Role {
    /// A server of its own, or a replica: database 1.
    Server,
    /// A node of a cluster: database 0.
    Node,
    /// A sentinel with this configuration.
    Sentinel(String),
}

impl Redis {
    /// Starts a server without a password.
    pub async fn start() -> Redis {
        Redis::launch(Role::Server, None, &[]).await
    }

    /// Starts a server that wants this password.
    pub async fn with_password(password: &str) -> Redis {
        Redis::launch(Role::Server, Some(password), &[]).await
    }

    /// Starts a server with more options, as on the command line.
    pub async fn with_options(options: &[&str]) -> Redis {
        Redis::launch(Role::Server, None, options).await
    }

    /// Starts a server with an encrypted port besides.
    pub async fn with_tls() -> Redis {
        let options = tls_options();
        Redis::with_options(&options.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    pub(super) async fn launch(role: Role, password: Option<&str>, options: &[&str]) -> Redis {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let password = password.map(str::to_owned);
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        let mut redis = Redis { port: free_port(), password, role, options, dir, child: None };
        for _ in 0..5 {
            if redis.spawn().await {
                return redis;
            }
            redis.port = free_port();
        }
        panic!("redis-server did not start:\n{}", redis.log());
    }

    /// Starts the process and waits until it answers; false when it ended at once (its port was taken).
    async fn spawn(&mut self) -> bool {
        let log = std::fs::File::create(self.dir.path().join("redis.log")).expect("a log file");
        let mut command = Command::new("redis-server");
        if let Role::Sentinel(config) = &self.role {
            let file = self.dir.path().join("sentinel.conf");
            std::fs::write(&file, config).expect("a file for the sentinel, which rewrites it");
            command.arg(file).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", &self.dir.path().display().to_string(), "--loglevel", "notice"])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                panic!("redis-server cannot be started ({error}): scripts/test installs what the tests need")
            }
        }
        let began = std::time::Instant::now();
        while began.elapsed() < super::DEADLINE {
            if self.child.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|ended| ended.is_some())) {
                self.child = None;
                return false;
            }
            if self.try_run(&["PING"]).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not answer:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }

    /// Where Weir should look: database 1.
    pub fn url(&self) -> String {
        self.url_with(self.password.as_deref())
    }

    /// The same with another password, or none.
    pub fn url_with(&self, password: Option<&str>) -> String {
        let database = u8::from(matches!(self.role, Role::Server));
        match password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/{database}", self.port),
            None => format!("redis://127.0.0.1:{}/{database}", self.port),
        }
    }

    /// `127.0.0.1:port`, the port being the encrypted one if there is one.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port().unwrap_or(self.port))
    }

    /// The encrypted port.
    pub fn tls_port(&self) -> Option<u16> {
        let at = self.options.iter().position(|o| o == "--tls-port")?;
        self.options[at + 1].parse().ok()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`. Returns when the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        assert!(self.spawn().await, "redis-server did not come back on port {}:\n{}", self.port, self.log());
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running redis-server").id()
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub fn freeze(&self) {
        signal(self.pid(), "STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        signal(self.pid(), "CONT");
    }

    /// A connection to its database, for a slow machine.
    pub async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(super::DEADLINE))
            .set_response_timeout(Some(super::DEADLINE));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// Runs one command in its database over a connection of its own.
    pub async fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let value = self.try_run(words).await.unwrap_or_else(|e| panic!("{words:?}: {e}"));
        redis::from_redis_value(value).unwrap_or_else(|e| panic!("{words:?}: {e}"))
    }

    /// The same, when it may fail.
    pub async fn try_run(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = self.connection().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await
    }

    /// FLUSHALL: everything of everybody, gone.
    pub async fn flush_all(&self) {
        self.run::<()>(&["FLUSHALL"]).await;
    }

    /// The names of keys that match `pattern`.
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = self.run(&["KEYS", pattern]).await;
        keys.sort();
        keys
    }

    /// The keys that hold entries of `route`, under the default prefix.
    pub async fn entries(&self, route: &str) -> Vec<String> {
        self.keys(&format!("cache:{route}:*")).await
    }

    /// Waits until Redis holds at least `n` entries of `route` (they are written behind the answer).
    pub async fn filled(&self, route: &str, n: usize) {
        eventually(&format!("{n} entries of {route} in Redis"), super::DEADLINE, || async {
            self.entries(route).await.len() >= n
        })
        .await;
    }

    /// Puts `garbage` in the place of every entry of `route`.
    pub async fn spoil(&self, route: &str, garbage: &str) {
        for key in self.entries(route).await {
            self.run::<()>(&["SET", &key, garbage]).await;
        }
    }
}

/// A file in `tests/support/tls/`.
pub fn tls_file(name: &str) -> String {
    format!("{}/tests/support/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Command line for an encrypted port, used towards replicas and other nodes as well.
pub(super) fn tls_options() -> Vec<String> {
    let (port, cert, key, ca) =
        (free_port().to_string(), tls_file("server.pem"), tls_file("server.key"), tls_file("ca.pem"));
    let pairs = [
        ("--tls-port", port),
        ("--tls-cert-file", cert),
        ("--tls-key-file", key),
        ("--tls-ca-cert-file", ca),
        ("--tls-auth-clients", "yes".to_owned()),
        ("--tls-replication", "yes".to_owned()),
    ];
    pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// `[redis]` for whoever connects to that port.
pub fn tls_section() -> String {
    format!(
        "ca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
        tls_file("ca.pem"),
        tls_file("client.pem"),
        tls_file("client.key")
    )
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
