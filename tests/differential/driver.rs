//! Plays a history twice, by `weir::semantics` and by the model, and stops at the first word they do not share.
//!
//! The calls are those of `weir::exchange`, in its order: choose among what is stored, decide, validate or fetch,
//! freshen or admit, deliver. Beside the response chosen, every other one that is stored is judged as well.

mod compare;
mod history;
mod translate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode};
use weir::coherence::{Coherence, Epoch};
use weir::policy::key::CacheKey;
use weir::semantics::ranges::{Slice, slice};
use weir::semantics::reuse::{self, Reuse, Validate};
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::storing::{Terms, admit};
use weir::semantics::validation::{self, CONDITIONAL, Precondition};
use weir::semantics::vary::{Selecting, Vary};
use weir::store::memory::{Asked, Choice};
use weir::store::{Absent, Entry, Lookup, Tier};

pub use compare::{Agreed, Disagreement, agree};
use compare::{Sent, agree_on_reuse, agree_on_stored, agree_on_storing, body_parts, differ, whole};
pub use history::{explore, replay, shrink};
pub use translate::{header_map, nanos, text};
use translate::{method, parts, terms, timestamp};

use crate::generator::Step;
use crate::model::message::{Fields, has, keep_for_storage};
use crate::model::ranges::Answer;
use crate::model::reuse::Verdict;
use crate::model::{self, Operator, Response, SECOND, Stored, Windows, dates, freshness, storing};

/// How often each thing happened: a generator that has gone dull is noticed.
pub type Seen = BTreeMap<String, u64>;

const KEY: CacheKey = CacheKey([7; 32]);

/// Both caches, side by side: the same number of responses in each, in the same order.
pub struct World {
    terms: Terms,
    operator: Operator,
    route_vary: Vec<HeaderName>,
    coherence: Coherence,
    weir: Vec<Arc<Entry>>,
    pub model: Vec<Stored>,
    pub seen: Seen,
}

impl World {
    pub fn new(operator: &Operator) -> World {
        World {
            terms: terms(operator),
            operator: operator.clone(),
            route_vary: operator.vary.iter().map(|name| HeaderName::try_from(name).unwrap()).collect(),
            coherence: Coherence::new(Epoch(1), [0; 32], 1, 64),
            weir: Vec::new(),
            model: Vec::new(),
            seen: Seen::new(),
        }
    }

    fn saw(&mut self, what: &str) {
        match self.seen.get_mut(what) {
            Some(times) => *times += 1,
            None => drop(self.seen.insert(what.to_owned(), 1)),
        }
    }

    /// One request, answered from what is stored or by way of the backend.
    pub fn step(&mut self, step: &Step) -> Agreed {
        let headers = header_map(&step.request.fields);
        let method = method(&step.request);
        for index in 0..self.model.len() {
            self.judge(index, step, &method, &headers)?;
        }
        let Some(found) = self.select(step, &headers)? else {
            self.saw("absent");
            return self.fetch(step, &headers, None);
        };
        let (weir, _) = self.verdicts(found, step, &headers)?;
        match weir {
            Reuse::Fresh { .. } => self.saw("fresh"),
            Reuse::ClientAcceptsStale { .. } => self.saw("max-stale"),
            Reuse::WhileRevalidate { .. } => {
                self.saw("stale-while-revalidate");
                // Only a GET, or a request with a body, is repeated behind.
                if step.request.method != "HEAD" {
                    return self.fetch(step, &headers, Some(found));
                }
            }
            Reuse::MustValidate(why) => {
                self.saw(match why {
                    Validate::Stale => "validate: stale",
                    Validate::ResponseNoCache => "validate: response no-cache",
                    Validate::RequestAsks => "validate: request asks",
                });
                return self.fetch(step, &headers, Some(found));
            }
            Reuse::Gone => return self.fetch(step, &headers, None),
        }
        Ok(())
    }

    // ── What is stored ───────────────────────────────────────────────────────────────────────────────────────────

    /// Everything that can be asked of one stored response.
    fn judge(&mut self, index: usize, step: &Step, method: &Method, headers: &HeaderMap) -> Agreed {
        let (weir, model) = (Arc::clone(&self.weir[index]), self.model[index].clone());
        let now = timestamp(step.now);
        let age = freshness::current_age(&model, step.now);
        agree("current_age", nanos(weir.response.current_age(now)), age)?;
        let left = storing::gone_after(&model.windows) - age;
        agree("is_gone", weir.response.is_gone(now), left <= 0)?;
        agree("remaining", nanos(weir.response.remaining(now)), whole(left.max(0)))?;
        self.verdicts(index, step, headers)?;
        let fields = &step.request.fields;
        agree(
            "on_error",
            reuse::on_error(&weir.response, headers, now, &self.terms),
            model::reuse::on_error(&model, fields, step.now, &self.operator),
        )?;
        agree(
            "on_error_stale",
            reuse::on_error_stale(&weir.response, headers, now, &self.terms),
            model::reuse::on_error_stale(&model, fields, step.now, &self.operator),
        )?;
        for purged in [false, true] {
            let theirs = validation::conditional_fields(&weir.response, purged);
            let theirs: Fields = theirs.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
            agree("conditional_fields", theirs, model::validation::conditions(&model, purged))?;
        }
        self.delivery(&weir.response, &model, step, method, headers)
    }

    /// `decide`, and `decide_stale` beside it.
    fn verdicts(&self, index: usize, step: &Step, headers: &HeaderMap) -> Agreed<(Reuse, Verdict)> {
        let (weir, model) = (&self.weir[index].response, &self.model[index]);
        let (now, fields) = (timestamp(step.now), &step.request.fields);
        let softened = reuse::decide_stale(weir, headers, now, &self.terms);
        let expected = model::reuse::decide_stale(model, fields, step.now, &self.operator);
        agree_on_reuse("decide_stale", &softened, &expected, model, step.now)?;
        let decided = reuse::decide(weir, headers, now, &self.terms);
        let expected = model::reuse::decide(model, fields, step.now, &self.operator);
        agree_on_reuse("decide", &decided, &expected, model, step.now)?;
        Ok((decided, expected))
    }

    /// What a client would be sent of it: 304, the whole, or parts.
    fn delivery(
        &mut self,
        weir: &StoredResponse,
        model: &Stored,
        step: &Step,
        method: &Method,
        headers: &HeaderMap,
    ) -> Agreed {
        let not_modified = validation::evaluate(method, headers, weir) == Precondition::NotModified;
        agree("evaluate", not_modified, model::validation::is_not_modified(&step.request, model))?;
        if not_modified {
            self.saw("client has it");
        }
        let parts = model::ranges::answer(&step.request, model);
        let length = model.body.len();
        let (kind, weir) = match slice(method, headers, weir) {
            Slice::Whole => ("", Sent::Whole),
            Slice::Unsatisfiable { content_range } => ("range: none", Sent::Unsatisfiable(content_range)),
            Slice::Single { body, content_range } => {
                ("range: one", Sent::Parts(vec![(content_range, body.to_vec())]))
            }
            Slice::Coded { .. } => return differ("sliced", &"what is kept coded", &"plain bytes"),
            Slice::Multiple { body, content_type } => {
                ("range: several", Sent::Parts(body_parts(&content_type, &body, model)))
            }
        };
        if !kind.is_empty() {
            self.saw(kind);
        }
        let model = match parts {
            Answer::Whole => Sent::Whole,
            Answer::Unsatisfiable => Sent::Unsatisfiable(format!("bytes */{length}")),
            Answer::Parts(parts) => Sent::Parts(
                parts
                    .iter()
                    .map(|(first, last)| {
                        (format!("bytes {first}-{last}/{length}"), model.body[*first..=*last].to_vec())
                    })
                    .collect(),
            ),
        };
        agree("slice", weir, model)
    }

    /// Which stored response answers, if one does.
    fn select(&mut self, step: &Step, headers: &HeaderMap) -> Agreed<Option<usize>> {
        let mut choice = Choice::new(Absent::NotStored);
        let asked = Asked { request: headers, arrived: Duration::ZERO, now: timestamp(step.now) };
        for entry in &self.weir {
            choice.offer(Arc::clone(entry), asked, &self.coherence);
        }
        let chosen = match choice.done(Tier::Memory) {
            Lookup::Found(entry, _) => self.weir.iter().position(|e| Arc::ptr_eq(e, &entry)),
            _ => None,
        };
        // RFC 9111 §4: "When more than one suitable response is stored, a cache MUST use the most recent one (as
        // determined by the Date header field)." An HTTP-date has whole seconds.
        let mut suitable = Vec::new();
        for (index, stored) in self.model.iter().enumerate() {
            let open = freshness::current_age(stored, step.now) < storing::gone_after(&stored.windows);
            if model::vary::matches(stored, &step.request.fields) && open {
                suitable.push((index, freshness::date_value(&stored.fields, stored.response_time) / SECOND));
            }
        }
        if suitable.len() > 1 {
            self.saw("several suitable");
        }
        let newest = suitable.iter().map(|(_, date)| *date).max();
        let best: Vec<usize> =
            suitable.iter().filter(|(_, date)| Some(*date) == newest).map(|(index, _)| *index).collect();
        if chosen.is_none() && best.is_empty() || chosen.is_some_and(|index| best.contains(&index)) {
            return Ok(chosen);
        }
        differ("selected response", &chosen, &best)
    }

    // ── The backend ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Goes forward, as `exchange::read` does.
    fn fetch(&mut self, step: &Step, headers: &HeaderMap, held: Option<usize>) -> Agreed {
        let only_if_cached = reuse::only_if_cached(headers);
        agree("only_if_cached", only_if_cached, model::reuse::only_if_cached(&step.request.fields))?;
        if only_if_cached {
            self.saw("only-if-cached");
            return Ok(());
        }
        // A HEAD is passed on and leaves nothing behind: what is said of its answer is that it is not stored.
        if step.request.method == "HEAD" {
            return match &step.second {
                Some(second) => self.admitted(step, headers, second).map(drop),
                None => Ok(()),
            };
        }
        let asks = held
            .filter(|index| !validation::conditional_fields(&self.weir[*index].response, false).is_empty());
        let Some(first) = &step.first else {
            return self.failed(step, headers, held);
        };
        if first.status == 304 {
            if let Some(index) = asks {
                let (weir, model) = (&self.weir[index].response, &self.model[index]);
                let selects = validation::selects(weir, &header_map(&first.fields));
                agree("selects", selects, model::validation::identifies(model, &first.fields))?;
                if selects {
                    return self.freshen(index, step, first);
                }
                self.saw("304 about another");
            }
            return match &step.second {
                Some(second) => self.full(step, headers, held, None, second),
                None => self.failed(step, headers, held),
            };
        }
        self.full(step, headers, held, asks, first)
    }

    /// No answer: may what is held stand in? Both were asked in `judge`.
    fn failed(&mut self, step: &Step, headers: &HeaderMap, held: Option<usize>) -> Agreed {
        if let Some(index) = held
            && reuse::on_error(&self.weir[index].response, headers, timestamp(step.now), &self.terms)
        {
            self.saw("stale-if-error");
        }
        Ok(())
    }

    fn freshen(&mut self, index: usize, step: &Step, not_modified: &Response) -> Agreed {
        let received = step.now + step.delay;
        let parts = parts(&step.request);
        let (weir, verdict) = validation::freshen(
            &self.weir[index].response,
            &parts,
            &header_map(&not_modified.fields),
            timestamp(step.now),
            timestamp(received),
            &self.terms,
        );
        let (model, expected) = model::validation::freshen(
            &self.model[index],
            &step.request,
            &not_modified.fields,
            step.now,
            received,
            &self.operator,
        );
        agree_on_storing("freshen: storable", verdict.map_err(|why| why.as_str()), &expected)?;
        agree_on_stored("freshened", &weir, &model)?;
        if let Err(why) = verdict {
            self.saw("304: no longer storable");
            // RFC 9111 §4.3.4: it "MUST" take the fields that forbid to store it.
            if !why.is_of_one_exchange() {
                self.weir.clear();
                self.model.clear();
            }
            return Ok(());
        }
        self.saw("304: freshened");
        // It takes the place of what it was, whatever it is selected by now.
        if weir.selecting() != self.weir[index].response.selecting() {
            self.saw("304: selected by more");
            self.weir.clear();
            self.model.clear();
        }
        self.insert(weir, model)
    }

    /// A response with content of its own.
    fn full(
        &mut self,
        step: &Step,
        headers: &HeaderMap,
        held: Option<usize>,
        asked_about: Option<usize>,
        response: &Response,
    ) -> Agreed {
        agree(
            "is_error",
            reuse::is_error(StatusCode::from_u16(response.status).unwrap()),
            model::reuse::is_error(response.status),
        )?;
        if model::reuse::is_error(response.status) {
            self.failed(step, headers, held)?;
        }
        let spares = held.is_some_and(|index| {
            reuse::on_error(&self.weir[index].response, headers, timestamp(step.now), &self.terms)
        });
        if response.status >= 500 && spares {
            return Ok(());
        }
        let mut sent = headers.clone();
        for name in &CONDITIONAL {
            sent.remove(name);
        }
        if let Some(index) = asked_about {
            sent.extend(validation::conditional_fields(&self.weir[index].response, false));
        }
        let Some((lifetimes, windows)) = self.admitted(step, &sent, response)? else { return Ok(()) };
        let fields = header_map(&response.fields);
        let vary = Vary::of(&fields, &self.route_vary).by_coding(&fields, self.terms.asks_uncoded);
        let selecting = match vary {
            Vary::None => Selecting::default(),
            Vary::Fields(names) => Selecting::from_request(&names, headers),
            Vary::Any => return differ("admitted with Vary", &"any", &"fields"),
        };
        let weir = StoredResponse::new(
            StatusCode::from_u16(response.status).unwrap(),
            fields,
            Bytes::from(response.body.clone()),
            timestamp(step.now),
            timestamp(step.now + step.delay),
            lifetimes,
            selecting,
        );
        let model = stored(step, response, windows, &self.operator);
        agree_on_stored("stored", &weir, &model)?;
        self.saw("stored");
        self.insert(weir, model)
    }

    /// The windows in which a response may be used, if it may be stored.
    fn admitted(
        &mut self,
        step: &Step,
        sent: &HeaderMap,
        response: &Response,
    ) -> Agreed<Option<(Lifetimes, Windows)>> {
        let received = step.now + step.delay;
        let admitted = admit(
            &method(&step.request),
            sent,
            StatusCode::from_u16(response.status).unwrap(),
            &header_map(&response.fields),
            timestamp(step.now),
            timestamp(received),
            &self.terms,
        );
        let (status, fields) = (response.status, &response.fields);
        let expected = storing::store(&step.request, status, fields, step.now, received, &self.operator);
        let words = admitted.map(|_| ()).map_err(|why| why.as_str());
        agree_on_storing("admit", words, &expected.clone().map(|_| ()))?;
        if let Err(why) = words {
            self.saw(&format!("not stored: {why}"));
        }
        Ok(admitted.ok().zip(expected.ok()))
    }

    /// "A response that varies replaces one that did not, and the other way round" (`weir::store::memory`).
    fn insert(&mut self, weir: StoredResponse, model: Stored) -> Agreed {
        let names = |stored: &Stored| stored.nominated.iter().cloned().collect::<BTreeSet<String>>();
        let mut kept = Vec::new();
        for index in 0..self.model.len() {
            let (old, older) = (&self.weir[index].response, &self.model[index]);
            let theirs = old.selecting() == weir.selecting()
                || old.selecting().0.is_empty() != weir.selecting().0.is_empty();
            let same = names(older) == names(&model) && model::vary::matches(older, &model.original);
            let ours = same || older.nominated.is_empty() != model.nominated.is_empty();
            agree("replaces", theirs, ours)?;
            if !ours {
                kept.push((Arc::clone(&self.weir[index]), older.clone()));
            }
        }
        let stamp = self.coherence.sample();
        let entry = Entry::new(KEY, &Arc::from("route"), stamp, Vec::new(), weir);
        // More would only slow the run down.
        if kept.len() > 4 {
            kept.remove(0);
        }
        kept.push((Arc::new(entry), model));
        (self.weir, self.model) = kept.into_iter().unzip();
        if self.model.len() > 1 {
            self.saw("several stored");
        }
        Ok(())
    }
}

/// The model's stored response.
fn stored(step: &Step, response: &Response, windows: Windows, operator: &Operator) -> Stored {
    let received = step.now + step.delay;
    let mut fields = keep_for_storage(&response.fields);
    if !has(&fields, "date") {
        fields.push(("date".to_owned(), dates::format(received)));
    }
    Stored {
        status: response.status,
        body: response.body.clone(),
        response_time: received,
        initial_age: freshness::corrected_initial_age(&response.fields, step.now, received),
        windows,
        nominated: model::vary::selecting(&response.fields, &operator.vary, operator.asks_uncoded),
        original: step.request.fields.clone(),
        fields,
    }
}
