//! Connections in use: bb8-managed, multiplexed, with a deadline per operation and a breaker.
//!
//! The request path checks a connection out, clones it and gives it back at once: commands of many requests
//! share it, and nobody waits for another's answer to return it. A connection that failed, was late several
//! times in a row, dates from before the breaker's last opening or leads to where Redis no longer is, is thrown
//! away at the next check-out. A cluster's connection is many in one and repairs itself: it goes only when it
//! failed several times in a row. There, the breaker is one of several ([`super::lanes`]), and each command of a
//! pipeline has its own.
//!
//! Whoever blocks or sends much (the log, the writer, the sweeper) has a [`Dedicated`] connection instead, so
//! that a large value on its way out does not delay a small one on its way in.
//!
//! Where Redis is, is [`super::connect`]'s business; what an error means for a connection, [`super::failure`]'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bb8_redis::bb8;
use futures_util::future::join_all;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::RedisConfig;
use super::breaker::pause;
use super::connect::Connected;
pub use super::connect::Connector;
use super::connect::node::Node;
use super::connection::{Connection, key};
use super::failure::{Blame, refuses_writes};
pub use super::failure::{Failure, pipe};
use super::lanes::{Lane, Lanes};

/// Failures or late answers in a row after which a connection is given up that one of them alone does not condemn:
/// it may be one that no packet gets through.
const STRIKES: u32 = 3;
/// Longest wait for a connection from the pool.
const CHECK_OUT: Duration = Duration::from_millis(50);
/// Longest that one node of a cluster may take to answer the writer or a walk.
const PATIENCE: Duration = Duration::from_millis(500);

/// A pooled connection: shared by clones, with what is known about its health.
#[derive(Debug)]
pub struct Pooled {
    connected: Connected<Connection>,
    health: Arc<Health>,
    generation: u64,
}

/// Whether a connection is still to be used.
#[derive(Debug, Default)]
struct Health {
    broken: AtomicBool,
    strikes: AtomicU32,
}

impl Health {
    fn succeeded(&self) {
        // Mostly zero already: a load does not take the cache line from other cores, a store would.
        if self.strikes.load(Ordering::Relaxed) != 0 {
            self.strikes.store(0, Ordering::Relaxed);
        }
    }

    /// Lateness says little about a connection, nor does one node's failure about a whole cluster's.
    fn failed(&self, failure: &Failure, cluster: bool) {
        let at_once = !cluster && !matches!(failure, Failure::Late);
        if at_once || self.strikes.fetch_add(1, Ordering::AcqRel) + 1 >= STRIKES {
            self.broken.store(true, Ordering::Release);
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Manager {
    connector: Arc<Connector>,
    lanes: Arc<Lanes>,
    limit: Duration,
}

impl bb8::ManageConnection for Manager {
    type Connection = Pooled;
    type Error = Failure;

    async fn connect(&self) -> Result<Pooled, Failure> {
        let generation = self.lanes.generation();
        // A node of a cluster is given up a little before the operation: what other nodes answered is still of use.
        let connected = self.connector.entries(self.limit * 4 / 5).await?;
        Ok(Pooled { connected, health: Arc::default(), generation })
    }

    /// A look at a flag: no round trip, as an operation that finds the connection dead costs no more than a PING.
    async fn is_valid(&self, pooled: &mut Pooled) -> Result<(), Failure> {
        if self.has_broken(pooled) { Err(Failure::Late) } else { Ok(()) }
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        pooled.health.is_broken()
            || pooled.generation != self.lanes.generation()
            || !self.connector.is_current(pooled.connected.moves)
    }
}

/// The request path's way to Redis.
#[derive(Debug)]
pub struct Link {
    pool: bb8::Pool<Manager>,
    /// Connections in the pool.
    size: u32,
    connector: Arc<Connector>,
    lanes: Arc<Lanes>,
    limit: Duration,
}

impl Link {
    /// Starts to connect in the background.
    pub fn new(config: &RedisConfig, connector: Arc<Connector>) -> Link {
        let (lanes, limit) = (Arc::new(Lanes::new(connector.is_cluster())), config.timeout);
        let manager = Manager { connector: Arc::clone(&connector), lanes: Arc::clone(&lanes), limit };
        let size = config.pool.max(1);
        let pool = bb8::Pool::builder()
            .max_size(size)
            .min_idle(size)
            .test_on_check_out(true)
            .max_lifetime(None)
            .idle_timeout(None)
            .retry_connection(false)
            .connection_timeout(limit.min(CHECK_OUT).max(Duration::from_millis(1)))
            .build_unchecked(manager);
        Link { pool, size, connector, lanes, limit }
    }

    /// One command within the operation's deadline.
    pub async fn command(&self, command: &Cmd) -> Result<Value, Failure> {
        self.command_at(None, command).await
    }

    /// One command to a node of the cluster (`None`: to where its key is) within the operation's deadline.
    pub async fn command_at(&self, node: Option<&Node>, command: &Cmd) -> Result<Value, Failure> {
        // Where the command says itself which node it is for, its key's lane has no part in it.
        let key = if node.is_none() { key(command) } else { None };
        if self.lanes.of(key).is_some_and(|lane| !lane.breaker.is_closed()) {
            return Err(Failure::Skipped);
        }
        let outcome = self.run(Work::One(node, command)).await;
        self.judge(key, outcome.as_ref().err());
        match outcome? {
            Reply::One(value) => Ok(value),
            Reply::Many(_) => Ok(Value::Nil),
        }
    }

    /// One pipeline within the operation's deadline; each command has its own result.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        let closed: Vec<bool> = pipeline.cmd_iter().map(|command| self.is_closed_for(key(command))).collect();
        if !closed.contains(&true) {
            return Err(Failure::Skipped);
        }
        if !closed.contains(&false) {
            return self.whole_pipeline(pipeline).await;
        }
        let mut tried = pipe();
        for (command, _) in pipeline.cmd_iter().zip(&closed).filter(|(_, closed)| **closed) {
            tried.add_command(command.clone());
        }
        let mut results = self.whole_pipeline(&tried).await?.into_iter();
        let skipped = || Err(RedisError::from((ErrorKind::Client, "not tried, the breaker is open")));
        Ok(closed
            .into_iter()
            .map(|closed| if closed { results.next() } else { None }.unwrap_or_else(skipped))
            .collect())
    }

    /// Commands of many requests to one server, within one operation's deadline. What comes of it counts for each.
    pub async fn together(&self, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        let outcome = self.run_all(pipeline).await;
        match &outcome {
            // What was refused says nothing about the server.
            Ok(_) => self.judge(None, None),
            Err(failure) => {
                // The connection is to blame once; each look-up went without an answer.
                self.judge(None, Some(failure));
                if !failure.spares_the_connection() {
                    (1..pipeline.len()).for_each(|_| self.failed_for(None, failure));
                }
            }
        }
        outcome
    }

    async fn whole_pipeline(&self, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        match self.run_all(pipeline).await {
            Ok(results) => {
                self.judge_each(pipeline, &results);
                Ok(results)
            }
            Err(failure) => {
                for key in pipeline.cmd_iter().map(key).take(if self.connector.is_cluster() {
                    usize::MAX
                } else {
                    1
                }) {
                    self.judge(key, Some(&failure));
                }
                Err(failure)
            }
        }
    }

    async fn run_all(&self, pipeline: &Pipeline) -> Result<Vec<RedisResult<Value>>, Failure> {
        Ok(match self.run(Work::Many(pipeline)).await? {
            Reply::Many(results) => results,
            Reply::One(value) => vec![Ok(value)],
        })
    }

    /// A connection that died while it was idle says so only when it is used: each may do so once, and a new one
    /// takes its place. What runs here may be repeated: reads, whole values, removals. (A cluster's connection
    /// repeats by itself.)
    async fn run(&self, work: Work<'_>) -> Result<Reply, Failure> {
        let mut health: Option<Arc<Health>> = None;
        let mut spares = if self.connector.is_cluster() { 0 } else { self.size };
        let outcome = timeout(self.limit, async {
            loop {
                let mut connection = {
                    let pooled = self.pool.get().await.map_err(|e| match e {
                        bb8::RunError::User(failure) => failure,
                        bb8::RunError::TimedOut => Failure::Late,
                    })?;
                    health = Some(Arc::clone(&pooled.health));
                    pooled.connected.connection.clone()
                };
                match work.done_by(&mut connection).await {
                    Err(error) if spares > 0 && error.is_io_error() => {
                        spares -= 1;
                        if let Some(health) = &health {
                            health.failed(&Failure::Failed(error), false);
                        }
                    }
                    done => return done.map_err(Failure::Failed),
                }
            }
        })
        .await
        .unwrap_or(Err(Failure::Late));
        if let Some(health) = health {
            match &outcome {
                Err(failure) if failure.spares_the_connection() => {}
                Err(failure) => health.failed(failure, self.connector.is_cluster()),
                Ok(reply) if reply.tells_nothing() => health.failed(&Failure::Late, true),
                Ok(_) => health.succeeded(),
            }
        }
        outcome
    }

    /// Tells the breaker how an operation on this key went.
    fn judge(&self, key: Option<&[u8]>, failure: Option<&Failure>) {
        match failure {
            Some(failure) if !failure.spares_the_connection() => {
                if failure.blame() == Some(Blame::Place) {
                    self.connector.misled();
                }
                self.failed_for(key, failure);
            }
            _ => {
                if let Some(lane) = self.lanes.of(key) {
                    lane.breaker.succeeded();
                }
            }
        }
    }

    /// Tells the breakers how the commands of a pipeline went.
    pub fn judge_each(&self, pipeline: &Pipeline, results: &[RedisResult<Value>]) {
        for (command, result) in pipeline.cmd_iter().zip(results) {
            let failure = result.as_ref().err().map(|error| Failure::Failed(error.clone()));
            self.judge(key(command), failure.as_ref());
        }
    }

    /// An attempt that concerned this key, or all of Redis where there is but one, failed: counts for the breaker.
    pub fn failed_for(&self, key: Option<&[u8]>, failure: &Failure) {
        self.connector.remember(&failure.to_string());
        let Some(lane) = self.lanes.of(key) else { return };
        if let Some(key) = key {
            *lane.failed.lock() = key.to_vec();
        }
        if lane.breaker.failed() {
            let who = if self.connector.is_cluster() { "a part of the cluster" } else { "Redis" };
            tracing::warn!(%failure, "{who} does not answer: requests go on without it");
            lane.opened.notify_one();
        }
    }

    /// Whether entries are spread over several primaries.
    pub fn is_cluster(&self) -> bool {
        self.connector.is_cluster()
    }

    /// Whether anything is tried at all.
    pub fn is_closed(&self) -> bool {
        self.lanes.any_closed()
    }

    /// Whether operations on this key are tried.
    pub fn is_closed_for(&self, key: Option<&[u8]>) -> bool {
        self.lanes.of(key).is_none_or(|lane| lane.breaker.is_closed())
    }

    /// `closed`, `open` or `half-open`; in a cluster the worst that holds for a part of it.
    pub fn breaker(&self) -> &'static str {
        self.lanes.name()
    }

    /// Every primary of a cluster; `None` = there is but one server.
    pub async fn primaries(&self) -> Result<Option<Vec<Node>>, Failure> {
        self.connector.primaries().await
    }

    /// Probes whatever a breaker has given up, until `stop`.
    pub async fn probe(&self, stop: CancellationToken) {
        join_all(self.lanes.iter().map(|lane| self.probe_lane(lane, &stop))).await;
    }

    async fn probe_lane(&self, lane: &Lane, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = lane.opened.notified() => {}
            }
            let mut attempt = 0;
            while !lane.breaker.is_closed() {
                let noise = u64::from_le_bytes(crate::store::random());
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause(attempt, noise)) => {}
                }
                lane.breaker.probing();
                let success = self.answers(lane).await;
                lane.breaker.probed(success);
                attempt += 1;
            }
            tracing::info!("Redis answers again");
        }
    }

    /// One server is asked on a new connection, as the old ones are not trusted any more. A cluster's repairs itself;
    /// it is asked for a key that failed.
    async fn answers(&self, lane: &Lane) -> bool {
        if self.connector.is_cluster() {
            let mut read = redis::cmd("GETRANGE");
            read.arg(&*lane.failed.lock()).arg(0).arg(0);
            return match self.run(Work::One(None, &read)).await {
                Ok(_) => true,
                Err(failure) => failure.spares_the_connection(),
            };
        }
        let Ok(mut connected) = self.connector.entries(self.limit).await else {
            return false;
        };
        let ping = redis::cmd("PING");
        matches!(timeout(self.limit, connected.connection.command(&ping)).await, Ok(Ok(_)))
    }
}

/// What is asked of Redis.
#[derive(Clone, Copy)]
enum Work<'a> {
    One(Option<&'a Node>, &'a Cmd),
    Many(&'a Pipeline),
}

/// What it answers, in the same shape.
enum Reply {
    One(Value),
    Many(Vec<RedisResult<Value>>),
}

impl Reply {
    /// Of a pipeline, nothing was answered by anybody.
    fn tells_nothing(&self) -> bool {
        let answered = |result: &RedisResult<Value>| match result {
            Ok(_) => true,
            Err(error) => Failure::Failed(error.clone()).spares_the_connection(),
        };
        matches!(self, Reply::Many(results) if !results.is_empty() && !results.iter().any(answered))
    }
}

impl Work<'_> {
    async fn done_by(self, connection: &mut Connection) -> RedisResult<Reply> {
        match self {
            Work::One(node, command) => connection.command_at(node, command).await.map(Reply::One),
            Work::Many(pipeline) => connection.pipeline(pipeline).await.map(Reply::Many),
        }
    }
}

/// A connection of one background task: made when needed, given up when it has failed.
#[derive(Debug)]
pub struct Dedicated {
    connector: Arc<Connector>,
    to: Destination,
    connection: Option<Connected<Connection>>,
    /// Failures in a row of a cluster's connection.
    strikes: u32,
}

#[derive(Debug, Clone, Copy)]
enum Destination {
    Log,
    Entries,
}

impl Dedicated {
    /// To the primary that has the purge log. Not connected yet.
    pub fn new(connector: Arc<Connector>) -> Dedicated {
        Dedicated { connector, to: Destination::Log, connection: None, strikes: 0 }
    }

    /// To where entries are: in a cluster, all primaries. Not connected yet.
    pub fn entries(connector: Arc<Connector>) -> Dedicated {
        Dedicated { connector, to: Destination::Entries, connection: None, strikes: 0 }
    }

    /// One command, within `limit` (connecting not included).
    pub async fn command(&mut self, command: &Cmd, limit: Duration) -> Result<Value, Failure> {
        self.command_at(None, command, limit).await
    }

    /// One command to a node of the cluster (`None`: to where its key is), within `limit`.
    pub async fn command_at(
        &mut self,
        node: Option<&Node>,
        command: &Cmd,
        limit: Duration,
    ) -> Result<Value, Failure> {
        self.run(limit, async |connection| connection.command_at(node, command).await).await
    }

    /// One pipeline, within `limit` (connecting not included); each command has its own result.
    pub async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        limit: Duration,
    ) -> Result<Vec<RedisResult<Value>>, Failure> {
        let results = self.run(limit, async |connection| connection.pipeline(pipeline).await).await?;
        if matches!(self.to, Destination::Log) && refuses_writes(&results) {
            self.connection = None;
        }
        Ok(results)
    }

    /// Every primary of a cluster; `None` = there is but one server.
    pub async fn primaries(&self) -> Result<Option<Vec<Node>>, Failure> {
        self.connector.primaries().await
    }

    async fn run<T>(
        &mut self,
        limit: Duration,
        operation: impl AsyncFnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Failure> {
        // Taken out and put back only afterwards, so that a cancelled operation leaves none behind either.
        let kept = self.connection.take().filter(|c| self.connector.is_current(c.moves));
        let mut connected = match kept {
            Some(connected) => connected,
            None => self.connect().await?,
        };
        let outcome = timeout(limit, operation(&mut connected.connection)).await;
        let outcome = outcome.map_or(Err(Failure::Late), |done| done.map_err(Failure::Failed));
        if let Err(failure) = &outcome {
            self.connector.remember(&failure.to_string());
            if failure.blame() == Some(Blame::Place) {
                self.connector.misled();
            }
        }
        if self.keeps(&connected.connection, outcome.as_ref().err()) {
            self.connection = Some(connected);
        }
        outcome
    }

    async fn connect(&mut self) -> Result<Connected<Connection>, Failure> {
        self.strikes = 0;
        match self.to {
            Destination::Entries => self.connector.entries(PATIENCE).await,
            Destination::Log => {
                let Connected { connection, moves } = self.connector.log().await?;
                Ok(Connected { connection: Connection::Plain(connection), moves })
            }
        }
    }

    fn keeps(&mut self, connection: &Connection, failure: Option<&Failure>) -> bool {
        match failure {
            None => {
                self.strikes = 0;
                true
            }
            // A primary that has lost its replicas may have been replaced: the log is to be where it is now.
            Some(failure) if failure.blame() == Some(Blame::Writes) => {
                matches!(self.to, Destination::Entries)
            }
            Some(failure) if failure.spares_the_connection() => true,
            Some(_) => {
                self.strikes += 1;
                !connection.is_plain() && self.strikes < STRIKES
            }
        }
    }
}
