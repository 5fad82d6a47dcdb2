//! Validation: client conditionals, conditional fetches, 304 freshening (RFC 9111 §4.3, RFC 9110 §13).
//!
//! Entity tags are compared as opaque bytes and weakly (RFC 9110 §8.8.3.2): nothing here stitches parts
//! of representations together. A `Last-Modified` vouches only when it is older than `Date`: what was
//! modified in the second it was sent in may have been modified again in that second (RFC 9110 §8.8.2.2).
//! `If-Match` and `If-Unmodified-Since` are the origin's business; who sends them is passed through.

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::block::{Fields, Lines};
use super::stored::{StoredResponse, Unpacked, ensure_date, strip_for_storage};
use super::storing::{NotStored, Terms, admit};
use super::timestamp::Timestamp;
use super::vary::{Selecting, Vary};
use super::{fields, freshness, lists, sole};

/// What the client's preconditions say about a stored response that may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Send it.
    Send,
    /// The client has it: 304.
    NotModified,
}

/// Evaluates `If-None-Match`, else `If-Modified-Since`, against a stored response (RFC 9110 §13.2.2).
///
/// Only for GET and HEAD, and only where the answer would be a 2xx (RFC 9110 §13.2.1).
pub fn evaluate(method: &Method, request: &HeaderMap, stored: &StoredResponse) -> Precondition {
    let applies = (*method == Method::GET || *method == Method::HEAD) && stored.status().is_success();
    let not_modified = applies
        && match request.contains_key(IF_NONE_MATCH) {
            true => none_match_fails(request, stored.fields()),
            false => unmodified_since(request, stored),
        };
    if not_modified { Precondition::NotModified } else { Precondition::Send }
}

/// Whether `If-None-Match` names the stored representation (RFC 9110 §13.1.2): weakly, by any member, or by `*`.
fn none_match_fails(request: &HeaderMap, stored: Fields<'_>) -> bool {
    let ours = etag(&stored).map(opaque);
    let lines = request.get_all(IF_NONE_MATCH).into_iter();
    lines
        .flat_map(|line| lists::entity_tags(line.as_bytes()))
        .any(|member| member == b"*" || ours == Some(opaque(member)))
}

/// Whether the stored representation is no newer than `If-Modified-Since` (RFC 9110 §13.1.3; RFC 9111 §4.3.2
/// for `Date` and the moment of receipt in its place). Two lines or no date: the field is ignored.
fn unmodified_since(request: &HeaderMap, stored: &StoredResponse) -> bool {
    let Some(since) = sole(request, &IF_MODIFIED_SINCE).and_then(Timestamp::from_field) else { return false };
    let fields = stored.fields();
    let modified = fields.sole(&LAST_MODIFIED).and_then(Timestamp::from_line);
    let modified = modified.unwrap_or_else(|| freshness::date_value(&fields, stored.response_time()));
    modified.seconds() <= since.seconds()
}

/// Client fields that make a request conditional or partial; removed before a fetch that fills the cache.
pub const CONDITIONAL: [HeaderName; 6] = [
    http::header::IF_NONE_MATCH,
    http::header::IF_MODIFIED_SINCE,
    http::header::IF_MATCH,
    http::header::IF_UNMODIFIED_SINCE,
    http::header::IF_RANGE,
    http::header::RANGE,
];

/// The fields that turn a fetch into a validation of `stored`. `purged`: the entry is void, so only a
/// strong or weak ETag may vouch for it, never a date. Empty = it has no validator to use.
pub fn conditional_fields(stored: &StoredResponse, purged: bool) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::with_capacity(2);
    let ours = stored.fields();
    if let Some(tag) = etag(&ours).and_then(|tag| ours.value(tag)) {
        fields.push((IF_NONE_MATCH, tag));
    }
    if let Some(date) = last_modified(&ours, stored.response_time()).filter(|_| !purged) {
        fields.extend(ours.value(date).map(|date| (IF_MODIFIED_SINCE, date)));
    }
    fields
}

/// Whether a response with these fields could be validated later.
pub(super) fn has_validator(response: &impl Lines, response_time: Timestamp) -> bool {
    etag(response).is_some() || last_modified(response, response_time).is_some()
}

/// Whether this 304 speaks about `stored` (RFC 9111 §4.3.4), given that the request nominated nothing else.
///
/// A validator in the 304 must be the stored one. A strong tag may confirm a stored weak one, as compressing
/// proxies weaken tags on 200 and not on 304; the stored tag then stays weak. A 304 without any validator confirms
/// what was asked about.
pub fn selects(stored: &StoredResponse, not_modified: &HeaderMap) -> bool {
    if not_modified.contains_key(ETAG) {
        let theirs = etag(not_modified).map(opaque);
        return theirs.is_some() && theirs == etag(&stored.fields()).map(opaque);
    }
    not_modified.get(LAST_MODIFIED).map(Timestamp::from_field).is_none_or(|theirs| {
        theirs.is_some() && theirs == stored.fields().get(&LAST_MODIFIED).and_then(Timestamp::from_line)
    })
}

/// `stored` with the 304's fields taken over (RFC 9111 §3.2) and its windows computed anew.
/// `Err` = the freshened response may no longer be stored (it is still good for this one answer).
///
/// `request` must carry the fields that were looked up with. Tag-carrying fields of the 304 are not taken over;
/// who computes tags reads them from `not_modified` itself.
pub fn freshen(
    stored: &StoredResponse,
    request: &Parts,
    not_modified: &HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
    terms: &Terms,
) -> (StoredResponse, Result<(), NotStored>) {
    let mut headers = merge(stored, not_modified, response_time);
    // HEAD is validated on behalf of GET's entry.
    let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
    let verdict =
        admit(method, &request.headers, stored.status(), &headers, request_time, response_time, terms);
    let initial_age = freshness::initial_age(&headers, request_time, response_time);
    strip_for_storage(&mut headers);
    let freshened = Unpacked {
        status: stored.status(),
        selecting: selecting(stored, &headers, request, terms),
        headers,
        body: stored.body(),
        coded: stored.coded(),
        response_time,
        initial_age,
        // What may not be stored has no windows: it is good for this answer alone.
        lifetimes: verdict.unwrap_or_default(),
    };
    (freshened.pack(), verdict.map(drop))
}

/// The stored fields with those of the 304 in their place, its `Age` and `Date` (or the moment of receipt) among them.
fn merge(stored: &StoredResponse, not_modified: &HeaderMap, response_time: Timestamp) -> HeaderMap {
    let mut merged = stored.fields().to_map(0);
    // An old Date would make the freshened response old; without one the moment of receipt counts.
    merged.remove(DATE);
    let nominated = fields::nominated(not_modified);
    for name in not_modified.keys() {
        if fields::is_hop_by_hop(name, &nominated) || KEPT.contains(name) || fields::is_digest(name) {
            continue;
        }
        merged.remove(name);
        for value in not_modified.get_all(name) {
            merged.append(name, value.clone());
        }
    }
    ensure_date(&mut merged, response_time);
    merged
}

/// Fields that describe the stored content and stay with it (RFC 9111 §3.2), as its checksums do. The tag is the stored one: it may
/// differ from the 304's only in strength.
const KEPT: [HeaderName; 5] = [CONTENT_ENCODING, CONTENT_TYPE, CONTENT_RANGE, CONTENT_LENGTH, ETAG];

/// The selecting fields after a 304 that may name more of them. What the stored response was selected by, this
/// request has too: it was looked up with it.
fn selecting(stored: &StoredResponse, headers: &HeaderMap, request: &Parts, terms: &Terms) -> Selecting {
    let known: Vec<HeaderName> = stored.selecting().names().cloned().collect();
    match Vary::of(headers, &known).by_coding(headers, terms.asks_uncoded) {
        Vary::Fields(names) if names != known => Selecting::from_request(&names, &request.headers),
        _ => stored.selecting().clone(),
    }
}

/// The one entity tag of a response; `None` when there is none, an empty one, or several.
pub(super) fn etag(response: &impl Lines) -> Option<&[u8]> {
    response.sole(&ETAG).filter(|tag| !tag.is_empty())
}

/// `Last-Modified` where it can vouch: a date, older than `Date`.
pub(super) fn last_modified(response: &impl Lines, response_time: Timestamp) -> Option<&[u8]> {
    response.sole(&LAST_MODIFIED).filter(|line| {
        let date = freshness::date_value(response, response_time);
        Timestamp::from_line(line).is_some_and(|modified| modified.seconds() < date.seconds())
    })
}

/// An entity tag without its weakness, for weak comparison.
pub(super) fn opaque(tag: &(impl AsRef<[u8]> + ?Sized)) -> &[u8] {
    let tag = tag.as_ref();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests;
