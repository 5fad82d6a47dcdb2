//! Dates, `Age`, `Expires` and the arithmetic of freshness: storing and reusing (RFC 9111 §4.2, RFC 9110 §5.6.7).
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use weir::semantics::cache_control::{LONGEST, ResponseDirectives};
use weir::semantics::freshness::{
    LONGEST_HEURISTIC, age_value, date_value, explicit_lifetime, heuristic_lifetime, initial_age,
};
use weir::semantics::reuse::{Reuse, decide, decide_stale, on_error, on_error_stale};
use weir::semantics::stored::StoredResponse;
use weir::semantics::storing::{NotStored, OriginMode, Terms, admit};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::Selecting;
use weir_fuzz::{fields, numbers, sections};

fuzz_target!(|data: &[u8]| {
    let [head, request, response] = sections(data);
    let ([sent, delay, ttl, mode, status, waits, waited], _) = numbers(head);
    let (request, response) = (fields(request), fields(response));
    let request_time = Timestamp(sent);
    let response_time = request_time.plus(Duration::from_millis(delay));
    dates(&response, response_time);
    ages(&response, request_time, response_time, delay);
    let terms = Terms {
        ttl: (ttl != 0).then(|| Duration::from_secs(ttl)),
        negative_ttl: Some(Duration::from_secs(ttl / 2)),
        stale_while_revalidate: Some(Duration::from_secs(ttl % 7)),
        stale_if_error: Some(Duration::from_secs(ttl % 11)),
        origin: [OriginMode::Stricter, OriginMode::Ignore, OriginMode::Honour][usize::from(mode as u8) % 3],
        per_subject: mode & 8 != 0,
        store_errors: mode & 16 != 0,
        ..Terms::default()
    };
    let status = StatusCode::from_u16(u16::try_from(status).unwrap_or(200)).unwrap_or(StatusCode::OK);
    let exchange = Exchange { request, status, response, request_time, response_time, terms };
    if let Some(stored) = exchange.store() {
        exchange.reuse(&stored, Duration::from_millis(waits), Duration::from_millis(waited));
    }
});

fn dates(response: &HeaderMap, response_time: Timestamp) {
    for (_, value) in response {
        let Some(date) = Timestamp::from_field(value) else { continue };
        assert_eq!(date.0 % 1000, 0);
        assert_eq!(Timestamp::from_http_date(&date.to_http_date()), Some(date), "{value:?}");
        let shouted = value.to_str().expect("a date").to_uppercase();
        assert_eq!(Timestamp::from_http_date(&shouted), Some(date), "{value:?}");
    }
    let again = Timestamp::from_http_date(&response_time.to_http_date()).expect("an IMF-fixdate");
    assert_eq!(again.seconds(), response_time.seconds().min(253_402_300_799));
    let _ = date_value(response, response_time);
}

fn ages(response: &HeaderMap, request_time: Timestamp, response_time: Timestamp, delay: u64) {
    let age = initial_age(response, request_time, response_time);
    assert!(age_value(response) <= LONGEST && age <= LONGEST);
    assert!(age >= age_value(response));
    // The later it came, the older it is.
    let later = response_time.plus(Duration::from_millis(delay));
    assert!(initial_age(response, request_time, later) >= age);
    let directives = ResponseDirectives::of(response, &[]);
    if let Some(lifetime) = explicit_lifetime(response, &directives, response_time) {
        assert!(lifetime <= LONGEST);
    }
    if let Some(lifetime) = heuristic_lifetime(response, response_time) {
        assert!(!lifetime.is_zero() && lifetime <= LONGEST_HEURISTIC);
    }
}

struct Exchange {
    request: HeaderMap,
    status: StatusCode,
    response: HeaderMap,
    request_time: Timestamp,
    response_time: Timestamp,
    terms: Terms,
}

impl Exchange {
    fn admit(&self, response: &HeaderMap) -> Result<weir::semantics::stored::Lifetimes, NotStored> {
        let (sent, came) = (self.request_time, self.response_time);
        admit(&Method::GET, &self.request, self.status, response, sent, came, &self.terms)
    }

    fn store(&self) -> Option<StoredResponse> {
        let terms = &self.terms;
        let mut forbidden = self.response.clone();
        forbidden.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let targeted = ResponseDirectives::of(&forbidden, &terms.target_list).targeted;
        if terms.origin != OriginMode::Ignore && !targeted {
            // RFC 9111 §5.2.2.3: with must-understand it is the status that decides.
            let understood = ResponseDirectives::of(&forbidden, &[]).must_understand;
            assert!(understood || self.admit(&forbidden).is_err());
        }
        forbidden.append(SET_COOKIE, HeaderValue::from_static("a=b"));
        assert!(self.admit(&forbidden).is_err());
        let lifetimes = self.admit(&self.response).ok()?;
        let (sent, came) = (self.request_time, self.response_time);
        let stored = StoredResponse::new(
            self.status,
            self.response.clone(),
            Bytes::new(),
            sent,
            came,
            lifetimes,
            Selecting::default(),
        );
        assert!(!stored.is_gone(came), "stored, and gone at once");
        assert_eq!(stored.initial_age(), initial_age(&self.response, sent, came));
        let said = ResponseDirectives::of(&self.response, &terms.target_list);
        let explicit = explicit_lifetime(&self.response, &said, came);
        match (terms.origin, explicit) {
            (OriginMode::Honour, Some(explicit)) => assert_eq!(lifetimes.fresh, explicit),
            (OriginMode::Stricter, Some(explicit)) => assert!(lifetimes.fresh <= explicit),
            _ => {}
        }
        if let (OriginMode::Stricter, Some(ttl), false) =
            (terms.origin, terms.ttl, matches!(self.status.as_u16(), 404 | 410))
        {
            assert!(lifetimes.fresh <= ttl);
        }
        Some(stored)
    }

    fn reuse(&self, stored: &StoredResponse, waits: Duration, waited: Duration) {
        let first = self.response_time.plus(waits);
        let second = first.plus(waited);
        let at = |now| decide(stored, &self.request, now, &self.terms);
        let (earlier, later) = (at(first), at(second));
        // Time makes nothing usable that was not.
        assert!(serves(earlier) || !serves(later), "{earlier:?}, then {later:?}");
        assert!(is_fresh(earlier) || !is_fresh(later));
        assert!(stored.current_age(first) <= stored.current_age(second));
        assert!(!stored.is_gone(first) || stored.is_gone(second) && later == Reuse::Gone);
        for moment in [first, second] {
            let decided = at(moment);
            if let Reuse::Fresh { age } = decided {
                assert!(age < stored.lifetimes().fresh && !stored.lifetimes().always_validate);
            }
            let stale = decide_stale(stored, &self.request, moment, &self.terms);
            assert!(
                !is_fresh(stale) && (!serves(stale) || !stored.lifetimes().stale_while_revalidate.is_zero())
            );
            if on_error_stale(stored, &self.request, moment, &self.terms) {
                assert!(on_error(stored, &self.request, moment, &self.terms));
            }
            let mut asks = self.request.clone();
            asks.append(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            assert!(!serves(decide(stored, &asks, moment, &self.terms)));
        }
    }
}

fn serves(reuse: Reuse) -> bool {
    !matches!(reuse, Reuse::MustValidate(_) | Reuse::Gone)
}

fn is_fresh(reuse: Reuse) -> bool {
    matches!(reuse, Reuse::Fresh { .. })
}
