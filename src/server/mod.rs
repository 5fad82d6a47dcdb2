//! Listeners: HTTP/1.1 and HTTP/2 (prior knowledge) on one port, limits, drain.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::body::Body;

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// From accept (or the last response) to a complete request head, default 30 s. Silent clients are closed.
    pub header_timeout: Duration,
    /// Idle keep-alive, default 75 s.
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
}

/// Answers requests. Infallible: every failure is a response (or a body error, which cuts the connection).
pub trait Handler: Send + Sync + 'static {
    /// One exchange.
    fn handle(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All requests ended in time.
    Clean,
    /// The deadline passed with this many connections open; they were cut.
    Cut(usize),
}
