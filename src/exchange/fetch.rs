//! A fetch: forward, judge the head, stream to the client while the store's copy fills.
//!
//! Invariants:
//! - The stamp is sampled before the first byte goes upstream (it comes with the [`Lead`]).
//! - What cannot be proved whole is not kept: a cut-off, an over-long or a close-delimited body is never stored.
//! - The entry is in the store before the client sees the end of its body.
//! - The fetch runs in a task of its own: a client that leaves ends it only when nothing could be stored anyway.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join;
use http::{HeaderMap, Response, StatusCode, header, response};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::oneshot;

use super::answer::Failure;
use super::coalesce::{Landing, Lead};
use super::relay::{RelaySender, relay};
use super::wanted::Wanted;
use super::{Exchange, forwarded, heard};
use crate::body::Body;
use crate::coherence::Liveness;
use crate::interim::Listener;
use crate::policy::json::parse_strict;
use crate::policy::tags::Json;
use crate::semantics::cache_control::RequestDirectives;
use crate::semantics::stored::{Lifetimes, StoredResponse};
use crate::semantics::storing::{NotStored, admit};
use crate::semantics::timestamp::Timestamp;
use crate::semantics::validation::{conditional_fields, freshen, selects};
use crate::semantics::vary::{Selecting, Vary};
use crate::store::Entry;
use crate::upstream::CloseDelimited;

/// What the client that began the fetch gets.
pub(crate) enum Arrived {
    /// A response on its way; `stored` says why not, if not.
    Streaming { head: response::Parts, body: Body, stored: Result<(), &'static str>, first_byte: Duration },
    /// The upstream vouched for the stored response (304).
    Validated { entry: Arc<Entry>, stored: bool, first_byte: Duration },
    /// No answer.
    Failed { failure: Failure, first_byte: Duration },
}

/// A stored response to be validated; `purged` = a purge has voided it, only its ETag may vouch for it.
#[derive(Clone)]
pub(crate) struct Validator {
    pub(crate) entry: Arc<Entry>,
    pub(crate) purged: bool,
}

/// One fetch.
pub(crate) struct Fetch {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) lead: Lead,
    pub(crate) validator: Option<Validator>,
    /// Something stored may stand in for a server error: one is not stored in its place.
    pub(crate) spares: bool,
    /// Hears what comes before the response.
    pub(crate) interim: Option<Listener>,
}

/// When a request went, with which fields, and when its response came.
struct Sent {
    fields: HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
    first_byte: Duration,
}

impl Fetch {
    /// Starts it in a task of its own.
    pub(crate) fn start(self) -> oneshot::Receiver<Arrived> {
        let (client, receiver) = oneshot::channel();
        let tasks = self.exchange.tasks.clone();
        tasks.spawn(self.run(client));
        receiver
    }

    async fn run(mut self, client: oneshot::Sender<Arrived>) {
        self.doubt_validator();
        let (result, sent) = self.send().await;
        match result {
            Err(failure) => {
                self.lead.land(Landing::Failed(failure.clone()));
                let _ = client.send(Arrived::Failed { failure, first_byte: sent.first_byte });
            }
            Ok(response) if response.status() == StatusCode::NOT_MODIFIED && self.validator.is_some() => {
                self.validated(response, sent, client).await;
            }
            Ok(response) => self.arrived(response, sent, client).await,
        }
    }

    /// A purge may have come between the look-up and the stamp: what came before the stamp must count here, as what
    /// comes after it voids the stamp. It is judged as of the take-off, not of the leader's arrival: whoever arrives in
    /// between may take the result on the strength of order alone, and may know of what was answered in between. Without
    /// a lease then, nobody here does, and only an `ETag` may vouch. And where there is nothing to ask, no 304 can be the
    /// answer.
    fn doubt_validator(&mut self) {
        let began = self.lead.began();
        if let Some(Validator { entry, purged }) = &mut self.validator {
            let liveness = self.exchange.store.coherence().reusable(&entry.stamp, &entry.tags, began);
            *purged |= liveness != Liveness::Live;
            if conditional_fields(&entry.response, *purged).is_empty() {
                self.validator = None;
            }
        }
    }

    /// Sends the request; when a 304 vouches for another response than ours, once more without conditions.
    async fn send(&mut self) -> (Result<Response<Body>, Failure>, Sent) {
        loop {
            let validator = self.validator.as_ref();
            let mut request = self
                .wanted
                .upstream_request(&self.exchange, validator.map(|v| (&v.entry.response, v.purged)));
            request.extensions_mut().extend(heard(self.interim.clone()));
            let fields = request.headers().clone();
            let (began, request_time) = (self.exchange.clock.elapsed(), self.exchange.clock.now());
            let result = self.exchange.upstream.send(request).await;
            let first_byte = self.exchange.clock.elapsed().saturating_sub(began);
            let sent = Sent { fields, request_time, response_time: self.exchange.clock.now(), first_byte };
            let status = result.as_ref().ok().map(|r| r.status().as_u16());
            self.exchange.metrics.upstream(status, first_byte);
            match result {
                Ok(response)
                    if response.status() == StatusCode::NOT_MODIFIED
                        && validator.is_some_and(|v| !selects(&v.entry.response, response.headers())) =>
                {
                    self.validator = None;
                }
                Ok(response) => return (Ok(response), sent),
                Err(error) => {
                    let failure = Failure::of(&error, &self.wanted.parts.method, &self.wanted.path);
                    return (Err(failure), sent);
                }
            }
        }
    }

    /// A 304: the stored response lives on with this fetch's stamp and its tags made anew.
    async fn validated(mut self, response: Response<Body>, sent: Sent, client: oneshot::Sender<Arrived>) {
        let Some(validator) = self.validator.take() else { return };
        let terms = &self.wanted.terms;
        let old = &validator.entry.response;
        let (fresh, storable) = freshen(
            old,
            &self.wanted.parts,
            response.headers(),
            sent.request_time,
            sent.response_time,
            terms,
        );
        let mut entry = self.entry(fresh, response.headers());
        // A 304 need not repeat the fields that carry tags: what could purge the response before still can.
        entry.tags = entry
            .tags
            .iter()
            .chain(&validator.entry.tags)
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let first_byte = sent.first_byte;
        let storable = storable
            .map_err(|why| (why.as_str(), why.is_of_the_request()))
            .and_then(|()| self.selects_among_clients(&entry.response.selecting).map_err(|why| (why, false)));
        match storable {
            Ok(()) => {
                if entry.storage_key() != validator.entry.storage_key() {
                    // It is selected by more now, and what it was must not answer those it is not for any more.
                    self.exchange.store.remove(&entry.key, &entry.route).await;
                }
                let entry = self.exchange.store.insert(entry);
                self.lead.land(Landing::Stored(Arc::clone(&entry)));
                let _ = client.send(Arrived::Validated { entry, stored: true, first_byte });
            }
            Err((reason, of_the_request)) => {
                self.not_shareable(reason, true);
                let entry = Arc::new(entry);
                let validated = Arrived::Validated { entry: Arc::clone(&entry), stored: false, first_byte };
                let answer = async { drop(client.send(validated)) };
                if of_the_request {
                    return answer.await;
                }
                // The stored response "MUST" take these fields (RFC 9111 §4.3.4), and with them it is not stored: in
                // memory not when the client is answered, in Redis as soon as that may be.
                join(self.exchange.store.remove(&entry.key, &entry.route), answer).await;
            }
        }
    }

    /// A response with content of its own.
    async fn arrived(mut self, response: Response<Body>, sent: Sent, client: oneshot::Sender<Arrived>) {
        let (head, body) = response.into_parts();
        let first_byte = sent.first_byte;
        match self.judge(&head, &body, &sent) {
            Err(reason) => {
                // A failing backend or one client's wish says nothing about the next answer.
                let lasting = !head.status.is_server_error() && !forbids_storing(&self.wanted);
                self.not_shareable(reason, lasting);
                let head = self.outward(head);
                let _ = client.send(Arrived::Streaming { head, body, stored: Err(reason), first_byte });
            }
            Ok((lifetimes, selecting)) => {
                let received = head.headers.clone();
                let (status, hint) = (head.status, body.size_hint());
                let (tx, rx) = relay(hint);
                let arrived = Arrived::Streaming {
                    head: self.outward(head),
                    body: Body::stream(rx),
                    stored: Ok(()),
                    first_byte,
                };
                let _ = client.send(arrived);
                let plan = Plan { status, received, lifetimes, selecting, sent };
                self.fill(body, tx, plan).await;
            }
        }
    }

    /// Whether and how the response may be stored, from its head.
    fn judge(
        &self,
        head: &response::Parts,
        body: &Body,
        sent: &Sent,
    ) -> Result<(Lifetimes, Selecting), &'static str> {
        let wanted = &self.wanted;
        if is_event_stream(&head.headers) {
            // Its end may never come: nobody should wait for it, and it should not outlive its client.
            return Err("event-stream");
        }
        if head.status.as_u16() >= 500 && self.spares {
            return Err(NotStored::ServerError.as_str());
        }
        let lifetimes = admit(
            &wanted.parts.method,
            &sent.fields,
            head.status,
            &head.headers,
            sent.request_time,
            sent.response_time,
            &wanted.terms,
        )
        .map_err(NotStored::as_str)?;
        let selecting = match Vary::of(&head.headers, &wanted.route.vary) {
            Vary::None => Selecting::default(),
            Vary::Fields(fields) => Selecting::from_request(&fields, &wanted.parts.headers),
            Vary::Any => return Err("vary-any"),
        };
        self.selects_among_clients(&selecting)?;
        if body.size_hint().lower() > wanted.route.max_body {
            return Err("too-large");
        }
        if head.extensions.get::<CloseDelimited>().is_some() {
            // A content that ends with its connection might as well have been cut off.
            return Err("close-delimited");
        }
        Ok((spread(lifetimes, wanted.route.jitter, sent.response_time, &wanted.key), selecting))
    }

    /// What varies by a field that Weir adds for each client cannot be told apart by what clients send.
    fn selects_among_clients(&self, selecting: &Selecting) -> Result<(), &'static str> {
        let any_host = self.wanted.route.any_host;
        let added = selecting.names().any(|name| forwarded::is_added_here(name, any_host));
        if added { Err("vary-client") } else { Ok(()) }
    }

    /// Reads the content to its end, for the store and for the client. What a slow client has yet to take stays
    /// counted as buffered. What ends the content is passed on only
    /// when the entry is stored: a client that knows the length sees its end there.
    async fn fill(mut self, mut body: Body, client: RelaySender, plan: Plan) {
        let mut copy = Copy::new(&self.exchange, self.wanted.route.max_body);
        let mut last = None;
        loop {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref()
                        && let Err((reason, buffered)) = copy.push(data)
                    {
                        client.keep(buffered);
                        self.not_shareable(reason, true);
                    }
                    if body.is_end_stream() {
                        last = Some(frame);
                        break;
                    }
                    client.push(frame);
                    if !copy.filling() && !client.drained().await {
                        return;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(path = self.wanted.path, "the upstream's body broke off: {error}");
                    self.exchange.metrics.not_stored("cut-off");
                    self.lead.land(Landing::Failed(CUT_OFF));
                    client.finish(Err(error.to_string()));
                    return;
                }
                None => break,
            }
        }
        if let Some((content, buffered)) = copy.finish() {
            client.keep(buffered);
            self.store(content, plan);
        }
        if let Some(frame) = last {
            client.push(frame);
        }
        client.finish(Ok(()));
    }

    fn store(&mut self, content: Bytes, plan: Plan) {
        let response = StoredResponse::new(
            plan.status,
            plan.received.clone(),
            content,
            plan.sent.request_time,
            plan.sent.response_time,
            plan.lifetimes,
            plan.selecting,
        );
        let entry = self.exchange.store.insert(self.entry(response, &plan.received));
        self.lead.land(Landing::Stored(entry));
        self.exchange.hit_for_miss.remove(&self.wanted.key);
    }

    /// An entry with this fetch's stamp and the tags its response gives it.
    fn entry(&self, response: StoredResponse, received: &HeaderMap) -> Entry {
        let (exchange, wanted) = (&self.exchange, &self.wanted);
        let plan = &exchange.policy.tags;
        let request_json = wanted.request_json();
        let response_json = plan
            .route_needs_response(&wanted.route)
            .then(|| within(&response.body, exchange.config.max_tag_body))
            .flatten();
        let facts = wanted.facts(
            request_json.as_ref().map_or(Json::Unknown, Json::Known),
            response_json.as_ref().map_or(Json::Unknown, Json::Known),
        );
        let secret = exchange.store.coherence().view().secret;
        let tags = plan.entry_tags(&secret, &wanted.route, &facts, received);
        Entry {
            key: wanted.key,
            route: Arc::clone(&wanted.route.name),
            stamp: self.lead.stamp(),
            tags: tags.into(),
            response,
            last_live: AtomicU64::new(0),
        }
    }

    /// Ends the flight without anything to share; where that will likely be so again, it is remembered for a while.
    fn not_shareable(&mut self, reason: &'static str, lasting: bool) {
        self.exchange.metrics.not_stored(reason);
        if lasting {
            let until = self.exchange.clock.elapsed() + self.exchange.config.hit_for_miss;
            self.exchange.hit_for_miss.insert(self.wanted.key, until);
        }
        self.lead.land(Landing::NotShareable);
    }

    fn outward(&self, mut head: response::Parts) -> response::Parts {
        forwarded::prepare_response(&mut head, &self.exchange.config.name);
        head
    }
}

const CUT_OFF: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "upstream-cut-off",
    detail: "The upstream's response broke off.",
};

/// What is known of an entry-to-be before its content.
struct Plan {
    status: StatusCode,
    received: HeaderMap,
    lifetimes: Lifetimes,
    selecting: Selecting,
    sent: Sent,
}

/// The store's copy of a content on its way, within the route's and the process' limits.
struct Copy {
    /// `None` = given up.
    filling: Option<(Vec<Bytes>, Reserved)>,
    limit: u64,
    budget: u64,
}

impl Copy {
    fn new(exchange: &Exchange, limit: u64) -> Copy {
        let reserved = Reserved { bytes: 0, all: Arc::clone(&exchange.filling) };
        Copy { filling: Some((Vec::new(), reserved)), limit, budget: exchange.config.max_fill_bytes }
    }

    fn filling(&self) -> bool {
        self.filling.is_some()
    }

    /// Takes a chunk, or gives the copy up and says why; what it had reserved comes back.
    fn push(&mut self, data: &Bytes) -> Result<(), (&'static str, Reserved)> {
        let Some((mut chunks, mut reserved)) = self.filling.take() else { return Ok(()) };
        let all = reserved.add(data.len() as u64);
        if reserved.bytes > self.limit {
            return Err(("too-large", reserved));
        }
        if all > self.budget {
            return Err(("fill-budget", reserved));
        }
        chunks.push(data.clone());
        self.filling = Some((chunks, reserved));
        Ok(())
    }

    fn finish(self) -> Option<(Bytes, Reserved)> {
        let (mut chunks, reserved) = self.filling?;
        if chunks.len() == 1 {
            return chunks.pop().map(|whole| (whole, reserved));
        }
        let mut all = BytesMut::with_capacity(usize::try_from(reserved.bytes).unwrap_or(0));
        chunks.iter().for_each(|c| all.extend_from_slice(c));
        Some((all.freeze(), reserved))
    }
}

/// Bytes of the process' budget for buffering; given back when dropped.
pub(super) struct Reserved {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Reserved {
    /// Adds to it, within the budget or not; returns what is reserved by all.
    fn add(&mut self, more: u64) -> u64 {
        self.bytes += more;
        self.all.fetch_add(more, Ordering::Relaxed) + more
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether the content is a stream of events, without an end of its own (WHATWG HTML §9.2).
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|line| {
        let kind = line.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// The client's own `no-store` (RFC 9111 §5.2.1.5).
pub(crate) fn forbids_storing(wanted: &Wanted) -> bool {
    RequestDirectives::of(&wanted.parts.headers).no_store
}

/// JSON of a content that is small enough to look into.
pub(crate) fn within(content: &[u8], limit: u64) -> Option<serde_json::Value> {
    (content.len() as u64 <= limit).then(|| parse_strict(content)).flatten()
}

/// Spreads freshness by ±`jitter`, so that what was stored together does not expire together. What spreads is the
/// key and the moment: no randomness is needed, only difference.
fn spread(
    mut lifetimes: Lifetimes,
    jitter: f64,
    at: Timestamp,
    key: &crate::policy::key::CacheKey,
) -> Lifetimes {
    if jitter > 0.0 {
        let mut seed = [0u8; 8];
        seed.copy_from_slice(&key.0[..8]);
        let mixed = (u64::from_le_bytes(seed) ^ at.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        let unit = mixed as f64 / (1u64 << 53) as f64;
        lifetimes.fresh = lifetimes.fresh.mul_f64(1.0 + jitter.min(0.5) * (2.0 * unit - 1.0));
    }
    lifetimes
}
