//! What backends have said by `No-Vary-Search`, and the keys that follow from it.
//!
//! ```text
//!  a request ─► its place (all queries of one path) ─┬─ no rule known, or not for this query ─► the key of its query
//!                                                    └─ a rule ─► the key of what that leaves of the query
//!  a response ─► says the rule that its key was made by ─► stored there
//!              └─ says another, or none ───────────────► stored under its own query's key and the other rule's, not shared
//! ```
//!
//! Invariants:
//! - Under a key made by a rule lies only what itself says that rule: nobody's word counts for another's response. Who
//!   waits for a fetch under such a key gets its response only then.
//! - A request has one key, so one look-up; where nothing was ever learned, that costs a load.
//! - What is known is bounded, and forgetting it costs a fetch.
//! - No rule is followed against the operator's words ([`conflict`]).
//!
//! What it lacks: a memory beyond this process. Another learns from the first response that it gets or finds in Redis.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::coalesce::Landing;
use super::identity::Head;
use super::wanted::Wanted;
use super::{Exchange, forwarded};
use crate::policy::key::{CacheKey, KeyParts};
use crate::policy::route::{Route, request_host};
use crate::policy::search::{Conflict, conflict};
use crate::policy::subject::Subject;
use crate::semantics::block::Lines;
use crate::semantics::search::Variance;
use crate::store::Entry;

/// Paths whose rule is remembered, and queries that their path's rule does not hold for.
const PLACES: usize = 16_384;

/// A rule that a response said, and whether it is followed.
#[derive(Clone)]
struct Known {
    rule: Arc<Variance>,
    followed: bool,
}

/// What has been learned.
pub(super) struct Searches {
    places: quick_cache::sync::Cache<CacheKey, Known>,
    /// Keys of whole queries whose responses did not say their place's rule.
    exact: quick_cache::sync::Cache<CacheKey, ()>,
    /// Anything at all.
    any: AtomicBool,
    /// Routes of which a rule was found that is not followed.
    told: Mutex<BTreeSet<Arc<str>>>,
}

impl Default for Searches {
    fn default() -> Searches {
        Searches {
            places: quick_cache::sync::Cache::new(PLACES),
            exact: quick_cache::sync::Cache::new(PLACES),
            any: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }
}

impl Searches {
    /// Says once for each route why a rule is not followed there: clients choose how many paths it has.
    fn tell(&self, route: &Arc<str>, why: &Conflict) {
        if self.told.lock().insert(Arc::clone(route)) {
            tracing::warn!(%route, "the backend's No-Vary-Search is not followed: {why}");
        }
    }
}

/// A key that was made by a rule.
pub(super) struct Reduced {
    pub(super) key: CacheKey,
    rule: Arc<Variance>,
    /// The key of the query as it is.
    exact: CacheKey,
}

/// A response taken into the store.
pub(super) struct TakenIn {
    pub(super) entry: Arc<Entry>,
    /// Whether those who wait under the request's key may have it. They would not take it (its key is another's), but
    /// wait again.
    shared: bool,
}

impl TakenIn {
    pub(super) fn landing(&self) -> Landing {
        if self.shared { Landing::Stored(Arc::clone(&self.entry)) } else { Landing::NotShareable }
    }
}

impl Searches {
    /// Whether a rule could have a say in this route's keys.
    pub(super) fn may_reduce(&self, route: &Route) -> bool {
        route.no_vary_search && self.any.load(Ordering::Acquire)
    }
}

/// Whether there is something to learn from a response on this route.
pub(super) fn teaches(route: &Route, response: &impl Lines) -> bool {
    route.no_vary_search && Variance::of(response).is_some()
}

impl Exchange {
    /// The key by the rule of the request's place, if there is one and it holds for this query.
    pub(super) fn reduced(
        &self,
        head: &Head<'_>,
        route: &Route,
        path: &str,
        query: &str,
        subject: &Subject,
        exact: CacheKey,
    ) -> Option<Reduced> {
        if !self.searches.may_reduce(route) {
            return None;
        }
        let place = self.place(head, route, path);
        let known = self.searches.places.get(&place).filter(|known| known.followed)?;
        if self.searches.exact.get(&exact).is_some() {
            return None;
        }
        let key = reduced_key(place, &known.rule, query, subject)?;
        Some(Reduced { key, rule: known.rule, exact })
    }

    /// Stores a response under the key that its request was looked up by, if what it says about queries is what that key
    /// was made by; else under those that are right for it.
    pub(super) fn take_in(&self, wanted: &Wanted, entry: Entry) -> TakenIn {
        self.take_over(wanted, entry, None)
    }

    fn take_over(&self, wanted: &Wanted, mut entry: Entry, from: Option<&Entry>) -> TakenIn {
        let said = self.learn(wanted, &entry.response.fields());
        let same = match (&wanted.reduced, &said) {
            (None, None) => true,
            (Some(reduced), Some((_, rule))) => reduced.rule == *rule,
            _ => false,
        };
        if same {
            return TakenIn { entry: self.store.replace(entry, from), shared: true };
        }
        let exact = wanted.reduced.as_ref().map_or(wanted.key, |reduced| reduced.exact);
        let by_rule =
            said.and_then(|(place, rule)| reduced_key(place, &rule, &wanted.query, &wanted.subject));
        if wanted.reduced.is_some() || by_rule.is_none() {
            // Where responses of one path do not agree, whoever spoke last would part each from its own key.
            self.searches.exact.insert(exact, ());
        } else {
            self.searches.exact.remove(&exact);
        }
        if let Some(key) = by_rule {
            self.store.insert(under(&entry, key));
        }
        entry.key = exact;
        TakenIn { entry: self.store.replace(entry, from), shared: exact == wanted.key }
    }

    /// Stores a freshened response in the place of what it was. What is selected by more now, or lies elsewhere, must not
    /// answer as it was those it is not for any more.
    pub(super) fn take_place(&self, wanted: &Wanted, of: &Entry, entry: Entry) -> TakenIn {
        self.take_over(wanted, entry, Some(of))
    }

    /// Ends a stored response, wherever it lies.
    pub(super) async fn end(&self, wanted: &Wanted, entry: &Entry) {
        self.store.remove(&entry.storage_key(), entry.route()).await;
        if let Some(reduced) = &wanted.reduced {
            // Where it lies, too, if it was the first to say its rule.
            self.store.remove(&reduced.exact, entry.route()).await;
        }
    }

    /// Notes what a response says; the rule comes back with its place if it is to be followed.
    pub(super) fn learn(&self, wanted: &Wanted, response: &impl Lines) -> Option<(CacheKey, Arc<Variance>)> {
        if !wanted.route.no_vary_search || wanted.body.is_some() {
            return None;
        }
        let rule = Variance::of(response)?;
        let scheme = forwarded::scheme(&wanted.parts.headers, wanted.peer, &self.config.trust_forwarded);
        let host = request_host(&wanted.parts, scheme);
        let head = Head {
            parts: &wanted.parts,
            peer: wanted.peer,
            host: &host,
            arrived: wanted.arrived,
            now: self.clock.now(),
        };
        let place = self.place(&head, &wanted.route, &wanted.path);
        let known = self.searches.places.get(&place).filter(|known| *known.rule == rule);
        let known = known.unwrap_or_else(|| {
            let against = conflict(&wanted.route, &rule);
            if let Some(why) = &against {
                self.searches.tell(&wanted.route.name, why);
            }
            let known = Known { rule: Arc::new(rule), followed: against.is_none() };
            self.searches.places.insert(place, known.clone());
            self.searches.any.store(true, Ordering::Release);
            known
        });
        known.followed.then_some((place, known.rule))
    }

    fn place(&self, head: &Head<'_>, route: &Route, path: &str) -> CacheKey {
        let headers = &head.parts.headers;
        let outside = forwarded::outside(headers, head.peer, &self.config.trust_forwarded, head.host);
        let parts = KeyParts {
            namespace: self.store.namespace(),
            route: &route.name,
            origin: (!route.any_host).then_some((outside.scheme, &*outside.host)),
            path,
            query: "",
            subject: &Subject::anonymous(),
            body: None,
        };
        CacheKey::place(&self.store.coherence().view().secret, &parts)
    }
}

fn reduced_key(place: CacheKey, rule: &Variance, query: &str, subject: &Subject) -> Option<CacheKey> {
    Some(place.reduced(&rule.canonical(), &rule.reduce(query)?, subject))
}

/// The same response under another key.
fn under(entry: &Entry, key: CacheKey) -> Entry {
    Entry::new(key, entry.route(), entry.stamp(), entry.tags.clone(), entry.response.clone())
}
