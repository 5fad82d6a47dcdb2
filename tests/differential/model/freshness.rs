//! Age and freshness (RFC 9111 §4.2).

use super::cache_control::{LONGEST, ResponseWord, delta_seconds};
use super::message::{Fields, first, has, lines, sole, split_list};
use super::{Nanos, SECOND, Stored, dates};

/// RFC 9111 §5.1: "a cache encountering a message with a list-based Age field value SHOULD use the first member of the
/// field value, discarding subsequent ones. If the field value … is invalid …, a cache SHOULD ignore the field."
pub fn age_value(fields: &Fields) -> Nanos {
    let mut members = Vec::new();
    for line in lines(fields, "age") {
        members.extend(split_list(line, true).all());
    }
    match members.first() {
        Some(first) => delta_seconds(first).unwrap_or(0),
        None => 0,
    }
}

/// RFC 9110 §6.6.1: "A recipient with a clock that receives a response message without a Date header field MUST record
/// the time it was received". Weir: likewise "where there is none that can be read". Of several the first counts, as RFC
/// 9111 §4.2.1 has it for doubled values.
pub fn date_value(fields: &Fields, response_time: Nanos) -> Nanos {
    match first(fields, "date").and_then(dates::parse) {
        Some(date) => date,
        None => response_time,
    }
}

/// RFC 9111 §4.2.3.
pub fn corrected_initial_age(fields: &Fields, request_time: Nanos, response_time: Nanos) -> Nanos {
    // "If the result is negative, the result is replaced by zero."
    let mut apparent_age = response_time - date_value(fields, response_time);
    if apparent_age < 0 {
        apparent_age = 0;
    }
    // The clock may be set back in between; then nothing is known of the delay.
    let mut response_delay = response_time - request_time;
    if response_delay < 0 {
        response_delay = 0;
    }
    let corrected_age_value = age_value(fields) + response_delay;
    // "In circumstances where very old cache implementations … are present, corrected_initial_age can be calculated
    // more conservatively". Weir: "only where the response shows that it came through an intermediary (`Via` or `Age`)".
    if has(fields, "via") || has(fields, "age") {
        if apparent_age > corrected_age_value {
            return apparent_age.min(LONGEST);
        }
    }
    // RFC 9111 §1.2.2: "or if any of its subsequent calculations overflows, the cache MUST consider the value to be
    // 2147483648 (2^31) or the greatest positive integer it can conveniently represent".
    corrected_age_value.min(LONGEST)
}

/// RFC 9111 §4.2.3: "current_age = corrected_initial_age + resident_time". A clock set back makes nothing younger.
pub fn current_age(stored: &Stored, now: Nanos) -> Nanos {
    let mut resident_time = now - stored.response_time;
    if resident_time < 0 {
        resident_time = 0;
    }
    stored.initial_age + resident_time
}

/// RFC 9111 §4.2.1: "using the first match".
pub fn explicit_lifetime(fields: &Fields, word: &ResponseWord, response_time: Nanos) -> Option<Nanos> {
    // "If the cache is shared and the s-maxage response directive is present, use its value".
    if word.s_maxage.is_some() {
        return word.s_maxage;
    }
    // "If the max-age response directive is present, use its value".
    if word.max_age.is_some() {
        return word.max_age;
    }
    // RFC 9213 §2.2: "it MUST ignore the Cache-Control and Expires header fields in that response".
    if word.targeted {
        return None;
    }
    // "If the Expires response header field is present, use its value minus the value of the Date response header
    // field (using the time the message was received if it is not present".
    let mut earliest: Option<Nanos> = None;
    for line in lines(fields, "expires") {
        let lifetime = match dates::parse(line) {
            // A response cannot be fresh for less than no time.
            Some(expires) => (expires - date_value(fields, response_time)).clamp(0, LONGEST),
            // RFC 9111 §5.3: "A cache recipient MUST interpret invalid date formats, especially the value "0", as
            // representing a time in the past".
            None => 0,
        };
        // Weir: "of several the earliest counts".
        earliest = Some(earliest.map_or(lifetime, |known| known.min(lifetime)));
    }
    earliest
}

/// RFC 9111 §4.2.2: "a heuristic expiration value that is no more than some fraction of the interval since that time. A
/// typical setting of this fraction might be 10%." Weir: "at most 24 hours; none without a `Last-Modified` before `Date`".
pub fn heuristic_lifetime(fields: &Fields, response_time: Nanos) -> Option<Nanos> {
    let last_modified = sole(fields, "last-modified").and_then(dates::parse)?;
    let interval = date_value(fields, response_time) - last_modified;
    if interval <= 0 {
        return None;
    }
    Some((interval / 10).min(24 * 3600 * SECOND))
}
