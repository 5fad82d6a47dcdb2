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
