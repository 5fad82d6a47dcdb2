//! From a stored response to an answer: preconditions, ranges, `Age`, `Cache-Status`.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
use crate::coder::Decoded;
use crate::semantics::coding::{Coding, Form, dress, form};
use crate::semantics::ranges::{Slice, slice};
use crate::semantics::stored::StoredResponse;
use crate::semantics::validation::{Precondition, evaluate};
use crate::server::{HeadLines, Written};

/// Fields a 304 carries from the stored response (RFC 9110 §15.4.5).
const NOT_MODIFIED_FIELDS: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::VARY,
];

/// Fields that are added to a stored response: `Age`, `Via`, `Content-Length`, `Cache-Status`, and room for two of whoever
/// comes after.
const ADDED: usize = 6;

/// Answers a request from a stored response. `via` is Weir's own member of that field; `Cache-Status` is
/// added by the caller.
pub(crate) fn deliver(
    method: &Method,
    request: &HeaderMap,
    stored: &StoredResponse,
    age: Duration,
    via: &HeaderValue,
) -> Response<Body> {
    let mut response = match (evaluate(method, request, stored), stored.coded()) {
        (Precondition::NotModified, None) => still_good(stored),
        (Precondition::Send, None) => content(method, request, stored),
        (precondition, Some(coded)) => dressed(method, request, stored, coded.coding, precondition),
    };
    response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    response.headers_mut().append(header::VIA, via.clone());
    response
}

/// What the whole of a stored 200 comes to on HTTP/1's wire as an answer to a GET that asks for nothing less, with its
/// explanation: what [`deliver`] makes of it, `status` as the only member of `Cache-Status`. `None`: it has a field with a say in that.
pub(crate) fn write_whole(
    stored: &StoredResponse,
    age: Duration,
    via: &HeaderValue,
    status: impl FnOnce() -> HeaderValue,
    x_cache: Option<&'static str>,
) -> Option<Written> {
    let content = stored.body();
    if stored.status() != StatusCode::OK || stored.coded().is_some() || content.is_empty() {
        return None;
    }
    let status = status();
    let fields = stored.fields();
    // Names, and what is between and behind; the lines that are added, with theirs.
    let room = fields.text_len() + 4 * fields.len() + via.len() + status.len() + 128;
    let mut head = HeadLines::new(room);
    // Lines of one name are one behind another, and the last of `Via` is ours.
    let (mut dated, mut vias) = (false, Vias::None);
    for (name, value) in fields.iter() {
        match name {
            b"age" | b"cache-status" | b"connection" | b"content-length" | b"trailer"
            | b"transfer-encoding" | b"x-cache" => {
                return None;
            }
            b"date" => dated = true,
            _ => {}
        }
        match (vias, name == b"via") {
            (Vias::None, true) => vias = Vias::Begun,
            (Vias::Begun, false) => {
                head.line(b"via", via.as_bytes());
                vias = Vias::Ended;
            }
            _ => {}
        }
        head.line(name, value);
    }
    if vias == Vias::Begun {
        head.line(b"via", via.as_bytes());
    }
    let mut number = itoa::Buffer::new();
    head.line(b"content-length", number.format(content.len()).as_bytes());
    head.line(b"age", number.format(age.as_secs()).as_bytes());
    if vias == Vias::None {
        head.line(b"via", via.as_bytes());
    }
    head.line(b"cache-status", status.as_bytes());
    if let Some(word) = x_cache {
        head.line(b"x-cache", word.as_bytes());
    }
    dated.then(|| Written { head: head.end(), content })
}

/// Which lines of `Via` have come by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vias {
    None,
    Begun,
    Ended,
}

/// A 304 that speaks for a stored response as it is.
fn still_good(stored: &StoredResponse) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    let fields = stored.fields();
    for name in &NOT_MODIFIED_FIELDS {
        for value in fields.all(name).filter_map(|value| fields.value(value)) {
            response.headers_mut().append(name.clone(), value);
        }
    }
    response
}

/// A 304 that speaks for a response with these fields.
pub(crate) fn not_modified(stored: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in &NOT_MODIFIED_FIELDS {
        for value in stored.get_all(name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response
}

/// An answer from what is kept coded, in the form that suits the request.
fn dressed(
    method: &Method,
    request: &HeaderMap,
    stored: &StoredResponse,
    coding: Coding,
    precondition: Precondition,
) -> Response<Body> {
    let part = *method == Method::GET && request.contains_key(header::RANGE);
    let form = form(request, coding, part);
    if precondition == Precondition::NotModified {
        let mut fields = stored.fields().to_map(ADDED);
        dress(&mut fields, coding, form);
        return not_modified(&fields);
    }
    let mut response = match form {
        Form::Plain => content(method, request, stored),
        Form::Coded => start(stored),
    };
    dress(response.headers_mut(), coding, form);
    if form == Form::Coded {
        whole(method, stored.body(), &mut response);
    }
    response
}

/// Status and fields as they are kept.
fn start(stored: &StoredResponse) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = stored.status();
    *response.headers_mut() = stored.fields().to_map(ADDED);
    response
}

/// The plain form, or a part of it.
fn content(method: &Method, request: &HeaderMap, stored: &StoredResponse) -> Response<Body> {
    let mut response = start(stored);
    match slice(method, request, stored) {
        Slice::Whole => match stored.coded() {
            Some(_) => decoded(method, stored, 0..stored.content_length(), &mut response),
            None => whole(method, stored.body(), &mut response),
        },
        Slice::Single { body, content_range } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &content_range);
            sized(&mut response, body);
        }
        Slice::Coded { range, content_range } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &content_range);
            decoded(method, stored, range, &mut response);
        }
        Slice::Multiple { body, content_type } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            // Each part has its own (RFC 9110 §15.3.7.2).
            response.headers_mut().remove(header::CONTENT_RANGE);
            set(&mut response, header::CONTENT_TYPE, &content_type);
            sized(&mut response, body);
        }
        Slice::Unsatisfiable { content_range } => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().remove(header::CONTENT_ENCODING);
            set(&mut response, header::CONTENT_RANGE, &content_range);
            sized(&mut response, Bytes::new());
        }
    }
    response
}

fn whole(method: &Method, body: Bytes, response: &mut Response<Body>) {
    if response.status() == StatusCode::NO_CONTENT {
        return;
    }
    if method == Method::HEAD {
        let length = body.len();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Body::Head(length as u64);
    } else {
        sized(response, body);
    }
}

/// These bytes of a content that is kept coded. It is decoded as its client takes it.
fn decoded(method: &Method, stored: &StoredResponse, range: Range<u64>, response: &mut Response<Body>) {
    let length = range.end - range.start;
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    *response.body_mut() = match stored.coded() {
        _ if method == Method::HEAD => Body::Head(length),
        Some(coded) => Body::stream(Decoded::new(coded, stored.body(), range)),
        None => Body::full(stored.body()),
    };
}

fn sized(response: &mut Response<Body>, body: Bytes) {
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::full(body);
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{ExchangeConfig, Trust};
    use crate::exchange::answer::Answer;
    use crate::semantics::cache_status::{CacheStatus, Outcome};
    use crate::semantics::stored::{Lifetimes, Unpacked};
    use crate::semantics::timestamp::Timestamp;
    use crate::semantics::vary::Selecting;

    fn stored(fields: &[(&'static str, String)], content: &str) -> StoredResponse {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Unpacked {
            status: StatusCode::OK,
            headers,
            body: Bytes::copy_from_slice(content.as_bytes()),
            coded: None,
            response_time: Timestamp(0),
            initial_age: Duration::ZERO,
            lifetimes: Lifetimes::default(),
            selecting: Selecting::default(),
        }
        .pack()
    }

    /// A head by the way that makes a map of it.
    fn made(stored: &StoredResponse, age: Duration, via: &HeaderValue, x_cache: bool) -> Option<Bytes> {
        let config = ExchangeConfig {
            name: "weir".to_owned(),
            show_key: false,
            x_cache,
            trust_forwarded: Trust::Nobody,
            max_fill_bytes: 0,
            max_tag_body: 0,
            max_key_body: 0,
            hit_for_miss: Duration::ZERO,
            coalesce_timeout: Duration::ZERO,
            probes_on_traffic: false,
        };
        let response = deliver(&Method::GET, &HeaderMap::new(), stored, age, via);
        let status = CacheStatus { hit: true, ttl: Some(7), ..CacheStatus::default() };
        let answer =
            Answer { response, outcome: Outcome::Hit, status, route: None, age: Some(age), upstream: None };
        Written::head_of(&answer.into_response(&config))
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_would_have_been_made(
            mut fields in prop::collection::vec(
                (prop::sample::select(vec!["date", "via", "via", "etag", "x-own", "set-cookie", "vary"]), "[a-z]{0,5}"),
                0..8,
            ),
            odd in prop::option::weighted(0.1, prop::sample::select(vec![
                "cache-status", "age", "content-length", "x-cache", "trailer",
            ])),
            content in "[a-z]{0,3}",
            age in 0..100_000_u64,
            x_cache: bool,
        ) {
            fields.extend(odd.map(|name| (name, String::new())));
            let (stored, age) = (stored(&fields, &content), Duration::from_secs(age));
            let via = HeaderValue::from_static("1.1 weir");
            let status = || CacheStatus { hit: true, ttl: Some(7), ..CacheStatus::default() }.render("weir");
            let written = write_whole(&stored, age, &via, status, x_cache.then_some("HIT"));
            let dated = fields.iter().any(|(name, _)| *name == "date");
            prop_assert_eq!(written.is_some(), dated && odd.is_none() && !content.is_empty());
            if let Some(written) = written {
                prop_assert_eq!(Some(written.head), made(&stored, age, &via, x_cache));
                prop_assert_eq!(written.content, content);
            }
        }
    }
}
