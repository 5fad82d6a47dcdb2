//! Look-ups, variants, bounds.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::*;
use crate::coherence::{Epoch, Event};
use crate::semantics::stored::{Lifetimes, Unpacked};

const KEY: CacheKey = CacheKey([1; 32]);
const NOW: Timestamp = Timestamp(10_000);

fn coherence() -> Coherence {
    Coherence::new(Epoch(1), [0; 32], 1, 64)
}

fn memory() -> Memory {
    Memory::new(1 << 20, 1 << 16, 2).unwrap()
}

fn entry(c: &Coherence, selecting: &[(&'static str, &'static str)], at: u64) -> Entry {
    let selecting = selecting
        .iter()
        .map(|(n, v)| (n.parse().unwrap(), (!v.is_empty()).then(|| HeaderValue::from_static(v))))
        .collect();
    let response = Unpacked {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: bytes::Bytes::from_static(b"x"),
        coded: None,
        response_time: Timestamp(at),
        initial_age: Duration::ZERO,
        lifetimes: Lifetimes { fresh: Duration::from_secs(5), ..Lifetimes::default() },
        selecting: Selecting(selecting),
    };
    Entry::new(KEY, &Arc::from("r"), c.sample(), vec![Tag(3)], response.pack())
}

fn asked(request: &HeaderMap) -> Asked<'_> {
    Asked { request, arrived: Duration::ZERO, now: NOW }
}

fn request(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn found(lookup: Lookup) -> Option<Arc<Entry>> {
    match lookup {
        Lookup::Found(entry, Tier::Memory) => Some(entry),
        _ => None,
    }
}

fn absent(lookup: Lookup) -> Option<Absent> {
    match lookup {
        Lookup::Absent(absent) => Some(absent),
        _ => None,
    }
}

#[test]
fn what_was_stored_is_found_until_it_is_gone() {
    let (c, m) = (coherence(), memory());
    assert_eq!(absent(m.lookup(&KEY, asked(&request(&[])), &c)), Some(Absent::NotStored));
    m.insert(&Arc::new(entry(&c, &[], 10_000)));
    assert!(found(m.lookup(&KEY, asked(&request(&[])), &c)).is_some());
    let later = NOW.plus(Duration::from_secs(5));
    assert_eq!(
        absent(m.lookup(&KEY, Asked { now: later, ..asked(&request(&[])) }, &c)),
        Some(Absent::NotStored)
    );
    assert!(m.is_empty(), "dropped on touch");
}

#[test]
fn void_entries_are_dropped_unless_their_etag_can_be_asked_about() {
    let (c, m) = (coherence(), memory());
    m.insert(&Arc::new(entry(&c, &[], 10_000)));
    let mut tagged = entry(&c, &[], 10_000);
    tagged.key = CacheKey([2; 32]);
    tagged.response.change(|parts| drop(parts.headers.insert("etag", HeaderValue::from_static("\"1\""))));
    m.insert(&Arc::new(tagged));
    c.append_local(&Event { tags: vec![Tag(3)], ..Event::default() });
    let plain = m.lookup(&KEY, asked(&request(&[])), &c);
    assert_eq!(absent(plain), Some(Absent::Void(Void::Purged)));
    let tagged = m.lookup(&CacheKey([2; 32]), asked(&request(&[])), &c);
    assert!(matches!(tagged, Lookup::Voided(_, Void::Purged)));
    assert_eq!(m.len(), 1);
}

#[test]
fn variants_are_selected_by_the_requests_fields() {
    let (c, m) = (coherence(), memory());
    m.insert(&Arc::new(entry(&c, &[("accept", "a")], 1_000 + 9_000)));
    m.insert(&Arc::new(entry(&c, &[("accept", "")], 10_000)));
    let by = |fields: &[(&'static str, &'static str)]| m.lookup(&KEY, asked(&request(fields)), &c);
    assert!(found(by(&[("accept", "a")])).is_some());
    assert!(found(by(&[])).is_some_and(|e| e.response.selecting().0[0].1.is_none()));
    assert_eq!(absent(by(&[("accept", "c")])), Some(Absent::NoVariant));
}

#[test]
fn of_several_that_match_the_most_recent_answers() {
    let (c, m) = (coherence(), memory());
    m.insert(&Arc::new(entry(&c, &[("accept", "a")], 10_000)));
    m.insert(&Arc::new(entry(&c, &[("accept-language", "en")], 9_000)));
    let both = m.lookup(&KEY, asked(&request(&[("accept", "a"), ("accept-language", "en")])), &c);
    assert_eq!(found(both).unwrap().response.response_time(), Timestamp(10_000));
    let one = m.lookup(&KEY, asked(&request(&[("accept-language", "en")])), &c);
    assert_eq!(found(one).unwrap().response.response_time(), Timestamp(9_000));
}

/// RFC 9111 §4: "as determined by the Date header field".
#[test]
fn the_most_recent_is_the_one_of_the_latest_date() {
    let (c, m) = (coherence(), memory());
    let dated = |selecting, at, date: u64| {
        let mut entry = entry(&c, &[selecting], at);
        let date = HeaderValue::try_from(Timestamp(date).to_http_date()).unwrap();
        entry.response.change(|parts| drop(parts.headers.insert(http::header::DATE, date)));
        Arc::new(entry)
    };
    m.insert(&dated(("accept", "a"), 9_000, 8_000));
    m.insert(&dated(("accept-language", "en"), 10_000, 7_000));
    let both = request(&[("accept", "a"), ("accept-language", "en")]);
    assert_eq!(found(m.lookup(&KEY, asked(&both), &c)).unwrap().response.response_time(), Timestamp(9_000));
    m.insert(&dated(("accept-language", "en"), 9_999, 8_000));
    let last = found(m.lookup(&KEY, asked(&both), &c)).unwrap();
    assert_eq!(last.response.response_time(), Timestamp(9_999), "of one second, the last that came");
}

#[test]
fn variants_are_bounded_and_the_oldest_goes() {
    let (c, m) = (coherence(), memory());
    let first = Arc::new(entry(&c, &[("accept", "a")], 10_000));
    assert_eq!(m.insert(&first), Displaced::default());
    assert_eq!(m.insert(&Arc::new(entry(&c, &[("accept", "b")], 10_000))), Displaced::default());
    let third = m.insert(&Arc::new(entry(&c, &[("accept", "c")], 10_000)));
    assert_eq!(third, Displaced(vec![first.storage_key()]));
    let gone = m.lookup(&KEY, asked(&request(&[("accept", "a")])), &c);
    assert_eq!(absent(gone), Some(Absent::NoVariant));
    assert_eq!(m.remove(&KEY), 2);
    assert!(m.is_empty());
}

#[test]
fn varying_and_unvarying_responses_replace_each_other() {
    let (c, m) = (coherence(), memory());
    m.insert(&Arc::new(entry(&c, &[], 10_000)));
    let varying = Arc::new(entry(&c, &[("accept", "a")], 10_000));
    m.insert(&varying);
    assert_eq!(absent(m.lookup(&KEY, asked(&request(&[])), &c)), Some(Absent::NoVariant));
    let plain = m.insert(&Arc::new(entry(&c, &[], 10_000)));
    assert_eq!(plain, Displaced(vec![varying.storage_key()]));
    assert!(found(m.lookup(&KEY, asked(&request(&[("accept", "b")])), &c)).is_some());
    assert_eq!(m.len(), 1);
}

#[test]
fn promotion_does_not_undo_something_newer() {
    let (c, m) = (coherence(), memory());
    m.insert(&Arc::new(entry(&c, &[], 10_000)));
    m.promote(&Arc::new(entry(&c, &[], 9_000)), &c, NOW);
    let there = found(m.lookup(&KEY, asked(&request(&[])), &c)).unwrap();
    assert_eq!(there.response.response_time(), Timestamp(10_000));
}

#[test]
fn the_largest_item_fits_whatever_the_size() {
    let c = coherence();
    for bytes in [2 << 20, 3 << 20, 64 << 20, 256 << 20] {
        let m = Memory::new(bytes, 1 << 20, 2).unwrap();
        let mut large = entry(&c, &[], 10_000);
        large.response.change(|parts| parts.body = vec![0; (1 << 20) - 8192].into());
        m.insert(&Arc::new(large));
        assert_eq!(m.len(), 1, "{bytes}");
    }
    assert!(Memory::new(0, 1 << 20, 2).is_none());
}

#[test]
fn bytes_are_bounded() {
    let (c, m) = (coherence(), memory());
    for i in 0..100u8 {
        let mut e = entry(&c, &[], 10_000);
        e.key = CacheKey([i; 32]);
        e.response.change(|parts| parts.body = vec![0; 50_000].into());
        m.insert(&Arc::new(e));
    }
    assert!(m.bytes() <= 1 << 20, "{}", m.bytes());
    assert!(m.len() > 5);
}
