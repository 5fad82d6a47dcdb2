//! Byte ranges (RFC 9110 §14).

use super::message::{Fields, sole, trim};
use super::validation::if_range_holds;
use super::{Request, Stored};

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Whole,
    /// First and last position of each part.
    Parts(Vec<(usize, usize)>),
    Unsatisfiable,
}

/// Weir: "A request for more ranges than this gets the whole".
const MOST_RANGES: usize = 16;

/// What a request's `Range` makes of a stored response.
pub fn answer(request: &Request, stored: &Stored) -> Answer {
    // RFC 9110 §14.2: "GET is the only method for which range handling is defined".
    if request.method != "GET" {
        return Answer::Whole;
    }
    // "only if the result in absence of the Range header field would be a 200 (OK) response".
    if stored.status != 200 {
        return Answer::Whole;
    }
    let Some(specs) = specs(&request.fields) else { return Answer::Whole };
    // "A recipient of an If-Range header field MUST ignore the Range header field if the If-Range condition evaluates to
    // false."
    if !if_range_holds(&request.fields, stored) {
        return Answer::Whole;
    }
    let length = stored.body.len() as u128;
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for spec in specs {
        match spec {
            Spec::From(first, last) => {
                // RFC 9110 §14.1.2: satisfiable is "an int-range with a first-pos that is less than the current length".
                if first < length {
                    // "If the last-pos value is absent, or if the value is greater than or equal to the current length of
                    // the representation data, the byte range is interpreted as the remainder".
                    let last = last.unwrap_or(u128::MAX).min(length - 1);
                    parts.push((first as usize, last as usize));
                }
            }
            Spec::Suffix(count) => {
                // "When a selected representation has zero length, the only satisfiable form of range-spec in a GET request
                // is a suffix-range with a non-zero suffix-length." No Content-Range can say that; RFC 9110 §14.2: "A server
                // that supports range requests MAY ignore a Range header field when the selected representation has no
                // content".
                if count > 0 && length == 0 {
                    return Answer::Whole;
                }
                // "a suffix-range with a non-zero suffix-length".
                if count > 0 {
                    // "If the selected representation is shorter than the specified suffix-length, the entire
                    // representation is used."
                    parts.push(((length - count.min(length)) as usize, length as usize - 1));
                }
            }
        }
    }
    if parts.is_empty() {
        return Answer::Unsatisfiable;
    }
    Answer::Parts(coalesced(parts))
}

enum Spec {
    From(u128, Option<u128>),
    Suffix(u128),
}

/// `None` for what is ignored: no field or several, another unit, an invalid member.
fn specs(request: &Fields) -> Option<Vec<Spec>> {
    let (unit, set) = sole(request, "range")?.split_once('=')?;
    // RFC 9110 §14.1: "Range unit names are case-insensitive". Weir: space beside it does no harm.
    if !trim(unit).eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for member in set.split(',') {
        let member = trim(member);
        // RFC 9110 §5.6.1.2: empty elements are ignored.
        if member.is_empty() {
            continue;
        }
        let (first, last) = member.split_once('-')?;
        if first.is_empty() {
            specs.push(Spec::Suffix(position(last)?));
        } else {
            let first = position(first)?;
            let last = if last.is_empty() { None } else { Some(position(last)?) };
            // RFC 9110 §14.1.1: "An int-range is invalid if the last-pos value is present and less than the first-pos."
            if last.is_some_and(|last| last < first) {
                return None;
            }
            specs.push(Spec::From(first, last));
        }
    }
    if specs.is_empty() || specs.len() > MOST_RANGES { None } else { Some(specs) }
}

/// "recipients MUST anticipate potentially large decimal numerals and prevent parsing errors due to integer conversion
/// overflows" (RFC 9110 §14.1.2).
fn position(text: &str) -> Option<u128> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let mut value: u128 = 0;
    for c in text.chars() {
        // What is past 64 bits is past every end.
        value = (value * 10 + u128::from(c as u32 - '0' as u32)).min(u128::from(u64::MAX));
    }
    Some(value)
}

/// RFC 9110 §15.3.7.2: "a server … MAY coalesce any of the ranges that overlap, or that are separated by a gap that is
/// smaller than the overhead". Weir: "Ranges that overlap or touch are sent as one"; "The order asked for stays where
/// none do".
fn coalesced(parts: Vec<(usize, usize)>) -> Vec<(usize, usize)> {
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (first, last) in sorted {
        if let Some(previous) = merged.last_mut()
            && first <= previous.1 + 1
        {
            previous.1 = previous.1.max(last);
            continue;
        }
        merged.push((first, last));
    }
    if merged.len() == parts.len() { parts } else { merged }
}
