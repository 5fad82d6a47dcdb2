//! What changes in a message on its way: `X-Forwarded-*`, `Forwarded`, `Via`, `Connection`, request names,
//! `Cache-Status`; and which requests are refused (RFC 9110 §7.6, RFC 9112 §3, RFC 9211, W3C Trace Context).
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use libfuzzer_sys::fuzz_target;
use weir::config::Trust;
use weir::exchange::forwarded::{outside, prepare_request, prepare_response, request_id, trusted, via};
use weir::policy::tags::TAG_FIELDS;
use weir::semantics::cache_status::{CacheStatus, Forward};
use weir::server::{Peer, ambiguous};
use weir_fuzz::{fields, numbers, sections};

const CLAIMS: [&str; 6] =
    ["forwarded", "x-real-ip", "x_forwarded_for", "x-forwarded-port", "x_real_ip", "x-forwarded_host"];

fuzz_target!(|data: &[u8]| {
    let [head, headers, target, name] = sections(data);
    let ([version, address, length, mode], _) = numbers(head);
    let headers = fields(headers);
    let ip = match mode & 1 {
        0 => IpAddr::V4((address as u32).into()),
        _ => IpAddr::V6(Ipv6Addr::from_bits(u128::from(address) << (mode % 65))),
    };
    let peer = Peer { addr: (ip, 4711).into(), tls: false };
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(version as u8) % 3];
    trust(ip, length as u8);
    names(&headers);
    status(&String::from_utf8_lossy(name), address as i64);
    let Ok(uri) = Uri::try_from(target) else { return };
    let mut request = Request::new(());
    (*request.uri_mut(), *request.version_mut()) = (uri, version);
    *request.headers_mut() = headers.clone();
    refused(&request);
    let (parts, ()) = request.into_parts();
    going_up(&parts, peer);
    coming_back(&headers, version);
});

fn trust(ip: IpAddr, length: u8) {
    assert!(trusted(&Trust::All, ip) && !trusted(&Trust::Nobody, ip));
    let network = |length| Trust::Networks(vec![(ip.to_canonical(), length)]);
    assert!(trusted(&network(length), ip), "{ip}/{length}");
    let other = match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() ^ 1).into()),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ 1)),
    };
    let full = if other.is_ipv4() { 32 } else { 128 };
    assert!(!trusted(&network(full), other), "{ip} vouches for {other}");
    // A shorter prefix trusts no fewer.
    assert!(!trusted(&network(length), other) || trusted(&network(length.saturating_sub(1)), other));
}

fn names(headers: &HeaderMap) {
    let (id, made) = request_id(headers);
    assert!(!id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic()));
    let given = ["traceparent", "x-request-id"].into_iter().filter_map(|name| headers.get(name));
    let mut given = given.filter_map(|line| line.to_str().ok());
    assert!(made || given.any(|line| line.contains(&id)));
    assert!(!made || request_id(headers).0 != id, "a name was given twice");
}

fn status(name: &str, ttl: i64) {
    for forward in [None, Some(Forward::UriMiss)] {
        let status = CacheStatus {
            hit: forward.is_none(),
            forward,
            stored: true,
            ttl: Some(ttl),
            key: Some(name.to_owned()),
            ..CacheStatus::default()
        };
        let line = status.render(name);
        let list = sfv::Parser::new(line.as_bytes()).parse::<sfv::List>().expect("a structured field");
        assert_eq!(list.len(), 1);
        let sfv::ListEntry::Item(item) = &list[0] else { panic!("{line:?}") };
        assert_eq!(item.params.contains_key("hit"), forward.is_none());
    }
}

fn refused(request: &Request<()>) {
    let refusal = ambiguous(request);
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    if count(HOST) > 1 || count(TRANSFER_ENCODING) > 1 || *request.method() == Method::CONNECT {
        assert!(refusal.is_some());
    }
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        assert!(refusal.is_some() || coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    }
    if let Some(host) = headers.get(HOST) {
        let odd = host.as_bytes().iter().any(|b| b" \t@/?#\\,".contains(b));
        assert!(refusal.is_some() || !odd, "{host:?}");
    }
}

fn going_up(parts: &http::request::Parts, peer: Peer) {
    let mut sent = parts.clone();
    prepare_request(&mut sent, peer, &Trust::Nobody, "weir");
    let headers = &sent.headers;
    let ip = peer.addr.ip().to_canonical().to_string();
    let only = |name: &str| -> Vec<&str> {
        headers.get_all(name).iter().map(|v| v.to_str().expect("ASCII")).collect()
    };
    assert_eq!(only("x-forwarded-for"), [ip.as_str()]);
    assert_eq!(only("x-forwarded-proto"), ["http"]);
    for claim in CLAIMS {
        assert!(!headers.contains_key(claim), "{claim} of an untrusted peer");
    }
    assert!(
        headers.get("x-forwarded-host") == headers.get(HOST)
            || headers.get(HOST).is_some_and(HeaderValue::is_empty)
    );
    connection_is_gone(headers);
    assert!(headers.get(TE).is_none_or(|te| te == "trailers"));
    assert!(sent.uri.authority().is_none() && sent.uri.scheme().is_none());
    let passed = headers.get(VIA).expect("a Via").to_str().expect("ASCII");
    assert!(passed.ends_with(" weir") && headers.get_all(VIA).iter().count() == 1);
    // A trusted peer's word is kept, and Weir's added behind it.
    let mut sent = parts.clone();
    prepare_request(&mut sent, peer, &Trust::All, "weir");
    let route = sent.headers.get("x-forwarded-for").expect("a route").to_str().expect("ASCII");
    assert!(route.ends_with(&ip) && sent.headers.get_all("x-forwarded-for").iter().count() == 1);
    connection_is_gone(&sent.headers);
    let plain = outside(&parts.headers, peer, &Trust::Nobody, "host");
    assert_eq!((plain.scheme, &*plain.host), ("http", "host"));
    let told = outside(&parts.headers, peer, &Trust::All, "host");
    assert!(told.host.starts_with("host"));
}

fn connection_is_gone(headers: &HeaderMap) {
    for name in ["keep-alive", "proxy-connection"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert!(!headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(UPGRADE));
    let named: Vec<_> = headers.get_all(CONNECTION).iter().collect();
    assert!(named.is_empty() || named == ["te"] && headers.contains_key(TE));
}

fn coming_back(headers: &HeaderMap, version: Version) {
    let mut parts = http::Response::new(()).into_parts().0;
    (parts.headers, parts.version) = (headers.clone(), version);
    prepare_response(&mut parts, "weir");
    for field in TAG_FIELDS {
        assert!(!parts.headers.contains_key(field), "{field} told to a client");
    }
    assert!(!parts.headers.contains_key(CONNECTION) && !parts.headers.contains_key(TRANSFER_ENCODING));
    let passed = parts.headers.get(VIA).expect("a Via").to_str().expect("ASCII");
    assert!(passed.ends_with(via(version, "weir").to_str().expect("ASCII")));
}
