//! A mutation: forward, purge what it makes untrue, then answer (DESIGN §4.4).
//!
//! Invariants:
//! - The whole of it runs in a task that no client can cancel; shutdown waits for it.
//! - The answer leaves only after the purge has been applied here (and appended to the log, or owed to it).
//! - An unknown outcome (timeout, 5xx, a broken connection) purges like a success, with unknown values widened to
//!   their family. Only a plain refusal of the sole attempt purges nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, response};
use serde_json::Value;

use super::answer::{Answer, Failure};
use super::buffer::{Buffered, Capture, capturing, read_up_to};
use super::fetch::{is_event_stream, within};
use super::upgrade::Wish;
use super::{Exchange, Inbound};
use crate::body::Body;
use crate::coherence::event::Settle;
use crate::coherence::{Event, EventKind};
use crate::policy::Policy;
use crate::policy::path::{self, PathParams};
use crate::policy::query::QueryRules;
use crate::policy::tags::{Facts, Json, PurgeRule, TagSet, TagTemplate};
use crate::semantics::cache_status::{Forward, Outcome};

const LOST: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "mutation-lost",
    detail: "The request ended without a result; it may or may not have been carried out.",
};

/// What of a mutation outlives its forwarding.
struct Mutation {
    policy: Arc<Policy>,
    parts: http::request::Parts,
    host: String,
    path: String,
    query: String,
    captured: Option<Capture>,
}

/// A response's share in the tags.
struct Said<'a> {
    headers: Option<&'a HeaderMap>,
    json: Option<&'a Value>,
}

impl Exchange {
    /// Forwards an unsafe request and purges what its rules (and RFC 9111 §4.4) name.
    pub(crate) async fn mutate(self: &Arc<Self>, inbound: Inbound) -> Answer {
        let exchange = Arc::clone(self);
        // Spawned: a client that leaves drops only the handle.
        match self.tasks.spawn(async move { exchange.carry_out(inbound).await }).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!("a mutation's task failed: {error}");
                Answer::failed(&LOST, Forward::Method)
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, inbound: Inbound) -> Answer {
        let Inbound { mut parts, mut body, peer, host, .. } = inbound;
        let policy = Arc::clone(&self.policy);
        let rules = policy.tags.matching(&parts, &host);
        let needs = |what: fn(&TagTemplate) -> bool| rules.iter().any(|(r, _)| r.tags.iter().any(what));
        let (needs_request, needs_response) =
            (needs(TagTemplate::needs_request_body), needs(TagTemplate::needs_response_body));
        drop(rules);
        let mut captured = None;
        if needs_request && !parts.headers.contains_key(header::CONTENT_ENCODING) {
            let (passing, capture) = capturing(body, self.config.max_tag_body);
            (body, captured) = (passing, Some(capture));
        }
        let wish = Wish::take(&mut parts);
        let mutation = Mutation {
            policy: Arc::clone(&policy),
            host,
            path: path::normalise(parts.uri.path()).unwrap_or_else(|_| parts.uri.path().to_owned()),
            query: QueryRules::default().normalise(parts.uri.query()),
            captured,
            parts: parts.clone(),
        };
        self.make_forwardable(&mut parts, peer);
        wish.restore(&mut parts.headers);
        if needs_response {
            // Tags are read from the content, so it must come uncoded.
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        let sent = self.clock.elapsed();
        let result = self.upstream.send(Request::from_parts(parts, body)).await;
        let first_byte = self.clock.elapsed().saturating_sub(sent);
        self.metrics.upstream(result.as_ref().ok().map(|r| r.status().as_u16()), first_byte);
        let answer = match result {
            Ok(response) => self.answered(&mutation, response, needs_response, wish).await,
            Err(error) => {
                let failure = Failure::of(&error, &mutation.parts.method, &mutation.path);
                if !error.never_sent() {
                    self.purge(&mutation, &Said { headers: None, json: None }).await;
                }
                Answer::failed(&failure, Forward::Method)
            }
        };
        answer.after(first_byte)
    }

    /// The backend answered: purge unless it plainly refused, then pass the answer on.
    async fn answered(
        &self,
        mutation: &Mutation,
        response: Response<Body>,
        needs_response: bool,
        wish: Wish,
    ) -> Answer {
        let (head, mut body) = response.into_parts();
        let mut detail = "refused";
        if !is_refusal(head.status) {
            let mut json = None;
            if needs_response {
                (body, json) = self.look_into(&head, body).await;
            }
            let said = Said { headers: Some(&head.headers), json: json.as_ref() };
            detail = if self.purge(mutation, &said).await { "purged" } else { "purge-owed" };
        }
        match self.passed_on(Response::from_parts(head, body), wish) {
            Ok(response) => Answer::forwarded(response, Outcome::Mutation, Forward::Method, Some(detail)),
            Err(failure) => Answer::failed(&failure, Forward::Method),
        }
    }

    /// The response's content as JSON, if it is that, whole and within the limit; and the content itself, intact.
    async fn look_into(&self, head: &response::Parts, body: Body) -> (Body, Option<Value>) {
        if head.headers.contains_key(header::CONTENT_ENCODING) || is_event_stream(&head.headers) {
            return (body, None);
        }
        match read_up_to(body, self.config.max_tag_body, Duration::ZERO).await {
            Buffered::Whole(bytes) => {
                let json = within(&bytes, self.config.max_tag_body);
                (Body::full(bytes), json)
            }
            Buffered::Partly(body) => (body, None),
        }
    }

    /// Publishes the purge; true = it is in the log.
    async fn purge(&self, mutation: &Mutation, said: &Said<'_>) -> bool {
        let view = self.store.coherence().view().clone();
        let set = self.tags(mutation, said, &view.secret);
        tracing::debug!(method = %mutation.parts.method, path = mutation.path, tags = ?set.names, "purge");
        let event = Event {
            kind: EventKind::Purge,
            tags: set.tags,
            hashed_with: view.secret_id,
            rules: mutation.policy.tags.fingerprint,
            ..Event::default()
        };
        let mut event = event;
        let rules = mutation.policy.tags.matching(&mutation.parts, &mutation.host);
        let settle = rules.iter().map(|(rule, _)| rule.settle).max().unwrap_or_default();
        drop(rules);
        if !settle.is_zero() {
            event.settle = Settle::For(u64::try_from(settle.as_millis()).unwrap_or(u64::MAX));
        }
        !self.store.publish(event, None).await.is_owed()
    }

    fn tags(&self, mutation: &Mutation, said: &Said<'_>, secret: &[u8; 32]) -> TagSet {
        let plan = &mutation.policy.tags;
        let rules: Vec<(&PurgeRule, PathParams)> = plan.matching(&mutation.parts, &mutation.host);
        let sent: Option<Bytes> = mutation.captured.as_ref().and_then(Capture::whole);
        let request = sent.and_then(|b| within(&b, self.config.max_tag_body));
        let none = PathParams::default();
        let facts = Facts {
            params: &none,
            path: &mutation.path,
            query: &mutation.query,
            headers: &mutation.parts.headers,
            subject: None,
            request: request.as_ref().map_or(Json::Unknown, Json::Known),
            response: said.json.map_or(Json::Unknown, Json::Known),
        };
        let keys = self.keys.load();
        plan.mutation_tags(secret, &rules, &facts, &mutation.host, said.headers, &keys, self.clock.now())
    }
}

/// A plain refusal: the backend answered the sole attempt, and said that it did nothing. 408, 409, 425 and 429 may
/// come after something was done.
fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn only_plain_refusals_purge_nothing() {
        for (code, refused) in
            [(200, false), (303, false), (400, true), (403, true), (404, true), (408, false)]
        {
            assert_eq!(is_refusal(StatusCode::from_u16(code).unwrap()), refused, "{code}");
        }
        for code in [409, 425, 429, 500, 503] {
            assert!(!is_refusal(StatusCode::from_u16(code).unwrap()), "{code}");
        }
    }

    #[test]
    fn unknown_methods_are_mutations() {
        assert!(!super::super::is_safe(&Method::from_bytes(b"FROBNICATE").unwrap()));
        assert!(super::super::is_safe(&Method::GET));
    }
}
