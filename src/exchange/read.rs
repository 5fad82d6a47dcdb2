//! A cacheable read: look up, reuse or join a flight, deliver.
//!
//! Every use of something stored or shared asks `Coherence::reusable`: whether this instance held its lease when the
//! request arrived or later, and then whether the marks leave the thing alive. Without a lease nothing stored answers
//! anybody (what has an `ETag` may be asked about), and a flight only those who had arrived before it took off.
//!
//! Invariants:
//! - Each answer from something stored rests on a liveness test made for its request, after that had arrived. Nothing more
//!   is needed: a mutation whose purge the test did not see is answered after the test, hence after the arrival. So a
//!   response may be judged before Redis, or another variant's decoding, is waited for.
//! - A verdict says nothing about anybody else, nor about what is made later: who takes what another waited for is judged
//!   by its own arrival, and a validator once more when its fetch has a stamp.
//! - A wait for a fetch is followed by a new test all the same: it may have lasted as long as a backend takes to fail.
//! - What a soft purge has made stale answers only where the route's stale windows allow it.
//! - A follower waits at most twice, and no longer than the configured time in all; then it goes itself.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode, header, response};

use super::answer::{Answer, Failure};
use super::coalesce::{Arrival, Flight, Landing, Lead, Passenger, Seat};
use super::deliver::{deliver, not_modified};
use super::fetch::{Arrived, Fetch, PART_OF_MUCH, Validator, forbids_storing};
use super::shared::Begun;
use super::wanted::{Unwanted, Wanted};
use super::{Exchange, Inbound, Known};
use crate::body::Body;
use crate::coherence::{Liveness, Void};
use crate::policy::key::CacheKey;
use crate::policy::route::{Coalesce, Route};
use crate::semantics::cache_status::{CacheStatus, Forward, Outcome, ttl_seconds};
use crate::semantics::reuse::{self, Reuse, Validate};
use crate::semantics::stored::{Lifetimes, Unpacked};
use crate::semantics::validation::{Precondition, evaluate};
use crate::semantics::vary::Selecting;
use crate::store::{Absent, Entry, Lookup, Tier};

/// How often a request waits for others' fetches before it goes itself.
const WAITS: u32 = 2;

const NOT_CACHED: Failure = Failure {
    status: StatusCode::GATEWAY_TIMEOUT,
    token: "only-if-cached",
    detail: "The request asked for a stored response, and there is none to use.",
};

const LOST: Failure = Failure {
    status: StatusCode::BAD_GATEWAY,
    token: "fetch-lost",
    detail: "The fetch ended without a result.",
};

/// What the store's answer leaves to be done.
#[expect(clippy::large_enum_variant, reason = "lives for one call, on the stack")]
enum Next {
    /// Nothing: here is the answer.
    Done(Answer),
    /// Go forward, because…
    Forward(Need),
}

/// Why and how to go forward.
pub(super) struct Need {
    pub(super) forward: Forward,
    detail: Option<&'static str>,
    /// What a 304 may vouch for.
    pub(super) validator: Option<Validator>,
    /// The stale response that might stand in for a failed fetch.
    pub(super) held: Option<Arc<Entry>>,
    /// The client insists on the upstream's own word.
    insists: bool,
}

impl Need {
    fn miss(forward: Forward, detail: Option<&'static str>) -> Need {
        Need { forward, detail, validator: None, held: None, insists: false }
    }

    /// What is void or cannot be proved: only its ETag may vouch for it, and it stands in for nothing.
    fn voided(entry: Arc<Entry>, why: Void) -> Need {
        let validator = Some(Validator { entry, purged: true });
        Need { validator, ..Need::miss(Forward::Miss, Some(void_detail(why))) }
    }
}

/// The way of a request past the store.
enum Past {
    /// Its client wants what is stored or nothing.
    Nowhere,
    /// A HEAD, which tells of what is stored.
    Head,
    /// As it came, because…
    Pass(&'static str),
}

/// What a request has spent on waiting for others.
#[derive(Default)]
struct Waits {
    count: u32,
    /// When the first began, on `Clock::elapsed`.
    since: Option<Duration>,
}

/// How a wait for somebody else's fetch ended.
enum Followed {
    /// With an answer.
    Answered(Answer),
    /// It is this request's turn to fetch.
    Leads(Lead),
    /// Without either: look again.
    Again,
}

/// How a hit came about.
pub(super) fn status_of_hit(entry: &Entry, age: Duration, detail: &'static str) -> CacheStatus {
    CacheStatus {
        hit: true,
        ttl: Some(ttl_seconds(entry.response.lifetimes().fresh, age)),
        detail: Some(detail),
        ..CacheStatus::default()
    }
}

impl Exchange {
    /// Answers a request on a cached route.
    pub(super) async fn read(self: &Arc<Self>, inbound: Inbound, route: Arc<Route>, known: Known) -> Answer {
        let (wanted, found) = match known {
            Known::Identity(identity, found) => {
                (Arc::new(Wanted::new(inbound, Arc::clone(&route), *identity, None)), found)
            }
            Known::Unwanted(why) => {
                return Box::pin(self.pass(inbound, Some(route), Forward::Bypass, why)).await;
            }
            Known::Nothing => match Box::pin(self.identify(inbound, Arc::clone(&route))).await {
                Ok(wanted) => {
                    let found = self.look_near(&wanted);
                    (Arc::new(wanted), found)
                }
                Err((inbound, Unwanted::Pass(why))) => {
                    return Box::pin(self.pass(inbound, Some(route), Forward::Bypass, why)).await;
                }
                Err((inbound, Unwanted::Mutation)) => {
                    return Box::pin(self.mutate(inbound)).await.on(Some(route));
                }
            },
        };
        let show = self.config.show_key.then(|| wanted.key.hex());
        let mut answer = self.answer(wanted, found).await;
        answer.status.key = show;
        answer.on(Some(route))
    }

    /// `near` is what memory has just said.
    async fn answer(self: &Arc<Self>, wanted: Arc<Wanted>, mut near: Option<Lookup>) -> Answer {
        let mut waits = Waits::default();
        // What it has not found, it has looked for since then.
        let mut looked = wanted.arrived;
        loop {
            let need = match self.look_up(&wanted, near).await {
                Next::Done(answer) => return answer,
                Next::Forward(need) => need,
            };
            if let Some(past) = self.not_for_the_store(&wanted, &need) {
                return Box::pin(self.go_past(&wanted, &need, past)).await;
            }
            let seat = if waits.count >= WAITS || self.goes_alone(&wanted, &need) {
                Seat::Lead(self.board.alone(self.store.coherence()))
            } else {
                self.board.join(
                    flight_key(&wanted, &need),
                    wanted.arrived,
                    looked,
                    wanted.later_tags(self),
                    self.store.coherence(),
                )
            };
            match seat {
                Seat::Lead(lead) => return Box::pin(self.lead(wanted, need, lead)).await,
                Seat::Aboard(passenger) => {
                    match Box::pin(self.follow(&wanted, &need, passenger, &mut waits)).await {
                        Followed::Answered(answer) => return answer,
                        Followed::Leads(lead) => return Box::pin(self.lead(wanted, need, lead)).await,
                        Followed::Again => {}
                    }
                }
                // Once: what landed may have left nothing to find.
                Seat::LookAgain => {
                    looked = Duration::MAX;
                    near = self.look_near(&wanted);
                    continue;
                }
            }
            looked = self.clock.elapsed();
            near = self.look_near(&wanted);
        }
    }

    /// Asks memory; `None` = Redis is to be asked too.
    pub(super) fn look_near(&self, wanted: &Wanted) -> Option<Lookup> {
        self.store.lookup_memory(&wanted.key, &wanted.parts.headers, wanted.arrived, self.clock.now())
    }

    /// Asks the store, and the stored response whether it may answer.
    async fn look_up(self: &Arc<Self>, wanted: &Arc<Wanted>, near: Option<Lookup>) -> Next {
        let headers = &wanted.parts.headers;
        let found = match near {
            Some(found) => found,
            // Where there is no Redis, nobody moves the room that asking it takes.
            None => {
                Box::pin(self.store.lookup(&wanted.key, &wanted.route.name, headers, wanted.arrived)).await
            }
        };
        if let Lookup::Found(entry, Tier::Redis) = &found {
            // What another instance was told holds here too.
            self.learn(wanted, &entry.response.fields());
        }
        match found {
            Lookup::Found(entry, tier) => self.reuse(wanted, entry, tier),
            Lookup::Softened(entry, _) => self.reuse_softened(wanted, entry),
            Lookup::Voided(entry, why) => Next::Forward(Need::voided(entry, why)),
            Lookup::Absent(why) => Next::Forward(absent(why)),
        }
    }

    fn reuse(self: &Arc<Self>, wanted: &Arc<Wanted>, entry: Arc<Entry>, tier: Tier) -> Next {
        let (headers, terms) = (&wanted.parts.headers, &wanted.terms);
        match reuse::decide(&entry.response, headers, self.clock.now(), terms) {
            Reuse::Fresh { age } => {
                Next::Done(self.hit_for(wanted, &entry, age, Outcome::Hit, tier.as_str()))
            }
            Reuse::WhileRevalidate { age } => {
                let answer = self.hit_for(wanted, &entry, age, Outcome::Stale, "stale-while-revalidate");
                self.refresh(wanted, Validator { entry, purged: false });
                Next::Done(answer)
            }
            Reuse::ClientAcceptsStale { age } => {
                Next::Done(self.hit_for(wanted, &entry, age, Outcome::Stale, "max-stale"))
            }
            Reuse::MustValidate(why) => {
                let (forward, insists) = match why {
                    Validate::RequestAsks => (Forward::Request, true),
                    Validate::Stale | Validate::ResponseNoCache => (Forward::Stale, false),
                };
                let held = Some(Arc::clone(&entry));
                let validator = Some(Validator { entry, purged: false });
                Next::Forward(Need { insists, validator, held, ..Need::miss(forward, None) })
            }
            Reuse::Gone => Next::Forward(Need::miss(Forward::Stale, None)),
        }
    }

    /// What a soft purge has made stale, however fresh it is by its age. What it shows is out of date by the mutation's
    /// own word, so only its `ETag` may vouch for it.
    fn reuse_softened(self: &Arc<Self>, wanted: &Arc<Wanted>, entry: Arc<Entry>) -> Next {
        let (headers, terms) = (&wanted.parts.headers, &wanted.terms);
        match reuse::decide_stale(&entry.response, headers, self.clock.now(), terms) {
            Reuse::WhileRevalidate { age } => {
                let mut answer = self.hit_for(wanted, &entry, age, Outcome::Stale, "soft-purged");
                // Nothing is left of its freshness.
                answer.status.ttl = answer.status.ttl.map(|ttl| ttl.min(0));
                self.refresh(wanted, Validator { entry, purged: true });
                Next::Done(answer)
            }
            decided => {
                let insists = decided == Reuse::MustValidate(Validate::RequestAsks);
                let held = Some(Arc::clone(&entry));
                let validator = Some(Validator { entry, purged: true });
                let need = Need::miss(Forward::Stale, Some("soft-purged"));
                Next::Forward(Need { insists, validator, held, ..need })
            }
        }
    }

    /// How a request goes forward that will not fill the store; `None` = it may.
    fn not_for_the_store(&self, wanted: &Wanted, need: &Need) -> Option<Past> {
        let headers = &wanted.parts.headers;
        if reuse::only_if_cached(headers) {
            return Some(Past::Nowhere);
        }
        match need.detail {
            Some("disabled") => Some(Past::Pass("disabled")),
            _ if wanted.parts.method == Method::HEAD => Some(Past::Head),
            // What will not be stored is not fetched whole for the sake of a part, nor what the operator would not have
            // fetched so. What is stored may be validated: that need not bring anything.
            _ if headers.contains_key(header::RANGE)
                && (self.is_remembered(wanted)
                    || wanted.route.fetch_whole == 0
                        && wanted.parts.method == Method::GET
                        && need.validator.is_none()) =>
            {
                Some(Past::Pass("range"))
            }
            _ => None,
        }
    }

    async fn go_past(self: &Arc<Self>, wanted: &Arc<Wanted>, need: &Need, past: Past) -> Answer {
        match past {
            Past::Nowhere => Answer::failed(&NOT_CACHED, need.forward),
            Past::Head => self.ask_head(wanted, need).await,
            Past::Pass(detail) => self.pass_read(wanted, need, detail).await,
        }
    }

    /// Sends a read on as it came, but that nobody gets another form here than from the store.
    async fn pass_read(self: &Arc<Self>, wanted: &Wanted, need: &Need, detail: &'static str) -> Answer {
        let mut parts = wanted.parts.clone();
        wanted.ask_for_plain(&mut parts.headers);
        let inbound = Inbound {
            parts,
            body: wanted.body.clone().map_or(Body::Empty, Body::full),
            peer: wanted.peer,
            host: String::new(),
            arrived: wanted.arrived,
            interim: wanted.interim.clone(),
        };
        let mut answer = self.pass(inbound, None, need.forward, detail).await;
        if answer.outcome == Outcome::Pass {
            answer.outcome = Outcome::Miss;
        }
        wanted.dress_plain(answer.response.headers_mut());
        answer
    }

    /// Whether this key's last response could not be shared.
    fn is_remembered(&self, wanted: &Wanted) -> bool {
        self.hit_for_miss.get(&wanted.key).is_some_and(|until| self.clock.elapsed() < until)
    }

    /// Whether waiting for others makes no sense for this request.
    fn goes_alone(&self, wanted: &Wanted, need: &Need) -> bool {
        self.is_remembered(wanted)
            || need.insists
            || wanted.route.coalesce == Coalesce::Off
            || forbids_storing(wanted)
    }

    async fn lead(self: &Arc<Self>, wanted: Arc<Wanted>, need: Need, lead: Lead) -> Answer {
        let (held, flight) = (need.held.clone(), lead.flight());
        let fetch = Fetch {
            exchange: Arc::clone(self),
            wanted: Arc::clone(&wanted),
            lead,
            validator: need.validator.clone(),
            spares: held.as_ref().is_some_and(|entry| self.may_stand_in(&wanted, entry)),
            interim: wanted.interim.listen(&self.via).await,
        };
        let arrived = match self.begin(fetch, need.forward).await {
            Begun::Fetched(arrived) => arrived,
            Begun::Answered(answer) => return answer,
        };
        match arrived {
            Ok(Arrived::Streaming { head, body, stored, first_byte }) => {
                let failed = reuse::is_error(head.status);
                let stand_in = held.filter(|_| failed).and_then(|entry| self.stand_in(&wanted, &entry));
                if let Some(answer) = stand_in {
                    return answer.after(first_byte);
                }
                if wanted.parts.headers.contains_key(header::RANGE) && head.status == StatusCode::OK {
                    let part = self.lead_part(&wanted, &need, &flight, head, body, stored);
                    return Box::pin(part).await.after(first_byte);
                }
                streamed(&wanted, &need, head, body, stored).after(first_byte)
            }
            Ok(Arrived::Validated { entry, stored, first_byte }) => {
                let age = entry.response.current_age(self.clock.now());
                let response =
                    deliver(&wanted.parts.method, &wanted.parts.headers, &entry.response, age, &self.via);
                let mut answer = Answer::forwarded(response, Outcome::Revalidated, need.forward, need.detail);
                answer.status.forward_status = Some(StatusCode::NOT_MODIFIED.as_u16());
                answer.status.stored = stored;
                answer.age = Some(age);
                answer.after(first_byte)
            }
            Ok(Arrived::Failed { failure, first_byte }) => held
                .and_then(|entry| self.stand_in(&wanted, &entry))
                .unwrap_or_else(|| Answer::failed(&failure, need.forward))
                .after(first_byte),
            Err(_) => Answer::failed(&LOST, need.forward),
        }
    }

    /// A part of what is being fetched whole: cut from the entry once it is stored. Where none comes of it, the
    /// whole is an answer too (RFC 9110 §14.2), unless it is known to be large: then the part is asked for.
    async fn lead_part(
        self: &Arc<Self>,
        wanted: &Wanted,
        need: &Need,
        flight: &Flight,
        head: response::Parts,
        body: Body,
        stored: Result<(), &'static str>,
    ) -> Answer {
        if matches!(stored, Err("too-large" | PART_OF_MUCH)) {
            drop(body);
            return self.pass_read(wanted, need, "range").await;
        }
        if stored.is_ok()
            && let Landing::Stored(entry) = flight.landed().await
        {
            let age = entry.response.current_age(self.clock.now());
            let (method, headers) = (&wanted.parts.method, &wanted.parts.headers);
            let response = deliver(method, headers, &entry.response, age, &self.via);
            let mut answer = Answer::forwarded(response, Outcome::Miss, need.forward, need.detail);
            answer.status.stored = true;
            return answer;
        }
        streamed(wanted, need, head, body, stored)
    }

    /// Waits for somebody else's fetch, or for the turn to lead one.
    async fn follow(
        self: &Arc<Self>,
        wanted: &Arc<Wanted>,
        need: &Need,
        passenger: Passenger,
        waits: &mut Waits,
    ) -> Followed {
        let _waiting = self.metrics.waiting();
        waits.count += 1;
        let now = self.clock.elapsed();
        let since = *waits.since.get_or_insert(now);
        let left = self.config.coalesce_timeout.saturating_sub(now.saturating_sub(since));
        let after_arrival = passenger.after_arrival();
        let flown = passenger.fly(wanted.later_tags(self), self.store.coherence());
        let answer = match tokio::time::timeout(left, flown).await {
            Ok(Arrival::Leads(lead)) => return Followed::Leads(lead),
            Ok(Arrival::Landed(Landing::Stored(entry))) => self.share(wanted, need, &entry, after_arrival),
            Ok(Arrival::Landed(Landing::Found(entry))) => self.found_elsewhere(wanted, need.forward, &entry),
            Ok(Arrival::Landed(Landing::Failed(failure))) => {
                let stand_in = need.held.as_ref().and_then(|entry| self.stand_in(wanted, entry));
                // The first failure elects a new leader; a second is everybody's.
                stand_in.or_else(|| (waits.count >= WAITS).then(|| Answer::failed(&failure, need.forward)))
            }
            Ok(Arrival::Landed(Landing::Dropped)) => None,
            Ok(Arrival::Landed(Landing::NotShareable)) | Err(_) => {
                waits.count = WAITS;
                None
            }
        };
        answer.map_or(Followed::Again, Followed::Answered)
    }

    /// Takes another request's response, if it answers this one too: provably not too old, selected by these fields,
    /// and reusable.
    ///
    /// A fetch that began after this request had arrived is as good as its own would be. Of any other, this instance
    /// must have held its lease at the arrival or later, and the entry must be live by its own tags, which are more than
    /// the flight's were: the wait is over, and what purged it meanwhile may be what this client was told of before.
    fn share(&self, wanted: &Wanted, need: &Need, entry: &Arc<Entry>, after_arrival: bool) -> Option<Answer> {
        let (headers, terms) = (&wanted.parts.headers, &wanted.terms);
        let proved = after_arrival || self.liveness(wanted, entry) == Liveness::Live;
        if !proved || entry.key != wanted.key || !entry.response.selecting().matches(headers) {
            return None;
        }
        let Reuse::Fresh { age } = reuse::decide(&entry.response, headers, self.clock.now(), terms) else {
            return None;
        };
        let response = deliver(&wanted.parts.method, headers, &entry.response, age, &self.via);
        let mut answer = Answer::forwarded(response, Outcome::Coalesced, need.forward, need.detail);
        answer.status.collapsed = true;
        answer.age = Some(age);
        Some(answer)
    }

    /// Whether this request may be answered with an entry: the lease at its arrival or later, then the marks.
    fn liveness(&self, wanted: &Wanted, entry: &Entry) -> Liveness {
        self.store.coherence().reusable(&entry.stamp(), &entry.tags, wanted.arrived)
    }

    /// A stale response in place of a failed fetch (RFC 5861 §4), if it still may answer this request: a failure is no
    /// reason to show what a purge has voided, nor what nobody here can prove.
    pub(super) fn stand_in(&self, wanted: &Wanted, entry: &Arc<Entry>) -> Option<Answer> {
        self.may_stand_in(wanted, entry).then(|| {
            let age = entry.response.current_age(self.clock.now());
            self.hit_for(wanted, entry, age, Outcome::Stale, "stale-if-error")
        })
    }

    fn may_stand_in(&self, wanted: &Wanted, entry: &Entry) -> bool {
        let (headers, now) = (&wanted.parts.headers, self.clock.now());
        match self.liveness(wanted, entry) {
            Liveness::Live => reuse::on_error(&entry.response, headers, now, &wanted.terms),
            Liveness::Stale => reuse::on_error_stale(&entry.response, headers, now, &wanted.terms),
            Liveness::Void(_) => false,
        }
    }

    fn hit_for(
        &self,
        wanted: &Wanted,
        entry: &Entry,
        age: Duration,
        outcome: Outcome,
        detail: &'static str,
    ) -> Answer {
        self.hit(&wanted.parts.method, &wanted.parts.headers, entry, age, outcome, detail)
    }

    /// An answer from the store.
    pub(super) fn hit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        entry: &Entry,
        age: Duration,
        outcome: Outcome,
        detail: &'static str,
    ) -> Answer {
        let response = deliver(method, headers, &entry.response, age, &self.via);
        let status = status_of_hit(entry, age, detail);
        Answer { response, outcome, status, route: None, age: Some(age), upstream: None }
    }

    /// Refreshes a stale entry behind the answer, unless somebody does already.
    fn refresh(self: &Arc<Self>, wanted: &Arc<Wanted>, validator: Validator) {
        if !matches!(wanted.parts.method, Method::GET) && wanted.body.is_none() {
            return;
        }
        let spares = self.may_stand_in(wanted, &validator.entry);
        let need = Need { validator: Some(validator), ..Need::miss(Forward::Stale, None) };
        let key = flight_key(wanted, &need);
        if let Some(lead) =
            self.board.begin(key, wanted.arrived, wanted.later_tags(self), self.store.coherence())
        {
            let fetch = Fetch {
                exchange: Arc::clone(self),
                wanted: Arc::clone(wanted),
                lead,
                validator: need.validator,
                spares,
                interim: None,
            };
            self.begin_behind(fetch);
        }
    }
}

/// The key that flights are joined by: the variant's where it is known, so that variants do not wait for each other.
fn flight_key(wanted: &Wanted, need: &Need) -> CacheKey {
    match &need.validator {
        Some(validator) if !validator.entry.response.selecting().0.is_empty() => {
            wanted.key.variant(validator.entry.response.selecting())
        }
        _ => wanted.key,
    }
}

/// The upstream's response for the client that began the fetch. Its conditions were not sent on, so they are
/// judged here.
pub(super) fn streamed(
    wanted: &Wanted,
    need: &Need,
    head: response::Parts,
    body: Body,
    stored: Result<(), &'static str>,
) -> Answer {
    let response = if head.status == StatusCode::OK && client_has_it(wanted, &head.headers) {
        not_modified(&head.headers)
    } else {
        Response::from_parts(head, body)
    };
    let detail = stored.err().or(need.detail);
    let mut answer = Answer::forwarded(response, Outcome::Miss, need.forward, detail);
    answer.status.stored = stored.is_ok();
    answer
}

fn client_has_it(wanted: &Wanted, received: &HeaderMap) -> bool {
    let request = &wanted.parts.headers;
    if !request.contains_key(header::IF_NONE_MATCH) && !request.contains_key(header::IF_MODIFIED_SINCE) {
        return false;
    }
    let head = Unpacked {
        status: StatusCode::OK,
        headers: received.clone(),
        body: bytes::Bytes::new(),
        coded: None,
        response_time: Default::default(),
        initial_age: Duration::ZERO,
        lifetimes: Lifetimes::default(),
        selecting: Selecting::default(),
    };
    evaluate(&wanted.parts.method, request, &head.pack()) == Precondition::NotModified
}

fn absent(why: Absent) -> Need {
    match why {
        Absent::NotStored => Need::miss(Forward::UriMiss, None),
        Absent::NoVariant => Need::miss(Forward::VaryMiss, None),
        Absent::Void(why) => Need::miss(Forward::Miss, Some(void_detail(why))),
        Absent::StoreUnavailable => Need::miss(Forward::Miss, Some("store-unavailable")),
        Absent::Corrupt => Need::miss(Forward::Miss, Some("corrupt")),
        Absent::Disabled => Need::miss(Forward::Bypass, Some("disabled")),
    }
}

fn void_detail(why: Void) -> &'static str {
    match why {
        Void::Lease => "no-lease",
        Void::Epoch => "other-epoch",
        Void::Rules => "other-rules",
        Void::Floor => "flushed",
        Void::Purged => "purged",
    }
}
