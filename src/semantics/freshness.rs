//! Age and freshness arithmetic (RFC 9111 §4.2).
//!
//! All functions read one response's fields and the two moments between which it came; none decides
//! anything. What cannot be read counts against freshness, except `Age`, where RFC 9111 §5.1 asks
//! that an invalid value be ignored.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED, VIA};

use super::block::Lines;
use super::cache_control::{LONGEST, ResponseDirectives, delta_seconds};
use super::lists;
use super::timestamp::Timestamp;

/// No heuristic makes a response fresh for longer than this (RFC 9111 §4.2.2 leaves the bound to us).
pub const LONGEST_HEURISTIC: Duration = Duration::from_secs(24 * 60 * 60);

/// `corrected_initial_age` (RFC 9111 §4.2.3) from a response's `Date` and `Age`.
///
/// `corrected_age_value` alone is the RFC's rule; the more conservative `max` with `apparent_age` is
/// for paths with caches that set no `Age`. It is taken only where the response shows that it came
/// through an intermediary (`Via` or `Age`): a backend whose clock is behind would otherwise never be cached.
pub fn initial_age(response: &HeaderMap, request_time: Timestamp, response_time: Timestamp) -> Duration {
    let response_delay = response_time.since(request_time);
    let aged = response.contains_key(AGE);
    let age_value = if aged { age_value(response) } else { Duration::ZERO };
    let corrected_age_value = age_value.saturating_add(response_delay);
    let travelled = aged || response.contains_key(VIA);
    let apparent_age =
        if travelled { response_time.since(date_value(response, response_time)) } else { Duration::ZERO };
    corrected_age_value.max(apparent_age).min(LONGEST)
}

/// `age_value`: the first member of `Age`; zero when there is none or it is no number (RFC 9111 §5.1).
pub fn age_value(response: &HeaderMap) -> Duration {
    let lines = response.get_all(AGE).into_iter();
    let first = lines.flat_map(|line| lists::members(line.as_bytes())).next();
    first.and_then(delta_seconds).unwrap_or(Duration::ZERO)
}

/// `date_value`: `Date`, or the moment of receipt where there is none that can be read (RFC 9110 §6.6.1).
pub fn date_value(response: &impl Lines, response_time: Timestamp) -> Timestamp {
    response.lines(&DATE).next().and_then(Timestamp::from_line).unwrap_or(response_time)
}

/// `freshness_lifetime` as the backend states it (RFC 9111 §4.2.1): `s-maxage`, else `max-age`, else
/// `Expires` less `Date`. Beside a targeted field `Expires` does not count (RFC 9213 §2.2). `None` when it states nothing.
pub fn explicit_lifetime(
    response: &HeaderMap,
    directives: &ResponseDirectives,
    response_time: Timestamp,
) -> Option<Duration> {
    let expires = || expires_lifetime(response, response_time).filter(|_| !directives.targeted);
    directives.s_maxage.or(directives.max_age).or_else(expires)
}

/// `Expires` less `Date`. One that is no date (`0`) is in the past (RFC 9111 §5.3); of several the earliest counts.
fn expires_lifetime(response: &HeaderMap, response_time: Timestamp) -> Option<Duration> {
    let date = date_value(response, response_time);
    let lifetimes = response.get_all(EXPIRES).into_iter().map(|line| {
        Timestamp::from_field(line).map_or(Duration::ZERO, |expires| expires.since(date).min(LONGEST))
    });
    lifetimes.min()
}

/// A heuristic lifetime (RFC 9111 §4.2.2): a tenth of the time since `Last-Modified`, at most
/// [`LONGEST_HEURISTIC`]. `None` without a `Last-Modified` before `Date`, or with several.
pub fn heuristic_lifetime(response: &HeaderMap, response_time: Timestamp) -> Option<Duration> {
    let modified = super::sole(response, &LAST_MODIFIED).and_then(Timestamp::from_field)?;
    let unchanged = date_value(response, response_time).since(modified);
    Some((unchanged / 10).min(LONGEST_HEURISTIC)).filter(|lifetime| !lifetime.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp(784_111_777_000);

    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn headers(fields: Fields<'_>) -> HeaderMap {
        let pair = |(n, v): &(&str, &str)| {
            (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn ago(seconds: u64) -> String {
        Timestamp(NOW.0 - seconds * 1000).to_http_date()
    }

    #[test]
    fn ages() {
        let old = ago(100);
        let ahead = Timestamp(NOW.0 + 50_000).to_http_date();
        let table: [(Fields<'_>, u64); 14] = [
            (&[], 2),
            (&[("age", "7")], 9),
            (&[("age", "7, 900")], 9),
            (&[("age", "7"), ("age", "900")], 9),
            (&[("age", ""), ("age", "7")], 9),
            (&[("age", "-7")], 2),
            (&[("age", "7.5")], 2),
            (&[("age", "x"), ("age", "7")], 2),
            (&[("age", "99999999999999999999")], 1 << 31),
            (&[("date", &ahead), ("age", "0")], 2),
            (&[("date", &old), ("age", "7")], 100),
            (&[("date", &old), ("via", "1.1 edge")], 100),
            (&[("date", "junk"), ("via", "1.1 edge")], 2),
            // Straight from a backend whose clock is behind.
            (&[("date", &old)], 2),
        ];
        for (fields, expected) in table {
            let age = initial_age(&headers(fields), Timestamp(NOW.0 - 2000), NOW);
            assert_eq!(age, secs(expected), "{fields:?}");
        }
    }

    #[test]
    fn a_clock_that_steps_back_makes_no_age() {
        assert_eq!(initial_age(&HeaderMap::new(), Timestamp(NOW.0 + 5000), NOW), Duration::ZERO);
    }

    #[test]
    fn lifetimes_as_stated() {
        let date = ago(0);
        let later = Timestamp(NOW.0 + 60_000).to_http_date();
        let latest = Timestamp(NOW.0 + 90_000).to_http_date();
        let table: [(Fields<'_>, Option<u64>); 15] = [
            (&[], None),
            (&[("cache-control", "public")], None),
            (&[("cache-control", "max-age=5")], Some(5)),
            (&[("cache-control", "max-age=5, s-maxage=9")], Some(9)),
            (&[("cache-control", "max-age=500, s-maxage=x")], Some(0)),
            (&[("cache-control", "max-age=5"), ("expires", &later)], Some(5)),
            (&[("cache-control", "max-age=junk"), ("expires", &later)], Some(0)),
            (&[("date", &date), ("expires", &later)], Some(60)),
            (&[("expires", &later)], Some(60)),
            (&[("date", &date), ("expires", "Sunday, 06-Nov-94 08:50:37 GMT")], Some(60)),
            (&[("date", &date), ("expires", "Sun Nov  6 08:50:37 1994")], Some(60)),
            (&[("date", &date), ("expires", "0")], Some(0)),
            (&[("date", &later), ("expires", &date)], Some(0)),
            (&[("date", &date), ("expires", &latest), ("expires", &later)], Some(60)),
            (&[("date", &date), ("expires", &latest), ("expires", "-1")], Some(0)),
        ];
        for (fields, expected) in table {
            let map = headers(fields);
            let found = explicit_lifetime(&map, &ResponseDirectives::of(&map, &[]), NOW);
            assert_eq!(found, expected.map(secs), "{fields:?}");
        }
    }

    #[test]
    fn heuristics() {
        let year = ago(365 * 86_400);
        let table: [(Fields<'_>, Option<u64>); 7] = [
            (&[], None),
            (&[("last-modified", "junk")], None),
            (&[("last-modified", &year), ("last-modified", &ago(1000))], None),
            (&[("last-modified", &ago(1000))], Some(100)),
            (&[("last-modified", &ago(1000)), ("date", &ago(500))], Some(50)),
            (&[("last-modified", &ago(0))], None),
            (&[("last-modified", &year)], Some(86_400)),
        ];
        for (fields, expected) in table {
            assert_eq!(heuristic_lifetime(&headers(fields), NOW), expected.map(secs), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn arithmetic_never_panics(
            age in "[0-9,x -]{0,30}", date in ".{0,40}", from: u64, to: u64, old in 0..900_000_000u64,
        ) {
            let mut map = HeaderMap::new();
            for (name, text) in [(AGE, &age), (DATE, &date), (EXPIRES, &date), (LAST_MODIFIED, &ago(old % 700_000_000))] {
                if let Ok(value) = HeaderValue::from_str(text) {
                    map.append(name, value);
                }
            }
            let initial = initial_age(&map, Timestamp(from), Timestamp(to));
            prop_assert!(initial <= LONGEST);
            let _ = explicit_lifetime(&map, &ResponseDirectives::of(&map, &[]), Timestamp(to));
            let _ = heuristic_lifetime(&map, Timestamp(to));
        }
    }
}
