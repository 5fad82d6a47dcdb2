//! Requests that two readers could read differently, refused before anybody acts on them; and the one form that
//! every other request is brought into.
//!
//! What hyper does before this: refuses (400, or a plain close) lengths that are malformed or differ, a transfer
//! coding in HTTP/1.0, and codings that do not end in `chunked`; where both `Transfer-Encoding` and
//! `Content-Length` are given it removes the latter and closes after the answer, as RFC 9112 §6.3 has it. So a
//! second length cannot be seen here, and is never forwarded. Lines that end with LF alone and fragments are refused
//! before hyper reads them, by `framing`.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use crate::body::Body;

/// Why a request is refused unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// HTTP/1.1 without `Host` (RFC 9112 §3.2).
    NoHost,
    /// More than one `Host`.
    ManyHosts,
    /// A `Host` that is not `host[:port]`.
    BadHost,
    /// A target in a form that the method does not have (RFC 9112 §3.2), or of another scheme than `http` and `https`.
    BadTarget,
    /// Content where `Content-Length: 0` says that there is none.
    Content,
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    TransferCoding,
    /// `CONNECT`: this is no forward proxy.
    Connect,
}

impl Refusal {
    /// 400, or 501 for what is understood and not offered.
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::TransferCoding | Refusal::Connect => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
    /// Token for logs and problem `type`s.
    pub fn token(self) -> &'static str {
        match self {
            Refusal::NoHost => "no-host",
            Refusal::ManyHosts => "many-hosts",
            Refusal::BadHost => "bad-host",
            Refusal::BadTarget => "bad-target",
            Refusal::Content => "content",
            Refusal::TransferCoding => "transfer-coding",
            Refusal::Connect => "connect",
        }
    }
    /// One sentence for the client.
    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::NoHost => "The request has no Host field.",
            Refusal::ManyHosts => "The request has more than one Host field.",
            Refusal::BadHost => "The Host field is not a host with an optional port.",
            Refusal::BadTarget => {
                "The request target is neither a path nor an http or https URI, nor is it an asterisk with OPTIONS."
            }
            Refusal::Content => "There is content, and the Content-Length is zero.",
            Refusal::TransferCoding => "Only the transfer coding chunked is understood.",
            Refusal::Connect => "CONNECT is not offered: this is a reverse proxy.",
        }
    }
    /// The answer, as `application/problem+json`.
    pub(super) fn answer(self, version: Version) -> Response<Body> {
        let mut response = problem(self.status(), self.token(), self.sentence());
        if version < Version::HTTP_2 {
            // What follows on this connection cannot be trusted to be a request.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A small `application/problem+json`. The arguments are literals without characters to escape.
pub(super) fn problem(status: StatusCode, token: &'static str, sentence: &'static str) -> Response<Body> {
    let text = format!(
        "{{\"title\":\"{}\",\"status\":{},\"reason\":\"{token}\",\"detail\":\"{sentence}\"}}\n",
        status.canonical_reason().unwrap_or("Error"),
        status.as_u16(),
    );
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// Whether the request could be understood differently by the next reader, or is of a kind that is not offered.
/// The server asks this itself; handlers see none of these.
pub fn ambiguous<B>(request: &Request<B>) -> Option<Refusal> {
    if request.method() == Method::CONNECT {
        return Some(Refusal::Connect);
    }
    if !valid_target(request.uri(), request.method()) {
        return Some(Refusal::BadTarget);
    }
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !chunked || codings.next().is_some() {
            return Some(Refusal::TransferCoding);
        }
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Some(Refusal::ManyHosts),
        (Some(host), None) if !valid_host(host) => Some(Refusal::BadHost),
        (None, None) if request.version() == Version::HTTP_11 && request.uri().authority().is_none() => {
            Some(Refusal::NoHost)
        }
        _ => None,
    }
}

/// Origin form, absolute form, or with OPTIONS the asterisk (RFC 9112 §3.2); the authority form is for CONNECT.
fn valid_target(uri: &Uri, method: &Method) -> bool {
    let form = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), authority) => authority.is_none_or(valid_authority),
        (scheme, authority) => scheme.is_none() && authority.is_none(),
    };
    form && (uri.path() != "*" || *method == Method::OPTIONS)
}

/// Empty, or `host[:port]` without user information (RFC 9110 §7.2).
fn valid_host(host: &HeaderValue) -> bool {
    let bytes = host.as_bytes();
    if is_usual(bytes) {
        return true;
    }
    let plain = || Authority::try_from(bytes).is_ok_and(|authority| valid_authority(&authority));
    bytes.is_empty() || (!bytes.contains(&b'@') && plain())
}

/// What nearly all are, told without a parser: letters, digits, dots and hyphens, and a port of up to four digits.
fn is_usual(bytes: &[u8]) -> bool {
    let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
    let (name, port) = bytes.split_at(end);
    let usual = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    (1..=253).contains(&name.len())
        && name.iter().all(usual)
        && port.len() <= 5
        && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// A host (RFC 9110 §4.2.1), and a port that there is, an empty one, or none (RFC 3986 §3.2.3). No name has a comma, and
/// to some readers it is two.
fn valid_authority(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let place = text.rsplit_once('@').map_or(text, |(_, place)| place);
    let port = match place.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.is_empty() || port.parse::<u16>().is_ok()
        }
        Some(_) => false,
        None => place == host,
    };
    port && !host.is_empty() && !host.contains(',')
}

/// Brings a request into the one form that policy, keys and forwarding work on: origin-form target, the effective
/// host in `Host` (an absolute target or `:authority` wins over a `Host` field, RFC 9112 §3.2.2, RFC 9113 §8.3.1),
/// one `Cookie` line (RFC 9113 §8.2.3), a length without needless zeros. The server has done this to every request that a handler sees.
pub fn settle(uri: &mut Uri, headers: &mut HeaderMap) {
    if let Some(authority) = uri.authority() {
        let host = authority.as_str();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if let Ok(host) = HeaderValue::from_str(host) {
            headers.insert(HOST, host);
        }
        let target = std::mem::take(uri).into_parts().path_and_query;
        *uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_some() && cookies.next().is_some() {
        let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(one) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
            headers.insert(COOKIE, one);
        }
    }
    // To some readers a zero in front makes it octal.
    if let Some(length) = headers.get(CONTENT_LENGTH)
        && length.len() > 1
        && length.as_bytes().starts_with(b"0")
        && let Some(length) = length.to_str().ok().and_then(|text| text.parse::<u64>().ok())
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for &(name, value) in text {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn every_refusal_has_its_request() {
        type Fields = &'static [(&'static str, &'static str)];
        let cases: [(Fields, Option<Refusal>); 20] = [
            (&[("host", "a.example")], None),
            (&[("host", "a.example:8080")], None),
            (&[("host", "[::1]:8080")], None),
            (&[("host", "")], None),
            (&[("host", "a"), ("transfer-encoding", "Chunked")], None),
            (&[], Some(Refusal::NoHost)),
            (&[("host", "a"), ("host", "b")], Some(Refusal::ManyHosts)),
            (&[("host", "user@a")], Some(Refusal::BadHost)),
            (&[("host", "a/b")], Some(Refusal::BadHost)),
            (&[("host", "a b")], Some(Refusal::BadHost)),
            (&[("host", "a,b")], Some(Refusal::BadHost)),
            (&[("host", "a:")], None),
            (&[("host", "a:65535")], None),
            (&[("host", "a:65536")], Some(Refusal::BadHost)),
            (&[("host", "a:b")], Some(Refusal::BadHost)),
            (&[("host", "[::1]:+8")], Some(Refusal::BadHost)),
            (&[("host", "[::1]x")], Some(Refusal::BadHost)),
            (&[("host", ":80")], Some(Refusal::BadHost)),
            (&[("host", "a"), ("transfer-encoding", "gzip, chunked")], Some(Refusal::TransferCoding)),
            (
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Some(Refusal::TransferCoding),
            ),
        ];
        for (fields, expected) in cases {
            assert_eq!(ambiguous(&request(fields)), expected, "{fields:?}");
        }
        for (method, target, expected) in [
            (Method::GET, "/x", None),
            (Method::GET, "http://a/x", None),
            (Method::GET, "HTTPS://a", None),
            (Method::OPTIONS, "*", None),
            (Method::GET, "*", Some(Refusal::BadTarget)),
            (Method::GET, "a", Some(Refusal::BadTarget)),
            (Method::GET, "a:80", Some(Refusal::BadTarget)),
            (Method::GET, "ftp://a/x", Some(Refusal::BadTarget)),
            (Method::GET, "http://u:p@a:80/x", None),
            (Method::GET, "http://[::1]:80/x", None),
            (Method::GET, "http://a:65536/x", Some(Refusal::BadTarget)),
            (Method::GET, "http://a,b/x", Some(Refusal::BadTarget)),
            (Method::GET, "http://u@a:+1/x", Some(Refusal::BadTarget)),
        ] {
            let mut one = request(&[("host", "a")]);
            (*one.method_mut(), *one.uri_mut()) = (method, Uri::from_static(target));
            assert_eq!(ambiguous(&one), expected, "{target}");
        }
        let mut connect = request(&[("host", "a")]);
        *connect.method_mut() = Method::CONNECT;
        assert_eq!(ambiguous(&connect), Some(Refusal::Connect));
    }

    #[test]
    fn usual_hosts_are_valid_by_the_grammar_too() {
        for host in ["a", "api.example", "127.0.0.1:8080", "a-b.c:1", "a:", "-", "A.b:9999"] {
            assert!(is_usual(host.as_bytes()), "{host}");
            let authority = Authority::try_from(host).unwrap();
            assert!(valid_authority(&authority), "{host}");
        }
        for host in ["", ":80", "a:65536", "a:8o", "a,b", "[::1]", "a@b", "a_b", "a:1:2", "a b"] {
            assert!(!is_usual(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn older_and_newer_versions_need_no_host() {
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut request = request(&[]);
            *request.version_mut() = version;
            assert_eq!(ambiguous(&request), None, "{version:?}");
        }
    }

    #[test]
    fn refusals_answer_with_their_reason() {
        use Refusal::{BadHost, BadTarget, Connect, Content, ManyHosts, NoHost, TransferCoding};
        for refusal in [NoHost, ManyHosts, BadHost, BadTarget, Content, TransferCoding, Connect] {
            let response = refusal.answer(Version::HTTP_11);
            assert_eq!(response.status(), refusal.status());
            assert_eq!(response.headers()[CONNECTION], "close");
            let Body::Full(Some(text)) = response.body() else { panic!("no text") };
            let json: serde_json::Value = serde_json::from_slice(text).unwrap();
            assert_eq!(json["detail"], refusal.sentence());
            assert_eq!(json["reason"], refusal.token());
            assert!(!refusal.answer(Version::HTTP_2).headers().contains_key(CONNECTION));
        }
    }

    #[test]
    fn an_absolute_target_decides_the_host() {
        let mut request = request(&[("host", "b.example")]);
        *request.uri_mut() = Uri::from_static("http://me@a.example:81/x?y=1");
        let (mut parts, ()) = request.into_parts();
        settle(&mut parts.uri, &mut parts.headers);
        assert_eq!(parts.uri, "/x?y=1");
        assert_eq!(parts.headers[HOST], "a.example:81");
    }

    #[test]
    fn a_target_without_path_is_the_root() {
        let mut headers = HeaderMap::new();
        let mut uri = Uri::from_static("http://a.example");
        settle(&mut uri, &mut headers);
        assert_eq!(uri, "/");
        let mut star = Uri::from_static("*");
        settle(&mut star, &mut headers);
        assert_eq!(star, "*");
    }

    #[test]
    fn a_length_has_one_spelling() {
        for (given, kept) in [("2", "2"), ("0", "0"), ("00", "0"), ("0012", "12"), ("0x2", "0x2")] {
            let (mut parts, ()) = request(&[("content-length", given)]).into_parts();
            settle(&mut parts.uri, &mut parts.headers);
            assert_eq!(parts.headers[CONTENT_LENGTH], kept);
        }
    }

    #[test]
    fn split_cookies_become_one() {
        let (mut parts, ()) =
            request(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]).into_parts();
        settle(&mut parts.uri, &mut parts.headers);
        let all: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }
}
