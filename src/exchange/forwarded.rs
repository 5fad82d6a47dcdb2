//! What changes in a message because it passes through Weir: hop-by-hop fields go, `Via` and `X-Forwarded-*` come,
//! the target takes origin form, and every request gets a name.
//!
//! Invariant: of a peer that is not trusted nothing survives by which it could pass for another (`X-Forwarded-*`,
//! `Forwarded`, `X-Real-IP`, and the same spelled with underscores, which CGI and WSGI cannot tell apart).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONNECTION, EXPECT, HOST, TE, VIA};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, request, response};

use crate::config::Trust;
use crate::policy::tags::TAG_FIELDS;
use crate::semantics::fields::{is_in_plain_sight, strip_hop_by_hop};
use crate::server::{Peer, settle};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Claims about the client that only a trusted proxy may make.
const CLAIMS: [&str; 15] = [
    "forwarded",
    "front-end-https",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-original-host",
    "x-real-ip",
    "x-url-scheme",
];

/// Longest `X-Request-Id` that is believed, bytes.
const LONGEST_ID: usize = 128;

/// Makes a request fit for the upstream. `name` is Weir's name in `Via`. Whoever wants an upgrade to pass asks
/// [`super::upgrade::requested`] before this and [`super::upgrade::restore`] after.
pub fn prepare_request(parts: &mut request::Parts, peer: Peer, trust: &Trust, name: &str) {
    let received = parts.version;
    settle(&mut parts.uri, &mut parts.headers);
    let trailers = wants_trailers(&parts.headers);
    strip_hop_by_hop(&mut parts.headers);
    if received < Version::HTTP_11 {
        // RFC 9110 §10.1.1: an older client cannot mean it.
        parts.headers.remove(EXPECT);
    }
    if trailers {
        // RFC 9110 §10.1.4: `TE` is for this connection, so it is named in `Connection`.
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
        parts.headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    add_forwarded(&mut parts.headers, peer, trusted(trust, peer.addr.ip()));
    add_via(&mut parts.headers, received, name);
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        let target = std::mem::take(&mut parts.uri).into_parts().path_and_query;
        parts.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

/// The same for a request of which is known whether it is [plain](is_plain). `own` is Weir's member of `Via` for messages
/// of HTTP/1.1. In a plain one there is nothing to look for, and what comes is put beside it.
pub(super) fn prepare_seen_request(
    parts: &mut request::Parts,
    plain: bool,
    peer: Peer,
    trust: &Trust,
    name: &str,
    own: &HeaderValue,
) {
    let headers = &mut parts.headers;
    if !plain || parts.version != Version::HTTP_11 || parts.uri.authority().is_some() {
        return prepare_request(parts, peer, trust, name);
    }
    headers.reserve(ADDED);
    headers.remove(CONNECTION);
    headers.append(X_FORWARDED_FOR, address(peer.addr.ip().to_canonical()));
    headers.append(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme()));
    if let Some(host) = headers.get(HOST).filter(|host| !host.is_empty()).cloned() {
        headers.append(X_FORWARDED_HOST, host);
    }
    headers.append(VIA, own.clone());
}

/// Fields that are put on a request: those above, and its name.
const ADDED: usize = 5;

/// Whether a request has no field about which there is anything to do: none of its connection but `keep-alive`, none that
/// is put on here, no claim, expectation or override. What is not listed counts as anything.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    headers.iter().all(|(name, value)| match name.as_str() {
        "authorization"
        | "cache-control"
        | "content-encoding"
        | "content-length"
        | "content-type"
        | "cookie"
        | "idempotency-key"
        | "if-match"
        | "if-modified-since"
        | "if-none-match"
        | "if-range"
        | "if-unmodified-since"
        | "pragma"
        | "prefer"
        | "range"
        | "sec-purpose"
        | "x-api-key"
        | "x-client-version"
        | "x-correlation-id"
        | "x-csrf-token"
        | "x-requested-with"
        | "x-tenant-id"
        | "x-xsrf-token" => true,
        "connection" => value.as_bytes().eq_ignore_ascii_case(b"keep-alive"),
        _ => is_in_plain_sight(name),
    })
}

/// Makes a response fit for the client: hop-by-hop and tag-carrying fields go, `Via` comes.
pub fn prepare_response(parts: &mut response::Parts, name: &str) {
    prepare_fields(&mut parts.headers, parts.version, name);
}

fn prepare_fields(headers: &mut HeaderMap, received: Version, name: &str) {
    strip_hop_by_hop(headers);
    if headers.keys().any(|name| TAG_FIELDS.contains(&name.as_str())) {
        for field in TAG_FIELDS {
            headers.remove(field);
        }
    }
    add_via(headers, received, name);
}

/// The same, with Weir's own member of `Via` for messages of HTTP/1.1 at hand.
pub(super) fn prepare_usual_response(
    headers: &mut HeaderMap,
    received: Version,
    name: &str,
    own: &HeaderValue,
) {
    // What Node says of every connection; it names no field.
    let of_connection = |name: &HeaderName, value: &HeaderValue| {
        *name == CONNECTION && value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || *name == KEEP_ALIVE
    };
    let mut says = false;
    let usual = |(name, value)| {
        is_usual(name) || {
            says = true;
            of_connection(name, value)
        }
    };
    if received != Version::HTTP_11 || !headers.iter().all(usual) {
        return prepare_fields(headers, received, name);
    }
    if says {
        headers.remove(CONNECTION);
        headers.remove(KEEP_ALIVE);
    }
    headers.append(VIA, own.clone());
}

/// Fields of responses about which there is nothing to do. What is not listed is looked at more closely.
fn is_usual(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept-ranges"
            | "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "access-control-max-age"
            | "age"
            | "allow"
            | "cache-control"
            | "content-disposition"
            | "content-encoding"
            | "content-language"
            | "content-length"
            | "content-location"
            | "content-range"
            | "content-security-policy"
            | "content-type"
            | "cross-origin-opener-policy"
            | "cross-origin-resource-policy"
            | "date"
            | "etag"
            | "expires"
            | "last-modified"
            | "link"
            | "location"
            | "pragma"
            | "referrer-policy"
            | "retry-after"
            | "server"
            | "server-timing"
            | "set-cookie"
            | "strict-transport-security"
            | "vary"
            | "www-authenticate"
            | "x-content-type-options"
            | "x-frame-options"
            | "x-powered-by"
            | "x-ratelimit-limit"
            | "x-ratelimit-remaining"
            | "x-ratelimit-reset"
            | "x-request-id"
            | "x-xss-protection"
    )
}

/// Whether this peer's word about the client counts.
pub fn trusted(trust: &Trust, peer: IpAddr) -> bool {
    match trust {
        Trust::Nobody => false,
        Trust::All => true,
        Trust::Networks(networks) => networks.iter().any(|&(network, length)| within(peer, network, length)),
    }
}

/// Scheme and host by which the client addressed the API: part of keys, since answers may hold links made of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside<'a> {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Host, and whatever else a trusted proxy says about the outside that a backend may build links from.
    pub host: Cow<'a, str>,
}

/// What the client addressed: what a trusted peer says, else what Weir itself saw (`host`). Every trusted claim
/// that is sent on and may colour an answer is in here, so that none of them is an unkeyed input.
pub fn outside<'a>(headers: &HeaderMap, peer: Peer, trust: &Trust, host: &'a str) -> Outside<'a> {
    let mut outside = Outside { scheme: scheme(headers, peer, trust), host: Cow::Borrowed(host) };
    if *trust == Trust::Nobody || !trusted(trust, peer.addr.ip()) {
        return outside;
    }
    for claim in CLAIMS.iter().filter(|c| !CLIENT_ADDRESS.contains(c)) {
        for value in headers.get_all(*claim) {
            let told = format!("\n{claim}:{}", String::from_utf8_lossy(value.as_bytes()));
            outside.host.to_mut().push_str(&told);
        }
    }
    outside
}

/// The scheme the client used: what a trusted peer says, else what Weir's own listener saw.
pub fn scheme(headers: &HeaderMap, peer: Peer, trust: &Trust) -> &'static str {
    if *trust == Trust::Nobody || !headers.contains_key(X_FORWARDED_PROTO) || !trusted(trust, peer.addr.ip())
    {
        return peer.scheme();
    }
    let https = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"https");
    if headers.get_all(X_FORWARDED_PROTO).iter().any(https) { "https" } else { "http" }
}

/// Claims about who the client is, not about what it addressed: like the client's address itself, they are not
/// expected to colour an answer.
const CLIENT_ADDRESS: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// Whether an answer that varies by this field varies by something that Weir itself adds for each client: what
/// clients send cannot tell two of them apart then.
pub fn is_added_here(name: &HeaderName, any_host: bool) -> bool {
    *name == X_FORWARDED_FOR || (any_host && *name == X_FORWARDED_HOST)
}

/// A name for the request in logs: the trace id of a valid `traceparent`, else a believable `X-Request-Id`, else
/// one made here (`true`).
pub fn request_id(headers: &HeaderMap) -> (String, bool) {
    let trace = headers.get(TRACEPARENT).and_then(|v| trace_id(v.as_bytes()));
    let given = || headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes).and_then(believable);
    match trace.or_else(given) {
        Some(id) => (id.to_owned(), false),
        None => (text(&new_id()), true),
    }
}

/// Sees to it that a request has a name, and sends it upstream if it was made here. The name itself is told only to
/// those who want it.
pub(super) fn name_request(headers: &mut HeaderMap, wanted: bool) -> Option<String> {
    let trace = headers.get(TRACEPARENT).and_then(|v| trace_id(v.as_bytes()));
    let given = || headers.get(X_REQUEST_ID).map(HeaderValue::as_bytes).and_then(believable);
    if let Some(id) = trace.or_else(given) {
        return wanted.then(|| id.to_owned());
    }
    let id = new_id();
    if let Ok(value) = HeaderValue::from_bytes(&id) {
        headers.insert(X_REQUEST_ID, value);
    }
    wanted.then(|| text(&id))
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|coding| {
            let coding = coding.split(|&b| b == b';').next().unwrap_or_default();
            coding.trim_ascii().eq_ignore_ascii_case(b"trailers")
        })
    })
}

fn add_forwarded(headers: &mut HeaderMap, peer: Peer, trusted: bool) {
    if !trusted {
        drop_claims(headers);
    }
    let route = joined(headers, &X_FORWARDED_FOR).into_bytes();
    let route = [&route[..], address(peer.addr.ip().to_canonical()).as_bytes()].concat();
    if let Ok(value) = HeaderValue::try_from(route) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(peer.scheme()));
    }
    if !headers.contains_key(X_FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).filter(|host| !host.is_empty()).cloned()
    {
        headers.insert(X_FORWARDED_HOST, host);
    }
}

fn drop_claims(headers: &mut HeaderMap) {
    // One look at each name costs less than a search for each claim; and mostly there is none.
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}

/// Whether a name is that of a claim, or its disguise.
fn is_claim(name: &str) -> bool {
    // So do all claims begin.
    if !name.starts_with("x-") && !name.starts_with("x_") && !name.starts_with('f') {
        return false;
    }
    match name.contains('_') {
        true => CLAIMS.contains(&name.replace('_', "-").as_str()),
        false => CLAIMS.contains(&name),
    }
}

/// An address as a field's value. Nearly all are of version 4, for which the formatting machinery is a detour.
fn address(address: IpAddr) -> HeaderValue {
    let mut text = [0; 15];
    let mut end = 0;
    let text = match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    text[end] = b'.';
                    end += 1;
                }
                let mut digits = itoa::Buffer::new();
                let digits = digits.format(octet).as_bytes();
                text[end..end + digits.len()].copy_from_slice(digits);
                end += digits.len();
            }
            HeaderValue::from_bytes(&text[..end])
        }
        IpAddr::V6(address) => HeaderValue::from_str(&address.to_string()),
    };
    // Digits, dots and colons are a value.
    text.unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// `Via` says which version was received and by whom (RFC 9110 §7.6.3).
fn add_via(headers: &mut HeaderMap, received: Version, name: &str) {
    let mut via = joined(headers, &VIA);
    push_member(&mut via, received, name);
    if let Ok(value) = HeaderValue::try_from(via) {
        headers.insert(VIA, value);
    }
}

/// Weir's own member of `Via`, for messages that were received by `version`.
pub fn via(version: Version, name: &str) -> HeaderValue {
    let mut member = String::new();
    push_member(&mut member, version, name);
    HeaderValue::try_from(member).unwrap_or_else(|_| HeaderValue::from_static("1.1 weir"))
}

/// The same value for as long as the process lives: clones of it count no references, which threads would do in each
/// other's way. For the few that are made when the process starts.
pub(super) fn lasting(value: &HeaderValue) -> HeaderValue {
    let bytes: &'static [u8] = Box::leak(value.as_bytes().into());
    HeaderValue::from_maybe_shared(bytes::Bytes::from_static(bytes)).unwrap_or_else(|_| value.clone())
}

fn push_member(list: &mut String, received: Version, name: &str) {
    let version = match received {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    list.reserve_exact(version.len() + 1 + name.len());
    list.push_str(version);
    list.push(' ');
    list.push_str(name);
}

/// All lines of a list field as one, with a comma after; empty where there is none (or nothing legible).
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let mut all = String::new();
    for line in headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.trim().is_empty())
    {
        all.push_str(line.trim());
        all.push_str(", ");
    }
    all
}

fn within(peer: IpAddr, network: IpAddr, length: u8) -> bool {
    // A v4 client of a v6 socket shows as ::ffff:a.b.c.d.
    match (peer.to_canonical(), network) {
        (IpAddr::V4(peer), IpAddr::V4(network)) => {
            same_prefix(u128::from(peer.to_bits()) << 96, u128::from(network.to_bits()) << 96, length.min(32))
        }
        (IpAddr::V6(peer), IpAddr::V6(network)) => same_prefix(peer.to_bits(), network.to_bits(), length),
        (IpAddr::V4(peer), IpAddr::V6(network)) => {
            let mapped: Ipv6Addr = peer.to_ipv6_mapped();
            length >= 96 && same_prefix(mapped.to_bits(), network.to_bits(), length)
        }
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn same_prefix(a: u128, b: u128, length: u8) -> bool {
    let rest = 128_u32.saturating_sub(u32::from(length));
    // A shift by all 128 bits is the empty prefix: everybody.
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

/// The trace id of a valid `traceparent` (W3C Trace Context §3.2.2).
fn trace_id(value: &[u8]) -> Option<&str> {
    let lower_hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let zero = |part: &[u8]| part.iter().all(|&b| b == b'0');
    let (head, rest) = value.split_at_checked(55)?;
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let valid = dashes
        && [version, trace, parent, flags].into_iter().all(lower_hex)
        && version != b"ff"
        && !zero(trace)
        && !zero(parent)
        // Later versions may say more after another dash; version 00 may not.
        && (rest.is_empty() || (version != b"00" && rest[0] == b'-'));
    if valid { std::str::from_utf8(trace).ok() } else { None }
}

/// An id that can go into a log as it is: short, visible ASCII.
fn believable(value: &[u8]) -> Option<&str> {
    let fits = !value.is_empty() && value.len() <= LONGEST_ID && value.iter().all(u8::is_ascii_graphic);
    if fits { std::str::from_utf8(value).ok() } else { None }
}

/// A new name: 128 bits in hex, different for every request of every process: a counter, scrambled with a seed of the process.
/// It is a name, not a secret.
fn new_id() -> [u8; 32] {
    static SEED: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let seed = *SEED.get_or_init(|| {
        let mut seed = [0_u8; 8];
        match getrandom::fill(&mut seed) {
            Ok(()) => u64::from_ne_bytes(seed),
            // No random source: the process's id still tells instances of one machine apart.
            Err(_) => u64::from(std::process::id()),
        }
    });
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = xxhash_rust::xxh3::xxh3_128_with_seed(&count.to_le_bytes(), seed).to_be_bytes();
    let mut text = [0; 32];
    for (digits, byte) in text.chunks_exact_mut(2).zip(id) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

#[cfg(test)]
mod tests;
