//! `Range`, `If-Range`, `Content-Range` and `multipart/byteranges` (RFC 9110 §14).
#![no_main]

use bytes::Bytes;
use http::header::{IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use weir::semantics::coding::{Coded, Coding};
use weir::semantics::ranges::{MOST_RANGES, Slice, slice};
use weir::semantics::stored::{Lifetimes, StoredResponse, Unpacked};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::Selecting;
use weir_fuzz::{fields, lines, number, sections};

fuzz_target!(|data: &[u8]| {
    let [range, request, response, body] = sections(data);
    let (came, response) = number(response);
    let stored = StoredResponse::new(
        StatusCode::OK,
        fields(response),
        Bytes::copy_from_slice(body),
        Timestamp(came),
        Timestamp(came),
        Lifetimes::default(),
        Selecting::default(),
    );
    let mut request = fields(request);
    request.extend(lines(&RANGE, range));
    let sliced = slice(&Method::GET, &request, &stored);
    check(&sliced, &stored.body());
    coded(&request, &sliced, &stored);
    assert_eq!(slice(&Method::GET, &request, &stored), sliced, "the same question, another answer");
    assert_eq!(slice(&Method::HEAD, &request, &stored), Slice::Whole);
    let mut weak = request.clone();
    weak.insert(IF_RANGE, HeaderValue::from_static("W/\"a\""));
    assert_eq!(slice(&Method::GET, &weak, &stored), Slice::Whole, "a weak tag may not stitch");
    // Without `If-Range` at least as much is a part.
    let mut free = request.clone();
    free.remove(IF_RANGE);
    assert!(sliced == Slice::Whole || slice(&Method::GET, &free, &stored) == sliced);
    request.append(RANGE, HeaderValue::from_static("bytes=0-0"));
    if request.get_all(RANGE).iter().count() > 1 {
        assert_eq!(slice(&Method::GET, &request, &stored), Slice::Whole, "two lines say nothing");
    }
    let mut other = stored;
    other.change(|parts| parts.status = StatusCode::NOT_FOUND);
    assert_eq!(slice(&Method::GET, &free, &other), Slice::Whole);
});

/// What is kept coded is cut as it would be uncoded: one part, counted in the uncoded content, and by no date, which
/// both forms share.
fn coded(request: &HeaderMap, plain: &Slice, stored: &StoredResponse) {
    let dated = request.get(IF_RANGE).is_some_and(|given| !given.as_bytes().contains(&b'"'));
    let expected = match plain {
        _ if dated => Slice::Whole,
        Slice::Single { content_range, .. } => {
            let (first, last) = place(content_range, &stored.body());
            Slice::Coded { range: first as u64..last as u64 + 1, content_range: content_range.clone() }
        }
        Slice::Multiple { .. } => Slice::Whole,
        other => other.clone(),
    };
    // Its own bytes are others, and fewer or more.
    let body = stored.body();
    let bytes = body.slice(..body.len() / 2);
    let coded = Coded { coding: Coding::Gzip, length: body.len() as u64 };
    let stored = Unpacked { body: bytes, coded: Some(coded), ..stored.unpack() }.pack();
    assert_eq!(slice(&Method::GET, request, &stored), expected);
}

fn check(slice: &Slice, whole: &Bytes) {
    match slice {
        Slice::Whole => {}
        Slice::Single { body, content_range } => part(body, content_range, whole),
        Slice::Coded { .. } => panic!("of a content that is kept as it is"),
        Slice::Multiple { body, content_type } => multipart(body, content_type, whole),
        Slice::Unsatisfiable { content_range } => {
            assert_eq!(*content_range, format!("bytes */{}", whole.len()));
        }
    }
}

/// A part is what its `Content-Range` says it is. Returns where it lies.
fn part(body: &[u8], content_range: &str, whole: &Bytes) {
    let (first, last) = place(content_range, whole);
    assert!(first <= last && last < whole.len());
    assert_eq!(body, &whole[first..=last]);
}

fn place(content_range: &str, whole: &Bytes) -> (usize, usize) {
    let (range, length) = content_range.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
    assert_eq!(length.parse(), Ok(whole.len()));
    let (first, last) = range.split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

/// The parts, one after the other, are disjoint pieces of the whole, and nothing else is in the body.
fn multipart(body: &[u8], content_type: &str, whole: &Bytes) {
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}");
    let mut pieces = split(body, delimiter.as_bytes()).into_iter();
    assert_eq!(pieces.next(), Some(&b""[..]), "a preamble");
    let mut taken = Vec::new();
    let pieces: Vec<&[u8]> = pieces.collect();
    let (end, parts) = pieces.split_last().unwrap();
    assert_eq!(*end, b"--\r\n");
    assert!((2..=MOST_RANGES).contains(&parts.len()));
    for piece in parts {
        let piece = piece.strip_prefix(b"\r\n").expect("a line end after the boundary");
        let at = piece.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = fields(&piece[..at]);
        let content_range = head["content-range"].to_str().unwrap();
        part(&piece[at + 4..], content_range, whole);
        taken.push(place(content_range, whole));
    }
    taken.sort_unstable();
    assert!(taken.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "parts that touch: {taken:?}");
}

fn split<'a>(mut rest: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while let Some(at) = rest.windows(by.len()).position(|w| w == by) {
        pieces.push(&rest[..at]);
        rest = &rest[at + by.len()..];
    }
    pieces.push(rest);
    pieces
}
