//! Listeners: HTTP/1.1 and HTTP/2 (by ALPN or prior knowledge) on one port, with TLS or without, limits, drain.
//!
//! ```text
//! accept (within the limit) ─► TLS, or the first bytes, tell the protocol ─► short (HTTP/1) or hyper ─► refuse the ambiguous
//!    │                             └──────────── watchdog: head in time, idle not too long ─────────────────┴─► handler
//!    └─ drain: stop accepting ─► every connection finishes what it has ─► deadline ─► cut and count
//! ```
//!
//! Invariants: no client can hold a connection without sending requests, or without taking what it is sent, for
//! longer than the limits; a handler's panic is one failed request; an answer whose body failed is never ended as if
//! it were whole. What it lacks: HTTP/3, the `Upgrade: h2c` dance (prior knowledge only), PROXY protocol, a
//! limit on how slowly a client may send a body (the upstream's timeouts end that) or, beyond taking something now and
//! then, read an answer; on HTTP/2 a single stream's closed window has no limit of its own.

mod activity;
mod check;
mod connection;
mod exchanges;
mod framing;
mod multiplex;
mod short;
mod slack;
mod socket;
pub mod tls;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use check::{Refusal, ambiguous, settle};
pub use short::{HeadLines, Written};
use tls::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::interim::Interim;
use http::{Request, Response, request};

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// From accept (or a later request's first byte) to a complete head, default 30 s. Silent clients are closed.
    pub header_timeout: Duration,
    /// From the end of a response to the next request's first byte, and longest that a client may take nothing of
    /// what it is sent, default 75 s.
    pub idle_timeout: Duration,
    /// Largest request head, bytes, default 64 KiB; beyond it 431.
    pub max_header_bytes: usize,
    /// Most connections; beyond it accepting pauses.
    pub max_connections: usize,
    /// HTTP/2 streams per connection.
    pub max_streams: u32,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Remote address.
    pub addr: SocketAddr,
    /// Whether it speaks TLS to this listener.
    pub tls: bool,
}

impl Peer {
    /// The scheme of what it addresses, as far as this listener knows.
    pub fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Answers requests. Infallible: every failure is a response (or a body error, which cuts the connection).
pub trait Handler: Send + Sync + 'static {
    /// One exchange. What the backend says before its response goes to `interim`.
    fn handle(&self, request: Request<Body>, peer: Peer, interim: &Interim) -> Answering;

    /// One exchange by HTTP/1, of a request without content. Its answer may be written already.
    fn handle_plain(&self, request: request::Parts, peer: Peer, interim: &Interim) -> Answering<Whole> {
        self.handle(Request::from_parts(request, Body::Empty), peer, interim).map(Whole::Response)
    }

    /// The same, of one that came before, byte for byte. `None`: it is to be handled like any other, and nobody was asked
    /// anything.
    fn handle_again(
        &self,
        _request: &Arc<request::Parts>,
        _peer: Peer,
        _interim: &Interim,
    ) -> Option<Answering<Whole>> {
        None
    }
}

/// An answer to GET that may be written already.
pub enum Whole {
    /// It is.
    Written(Written),
    /// Like any other.
    Response(Response<Body>),
}

/// A response to come.
pub type Later = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// A handler's answer. What needs nobody else is there at once, and costs no future.
pub enum Answering<A = Response<Body>> {
    /// Here it is.
    Now(A),
    /// It takes a while.
    Later(Later),
}

impl<A> Answering<A> {
    /// The same in another form.
    pub fn map<B>(self, f: impl FnOnce(A) -> B) -> Answering<B> {
        match self {
            Answering::Now(answer) => Answering::Now(f(answer)),
            Answering::Later(answer) => Answering::Later(answer),
        }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All requests ended in time.
    Clean,
    /// The deadline passed with this many connections open; they were cut.
    Cut(usize),
}

/// Keeps a connection under the listener's limit after it was upgraded. Found in the extensions of requests that
/// carry `Upgrade`; whoever takes the connection over holds it for as long.
#[derive(Debug, Clone)]
pub struct Hold(#[allow(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

/// What the connections are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Finish what is under way.
    Draining,
    /// End at once.
    Cut,
}

/// How long accepting pauses when the process has run out of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long cut connections have to be gone.
const CUT_PATIENCE: Duration = Duration::from_secs(1);

/// Serves the listener until `drain` is cancelled and the requests in flight have ended, at most `drain_timeout`
/// after that. Upgraded connections are not waited for: whoever copies their bytes ends them. With `tls` nothing else
/// is spoken.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<Acceptor>,
    limits: ServerLimits,
    handler: H,
    drain: CancellationToken,
    drain_timeout: Duration,
) -> Drained {
    let handler = Arc::new(handler);
    let slots = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let limits = Arc::new(limits);
    let (orders, phase) = watch::channel(Phase::Serving);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, addr, hold)) = accepted else { break };
        let peer = Peer { addr, tls: tls.is_some() };
        let (tls, handler, limits) = (tls.clone(), handler.clone(), limits.clone());
        tasks.spawn(connection::serve(stream, peer, tls, handler, limits, hold, phase.clone()));
    }
    drop(listener);
    tasks.close();
    orders.send_replace(Phase::Draining);
    if timeout(drain_timeout, tasks.wait()).await.is_ok() {
        return Drained::Clean;
    }
    let cut = tasks.len();
    orders.send_replace(Phase::Cut);
    if timeout(CUT_PATIENCE, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections did not end although they were cut");
    }
    if cut == 0 { Drained::Clean } else { Drained::Cut(cut) }
}

/// The next connection, once there is room for it. `None` never comes to pass: the semaphore stays open.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, SocketAddr, Hold)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => return Some((stream, addr, Hold(Arc::new(slot)))),
            // That client left before it was accepted; the next may not have.
            Err(error) if of_one_client(&error) => {
                tracing::debug!(%error, "a client left before it was accepted");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn of_one_client(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    pub(super) mod fixture;

    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn running_out_is_told_from_a_client_that_left() {
        assert!(of_one_client(&Error::from(ErrorKind::ConnectionAborted)));
        // EMFILE, ENFILE: trying again at once would only burn time.
        for code in [24, 23] {
            assert!(!of_one_client(&Error::from_raw_os_error(code)));
        }
    }
}
