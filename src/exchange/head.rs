//! A HEAD that nothing stored may answer: asked upstream, and what its response tells of the stored one taken up
//! (RFC 9111 §4.3.5).
//!
//! Invariants:
//! - It goes in the normal form that is keyed, without conditions: what it tells is about the very thing that is stored.
//! - The stamp is sampled before its first byte goes upstream; what it freshens carries that, and every tag that it or
//!   the stored response names. What is void, or stale by a purge, no head revives.
//! - Only what had been stored before it went is touched: what came meanwhile is newer than it.
//! - Nothing is made of it: the head of a response is not a response to GET.
//!
//! What it lacks: coalescing. Heads are small, and who asks for one seldom asks at the same time as others.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};

use super::answer::{Answer, Failure};
use super::read::{Need, streamed};
use super::wanted::Wanted;
use super::{Exchange, forwarded};
use crate::body::Body;
use crate::coherence::Stamp;
use crate::semantics::head::{Told, compare};
use crate::semantics::reuse::is_error;
use crate::semantics::stored::Lifetimes;
use crate::semantics::timestamp::Timestamp;
use crate::semantics::validation::freshen;
use crate::store::{Entry, Lookup};

/// A head as it came.
struct Head<'a> {
    fields: &'a HeaderMap,
    /// Before the first byte went upstream.
    stamp: Stamp,
    request_time: Timestamp,
    response_time: Timestamp,
}

impl Exchange {
    /// Asks upstream. A stored response stands in for a failure as it would for a GET.
    pub(super) async fn ask_head(self: &Arc<Self>, wanted: &Wanted, need: &Need) -> Answer {
        let request = wanted.upstream_request(self, None);
        let interim = wanted.interim.listen(&self.via).await;
        let stamp = self.store.coherence().sample();
        let (began, request_time) = (self.clock.elapsed(), self.clock.now());
        let result = self.upstream.send(request, interim).await;
        let (first_byte, response_time) = (self.clock.elapsed().saturating_sub(began), self.clock.now());
        self.metrics.upstream(result.as_ref().ok().map(|r| r.status().as_u16()), first_byte);
        let answer = match result {
            Ok(response) if is_error(response.status()) => self.head_failed(wanted, need, Ok(response)),
            Ok(response) => {
                let head = Head { fields: response.headers(), stamp, request_time, response_time };
                let taken = match response.status() {
                    StatusCode::OK => self.take_up(wanted, need, &head).await,
                    _ => None,
                };
                self.head_passed(wanted, need, response, taken.unwrap_or("head"))
            }
            Err(error) => {
                let failure = Failure::of(&error, &wanted.parts.method, &wanted.path);
                self.head_failed(wanted, need, Err(failure))
            }
        };
        answer.after(first_byte)
    }

    fn head_passed(
        &self,
        wanted: &Wanted,
        need: &Need,
        response: Response<Body>,
        detail: &'static str,
    ) -> Answer {
        let (mut head, body) = response.into_parts();
        forwarded::prepare_response(&mut head, &self.config.name);
        wanted.dress_head(&mut head);
        streamed(wanted, need, head, body, Err(detail))
    }

    fn head_failed(
        self: &Arc<Self>,
        wanted: &Wanted,
        need: &Need,
        result: Result<Response<Body>, Failure>,
    ) -> Answer {
        let stand_in = need.held.as_ref().and_then(|entry| self.stand_in(wanted, entry));
        stand_in.unwrap_or_else(|| match result {
            Ok(response) => self.head_passed(wanted, need, response, "head"),
            Err(failure) => Answer::failed(&failure, need.forward),
        })
    }

    /// Freshens what is stored, or makes it stale; says which.
    async fn take_up(&self, wanted: &Wanted, need: &Need, head: &Head<'_>) -> Option<&'static str> {
        let asked_about = need.validator.as_ref().filter(|v| !v.purged).map(|v| &v.entry)?;
        let stored = self.still_there(wanted, asked_about).await?;
        let (entry, detail) = self.judge_by(wanted, &stored, head)?;
        self.take_place(wanted, &stored, entry);
        Some(detail)
    }

    /// What the look-up had found, if it is there still, and live.
    async fn still_there(&self, wanted: &Wanted, asked_about: &Arc<Entry>) -> Option<Arc<Entry>> {
        let headers = &wanted.parts.headers;
        let found = match self.look_near(wanted) {
            Some(found) => found,
            None => self.store.lookup(&wanted.key, &wanted.route.name, headers, wanted.arrived).await,
        };
        match found {
            Lookup::Found(entry, _) => {
                let same = entry.stamp() == asked_about.stamp()
                    && entry.response.response_time() == asked_about.response.response_time();
                same.then_some(entry)
            }
            Lookup::Softened(..) | Lookup::Voided(..) | Lookup::Absent(_) => None,
        }
    }

    /// What takes the stored response's place; `None` = it stays as it is.
    fn judge_by(&self, wanted: &Wanted, stored: &Entry, head: &Head<'_>) -> Option<(Entry, &'static str)> {
        let told = compare(&stored.response, head.fields, &wanted.terms);
        if told == Told::Nothing {
            return None;
        }
        let (times, terms) = ((head.request_time, head.response_time), &wanted.terms);
        let (mut fresh, storable) =
            freshen(&stored.response, &wanted.parts, head.fields, times.0, times.1, terms);
        match storable {
            // What this client is told says nothing about what others are.
            Err(why) if why.is_of_one_exchange() => None,
            Ok(()) if told == Told::Same && wanted.selects_among_clients(fresh.selecting()).is_ok() => {
                wanted.spread(&mut fresh);
                let mut entry = wanted.entry(self, head.stamp, fresh, head.fields);
                // As with a 304: what could purge the response before still can.
                entry.inherit_tags(stored);
                Some((entry, "head-freshened"))
            }
            _ => Some(withdrawn(stored)),
        }
    }
}

/// The stored response, never to be used again but by the upstream's leave: it may still vouch for itself.
fn withdrawn(stored: &Entry) -> (Entry, &'static str) {
    let mut response = stored.response.clone();
    response.set_lifetimes(Lifetimes { always_validate: true, ..response.lifetimes() });
    (Entry::new(stored.key, stored.route(), stored.stamp(), stored.tags.clone(), response), "head-stale")
}
