//! Entity tags, `If-None-Match`, `If-Modified-Since`, and freshening by a 304 (RFC 9110 §13, RFC 9111 §4.3).
#![no_main]

use bytes::Bytes;
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use weir::semantics::block::Lines;
use weir::semantics::coding::{Coded, Coding, is_coded};
use weir::semantics::head::{Told, compare};
use weir::semantics::stored::{Lifetimes, StoredResponse, Unpacked};
use weir::semantics::storing::{OriginMode, Terms};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::validation::{Precondition, conditional_fields, evaluate, freshen, selects};
use weir::semantics::vary::Selecting;
use weir_fuzz::{fields, lines, numbers, sections};

fuzz_target!(|data: &[u8]| {
    let [head, response, request, not_modified] = sections(data);
    let ([came, status, mode], _) = numbers(head);
    let came = Timestamp(came);
    let status = StatusCode::from_u16(u16::try_from(status).unwrap_or(200)).unwrap_or(StatusCode::OK);
    let stored = StoredResponse::new(
        status,
        fields(response),
        Bytes::from_static(b"content"),
        came,
        came,
        Lifetimes::default(),
        Selecting::default(),
    );
    let request = fields(request);
    preconditions(&request, &stored);
    asking(&stored);
    let answer = fields(not_modified);
    told(&stored, &answer, mode);
    freshening(&request, &stored, &answer, mode);
});

/// What a 200 to HEAD tells of a stored 200 to GET (RFC 9111 §4.3.5).
fn told(stored: &StoredResponse, head: &HeaderMap, mode: u64) {
    let terms = Terms { origin: origin(mode), ..Terms::default() };
    let told = compare(stored, head, &terms);
    if stored.status() != StatusCode::OK {
        assert_eq!(told, Told::Other);
    }
    // The letter takes what the default mode leaves open, and nothing more.
    let letter = compare(stored, head, &Terms { origin: OriginMode::Honour, ..Terms::default() });
    assert!(letter == told || (told, letter) == (Told::Nothing, Told::Same));
    // What is said to be the same stays so when less is said only to the letter, and never becomes another.
    if told == Told::Same {
        for name in [ETAG, LAST_MODIFIED, CONTENT_LENGTH] {
            let mut less = head.clone();
            less.remove(name);
            assert_ne!(compare(stored, &less, &terms), Told::Other);
        }
    }
    // A head of another coding is about another representation. Otherwise a validator that is not the stored one is
    // another's content, whatever else is said.
    let comparable = is_coded(head) == is_coded(&stored.fields());
    for (name, value) in [
        (ETAG, "\"nobody's\""),
        (LAST_MODIFIED, "Fri, 31 Dec 9999 23:59:58 GMT"),
        (CONTENT_LENGTH, "8"),
        (CONTENT_LENGTH, "-7"),
    ] {
        let mut other = head.clone();
        other.insert(&name, HeaderValue::from_static(value));
        let ours = stored.fields().get(&name).is_some_and(|ours| {
            let date = Timestamp::from_http_date(value);
            ours.ends_with(value.as_bytes())
                || date.is_some() && Timestamp::from_line(ours) == date
        });
        assert!(!comparable || ours || compare(stored, &other, &terms) == Told::Other, "{name}: {value}");
    }
    // One line more never makes it the same.
    for name in [ETAG, LAST_MODIFIED, CONTENT_LENGTH] {
        let Some(value) = head.get(&name).cloned() else { continue };
        let mut twice = head.clone();
        twice.append(&name, value);
        assert!(!comparable || compare(stored, &twice, &terms) == Told::Other, "{name}");
    }
    // The length is the uncoded content's.
    let coded = Some(Coded { coding: Coding::Br, length: stored.content_size() });
    let coded = Unpacked { body: Bytes::from_static(b"c"), coded, ..stored.unpack() }.pack();
    assert_eq!(compare(&coded, head, &terms), told);
}

fn origin(mode: u64) -> OriginMode {
    [OriginMode::Stricter, OriginMode::Honour, OriginMode::Ignore][usize::from(mode as u8) % 3]
}

fn preconditions(request: &HeaderMap, stored: &StoredResponse) {
    let unmodified =
        |request: &HeaderMap| evaluate(&Method::GET, request, stored) == Precondition::NotModified;
    let decided = unmodified(request);
    assert_eq!(evaluate(&Method::POST, request, stored), Precondition::Send);
    assert_eq!(decided, evaluate(&Method::HEAD, request, stored) == Precondition::NotModified);
    assert!(!decided || stored.status().is_success());
    // Another member can only match more.
    if request.contains_key(IF_NONE_MATCH) {
        let mut longer = request.clone();
        longer.append(IF_NONE_MATCH, HeaderValue::from_static("\"another\""));
        assert!(!decided || unmodified(&longer));
        // The date does not count beside it (RFC 9110 §13.1.3).
        let mut dated = request.clone();
        dated.insert(IF_MODIFIED_SINCE, HeaderValue::from_static("Fri, 31 Dec 9999 23:59:59 GMT"));
        assert_eq!(decided, unmodified(&dated));
        longer.append(IF_NONE_MATCH, HeaderValue::from_static("*"));
        assert_eq!(unmodified(&longer), stored.status().is_success());
    }
    let fields = stored.fields();
    let Some(tag) = fields.sole(&ETAG) else { return };
    if is_entity_tag(tag) {
        for echoed in [tag.to_vec(), other_strength(tag)] {
            let mut echo = lines(&IF_NONE_MATCH, &echoed);
            assert_eq!(unmodified(&echo), stored.status().is_success(), "{tag:?}");
            echo.insert(
                IF_NONE_MATCH,
                HeaderValue::from_bytes(&[b"\"a,b\" , ", &echoed[..]].concat()).expect("a value"),
            );
            assert_eq!(unmodified(&echo), stored.status().is_success(), "{tag:?}");
        }
    }
}

/// RFC 9110 §8.8.3.
fn is_entity_tag(tag: &[u8]) -> bool {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    matches!(tag, [b'"', inner @ .., b'"'] if inner.iter().all(|&b| b == 0x21 || b >= 0x23 && b != 0x7f))
}

fn other_strength(tag: &[u8]) -> Vec<u8> {
    tag.strip_prefix(b"W/").map_or_else(|| [b"W/", tag].concat(), <[u8]>::to_vec)
}

fn asking(stored: &StoredResponse) {
    let names = |purged| -> Vec<HeaderName> {
        conditional_fields(stored, purged).into_iter().map(|(n, _)| n).collect()
    };
    assert!(!names(true).contains(&IF_MODIFIED_SINCE), "a purged entry is vouched for by its tag alone");
    assert_eq!(stored.has_validator(), !names(false).is_empty());
    for (name, value) in conditional_fields(stored, false) {
        assert_eq!(
            stored.fields().get(if name == IF_NONE_MATCH { &ETAG } else { &LAST_MODIFIED }),
            Some(value.as_bytes())
        );
    }
}

fn freshening(request: &HeaderMap, stored: &StoredResponse, not_modified: &HeaderMap, mode: u64) {
    // Its own fields speak about it, where they can speak.
    let own = stored.fields();
    let plain = [ETAG, LAST_MODIFIED].iter().all(|name| own.all(name).count() < 2);
    let nameable = own.get(&ETAG).is_none_or(|tag| !tag.is_empty());
    let dated = own.get(&LAST_MODIFIED).is_none_or(|date| Timestamp::from_line(date).is_some());
    if plain && nameable && (own.contains(&ETAG) || dated) {
        assert!(selects(stored, &own.to_map(0)));
    }
    let mut foreign = not_modified.clone();
    foreign.insert(ETAG, HeaderValue::from_static("\"nobody's\""));
    let ours = own.get(&ETAG).is_some_and(|tag| tag.ends_with(b"\"nobody's\""));
    assert!(ours || !selects(stored, &foreign));
    let mut parts = http::Request::new(()).into_parts().0;
    parts.headers = request.clone();
    let terms = Terms { origin: origin(mode), asks_uncoded: mode & 4 != 0, ..Terms::default() };
    let now = stored.response_time();
    let (fresh, verdict) = freshen(stored, &parts, not_modified, now, now, &terms);
    assert_eq!((fresh.status(), fresh.body()), (stored.status(), stored.body()));
    let kept = fresh.fields();
    assert!(verdict.is_ok() || fresh.lifetimes() == Lifetimes::default());
    for name in [AGE, CONTENT_LENGTH, CONNECTION, TRANSFER_ENCODING] {
        assert!(!kept.contains(&name), "{name}");
    }
    // What describes the content stays with it (RFC 9111 §3.2), but for what the 304's `Connection` takes.
    for name in [ETAG, CONTENT_TYPE, CONTENT_ENCODING] {
        assert!(kept.all(&name).eq(own.all(&name)), "{name}");
    }
    assert!(kept.contains(&DATE));
    // The same 304 once more changes nothing.
    let (again, _) = freshen(&fresh, &parts, not_modified, now, now, &terms);
    assert_eq!(again.fields().to_map(0), kept.to_map(0));
    assert_eq!((again.initial_age(), again.lifetimes()), (fresh.initial_age(), fresh.lifetimes()));
}
