//! Answers of Weir's own, as small problem+json (RFC 9457).

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;

/// `{"title":"Bad Gateway","status":502,"reason":"upstream-unreachable","detail":"…"}`. `detail` is for people
/// and never names an internal address.
pub(crate) fn problem(status: StatusCode, reason: &str, detail: &str) -> Response<Body> {
    let body = serde_json::json!({
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "reason": reason,
        "detail": detail,
    })
    .to_string();
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
