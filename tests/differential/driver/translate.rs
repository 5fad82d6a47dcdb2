//! The model's words as the types of `weir` and `http`, and back.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weir::semantics::storing::{OriginMode, Terms};
use weir::semantics::timestamp::Timestamp;

use crate::model::message::Fields;
use crate::model::{MILLISECOND, Nanos, Operator, Origin, Request};

pub fn nanos(span: Duration) -> Nanos {
    i128::try_from(span.as_nanos()).unwrap()
}

pub fn span(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap())
}

pub fn timestamp(at: Nanos) -> Timestamp {
    Timestamp(u64::try_from(at / MILLISECOND).unwrap())
}

pub fn text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|b| char::from(*b)).collect()
}

pub fn header_map(fields: &Fields) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let bytes: Vec<u8> = value.chars().map(|c| c as u8).collect();
        headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(&bytes).unwrap());
    }
    headers
}

pub fn method(request: &Request) -> Method {
    request.method.parse().unwrap()
}

pub fn parts(request: &Request) -> http::request::Parts {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method(request);
    parts.headers = header_map(&request.fields);
    parts
}

pub fn terms(operator: &Operator) -> Terms {
    Terms {
        ttl: operator.ttl.map(span),
        negative_ttl: operator.negative_ttl.map(span),
        stale_while_revalidate: operator.stale_while_revalidate.map(span),
        stale_if_error: operator.stale_if_error.map(span),
        keep: span(operator.keep),
        origin: match operator.origin {
            Origin::Stricter => OriginMode::Stricter,
            Origin::Ignore => OriginMode::Ignore,
            Origin::Honour => OriginMode::Honour,
        },
        per_subject: operator.per_subject,
        public: operator.public,
        store_set_cookie: operator.store_set_cookie,
        store_errors: operator.store_errors,
        client_refresh: operator.client_refresh,
        asks_uncoded: operator.asks_uncoded,
        target_list: operator.target_list.iter().map(|name| HeaderName::try_from(name).unwrap()).collect(),
    }
}
