//! One request, one way.

pub mod forwarded;
pub mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::body::Body;
use crate::config::ExchangeConfig;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::policy::subject::KeySets;
use crate::server::{Handler, Peer};
use crate::store::Store;
use crate::telemetry::AccessLog;
use crate::time::Clock;
use crate::upstream::Upstream;

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
    pub keys: Arc<arc_swap::ArcSwap<KeySets>>,
    /// Settings.
    pub config: ExchangeConfig,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Access log.
    pub access: AccessLog,
    /// Asked by the opt-in probes on the traffic port: false once draining has begun.
    pub ready: Arc<std::sync::atomic::AtomicBool>,
}

/// The request path. One per process.
#[derive(Debug)]
pub struct Exchange(#[allow(dead_code)] Parts);

impl Exchange {
    /// Puts it together.
    pub fn new(parts: Parts) -> Arc<Exchange> {
        Arc::new(Exchange(parts))
    }
    /// Waits for mutations and background fetches under way, at most `limit`; false = some did not end.
    pub async fn close(&self, _limit: Duration) -> bool {
        true
    }
}

impl Handler for Arc<Exchange> {
    async fn handle(&self, _request: Request<Incoming>, _peer: Peer) -> Response<Body> {
        unimplemented!()
    }
}
