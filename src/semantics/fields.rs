//! Kinds of fields: hop-by-hop, credentials, overrides, and the normal form of `Accept-Encoding`
//! (RFC 9110 §7.6, §11, §12.5.3).
//!
//! The lists err on the safe side: a field wrongly taken for a credential costs hits until the
//! operator declares it of no influence; one wrongly taken for harmless could show one user's answer
//! to another. Not credentials: `X-CSRF-Token` and the like (they prove intent, and a session's
//! credential always comes with them), and tenant or organisation selectors (they select, and belong
//! into `vary`; nobody proves anything by sending one).

use std::borrow::Cow;

use http::header::{
    self, ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lists;

/// Fields that belong to one connection whether or not `Connection` names them (RFC 9110 §7.6.1), and the
/// proxy's own authentication (RFC 9110 §11.7), which belongs to one hop. `Trailer` is not among them: it
/// announces what a forwarded body will bring.
const HOP_BY_HOP: [HeaderName; 9] = [
    TRANSFER_ENCODING,
    TE,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
];

/// Removes hop-by-hop fields and those that `Connection` names (RFC 9110 §7.6.1).
///
/// A nomination is not obeyed for fields that are meant for everybody on the way (credentials, `Host`,
/// framing, caching, conditionals, content description, forwarding): RFC 9110 §7.6.1 forbids to nominate
/// those, and who does it anyway wants them to vanish between two readers that both look at them.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip_nominated(headers);
    // One look at each name costs less than a search for each of these; and mostly there is none.
    if headers.keys().any(is_of_connection) {
        headers.remove(CONNECTION);
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// What a look at the names of a request's fields tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Fields that say nothing about framing, connection, caller, conditions or parts.
    Plain,
    /// And the standard ones that say who is calling.
    Personal,
    /// Others.
    Other,
}

/// Looks at all of them at once: most requests carry nothing that needs a closer look.
pub fn sight(headers: &HeaderMap) -> Sight {
    let each = headers.iter().map(|(name, value)| match sight_of(name) {
        // What older clients and most proxies say of every connection; it names no field.
        Sight::Other if *name == CONNECTION && value.as_bytes().eq_ignore_ascii_case(b"keep-alive") => {
            Sight::Plain
        }
        seen => seen,
    });
    each.max().unwrap_or(Sight::Plain)
}

/// What is not listed counts as anything.
fn sight_of(name: &HeaderName) -> Sight {
    match name.as_str() {
        "host"
        | "user-agent"
        | "accept"
        | "accept-encoding"
        | "accept-language"
        | "referer"
        | "origin"
        | "dnt"
        | "priority"
        | "sec-ch-ua"
        | "sec-ch-ua-mobile"
        | "sec-ch-ua-platform"
        | "sec-fetch-dest"
        | "sec-fetch-mode"
        | "sec-fetch-site"
        | "sec-fetch-user"
        | "sec-gpc"
        | "traceparent"
        | "tracestate"
        | "upgrade-insecure-requests"
        | "x-request-id" => Sight::Plain,
        "authorization" | "cookie" => Sight::Personal,
        _ => Sight::Other,
    }
}

/// Whether a request in plain sight may carry this field.
pub fn is_in_plain_sight(name: &HeaderName) -> bool {
    sight_of(name) == Sight::Plain
}

/// Whether a field belongs to one connection, whatever `Connection` names.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    // So do they all begin, and so long are they.
    let text = name.as_str().as_bytes();
    let may_be = match text.first() {
        Some(b'c' | b'k') => text.len() == 10,
        Some(b't') => matches!(text.len(), 2 | 17),
        Some(b'u') => text.len() == 7,
        Some(b'h') => text.len() == 14,
        Some(b'p') => matches!(text.len(), 16 | 18 | 19 | 25),
        _ => false,
    };
    may_be && is_hop_by_hop(name, &[])
}

/// Removes the fields that `Connection` names, except those of the connection itself (`Upgrade`, `TE`, …): they are
/// still to be acted on. Keys, subjects and variants must not be made of a field that the backend will not see.
pub fn strip_nominated(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in nominated(headers).iter().filter(|name| !HOP_BY_HOP.contains(name)) {
            headers.remove(name);
        }
    }
}

/// Whether a message's field stays behind when the message is forwarded.
pub(super) fn is_hop_by_hop(name: &HeaderName, nominated: &[HeaderName]) -> bool {
    *name == CONNECTION || HOP_BY_HOP.contains(name) || nominated.contains(name)
}

/// The fields that `Connection` names and may name.
pub(super) fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(CONNECTION).into_iter();
    let names = lines.flat_map(|line| lists::members(line.as_bytes()));
    names.filter_map(|name| HeaderName::from_bytes(name).ok()).filter(|name| !is_end_to_end(name)).collect()
}

/// Fields that no `Connection` may nominate away.
fn is_end_to_end(name: &HeaderName) -> bool {
    let text = name.as_str();
    is_credential(name)
        || is_override(name)
        || ["content-", "accept", "if-", "x-forwarded-"].iter().any(|prefix| text.starts_with(prefix))
        || END_TO_END.contains(&text)
}

const END_TO_END: [&str; 22] = [
    "age",
    "allow",
    "cache-control",
    "date",
    "etag",
    "expect",
    "expires",
    "forwarded",
    "host",
    "last-modified",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "retry-after",
    "set-cookie",
    "trailer",
    "vary",
    "via",
    "www-authenticate",
    "x-real-ip",
];

/// Fields whose presence means the request speaks for somebody (DESIGN promise 1): `Authorization`, `Cookie`
/// and their kin, API keys and tokens, users forwarded by an authenticating proxy, client certificates, signatures.
pub fn is_credential(name: &HeaderName) -> bool {
    if *name == header::AUTHORIZATION || *name == header::COOKIE || *name == PROXY_AUTHORIZATION {
        return true;
    }
    let text = name.as_str();
    CREDENTIALS.binary_search(&text).is_ok()
        || CREDENTIAL_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        || CREDENTIAL_SUFFIXES.iter().any(|suffix| text.ends_with(suffix))
}

/// Sorted, for binary search.
const CREDENTIALS: [&str; 66] = [
    "api-key",
    "api-token",
    "apikey",
    "authentication",
    "cf-access-authenticated-user-email",
    "cf-access-client-id",
    "cf-access-client-secret",
    "client-cert",
    "client-cert-chain",
    "cookie2",
    "dpop",
    "ocp-apim-subscription-key",
    "private-token",
    "remote-email",
    "remote-groups",
    "remote-name",
    "remote-user",
    "signature",
    "signature-input",
    "token",
    "x-access-key",
    "x-amz-security-token",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-apigateway-api-userinfo",
    "x-apikey",
    "x-arr-clientcert",
    "x-auth",
    "x-auth-email",
    "x-auth-key",
    "x-auth-token",
    "x-auth-user",
    "x-authenticated-scope",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-authorization",
    "x-client-cert",
    "x-client-certificate",
    "x-client-dn",
    "x-client-id",
    "x-client-secret",
    "x-consumer-custom-id",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-email",
    "x-endpoint-api-userinfo",
    "x-forwarded-access-token",
    "x-forwarded-client-cert",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-gitlab-token",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-jwt",
    "x-pomerium-jwt-assertion",
    "x-remote-group",
    "x-remote-user",
    "x-session",
    "x-session-id",
    "x-token",
    "x-user",
    "x-username",
    "x-webauth-user",
];

const CREDENTIAL_PREFIXES: [&str; 13] = [
    "ssl-client-",
    "x-amzn-mtls-",
    "x-auth-request-",
    "x-authentik-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-pomerium-claim-",
    "x-remote-extra-",
    "x-remote-user-",
    "x-ssl-",
    "x-tls-client-",
    "x-vouch-",
];

const CREDENTIAL_SUFFIXES: [&str; 12] = [
    "-access-token",
    "-accesstoken",
    "-api-key",
    "-api-token",
    "-apikey",
    "-auth-token",
    "-id-token",
    "-jwt-assertion",
    "-session-token",
    "-user-email",
    "-user-id",
    "-user-token",
];

/// Method- and URL-override fields, stripped on cached routes: they would make a backend answer another request
/// than the one that is keyed. CGI and WSGI cannot tell underscores from hyphens, so neither counts.
pub fn is_override(name: &HeaderName) -> bool {
    let text = name.as_str();
    // So do they all begin.
    if !text.starts_with('x') {
        return false;
    }
    let hyphened = if text.contains('_') { Cow::Owned(text.replace('_', "-")) } else { Cow::Borrowed(text) };
    matches!(
        &*hyphened,
        "x-http-method-override"
            | "x-http-method"
            | "x-method-override"
            | "x-original-method"
            | "x-forwarded-method"
            | "x-original-url"
            | "x-original-uri"
            | "x-rewrite-url"
            | "x-override-url"
            | "x-forwarded-uri"
            | "x-http-host-override"
            | "x-host"
    )
}

/// Replaces `Accept-Encoding` by its normal form: the supported codings among `zstd, br, gzip` that the client
/// accepts, in that order, or removes it (identity only). A client that refuses identity keeps `identity;q=0`.
pub fn normalise_accept_encoding(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCEPT_ENCODING) {
        return;
    }
    match accept_encoding(headers) {
        Some(value) => drop(headers.insert(ACCEPT_ENCODING, value)),
        None => drop(headers.remove(ACCEPT_ENCODING)),
    }
}

/// The normal form of a request's `Accept-Encoding`; `None` when it is absent or leaves identity alone.
/// Many spellings, sixteen values: requests that mean the same choose the same variant.
pub fn accept_encoding(request: &HeaderMap) -> Option<HeaderValue> {
    if !request.contains_key(ACCEPT_ENCODING) {
        return None;
    }
    let said = Codings::of(request);
    let accepts = |coding: Option<bool>| coding.or(said.other) == Some(true);
    let position = usize::from(accepts(said.zstd)) * 4
        + usize::from(accepts(said.br)) * 2
        + usize::from(accepts(said.gzip))
        + if said.identity.or(said.other) == Some(false) { 8 } else { 0 };
    let normal = NORMAL_FORMS.get(position).copied().unwrap_or_default();
    (!normal.is_empty()).then(|| HeaderValue::from_static(normal))
}

/// Indexed by bits: refuses identity, zstd, br, gzip.
const NORMAL_FORMS: [&str; 16] = [
    "",
    "gzip",
    "br",
    "br, gzip",
    "zstd",
    "zstd, gzip",
    "zstd, br",
    "zstd, br, gzip",
    "identity;q=0",
    "gzip, identity;q=0",
    "br, identity;q=0",
    "br, gzip, identity;q=0",
    "zstd, identity;q=0",
    "zstd, gzip, identity;q=0",
    "zstd, br, identity;q=0",
    "zstd, br, gzip, identity;q=0",
];

/// Whether a request asks for this coding (RFC 9110 §12.5.3), or, without a word about codings, for `identity`.
pub fn accepts(request: &HeaderMap, coding: &str) -> bool {
    let said = Codings::of(request);
    let asked = |coding: Option<bool>| coding.or(said.other) == Some(true);
    match coding {
        "zstd" => asked(said.zstd),
        "br" => asked(said.br),
        "gzip" => asked(said.gzip),
        "identity" => said.identity.or(said.other) != Some(false),
        _ => false,
    }
}

/// Whether the content is a stream of events, without an end of its own (WHATWG HTML §9.2).
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|line| {
        let kind = line.as_bytes().split(|&b| b == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

/// Checksums of a content (RFC 9530 and what came before).
pub(super) fn is_digest(name: &HeaderName) -> bool {
    matches!(name.as_str(), "content-md5" | "content-digest" | "repr-digest" | "digest")
}

/// What a client says about each coding: accepted, refused (`q=0`), or nothing.
#[derive(Debug, Default)]
struct Codings {
    zstd: Option<bool>,
    br: Option<bool>,
    gzip: Option<bool>,
    identity: Option<bool>,
    other: Option<bool>,
}

impl Codings {
    fn of(request: &HeaderMap) -> Codings {
        let mut said = Codings::default();
        for line in request.get_all(ACCEPT_ENCODING) {
            for member in lists::members(line.as_bytes()) {
                said.take(member);
            }
        }
        said
    }

    fn take(&mut self, member: &[u8]) {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let accepted = parts.all(is_positive_weight);
        let slot = match coding.to_ascii_lowercase().as_slice() {
            b"zstd" => &mut self.zstd,
            b"br" => &mut self.br,
            b"gzip" | b"x-gzip" => &mut self.gzip,
            b"identity" => &mut self.identity,
            b"*" => &mut self.other,
            _ => return,
        };
        // Named twice: refusing wins, as identity is always safe.
        *slot = Some(slot.unwrap_or(true) && accepted);
    }
}

/// Whether `q=…` is a weight above zero (RFC 9110 §12.4.2). What is malformed is not.
fn is_positive_weight(parameter: &[u8]) -> bool {
    let Some((b'q' | b'Q', rest)) = parameter.split_first() else { return false };
    let Some(weight) = rest.trim_ascii().strip_prefix(b"=") else { return false };
    match weight.trim_ascii() {
        [b'0'] => false,
        [b'0', b'.', digits @ ..] => {
            digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) && digits.iter().any(|&d| d != b'0')
        }
        [b'1'] => true,
        [b'1', b'.', digits @ ..] => digits.len() <= 3 && digits.iter().all(|&d| d == b'0'),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
