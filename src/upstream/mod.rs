//! The backend: kept-alive connections, timeouts, retries, and errors that say what happened.
//!
//! ```text
//! send ─► fit (HTTP/1.1, origin form, Host, length) ─► checkout ─► attempt ─► response
//!                                                         ▲           │ not taken, or closed under us:
//!                                                         └── fresh ──┘ once, and only if that is harmless
//! attempt: a plain request ─► short (a plain response, wholly here) ─► response
//!                  │            └ anything else ─┐
//!                  └ any other request ──────────┴─► hyper ─► answer (framing judged, body streamed)
//! ```
//!
//! Invariants: an unsafe request is on the wire at most once; a response body ends cleanly only if the upstream
//! ended it so; a connection whose exchange did not end whole is closed. What it lacks: HTTP/2 to the upstream,
//! several upstreams, forwarding of `103 Early Hints`.

mod alarm;
mod connect;
mod driver;
mod fit;
pub mod jwks;
pub mod pool;
mod request_body;
mod response_body;
mod said;
mod short;
mod stream;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use self::connect::Connector;
use self::fit::Asked;
pub use self::fit::Fitted;
use self::pool::{Lease, Pool, Want};
use self::request_body::{Outgoing, Upload};
use self::response_body::ResponseBody;
pub use self::response_body::ResponseBodyError;
use crate::body::Body;
use crate::interim::Listener;
use crate::semantics::fields::is_override;

/// How long a client's `Expect: 100-continue` is held up for an upstream that says nothing (RFC 9110 §10.1.1 lets
/// nobody wait for ever; curl waits as long).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// Settings, as `config` gives them.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// `http://host:port` or `https://host[:port]`; no path.
    pub origin: http::Uri,
    /// `Host` sent upstream: the client's (default) or the upstream's own.
    pub preserve_host: bool,
    /// Budget of a TCP (and TLS) connect, default 5 s.
    pub connect_timeout: Duration,
    /// From the request sent (its last content included: an upload is no silence) to the response head, default
    /// 60 s; 0 = none.
    pub first_byte_timeout: Duration,
    /// Longest silence within a body, default 60 s; 0 = none (SSE routes live on pass-through with this too: see docs).
    pub idle_timeout: Duration,
    /// How long an unused connection is kept, default 4 s (below Node's and uvicorn's 5 s); 0 = not at all.
    pub keep_alive: Duration,
    /// Most connections at once, upgraded ones included; more requests wait up to `connect_timeout`, then 503.
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
    config: UpstreamConfig,
    pool: Arc<Pool>,
    /// `Host` of the upstream itself.
    authority: HeaderValue,
}

/// Marks a response whose content is ended by the connection's end alone (in its extensions): a part cannot be
/// told from the whole (RFC 9112 §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseDelimited;

/// How an attempt failed.
enum Failure {
    /// The connection closed before it took the request: here it is again, untouched.
    Unsent(Box<Request<Outgoing>>, String),
    /// Some of it may have been sent, and the connection ended without an answer. What was said, if it may be said again.
    Broken(Option<Box<Request<Outgoing>>>, UpstreamError),
    /// No use trying again.
    Final(UpstreamError),
}

impl Upstream {
    /// No connection is made yet. The error names a bad CA file.
    pub fn new(config: UpstreamConfig) -> Result<Upstream, String> {
        let authority = fit::authority(&config.origin)?;
        let pool = Pool::new(Connector::new(&config)?, &config);
        Ok(Upstream { config, pool, authority })
    }
    /// Its settings.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }
    /// Connections open now, and idle among them.
    pub fn connections(&self) -> (usize, usize) {
        self.pool.connections()
    }

    /// Sends one request, given in origin form with its fields already made fit for forwarding; waits for the
    /// head. A safe request without a body is retried once if a kept-alive connection turned out closed;
    /// others never, unless nothing was sent. The response body ends with an error if it is cut off or idles too
    /// long; dropping it ends the exchange. Upgrades: `hyper::upgrade::on` works on the response.
    /// `Expect: 100-continue` is carried end to end. What it says before its head goes to `interim`; the others
    /// are not carried.
    pub async fn send(
        &self,
        request: Request<Body>,
        interim: Option<Listener>,
    ) -> Result<Response<Body>, UpstreamError> {
        self.send_fitted(&mut self.fit(request, false), interim).await
    }

    /// Makes a request, given as for [`Upstream::send`], fit for a connection: what can be done before there is one.
    /// `plain`: none of its fields can be an override.
    pub fn fit(&self, request: Request<Body>, plain: bool) -> Fitted {
        let host = (!self.config.preserve_host).then_some(&self.authority);
        // Behind an override a backend may read another method than the one on the line.
        let overridden = !plain && request.headers().keys().any(is_override);
        let mut fitted = fit::fit(request, host, &self.authority);
        fitted.asked.safe &= !overridden;
        fitted.asked.plain &= !overridden;
        fitted
    }

    /// The same as [`Upstream::send`] for a request that is fit already. It stays where it is until it is sent.
    pub async fn send_fitted(
        &self,
        fitted: &mut Fitted,
        interim: Option<Listener>,
    ) -> Result<Response<Body>, UpstreamError> {
        let Fitted { request, upload, asked } = fitted;
        let Asked { safe, .. } = *asked;
        let repeatable = upload.is_none() && safe;
        let mut want = if repeatable { Want::Any } else { Want::Recent };
        loop {
            let lease = self.pool.checkout(want).await?;
            let reused = lease.reused();
            let again = reused && repeatable;
            // The second time round the connection is fresh, so this ends.
            want = Want::Fresh;
            match self.attempt(lease, request, upload.as_ref(), *asked, again, interim.as_ref()).await {
                Ok(response) => return Ok(response),
                Err(Failure::Unsent(unsent, _)) if reused => *request = *unsent,
                // Not one byte went out, so this is a connection that never was.
                Err(Failure::Unsent(_, why)) => return Err(UpstreamError::Connect(why)),
                Err(Failure::Broken(said, error)) => *request = *said.ok_or(error)?,
                Err(Failure::Final(error)) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        mut lease: Lease,
        request: &mut Request<Outgoing>,
        upload: Option<&Arc<Upload>>,
        asked: Asked,
        again: bool,
        interim: Option<&Listener>,
    ) -> Result<Response<Body>, Failure> {
        let since = Instant::now();
        let short = if asked.plain { lease.short() } else { None };
        if again || short.is_some() {
            lease.said().take_down(request);
        }
        if let Some(mut short) = short {
            let mut came = None;
            let wait = |lease: &mut Lease, cx: &mut Context<'_>| {
                lease.poll_short(cx, &mut short).map(|response| came = response)
            };
            self.head(&mut lease, since, wait, None).await?;
            if let Some(response) = came {
                lease.answered(request);
                lease.give_back();
                return Ok(response);
            }
        }
        fit::hear(request, upload, interim.cloned());
        let taken = std::mem::replace(request, Request::new(Outgoing::empty()));
        let mut sending = pin!(lease.sender().try_send_request(taken));
        let mut came = None;
        let wait = |lease: &mut Lease, cx: &mut Context<'_>| {
            lease.poll(cx, |cx| sending.as_mut().poll(cx).map(|head| came = Some(head)))
        };
        self.head(&mut lease, since, wait, upload.map(Arc::as_ref)).await?;
        let response = match came {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let said = if again { lease.said().again() } else { None };
                return Err(failed(error, said));
            }
            // Not waited for any longer before it has come.
            None => return Err(Failure::Broken(None, UpstreamError::Closed("no head".to_owned()))),
        };
        lease.said().forget();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if !asked.upgrade {
                let why = "101 Switching Protocols, which nobody asked for".to_owned();
                return Err(Failure::Final(UpstreamError::Protocol(why)));
            }
            let mut response = response.map(|_| Body::Empty);
            response.extensions_mut().insert(lease.into_upgraded());
            return Ok(response);
        }
        if upload.is_some_and(|upload| !upload.done() || upload.may_wait()) {
            // An answer that came before the request was whole, or had left: the rest goes up whether or not the client
            // reads, and after the exchange too.
            lease.detach();
        }
        self.answer(asked.head, response, lease, upload.cloned()).await.map_err(Failure::Final)
    }

    /// Waits for the head by `wait`, `since` then. The budget starts anew whenever the request body moves: an upload is no
    /// silence.
    async fn head(
        &self,
        lease: &mut Lease,
        since: Instant,
        mut wait: impl FnMut(&mut Lease, &mut Context<'_>) -> Poll<()>,
        upload: Option<&Upload>,
    ) -> Result<(), Failure> {
        let budget = self.config.first_byte_timeout;
        if budget.is_zero() && upload.is_none() {
            poll_fn(|cx| wait(lease, cx)).await;
            return Ok(());
        }
        // "None" is a century: long enough, and within what a timer can hold.
        let budget = if budget.is_zero() { Duration::from_secs(100 * 365 * 86_400) } else { budget };
        let mut until = since + budget;
        if upload.is_some_and(Upload::held) {
            until = since + budget.min(CONTINUE_PATIENCE);
        }
        loop {
            let came = poll_fn(|cx| match wait(lease, cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => lease.poll_alarm(cx, until).map(|()| false),
            });
            if came.await {
                return Ok(());
            }
            let Some(upload) = upload else { break };
            upload.open();
            until = upload.last_moved().max(since) + budget;
            if until <= Instant::now() {
                break;
            }
        }
        Err(Failure::Final(match upload {
            Some(upload) if !upload.done() && upload.awaiting_client() => {
                UpstreamError::RequestBody(format!("nothing came for {budget:?}"))
            }
            _ => UpstreamError::FirstByteTimeout(budget),
        }))
    }

    /// Judges the response's framing and ties its body to the connection, unless all of it is here. `asked_head`: the
    /// request was for the head alone.
    async fn answer(
        &self,
        asked_head: bool,
        mut response: Response<Incoming>,
        lease: Lease,
        upload: Option<Arc<Upload>>,
    ) -> Result<Response<Body>, UpstreamError> {
        let framing = Framing::of(response.headers());
        let chunked = framing.coded && fit::only_chunked(response.headers());
        if !chunked && framing.coded {
            // Nobody asked for another coding (no `TE`), and without its name the content is garbage.
            let why = "a transfer coding other than chunked".to_owned();
            return Err(UpstreamError::Protocol(why));
        }
        if chunked && framing.length {
            // RFC 9112 §6.3: an attempt to have two readers end it at different places, or as good as one.
            let why = "both Transfer-Encoding and Content-Length".to_owned();
            return Err(UpstreamError::Protocol(why));
        }
        let until_close = !response.body().is_end_stream() && !chunked && !framing.length;
        if until_close {
            response.extensions_mut().insert(CloseDelimited);
        }
        let closes = framing.connection && fit::lists(response.headers(), &CONNECTION, "close");
        let reusable = !until_close && response.version() == Version::HTTP_11 && !closes;
        let (parts, incoming) = response.into_parts();
        let body = if incoming.is_end_stream() {
            if reusable && upload.is_none_or(|u| u.done()) {
                lease.give_back();
            }
            match fit::content_length(&parts.headers) {
                Some(length) if asked_head => Body::Head(length),
                _ => Body::Empty,
            }
        } else {
            ResponseBody::new(incoming, lease, upload, reusable, self.config.idle_timeout).read_ahead().await
        };
        Ok(Response::from_parts(parts, body))
    }
}

/// Which of the fields that say where a response ends are there: told by one look at each name.
#[derive(Default)]
struct Framing {
    /// `Transfer-Encoding`.
    coded: bool,
    /// `Content-Length` (hyper has judged it by now).
    length: bool,
    /// `Connection`.
    connection: bool,
}

impl Framing {
    fn of(headers: &HeaderMap) -> Framing {
        headers.keys().fold(Framing::default(), |seen, name| Framing {
            coded: seen.coded || *name == TRANSFER_ENCODING,
            length: seen.length || *name == CONTENT_LENGTH,
            connection: seen.connection || *name == CONNECTION,
        })
    }
}

/// How an attempt failed. `said`: what was said on its connection, if it may be said again.
fn failed(mut error: TrySendError<Request<Outgoing>>, said: Option<Request<Outgoing>>) -> Failure {
    if let Some(request) = error.take_message() {
        return Failure::Unsent(Box::new(request), describe(&error.into_error()));
    }
    match classify(&error.into_error()) {
        Failure::Broken(_, why) => Failure::Broken(said.map(Box::new), why),
        failure => failure,
    }
}

/// What hyper's failure means here.
fn classify(error: &hyper::Error) -> Failure {
    let why = describe(error);
    if error.is_user() {
        Failure::Final(UpstreamError::RequestBody(why))
    } else if error.is_parse() {
        Failure::Final(UpstreamError::Protocol(why))
    } else {
        Failure::Broken(None, UpstreamError::Closed(why))
    }
}

/// An error with its causes: hyper's own text stops at the first.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_status_and_name() {
        let text = || "why".to_owned();
        let time = Duration::from_secs(1);
        let cases = [
            (UpstreamError::Connect(text()), 502, "upstream-unreachable", true),
            (UpstreamError::ConnectTimeout(time), 504, "upstream-connect-timeout", true),
            (UpstreamError::Busy, 503, "upstream-busy", true),
            (UpstreamError::FirstByteTimeout(time), 504, "upstream-timeout", false),
            (UpstreamError::Closed(text()), 502, "upstream-closed", false),
            (UpstreamError::Protocol(text()), 502, "upstream-protocol", false),
            (UpstreamError::RequestBody(text()), 400, "request-body", false),
        ];
        for (error, status, token, never_sent) in cases {
            assert_eq!(error.status().as_u16(), status, "{error}");
            assert_eq!(error.token(), token, "{error}");
            assert_eq!(error.never_sent(), never_sent, "{error}");
        }
    }
}
