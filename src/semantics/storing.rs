//! May this response be stored, and for how long? (RFC 9111 §3, §4.2; DESIGN "Lifetimes")
//!
//! Some answers are kept in no mode, whatever anybody says: methods other than GET, POST and QUERY (that a POST is
//! a read is its route's word, checked before), requests with `no-store`, 1xx, 206 (and, but in
//! `Honour`, anything with `Content-Range`), 304, statuses about one request rather than its resource (407, 408, 416, 425, 428, 429, 431, 511; RFC 6585 §3–6), every 5xx
//! unless `store_errors` (in `Honour` too), `Set-Cookie` unless `store_set_cookie`, `Vary: *`.
//! Of the rest:
//!
//! | | `Stricter` | `Ignore` | `Honour` |
//! |---|---|---|---|
//! | 200 203 204 300 301 308 | the shorter of `ttl` and the backend's word | `ttl` | backend, else heuristic, else `ttl` |
//! | 404 410 | the shorter of `negative_ttl` and the backend's word | `negative_ttl` | backend, else heuristic, else `negative_ttl` |
//! | any other | the backend's explicit word, at most `ttl` | no | the backend's explicit word (405, 414, 501, and beside `public`: else heuristic) |
//! | `no-store`, `private` without subject, `must-understand` | obeyed | overruled | obeyed |
//! | `Authorization`, neither subject nor public | no | no | by RFC 9111 §3.5 |
//! | `no-cache` | validated on each use; without validator not stored | overruled | as `Stricter` |
//! | `must-revalidate`, `proxy-revalidate` | never stale | overruled | never stale |
//! | `s-maxage` | stale only within the backend's own windows | overruled | never stale (RFC 9111 §5.2.2.10) |
//! | SWR, SIE | backend's, else operator's | operator's | backend's, else operator's |
//!
//! "The backend's word" is `s-maxage`, else `max-age`, else `Expires`, all in the first targeted field of the target
//! list that says anything, without regard to the other fields, else in `Cache-Control` and `Expires`. A 404 or other status without the operator's
//! own lifetime is capped by `ttl` in `Stricter`. A response to POST gets no heuristic (RFC 9110 §9.3.3). Lifetimes
//! count from age zero in every mode: a response that arrives with `Age: 200` under `ttl = "5m"` has 100 s left.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_RANGE, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::cache_control::{RequestDirectives, ResponseDirectives};
use super::stored::Lifetimes;
use super::timestamp::Timestamp;
use super::vary::Vary;
use super::{freshness, validation};

/// The targeted field of caches that act for the origin (RFC 9213 §3).
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");

/// Whose word counts when the backend and the operator disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OriginMode {
    /// The operator's TTL applies, but a stricter word from the backend wins (default).
    #[default]
    Stricter,
    /// The operator's TTL applies whatever the backend says (`no-store` and `private` included).
    Ignore,
    /// RFC 9111 to the letter; the operator's TTL is used only where the backend gives no freshness at all.
    Honour,
}

/// The operator's words about one route, as `semantics` understands them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Lifetime for cacheable answers; `None` means only what the backend's fields (or the heuristic) give.
    pub ttl: Option<Duration>,
    /// Lifetime for 404 and 410; `None` means they are not stored unless the backend says so.
    pub negative_ttl: Option<Duration>,
    /// Window in which a stale answer may be served while it is refreshed, when the backend gives none.
    pub stale_while_revalidate: Option<Duration>,
    /// Window in which a stale answer may be served when the upstream fails, when the backend gives none.
    pub stale_if_error: Option<Duration>,
    /// How long a stale entry with a validator is kept to be validated.
    pub keep: Duration,
    /// Whose word counts.
    pub origin: OriginMode,
    /// The entry is keyed by a subject (so `private` and `Authorization` are no obstacle). Only true where this very
    /// request has one: an anonymous caller's entry is shared by all anonymous callers.
    pub per_subject: bool,
    /// The operator declared the route public (so `Authorization` is no obstacle).
    pub public: bool,
    /// Store answers that carry `Set-Cookie` (off by default; the field itself is then kept).
    pub store_set_cookie: bool,
    /// Store server errors (5xx) for which the backend gives a lifetime (off by default). They are never served stale.
    pub store_errors: bool,
    /// Client `no-cache`/`max-age` request directives are honoured (default true).
    pub client_refresh: bool,
    /// The backend is asked for uncoded content, whatever its client accepts.
    pub asks_uncoded: bool,
    /// The targeted fields that speak to this cache, the one that counts most first (RFC 9213 §2.2).
    pub target_list: Arc<[HeaderName]>,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            ttl: None,
            negative_ttl: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            keep: Duration::from_secs(60),
            origin: OriginMode::Stricter,
            per_subject: false,
            public: false,
            store_set_cookie: false,
            store_errors: false,
            client_refresh: true,
            asks_uncoded: false,
            target_list: [CDN_CACHE_CONTROL].into(),
        }
    }
}

/// Why a response is not stored. Each reason is a sentence an operator can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotStored {
    /// The method is not one whose answers are kept (GET, POST, QUERY).
    Method,
    /// The request says `no-store`.
    RequestNoStore,
    /// The answer is a part of something (206, or `Content-Range`).
    Partial,
    /// The answer is a server error (5xx), and the route does not say `store_errors`.
    ServerError,
    /// No lifetime applies to this status: it is about one request, or the backend states no lifetime for it.
    Status,
    /// The answer carries `Set-Cookie`, and the route does not say `store_set_cookie`.
    SetCookie,
    /// The answer says `Vary: *`, or a `Vary` that cannot be read.
    VaryAny,
    /// The request carries `Authorization`, and the route has no subject and is not public.
    Authorization,
    /// The backend says `no-store`.
    NoStore,
    /// The backend says `private`, and the entry would not belong to one subject.
    Private,
    /// The backend says `must-understand`, and the status has rules of its own that are not known here.
    MustUnderstand,
    /// The backend says `no-cache` and gives no validator by which a stored answer could be confirmed.
    NoCache,
    /// A 404 or 410 for which neither the route's `negative_ttl` nor the backend gives a lifetime.
    NoNegativeTtl,
    /// Neither the route's `ttl` nor the backend gives a lifetime.
    NoLifetime,
    /// The lifetime is zero or was over on arrival (by `Age`, `Expires` or a slow answer), and nothing could be done
    /// with the entry afterwards.
    Expired,
}

impl NotStored {
    /// All of them, for tables and metrics.
    pub const ALL: [NotStored; 15] = [
        NotStored::Method,
        NotStored::RequestNoStore,
        NotStored::Partial,
        NotStored::ServerError,
        NotStored::Status,
        NotStored::SetCookie,
        NotStored::VaryAny,
        NotStored::Authorization,
        NotStored::NoStore,
        NotStored::Private,
        NotStored::MustUnderstand,
        NotStored::NoCache,
        NotStored::NoNegativeTtl,
        NotStored::NoLifetime,
        NotStored::Expired,
    ];

    /// Whether the reason lies in this one exchange, its request or a cookie that came with its answer, and says nothing
    /// about what is stored for others.
    pub fn is_of_one_exchange(self) -> bool {
        matches!(
            self,
            NotStored::Method | NotStored::RequestNoStore | NotStored::Authorization | NotStored::SetCookie
        )
    }

    /// The reason as one token, for `Cache-Status`, logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            NotStored::Method => "method",
            NotStored::RequestNoStore => "request-no-store",
            NotStored::Partial => "partial",
            NotStored::ServerError => "server-error",
            NotStored::Status => "status",
            NotStored::SetCookie => "set-cookie",
            NotStored::VaryAny => "vary-any",
            NotStored::Authorization => "authorization",
            NotStored::NoStore => "no-store",
            NotStored::Private => "private",
            NotStored::MustUnderstand => "must-understand",
            NotStored::NoCache => "no-cache",
            NotStored::NoNegativeTtl => "no-negative-ttl",
            NotStored::NoLifetime => "no-lifetime",
            NotStored::Expired => "expired",
        }
    }

    /// The reason as a sentence that says what would change it.
    pub fn sentence(self) -> &'static str {
        match self {
            NotStored::Method => {
                "only answers to GET, and to POST and QUERY on routes with `body`, are stored"
            }
            NotStored::RequestNoStore => "the client sent Cache-Control: no-store",
            NotStored::Partial => "the answer is only a part (206 or Content-Range)",
            NotStored::ServerError => {
                "server errors (5xx) are not stored; `store_errors = true` would where the backend gives a lifetime"
            }
            NotStored::Status => {
                "answers with this status are stored only if the backend gives a lifetime, or never"
            }
            NotStored::SetCookie => "the answer sets a cookie; `store_set_cookie = true` would store it",
            NotStored::VaryAny => "the backend says Vary: *, or a Vary that cannot be read",
            NotStored::Authorization => {
                "the request is authorized; give the route a `subject`, or `public = true`"
            }
            NotStored::NoStore => {
                "the backend says Cache-Control: no-store; `origin = \"ignore\"` would overrule it"
            }
            NotStored::Private => "the backend says Cache-Control: private; give the route a `subject`",
            NotStored::MustUnderstand => {
                "the backend says must-understand, with a status that has rules unknown here"
            }
            NotStored::NoCache => {
                "the backend says no-cache and gives no ETag or Last-Modified to validate by"
            }
            NotStored::NoNegativeTtl => "a 404 or 410 needs `negative_ttl`, or a lifetime from the backend",
            NotStored::NoLifetime => "neither the route (`ttl`) nor the backend gives a lifetime",
            NotStored::Expired => {
                "it was too old on arrival to be used, to be validated within `keep`, or to be given out stale"
            }
        }
    }
}

impl std::fmt::Display for NotStored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a request's fields say about storing its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    no_store: bool,
    authorized: bool,
}

impl Asked {
    /// Reads them.
    pub fn of(request: &HeaderMap) -> Asked {
        let no_store = RequestDirectives::of(request).no_store;
        Asked { no_store, authorized: request.contains_key(AUTHORIZATION) }
    }
}

/// Decides from the heads alone. `Ok` carries the windows of the entry-to-be.
pub fn admit(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    response: &HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
    terms: &Terms,
) -> Result<Lifetimes, NotStored> {
    admit_asked(method, Asked::of(request), status, response, request_time, response_time, terms)
}

/// The same for who has kept of the request no more than what it says about storing.
pub fn admit_asked(
    method: &Method,
    asked: Asked,
    status: StatusCode,
    response: &HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
    terms: &Terms,
) -> Result<Lifetimes, NotStored> {
    storable(method, asked, status, response, terms)?;
    let backend = match terms.origin {
        OriginMode::Ignore => ResponseDirectives::default(),
        OriginMode::Stricter | OriginMode::Honour => ResponseDirectives::of(response, &terms.target_list),
    };
    permitted(asked, status, response, &backend, terms)?;
    let validator = validation::has_validator(response, response_time);
    let always_validate = backend.no_cache.reaches(response);
    if always_validate && !validator {
        return Err(NotStored::NoCache);
    }
    let fresh = match freshness_lifetime(method, status, response, &backend, response_time, terms) {
        // What is validated on each use needs no lifetime (RFC 9111 §3 asks for one only by its status).
        Err(NotStored::NoLifetime) if always_validate => Duration::ZERO,
        decided => decided?,
    };
    let keep = if validator { terms.keep } else { Duration::ZERO };
    let windows = match status.is_server_error() || status.as_u16() >= 600 {
        // An error stands in for nothing, least of all when it is over.
        true => Lifetimes { must_revalidate: true, ..Lifetimes::default() },
        false => stale_windows(&backend, always_validate, terms),
    };
    let lifetimes = Lifetimes { fresh, keep, always_validate, ..windows };
    if freshness::initial_age(response, request_time, response_time) >= lifetimes.gone_after() {
        return Err(NotStored::Expired);
    }
    Ok(lifetimes)
}

/// The lifetime that the backend states, where its word counts: nothing may be fresh for longer.
pub fn stated_lifetime(response: &HeaderMap, response_time: Timestamp, terms: &Terms) -> Option<Duration> {
    let backend = || ResponseDirectives::of(response, &terms.target_list);
    let counts = terms.origin != OriginMode::Ignore;
    counts.then(backend).and_then(|said| freshness::explicit_lifetime(response, &said, response_time))
}

/// How statuses differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The operator's `ttl` applies.
    Positive,
    /// The operator's `negative_ttl` applies.
    Negative,
    /// Nobody's lifetime but the backend's own applies.
    Explicit,
    /// About one request, or about the connection: never stored.
    Never,
}

fn kind(status: StatusCode) -> Kind {
    match status.as_u16() {
        200 | 203 | 204 | 300 | 301 | 308 => Kind::Positive,
        404 | 410 => Kind::Negative,
        ..200 | 304 | 407 | 408 | 416 | 425 | 428 | 429 | 431 | 511 => Kind::Never,
        _ => Kind::Explicit,
    }
}

/// Statuses whose caching rules are all followed here, as `must-understand` asks (RFC 9111 §5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 300..=303 | 307 | 308 | 400 | 401 | 403..=406 | 409 | 410 | 414 | 415 | 421 | 422 | 451
    )
}

/// Statuses that may have a heuristic lifetime (RFC 9110 §15.1), but for 206.
fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(kind(status), Kind::Positive | Kind::Negative) || matches!(status.as_u16(), 405 | 414 | 501)
}

/// What is kept in no mode, whatever anybody says.
fn storable(
    method: &Method,
    asked: Asked,
    status: StatusCode,
    response: &HeaderMap,
    terms: &Terms,
) -> Result<(), NotStored> {
    if !matches!(method.as_str(), "GET" | "POST" | "QUERY") {
        return Err(NotStored::Method);
    }
    if asked.no_store {
        return Err(NotStored::RequestNoStore);
    }
    // Elsewhere `Content-Range` means nothing (RFC 9110 §14.4), which a backend that sends it may not know.
    let part = response.contains_key(CONTENT_RANGE) && terms.origin != OriginMode::Honour;
    if status == StatusCode::PARTIAL_CONTENT || part {
        return Err(NotStored::Partial);
    }
    if status.as_u16() >= 500 && !terms.store_errors {
        return Err(NotStored::ServerError);
    }
    if kind(status) == Kind::Never {
        return Err(NotStored::Status);
    }
    if response.contains_key(SET_COOKIE) && !terms.store_set_cookie {
        return Err(NotStored::SetCookie);
    }
    if Vary::of(response, &[]) == Vary::Any {
        return Err(NotStored::VaryAny);
    }
    Ok(())
}

/// What the backend forbids, and what needs its leave (RFC 9111 §3, §3.5).
fn permitted(
    asked: Asked,
    status: StatusCode,
    response: &HeaderMap,
    backend: &ResponseDirectives,
    terms: &Terms,
) -> Result<(), NotStored> {
    if backend.must_understand && !is_understood(status) {
        return Err(NotStored::MustUnderstand);
    }
    // Beside must-understand, no-store is for caches that do not know must-understand (RFC 9111 §5.2.2.3).
    if backend.no_store && !backend.must_understand {
        return Err(NotStored::NoStore);
    }
    if backend.private.reaches(response) && !terms.per_subject {
        return Err(NotStored::Private);
    }
    // RFC 9111 §3.5. Where the operator wrote the route, his silence counts: only he can share what was authorized.
    let shared = backend.public || backend.must_revalidate || backend.s_maxage.is_some();
    let leave = terms.per_subject || terms.public || (terms.origin == OriginMode::Honour && shared);
    if asked.authorized && !leave {
        return Err(NotStored::Authorization);
    }
    Ok(())
}

/// `freshness_lifetime` by whose word counts.
fn freshness_lifetime(
    method: &Method,
    status: StatusCode,
    response: &HeaderMap,
    backend: &ResponseDirectives,
    response_time: Timestamp,
    terms: &Terms,
) -> Result<Duration, NotStored> {
    let operator = match kind(status) {
        Kind::Positive => terms.ttl.ok_or(NotStored::NoLifetime),
        Kind::Negative => terms.negative_ttl.ok_or(NotStored::NoNegativeTtl),
        Kind::Explicit | Kind::Never => Err(NotStored::Status),
    };
    let explicit = || freshness::explicit_lifetime(response, backend, response_time);
    match terms.origin {
        OriginMode::Ignore => operator,
        OriginMode::Stricter => match explicit() {
            Some(stated) => Ok(operator.ok().or(terms.ttl).map_or(stated, |bound| bound.min(stated))),
            None => operator,
        },
        OriginMode::Honour => {
            let by_rule = (is_heuristically_cacheable(status) || backend.public) && *method != Method::POST;
            let heuristic = || freshness::heuristic_lifetime(response, response_time).filter(|_| by_rule);
            explicit().or_else(heuristic).map_or(operator, Ok)
        }
    }
}

/// The windows past freshness, and whether stale reuse is forbidden (RFC 9111 §4.2.4, RFC 5861).
fn stale_windows(backend: &ResponseDirectives, always_validate: bool, terms: &Terms) -> Lifetimes {
    let must_revalidate = backend.must_revalidate || backend.proxy_revalidate;
    let by_s_maxage = backend.s_maxage.is_some();
    let window = |stated: Option<Duration>, operators: Option<Duration>| match stated {
        _ if must_revalidate || always_validate => Duration::ZERO,
        // RFC 9111 §5.2.2.10 forbids staleness beside s-maxage; a backend that writes both means the window, though.
        _ if by_s_maxage && terms.origin == OriginMode::Honour => Duration::ZERO,
        Some(stated) => stated,
        None if by_s_maxage => Duration::ZERO,
        None => operators.unwrap_or_default(),
    };
    Lifetimes {
        stale_while_revalidate: window(backend.stale_while_revalidate, terms.stale_while_revalidate),
        stale_if_error: window(backend.stale_if_error, terms.stale_if_error),
        must_revalidate: must_revalidate || by_s_maxage,
        ..Lifetimes::default()
    }
}

#[cfg(test)]
mod tests;
