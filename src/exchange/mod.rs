//! One request, one way: pass, read (hit, fetch, follow) or mutate.
//!
//! ```text
//! handle ─► choose ─┬─► pass     no route, uncacheable, upgrade: streamed both ways, untouched
//!                   ├─► read     identify ─► look up ─► reuse ─┬─► deliver
//!                   │                                          └─► join a flight ─► fetch ─► deliver
//!                   └─► mutate   intend ─► forward ─► purge ─► deliver
//! ```
//!
//! Every way returns an `Answer`; `handle` alone turns it into `Cache-Status`, metrics and an access line, so
//! that all three tell the same story. No way returns an error: a failure is an answer too.

mod answer;
mod buffer;
mod coalesce;
mod deliver;
mod fetch;
mod fill;
pub mod forwarded;
mod head;
mod mutate;
mod pass;
mod problem;
mod read;
mod relay;
mod search;
mod shared;
pub mod upgrade;
mod wanted;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use hyper::body::{Body as _, Incoming};
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::config::ExchangeConfig;
use crate::interim::Interim;
use crate::metrics::Metrics;
use crate::policy::key::CacheKey;
use crate::policy::route::{Route, request_host};
use crate::policy::subject::KeySets;
use crate::policy::{Policy, Unlisted};
use crate::semantics::cache_status::Forward;
use crate::semantics::fields::{is_override, strip_nominated};
use crate::server::{Handler, Peer};
use crate::store::Store;
use crate::telemetry::{AccessLog, AccessRecord};
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::upstream::jwks::Refresher;
use answer::Answer;
use coalesce::Board;

/// What an exchange is made of.
#[derive(Debug)]
pub struct Parts {
    /// Routes and rules.
    pub policy: Arc<Policy>,
    /// Tiers and log.
    pub store: Arc<Store>,
    /// Backend.
    pub upstream: Arc<Upstream>,
    /// Verification keys in force, refreshed by `upstream::jwks`.
    pub keys: Arc<ArcSwap<KeySets>>,
    /// Asked to refresh them early when a token names a key that is not there yet.
    pub refresher: Refresher,
    /// Settings.
    pub config: ExchangeConfig,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Access log.
    pub access: AccessLog,
    /// Asked by the opt-in probes on the traffic port: false once draining has begun.
    pub ready: Arc<AtomicBool>,
}

/// Keys remembered as not shareable: enough for the hot ones, and a fixed size.
const HIT_FOR_MISS_KEYS: usize = 65_536;

/// The request path. One per process.
pub struct Exchange {
    policy: Arc<Policy>,
    store: Arc<Store>,
    upstream: Arc<Upstream>,
    keys: Arc<ArcSwap<KeySets>>,
    refresher: Refresher,
    config: ExchangeConfig,
    clock: Clock,
    metrics: Metrics,
    access: AccessLog,
    ready: Arc<AtomicBool>,
    board: Arc<Board>,
    /// Until when (on `Clock::elapsed`) a key's requests do not wait for each other.
    hit_for_miss: quick_cache::sync::Cache<CacheKey, Duration>,
    /// What backends have said about queries.
    searches: search::Searches,
    /// Bytes buffered by all fills under way.
    filling: Arc<AtomicU64>,
    /// Bytes that encoders under way take up.
    coding: Arc<AtomicU64>,
    tasks: TaskTracker,
    tunnels: upgrade::Tunnels,
    /// Weir's own member of `Via`.
    via: HeaderValue,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A request as it arrived, before its way is chosen.
pub(crate) struct Inbound {
    parts: request::Parts,
    body: Body,
    peer: Peer,
    host: String,
    /// Read from `Clock::elapsed` after it had arrived.
    arrived: Duration,
    interim: Interim,
}

impl Exchange {
    /// Puts it together.
    pub fn new(parts: Parts) -> Arc<Exchange> {
        let via = forwarded::via(http::Version::HTTP_11, &parts.config.name);
        let board = Board::new(parts.clock.clone());
        Arc::new(Exchange {
            via,
            policy: parts.policy,
            store: parts.store,
            upstream: parts.upstream,
            keys: parts.keys,
            refresher: parts.refresher,
            config: parts.config,
            clock: parts.clock,
            metrics: parts.metrics,
            access: parts.access,
            ready: parts.ready,
            board,
            hit_for_miss: quick_cache::sync::Cache::new(HIT_FOR_MISS_KEYS),
            searches: search::Searches::default(),
            filling: Arc::default(),
            coding: Arc::default(),
            tasks: TaskTracker::new(),
            tunnels: upgrade::Tunnels::default(),
        })
    }

    /// Waits for mutations, background fetches and upgraded connections, at most `limit`; false = some did not end.
    pub async fn close(&self, limit: Duration) -> bool {
        self.tasks.close();
        let tasks = tokio::time::timeout(limit, self.tasks.wait());
        let (tasks, cut) = tokio::join!(tasks, self.tunnels.close(limit));
        tasks.is_ok() && cut == 0
    }

    async fn choose(self: &Arc<Self>, mut inbound: Inbound) -> Answer {
        let overridden = inbound.parts.headers.keys().any(is_override);
        // Who asks for another protocol may not get it: an unsafe method is then carried out like any other.
        if upgrade::is_upgrade(&inbound.parts) && is_safe(&inbound.parts.method) && !overridden {
            return self.pass(inbound, None, Forward::Bypass, "upgrade").await;
        }
        let found = self.policy.routes.find(&inbound.parts, &inbound.host);
        if overridden && found.as_ref().is_some_and(|f| f.route.cache) {
            // What a cached route's requests mean is said by their method and path alone, wherever they go from here.
            strip_overrides(&mut inbound.parts.headers);
        } else if overridden {
            // The backend may read another method in it.
            return self.mutate(inbound).await;
        }
        let method = &inbound.parts.method;
        match found {
            Some(found) if found.route.cache && is_readable(method, &found.route) => {
                self.read(inbound, found).await
            }
            Some(found) if is_safe(method) => {
                self.pass(inbound, Some(found.route), Forward::Bypass, "route-not-cached").await
            }
            None if self.policy.unlisted == Unlisted::Rfc
                && matches!(*method, Method::GET | Method::HEAD) =>
            {
                let found = crate::policy::route::RouteMatch {
                    route: Arc::clone(&self.policy.rfc_route),
                    params: Default::default(),
                };
                self.read(inbound, found).await
            }
            None if is_safe(method) => self.pass(inbound, None, Forward::Bypass, "no-route").await,
            _ => self.mutate(inbound).await,
        }
    }

    /// `/livez` and `/readyz` for load balancers that can reach nothing but the traffic port.
    fn probe(&self, parts: &request::Parts) -> Option<Response<Body>> {
        if !self.config.probes_on_traffic || !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let up = match parts.uri.path() {
            "/livez" => true,
            "/readyz" => self.ready.load(Ordering::Relaxed),
            _ => return None,
        };
        if up {
            let mut response = Response::new(Body::full("ok\n"));
            response
                .headers_mut()
                .insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
            Some(response)
        } else {
            Some(problem::problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "This instance is shutting down.",
            ))
        }
    }

    fn finish(&self, answer: Answer, request: &Logged<'_>) -> Response<Body> {
        let elapsed = self.clock.elapsed().saturating_sub(request.started);
        let route = answer.route.as_ref();
        let (status, bytes) = (answer.response.status().as_u16(), answer.content_length());
        let index = route.filter(|r| !Arc::ptr_eq(r, &self.policy.rfc_route)).map(|r| r.index);
        self.metrics.request(index, answer.outcome, status, elapsed, bytes.unwrap_or(0));
        if self.access.enabled() {
            self.access.write(&AccessRecord {
                at: self.clock.now(),
                peer: request.peer.addr.ip(),
                method: request.method.as_str(),
                path: request.path,
                status,
                route: route.map_or("-", |r| &r.name),
                outcome: answer.outcome,
                reason: answer.status.detail,
                age: answer.age,
                elapsed,
                upstream: answer.upstream,
                bytes,
                request_id: request.id,
            });
        }
        answer.into_response(&self.config)
    }
}

/// What is kept of a request for its access line.
struct Logged<'a> {
    started: Duration,
    peer: Peer,
    method: &'a Method,
    path: &'a str,
    id: &'a str,
}

impl Handler for Arc<Exchange> {
    async fn handle(&self, request: Request<Incoming>, peer: Peer, interim: Interim) -> Response<Body> {
        let started = self.clock.elapsed();
        let (mut parts, incoming) = request.into_parts();
        if let Some(response) = self.probe(&parts) {
            return response;
        }
        // Nobody on the way may look at what does not go all the way.
        strip_nominated(&mut parts.headers);
        let (id, made) = forwarded::request_id(&parts.headers);
        if made {
            forwarded::name_request(&mut parts.headers, &id);
        }
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let host = request_host(&parts);
        let body = if incoming.is_end_stream() { Body::Empty } else { Body::stream(incoming) };
        let answer = self.choose(Inbound { parts, body, peer, host, arrived: started, interim }).await;
        self.finish(answer, &Logged { started, peer, method: &method, path: &path, id: &id })
    }
}

fn strip_overrides(headers: &mut HeaderMap) {
    let names: Vec<_> = headers.keys().filter(|name| is_override(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Methods a route may answer from the cache. A POST is a read only where the route says what makes it one.
fn is_readable(method: &Method, route: &Route) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || route.body_key.is_some()
}

/// Safe methods (RFC 9110 §9.2.1 and the registry); any other method may have changed something.
fn is_safe(method: &Method) -> bool {
    matches!(
        method.as_str(),
        "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH" | "PRI"
    )
}
