//! A fetch: forward, judge the head, stream to the client while the store's copy fills.
//!
//! Invariants:
//! - The stamp is sampled before the first byte goes upstream (it comes with the [`Lead`]).
//! - What cannot be proved whole is not kept: a cut-off, an over-long or a close-delimited body is never stored.
//! - The entry is in the store before the client sees the end of its body.
//! - The fetch belongs to its flight: a client that leaves ends it only when nothing could be stored anyway.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join;
use http::{HeaderMap, Method, Response, StatusCode, header, response};
use http_body::{Body as _, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::answer::Failure;
use super::coalesce::{Landing, Lead};
use super::fill::{Coder, Outlet, Plan};
use super::relay::relay;
use super::wanted::Wanted;
use super::{Exchange, forwarded};
use crate::body::Body;
use crate::coherence::Liveness;
use crate::interim::Listener;
use crate::policy::json::parse_strict;
use crate::policy::lifetime::{seed, spread};
use crate::semantics::cache_control::RequestDirectives;
use crate::semantics::fields::is_event_stream;
use crate::semantics::stored::{Lifetimes, StoredResponse};
use crate::semantics::storing::{Asked, NotStored, admit_asked, stated_lifetime};
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

fn tell(client: oneshot::Sender<Arrived>, arrived: Arrived) {
    // The client may have left.
    let _ = client.send(arrived);
}

/// A fetch that has begun, for whoever waits for its response.
///
/// Who waits carries it out in its own task, which saves a short fetch a task and the wake-ups between two. It belongs
/// to its flight nevertheless: what is left of it when this is dropped, because the response has arrived or because who
/// waited leaves, goes on in a task of its own.
pub(crate) struct Underway {
    /// `None` once it has ended.
    run: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Told in `run` alone.
    arrived: oneshot::Receiver<Arrived>,
    tasks: TaskTracker,
    /// A shutdown waits for it wherever it runs.
    _counted: TaskTrackerToken,
}

impl Future for Underway {
    /// An error: it has ended without a word.
    type Output = Result<Arrived, Lost>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(mut run) = this.run.take() {
            // As in a task of its own: a panic ends the fetch, hence its flight, and nothing else.
            match catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx))) {
                Ok(Poll::Pending) => this.run = Some(run),
                Ok(Poll::Ready(())) | Err(_) => {}
            }
        }
        match this.arrived.try_recv() {
            Ok(arrived) => Poll::Ready(Ok(arrived)),
            Err(TryRecvError::Empty) if this.run.is_some() => Poll::Pending,
            Err(_) => Poll::Ready(Err(Lost)),
        }
    }
}

impl Underway {
    /// Leaves what is left of it to a task.
    fn go_on(&mut self) {
        // Without a runtime the process is at its end.
        if let Some(run) = self.run.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(run, &runtime);
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// A fetch ended without a word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lost;

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

/// What a request that went said about storing, when it went, and when its response came.
pub(super) struct Sent {
    asked: Asked,
    pub(super) request_time: Timestamp,
    pub(super) response_time: Timestamp,
    first_byte: Duration,
}

impl Fetch {
    /// Starts it.
    pub(crate) fn start(self) -> Underway {
        let (client, arrived) = oneshot::channel();
        let tasks = self.exchange.tasks.clone();
        Underway { _counted: tasks.token(), tasks, run: Some(Box::pin(self.run(client))), arrived }
    }

    async fn run(mut self, client: oneshot::Sender<Arrived>) {
        self.doubt_validator();
        let (result, sent) = self.send().await;
        match result {
            Err(failure) => {
                self.lead.land(Landing::Failed(failure.clone()));
                tell(client, Arrived::Failed { failure, first_byte: sent.first_byte });
            }
            Ok(response) if response.status() == StatusCode::NOT_MODIFIED && self.validator.is_some() => {
                Box::pin(self.validated(response, sent, client)).await;
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
            let liveness = self.exchange.store.coherence().reusable(&entry.stamp(), &entry.tags, began);
            *purged |= liveness != Liveness::Live;
            if conditional_fields(&entry.response, *purged).is_empty() {
                self.validator = None;
            }
        }
    }

    /// Sends the request; when a 304 vouches for another response than ours, once more without conditions. So, too, when
    /// a condition is taken for what it means with other methods than GET: 412 (RFC 9110 §13.1.2), which is no answer to
    /// who set none.
    async fn send(&mut self) -> (Result<Response<Body>, Failure>, Sent) {
        loop {
            let validator = self.validator.as_ref();
            let request = self
                .wanted
                .upstream_request(&self.exchange, validator.map(|v| (&v.entry.response, v.purged)));
            let asked = Asked::of(request.headers());
            let (began, request_time) = (self.exchange.clock.elapsed(), self.exchange.clock.now());
            let result = self.exchange.upstream.send(request, self.interim.clone()).await;
            let first_byte = self.exchange.clock.elapsed().saturating_sub(began);
            let sent = Sent { asked, request_time, response_time: self.exchange.clock.now(), first_byte };
            let status = result.as_ref().ok().map(|r| r.status().as_u16());
            self.exchange.metrics.upstream(status, first_byte);
            match result {
                Ok(response)
                    if response.status() == StatusCode::NOT_MODIFIED
                        && validator.is_some_and(|v| !selects(&v.entry.response, response.headers())) =>
                {
                    self.validator = None;
                }
                Ok(response)
                    if response.status() == StatusCode::PRECONDITION_FAILED && validator.is_some() =>
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
        let (mut fresh, storable) = freshen(
            old,
            &self.wanted.parts,
            response.headers(),
            sent.request_time,
            sent.response_time,
            terms,
        );
        self.wanted.spread(&mut fresh);
        let mut entry = self.entry(fresh, response.headers());
        // A 304 need not repeat the fields that carry tags: what could purge the response before still can.
        entry.inherit_tags(&validator.entry);
        let first_byte = sent.first_byte;
        let storable = storable.map_err(|why| (why.as_str(), why.is_of_one_exchange())).and_then(|()| {
            let selects = self.wanted.selects_among_clients(entry.response.selecting());
            selects.map_err(|why| (why, false))
        });
        match storable {
            Ok(()) => {
                let taken = self.exchange.take_place(&self.wanted, &validator.entry, entry);
                self.exchange.hit_for_miss.remove(&self.wanted.key);
                self.lead.land(taken.landing());
                tell(client, Arrived::Validated { entry: taken.entry, stored: true, first_byte });
            }
            Err((reason, of_one_exchange)) => {
                self.not_shareable(reason, !of_one_exchange);
                let entry = Arc::new(entry);
                let validated = Arrived::Validated { entry: Arc::clone(&entry), stored: false, first_byte };
                let answer = async { tell(client, validated) };
                if of_one_exchange {
                    return answer.await;
                }
                // The stored response "MUST" take these fields (RFC 9111 §4.3.4), and with them it is not stored: in
                // memory not when the client is answered, in Redis as soon as that may be.
                join(self.exchange.end(&self.wanted, &validator.entry), answer).await;
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
                // What its client would have got coded from the backend, it gets coded from here.
                let coder = Coder::of(&self, &head, body.size_hint().exact(), false);
                let mut head = self.outward(head);
                let body = match coder {
                    Some(coder) => {
                        coder.dress(&mut head.headers);
                        coder.encode(body)
                    }
                    None => body,
                };
                tell(client, Arrived::Streaming { head, body, stored: Err(reason), first_byte });
            }
            Ok((lifetimes, selecting)) => {
                let mut hint = body.size_hint();
                let coder = Coder::of(&self, &head, hint.exact(), true);
                let here = if let Body::Full(content) = &body { content.as_ref() } else { None };
                let plan = Plan::of(&head, here.filter(|_| coder.is_none()), &sent, lifetimes, selecting);
                let mut outward = self.outward(head);
                if let Some(coder) = &coder {
                    coder.dress(&mut outward.headers);
                    // How long the coded content will be is not known.
                    if coder.serves_client() {
                        hint = SizeHint::default();
                    }
                }
                let arrived = |body, stored| Arrived::Streaming { head: outward, body, stored, first_byte };
                match body {
                    Body::Full(Some(content)) if coder.is_none() => {
                        let stored = self.fill_at_once(&content, plan);
                        tell(client, arrived(Body::full(content), stored));
                    }
                    body => {
                        let (tx, rx) = relay(hint);
                        tell(client, arrived(Body::stream(rx), Ok(())));
                        // What is here already needs no room for that.
                        Box::pin(self.fill(body, Outlet::new(tx, coder), plan)).await;
                    }
                }
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
        let lifetimes = admit_asked(
            &wanted.parts.method,
            sent.asked,
            head.status,
            &head.headers,
            sent.request_time,
            sent.response_time,
            &wanted.terms,
        )
        .map_err(NotStored::as_str)?;
        let vary =
            Vary::of(&head.headers, &wanted.route.vary).by_coding(&head.headers, wanted.terms.asks_uncoded);
        let selecting = match vary {
            Vary::None => Selecting::default(),
            Vary::Fields(fields) => Selecting::from_request(&fields, &wanted.parts.headers),
            Vary::Any => return Err("vary-any"),
        };
        self.wanted.selects_among_clients(&selecting)?;
        if body.size_hint().lower() > wanted.route.max_body {
            return Err("too-large");
        }
        if body.size_hint().lower() > wanted.route.fetch_whole
            && wanted.parts.method == Method::GET
            && wanted.parts.headers.contains_key(header::RANGE)
        {
            return Err(PART_OF_MUCH);
        }
        if head.extensions.get::<CloseDelimited>().is_some() {
            // A content that ends with its connection might as well have been cut off.
            return Err("close-delimited");
        }
        if wanted.route.jitter <= 0.0 {
            return Ok((lifetimes, selecting));
        }
        let stated = stated_lifetime(&head.headers, sent.response_time, &wanted.terms);
        let seed = seed(&wanted.key, sent.response_time);
        Ok((spread(lifetimes, wanted.route.jitter, stated, seed), selecting))
    }

    /// An entry with this fetch's stamp and the tags its response gives it.
    pub(super) fn entry(&self, response: StoredResponse, received: &HeaderMap) -> Entry {
        self.wanted.entry(&self.exchange, self.lead.stamp(), response, received)
    }

    /// Ends the flight without anything to share; where that will likely be so again, it is remembered for a while.
    pub(super) fn not_shareable(&mut self, reason: &'static str, lasting: bool) {
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

/// Not stored: a part was asked for, and the whole is larger than what the operator would have fetched for that.
pub(crate) const PART_OF_MUCH: &str = "part-of-much";

/// The client's own `no-store` (RFC 9111 §5.2.1.5).
pub(crate) fn forbids_storing(wanted: &Wanted) -> bool {
    RequestDirectives::of(&wanted.parts.headers).no_store
}

/// JSON of a content that is small enough to look into.
pub(crate) fn within(content: &[u8], limit: u64) -> Option<serde_json::Value> {
    (content.len() as u64 <= limit).then(|| parse_strict(content)).flatten()
}
