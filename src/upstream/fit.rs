//! Makes a request fit for an HTTP/1.1 connection: version, target, `Host`, and one unambiguous length.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use std::sync::Arc;

use super::request_body::{Outgoing, Upload};
use crate::body::Body;
use crate::interim::Listener;

/// A request as the connection takes it.
#[derive(Debug)]
pub struct Fitted {
    pub(super) request: Request<Outgoing>,
    /// `None` for a request without content.
    pub(super) upload: Option<Arc<Upload>>,
    pub(super) asked: Asked,
}

/// What a request asks for that decides about its sending and its response.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// Its method is safe (RFC 9110 §9.2.1).
    pub(super) safe: bool,
    /// The head alone.
    pub(super) head: bool,
    /// Another protocol.
    pub(super) upgrade: bool,
    /// Nothing but a representation: it may go by a short exchange.
    pub(super) plain: bool,
}

/// Which fields are there that have a say here: told by one look at each name.
#[derive(Default)]
struct Names {
    host: bool,
    coding: bool,
    length: bool,
    expect: bool,
    upgrade: bool,
    connection: bool,
}

impl Names {
    fn of(headers: &HeaderMap) -> Names {
        headers.keys().fold(Names::default(), |seen, name| Names {
            host: seen.host || *name == HOST,
            coding: seen.coding || *name == TRANSFER_ENCODING,
            length: seen.length || *name == CONTENT_LENGTH,
            expect: seen.expect || *name == EXPECT,
            upgrade: seen.upgrade || *name == UPGRADE,
            connection: seen.connection || *name == CONNECTION,
        })
    }
}

/// `host`: replaces the client's. `fallback`: where there is none.
pub(super) fn fit(request: Request<Body>, host: Option<&HeaderValue>, fallback: &HeaderValue) -> Fitted {
    let (mut parts, body) = request.into_parts();
    parts.version = Version::HTTP_11;
    // The client side's other extensions mean nothing here, and some keep its connection alive.
    parts.extensions = http::Extensions::new();
    let names = Names::of(&parts.headers);
    settle_host(&mut parts.headers, names.host, &parts.uri, host, fallback);
    let target = parts.uri.into_parts().path_and_query;
    parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));

    let mut asked = Asked {
        safe: parts.method.is_safe(),
        head: parts.method == Method::HEAD,
        upgrade: names.upgrade,
        plain: false,
    };
    let length = settle_length(&parts.method, &mut parts.headers, &names, &body);
    if length == Some(0) {
        // RFC 9110 §10.1.1: no expectation without content.
        if names.expect {
            parts.headers.remove(EXPECT);
        }
        asked.plain = asked.safe && !asked.head && !asked.upgrade && !names.connection;
        return Fitted { request: Request::from_parts(parts, Outgoing::empty()), upload: None, asked };
    }
    let expects =
        parts.headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let upload = Upload::new(expects);
    let outgoing = Outgoing::new(body, upload.clone(), length);
    Fitted { request: Request::from_parts(parts, outgoing), upload: Some(upload), asked }
}

/// Who hears what the backend says before its response.
pub(super) fn hear(request: &mut Request<Outgoing>, upload: Option<&Arc<Upload>>, client: Option<Listener>) {
    let waiting = upload.filter(|upload| upload.held()).cloned();
    if waiting.is_none() && client.is_none() {
        return;
    }
    hyper::ext::on_informational(request, move |response| match (&waiting, &client) {
        (Some(upload), _) if response.status() == StatusCode::CONTINUE => upload.open(),
        (_, Some(client)) => client.pass_on(response.status(), response.headers()),
        _ => {}
    });
}

fn settle_host(
    headers: &mut HeaderMap,
    has_one: bool,
    uri: &Uri,
    host: Option<&HeaderValue>,
    fallback: &HeaderValue,
) {
    if let Some(host) = host {
        headers.insert(HOST, host.clone());
    } else if !has_one {
        let named = uri.authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
        headers.insert(HOST, named.unwrap_or_else(|| fallback.clone()));
    }
}

/// Leaves exactly one of `Content-Length` and `Transfer-Encoding: chunked`, or neither for no content
/// (RFC 9112 §6.2, §6.3). Returns the length where it is known.
fn settle_length(method: &Method, headers: &mut HeaderMap, names: &Names, body: &Body) -> Option<u64> {
    if names.coding {
        headers.remove(TRANSFER_ENCODING);
    }
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    match exact {
        Some(0) => {
            // RFC 9110 §8.6: a method that anticipates content says that there is none.
            let says = names.length || matches!(*method, Method::POST | Method::PUT | Method::PATCH);
            if says {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Some(0)
        }
        Some(length) => {
            if content_length(headers) != Some(length) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Some(length)
        }
        None => {
            // A wrapper may hide a length that the client declared; hyper holds the body to it.
            let declared = content_length(headers).filter(|&length| length > 0);
            if declared.is_none() {
                headers.remove(CONTENT_LENGTH);
                // Said aloud, or hyper would drop the content of a GET.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            declared
        }
    }
}

/// `host[:port]` of the origin, without user information.
pub(super) fn authority(origin: &Uri) -> Result<HeaderValue, String> {
    let authority = origin.authority().ok_or_else(|| format!("upstream {origin}: there is no host"))?;
    if authority.as_str().contains('@') {
        return Err("upstream: user and password in the URL are not supported".to_owned());
    }
    HeaderValue::from_str(authority.as_str()).map_err(|e| format!("upstream {origin}: {e}"))
}

/// The single, valid `Content-Length`.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let value = values.next()?.to_str().ok()?;
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    if !digits || values.next().is_some() {
        return None;
    }
    value.parse().ok()
}

/// `Transfer-Encoding` is `chunked` and nothing else.
pub(super) fn only_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    values.next().is_some_and(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && values.next().is_none()
}

/// Whether a list field names `token`.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::BodyError;
    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::StreamBody;

    fn fitted(request: http::request::Builder, body: Body) -> (http::request::Parts, bool) {
        let fallback = HeaderValue::from_static("upstream:8000");
        let fitted = fit(request.body(body).unwrap(), None, &fallback);
        (fitted.request.into_parts().0, fitted.upload.is_some())
    }

    /// Content of unknown length.
    fn stream() -> Body {
        let frames = [Ok::<_, BodyError>(Frame::data(Bytes::from_static(b"hi")))];
        Body::stream(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn lengths(parts: &http::request::Parts) -> (Option<&str>, Option<&str>) {
        let text = |name| parts.headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap());
        (text(CONTENT_LENGTH), text(TRANSFER_ENCODING))
    }

    #[test]
    fn every_request_has_one_length_or_none() {
        let cases = [
            ("GET", None, Body::Empty, (None, None)),
            ("HEAD", None, Body::Empty, (None, None)),
            ("DELETE", None, Body::Empty, (None, None)),
            ("GET", Some("0"), Body::Empty, (Some("0"), None)),
            ("POST", None, Body::Empty, (Some("0"), None)),
            ("PUT", Some("5"), Body::Empty, (Some("0"), None)),
            ("POST", None, Body::full("four"), (Some("4"), None)),
            ("POST", Some("4"), Body::full("four"), (Some("4"), None)),
            ("POST", Some("9"), Body::full("four"), (Some("4"), None)),
            ("POST", Some("x"), Body::full("four"), (Some("4"), None)),
            ("POST", None, stream(), (None, Some("chunked"))),
            ("GET", None, stream(), (None, Some("chunked"))),
            ("POST", Some("x"), stream(), (None, Some("chunked"))),
            ("POST", Some("2"), stream(), (Some("2"), None)),
        ];
        for (method, length, body, expected) in cases {
            let what = format!("{method} {length:?} {body:?}");
            let mut request = Request::builder().method(method).uri("/").header("transfer-encoding", "gzip");
            if let Some(length) = length {
                request = request.header("content-length", length);
            }
            let content = !matches!(body, Body::Empty);
            let (parts, upload) = fitted(request, body);
            assert_eq!(lengths(&parts), expected, "{what}");
            assert_eq!(upload, content, "{what}");
        }
    }

    #[test]
    fn expectations_need_content() {
        let request = || Request::builder().method("PUT").uri("/").header("expect", "100-Continue");
        assert!(!fitted(request(), Body::Empty).0.headers.contains_key(EXPECT));
        let fallback = HeaderValue::from_static("u");
        let with = fit(request().body(Body::full("x")).unwrap(), None, &fallback);
        assert!(with.request.headers().contains_key(EXPECT));
        assert!(with.upload.unwrap().held());
    }

    #[test]
    fn targets_versions_and_hosts() {
        let request = Request::builder().version(Version::HTTP_2).uri("http://api.example:81/x?y");
        let (parts, _) = fitted(request, Body::Empty);
        assert_eq!(parts.uri, "/x?y");
        assert_eq!(parts.version, Version::HTTP_11);
        assert_eq!(parts.headers[HOST], "api.example:81");
        assert_eq!(fitted(Request::builder().uri("/"), Body::Empty).0.headers[HOST], "upstream:8000");
        let kept = Request::builder().uri("/").header("host", "mine");
        assert_eq!(fitted(kept, Body::Empty).0.headers[HOST], "mine");
        let (star, _) = fitted(Request::builder().method("OPTIONS").uri("*"), Body::Empty);
        assert_eq!(star.uri, "*");
        let own = HeaderValue::from_static("own");
        let request = Request::builder().uri("/").header("host", "mine").body(Body::Empty).unwrap();
        assert_eq!(fit(request, Some(&own), &own).request.headers()[HOST], "own");
    }

    #[test]
    fn list_fields() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("x, Close"));
        assert!(lists(&headers, &http::header::CONNECTION, "close"));
        assert!(!lists(&headers, &http::header::CONNECTION, "clos"));
        assert!(!only_chunked(&headers));
        headers.append(TRANSFER_ENCODING, HeaderValue::from_static(" Chunked "));
        assert!(only_chunked(&headers));
        headers.append(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        assert!(!only_chunked(&headers));
    }
}
