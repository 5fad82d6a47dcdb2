//! Heads of answers that are sent often, ready to be sent again: within one second they are the same, byte for byte.
//!
//! Invariants:
//! - A head is sent again only by whom it was made, at the same `Age`, with the same time to live, and for the entry that it
//!   was made of; or, as each read of Redis makes an entry of its own, for one from there with the same key, the same fields
//!   byte for byte, and content of the same length. Nothing else is told by a head. It was made by the way that makes all
//!   others.
//! - Whether an entry may answer is decided before anybody looks here.
//! - Each thread has its own, and their bytes: nothing is shared that two threads would count references of.
//! - They are bounded; an entry that is gone keeps its place, and nothing of its content, until another takes it. That is so
//!   without a memory for answers too.

use std::cell::{OnceCell, RefCell};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::answer::content_length;
use crate::body::Body;
use crate::policy::key::CacheKey;
use crate::server::{Whole, Written};
use crate::store::{Entry, Tier};

/// Heads that a thread keeps: a power of two; and the longest one, bytes of its names and values together.
const PLACES: usize = 1024;
const LONGEST: usize = 4096;

thread_local! {
    static HEADS: RefCell<Box<[Place]>> = RefCell::new((0..PLACES).map(|_| Place::default()).collect());
}

#[derive(Default)]
struct Place {
    /// What came by last. Only a second time is a head kept: most entries are not hot.
    seen: u64,
    kept: Option<Kept>,
}

pub(super) struct Kept {
    of: Of,
    said: Said,
    head: HeaderMap,
    /// It, as HTTP/1 writes it, once somebody wanted that.
    written: OnceCell<Option<Bytes>>,
}

impl Kept {
    fn response(&self, content: Bytes) -> Response<Body> {
        let mut response = Response::new(Body::full(content));
        *response.headers_mut() = self.head.clone();
        response
    }
}

/// A form in which an answer is wanted.
pub(super) trait Form: Sized {
    /// One that was made.
    fn made(response: Response<Body>) -> Self;

    /// One that is written, if it can be, or is made.
    fn once(write: impl FnOnce() -> Option<Written>, make: impl FnOnce() -> Response<Body>) -> Self;

    /// One whose head is kept, with this content.
    fn kept(kept: &Kept, content: Bytes) -> Self;

    fn status(&self) -> StatusCode;

    /// How long its content is, if that is known.
    fn length(&self) -> Option<u64>;
}

impl Form for Response<Body> {
    fn made(response: Response<Body>) -> Self {
        response
    }

    fn once(_: impl FnOnce() -> Option<Written>, make: impl FnOnce() -> Response<Body>) -> Self {
        make()
    }

    fn kept(kept: &Kept, content: Bytes) -> Self {
        kept.response(content)
    }

    fn status(&self) -> StatusCode {
        self.status()
    }

    fn length(&self) -> Option<u64> {
        content_length(self.body())
    }
}

impl Form for Whole {
    fn made(response: Response<Body>) -> Self {
        Whole::Response(response)
    }

    fn once(write: impl FnOnce() -> Option<Written>, make: impl FnOnce() -> Response<Body>) -> Self {
        write().map_or_else(|| Whole::Response(make()), Whole::Written)
    }

    fn kept(kept: &Kept, content: Bytes) -> Self {
        let write = || Written::head_of(&kept.response(content.clone()));
        match kept.written.get_or_init(write) {
            Some(head) => Whole::Written(Written { head: head.clone(), content }),
            None => Whole::Response(kept.response(content)),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            // No other heads are kept.
            Whole::Written(_) => StatusCode::OK,
            Whole::Response(response) => response.status(),
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Whole::Written(written) => Some(written.content.len() as u64),
            Whole::Response(response) => response.length(),
        }
    }
}

/// What a head says beside its entry's fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    /// The number of the exchange whose answer it is.
    pub(super) by: u64,
    /// In seconds.
    pub(super) age: u64,
    pub(super) ttl: i64,
}

/// What a head was made of.
enum Of {
    /// Keeps the entry's address from being another's.
    Entry(Weak<Entry>),
    /// Fields, as they lie in Redis.
    Fields { key: CacheKey, fields: Box<[u8]>, length: u64 },
}

impl Of {
    fn new(entry: &Arc<Entry>, tier: Tier) -> Of {
        match tier {
            Tier::Memory => Of::Entry(Arc::downgrade(entry)),
            Tier::Redis => Of::Fields {
                key: entry.key,
                fields: entry.response.fields().as_bytes().into(),
                length: entry.response.content_size(),
            },
        }
    }

    fn is(&self, entry: &Arc<Entry>, tier: Tier) -> bool {
        match (self, tier) {
            (Of::Entry(of), Tier::Memory) => of.as_ptr() == Arc::as_ptr(entry),
            (Of::Fields { key, fields, length }, Tier::Redis) => {
                let response = &entry.response;
                *key == entry.key
                    && *length == response.content_size()
                    && **fields == *response.fields().as_bytes()
                    && response.status() == StatusCode::OK
            }
            _ => false,
        }
    }
}

/// The whole of a stored 200 as an answer to GET. `make` makes it, if it is not here; `write` says what that would come to
/// on the wire.
pub(super) fn whole<F: Form>(
    entry: &Arc<Entry>,
    tier: Tier,
    said: Said,
    write: impl FnOnce() -> Option<Written>,
    make: impl FnOnce() -> Response<Body>,
) -> F {
    // A key is a digest, so any part of it will do; reduced below the number of places.
    let at = (usize::from(entry.key.0[0]) << 8 | usize::from(entry.key.0[1])) & (PLACES - 1);
    let sight = match tier {
        Tier::Memory => Arc::as_ptr(entry).addr() as u64,
        // In each second anew: what comes no oftener has no use for a head.
        Tier::Redis => entry.key.0.first_chunk().map_or(0, |part| u64::from_ne_bytes(*part)) ^ said.age,
    };
    HEADS.with_borrow_mut(|places| {
        let place = &mut places[at];
        if let Some(kept) = place.kept.as_ref().filter(|kept| kept.said == said && kept.of.is(entry, tier)) {
            return F::kept(kept, entry.response.body());
        }
        if std::mem::replace(&mut place.seen, sight) != sight {
            return F::once(write, make);
        }
        let response = make();
        if response.status() == StatusCode::OK {
            let kept = |head| Kept { of: Of::new(entry, tier), said, head, written: OnceCell::new() };
            place.kept = own(response.headers()).map(kept);
        }
        F::made(response)
    })
}

/// The same fields, with all their values in one new piece of memory.
fn own(head: &HeaderMap) -> Option<HeaderMap> {
    if head.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() > LONGEST {
        return None;
    }
    let all: Vec<u8> = head.values().flat_map(|value| value.as_bytes()).copied().collect();
    let all = Bytes::from(all);
    let mut copy = HeaderMap::with_capacity(head.len());
    let mut from = 0;
    for (name, value) in head {
        let to = from + value.len();
        copy.append(name, HeaderValue::from_maybe_shared(all.slice(from..to)).ok()?);
        from = to;
    }
    Some(copy)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use http::header::ETAG;

    use super::*;
    use crate::coherence::Stamp;
    use crate::semantics::stored::{Lifetimes, Unpacked};
    use crate::semantics::timestamp::Timestamp;
    use crate::semantics::vary::Selecting;

    fn entry(text: &'static str) -> Arc<Entry> {
        of(StatusCode::OK, HeaderMap::new(), text)
    }

    fn of(status: StatusCode, headers: HeaderMap, text: &'static str) -> Arc<Entry> {
        let response = Unpacked {
            status,
            headers,
            body: Bytes::from_static(text.as_bytes()),
            coded: None,
            response_time: Timestamp(0),
            initial_age: Duration::ZERO,
            lifetimes: Lifetimes::default(),
            selecting: Selecting::default(),
        }
        .pack();
        Arc::new(Entry::new(CacheKey([3; 32]), &Arc::from("r"), Stamp::default(), Vec::new(), response))
    }

    /// What is answered, and whether it had to be made.
    fn asked(entry: &Arc<Entry>, age: u64, ttl: i64) -> (String, bool) {
        asked_in(Tier::Memory, entry, Said { by: 1, age, ttl })
    }

    fn asked_in(tier: Tier, entry: &Arc<Entry>, said: Said) -> (String, bool) {
        let made = Cell::new(false);
        let response: Response<Body> = whole(
            entry,
            tier,
            said,
            || None,
            || {
                made.set(true);
                let mut response = Response::new(Body::full(entry.response.body()));
                *response.status_mut() = entry.response.status();
                *response.headers_mut() = entry.response.fields().to_map(3);
                response.headers_mut().insert("age", HeaderValue::from(said.age));
                response.headers_mut().append("x-list", HeaderValue::from_static("a"));
                response.headers_mut().append("x-list", HeaderValue::from_static("b"));
                response
            },
        );
        let Body::Full(Some(body)) = response.body() else { panic!("no content") };
        let text = String::from_utf8_lossy(body);
        (format!("{} {:?} {text}", response.status(), response.headers()), made.get())
    }

    #[test]
    fn a_head_is_kept_from_the_second_time_on_and_for_its_entry_and_second_alone() {
        let (one, other) = (entry("one"), entry("other"));
        let (first, made) = asked(&one, 1, 9);
        assert!(made);
        assert_eq!(asked(&one, 1, 9), (first.clone(), true));
        assert_eq!(asked(&one, 1, 9), (first, false));
        let (older, made) = asked(&one, 2, 9);
        assert!(made && older.contains("\"2\""), "{older}");
        assert_eq!(asked(&one, 2, 9), (older.clone(), false));
        assert!(asked(&one, 2, 8).1, "another time to live is another Cache-Status");
        assert!(asked(&other, 2, 8).0.ends_with("other"));
        assert!(asked(&other, 2, 8).1);
        drop(one);
        // Wherever it lies, it is not taken for what lay there.
        let next = entry("next");
        assert!(asked(&next, 2, 8).0.ends_with("next"));
    }
    #[test]
    fn of_redis_the_same_fields_are_the_same_head_and_nothing_else_is() {
        let fields = |tag: &'static str| HeaderMap::from_iter([(ETAG, HeaderValue::from_static(tag))]);
        let read = |tag, text| of(StatusCode::OK, fields(tag), text);
        let said = Said { by: 1, age: 5, ttl: 9 };
        // Each time an entry of its own.
        let ask = |entry: &Arc<Entry>, said| asked_in(Tier::Redis, entry, said);
        let (first, made) = ask(&read("\"a\"", "one"), said);
        assert!(made && ask(&read("\"a\"", "one"), said).1);
        assert_eq!(ask(&read("\"a\"", "one"), said), (first.clone(), false));
        assert_eq!(
            ask(&read("\"a\"", "two"), said),
            (first.replace("one", "two"), false),
            "content is never kept"
        );
        assert!(ask(&read("\"a\"", "one"), Said { age: 6, ..said }).1);
        assert!(
            !ask(&read("\"a\"", "one"), said).1,
            "once in a second is not often enough to take its place"
        );
        assert!(ask(&read("\"a\"", "one"), Said { by: 2, ..said }).1, "another's name");
        assert!(ask(&read("\"a\"", "one"), Said { ttl: 8, ..said }).1, "another Cache-Status");
        while ask(&read("\"a\"", "one"), said).1 {}
        assert!(
            asked_in(Tier::Memory, &read("\"a\"", "one"), said).1,
            "another tier is another Cache-Status"
        );
        let (tagged, made) = ask(&read("\"b\"", "one"), said);
        assert!(made && tagged.contains("b\\\""), "{tagged}");
        while ask(&read("\"a\"", "one"), said).1 {}
        assert!(ask(&read("\"a\"", "longer"), said).1, "another length");
        while ask(&read("\"a\"", "one"), said).1 {}
        let (status, made) =
            ask(&of(StatusCode::NON_AUTHORITATIVE_INFORMATION, fields("\"a\""), "one"), said);
        assert!(made && status.starts_with("203"), "{status}");
        while ask(&read("\"a\"", "one"), said).1 {}
        let mut elsewhere = Arc::into_inner(read("\"a\"", "one")).unwrap();
        elsewhere.key.0[31] ^= 1;
        assert!(ask(&Arc::new(elsewhere), said).1, "another key, which may be shown");
    }
}
