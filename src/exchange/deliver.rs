//! From a stored response to an answer: preconditions, ranges, `Age`, `Cache-Status`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::body::Body;
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

/// Answers a request from a stored response. `via` is Weir's own member of that field; `Cache-Status` is
/// added by the caller.
pub(crate) fn deliver(
    method: &Method,
    request: &HeaderMap,
    stored: &StoredResponse,
    age: Duration,
    via: &HeaderValue,
) -> Response<Body> {
    let mut response = if evaluate(method, request, stored) == Precondition::NotModified {
        not_modified(&stored.headers)
    } else {
        content(method, request, stored)
    };
    response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    response.headers_mut().append(header::VIA, via.clone());
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

fn content(method: &Method, request: &HeaderMap, stored: &StoredResponse) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers.clone();
    match slice(method, request, stored) {
        Slice::Whole => whole(method, stored, &mut response),
        Slice::Single { body, content_range } => {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(&mut response, header::CONTENT_RANGE, &content_range);
            sized(&mut response, body);
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
            sized(&mut response, bytes::Bytes::new());
        }
    }
    response
}

fn whole(method: &Method, stored: &StoredResponse, response: &mut Response<Body>) {
    if stored.status == StatusCode::NO_CONTENT {
        return;
    }
    if method == Method::HEAD {
        let length = HeaderValue::from(stored.body.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        *response.body_mut() = Body::Head(stored.body.len() as u64);
    } else {
        sized(response, stored.body.clone());
    }
}

fn sized(response: &mut Response<Body>, body: bytes::Bytes) {
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = Body::full(body);
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
