//! Connections: bb8-managed, multiplexed, with a deadline per operation and a breaker.
//!
//! The request path checks a connection out, clones it and gives it back at once: commands of many requests
//! share it, and nobody waits for another's answer to return it. A connection that failed, was late several
//! times in a row, or dates from before the breaker's last opening is thrown away at the next check-out.
//!
//! Whoever blocks or sends much (the log, the writer, the sweeper) has a [`Dedicated`] connection instead, so
//! that a large value on its way out does not delay a small one on its way in.
//!
//! It lacks Sentinel and Cluster; [`Connector::connect`] is the one place that knows where Redis is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bb8_redis::bb8;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, ServerErrorKind, TlsCertificates, Value,
};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::RedisConfig;
use super::breaker::{Breaker, pause};

/// Late answers in a row after which a connection is given up: it may be one that no packet gets through.
const LATE: u32 = 3;
/// Longest wait for a connection from the pool.
const CHECK_OUT: Duration = Duration::from_millis(50);

/// Why an operation brought nothing.
#[derive(Debug)]
pub enum Failure {
    /// Not tried: the breaker is open.
    Skipped,
    /// No answer in time.
    Late,
    /// The connection failed, or Redis refused.
    Failed(RedisError),
}

/// Whether Redis itself is well and merely refused this one thing (a value of another type, a full memory).
fn is_about_the_value(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => !matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::NoPerm
                | ServerErrorKind::TryAgain
        ),
        ErrorKind::Extension => !matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "BUSY")),
        ErrorKind::UnexpectedReturnType => true,
        _ => false,
    }
}

/// A pipeline whose commands each have a result of their own.
pub fn pipe() -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    pipeline
}

/// The results of a pipeline, unless one of them says that Redis as a whole is unwell.
fn healthy(results: Vec<RedisResult<Value>>) -> RedisResult<Vec<RedisResult<Value>>> {
    match results.iter().find_map(|r| r.as_ref().err().filter(|e| !is_about_the_value(e))) {
        Some(error) => Err(error.clone()),
        None => Ok(results),
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Skipped => f.write_str("not tried, the breaker is open"),
            Failure::Late => f.write_str("no answer in time"),
            Failure::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Failure {
        Failure::Failed(error)
    }
}

/// Opens connections.
#[derive(Debug)]
pub struct Connector {
    /// A configuration that cannot work is found out here once, and told as every attempt's failure.
    client: Result<Client, RedisError>,
    limit: Duration,
    last_error: Mutex<Option<String>>,
    /// Why no connection can be had; `None` since one was.
    refusal: Mutex<Option<String>>,
}

impl Connector {
    /// Reads the settings; nothing is connected yet.
    pub fn new(config: &RedisConfig) -> Connector {
        Connector {
            client: client(config),
            limit: config.connect_timeout,
            last_error: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// A connection that has authenticated and selected its database, within the connect timeout.
    pub async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let attempt = async {
            let client = self.client.as_ref().map_err(Clone::clone)?;
            // Callers have deadlines of their own, so the connection has none.
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.limit))
                .set_response_timeout(None)
                .set_pipeline_buffer_size(1024);
            Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
        };
        let connected = timeout(self.limit, attempt).await.unwrap_or(Err(Failure::Late));
        *self.refusal.lock() = connected.as_ref().err().map(|failure| format!("connect: {failure}"));
        connected
    }

    /// Keeps a failure's words for health. Error texts of the client library hold no password.
    pub fn remember(&self, words: &str) {
        *self.last_error.lock() = Some(words.to_owned());
    }

    /// Why no connection can be had, else the last failure's words.
    pub fn last_error(&self) -> Option<String> {
        self.refusal.lock().clone().or_else(|| self.last_error.lock().clone())
    }
}

fn client(config: &RedisConfig) -> RedisResult<Client> {
    let refuse = |why: &'static str| RedisError::from((ErrorKind::InvalidClientConfig, why));
    let info = config.url.as_str().into_connection_info()?;
    if info.redis_settings().db() == 0 {
        return Err(refuse("database 0 is never touched: name another in the URL"));
    }
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(
            TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2)),
        )
        .set_user_timeout(Duration::from_secs(10));
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let info = info.set_tcp_settings(tcp);
    if !tls {
        return Client::open(info);
    }
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that somebody else has just installed one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let root_cert = match &config.ca_file {
        None => None,
        Some(path) => Some(std::fs::read(path).map_err(|_| refuse("the CA file cannot be read"))?),
    };
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
}

/// A pooled connection: shared by clones, with what is known about its health.
#[derive(Debug)]
pub struct Pooled {
    connection: MultiplexedConnection,
    health: Arc<Health>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Health {
    broken: AtomicBool,
    late: AtomicU32,
}

#[derive(Debug)]
struct Manager {
    connector: Arc<Connector>,
    breaker: Arc<Breaker>,
}

impl bb8::ManageConnection for Manager {
    type Connection = Pooled;
    type Error = Failure;

    async fn connect(&self) -> Result<Pooled, Failure> {
        let generation = self.breaker.generation();
        let connection = self.connector.connect().await?;
        Ok(Pooled { connection, health: Arc::default(), generation })
    }

    /// A look at a flag: no round trip, as an operation that finds the connection dead costs no more than a PING.
    async fn is_valid(&self, pooled: &mut Pooled) -> Result<(), Failure> {
        if self.has_broken(pooled) { Err(Failure::Late) } else { Ok(()) }
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        pooled.health.broken.load(Ordering::Acquire) || pooled.generation != self.breaker.generation()
    }
}

/// The request path's way to Redis.
#[derive(Debug)]
pub struct Link {
    pool: bb8::Pool<Manager>,
    /// Connections in the pool.
    size: u32,
    connector: Arc<Connector>,
    breaker: Arc<Breaker>,
    limit: Duration,
    opened: Notify,
}

impl Link {
    /// Starts to connect in the background.
    pub fn new(config: &RedisConfig, connector: Arc<Connector>) -> Link {
        let breaker = Arc::new(Breaker::default());
        let manager = Manager { connector: Arc::clone(&connector), breaker: Arc::clone(&breaker) };
        let size = config.pool.max(1);
        let pool = bb8::Pool::builder()
            .max_size(size)
            .min_idle(size)
            .test_on_check_out(true)
            .max_lifetime(None)
            .idle_timeout(None)
            .retry_connection(false)
            .connection_timeout(config.timeout.min(CHECK_OUT).max(Duration::from_millis(1)))
            .build_unchecked(manager);
        Link { pool, size, connector, breaker, limit: config.timeout, opened: Notify::new() }
    }

    /// One command within the operation's deadline.
    pub async fn command(&self, command: &Cmd) -> Result<Value, Failure> {
        match self.run(Work::One(command)).await? {
            Reply::One(value) => Ok(value),
            Reply::Many(_) => Ok(Value::Nil),
        }
    }

    /// One pipeline within the operation's deadline; each command has its own result.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        match self.run(Work::Many(pipeline)).await? {
            Reply::Many(values) => Ok(values),
            Reply::One(value) => Ok(vec![Ok(value)]),
        }
    }

    /// A connection that died while it was idle says so only when it is used: each may do so once, and a new one
    /// takes its place. What runs here may be repeated: reads, whole values, removals.
    async fn run(&self, work: Work<'_>) -> Result<Reply, Failure> {
        if !self.breaker.is_closed() {
            return Err(Failure::Skipped);
        }
        let mut health: Option<Arc<Health>> = None;
        let mut spares = self.size;
        let outcome = timeout(self.limit, async {
            loop {
                let mut connection = {
                    let pooled = self.pool.get().await.map_err(|e| match e {
                        bb8::RunError::User(failure) => failure,
                        bb8::RunError::TimedOut => Failure::Late,
                    })?;
                    health = Some(Arc::clone(&pooled.health));
                    pooled.connection.clone()
                };
                match work.done_by(&mut connection).await {
                    Err(error) if spares > 0 && error.is_io_error() => {
                        spares -= 1;
                        if let Some(health) = &health {
                            health.broken.store(true, Ordering::Release);
                        }
                    }
                    done => return done.map_err(Failure::Failed),
                }
            }
        })
        .await
        .unwrap_or(Err(Failure::Late));
        self.judge(&outcome, health.as_deref());
        outcome
    }

    fn judge<T>(&self, outcome: &Result<T, Failure>, health: Option<&Health>) {
        match outcome {
            Ok(_) => {
                if let Some(health) = health
                    && health.late.load(Ordering::Relaxed) != 0
                {
                    health.late.store(0, Ordering::Relaxed);
                }
                self.breaker.succeeded();
            }
            Err(Failure::Failed(error)) if is_about_the_value(error) => self.breaker.succeeded(),
            Err(failure) => {
                if let Some(health) = health {
                    let late = matches!(failure, Failure::Late);
                    if !late || health.late.fetch_add(1, Ordering::AcqRel) + 1 >= LATE {
                        health.broken.store(true, Ordering::Release);
                    }
                }
                self.failed(failure);
            }
        }
    }

    /// Somebody's attempt failed: counts for the breaker.
    pub fn failed(&self, failure: &Failure) {
        self.connector.remember(&failure.to_string());
        if self.breaker.failed() {
            tracing::warn!(%failure, "Redis does not answer: requests go on without it");
            self.opened.notify_one();
        }
    }

    /// Whether operations are tried.
    pub fn is_closed(&self) -> bool {
        self.breaker.is_closed()
    }

    /// `closed`, `open` or `half-open`.
    pub fn breaker(&self) -> &'static str {
        self.breaker.name()
    }

    /// Probes whenever the breaker has opened, until `stop`.
    pub async fn probe(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.opened.notified() => {}
            }
            let mut attempt = 0;
            while !self.breaker.is_closed() {
                let noise = u64::from_le_bytes(crate::store::random());
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause(attempt, noise)) => {}
                }
                self.breaker.probing();
                let success = self.ping().await;
                self.breaker.probed(success);
                attempt += 1;
            }
            tracing::info!("Redis answers again");
        }
    }

    async fn ping(&self) -> bool {
        let Ok(mut connection) = self.connector.connect().await else {
            return false;
        };
        let ping = redis::cmd("PING");
        matches!(timeout(self.limit, connection.send_packed_command(&ping)).await, Ok(Ok(_)))
    }
}

/// What is asked of Redis.
#[derive(Clone, Copy)]
enum Work<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

/// What it answers, in the same shape.
enum Reply {
    One(Value),
    Many(Vec<RedisResult<Value>>),
}

impl Work<'_> {
    async fn done_by(self, connection: &mut MultiplexedConnection) -> RedisResult<Reply> {
        match self {
            Work::One(command) => connection.send_packed_command(command).await.map(Reply::One),
            Work::Many(pipeline) => healthy(pipeline.query_async(connection).await?).map(Reply::Many),
        }
    }
}

/// A connection of one background task: made when needed, given up at the first failure.
#[derive(Debug)]
pub struct Dedicated {
    connector: Arc<Connector>,
    connection: Option<MultiplexedConnection>,
}

impl Dedicated {
    /// Not connected yet.
    pub fn new(connector: Arc<Connector>) -> Dedicated {
        Dedicated { connector, connection: None }
    }

    /// One command, within `limit` (connecting not included).
    pub async fn command(&mut self, command: &Cmd, limit: Duration) -> Result<Value, Failure> {
        self.run(limit, async |connection| connection.send_packed_command(command).await).await
    }

    /// One pipeline, within `limit` (connecting not included); each command has its own result.
    pub async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<RedisResult<Value>>, Failure> {
        self.run(limit, async |connection| healthy(pipeline.query_async(connection).await?)).await
    }

    async fn run<T>(
        &mut self,
        limit: Duration,
        operation: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        // Taken out and put back only after success, so that a cancelled operation leaves none behind either.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        let outcome = timeout(limit, operation(&mut connection)).await;
        let outcome = outcome.map_or(Err(Failure::Late), |done| done.map_err(Failure::Failed));
        match &outcome {
            Ok(_) => self.connection = Some(connection),
            Err(failure) => self.connector.remember(&failure.to_string()),
        }
        outcome
    }
}
