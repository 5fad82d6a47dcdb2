use super::*;
use crate::semantics::coding::{Coded, Coding};
use crate::semantics::stored::Lifetimes;
use crate::semantics::vary::Selecting;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW: Timestamp = Timestamp(784_111_777_000);

type Fields<'a> = &'a [(&'a str, &'a str)];

fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn stored(body: &[u8], fields: Fields<'_>) -> StoredResponse {
    let body = Bytes::copy_from_slice(body);
    StoredResponse::new(
        StatusCode::OK,
        headers(fields),
        body,
        NOW,
        NOW,
        Lifetimes::default(),
        Selecting::default(),
    )
}

fn asked(range: &str) -> Slice {
    slice(&Method::GET, &headers(&[("range", range)]), &stored(b"0123456789", &[]))
}

fn single(body: &str, content_range: &str) -> Slice {
    Slice::Single { body: Bytes::copy_from_slice(body.as_bytes()), content_range: content_range.into() }
}

#[test]
fn one_range() {
    let none = Slice::Unsatisfiable { content_range: "bytes */10".into() };
    let table = [
        ("bytes=0-0", single("0", "bytes 0-0/10")),
        ("bytes=2-4", single("234", "bytes 2-4/10")),
        ("Bytes = 2-4", single("234", "bytes 2-4/10")),
        ("bytes=7-", single("789", "bytes 7-9/10")),
        ("bytes=-3", single("789", "bytes 7-9/10")),
        ("bytes=-30", single("0123456789", "bytes 0-9/10")),
        ("bytes=0-", single("0123456789", "bytes 0-9/10")),
        ("bytes=8-99999999999999999999999", single("89", "bytes 8-9/10")),
        ("bytes=8-18446744073709551615", single("89", "bytes 8-9/10")),
        ("bytes= , 2-4 ,", single("234", "bytes 2-4/10")),
        ("bytes=2-4,3-6", single("23456", "bytes 2-6/10")),
        ("bytes=5-6,2-4", single("23456", "bytes 2-6/10")),
        ("bytes=2-4,50-60", single("234", "bytes 2-4/10")),
        ("bytes=10-", none.clone()),
        ("bytes=10-20", none.clone()),
        ("bytes=-0", none.clone()),
        ("bytes=11-12,-0", none),
        ("bytes=4-2", Slice::Whole),
        ("bytes=0-1,4-2", Slice::Whole),
        ("bytes=", Slice::Whole),
        ("bytes", Slice::Whole),
        ("bytes=-", Slice::Whole),
        ("bytes=a-b", Slice::Whole),
        ("bytes=+1-2", Slice::Whole),
        ("bytes=1 - 2", Slice::Whole),
        ("bytes=1--2", Slice::Whole),
        ("items=0-1", Slice::Whole),
        ("", Slice::Whole),
    ];
    for (range, expected) in table {
        assert_eq!(asked(range), expected, "{range}");
    }
}

#[test]
fn nothing_has_no_part() {
    let empty = stored(b"", &[]);
    let asked = |range| slice(&Method::GET, &headers(&[("range", range)]), &empty);
    assert_eq!(asked("bytes=-5"), Slice::Whole);
    assert_eq!(asked("bytes=0-"), Slice::Unsatisfiable { content_range: "bytes */0".into() });
    assert_eq!(asked("bytes=-0"), Slice::Unsatisfiable { content_range: "bytes */0".into() });
}

#[test]
fn ranges_are_for_get_and_200() {
    let request = headers(&[("range", "bytes=0-1")]);
    let mut stored = stored(b"0123456789", &[]);
    for method in [Method::HEAD, Method::POST] {
        assert_eq!(slice(&method, &request, &stored), Slice::Whole);
    }
    assert_eq!(slice(&Method::GET, &HeaderMap::new(), &stored), Slice::Whole);
    let twice = headers(&[("range", "bytes=0-1"), ("range", "bytes=0-1")]);
    assert_eq!(slice(&Method::GET, &twice, &stored), Slice::Whole);
    stored.change(|parts| parts.status = StatusCode::NOT_FOUND);
    assert_eq!(slice(&Method::GET, &request, &stored), Slice::Whole);
}

#[test]
fn too_many_ranges_get_the_whole() {
    let list = |n: usize| (0..n).map(|i| format!("{}-{}", 2 * i, 2 * i)).collect::<Vec<_>>().join(",");
    let stored = stored(&[b'x'; 100], &[]);
    let asked = |n| slice(&Method::GET, &headers(&[("range", &format!("bytes={}", list(n)))]), &stored);
    assert!(matches!(asked(MOST_RANGES), Slice::Multiple { .. }));
    assert_eq!(asked(MOST_RANGES + 1), Slice::Whole);
}

#[test]
fn if_range_wants_a_strong_validator() {
    let second = |s: u64| Timestamp(NOW.0 - s * 1000).to_http_date();
    let (modified, sent) = (second(1000), second(0));
    let dated: Fields<'_> = &[("last-modified", &modified), ("date", &sent)];
    let just_now: Fields<'_> = &[("last-modified", &sent), ("date", &sent)];
    let table: [(Fields<'_>, &str, bool); 13] = [
        (&[("etag", "\"a\"")], "\"a\"", true),
        (&[("etag", "\"a\"")], "\"b\"", false),
        (&[("etag", "W/\"a\"")], "W/\"a\"", false),
        (&[("etag", "W/\"a\"")], "\"a\"", false),
        (&[("etag", "\"a\"")], "W/\"a\"", false),
        (&[("etag", "\"a\"")], "*", false),
        (&[], "\"a\"", false),
        (dated, &modified, true),
        (dated, &sent, false),
        (dated, "junk", false),
        (just_now, &sent, false),
        (&[], &sent, false),
        (&[("last-modified", "junk")], "junk", false),
    ];
    for (fields, given, expected) in table {
        let request = headers(&[("range", "bytes=0-1"), ("if-range", given)]);
        let sliced = slice(&Method::GET, &request, &stored(b"0123456789", fields));
        assert_eq!(sliced != Slice::Whole, expected, "{fields:?} {given}");
    }
    let twice = headers(&[("range", "bytes=0-1"), ("if-range", "\"a\""), ("if-range", "\"a\"")]);
    assert_eq!(slice(&Method::GET, &twice, &stored(b"0123456789", &[("etag", "\"a\"")])), Slice::Whole);
    // An If-Range that fails comes before the question whether the range can be had.
    let beyond = headers(&[("range", "bytes=50-"), ("if-range", "\"b\"")]);
    assert_eq!(slice(&Method::GET, &beyond, &stored(b"0", &[("etag", "\"a\"")])), Slice::Whole);
}

/// The parts of a multipart answer, read the way a client would.
fn parts(sliced: &Slice) -> Vec<(String, Vec<u8>)> {
    let Slice::Multiple { body, content_type } = sliced else { panic!("{sliced:?}") };
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut rest: &[u8] = body;
    let mut found = Vec::new();
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes()).unwrap();
        if rest == b"--\r\n" {
            return found;
        }
        let end = (0..rest.len()).find(|i| rest[*i..].starts_with(delimiter.as_bytes())).unwrap();
        let part = rest[..end].strip_prefix(b"\r\n").unwrap();
        let blank = part.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        found.push((String::from_utf8(part[..blank].to_vec()).unwrap(), part[blank + 4..].to_vec()));
        rest = &rest[end..];
    }
}

#[test]
fn several_ranges_in_the_order_asked() {
    let stored = stored(b"0123456789", &[("content-type", "text/plain")]);
    let request = headers(&[("range", "bytes=7-8, 0-1")]);
    let sliced = slice(&Method::GET, &request, &stored);
    let expected = [("bytes 7-8/10", b"78"), ("bytes 0-1/10", b"01")]
        .map(|(range, body)| (format!("Content-Type: text/plain\r\nContent-Range: {range}"), body.to_vec()));
    assert_eq!(parts(&sliced), expected);
    assert_eq!(sliced, slice(&Method::GET, &request, &stored), "the same question, the same bytes");
    let untyped = slice(&Method::GET, &request, &self::stored(b"0123456789", &[]));
    assert_eq!(parts(&untyped)[0].0, "Content-Range: bytes 7-8/10");
}

#[test]
fn a_boundary_never_occurs_in_the_content() {
    let plain = stored(b"0123456789", &[]);
    let ranges = [0..2, 4..6];
    let first = boundary(&ranges, &plain).unwrap();
    // The same length and ranges, with the first candidate inside a part.
    let long = [first.as_bytes(), &[b'x'; 60][..]].concat();
    let wide = [0..first.len(), first.len() + 2..first.len() + 4];
    let stored = stored(&long, &[]);
    let candidate = boundary_candidate(&wide, &stored, 0);
    let mut hostile = stored;
    hostile.change(|parts| parts.body = [candidate.as_bytes(), &[b'x'; 60][..]].concat().into());
    assert_eq!(boundary_candidate(&wide, &hostile, 0), candidate);
    assert_ne!(boundary(&wide, &hostile), Some(candidate));
    assert!(boundary(&wide, &hostile).is_some());
}

#[test]
fn finding_bytes() {
    assert!(contains(b"abcabd", b"abd"));
    assert!(!contains(b"abcabc", b"abd"));
    assert!(contains(b"aaab", b"aab"));
    assert!(!contains(b"a", b"ab"));
    assert!(contains(b"", b""));
}

/// Which positions of a content of this length a well-formed range set asks for.
fn wanted(specs: &[(u8, u64, u64)], length: usize) -> Vec<usize> {
    let length = length as u64;
    let asked = |p: u64| {
        specs.iter().any(|(kind, a, b)| match kind {
            0 => (*a.min(b)..=*a.max(b)).contains(&p),
            1 => p >= *a,
            _ => p >= length.saturating_sub(*a),
        })
    };
    (0..length).filter(|p| asked(*p)).map(|p| p as usize).collect()
}

#[test]
fn what_is_kept_coded_is_cut_by_the_length_it_has_uncoded() {
    let coded = Coded { coding: Coding::Gzip, length: 100 };
    let fields = [("etag", "\"a\""), ("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT")];
    let mut stored = stored(b"coded", &fields);
    stored.set_coded(Some(coded));
    let cut = |fields: &[(&str, &str)]| slice(&Method::GET, &headers(fields), &stored);
    let last_ten = Slice::Coded { range: 90..100, content_range: "bytes 90-99/100".into() };
    assert_eq!(cut(&[("range", "bytes=-10")]), last_ten);
    assert_eq!(cut(&[("range", "bytes=-10"), ("if-range", "\"a\"")]), last_ten);
    let unsatisfiable = Slice::Unsatisfiable { content_range: "bytes */100".into() };
    assert_eq!(cut(&[("range", "bytes=100-")]), unsatisfiable);
    assert_eq!(cut(&[("range", "bytes=0-1, 5-6")]), Slice::Whole, "several at once");
    // Of the coded form a client has a weak tag, and the date of both.
    assert_eq!(cut(&[("range", "bytes=-10"), ("if-range", "W/\"a\"")]), Slice::Whole);
    let date = ("if-range", "Thu, 01 Jan 1970 00:00:01 GMT");
    assert_eq!(cut(&[("range", "bytes=-10"), date]), Slice::Whole);
    let mut uncoded = stored.clone();
    uncoded.set_coded(None);
    let cut = slice(&Method::GET, &headers(&[("range", "bytes=-1"), date]), &uncoded);
    assert!(matches!(cut, Slice::Single { .. }), "{cut:?}");
}

proptest! {
    #[test]
    fn slices_are_the_bytes_asked_for(
        body in proptest::collection::vec(any::<u8>(), 1..200),
        specs in proptest::collection::vec((0..3u8, 0..220u64, 0..220u64), 1..8),
    ) {
        let text: Vec<_> = specs.iter().map(|(kind, a, b)| match kind {
            0 => format!("{}-{}", a.min(b), a.max(b)),
            1 => format!("{a}-"),
            _ => format!("-{a}"),
        }).collect();
        let line = format!("bytes={}", text.join(", "));
        let stored = stored(&body, &[]);
        let sliced = slice(&Method::GET, &headers(&[("range", &line)]), &stored);
        let wanted = wanted(&specs, body.len());
        let given: Vec<(String, Vec<u8>)> = match &sliced {
            Slice::Whole => return Err(TestCaseError::fail("a well-formed range was ignored")),
            Slice::Unsatisfiable { .. } => Vec::new(),
            Slice::Single { body, content_range } => vec![(format!("Content-Range: {content_range}"), body.to_vec())],
            Slice::Multiple { .. } => parts(&sliced),
            Slice::Coded { .. } => return Err(TestCaseError::fail("nothing is coded here")),
        };
        let mut positions = Vec::new();
        for (head, bytes) in given {
            let head = head.strip_prefix("Content-Range: bytes ").unwrap();
            let (range, length) = head.split_once('/').unwrap();
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            prop_assert_eq!(length, body.len().to_string());
            prop_assert_eq!(&bytes[..], &body[first..=last]);
            positions.extend(first..=last);
        }
        positions.sort_unstable();
        prop_assert_eq!(positions, wanted);
    }

    #[test]
    fn slicing_never_panics(
        range in "(bytes)?[=0-9, -]{0,60}", junk in proptest::collection::vec(any::<u8>(), 0..40),
        length in 0..20usize,
    ) {
        let stored = stored(&vec![b'x'; length], &[("etag", "\"a\"")]);
        let mut request = headers(&[("range", &range)]);
        let _ = slice(&Method::GET, &request, &stored);
        if let Ok(junk) = HeaderValue::from_bytes(&junk) {
            request.insert(RANGE, junk.clone());
            let _ = slice(&Method::GET, &request, &stored);
            request.insert(IF_RANGE, junk);
            let _ = slice(&Method::GET, &request, &stored);
        }
    }
}
