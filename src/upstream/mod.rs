//! The backend: kept-alive connections, timeouts, retries, and errors that say what happened.

pub mod jwks;
pub mod pool;

use std::time::Duration;

use http::{Request, Response, StatusCode};

use crate::body::Body;

/// Settings, as `config` gives them.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// `http://host:port` or `https://host[:port]`; no path.
    pub origin: http::Uri,
    /// `Host` sent upstream: the client's (default) or the upstream's own.
    pub preserve_host: bool,
    /// Budget of a TCP (and TLS) connect, default 5 s.
    pub connect_timeout: Duration,
    /// From the request sent to the response head, default 60 s.
    pub first_byte_timeout: Duration,
    /// Longest silence within a body, default 60 s; 0 = none (SSE routes live on pass-through with this too: see docs).
    pub idle_timeout: Duration,
    /// How long an unused connection is kept, default 4 s (below Node's and uvicorn's 5 s).
    pub keep_alive: Duration,
    /// Most connections at once; more requests wait up to `connect_timeout`, then 503.
    pub max_connections: usize,
    /// PEM file of an authority for `https://`, besides the system's.
    pub ca_file: Option<std::path::PathBuf>,
}

/// What went wrong on the way to an answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: refused, unreachable, name unknown, TLS failed.
    #[error("cannot connect to the upstream: {0}")]
    Connect(String),
    /// No connection within the budget.
    #[error("connecting to the upstream took longer than {0:?}")]
    ConnectTimeout(Duration),
    /// Too many connections for too long.
    #[error("the upstream's connection limit was reached")]
    Busy,
    /// No response head within the budget.
    #[error("the upstream sent no response within {0:?}")]
    FirstByteTimeout(Duration),
    /// The connection ended or broke before a response head.
    #[error("the upstream closed the connection without a response: {0}")]
    Closed(String),
    /// The response was not HTTP.
    #[error("the upstream's response could not be understood: {0}")]
    Protocol(String),
    /// The client's body broke off while it was being sent on.
    #[error("the client's request body broke off: {0}")]
    RequestBody(String),
}

impl UpstreamError {
    /// 502, 503, 504, or 400 for the client's own failure.
    pub fn status(&self) -> StatusCode {
        match self {
            UpstreamError::Connect(_) | UpstreamError::Closed(_) | UpstreamError::Protocol(_) => {
                StatusCode::BAD_GATEWAY
            }
            UpstreamError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            UpstreamError::ConnectTimeout(_) | UpstreamError::FirstByteTimeout(_) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            UpstreamError::RequestBody(_) => StatusCode::BAD_REQUEST,
        }
    }
    /// Token for logs, problem `type`s and `Cache-Status` detail.
    pub fn token(&self) -> &'static str {
        match self {
            UpstreamError::Connect(_) => "upstream-unreachable",
            UpstreamError::ConnectTimeout(_) => "upstream-connect-timeout",
            UpstreamError::Busy => "upstream-busy",
            UpstreamError::FirstByteTimeout(_) => "upstream-timeout",
            UpstreamError::Closed(_) => "upstream-closed",
            UpstreamError::Protocol(_) => "upstream-protocol",
            UpstreamError::RequestBody(_) => "request-body",
        }
    }
    /// True when not one byte of the request can have reached the backend: nothing was mutated.
    pub fn never_sent(&self) -> bool {
        matches!(self, UpstreamError::Connect(_) | UpstreamError::ConnectTimeout(_) | UpstreamError::Busy)
    }
}

/// The backend.
#[derive(Debug)]
pub struct Upstream {
    #[allow(dead_code)]
    config: UpstreamConfig,
}

impl Upstream {
    /// No connection is made yet. The error names a bad CA file.
    pub fn new(_config: UpstreamConfig) -> Result<Upstream, String> {
        unimplemented!()
    }
    /// Its settings.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }
    /// Sends one request, given in origin form with its fields already made fit for forwarding; waits for the
    /// head. A safe request without a body is retried once if a kept-alive connection turned out closed;
    /// others never, unless nothing was sent. The response body ends with an error if it is cut off or idles too
    /// long; dropping it ends the exchange. Upgrades: `hyper::upgrade::on` works on the response.
    /// `Expect: 100-continue` is carried end to end.
    pub async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, UpstreamError> {
        unimplemented!()
    }
    /// Connections open now, and idle among them.
    pub fn connections(&self) -> (usize, usize) {
        (0, 0)
    }
}
