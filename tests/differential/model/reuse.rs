//! May this stored response answer this request now? (RFC 9111 §4, §4.2.4, RFC 5861)

use super::cache_control::{RequestWord, request_word};
use super::freshness::current_age;
use super::message::Fields;
use super::storing::gone_after;
use super::{Nanos, Operator, Stored};

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fresh,
    WhileRevalidate,
    ClientAcceptsStale,
    /// With every reason there is.
    MustValidate(Vec<&'static str>),
    Gone,
}

/// What the client says, where the operator lets it: RFC 9111 §5.2.1, request directives "are advisory; caches MAY
/// implement them, but are not required to".
fn client(request: &Fields, operator: &Operator) -> RequestWord {
    // Weir: "Client `no-cache`/`max-age` request directives are honoured" unless `client_refresh = false`: then none is
    // that says something about reuse.
    if operator.client_refresh { request_word(request) } else { RequestWord::default() }
}

/// RFC 9111 §4: "When presented with a request, a cache MUST NOT reuse a stored response unless".
pub fn decide(stored: &Stored, request: &Fields, now: Nanos, operator: &Operator) -> Verdict {
    let word = client(request, operator);
    let (age, windows) = (current_age(stored, now), &stored.windows);
    if age >= gone_after(windows) {
        return Verdict::Gone;
    }
    // RFC 9111 §4.2: "response_is_fresh = (freshness_lifetime > current_age)".
    let fresh = windows.fresh > age;
    let mut reasons = Vec::new();
    // RFC 9111 §4: "the stored response does not contain the no-cache directive, unless it is successfully validated".
    if windows.always_validate {
        reasons.push("response-no-cache");
    }
    // RFC 9111 §5.2.1.4: "the client prefers a stored response not be used to satisfy the request without successful
    // validation on the origin server".
    if word.no_cache {
        reasons.push("request-asks");
    }
    // RFC 9111 §5.2.1.1: "the client prefers a response whose age is less than or equal to the specified number of
    // seconds". Weir: `max-age=0` asks for the upstream even within the millisecond.
    if let Some(max_age) = word.max_age
        && (age > max_age || max_age == 0)
    {
        reasons.push("request-asks");
    }
    // RFC 9111 §5.2.1.3: "a response whose freshness lifetime is no less than its current age plus the specified time".
    if let Some(min_fresh) = word.min_fresh
        && windows.fresh < age + min_fresh
    {
        reasons.push("request-asks");
    }
    if fresh && reasons.is_empty() {
        return Verdict::Fresh;
    }
    if fresh {
        return Verdict::MustValidate(reasons);
    }
    reasons.push("stale");
    // RFC 9111 §5.2.1.1: "Unless the max-stale request directive is also present, the client does not wish to receive a
    // stale response." §5.2.1.3: who sends min-fresh "wants a response that will still be fresh".
    // §5.2.1.2: "by no more than the specified number of seconds". Weir: "whoever else would allow it".
    let refuses_stale = word.max_age.is_some() && word.max_stale.is_none()
        || word.min_fresh.is_some()
        || word.max_stale.is_some_and(|max_stale| age - windows.fresh > max_stale);
    if reasons.len() > 1 || refuses_stale {
        return Verdict::MustValidate(reasons);
    }
    // RFC 5861 §3: "caches MAY serve the response … after it becomes stale, up to the indicated number of seconds".
    if age < windows.fresh + windows.stale_while_revalidate {
        return Verdict::WhileRevalidate;
    }
    // RFC 9111 §5.2.1.2: "the client will accept a response that has exceeded its freshness lifetime by no more than the
    // specified number of seconds". §4.2.4: not where it is prohibited.
    if let Some(max_stale) = word.max_stale
        && !windows.must_revalidate
        && age - windows.fresh <= max_stale
    {
        return Verdict::ClientAcceptsStale;
    }
    Verdict::MustValidate(reasons)
}

/// Weir: "[`decide`] for a response whose freshness has ended before its time: nothing but its own leave to be served
/// while it is revalidated lets it be used, and that only within the windows that its age leaves open."
pub fn decide_stale(stored: &Stored, request: &Fields, now: Nanos, operator: &Operator) -> Verdict {
    let (age, windows) = (current_age(stored, now), &stored.windows);
    if age >= gone_after(windows) {
        return Verdict::Gone;
    }
    let word = client(request, operator);
    let mut reasons = vec!["stale"];
    if windows.always_validate {
        reasons.push("response-no-cache");
    }
    if word.no_cache || word.max_age.is_some() || word.min_fresh.is_some() {
        reasons.push("request-asks");
    }
    let refuses = word.no_cache
        || word.min_fresh.is_some()
        || word.max_age.is_some_and(|max_age| word.max_stale.is_none() || age > max_age || max_age == 0)
        || word.max_stale.is_some_and(|max_stale| age - windows.fresh > max_stale);
    let window = windows.stale_while_revalidate;
    if !windows.always_validate && !refuses && window > 0 && age < windows.fresh + window {
        return Verdict::WhileRevalidate;
    }
    Verdict::MustValidate(reasons)
}

/// RFC 5861 §4: "when an error is encountered, a cached stale response MAY be used to satisfy the request, regardless of
/// other freshness information".
///
/// Weir: "The client's `max-age` and `min-fresh` do not count then; its `no-cache` does, and its own `stale-if-error`
/// widens the window unless the backend forbids staleness."
pub fn on_error(stored: &Stored, request: &Fields, now: Nanos, operator: &Operator) -> bool {
    stands_in(stored, request, now, operator, false)
}

/// Weir: "only a window for errors lets it be used".
pub fn on_error_stale(stored: &Stored, request: &Fields, now: Nanos, operator: &Operator) -> bool {
    stands_in(stored, request, now, operator, true)
}

fn stands_in(stored: &Stored, request: &Fields, now: Nanos, operator: &Operator, softened: bool) -> bool {
    let word = client(request, operator);
    let (age, windows) = (current_age(stored, now), &stored.windows);
    // RFC 9111 §4: not without validation.
    if windows.always_validate || word.no_cache {
        return false;
    }
    // Weir: "The age past which nothing can be done with the entry any more", whatever the client would still take.
    if age >= gone_after(windows) {
        return false;
    }
    let mut window = windows.stale_if_error;
    if !windows.must_revalidate
        && let Some(own) = word.stale_if_error
    {
        window = window.max(own);
    }
    if softened && window == 0 {
        return false;
    }
    age < windows.fresh + window
}

/// RFC 5861 §4: "an error is any situation that would result in a 500, 502, 503, or 504 HTTP response status code being
/// returned".
pub fn is_error(status: u16) -> bool {
    [500, 502, 503, 504].contains(&status)
}

/// RFC 9111 §5.2.1.7: "either respond using a stored response … or respond with a 504".
pub fn only_if_cached(request: &Fields) -> bool {
    request_word(request).only_if_cached
}
