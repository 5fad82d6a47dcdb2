//! Pass-through: both ways streamed, nothing kept, nothing changed but what a proxy must.
//!
//! What can be done to a request before anybody is waited for is done before there is a future to carry it: its fields
//! are made fit where they lie, and it moves once, to its connection.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, request};

use super::answer::{Answer, Failure};
use super::upgrade::Wish;
use super::{Exchange, Inbound, Logged, forwarded};
use crate::body::Body;
use crate::interim::Interim;
use crate::policy::route::Route;
use crate::semantics::cache_status::{CacheStatus, Forward, Outcome};
use crate::server::{Answering, Peer};
use crate::upstream::Fitted;

const UNASKED: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "upgrade-unasked",
    detail: "The upstream switched protocols without being asked to.",
};

/// Why a request is passed on without having been looked at.
pub(super) const UPGRADE: &str = "upgrade";
pub(super) const NOT_CACHED: &str = "route-not-cached";
pub(super) const NO_ROUTE: &str = "no-route";

/// A request as it goes upstream, and what is to be known of it when its answer comes.
pub(super) struct Departing {
    fitted: Fitted,
    wish: Wish,
    method: Method,
    uri: Uri,
    interim: Interim,
}

impl Exchange {
    /// Forwards the request as it came. A client that leaves drops this future, and with it the upstream exchange.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        inbound: Inbound,
        route: Option<Arc<Route>>,
        forward: Forward,
        detail: &'static str,
    ) -> Answer {
        let Inbound { parts, body, peer, interim, .. } = inbound;
        let mut departing = self.depart(parts, body, peer, interim);
        self.carry(&mut departing, forward, detail).await.on(route)
    }

    /// The same for a request that has its way already.
    pub(super) fn pass_now(
        self: &Arc<Self>,
        (mut parts, body): (request::Parts, Body),
        (peer, interim): (Peer, &Interim),
        started: std::time::Duration,
        (route, detail): (Option<Arc<Route>>, &'static str),
    ) -> Answering {
        let id = forwarded::name_request(&mut parts.headers, self.access.enabled());
        let mut departing = self.depart(parts, body, peer, interim.clone());
        let this = Arc::clone(self);
        Answering::Later(Box::pin(async move {
            let answer = this.carry(&mut departing, Forward::Bypass, detail).await;
            let (method, path) = (&departing.method, departing.uri.path());
            let id = id.unwrap_or_default().into();
            this.finish(answer, route.as_deref(), &Logged { started, peer, method, path, id })
        }))
    }

    /// Makes a request ready to go.
    fn depart(&self, mut parts: request::Parts, body: Body, peer: Peer, interim: Interim) -> Departing {
        // Both are cheap to copy; mostly nobody asks.
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        let plain = forwarded::is_plain(&parts.headers);
        let wish = if plain { Wish::default() } else { Wish::take(&mut parts) };
        self.prepare_seen(&mut parts, plain, peer);
        wish.restore(&mut parts.headers);
        let fitted = self.upstream.fit(Request::from_parts(parts, body), plain);
        Departing { fitted, wish, method, uri, interim }
    }

    async fn carry(&self, departing: &mut Departing, forward: Forward, detail: &'static str) -> Answer {
        let Departing { fitted, wish, method, uri, interim } = departing;
        let interim = interim.listen(&self.via).await;
        let sent = self.clock.elapsed();
        let result = self.upstream.send_fitted(fitted, interim).await;
        let first_byte = self.clock.elapsed().saturating_sub(sent);
        self.metrics.upstream(result.as_ref().ok().map(|r| r.status().as_u16()), first_byte);
        let passed = result
            .map_err(|error| Failure::of(&error, method, uri.path()))
            .and_then(|response| self.passed_on(response, std::mem::take(wish)));
        let answer = match passed {
            Ok(response) => Answer::forwarded(response, Outcome::Pass, forward, Some(detail)),
            Err(failure) => Answer::failed(&failure, forward),
        };
        answer.after(first_byte)
    }

    /// The upstream's response as the client gets it; where both sides want another protocol, their connections
    /// are joined.
    pub(crate) fn passed_on(
        &self,
        mut response: Response<Body>,
        wish: Wish,
    ) -> Result<Response<Body>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (client, hold) = wish.granted().ok_or(UNASKED)?;
            return Ok(self.tunnels.splice(client, hold, response, &self.config.name));
        }
        let version = response.version();
        forwarded::prepare_usual_response(response.headers_mut(), version, &self.config.name, &self.via);
        Ok(response)
    }

    /// Fields and URI as a proxy sends them on.
    pub(crate) fn make_forwardable(&self, parts: &mut request::Parts, peer: Peer) {
        self.prepare_seen(parts, forwarded::is_plain(&parts.headers), peer);
    }

    fn prepare_seen(&self, parts: &mut request::Parts, plain: bool, peer: Peer) {
        let (trust, name) = (&self.config.trust_forwarded, &self.config.name);
        forwarded::prepare_seen_request(parts, plain, peer, trust, name, &self.via);
    }
}

/// The whole of `Cache-Status` for requests that are passed on without having been looked at, made once.
#[derive(Debug)]
pub(super) struct Passed([(&'static str, HeaderValue); 3]);

impl Passed {
    pub(super) fn new(name: &str) -> Passed {
        Passed([UPGRADE, NOT_CACHED, NO_ROUTE].map(|detail| {
            let status = CacheStatus {
                forward: Some(Forward::Bypass),
                detail: Some(detail),
                ..CacheStatus::default()
            };
            (detail, forwarded::lasting(&status.render(name)))
        }))
    }

    /// That of this one, if it says no more than these do.
    pub(super) fn of(&self, status: &CacheStatus) -> Option<&HeaderValue> {
        let CacheStatus { hit: false, forward: Some(Forward::Bypass), forward_status: None, .. } = status
        else {
            return None;
        };
        let CacheStatus { stored: false, collapsed: false, ttl: None, key: None, detail, .. } = status else {
            return None;
        };
        self.0.iter().find(|(known, _)| Some(*known) == *detail).map(|(_, value)| value)
    }
}

/// A URI in origin form. Falls back on the path alone, which was parsed once already.
pub(crate) fn origin_form(path: &str, query: &str) -> Uri {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Uri::try_from(text).unwrap_or_else(|_| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_all_alike_is_said_as_it_would_be_of_one() {
        let passed = Passed::new("a name");
        for detail in [UPGRADE, NOT_CACHED, NO_ROUTE] {
            let usual = CacheStatus {
                forward: Some(Forward::Bypass),
                detail: Some(detail),
                ..CacheStatus::default()
            };
            assert_eq!(passed.of(&usual), Some(&usual.render("a name")));
            for other in [
                CacheStatus { hit: true, ..usual.clone() },
                CacheStatus { forward: Some(Forward::Miss), ..usual.clone() },
                CacheStatus { forward: None, ..usual.clone() },
                CacheStatus { forward_status: Some(304), ..usual.clone() },
                CacheStatus { stored: true, ..usual.clone() },
                CacheStatus { collapsed: true, ..usual.clone() },
                CacheStatus { ttl: Some(1), ..usual.clone() },
                CacheStatus { key: Some("k".to_owned()), ..usual.clone() },
                CacheStatus { detail: Some("another"), ..usual.clone() },
                CacheStatus { detail: None, ..usual.clone() },
            ] {
                assert_eq!(passed.of(&other), None, "{other:?}");
            }
        }
    }
}
