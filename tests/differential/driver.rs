//! Plays a history twice, by `weir::semantics` and by the model, and stops at the first word they do not share.
//!
//! The calls are those of `weir::exchange`, in its order: choose among what is stored, decide, validate or fetch,
//! freshen or admit, deliver. Beside the response chosen, every other one that is stored is judged as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use weir::coherence::{Coherence, Epoch};
use weir::policy::key::CacheKey;
use weir::semantics::ranges::{Slice, slice};
use weir::semantics::reuse::{self, Reuse, Validate};
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::storing::{OriginMode, Terms, admit};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::validation::{self, CONDITIONAL, Precondition};
use weir::semantics::vary::{Selecting, Vary};
use weir::store::memory::{Asked, Choice};
use weir::store::{Absent, Entry, Lookup, Tier};

use crate::generator::{History, Shape, Step};
use crate::model::message::{Fields, has, keep_for_storage, lines};
use crate::model::ranges::Answer;
use crate::model::reuse::Verdict;
use crate::model::{
    self, MILLISECOND, Nanos, Operator, Origin, Request, Response, SECOND, Stored, Windows, dates, freshness,
    storing,
};

/// Where the two differ.
#[derive(Debug, Clone)]
pub struct Disagreement {
    pub about: String,
    pub weir: String,
    pub model: String,
}

pub type Agreed<T = ()> = Result<T, Box<Disagreement>>;

/// How often each thing happened: a generator that has gone dull is noticed.
pub type Seen = BTreeMap<String, u64>;

const KEY: CacheKey = CacheKey([7; 32]);

/// Both caches, side by side: the same number of responses in each, in the same order.
pub struct World {
    terms: Terms,
    operator: Operator,
    coherence: Coherence,
    weir: Vec<Arc<Entry>>,
    pub model: Vec<Stored>,
    pub seen: Seen,
}

/// Plays one history to its end or to the first disagreement. Returns what happened; `steps` are made as it goes.
pub fn explore(seed: u64, length: usize, seen: &mut Seen) -> Result<(), (History, Disagreement)> {
    let mut shape = Shape::new(seed);
    let mut history = History { operator: shape.operator.clone(), steps: Vec::new() };
    let mut world = World::new(&history.operator);
    let mut result = Ok(());
    for _ in 0..length {
        let step = shape.step(&world.model);
        history.steps.push(step);
        if let Err(disagreement) = world.step(&history.steps[history.steps.len() - 1]) {
            result = Err((history, *disagreement));
            break;
        }
    }
    for (what, times) in world.seen {
        *seen.entry(what).or_default() += times;
    }
    result
}

/// Plays a history that is already there.
pub fn replay(history: &History) -> Option<(usize, Disagreement)> {
    let mut world = World::new(&history.operator);
    for (index, step) in history.steps.iter().enumerate() {
        if let Err(disagreement) = world.step(step) {
            return Some((index, *disagreement));
        }
    }
    None
}

/// The shortest history with the same disagreement that leaving things out leads to.
pub fn shrink(mut history: History, about: &str) -> History {
    let same = |candidate: &History| replay(candidate).is_some_and(|(_, d)| d.about == about);
    loop {
        let mut smaller = None;
        for candidate in smaller_ones(&history) {
            if same(&candidate) {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(candidate) => history = candidate,
            None => return history,
        }
    }
}

/// Each history that lacks one thing of this one.
fn smaller_ones(history: &History) -> Vec<History> {
    let mut all = Vec::new();
    for index in 0..history.steps.len() {
        let mut without = history.clone();
        without.steps.remove(index);
        all.push(without);
    }
    for (index, step) in history.steps.iter().enumerate() {
        let mut shorter: Vec<Step> = Vec::new();
        for field in 0..step.request.fields.len() {
            let mut step = step.clone();
            step.request.fields.remove(field);
            shorter.push(step);
        }
        for field in 0..step.first.as_ref().map_or(0, |r| r.fields.len()) {
            let mut step = step.clone();
            if let Some(first) = &mut step.first {
                first.fields.remove(field);
            }
            shorter.push(step);
        }
        for field in 0..step.second.as_ref().map_or(0, |r| r.fields.len()) {
            let mut step = step.clone();
            if let Some(second) = &mut step.second {
                second.fields.remove(field);
            }
            shorter.push(step);
        }
        if step.second.is_some() {
            shorter.push(Step { second: None, ..step.clone() });
        }
        if step.delay != 0 {
            shorter.push(Step { delay: 0, ..step.clone() });
        }
        for step in shorter {
            let mut candidate = history.clone();
            candidate.steps[index] = step;
            all.push(candidate);
        }
    }
    all
}

impl World {
    pub fn new(operator: &Operator) -> World {
        World {
            terms: terms(operator),
            operator: operator.clone(),
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
        agree("remaining", nanos(weir.response.remaining(now)), left.max(0))?;
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
        // A HEAD is passed on and leaves nothing behind.
        if step.request.method == "HEAD" {
            return Ok(());
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
        if verdict.is_err() {
            self.saw("304: no longer storable");
            return Ok(());
        }
        self.saw("304: freshened");
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
        let received = step.now + step.delay;
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
        let received_fields = header_map(&response.fields);
        let status = StatusCode::from_u16(response.status).unwrap();
        let admitted = admit(
            &method(&step.request),
            &sent,
            status,
            &received_fields,
            timestamp(step.now),
            timestamp(received),
            &self.terms,
        );
        let expected = storing::store(
            &step.request,
            response.status,
            &response.fields,
            step.now,
            received,
            &self.operator,
        );
        let words = admitted.map(|_| ()).map_err(|why| why.as_str());
        agree_on_storing("admit", words, &expected.clone().map(|_| ()))?;
        let (Ok(lifetimes), Ok(windows)) = (admitted, expected) else {
            self.saw(&format!("not stored: {}", words.err().unwrap_or_default()));
            return Ok(());
        };
        let selecting = match Vary::of(&received_fields, &[]) {
            Vary::None => Selecting::default(),
            Vary::Fields(fields) => Selecting::from_request(&fields, headers),
            Vary::Any => return differ("admitted with Vary", &"any", &"fields"),
        };
        let body = Bytes::from(response.body.clone());
        let (request_time, response_time) = (timestamp(step.now), timestamp(received));
        let weir = StoredResponse::new(
            status,
            received_fields,
            body,
            request_time,
            response_time,
            lifetimes,
            selecting,
        );
        let model = stored(step, response, windows);
        agree_on_stored("stored", &weir, &model)?;
        self.saw("stored");
        self.insert(weir, model)
    }

    /// "A response that varies replaces one that did not, and the other way round" (`weir::store::memory`).
    fn insert(&mut self, weir: StoredResponse, model: Stored) -> Agreed {
        let names = |stored: &Stored| stored.nominated.iter().cloned().collect::<BTreeSet<String>>();
        let mut kept = Vec::new();
        for index in 0..self.model.len() {
            let (old, older) = (&self.weir[index].response, &self.model[index]);
            let theirs =
                old.selecting == weir.selecting || old.selecting.0.is_empty() != weir.selecting.0.is_empty();
            let same = names(older) == names(&model) && model::vary::matches(older, &model.original);
            let ours = same || older.nominated.is_empty() != model.nominated.is_empty();
            agree("replaces", theirs, ours)?;
            if !ours {
                kept.push((Arc::clone(&self.weir[index]), older.clone()));
            }
        }
        let stamp = self.coherence.sample();
        let entry = Entry {
            key: KEY,
            route: Arc::from("route"),
            stamp,
            tags: Box::new([]),
            response: weir,
            last_live: Default::default(),
        };
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
fn stored(step: &Step, response: &Response, windows: Windows) -> Stored {
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
        nominated: model::vary::nominated(&response.fields).unwrap_or_default(),
        original: step.request.fields.clone(),
        fields,
    }
}

// ── Comparing ────────────────────────────────────────────────────────────────────────────────────────────────────────

fn differ<T>(about: &str, weir: &impl Debug, model: &impl Debug) -> Agreed<T> {
    Err(Box::new(Disagreement {
        about: about.to_owned(),
        weir: format!("{weir:?}"),
        model: format!("{model:?}"),
    }))
}

pub fn agree<T: PartialEq + Debug>(about: &str, weir: T, model: T) -> Agreed {
    if weir == model { Ok(()) } else { differ(about, &weir, &model) }
}

/// The reason given must be one that there is; which of several is nobody's business.
fn agree_on_storing(
    about: &str,
    weir: Result<(), &'static str>,
    model: &Result<(), Vec<&'static str>>,
) -> Agreed {
    match (&weir, model) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(reason), Err(reasons)) if reasons.contains(reason) => Ok(()),
        _ => differ(about, &weir, model),
    }
}

fn agree_on_reuse(about: &str, weir: &Reuse, model: &Verdict, stored: &Stored, now: Nanos) -> Agreed {
    let expected_age = freshness::current_age(stored, now);
    let same = match (weir, model) {
        (Reuse::Fresh { age }, Verdict::Fresh)
        | (Reuse::WhileRevalidate { age }, Verdict::WhileRevalidate)
        | (Reuse::ClientAcceptsStale { age }, Verdict::ClientAcceptsStale) => nanos(*age) == expected_age,
        (Reuse::MustValidate(why), Verdict::MustValidate(reasons)) => reasons.contains(&match why {
            Validate::Stale => "stale",
            Validate::ResponseNoCache => "response-no-cache",
            Validate::RequestAsks => "request-asks",
        }),
        (Reuse::Gone, Verdict::Gone) => true,
        _ => false,
    };
    if same { Ok(()) } else { differ(about, weir, &(model, expected_age, &stored.windows)) }
}

fn agree_on_stored(about: &str, weir: &StoredResponse, model: &Stored) -> Agreed {
    agree(&format!("{about}: status"), weir.status.as_u16(), model.status)?;
    agree(&format!("{about}: body"), &weir.body[..], &model.body[..])?;
    agree(&format!("{about}: fields"), grouped_headers(&weir.headers), grouped(&model.fields))?;
    agree(&format!("{about}: initial_age"), nanos(weir.initial_age), model.initial_age)?;
    agree(&format!("{about}: windows"), windows(&weir.lifetimes), model.windows.clone())?;
    let mut nominated = model.nominated.clone();
    nominated.sort();
    let names: Vec<String> = weir.selecting.names().map(ToString::to_string).collect();
    agree(&format!("{about}: selecting"), names, nominated)?;
    agree(
        &format!("{about}: matches its own request"),
        weir.selecting.matches(&header_map(&model.original)),
        true,
    )
}

/// What a client is sent of a response.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Whole,
    Unsatisfiable(String),
    /// `Content-Range` and content of each part.
    Parts(Vec<(String, Vec<u8>)>),
}

/// Takes a `multipart/byteranges` apart (RFC 9110 §14.6, RFC 2046 §5.1.1).
fn body_parts(content_type: &str, body: &[u8], stored: &Stored) -> Vec<(String, Vec<u8>)> {
    let broken = |why: &str| vec![(format!("{why}: {content_type}"), body.to_vec())];
    let Some(boundary) = content_type.strip_prefix("multipart/byteranges; boundary=") else {
        return broken("content type");
    };
    let text: String = body.iter().map(|b| char::from(*b)).collect();
    let text = format!("\r\n{text}");
    let Some((inside, _)) = text.rsplit_once(&format!("\r\n--{boundary}--")) else { return broken("end") };
    let mut parts = Vec::new();
    for part in inside.split(&format!("\r\n--{boundary}\r\n")).skip(1) {
        let Some((head, content)) = part.split_once("\r\n\r\n") else { return broken("part") };
        let mut range = String::new();
        let mut kind = None;
        for line in head.split("\r\n") {
            let Some((name, value)) = line.split_once(": ") else { continue };
            if name.eq_ignore_ascii_case("content-range") {
                range = value.to_owned();
            }
            if name.eq_ignore_ascii_case("content-type") {
                kind = Some(value);
            }
        }
        // RFC 9110 §15.3.7.2: "If the selected representation would have had a Content-Type header field in a 200 (OK)
        // response, the server SHOULD generate that same Content-Type header field in the header area of each body part."
        if kind != lines(&stored.fields, "content-type").first().copied() {
            return broken("part's type");
        }
        parts.push((range, content.chars().map(|c| c as u8).collect()));
    }
    parts
}

fn grouped(fields: &Fields) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        groups.entry(name.clone()).or_default().push(value.clone());
    }
    groups
}

fn grouped_headers(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    grouped(&headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

fn windows(lifetimes: &Lifetimes) -> Windows {
    Windows {
        fresh: nanos(lifetimes.fresh),
        stale_while_revalidate: nanos(lifetimes.stale_while_revalidate),
        stale_if_error: nanos(lifetimes.stale_if_error),
        keep: nanos(lifetimes.keep),
        always_validate: lifetimes.always_validate,
        must_revalidate: lifetimes.must_revalidate,
    }
}

// ── Translating ──────────────────────────────────────────────────────────────────────────────────────────────────────

pub fn nanos(span: Duration) -> Nanos {
    i128::try_from(span.as_nanos()).unwrap()
}

fn span(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

fn timestamp(at: Nanos) -> Timestamp {
    Timestamp(u64::try_from(at / MILLISECOND).unwrap())
}

pub fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|b| char::from(*b)).collect()
}

pub fn header_map(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let bytes: Vec<u8> = value.chars().map(|c| c as u8).collect();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(&bytes).unwrap());
    }
    headers
}

fn method(request: &Request) -> Method {
    request.method.parse().unwrap()
}

fn parts(request: &Request) -> http::request::Parts {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method(request);
    parts.headers = header_map(&request.fields);
    parts
}

fn terms(operator: &Operator) -> Terms {
    Terms {
        ttl: operator.ttl.map(span),
        negative_ttl: operator.negative_ttl.map(span),
        stale_while_revalidate: operator.stale_while_revalidate.map(span),
        stale_if_error: operator.stale_if_error.map(span),
        keep: span(operator.keep),
        origin: match operator.origin {
            Origin::Stricter => OriginMode::Stricter,
            Origin::Ignore => OriginMode::Ignore,
            Origin::Honour => OriginMode::Honour,
        },
        per_subject: operator.per_subject,
        public: operator.public,
        store_set_cookie: operator.store_set_cookie,
        store_errors: operator.store_errors,
        client_refresh: operator.client_refresh,
        target_list: operator.target_list.iter().map(|name| HeaderName::try_from(name).unwrap()).collect(),
    }
}
