//! Heads of answers that are sent often, ready to be sent again: within one second they are the same, byte for byte.
//!
//! Invariants:
//! - A head is sent again only for the entry that it was made of, at the same `Age` and with the same time to live. It
//!   was made by the way that makes all others.
//! - Whether an entry may answer is decided before anybody looks here.
//! - Each thread has its own, and their bytes: nothing is shared that two threads would count references of.
//! - They are bounded; an entry that is gone keeps its place, and nothing of its content, until another takes it.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::store::Entry;

/// Heads that a thread keeps: a power of two; and the longest values of one, bytes together.
const PLACES: usize = 1024;
const LONGEST: usize = 4096;

thread_local! {
    static HEADS: RefCell<Box<[Place]>> = RefCell::new((0..PLACES).map(|_| Place::default()).collect());
}

#[derive(Default)]
struct Place {
    /// Where the entry lies that came by last. Only a second time is a head kept: most entries are not hot.
    seen: usize,
    kept: Option<Kept>,
}

struct Kept {
    /// Keeps the entry's address from being another's.
    entry: Weak<Entry>,
    age: u64,
    ttl: i64,
    head: HeaderMap,
}

/// The whole of a stored 200 as an answer to GET, of this age in seconds. `make` makes it, if it is not here.
pub(super) fn whole(
    entry: &Arc<Entry>,
    age: u64,
    ttl: i64,
    make: impl FnOnce() -> Response<Body>,
) -> Response<Body> {
    // A key is a digest, so any part of it will do; reduced below the number of places.
    let at = (usize::from(entry.key.0[0]) << 8 | usize::from(entry.key.0[1])) & (PLACES - 1);
    HEADS.with_borrow_mut(|places| {
        let place = &mut places[at];
        let address = Arc::as_ptr(entry).addr();
        let same = |kept: &&Kept| kept.entry.as_ptr().addr() == address && kept.age == age && kept.ttl == ttl;
        if let Some(kept) = place.kept.as_ref().filter(same) {
            let mut response = Response::new(Body::full(entry.response.body()));
            *response.headers_mut() = kept.head.clone();
            return response;
        }
        let response = make();
        if std::mem::replace(&mut place.seen, address) == address && response.status() == StatusCode::OK {
            place.kept =
                own(response.headers()).map(|head| Kept { entry: Arc::downgrade(entry), age, ttl, head });
        }
        response
    })
}

/// The same fields, with all their values in one new piece of memory.
fn own(head: &HeaderMap) -> Option<HeaderMap> {
    if head.values().map(HeaderValue::len).sum::<usize>() > LONGEST {
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

    use super::*;
    use crate::coherence::Stamp;
    use crate::policy::key::CacheKey;
    use crate::semantics::stored::{Lifetimes, Unpacked};
    use crate::semantics::timestamp::Timestamp;
    use crate::semantics::vary::Selecting;

    fn entry(text: &'static str) -> Arc<Entry> {
        let response = Unpacked {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
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
        let made = Cell::new(false);
        let response = whole(entry, age, ttl, || {
            made.set(true);
            let mut response = Response::new(Body::full(entry.response.body()));
            response.headers_mut().insert("age", HeaderValue::from(age));
            response.headers_mut().append("x-list", HeaderValue::from_static("a"));
            response.headers_mut().append("x-list", HeaderValue::from_static("b"));
            response
        });
        let Body::Full(Some(body)) = response.body() else { panic!("no content") };
        (format!("{:?} {}", response.headers(), String::from_utf8_lossy(body)), made.get())
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
}
