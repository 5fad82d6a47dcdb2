//! One request, one way: pass, read (hit, fetch, follow) or mutate.
//!
//! ```text
//! handle ─► choose ─┬─► ask memory ─► deliver: a fresh hit is answered at once, without a future
//!                   ├─► ask Redis ─► deliver: a fresh hit there
//!                   ├─► pass     no route, uncacheable, upgrade: streamed both ways, untouched
//!                   ├─► read     identify ─► look up ─► reuse ─┬─► deliver
//!                   │                                          └─► join a flight ─► fetch ─► deliver
//!                   └─► mutate   intend ─► forward ─► purge ─► deliver
//! ```
//!
//! Every way returns an `Answer`; `handle` alone turns it into `Cache-Status`, metrics and an access line, so
//! that all three tell the same story. No way returns an error: a failure is an answer too.

mod answer;
mod at_once;
mod buffer;
mod callers;
mod coalesce;
mod deliver;
mod fetch;
mod fill;
pub mod forwarded;
mod head;
mod heads;
mod identity;
mod memo;
mod mutate;
mod pass;
mod problem;
mod read;
mod relay;
mod search;
mod shared;
pub mod upgrade;
mod wanted;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::Body as _;
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
use crate::semantics::fields::{Sight, is_override, sight, strip_nominated};
use crate::semantics::timestamp::Timestamp;
use crate::server::{Answering, Handler, Later, Peer, Whole};
use crate::store::{Lookup, Store};
use crate::telemetry::{AccessLog, AccessRecord};
use crate::time::Clock;
use crate::upstream::Upstream;
use crate::upstream::jwks::Refresher;
use answer::{Answer, Told};
use at_once::{Again, Further, Meant};
use coalesce::Board;
use heads::Form;
use identity::{Head, Identity};

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
    /// What targets mean.
    memo: memo::Memo,
    /// Whose credentials are whose.
    callers: callers::Callers,
    /// Bytes buffered by all fills under way.
    filling: Arc<AtomicU64>,
    /// Bytes that encoders under way take up.
    coding: Arc<AtomicU64>,
    tasks: TaskTracker,
    tunnels: upgrade::Tunnels,
    /// Weir's own member of `Via`.
    via: HeaderValue,
    /// What is said of requests that are passed on.
    passed: pass::Passed,
    /// Tells it from others of this process.
    number: u64,
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
        let via = forwarded::lasting(&forwarded::via(http::Version::HTTP_11, &parts.config.name));
        let passed = pass::Passed::new(&parts.config.name);
        let board = Board::new(parts.clock.clone());
        static EXCHANGES: AtomicU64 = AtomicU64::new(0);
        Arc::new(Exchange {
            number: EXCHANGES.fetch_add(1, Ordering::Relaxed),
            via,
            passed,
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
            memo: memo::Memo::default(),
            callers: callers::Callers::default(),
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

    fn host<'a>(&self, parts: &'a request::Parts, peer: Peer) -> Cow<'a, str> {
        request_host(parts, forwarded::scheme(&parts.headers, peer, &self.config.trust_forwarded))
    }

    /// The way of a request, by its head.
    fn choose(&self, parts: &request::Parts, host: &str, overridden: bool) -> Way {
        // Who asks for another protocol may not get it: an unsafe method is then carried out like any other.
        if upgrade::is_upgrade(parts) && is_safe(&parts.method) && !overridden {
            return Way::Pass(None, pass::UPGRADE);
        }
        let method = &parts.method;
        match self.policy.routes.find(parts, host) {
            // The backend may read another method in it.
            found if overridden && !found.is_some_and(|route| route.cache) => Way::Mutate,
            Some(route) if route.cache && is_readable(method, route) => Way::Read(Arc::clone(route)),
            Some(route) if is_safe(method) => Way::Pass(Some(Arc::clone(route)), pass::NOT_CACHED),
            None if self.policy.unlisted == Unlisted::Rfc
                && matches!(*method, Method::GET | Method::HEAD) =>
            {
                Way::Read(Arc::clone(&self.policy.rfc_route))
            }
            None if is_safe(method) => Way::Pass(None, pass::NO_ROUTE),
            _ => Way::Mutate,
        }
    }

    /// Goes it to its end. Each way has a box of its own: nobody moves the room that another would need.
    async fn go(self: &Arc<Self>, inbound: Inbound, way: Way, known: Known) -> Answer {
        match way {
            Way::Read(route) => Box::pin(self.read(inbound, route, known)).await,
            Way::Pass(route, why) => Box::pin(self.pass(inbound, route, Forward::Bypass, why)).await,
            Way::Mutate => Box::pin(self.mutate(inbound)).await,
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

    fn finish(&self, answer: Answer, route: Option<&Route>, request: &Logged<'_>) -> Response<Body> {
        self.note(&answer.told(), route, request);
        match self.passed.of(&answer.status).cloned() {
            Some(status) => answer.explained(status, &self.config),
            None => answer.into_response(&self.config),
        }
    }

    /// Counts and logs an answer.
    fn note(&self, told: &Told, route: Option<&Route>, request: &Logged<'_>) {
        let elapsed = self.clock.elapsed().saturating_sub(request.started);
        let index = route.filter(|r| !std::ptr::eq(*r, &*self.policy.rfc_route)).map(|r| r.index);
        self.metrics.request(index, told.outcome, told.status, elapsed, told.bytes.unwrap_or(0));
        if self.access.enabled() {
            self.access.write(&AccessRecord {
                at: self.clock.now(),
                peer: request.peer.addr.ip(),
                method: request.method.as_str(),
                path: request.path,
                status: told.status,
                route: route.map_or("-", |r| &r.name),
                outcome: told.outcome,
                reason: told.reason,
                age: told.age,
                elapsed,
                upstream: told.upstream,
                bytes: told.bytes,
                request_id: &request.id,
            });
        }
    }

    /// Asks Redis about a target that was hit before, and carries nothing along but what that needs: a future that is small.
    fn ask(
        self: Arc<Self>,
        request: (Arc<request::Parts>, Peer, Duration),
        interim: Interim,
        seen: Sight,
        meant: Meant,
    ) -> Later {
        // Not an async function, which would keep what it is given twice.
        Box::pin(async move {
            match self.ask_again(&request, seen, &meant).await {
                Ok(response) => response,
                Err(found) => self.go_on(request, interim, seen, meant.into_known(Some(found))).await,
            }
        })
    }

    /// The rest of the way, in a box that is made where there is a rest.
    fn go_on(
        self: Arc<Self>,
        request: (Arc<request::Parts>, Peer, Duration),
        interim: Interim,
        seen: Sight,
        (way, known): (Way, Known),
    ) -> Later {
        let inbound = self.inbound(request, interim);
        Box::pin(self.answer_later(inbound, seen, way, known))
    }

    /// What any request is answered with, as far as that is known at once.
    fn answer_to<F: Form>(
        self: &Arc<Self>,
        mut parts: request::Parts,
        body: Body,
        peer: Peer,
        interim: &Interim,
    ) -> Answering<F> {
        let arrived = self.clock.elapsed();
        if let Some(response) = self.probe(&parts) {
            return Answering::Now(F::made(response));
        }
        let seen = sight(&parts.headers);
        let reads = matches!(parts.method, Method::GET | Method::HEAD) && body.is_end_stream();
        let now = self.clock.now();
        if reads && seen != Sight::Other {
            let head = Head { parts: &parts, peer, host: "", arrived, now };
            match self.hit_again(&head, seen) {
                Some(Again::Answered(response)) => return Answering::Now(response),
                Some(Again::Goes(further)) => {
                    let request = (Arc::new(parts), peer, arrived);
                    return Answering::Later(self.go_further(request, interim, seen, further));
                }
                None => {}
            }
        }
        // Nobody on the way may look at what does not go all the way.
        strip_nominated(&mut parts.headers);
        let host = self.host(&parts, peer);
        let overridden = seen == Sight::Other && parts.headers.keys().any(is_override);
        let way = self.choose(&parts, &host, overridden);
        let mut known = Known::Nothing;
        if let Way::Read(route) = &way
            && reads
            && !overridden
            && let head = (Head { parts: &parts, peer, host: &host, arrived, now })
            && !self.takes_long(&head, route)
        {
            known = match self.ask_memory(&head, seen, route) {
                Ok(response) => return Answering::Now(response),
                Err(known) => known,
            };
        }
        // What a cached route's requests mean is said by their method and path alone, wherever they go from here.
        let stripped = overridden && self.policy.routes.find(&parts, &host).is_some_and(|route| route.cache);
        let host = if matches!(way, Way::Pass(..)) { String::new() } else { host.into_owned() };
        if stripped {
            strip_overrides(&mut parts.headers);
        }
        if let Way::Pass(route, why) = way {
            return self.pass_now((parts, body), (peer, interim), arrived, (route, why)).map(F::made);
        }
        let inbound = Inbound { parts, body, peer, host, arrived, interim: interim.clone() };
        Answering::Later(Box::pin(Arc::clone(self).answer_later(inbound, seen, way, known)))
    }

    /// Beyond what was known at once.
    fn go_further(
        self: &Arc<Self>,
        request: (Arc<request::Parts>, Peer, Duration),
        interim: &Interim,
        seen: Sight,
        further: Further,
    ) -> Later {
        let (exchange, interim) = (Arc::clone(self), interim.clone());
        match further {
            Further::Asks(meant) => exchange.ask(request, interim, seen, meant),
            Further::Goes(way, known) => exchange.go_on(request, interim, seen, (way, known)),
        }
    }

    /// A request without content.
    fn inbound(
        &self,
        (parts, peer, arrived): (Arc<request::Parts>, Peer, Duration),
        interim: Interim,
    ) -> Inbound {
        let parts = Arc::unwrap_or_clone(parts);
        let host = self.host(&parts, peer).into_owned();
        Inbound { parts, body: Body::Empty, peer, host, arrived, interim }
    }

    async fn answer_later(
        self: Arc<Self>,
        mut inbound: Inbound,
        seen: Sight,
        way: Way,
        mut known: Known,
    ) -> Response<Body> {
        if let (Way::Read(route), Known::Identity(identity, found @ None)) = (&way, &mut known) {
            let head = inbound.head(self.clock.now());
            match self.ask_redis(head, seen, route, identity).await {
                Ok(response) => return response,
                Err(lookup) => *found = Some(lookup),
            }
        }
        let id = forwarded::name_request(&mut inbound.parts.headers, self.access.enabled());
        let (started, peer) = (inbound.arrived, inbound.peer);
        let (method, path) = (inbound.parts.method.clone(), inbound.parts.uri.path().to_owned());
        let mut answer = self.go(inbound, way, known).await;
        let route = answer.route.take();
        self.finish(
            answer,
            route.as_deref(),
            &Logged { started, peer, method: &method, path: &path, id: id.unwrap_or_default().into() },
        )
    }
}

/// The way of a request.
enum Way {
    /// A read that the cache may answer, on this route.
    Read(Arc<Route>),
    /// Past the cache, because…
    Pass(Option<Arc<Route>>, &'static str),
    /// It may have changed something.
    Mutate,
}

/// What is known of a read before anybody is waited for.
enum Known {
    /// Nothing yet.
    Nothing,
    /// The cache takes no part, because…
    Unwanted(&'static str),
    /// What it is about, and what memory said; `None` = Redis is to be asked too.
    Identity(Box<Identity>, Option<Lookup>),
}

/// What is kept of a request for its access line.
struct Logged<'a> {
    started: Duration,
    peer: Peer,
    method: &'a Method,
    path: &'a str,
    id: Cow<'a, str>,
}

impl Inbound {
    fn head(&self, now: Timestamp) -> Head<'_> {
        let Inbound { parts, peer, host, arrived, .. } = self;
        Head { parts, peer: *peer, host, arrived: *arrived, now }
    }
}

impl Handler for Arc<Exchange> {
    fn handle_again(
        &self,
        request: &Arc<request::Parts>,
        peer: Peer,
        interim: &Interim,
    ) -> Option<Answering<Whole>> {
        let (arrived, seen) = (self.clock.elapsed(), sight(&request.headers));
        if seen == Sight::Other || self.config.probes_on_traffic {
            return None;
        }
        let head = Head { parts: request, peer, host: "", arrived, now: self.clock.now() };
        Some(match self.hit_again(&head, seen)? {
            Again::Answered(answer) => Answering::Now(answer),
            Again::Goes(further) => {
                let request = (Arc::clone(request), peer, arrived);
                Answering::Later(self.go_further(request, interim, seen, further))
            }
        })
    }

    fn handle_plain(&self, request: request::Parts, peer: Peer, interim: &Interim) -> Answering<Whole> {
        self.answer_to(request, Body::Empty, peer, interim)
    }

    fn handle(&self, request: Request<Body>, peer: Peer, interim: &Interim) -> Answering {
        let (parts, body) = request.into_parts();
        self.answer_to(parts, body, peer, interim)
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
