//! A mutation: say that it is coming, forward it, purge what it makes untrue, then answer (DESIGN §4.4).
//!
//! ```text
//!  intend ─┬─ refused ───────────────────────────────────────────────────────────────► 503, nothing was sent
//!          └─► forward ─┬─ never sent, or plainly refused ─► withdraw ───────────────► the answer
//!                       └─ anything else, nothing, a panic ─► publish ─┬─ everywhere ─► the answer
//!                                                                      ├─ owed ───────► the answer
//!                                                                      └─ unconfirmed ► 504
//! ```
//!
//! Invariants:
//! - The whole of it runs in a task that no client can cancel; shutdown waits for it.
//! - Before the first byte goes upstream the log knows the widest that this mutation may purge: should this process end,
//!   whoever evicts it purges that.
//! - The answer leaves only after the purge has reached everybody, or is in force here and owed to the log.
//! - An unknown outcome (timeout, 5xx, a broken connection, a panic) purges like a success, with unknown values widened
//!   to their family. Only a plain refusal of the sole attempt purges nothing.
//!
//! What it lacks: the paths that `Location` and `Content-Location` of an answer name that never came. They are no family
//! that could be named instead.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join;
use http::{HeaderMap, Request, Response, StatusCode, header, request, response};
use serde_json::Value;

use super::answer::{Answer, Failure};
use super::buffer::{Buffered, Capture, capturing, read_up_to};
use super::fetch::within;
use super::problem::problem;
use super::upgrade::Wish;
use super::{Exchange, Inbound};
use crate::body::Body;
use crate::coherence::event::Settle;
use crate::coherence::{Event, EventKind};
use crate::interim::Listener;
use crate::policy::Policy;
use crate::policy::path::{self, PathParams};
use crate::policy::query::QueryRules;
use crate::policy::tags::{Facts, Json, PurgeRule, TagSet, TagTemplate};
use crate::semantics::cache_status::{Forward, Outcome};
use crate::semantics::fields::is_event_stream;
use crate::store::{Intent, Reach};

const LOST: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "mutation-lost",
    detail: "The request ended without a result; it may or may not have been carried out.",
};

const UNCONFIRMED: Failure = Failure {
    status: StatusCode::GATEWAY_TIMEOUT,
    token: "purge-unconfirmed",
    detail: "The request was carried out, or may have been, but the purge that follows it could not be confirmed: \
             others may still be answered with older data.",
};

/// What of a mutation outlives its forwarding.
struct Mutation {
    policy: Arc<Policy>,
    parts: request::Parts,
    host: String,
    path: String,
    query: String,
    captured: Option<Capture>,
    /// Tags are read from the response's content.
    needs_response: bool,
}

/// A mutation on its way to the backend.
struct Outbound {
    request: Request<Body>,
    wish: Wish,
    /// Hears what comes before the answer.
    interim: Option<Listener>,
}

/// What the backend made of it.
struct Carried {
    answer: Result<Response<Body>, Failure>,
    /// What to publish; `None` = nothing was done.
    purges: Option<Purges>,
    first_byte: Duration,
}

/// One or two events: what becomes void, and what becomes stale.
struct Purges {
    first: Option<Event>,
    last: Event,
}

/// A response's share in the tags.
#[derive(Clone, Copy)]
struct Said<'a> {
    headers: Option<&'a HeaderMap>,
    json: Option<&'a Value>,
}

/// No response, or none that could be read.
const NOTHING: Said<'_> = Said { headers: None, json: None };

impl Exchange {
    /// Forwards an unsafe request and purges what its rules (and RFC 9111 §4.4) name.
    pub(crate) async fn mutate(self: &Arc<Self>, inbound: Inbound) -> Answer {
        let interim = inbound.interim.listen(&self.via).await;
        let exchange = Arc::clone(self);
        // Spawned: a client that leaves drops only the handle.
        match self.tasks.spawn(async move { exchange.carry_out(inbound, interim).await }).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!("a mutation's task failed: {error}");
                Answer::failed(&LOST, Forward::Method)
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, inbound: Inbound, interim: Option<Listener>) -> Answer {
        let (mutation, outbound) = self.prepare(inbound, interim);
        let asked = self.clock.elapsed();
        let intended = self.store.intend(self.widest(&mutation)).await;
        let mut waited = self.clock.elapsed().saturating_sub(asked);
        let Ok(intent) = intended else {
            self.metrics.mutation_wait(waited);
            return refused_unreachable();
        };
        // A defect here must not keep what the backend may have done from being purged.
        let forwarded = unless_it_panics(self.forward(&mutation, outbound)).await;
        let outcome = forwarded.unwrap_or_else(|| {
            let purges = Some(Purges { first: None, last: self.widest(&mutation) });
            Carried { answer: Err(LOST), purges, first_byte: Duration::ZERO }
        });
        let came = self.clock.elapsed();
        let reach = match outcome.purges {
            Some(purges) => Some(self.purge(purges, intent).await),
            None => {
                self.store.withdraw(intent);
                None
            }
        };
        waited += self.clock.elapsed().saturating_sub(came);
        self.metrics.mutation_wait(waited);
        concluded(outcome.answer, reach).after(outcome.first_byte)
    }

    fn prepare(&self, inbound: Inbound, interim: Option<Listener>) -> (Mutation, Outbound) {
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
            policy,
            host,
            path: path::normalise(parts.uri.path())
                .map_or_else(|_| parts.uri.path().to_owned(), Cow::into_owned),
            query: QueryRules::default().normalise(parts.uri.query()).into_owned(),
            captured,
            needs_response,
            parts: parts.clone(),
        };
        self.make_forwardable(&mut parts, peer);
        wish.restore(&mut parts.headers);
        if needs_response {
            // Tags are read from the content, so it must come uncoded.
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        (mutation, Outbound { request: Request::from_parts(parts, body), wish, interim })
    }

    async fn forward(&self, mutation: &Mutation, outbound: Outbound) -> Carried {
        let Outbound { request, wish, interim } = outbound;
        let sent = self.clock.elapsed();
        let result = self.upstream.send(request, interim).await;
        let first_byte = self.clock.elapsed().saturating_sub(sent);
        self.metrics.upstream(result.as_ref().ok().map(|r| r.status().as_u16()), first_byte);
        match result {
            Ok(response) => {
                let (response, purges) = self.read_answer(mutation, response).await;
                Carried { answer: self.passed_on(response, wish), purges, first_byte }
            }
            Err(error) => {
                let failure = Failure::of(&error, &mutation.parts.method, &mutation.path);
                let purges = (!error.never_sent()).then(|| self.purges(mutation, NOTHING));
                Carried { answer: Err(failure), purges, first_byte }
            }
        }
    }

    /// The backend answered: what is to be purged, unless it plainly refused; and the answer, intact.
    async fn read_answer(
        &self,
        mutation: &Mutation,
        response: Response<Body>,
    ) -> (Response<Body>, Option<Purges>) {
        if is_refusal(response.status()) {
            let purges = self.groups(mutation, response.headers());
            return (response, purges);
        }
        let (head, mut body) = response.into_parts();
        let mut json = None;
        if mutation.needs_response {
            (body, json) = self.look_into(&head, body).await;
        }
        let said = Said { headers: Some(&head.headers), json: json.as_ref() };
        let purges = self.purges(mutation, said);
        (Response::from_parts(head, body), Some(purges))
    }

    /// The groups that a refusal names itself: it did nothing, and yet says what is untrue.
    fn groups(&self, mutation: &Mutation, headers: &HeaderMap) -> Option<Purges> {
        let view = self.store.coherence().view().clone();
        let set = mutation.policy.tags.group_tags(&view.secret, headers)?;
        let last = mutation.event(EventKind::Purge, set, &[], view.secret_id);
        Some(Purges { first: None, last })
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

    /// Publishes, the last in fulfilment of `intent`; returns what the least fortunate has come to.
    async fn purge(&self, purges: Purges, intent: Intent) -> Reach {
        let last = self.store.publish(purges.last, Some(intent));
        let Some(first) = purges.first else { return last.await.reach };
        // Side by side, so that they wait once. The first is asked first, hence queued first: should this process end
        // between them, the intent is still there.
        let (first, last) = join(self.store.publish(first, None), last).await;
        match (first.reach, last.reach) {
            (Reach::Everywhere, reach) | (reach, Reach::Everywhere) => reach,
            (Reach::Unconfirmed, _) | (_, Reach::Unconfirmed) => Reach::Unconfirmed,
            (Reach::Owed, Reach::Owed) => Reach::Owed,
        }
    }

    /// What the request's head lets this mutation purge at the most, as one event: nothing that its bodies would tell is
    /// known yet, so each such value stands for its family.
    fn widest(&self, mutation: &Mutation) -> Event {
        let rules = mutation.rules();
        let view = self.store.coherence().view().clone();
        let set = self.tags(mutation, &rules, Json::Unknown, NOTHING, &view.secret);
        // A purge covers what a soft one would do.
        let kind = if all_soft(&rules) { EventKind::Soft } else { EventKind::Purge };
        mutation.event(kind, set, &rules, view.secret_id)
    }

    /// What it purges, from all that request and response tell: rules that are `soft` make stale, all others void, and so
    /// does its own URI unless every rule that matches is soft.
    fn purges(&self, mutation: &Mutation, said: Said<'_>) -> Purges {
        let view = self.store.coherence().view().clone();
        let sent: Option<Bytes> = mutation.captured.as_ref().and_then(Capture::whole);
        let request = sent.and_then(|b| within(&b, self.config.max_tag_body));
        let request = request.as_ref().map_or(Json::Unknown, Json::Known);
        let rules = mutation.rules();
        let event = |kind, set| mutation.event(kind, set, &rules, view.secret_id);
        if all_soft(&rules) {
            let set = self.tags(mutation, &rules, request, said, &view.secret);
            return Purges { first: None, last: event(EventKind::Soft, set) };
        }
        let (soft, hard): (Vec<_>, Vec<_>) = rules.iter().cloned().partition(|(rule, _)| rule.soft);
        let purge = event(EventKind::Purge, self.tags(mutation, &hard, request, said, &view.secret));
        if soft.is_empty() {
            return Purges { first: None, last: purge };
        }
        let facts = mutation.facts(request, said);
        let plan = &mutation.policy.tags;
        let set = plan.rule_tags(&view.secret, &soft, &facts, &self.keys.load(), self.clock.now());
        Purges { first: Some(purge), last: event(EventKind::Soft, set) }
    }

    /// The mutation's own URI, what the response's fields name, and what `rules` name.
    fn tags(
        &self,
        mutation: &Mutation,
        rules: &[(&PurgeRule, PathParams)],
        request: Json<'_>,
        said: Said<'_>,
        secret: &[u8; 32],
    ) -> TagSet {
        let (plan, keys, now) = (&mutation.policy.tags, self.keys.load(), self.clock.now());
        let facts = mutation.facts(request, said);
        plan.mutation_tags(secret, rules, &facts, &mutation.host, said.headers, &keys, now)
    }
}

/// Captures of no template.
static NO_PARAMS: std::sync::LazyLock<PathParams> = std::sync::LazyLock::new(PathParams::default);

impl Mutation {
    fn rules(&self) -> Vec<(&PurgeRule, PathParams)> {
        self.policy.tags.matching(&self.parts, &self.host)
    }

    fn facts<'a>(&'a self, request: Json<'a>, said: Said<'a>) -> Facts<'a> {
        Facts {
            params: &NO_PARAMS,
            path: &self.path,
            query: &self.query,
            headers: &self.parts.headers,
            subject: None,
            request,
            response: said.json.map_or(Json::Unknown, Json::Known),
        }
    }

    /// The event that names `set`; what `rules` ask for beside their tags goes with it.
    fn event(
        &self,
        kind: EventKind,
        set: TagSet,
        rules: &[(&PurgeRule, PathParams)],
        hashed_with: u64,
    ) -> Event {
        tracing::debug!(method = %self.parts.method, path = self.path, ?kind, tags = ?set.names, "purge");
        let settle = rules.iter().map(|(rule, _)| rule.settle).max().unwrap_or_default();
        let settle = match settle.is_zero() {
            true => Settle::AtOnce,
            false => Settle::For(u64::try_from(settle.as_millis()).unwrap_or(u64::MAX)),
        };
        let rules = self.policy.tags.fingerprint;
        Event { kind, tags: set.tags, hashed_with, rules, settle, ..Event::default() }
    }
}

/// What `work` comes to; `None` = it panicked. Nothing that it had borrowed is looked at afterwards.
async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Option<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    if done.is_err() {
        tracing::error!("a mutation's forwarding failed within Weir: all that it may concern is purged");
    }
    done.ok()
}

fn all_soft(rules: &[(&PurgeRule, PathParams)]) -> bool {
    !rules.is_empty() && rules.iter().all(|(rule, _)| rule.soft)
}

/// The log cannot be reached, and the operator wants mutations refused then: nothing went forward.
fn refused_unreachable() -> Answer {
    let response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "purge-log-unreachable",
        "The request was not carried out: the log that tells other instances what it makes untrue cannot be reached.",
    );
    let mut answer =
        Answer::forwarded(response, Outcome::Error, Forward::Method, Some("refused-unreachable"));
    answer.status.forward = None;
    answer
}

/// The backend's answer, or in its place what is to be said about the purge. `reach`: `None` = there was nothing to
/// purge.
fn concluded(answer: Result<Response<Body>, Failure>, reach: Option<Reach>) -> Answer {
    let detail = match reach {
        None => "refused",
        Some(Reach::Everywhere) => "purged",
        Some(Reach::Owed) => "purge-owed",
        // An answer would say that everybody sees what was done.
        Some(Reach::Unconfirmed) => return Answer::failed(&UNCONFIRMED, Forward::Method),
    };
    match answer {
        Ok(response) => Answer::forwarded(response, Outcome::Mutation, Forward::Method, Some(detail)),
        Err(failure) => Answer::failed(&failure, Forward::Method),
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

    #[tokio::test]
    async fn a_panic_is_an_outcome() {
        assert_eq!(unless_it_panics(async { 7 }).await, Some(7));
        assert_eq!(unless_it_panics(async { panic!("a defect") }).await, None::<u8>);
    }

    #[test]
    fn what_the_client_hears_of_its_purge() {
        let lost = || Err(LOST);
        let done = || Ok(Response::new(Body::Empty));
        for (answer, reach, status, detail) in [
            (done(), None, 200, "refused"),
            (done(), Some(Reach::Everywhere), 200, "purged"),
            (done(), Some(Reach::Owed), 200, "purge-owed"),
            (done(), Some(Reach::Unconfirmed), 504, "purge-unconfirmed"),
            (lost(), Some(Reach::Everywhere), 502, "mutation-lost"),
            (lost(), Some(Reach::Unconfirmed), 504, "purge-unconfirmed"),
        ] {
            let answer = concluded(answer, reach);
            assert_eq!((answer.response.status().as_u16(), answer.status.detail), (status, Some(detail)));
        }
    }

    #[test]
    fn unknown_methods_are_mutations() {
        assert!(!super::super::is_safe(&Method::from_bytes(b"FROBNICATE").unwrap()));
        assert!(super::super::is_safe(&Method::GET));
    }
}
