//! May this stored response answer this request now? (RFC 9111 §4, RFC 5861)
//!
//! Key, selecting fields and coherence have been checked before; here only time and directives count.
//! A client's conditionals and ranges come after, when something is to be sent.

use std::time::Duration;

use http::HeaderMap;

use super::cache_control::RequestDirectives;
use super::stored::StoredResponse;
use super::storing::Terms;
use super::timestamp::Timestamp;

/// What may be done with a stored response whose key and selecting fields match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Serve it.
    Fresh {
        /// `current_age`.
        age: Duration,
    },
    /// Serve it stale, and refresh it behind.
    WhileRevalidate {
        /// `current_age`.
        age: Duration,
    },
    /// Serve it stale: the client itself said so (`max-stale`).
    ClientAcceptsStale {
        /// `current_age`.
        age: Duration,
    },
    /// It must be validated (or fetched anew) first.
    MustValidate(Validate),
    /// Every window has closed.
    Gone,
}

/// Why a validation is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validate {
    /// Its freshness is over.
    Stale,
    /// The response says `no-cache`.
    ResponseNoCache,
    /// The request says `no-cache`, `max-age`, `min-fresh` or `Pragma: no-cache`.
    RequestAsks,
}

/// Decides. `request` are the client's fields.
pub fn decide(stored: &StoredResponse, request: &HeaderMap, now: Timestamp, terms: &Terms) -> Reuse {
    let age = stored.current_age(now);
    let lifetimes = &stored.lifetimes();
    if age >= lifetimes.gone_after() {
        return Reuse::Gone;
    }
    if lifetimes.always_validate {
        return Reuse::MustValidate(Validate::ResponseNoCache);
    }
    let client = client_directives(request, terms);
    if client.no_cache {
        return Reuse::MustValidate(Validate::RequestAsks);
    }
    if age < lifetimes.fresh {
        let left = lifetimes.fresh - age;
        return match content_with(&client, age, left) {
            true => Reuse::Fresh { age },
            false => Reuse::MustValidate(Validate::RequestAsks),
        };
    }
    stale(stored, &client, age)
}

/// [`decide`] for a response whose freshness has ended before its time: nothing but its own leave to be served while it
/// is revalidated lets it be used, and that only within the windows that its age leaves open. Never `Fresh`, and never
/// `ClientAcceptsStale`: for how long it has been stale is not known.
pub fn decide_stale(stored: &StoredResponse, request: &HeaderMap, now: Timestamp, terms: &Terms) -> Reuse {
    let age = stored.current_age(now);
    let lifetimes = &stored.lifetimes();
    if age >= lifetimes.gone_after() {
        return Reuse::Gone;
    }
    if lifetimes.always_validate {
        return Reuse::MustValidate(Validate::ResponseNoCache);
    }
    let client = client_directives(request, terms);
    if client.no_cache {
        return Reuse::MustValidate(Validate::RequestAsks);
    }
    let window = lifetimes.stale_while_revalidate;
    let open = !window.is_zero() && age < lifetimes.fresh.saturating_add(window);
    if open && takes_stale(&client, age, age.saturating_sub(lifetimes.fresh)) {
        return Reuse::WhileRevalidate { age };
    }
    Reuse::MustValidate(Validate::Stale)
}

/// Whether a fresh response is fresh enough for the client (RFC 9111 §5.2.1.1, §5.2.1.3). `max-age=0` asks for
/// the upstream even within the millisecond: it is how browsers reload.
fn content_with(client: &RequestDirectives, age: Duration, left: Duration) -> bool {
    client.max_age.is_none_or(|limit| age <= limit && !limit.is_zero())
        && client.min_fresh.is_none_or(|wanted| left >= wanted)
}

/// Past freshness: whose leave is there to reuse it? (RFC 9111 §4.2.4, RFC 5861 §3)
fn stale(stored: &StoredResponse, client: &RequestDirectives, age: Duration) -> Reuse {
    let lifetimes = &stored.lifetimes();
    let staleness = age.saturating_sub(lifetimes.fresh);
    if !takes_stale(client, age, staleness) {
        return Reuse::MustValidate(Validate::Stale);
    }
    if staleness < lifetimes.stale_while_revalidate {
        return Reuse::WhileRevalidate { age };
    }
    // By how much was asked above.
    if client.max_stale.is_some() && !lifetimes.must_revalidate {
        return Reuse::ClientAcceptsStale { age };
    }
    Reuse::MustValidate(Validate::Stale)
}

/// Who limits the age without max-stale, or wants time left, does not take a stale response (RFC 9111 §5.2.1.1), and who
/// says how stale it may be takes no staler one, whoever else would allow it.
fn takes_stale(client: &RequestDirectives, age: Duration, staleness: Duration) -> bool {
    let wants_fresh = client.min_fresh.is_some() || (client.max_age.is_some() && client.max_stale.is_none());
    let too_old = client.max_age.is_some_and(|limit| age > limit || limit.is_zero());
    let too_stale = client.max_stale.is_some_and(|limit| staleness > limit);
    !wants_fresh && !too_old && !too_stale
}

/// Whether the stored response may stand in for a failed fetch (RFC 5861 §4): a connection error, a
/// timeout, or a 500, 502, 503, 504 from the upstream.
///
/// The client's `max-age` and `min-fresh` do not count then ("regardless of other freshness information");
/// its `no-cache` does, and its own `stale-if-error` widens the window unless the backend forbids staleness.
pub fn on_error(stored: &StoredResponse, request: &HeaderMap, now: Timestamp, terms: &Terms) -> bool {
    error_window(stored, request, now, terms).is_some()
}

/// [`on_error`] for a response whose freshness has ended before its time: only a window for errors lets it be used.
pub fn on_error_stale(stored: &StoredResponse, request: &HeaderMap, now: Timestamp, terms: &Terms) -> bool {
    error_window(stored, request, now, terms).is_some_and(|window| !window.is_zero())
}

/// The window in which the response may stand in for a failed fetch; `None` = it is not open now.
fn error_window(
    stored: &StoredResponse,
    request: &HeaderMap,
    now: Timestamp,
    terms: &Terms,
) -> Option<Duration> {
    let age = stored.current_age(now);
    let lifetimes = &stored.lifetimes();
    let client = client_directives(request, terms);
    if lifetimes.always_validate || client.no_cache || age >= lifetimes.gone_after() {
        return None;
    }
    let by_client = client.stale_if_error.filter(|_| !lifetimes.must_revalidate).unwrap_or_default();
    let window = lifetimes.stale_if_error.max(by_client);
    (age < lifetimes.fresh.saturating_add(window)).then_some(window)
}

/// Whether a failed upstream status is one that [`on_error`] is about.
pub fn is_error(status: http::StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// `only-if-cached` (RFC 9111 §5.2.1.7).
pub fn only_if_cached(request: &HeaderMap) -> bool {
    RequestDirectives::of(request).only_if_cached
}

/// What the client says about reuse, where the operator lets it.
fn client_directives(request: &HeaderMap, terms: &Terms) -> RequestDirectives {
    if terms.client_refresh { RequestDirectives::of(request) } else { RequestDirectives::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::semantics::stored::{Lifetimes, Unpacked};
    use crate::semantics::vary::Selecting;
    use bytes::Bytes;
    use http::header::{CACHE_CONTROL, PRAGMA};
    use http::{HeaderValue, StatusCode};
    use proptest::prelude::*;

    /// Fresh for 60 s, then windows: 10 s while revalidating, 20 s on error, 30 s to validate.
    fn stored() -> StoredResponse {
        let lifetimes = Lifetimes {
            fresh: secs(60),
            stale_while_revalidate: secs(10),
            stale_if_error: secs(20),
            keep: secs(30),
            ..Lifetimes::default()
        };
        Unpacked {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            coded: None,
            response_time: Timestamp(0),
            initial_age: Duration::ZERO,
            lifetimes,
            selecting: Selecting::default(),
        }
        .pack()
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn saying(line: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !line.is_empty() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn at(seconds: u64, line: &str) -> Reuse {
        decide(&stored(), &saying(line), Timestamp(seconds * 1000), &Terms::default())
    }

    const STALE: Reuse = Reuse::MustValidate(Validate::Stale);
    const ASKED: Reuse = Reuse::MustValidate(Validate::RequestAsks);

    #[test]
    fn windows_in_their_order() {
        let fresh = |n| Reuse::Fresh { age: secs(n) };
        let behind = |n| Reuse::WhileRevalidate { age: secs(n) };
        for (seconds, expected) in [
            (0, fresh(0)),
            (59, fresh(59)),
            (60, behind(60)),
            (69, behind(69)),
            (70, STALE),
            (89, STALE),
            (90, Reuse::Gone),
        ] {
            assert_eq!(at(seconds, ""), expected, "{seconds} s");
        }
    }

    #[test]
    fn what_clients_may_ask() {
        let table = [
            (10, "no-cache", ASKED),
            (10, "max-age=9", ASKED),
            (10, "max-age=10", Reuse::Fresh { age: secs(10) }),
            (0, "max-age=0", ASKED),
            (10, "max-age=junk", ASKED),
            (10, "min-fresh=50", Reuse::Fresh { age: secs(10) }),
            (10, "min-fresh=51", ASKED),
            (10, "max-stale", Reuse::Fresh { age: secs(10) }),
            (65, "max-age=100", STALE),
            (65, "min-fresh=0", STALE),
            (65, "max-age=100, max-stale", Reuse::WhileRevalidate { age: secs(65) }),
            (65, "max-stale=5", Reuse::WhileRevalidate { age: secs(65) }),
            (65, "max-stale=4", STALE),
            (75, "max-stale", Reuse::ClientAcceptsStale { age: secs(75) }),
            (75, "max-stale=15", Reuse::ClientAcceptsStale { age: secs(75) }),
            (75, "max-stale=14", STALE),
            (75, "max-age=100, max-stale", Reuse::ClientAcceptsStale { age: secs(75) }),
            (75, "max-age=70, max-stale", STALE),
            (90, "max-stale", Reuse::Gone),
        ];
        for (seconds, line, expected) in table {
            assert_eq!(at(seconds, line), expected, "{line} at {seconds} s");
        }
        let mut pragma = HeaderMap::new();
        pragma.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        assert_eq!(decide(&stored(), &pragma, Timestamp(0), &Terms::default()), ASKED);
    }

    #[test]
    fn the_operator_may_shut_the_client_up() {
        let terms = Terms { client_refresh: false, ..Terms::default() };
        for line in ["no-cache", "max-age=0", "min-fresh=100"] {
            let decided = decide(&stored(), &saying(line), Timestamp(10_000), &terms);
            assert_eq!(decided, Reuse::Fresh { age: secs(10) }, "{line}");
        }
        assert_eq!(decide(&stored(), &saying("max-stale"), Timestamp(75_000), &terms), STALE);
        assert!(on_error(&stored(), &saying("no-cache"), Timestamp(75_000), &terms));
    }

    #[test]
    fn what_the_backend_forbids_nobody_allows() {
        let mut strict = stored();
        strict.change(|parts| parts.lifetimes.must_revalidate = true);
        strict.change(|parts| parts.lifetimes.stale_while_revalidate = Duration::ZERO);
        strict.change(|parts| parts.lifetimes.stale_if_error = Duration::ZERO);
        let decided =
            |s: &StoredResponse, line, ms| decide(s, &saying(line), Timestamp(ms), &Terms::default());
        assert_eq!(decided(&strict, "max-stale", 60_000), STALE);
        assert!(!on_error(&strict, &saying("stale-if-error=100"), Timestamp(60_000), &Terms::default()));
        assert!(on_error(&strict, &saying(""), Timestamp(59_000), &Terms::default()));
        let mut validated = stored();
        validated.change(|parts| parts.lifetimes.always_validate = true);
        assert_eq!(decided(&validated, "max-stale", 0), Reuse::MustValidate(Validate::ResponseNoCache));
        assert!(!on_error(&validated, &saying(""), Timestamp(0), &Terms::default()));
        assert_eq!(decided(&validated, "", 90_000), Reuse::Gone);
    }

    #[test]
    fn stand_ins_for_errors() {
        for (seconds, line, expected) in [
            (10, "", true),
            (10, "no-cache", false),
            (10, "max-age=0", true),
            (79, "", true),
            (79, "min-fresh=9", true),
            (80, "", false),
            (80, "stale-if-error=25", true),
            (85, "stale-if-error=25", false),
            (95, "stale-if-error=100", false),
        ] {
            let decided = on_error(&stored(), &saying(line), Timestamp(seconds * 1000), &Terms::default());
            assert_eq!(decided, expected, "{line} at {seconds} s");
        }
        assert!([500, 502, 503, 504].iter().all(|s| is_error(StatusCode::from_u16(*s).unwrap())));
        assert!([200, 404, 429, 501].iter().all(|s| !is_error(StatusCode::from_u16(*s).unwrap())));
    }

    #[test]
    fn what_was_made_stale_before_its_time_needs_leave() {
        let at = |stored: &StoredResponse, seconds: u64, line| {
            decide_stale(stored, &saying(line), Timestamp(seconds * 1000), &Terms::default())
        };
        let behind = |n| Reuse::WhileRevalidate { age: secs(n) };
        for (seconds, line, expected) in [
            (0, "", behind(0)),
            (59, "", behind(59)),
            (69, "", behind(69)),
            (70, "", STALE),
            (10, "max-age=30", STALE),
            (10, "min-fresh=1", STALE),
            (10, "no-cache", ASKED),
            (75, "max-stale", STALE),
            (90, "", Reuse::Gone),
        ] {
            assert_eq!(at(&stored(), seconds, line), expected, "{line} at {seconds} s");
        }
        let mut without = stored();
        without.change(|parts| parts.lifetimes.stale_while_revalidate = Duration::ZERO);
        without.change(|parts| parts.lifetimes.stale_if_error = Duration::ZERO);
        assert_eq!(at(&without, 0, ""), STALE, "fresh by its age, and no leave");
        assert_eq!(at(&without, 0, "max-stale"), STALE);
        let on_error =
            |s: &StoredResponse, line| on_error_stale(s, &saying(line), Timestamp(10_000), &Terms::default());
        assert!(on_error(&stored(), "") && !on_error(&without, ""));
        assert!(on_error(&without, "stale-if-error=100"));
    }

    #[test]
    fn only_if_cached_is_seen() {
        assert!(only_if_cached(&saying("max-stale, Only-If-Cached")));
        assert!(!only_if_cached(&saying("max-stale")));
    }

    proptest! {
        #[test]
        fn deciding_never_panics_and_time_only_takes_away(
            line in "((max-age|min-fresh|max-stale|no-cache)?=?[0-9]{0,12},?){0,4}", a: u64, b: u64,
            fresh: u64, keep: u64,
        ) {
            let mut stored = stored();
            stored.change(|parts| parts.lifetimes.fresh = Duration::from_millis(fresh));
            stored.change(|parts| parts.lifetimes.keep = Duration::from_millis(keep));
            let request = saying(&line);
            let (early, late) = (Timestamp(a.min(b)), Timestamp(a.max(b)));
            let is_fresh = |at| matches!(decide(&stored, &request, at, &Terms::default()), Reuse::Fresh { .. });
            prop_assert!(is_fresh(early) || !is_fresh(late));
            let stands_in = |at| on_error(&stored, &request, at, &Terms::default());
            prop_assert!(stands_in(early) || !stands_in(late));
        }
    }
}
