//! A whole Weir in this process: parts put together, started, drained. `run` and `demo` share it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState, Started, Token};
use crate::config::{self, Config, TlsConfig};
use crate::exchange::{Exchange, Parts};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::server::tls::{Acceptor, Certificates};
use crate::server::{self, Drained};
use crate::store::{Store, outside};
use crate::telemetry::AccessLog;
use crate::time::Clock;
use crate::upstream::{Upstream, jwks};

/// How long the store may take to write what it still holds, once no request is left.
const STORE_CLOSE: Duration = Duration::from_secs(5);
/// The least that mutations under way get after the last connection is gone.
const CLOSE_AT_LEAST: Duration = Duration::from_secs(1);

/// Why a Weir could not be started.
#[derive(Debug)]
pub(super) enum StartError {
    /// A part refused its settings.
    Settings(String),
    /// An address could not be listened on.
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (setting, address, source) = match self {
            StartError::Settings(why) => return f.write_str(why),
            StartError::Listen { setting, address, source } => (setting, address, source),
        };
        write!(f, "cannot listen on {address} ({setting}): {source}")?;
        match source.kind() {
            io::ErrorKind::AddrInUse => f.write_str("; another process has this port"),
            io::ErrorKind::AddrNotAvailable => f.write_str("; this machine does not have this address"),
            io::ErrorKind::PermissionDenied => f.write_str("; ports below 1024 need a privilege"),
            _ => Ok(()),
        }
    }
}

/// Connections that may wait to be accepted: as many as the system allows (Linux: `net.core.somaxconn`). Those beyond are
/// dropped without a word, and their clients try again after a second, then three, seven, fifteen.
const BACKLOG: u32 = 65_535;

/// Opens a listener; the error names the setting. Needs a running tokio runtime.
pub(super) fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Connections of a process before this one may still be ending.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| StartError::Listen { setting, address, source })
}

/// The sockets of one Weir.
pub(super) struct Listeners {
    /// Traffic.
    pub(super) traffic: TcpListener,
    /// Admin, where it is switched on.
    pub(super) admin: Option<TcpListener>,
}

impl Listeners {
    /// As the configuration says.
    pub(super) fn bind(config: &Config) -> Result<Listeners, StartError> {
        let traffic = bind("`listen`, or WEIR_LISTEN", config.listen)?;
        let admin = match &config.admin {
            Some(admin) => Some(bind("[admin] `listen`, or WEIR_ADMIN_LISTEN", admin.listen)?),
            None => None,
        };
        Ok(Listeners { traffic, admin })
    }
}

/// A Weir that serves.
pub(super) struct Running {
    ready: Arc<AtomicBool>,
    drain: CancellationToken,
    server: JoinHandle<Drained>,
    admin: Option<(CancellationToken, JoinHandle<()>)>,
    certificates: Option<Arc<Certificates>>,
    refresh: CancellationToken,
    exchange: Arc<Exchange>,
    store: Arc<Store>,
    clock: Clock,
    drain_timeout: Duration,
    drain_delay: Duration,
}

/// Puts the parts together and starts them.
pub(super) async fn start(
    config: Config,
    listeners: Listeners,
    access: AccessLog,
    clock: Clock,
) -> Result<Running, StartError> {
    let started = Started::now(&clock);
    let refresh = CancellationToken::new();
    let (certificates, acceptor) = tls(config.tls, &clock, &refresh)?.unzip();
    let keys = config::initial_key_sets(&config.key_sets).map_err(StartError::Settings)?;
    let keys = Arc::new(ArcSwap::from_pointee(keys));
    let upstream = Arc::new(Upstream::new(config.upstream).map_err(StartError::Settings)?);
    let policy = Arc::new(config.policy);
    let metrics = Metrics::new(&route_names(&policy));
    let store = Store::open(config.store, policy.tags.fingerprint, clock.clone(), metrics.clone()).await;
    take_up_outside(&store, &policy);
    let ready = Arc::new(AtomicBool::new(true));
    let refresher = jwks::spawn(config.key_sets, keys.clone(), refresh.clone());
    let exchange = Exchange::new(Parts {
        policy: policy.clone(),
        store: store.clone(),
        upstream: upstream.clone(),
        keys: keys.clone(),
        refresher: refresher.clone(),
        config: config.exchange,
        clock: clock.clone(),
        metrics: metrics.clone(),
        access: access.clone(),
        ready: ready.clone(),
    });
    let admin = listeners.admin.zip(config.admin).map(|(listener, admin)| {
        let token = admin.token.as_deref().map(Token::new);
        let state = AdminState {
            store: store.clone(),
            metrics,
            policy,
            keys,
            refresher,
            certificates: certificates.clone(),
            upstream,
            access,
            token,
            clock: clock.clone(),
            ready: ready.clone(),
            started,
        };
        let shutdown = CancellationToken::new();
        (shutdown.clone(), tokio::spawn(admin::serve(listener, state, shutdown)))
    });
    let drain = CancellationToken::new();
    let serving = server::serve(
        listeners.traffic,
        acceptor,
        config.limits,
        exchange.clone(),
        drain.clone(),
        config.drain_timeout,
    );
    Ok(Running {
        ready,
        drain,
        server: tokio::spawn(serving),
        admin,
        certificates,
        refresh,
        exchange,
        store,
        clock,
        drain_timeout: config.drain_timeout,
        drain_delay: config.drain_delay,
    })
}

/// The certificate in force, and what shows it to clients.
fn tls(
    config: Option<TlsConfig>,
    clock: &Clock,
    shutdown: &CancellationToken,
) -> Result<Option<(Arc<Certificates>, Acceptor)>, StartError> {
    let Some(TlsConfig { files, .. }) = config else { return Ok(None) };
    let certificates = Certificates::open(files, clock.clone(), shutdown.clone())
        .map_err(|error| StartError::Settings(error.to_string()))?;
    let acceptor = Acceptor::new(certificates.clone()).map_err(StartError::Settings)?;
    Ok(Some((certificates, acceptor)))
}

/// From now on purges that somebody writes into the log's inbox are read by the rules in force.
fn take_up_outside(store: &Arc<Store>, policy: &Arc<Policy>) {
    let (coherence, policy) = (store.coherence().clone(), policy.clone());
    store.translate_outside_with(Box::new(move |outside| {
        outside::translate(outside, &policy.tags, &route_names(&policy), &coherence.view())
    }));
}

fn route_names(policy: &Policy) -> Vec<&str> {
    policy.routes.iter().map(|route| &*route.name).collect()
}

impl Running {
    /// Readiness falls, listeners close, requests and mutations under way end within `drain_timeout`, what the
    /// store still holds is written. The admin listener answers until the end.
    pub(super) async fn stop(self) -> Drained {
        self.ready.store(false, Ordering::Release);
        tokio::time::sleep(self.drain_delay).await;
        let began = self.clock.elapsed();
        self.drain.cancel();
        let drained = self.server.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the traffic listener had failed");
            Drained::Cut(0)
        });
        let left =
            self.drain_timeout.saturating_sub(self.clock.elapsed().saturating_sub(began)).max(CLOSE_AT_LEAST);
        let closed = self.exchange.close(left).await;
        self.refresh.cancel();
        self.store.close(STORE_CLOSE).await;
        if let Some((shutdown, admin)) = self.admin {
            shutdown.cancel();
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin listener had failed");
            }
        }
        match drained {
            Drained::Clean if !closed => {
                tracing::warn!("mutations or background fetches did not end in time");
                Drained::Cut(0)
            }
            other => other,
        }
    }

    /// Looks whether certificate and key have been renewed.
    pub(super) fn look_at_certificates(&self) {
        if let Some(certificates) = &self.certificates {
            certificates.look();
        }
    }

    /// Waits for the traffic listener to end by itself, which it never should.
    pub(super) async fn failed(&mut self) {
        let _ = (&mut self.server).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_the_setting() {
        let first = bind("`listen`", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind("`listen`, or WEIR_LISTEN", address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("WEIR_LISTEN"), "{error}");
        assert!(error.ends_with("another process has this port"), "{error}");
    }

    /// With the backlog that is usual, 1,024, the connections beyond it would wait for a second and more.
    #[tokio::test]
    async fn those_who_come_at_once_wait_in_line() {
        let longest = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let longest = longest.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(128);
        let listener = bind("`listen`", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let comes = async {
            for _ in 0..longest.min(1500) {
                // Who has left by then is accepted, too.
                drop(TcpStream::connect(address).await.unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), comes).await.expect("nobody is sent away");
    }

    #[tokio::test]
    async fn an_address_that_is_not_ours_is_explained() {
        let error = bind("`listen`", "192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.ends_with("this machine does not have this address"), "{error}");
    }
}
