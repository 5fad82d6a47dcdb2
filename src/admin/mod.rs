//! The admin listener: is Weir well, what did it do, purge this, switch off.
//!
//! ```text
//! GET  /livez    200 while the process runs
//! GET  /readyz   200, or 503 once draining has begun
//! GET  /healthz  detail; Redis away is "degraded" and still 200
//! GET  /metrics  Prometheus text
//! GET  /stats    hits, misses, sets, …
//! POST /purge    {"tags": […], "paths": […], "routes": […], "subject": …, "soft": …}   token
//! POST /flush    everything                                                      token
//! POST /enable   POST /disable: the cache's switch, for this process             token
//! ```
//!
//! Whatever changes something needs `Authorization: Bearer <token>`; without a token in the configuration those
//! calls are refused. A browser cannot be made to send that field across sites, so no other protection against
//! forged requests is needed; reads are open to whoever reaches the listener (loopback by default) and hold no
//! stored content, key or credential. Every answer is `no-store`, every refusal is problem+json.

mod access;
mod listener;
mod log;
mod purge;
mod reply;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::policy::subject::KeySets;
use crate::semantics::timestamp::Timestamp;
use crate::server::tls::Certificates;
use crate::store::Store;
use crate::telemetry::AccessLog;
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::upstream::jwks::Refresher;
pub use access::Token;
pub use listener::serve;
use reply::{Problem, json};

/// What the admin listener reports on and acts upon.
#[derive(Debug)]
pub struct AdminState {
    /// Tiers and log.
    pub store: Arc<Store>,
    /// Counters.
    pub metrics: Metrics,
    /// Routes and rules.
    pub policy: Arc<Policy>,
    /// Verification keys in force, for purges by subject.
    pub keys: Arc<arc_swap::ArcSwap<KeySets>>,
    /// For key sets whose last refresh failed.
    pub refresher: Refresher,
    /// The traffic listener's certificate; `None` = no TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Backend.
    pub upstream: Arc<Upstream>,
    /// For its count of dropped lines.
    pub access: AccessLog,
    /// What callers that change something must know; `None` = those calls are refused.
    pub token: Option<Token>,
    /// Time.
    pub clock: Clock,
    /// False once draining has begun.
    pub ready: Arc<AtomicBool>,
    /// When the process began.
    pub started: Started,
}

/// When the process began, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Wall clock, for showing.
    pub at: Timestamp,
    /// Time since boot, for uptimes.
    pub elapsed: Duration,
}

impl Started {
    /// Now.
    pub fn now(clock: &Clock) -> Started {
        Started { at: clock.now(), elapsed: clock.elapsed() }
    }
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Live,
    Ready,
    Health,
    Metrics,
    Stats,
    Purge,
    Flush,
    Enable,
    Disable,
}

impl Endpoint {
    const ALL: [(&'static str, Endpoint); 9] = [
        ("/livez", Endpoint::Live),
        ("/readyz", Endpoint::Ready),
        ("/healthz", Endpoint::Health),
        ("/metrics", Endpoint::Metrics),
        ("/stats", Endpoint::Stats),
        ("/purge", Endpoint::Purge),
        ("/flush", Endpoint::Flush),
        ("/enable", Endpoint::Enable),
        ("/disable", Endpoint::Disable),
    ];

    /// Changes something: a POST with the token.
    fn changes(self) -> bool {
        matches!(self, Endpoint::Purge | Endpoint::Flush | Endpoint::Enable | Endpoint::Disable)
    }

    fn allow(self) -> &'static str {
        if self.changes() { "POST" } else { "GET, HEAD" }
    }

    /// The endpoint of a request line, or the refusal that says what there is.
    fn find(method: &Method, path: &str) -> Result<Endpoint, Problem> {
        let Some((_, endpoint)) = Endpoint::ALL.iter().find(|(known, _)| *known == path) else {
            let listed = Endpoint::ALL.map(|(known, endpoint)| format!("{} {known}", endpoint.allow()));
            let detail = format!("There is no such path here. There are: {}.", listed.join("; "));
            return Err(Problem::new(StatusCode::NOT_FOUND, "unknown-path", detail));
        };
        let fits = if endpoint.changes() {
            method == Method::POST
        } else {
            method == Method::GET || method == Method::HEAD
        };
        if fits {
            return Ok(*endpoint);
        }
        let detail = format!("{path} takes {}.", endpoint.allow());
        Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong-method", detail).allow(endpoint.allow()))
    }
}

/// One running admin listener: its state, and work that must outlive the client that asked for it.
#[derive(Debug)]
struct Admin {
    state: AdminState,
    tasks: TaskTracker,
}

impl Admin {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        match self.act(request).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        }
    }

    async fn act(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let endpoint = Endpoint::find(request.method(), request.uri().path())?;
        if endpoint.changes() {
            access::authorise(self.state.token.as_ref(), request.headers())?;
        }
        let state = &self.state;
        Ok(match endpoint {
            Endpoint::Live => json(StatusCode::OK, &serde_json::json!({ "status": "live" })),
            Endpoint::Ready => ready(state.ready.load(Ordering::Acquire)),
            Endpoint::Health => json(StatusCode::OK, &state.health().await),
            Endpoint::Metrics => state.metrics_text(request.headers()).await,
            Endpoint::Stats => json(StatusCode::OK, &state.stats().await),
            Endpoint::Purge => self.purge(request.into_body()).await?,
            Endpoint::Flush => self.flush().await?,
            Endpoint::Enable => self.switch(true),
            Endpoint::Disable => self.switch(false),
        })
    }

    /// The on/off switch. It is this process' alone and forgotten at its end; purges go on counting while off.
    fn switch(&self, on: bool) -> Response<Body> {
        let was = self.state.store.enabled();
        self.state.store.set_enabled(on);
        if was != on {
            tracing::warn!(enabled = on, "the cache was switched by the admin API");
        }
        json(StatusCode::OK, &serde_json::json!({ "enabled": on, "was": was }))
    }
}

fn ready(ready: bool) -> Response<Body> {
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "draining") };
    json(status, &serde_json::json!({ "status": word }))
}

#[cfg(test)]
mod tests;
