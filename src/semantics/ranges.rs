//! Ranges sliced from whole stored responses (RFC 9110 §14).
//!
//! A slice shares the stored content's memory; only several ranges at once are copied, into one
//! `multipart/byteranges`. What is not understood (another unit, malformed, too many ranges) is ignored,
//! as RFC 9110 §14.2 allows, and the whole is sent. Ranges that overlap or touch are sent as one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, IF_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};

use super::stored::StoredResponse;
use super::timestamp::Timestamp;
use super::{lists, sole, validation};

/// A request for more ranges than this gets the whole (RFC 9110 §14.2 warns of many small ones).
pub const MOST_RANGES: usize = 16;

/// How to answer a request, as far as `Range` and `If-Range` go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// No (usable) range: the whole content, 200.
    Whole,
    /// One range: 206 with `Content-Range`.
    Single {
        /// The bytes.
        body: Bytes,
        /// Value of `Content-Range`.
        content_range: String,
    },
    /// One range of a content that is kept coded: 206 with `Content-Range`.
    Coded {
        /// The bytes, counted in the content without its coding.
        range: Range<u64>,
        /// Value of `Content-Range`.
        content_range: String,
    },
    /// Several ranges: 206 as `multipart/byteranges`.
    Multiple {
        /// The multipart content.
        body: Bytes,
        /// Value of `Content-Type`, with the boundary.
        content_type: String,
    },
    /// 416 with this `Content-Range`.
    Unsatisfiable {
        /// `bytes */length`.
        content_range: String,
    },
}

/// Evaluates `Range` (and `If-Range`) of a GET against a stored 200. HEAD and other statuses are `Whole`.
pub fn slice(method: &Method, request: &HeaderMap, stored: &StoredResponse) -> Slice {
    if *method != Method::GET || stored.status() != StatusCode::OK {
        return Slice::Whole;
    }
    let Some(specs) = sole(request, &RANGE).and_then(|line| parse(line.as_bytes())) else {
        return Slice::Whole;
    };
    if !if_range_holds(request, stored) {
        return Slice::Whole;
    }
    let Ok(length) = usize::try_from(stored.content_length()) else { return Slice::Whole };
    let ranges: Vec<_> = specs.iter().filter_map(|spec| spec.within(length)).collect();
    match coalesce(ranges).as_slice() {
        // An empty suffix of nothing: there is no way to say so in Content-Range (RFC 9110 §14.1.2).
        [] if length == 0 && specs.iter().any(Spec::is_suffix) => Slice::Whole,
        [] => Slice::Unsatisfiable { content_range: format!("bytes */{length}") },
        [one] if stored.coded().is_some() => Slice::Coded {
            range: one.start as u64..one.end as u64,
            content_range: content_range(one, length),
        },
        [one] => Slice::Single {
            body: stored.body().slice(one.clone()),
            content_range: content_range(one, length),
        },
        // Not worth decoding it all at once.
        _ if stored.coded().is_some() => Slice::Whole,
        several => multipart(several, stored),
    }
}

/// A range-spec of the unit `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `first-` or `first-last`.
    From(u64, Option<u64>),
    /// `-length`.
    Suffix(u64),
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Spec> {
        let dash = text.iter().position(|&b| b == b'-')?;
        let (first, last) = (&text[..dash], &text[dash + 1..]);
        match (first.is_empty(), last.is_empty()) {
            (true, _) => Some(Spec::Suffix(number(last)?)),
            (false, true) => Some(Spec::From(number(first)?, None)),
            (false, false) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Spec::From(first, Some(last)))
            }
        }
    }

    fn is_suffix(&self) -> bool {
        matches!(self, Spec::Suffix(1..))
    }

    /// The bytes it means, of this many; `None` when it means none.
    fn within(&self, length: usize) -> Option<Range<usize>> {
        let position = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let range = match *self {
            Spec::From(first, None) => position(first)..length,
            Spec::From(first, Some(last)) => position(first)..position(last).saturating_add(1).min(length),
            Spec::Suffix(wanted) => length.saturating_sub(position(wanted))..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// `1*DIGIT`, saturating.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |sum: u64, d| sum.saturating_mul(10).saturating_add(u64::from(d - b'0'))))
}

/// The ranges of a `Range: bytes=…` (RFC 9110 §14.1.2); `None` when the field is to be ignored.
fn parse(line: &[u8]) -> Option<Vec<Spec>> {
    let (unit, set) = line.split_at(line.iter().position(|&b| b == b'=')?);
    if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs: Vec<_> =
        lists::members(&set[1..]).take(MOST_RANGES + 1).map(Spec::parse).collect::<Option<_>>()?;
    (1..=MOST_RANGES).contains(&specs.len()).then_some(specs)
}

/// Whether `If-Range` is absent or names the stored representation by a strong validator (RFC 9110 §13.1.5).
fn if_range_holds(request: &HeaderMap, stored: &StoredResponse) -> bool {
    if !request.contains_key(IF_RANGE) {
        return true;
    }
    let Some(given) = sole(request, &IF_RANGE) else { return false };
    if given.as_bytes().contains(&b'"') {
        return given.as_bytes().starts_with(b"\"")
            && validation::etag(&stored.fields()) == Some(given.as_bytes());
    }
    // What is kept coded has two forms of one date: it does not say which of them the client has a part of.
    if stored.coded().is_some() {
        return false;
    }
    // A date is strong only if sent with a later Date (RFC 9110 §8.8.2.2), and must be the very one.
    let strong =
        validation::last_modified(&stored.fields(), stored.response_time()).and_then(Timestamp::from_line);
    strong.is_some() && strong == Timestamp::from_field(given)
}

/// Ranges that overlap or touch become one. The order asked for stays where none do.
fn coalesce(ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut sorted = ranges.clone();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    if merged.len() == ranges.len() { ranges } else { merged }
}

fn content_range(range: &Range<usize>, length: usize) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end - 1)
}

/// Several ranges as `multipart/byteranges` (RFC 9110 §14.6).
fn multipart(ranges: &[Range<usize>], stored: &StoredResponse) -> Slice {
    let Some(boundary) = boundary(ranges, stored) else { return Slice::Whole };
    let part_type = stored.fields().get(&CONTENT_TYPE);
    let total: usize = ranges.iter().map(|range| range.len() + 192).sum();
    let mut body = BytesMut::with_capacity(total);
    for range in ranges {
        body.put_slice(format!("\r\n--{boundary}\r\n").as_bytes());
        if let Some(part_type) = part_type {
            body.put_slice(b"Content-Type: ");
            body.put_slice(part_type);
            body.put_slice(b"\r\n");
        }
        let position = content_range(range, stored.body_bytes().len());
        body.put_slice(format!("Content-Range: {position}\r\n\r\n").as_bytes());
        body.put_slice(stored.body_bytes().get(range.clone()).unwrap_or_default());
    }
    body.put_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Slice::Multiple {
        body: body.freeze(),
        content_type: format!("multipart/byteranges; boundary={boundary}"),
    }
}

/// A boundary that occurs in none of the parts; `None` when a few were tried in vain.
fn boundary(ranges: &[Range<usize>], stored: &StoredResponse) -> Option<String> {
    (0..8u8).map(|attempt| boundary_candidate(ranges, stored, attempt)).find(|candidate| {
        let parts = ranges.iter().filter_map(|range| stored.body_bytes().get(range.clone()));
        parts.into_iter().all(|part| !contains(part, candidate.as_bytes()))
    })
}

/// The same question gets the same boundary, so that equal answers are equal bytes.
fn boundary_candidate(ranges: &[Range<usize>], stored: &StoredResponse, attempt: u8) -> String {
    let mut hasher = DefaultHasher::new();
    (ranges, stored.body_bytes().len(), stored.response_time(), attempt).hash(&mut hasher);
    format!("weir-{:016x}", hasher.finish())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[cfg(test)]
mod tests;
