//! Pass-through: both ways streamed, nothing kept, nothing changed but what a proxy must.

use std::sync::Arc;

use http::{Request, Response, StatusCode, Uri};

use super::answer::{Answer, Failure};
use super::upgrade::Wish;
use super::{Exchange, Inbound, forwarded};
use crate::body::Body;
use crate::policy::route::Route;
use crate::semantics::cache_status::{Forward, Outcome};

const UNASKED: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "upgrade-unasked",
    detail: "The upstream switched protocols without being asked to.",
};

impl Exchange {
    /// Forwards the request as it came. A client that leaves drops this future, and with it the upstream exchange.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        inbound: Inbound,
        route: Option<Arc<Route>>,
        forward: Forward,
        detail: &'static str,
    ) -> Answer {
        let Inbound { mut parts, body, peer, interim, .. } = inbound;
        let interim = interim.listen(&self.via).await;
        // Both are cheap to copy; mostly nobody asks.
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        let wish = Wish::take(&mut parts);
        self.make_forwardable(&mut parts, peer);
        wish.restore(&mut parts.headers);
        let sent = self.clock.elapsed();
        let result = self.upstream.send(Request::from_parts(parts, body), interim).await;
        let first_byte = self.clock.elapsed().saturating_sub(sent);
        self.metrics.upstream(result.as_ref().ok().map(|r| r.status().as_u16()), first_byte);
        let passed = result
            .map_err(|error| Failure::of(&error, &method, uri.path()))
            .and_then(|response| self.passed_on(response, wish));
        let answer = match passed {
            Ok(response) => Answer::forwarded(response, Outcome::Pass, forward, Some(detail)),
            Err(failure) => Answer::failed(&failure, forward),
        };
        answer.on(route).after(first_byte)
    }

    /// The upstream's response as the client gets it; where both sides want another protocol, their connections
    /// are joined.
    pub(crate) fn passed_on(&self, response: Response<Body>, wish: Wish) -> Result<Response<Body>, Failure> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let (client, hold) = wish.granted().ok_or(UNASKED)?;
            return Ok(self.tunnels.splice(client, hold, response, &self.config.name));
        }
        let (mut head, body) = response.into_parts();
        forwarded::prepare_response(&mut head, &self.config.name);
        Ok(Response::from_parts(head, body))
    }

    /// Fields and URI as a proxy sends them on.
    pub(crate) fn make_forwardable(&self, parts: &mut http::request::Parts, peer: crate::server::Peer) {
        forwarded::prepare_request(parts, peer, &self.config.trust_forwarded, &self.config.name);
    }
}

/// A URI in origin form. Falls back on the path alone, which was parsed once already.
pub(crate) fn origin_form(path: &str, query: &str) -> Uri {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    Uri::try_from(text).unwrap_or_else(|_| Uri::from_static("/"))
}
