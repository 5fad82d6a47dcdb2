//! Hits that memory answers: no await, no box, nothing owned that is not sent. And those that Redis answers: one await.
//!
//! ```text
//! head ─┬─► hit again   target known, fields in plain sight ─► key ─┬─► memory ─► fresh? ─► deliver
//!       └─► ask memory  admissible? ─► normal form ─► key ──────────┘     └─► ask Redis ─► fresh? ─► deliver
//! ```
//!
//! A target that the store has answered is remembered: what memory does not have for it, Redis is asked for without more ado.
//!
//! Invariant: the shorter way says nothing that the longer one would not say alike. Where it cannot tell, it has asked
//! nobody anything, and the longer one begins anew; what it has asked, nobody asks again.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, request};

use super::answer::{Answer, Told};
use super::deliver::write_whole;
use super::heads::{self, Form, Said};
use super::identity::{Head, Identity};
use super::memo::Meaning;
use super::read::status_of_hit;
use super::{Exchange, Known, Logged, Way, forwarded, search};
use crate::body::Body;
use crate::config::Trust;
use crate::policy::key::CacheKey;
use crate::policy::route::Route;
use crate::policy::subject::{self, Subject};
use crate::semantics::cache_status::{CacheStatus, Outcome, ttl_seconds};
use crate::semantics::fields::Sight;
use crate::semantics::reuse::{self, Reuse};
use crate::server::Peer;
use crate::store::{Entry, Lookup, Tier};

/// What the store has for a request: fresh, and of this age.
struct Fresh {
    entry: Arc<Entry>,
    tier: Tier,
    age: Duration,
}

/// What a request is about whose target was hit before.
pub(super) struct Meant {
    meaning: Arc<Meaning>,
    subject: Subject,
    key: CacheKey,
}

impl Meant {
    /// Its way past the short one, and what is known by then.
    pub(super) fn into_known(self, found: Option<Lookup>) -> (Way, Known) {
        let Meant { meaning, subject, key } = self;
        let (path, query) = (meaning.path.to_string(), meaning.query.to_string());
        let identity = Identity { path, query, subject, key, reduced: None };
        (Way::Read(Arc::clone(&meaning.route)), Known::Identity(Box::new(identity), found))
    }
}

/// How far a request for such a target has come at once.
pub(super) enum Again<F> {
    /// To its end.
    Answered(F),
    Goes(Further),
}

/// Where it goes from there.
pub(super) enum Further {
    /// To Redis, which is to be asked.
    Asks(Meant),
    /// On its way.
    Goes(Way, Known),
}

impl Exchange {
    /// A request for a target that was hit before, if it carries nothing unusual.
    pub(super) fn hit_again<F: Form>(&self, head: &Head<'_>, seen: Sight) -> Option<Again<F>> {
        if !self.store.enabled() || !self.is_told_by_target(head) {
            return None;
        }
        let view = self.store.coherence().view();
        let found = self.memo.find(head, &view)?;
        let meaning = found.as_ref()?;
        let route = &*meaning.route;
        if self.searches.may_reduce(route) || self.takes_long(head, route) {
            return None;
        }
        let subject = match seen {
            Sight::Plain if subject::is_anonymous_in_plain_sight(route) => Subject::anonymous(),
            _ => match self.subject(head, route, &view) {
                Ok(subject) => subject,
                Err(why) => {
                    let way = Way::Read(Arc::clone(&meaning.route));
                    return Some(Again::Goes(Further::Goes(way, Known::Unwanted(why))));
                }
            },
        };
        let key = meaning.anonymous.of(&subject);
        drop(view);
        let meant = |subject| Meant { meaning: Arc::clone(meaning), subject, key };
        Some(match self.look(head, &key, route) {
            Ok(fresh) => Again::Answered(self.answer_now(head, seen, route, &key, &fresh)),
            Err(None) => Again::Goes(Further::Asks(meant(subject))),
            Err(found) => {
                let (way, known) = meant(subject).into_known(found);
                Again::Goes(Further::Goes(way, known))
            }
        })
    }

    /// What Redis can say to a request for a target that was hit before.
    pub(super) async fn ask_again(
        &self,
        (parts, peer, arrived): &(Arc<request::Parts>, Peer, Duration),
        seen: Sight,
        Meant { meaning, key, .. }: &Meant,
    ) -> Result<Response<Body>, Lookup> {
        let route = &meaning.route;
        let found = self.store.lookup(key, &route.name, &parts.headers, *arrived).await;
        let head = Head { parts, peer: *peer, host: "", arrived: *arrived, now: self.clock.now() };
        let fresh = fresh_and_known(found, &head, route)?;
        Ok(self.answer_now(&head, seen, route, key, &fresh))
    }

    /// What memory alone can say to a read.
    pub(super) fn ask_memory<F: Form>(
        &self,
        head: &Head<'_>,
        seen: Sight,
        route: &Arc<Route>,
    ) -> Result<F, Known> {
        let keyed = match self.admissible(head, route) {
            Ok(admitted) => self.keyed(head, route, admitted, None),
            Err(why) => return Err(Known::Unwanted(why)),
        };
        match self.look(head, &keyed.key, route) {
            Ok(fresh) => {
                self.remember(head, route, keyed.normal());
                Ok(self.answer_now(head, seen, route, &keyed.key, &fresh))
            }
            Err(found) => Err(Known::Identity(Box::new(keyed.into_identity()), found)),
        }
    }

    /// What Redis can say to a read where memory had nothing to say.
    pub(super) async fn ask_redis(
        &self,
        head: Head<'_>,
        seen: Sight,
        route: &Arc<Route>,
        identity: &Identity,
    ) -> Result<Response<Body>, Lookup> {
        let found = self.store.lookup(&identity.key, &route.name, &head.parts.headers, head.arrived).await;
        let head = Head { now: self.clock.now(), ..head };
        let fresh = fresh_and_known(found, &head, route)?;
        self.remember(&head, route, identity.normal());
        Ok(self.answer_now(&head, seen, route, &identity.key, &fresh))
    }

    fn remember(&self, head: &Head<'_>, route: &Arc<Route>, normal: Option<(&str, &str)>) {
        let Some(normal) = normal.filter(|_| self.is_told_by_target(head)) else { return };
        // Found by this secret, so made with it: that of a moment ago may have been another.
        let view = self.store.coherence().view();
        let anonymous = || self.key(&view.secret, head, route, normal, &Subject::anonymous(), None);
        self.memo.learn(head, &view, route, normal, anonymous);
    }

    /// What memory has, if it may be sent as it is; else what it said. `None` = Redis is to be asked.
    fn look(&self, head: &Head<'_>, key: &CacheKey, route: &Route) -> Result<Fresh, Option<Lookup>> {
        let found = self.store.lookup_memory(key, &head.parts.headers, head.arrived, head.now);
        found.map_or(Err(None), |found| fresh(found, head, route).map_err(Some))
    }

    /// Whether nothing but target and host has a say in what is meant: no route's conditions on fields, and no trusted
    /// peer's word about the outside, which is part of keys.
    fn is_told_by_target(&self, head: &Head<'_>) -> bool {
        let trust = &self.config.trust_forwarded;
        let believed = *trust != Trust::Nobody && forwarded::trusted(trust, head.peer.addr.ip());
        !believed && !self.policy.routes.asks_fields()
    }

    fn answer_now<F: Form>(
        &self,
        head: &Head<'_>,
        seen: Sight,
        route: &Route,
        key: &CacheKey,
        fresh: &Fresh,
    ) -> F {
        let (parts, Fresh { entry, tier, age }) = (head.parts, fresh);
        let status = || CacheStatus {
            key: self.config.show_key.then(|| key.hex()),
            ..status_of_hit(entry, *age, tier.as_str())
        };
        let make = || {
            let answer = self.hit(&parts.method, &parts.headers, entry, *age, Outcome::Hit, tier.as_str());
            Answer { status: status(), ..answer }.into_response(&self.config)
        };
        let write = || {
            let x_cache = self.config.x_cache.then_some("HIT");
            write_whole(&entry.response, *age, &self.via, || status().render(&self.config.name), x_cache)
        };
        // Nothing in the request asks for another form of it, or for less; and the entry may come by again.
        let usual = seen != Sight::Other && parts.method == Method::GET && entry.response.coded().is_none();
        let answer: F = match usual {
            true => {
                let ttl = ttl_seconds(entry.response.lifetimes().fresh, *age);
                heads::whole(entry, *tier, Said { by: self.number, age: age.as_secs(), ttl }, write, make)
            }
            false => F::made(make()),
        };
        let told = Told {
            outcome: Outcome::Hit,
            status: answer.status().as_u16(),
            reason: Some(tier.as_str()),
            age: Some(*age),
            upstream: None,
            bytes: answer.length(),
        };
        // A request that goes no further needs a name only for its line.
        let id = self.access.enabled().then(|| forwarded::request_id(&parts.headers).0);
        let logged = Logged {
            started: head.arrived,
            peer: head.peer,
            method: &parts.method,
            path: parts.uri.path(),
            id: id.unwrap_or_default().into(),
        };
        self.note(&told, Some(route), &logged);
        answer
    }
}

/// What Redis had, if it may be sent as it is and says nothing to learn from; else what it had.
fn fresh_and_known(found: Lookup, head: &Head<'_>, route: &Route) -> Result<Fresh, Lookup> {
    let fresh = fresh(found, head, route)?;
    match search::teaches(route, &fresh.entry.response.fields()) {
        true => Err(Lookup::Found(fresh.entry, fresh.tier)),
        false => Ok(fresh),
    }
}

/// What is found, if it may be sent as it is; else what was found.
fn fresh(found: Lookup, head: &Head<'_>, route: &Route) -> Result<Fresh, Lookup> {
    match found {
        Lookup::Found(entry, tier) => {
            match reuse::decide(&entry.response, &head.parts.headers, head.now, &route.terms) {
                Reuse::Fresh { age } => Ok(Fresh { entry, tier, age }),
                _ => Err(Lookup::Found(entry, tier)),
            }
        }
        found => Err(found),
    }
}
