//! May this response be stored, and what are its windows? (RFC 9111 §3, RFC 5861)

use super::cache_control::{ResponseWord, reaches, request_word, response_word};
use super::message::{Fields, has};
use super::{Nanos, Operator, Origin, Request, Windows, freshness, validation, vary};

/// RFC 9110 §15.1: "heuristically cacheable (e.g., 200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, and 501".
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// What is to be stored, or every reason why not.
pub fn store(
    request: &Request,
    status: u16,
    fields: &Fields,
    request_time: Nanos,
    response_time: Nanos,
    operator: &Operator,
) -> Result<Windows, Vec<&'static str>> {
    let word = response_word(fields, &operator.target_list);
    let mut reasons = Vec::new();
    never(request, status, fields, operator, &mut reasons);
    forbidden(request, status, fields, &word, operator, response_time, &mut reasons);
    let mut lifetime = lifetime(request, status, fields, &word, response_time, operator);
    // Weir: "What is validated on each use needs no lifetime (RFC 9111 §3 asks for one only by its status)."
    let always_validate = operator.origin != Origin::Ignore && reaches(&word.no_cache, fields);
    if lifetime == Err("no-lifetime") && always_validate {
        lifetime = Ok(0);
    }
    if let Err(reason) = lifetime {
        reasons.push(reason);
    }
    let windows = lifetime.map(|fresh| windows(fresh, status, fields, &word, response_time, operator)).ok();
    // Weir: "The lifetime is zero or was over on arrival …, and nothing could be done with the entry afterwards."
    if let Some(windows) = &windows
        && freshness::corrected_initial_age(fields, request_time, response_time) >= gone_after(windows)
    {
        reasons.push("expired");
    }
    match windows {
        Some(windows) if reasons.is_empty() => Ok(windows),
        _ => Err(reasons),
    }
}

/// The age at which every window has closed.
pub fn gone_after(windows: &Windows) -> Nanos {
    let longest = windows.stale_while_revalidate.max(windows.stale_if_error).max(windows.keep);
    windows.fresh + longest
}

/// Weir: "Some answers are kept in no mode, whatever anybody says".
fn never(
    request: &Request,
    status: u16,
    fields: &Fields,
    operator: &Operator,
    reasons: &mut Vec<&'static str>,
) {
    // RFC 9111 §3: "the request method is understood by the cache". Weir: GET, POST (a read by its route's word), QUERY.
    if !["GET", "POST", "QUERY"].contains(&request.method.as_str()) {
        reasons.push("method");
    }
    // RFC 9111 §5.2.1.5: "a cache MUST NOT store any part of either this request or any response to it".
    if request_word(&request.fields).no_store {
        reasons.push("request-no-store");
    }
    // RFC 9111 §3: "the response status code is final"; "if the response status code is 206 or 304 …: the cache
    // understands the response status code". A 304 is used to freshen, not stored.
    if status < 200 || status == 304 {
        reasons.push("status");
    }
    if status == 206 {
        reasons.push("partial");
    }
    // RFC 9110 §14.4: "The Content-Range header field has no meaning for status codes that do not explicitly describe
    // its semantic." Weir: doubted anyhow but in `honour`.
    if has(fields, "content-range") && operator.origin != Origin::Honour {
        reasons.push("partial");
    }
    // RFC 6585 §3, §4, §5: 428, 429 and 431 "MUST NOT be stored by a cache"; the others are about one request.
    if [407, 408, 416, 425, 428, 429, 431].contains(&status) {
        reasons.push("status");
    }
    // RFC 6585 §6: "Responses with the 511 status code MUST NOT be stored by a cache."
    if status == 511 {
        reasons.push("status");
    }
    // Weir: "every 5xx unless `store_errors`".
    if status >= 500 && !operator.store_errors {
        reasons.push("server-error");
    }
    // Weir: "`Set-Cookie` unless `store_set_cookie`".
    if has(fields, "set-cookie") && !operator.store_set_cookie {
        reasons.push("set-cookie");
    }
    // RFC 9111 §4.1: "always fails to match".
    if vary::nominated(fields).is_none() {
        reasons.push("vary-any");
    }
}

/// RFC 9111 §3: "A cache MUST NOT store a response to a request unless".
fn forbidden(
    request: &Request,
    status: u16,
    fields: &Fields,
    word: &ResponseWord,
    operator: &Operator,
    response_time: Nanos,
    reasons: &mut Vec<&'static str>,
) {
    // "if the cache is shared: the Authorization header field is not present in the request … or a response directive is
    // present that explicitly allows shared caching". Weir: by that in `honour` alone.
    if has(&request.fields, "authorization") && !operator.per_subject && !operator.public {
        // RFC 9111 §3.5: "must-revalidate, public, and s-maxage".
        let allowed = word.public || word.must_revalidate || word.s_maxage.is_some();
        if operator.origin != Origin::Honour || !allowed {
            reasons.push("authorization");
        }
    }
    // Weir: `ignore` overrules the backend.
    if operator.origin == Origin::Ignore {
        return;
    }
    // "if … the must-understand cache directive is present: the cache understands the response status code".
    if word.must_understand && !understood(status) {
        reasons.push("must-understand");
    }
    // "the no-store cache directive is not present in the response"; RFC 9111 §5.2.2.3: "the cache SHOULD ignore the
    // no-store directive if it understands and implements the status code's caching requirements".
    if word.no_store && !(word.must_understand && understood(status)) {
        reasons.push("no-store");
    }
    // "if the cache is shared: the private response directive is either not present or allows a shared cache to store a
    // modified response".
    if reaches(&word.private, fields) && !operator.per_subject {
        reasons.push("private");
    }
    // RFC 9111 §5.2.2.4: not to be used "without forwarding it for validation". Weir: "without validator not stored".
    if reaches(&word.no_cache, fields) && !validation::has_validator(fields, response_time) {
        reasons.push("no-cache");
    }
}

/// Weir: "Statuses whose caching rules are all followed here, as `must-understand` asks". Errors of servers and what is
/// about one request alone are not among them.
fn understood(status: u16) -> bool {
    [200, 203, 204, 300, 301, 302, 303, 307, 308].contains(&status)
        || [400, 401, 403, 404, 405, 406, 409, 410, 414, 415, 421, 422, 451].contains(&status)
}

/// "whose word counts": the table at the head of `storing.rs`.
fn lifetime(
    request: &Request,
    status: u16,
    fields: &Fields,
    word: &ResponseWord,
    response_time: Nanos,
    operator: &Operator,
) -> Result<Nanos, &'static str> {
    let positive = [200, 203, 204, 300, 301, 308].contains(&status);
    let negative = [404, 410].contains(&status);
    let stated = freshness::explicit_lifetime(fields, word, response_time);
    // "200 203 204 300 301 308: `ttl`; 404 410: `negative_ttl`; any other: no".
    let (own, lacking) = if positive {
        (operator.ttl, "no-lifetime")
    } else if negative {
        (operator.negative_ttl, "no-negative-ttl")
    } else {
        (None, "status")
    };
    if operator.origin == Origin::Ignore {
        return own.ok_or(lacking);
    }
    if operator.origin == Origin::Honour {
        if let Some(stated) = stated {
            return Ok(stated);
        }
        // RFC 9111 §4.2.2: "heuristics can only be used on responses without explicit freshness whose status codes are
        // defined as heuristically cacheable …, and those responses without explicit freshness that have been marked as
        // explicitly cacheable (e.g., with a public response directive)." RFC 9110 §9.3.3: not for POST.
        if (HEURISTIC.contains(&status) || word.public) && request.method != "POST" {
            if let Some(heuristic) = freshness::heuristic_lifetime(fields, response_time) {
                return Ok(heuristic);
            }
        }
        return own.ok_or(lacking);
    }
    // `stricter`: "the shorter of `ttl` and the backend's word".
    match (own, stated) {
        (Some(own), Some(stated)) => Ok(own.min(stated)),
        (Some(own), None) => Ok(own),
        // "A 404 or other status without the operator's own lifetime is capped by `ttl`".
        (None, Some(stated)) => Ok(operator.ttl.map_or(stated, |ttl| ttl.min(stated))),
        (None, None) => Err(lacking),
    }
}

/// RFC 5861 §3, §4; RFC 9111 §4.2.4: "A cache MUST NOT generate a stale response if it is prohibited by an explicit
/// in-protocol directive".
fn windows(
    fresh: Nanos,
    status: u16,
    fields: &Fields,
    word: &ResponseWord,
    response_time: Nanos,
    operator: &Operator,
) -> Windows {
    let keep = if validation::has_validator(fields, response_time) { operator.keep } else { 0 };
    let mut windows = Windows {
        fresh,
        stale_while_revalidate: operator.stale_while_revalidate.unwrap_or(0),
        stale_if_error: operator.stale_if_error.unwrap_or(0),
        keep,
        always_validate: false,
        must_revalidate: false,
    };
    if operator.origin != Origin::Ignore {
        if let Some(own) = word.stale_while_revalidate {
            windows.stale_while_revalidate = own;
        }
        if let Some(own) = word.stale_if_error {
            windows.stale_if_error = own;
        }
        // RFC 9111 §5.2.2.10: s-maxage "incorporates the semantics of the proxy-revalidate response directive". Weir, in
        // `stricter`: "stale only within the backend's own windows".
        if word.s_maxage.is_some() {
            windows.must_revalidate = true;
            if operator.origin == Origin::Honour || word.stale_while_revalidate.is_none() {
                windows.stale_while_revalidate = 0;
            }
            if operator.origin == Origin::Honour || word.stale_if_error.is_none() {
                windows.stale_if_error = 0;
            }
        }
        // RFC 9111 §5.2.2.2: "once the response has become stale, a cache MUST NOT reuse that response to satisfy
        // another request until it has been successfully validated by the origin"; §5.2.2.8 for shared caches.
        if word.must_revalidate || word.proxy_revalidate {
            windows.must_revalidate = true;
            windows.stale_while_revalidate = 0;
            windows.stale_if_error = 0;
        }
        // RFC 9111 §4.2.4: prohibited "by a no-cache response directive" likewise.
        if reaches(&word.no_cache, fields) {
            windows.always_validate = true;
            windows.stale_while_revalidate = 0;
            windows.stale_if_error = 0;
        }
    }
    // Weir: server errors "are never served stale".
    if status >= 500 {
        windows.must_revalidate = true;
        windows.stale_while_revalidate = 0;
        windows.stale_if_error = 0;
    }
    windows
}
