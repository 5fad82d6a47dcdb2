//! Where Redis is and how to get there: one server, Sentinel, Cluster; with or without TLS.
//!
//! There are two destinations. The *log* lives on one server: a plain connection to the primary that owns it.
//! *Entries* live there too, or, in a cluster, on every primary. Wherever Redis may move, each connection begins
//! with the question where it is now, and whoever is named is believed only when it says itself that it is a
//! primary. A move is noticed by the next connection made, or by an error reply ([`super::failure::Blame::Place`]);
//! connections made before it are then out of date ([`Connector::is_current`]).
//!
//! A whole attempt has the connect timeout; asking one sentinel or node where to go has a third of it.

pub mod cluster;
pub mod node;
pub mod sentinel;
pub mod tls;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
};
use tokio::time::timeout;

use self::cluster::Cluster;
use self::node::{Candidates, Node};
use self::sentinel::Sentinels;
use self::tls::TlsFiles;
use super::connection::{Connection, answer};
use super::failure::Failure;
use super::{RedisConfig, Servers, wire};

/// Opens connections.
#[derive(Debug)]
pub struct Connector {
    /// A configuration that cannot work is found out here once, and told as every attempt's failure.
    way: Result<Way, RedisError>,
    mode: &'static str,
    files: TlsFiles,
    limit: Duration,
    place: Mutex<Option<Node>>,
    /// How often the log's primary turned out to be another one.
    moves: AtomicU64,
    last_error: Mutex<Option<String>>,
    /// Why no connection can be had; `None` since one was.
    refusal: Mutex<Option<String>>,
}

/// The ways to Redis.
#[derive(Debug)]
enum Way {
    One(Template, Node),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

/// A connection, and how often Redis had moved when it was made.
#[derive(Debug)]
pub struct Connected<C> {
    /// The connection.
    pub connection: C,
    /// For [`Connector::is_current`].
    pub moves: u64,
}

impl Connector {
    /// Reads the settings; nothing is connected yet. `log` is the key of the purge log.
    pub fn new(config: &RedisConfig, log: &str) -> Connector {
        let own = config.cert_file.clone().zip(config.key_file.clone());
        Connector {
            way: way(config, log),
            mode: match &config.servers {
                Servers::One => "standalone",
                Servers::Sentinel { .. } => "sentinel",
                Servers::Cluster { .. } => "cluster",
            },
            files: TlsFiles { ca: config.ca_file.clone(), own },
            limit: config.connect_timeout,
            place: Mutex::default(),
            moves: AtomicU64::new(0),
            last_error: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// A connection to the log's primary that has authenticated and selected its database.
    pub async fn log(&self) -> Result<Connected<MultiplexedConnection>, Failure> {
        self.attempt(async |way, door| {
            let (connection, place) = match way {
                Way::One(template, node) => (door.open(template.at(node)?).await?, node.clone()),
                Way::Sentinel(sentinels) => sentinels.connect(door).await?,
                Way::Cluster(cluster) => cluster.connect_log(door).await?,
            };
            Ok(Connected { connection, moves: self.landed(place) })
        })
        .await
    }

    /// A connection to where entries are. In a cluster no answer of a single node takes longer than `response`;
    /// elsewhere the caller's own deadlines do.
    pub async fn entries(&self, response: Duration) -> Result<Connected<Connection>, Failure> {
        if !self.is_cluster() {
            let Connected { connection, moves } = self.log().await?;
            return Ok(Connected { connection: Connection::Plain(connection), moves });
        }
        self.attempt(async |way, door| {
            let Way::Cluster(cluster) = way else { return Err(Failure::Late) };
            let connection = Connection::Cluster(cluster.connect_entries(door, response).await?);
            Ok(Connected { connection, moves: 0 })
        })
        .await
    }

    /// Every primary that holds entries, by address; `None` = there is but one, wherever connections lead.
    pub async fn primaries(&self) -> Result<Option<Vec<Node>>, Failure> {
        if !self.is_cluster() {
            return Ok(None);
        }
        self.attempt(async |way, door| match way {
            Way::Cluster(cluster) => cluster.primaries(door).await.map(Some),
            Way::One(..) | Way::Sentinel(_) => Ok(None),
        })
        .await
    }

    async fn attempt<T>(
        &self,
        work: impl AsyncFnOnce(&Way, &Door<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let attempt = async {
            let way = self.way.as_ref().map_err(Clone::clone)?;
            let certificates = if way.tls() {
                self.files.read().await?
            } else {
                TlsCertificates { client_tls: None, root_cert: None }
            };
            work(way, &Door { limit: self.limit, certificates: &certificates }).await
        };
        let done = timeout(self.limit, attempt).await.unwrap_or(Err(Failure::Late));
        *self.refusal.lock() = done.as_ref().err().map(|failure| format!("connect: {failure}"));
        done
    }

    /// Notes where the log's primary is; returns how often it has moved.
    fn landed(&self, node: Node) -> u64 {
        let mut place = self.place.lock();
        if place.as_ref() != Some(&node)
            && let Some(before) = place.replace(node.clone())
        {
            tracing::info!(%before, now = %node, "the primary of the purge log is another one");
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        self.moves.load(Ordering::Acquire)
    }

    /// Whether Redis has not moved since a connection was made.
    pub fn is_current(&self, moves: u64) -> bool {
        self.is_cluster() || self.moves.load(Ordering::Acquire) == moves
    }

    /// A connection led to the wrong server: whoever named it is asked last the next time.
    pub fn misled(&self) {
        match &self.way {
            Ok(Way::Sentinel(sentinels)) => sentinels.candidates.mistrust_first(),
            Ok(Way::Cluster(cluster)) => cluster.candidates.mistrust_first(),
            Ok(Way::One(..)) | Err(_) => {}
        }
    }

    /// Whether entries are spread over several primaries.
    pub fn is_cluster(&self) -> bool {
        matches!(self.way, Ok(Way::Cluster(_)))
    }

    /// `standalone`, `sentinel` or `cluster`.
    pub fn mode(&self) -> &'static str {
        self.mode
    }

    /// Where the log's primary was when it was last connected to.
    pub fn place(&self) -> Option<Node> {
        self.place.lock().clone()
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

impl Way {
    fn tls(&self) -> bool {
        match self {
            Way::One(template, _) => template.tls,
            Way::Sentinel(sentinels) => sentinels.servers.tls,
            Way::Cluster(cluster) => cluster.nodes.tls,
        }
    }
}

fn way(config: &RedisConfig, log: &str) -> RedisResult<Way> {
    let refuse = |why: &'static str| RedisError::from((ErrorKind::InvalidClientConfig, why));
    let info = config.url.as_str().into_connection_info()?;
    let (host, port, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (host, port, false),
        ConnectionAddr::TcpTls { host, port, .. } => (host, port, true),
        _ => return Err(refuse("Redis is reached over TCP alone")),
    };
    let node = Node { host: host.clone(), port: *port };
    let template = Template { settings: info.redis_settings().clone().set_skip_set_lib_name(), tls };
    let cluster = matches!(config.servers, Servers::Cluster { .. });
    match template.settings.db() {
        0 if !cluster => return Err(refuse("database 0 is never touched: name another")),
        0 => {}
        _ if cluster => return Err(refuse("a cluster has no database but 0")),
        _ => {}
    }
    Ok(match &config.servers {
        Servers::One => Way::One(template, node),
        Servers::Cluster { nodes } => Way::Cluster(Cluster {
            candidates: Candidates::new(nodes.clone()),
            nodes: template,
            log: log.to_owned(),
        }),
        Servers::Sentinel { nodes, service, username, password } => {
            let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
            if let Some(username) = username {
                settings = settings.set_username(username);
            }
            if let Some(password) = password {
                settings = settings.set_password(password);
            }
            Way::Sentinel(Sentinels {
                candidates: Candidates::new(nodes.clone()),
                service: service.clone(),
                door: Template { settings, tls },
                servers: template,
            })
        }
    })
}

/// How to log in to a kind of server, wherever it is.
#[derive(Debug)]
pub struct Template {
    settings: RedisConnectionInfo,
    tls: bool,
}

impl Template {
    /// The same, at an address.
    fn at(&self, node: &Node) -> RedisResult<ConnectionInfo> {
        let (host, port) = (node.host.clone(), node.port);
        let addr = if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = addr.into_connection_info()?;
        Ok(info.set_tcp_settings(tcp()).set_redis_settings(self.settings.clone()))
    }
}

fn tcp() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    TcpSettings::default().set_nodelay(true).set_keepalive(probes).set_user_timeout(Duration::from_secs(10))
}

/// What one attempt to connect goes through.
#[derive(Debug)]
pub struct Door<'a> {
    limit: Duration,
    certificates: &'a TlsCertificates,
}

impl Door<'_> {
    /// Most that a server may take which is only asked where to go.
    fn brief(&self) -> Duration {
        self.limit / 3
    }

    /// A connection that has authenticated. The attempt as a whole has the deadline.
    async fn open(&self, info: ConnectionInfo) -> Result<MultiplexedConnection, Failure> {
        let client = match info.addr() {
            ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, self.certificates.clone())?,
            _ => Client::open(info)?,
        };
        // Callers have deadlines of their own, so the connection has none.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.limit))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    async fn open_briefly(&self, info: ConnectionInfo) -> Result<MultiplexedConnection, Failure> {
        timeout(self.brief(), self.open(info)).await.unwrap_or(Err(Failure::Late))
    }

    async fn briefly(&self, question: impl Future<Output = RedisResult<Value>>) -> Result<Value, Failure> {
        Ok(timeout(self.brief(), question).await.map_err(|_| Failure::Late)??)
    }
}

/// Whether a server says that it is a primary.
async fn is_primary(connection: &mut MultiplexedConnection) -> Result<bool, Failure> {
    let reply = answer(connection, &redis::cmd("ROLE")).await?;
    let Value::Array(parts) = reply else { return Ok(false) };
    Ok(parts.first().and_then(wire::bytes) == Some(b"master"))
}
