//! Conditional requests and freshening (RFC 9111 §4.3, RFC 9110 §13, §8.8).

use super::freshness::{corrected_initial_age, date_value};
use super::message::{Fields, first, has, keep_for_storage, lines, sole, split_list};
use super::storing::store;
use super::{Nanos, Operator, Request, SECOND, Stored, Windows, dates, vary};

/// The entity tag without its mark of weakness. RFC 9110 §8.8.3: `weak = %s"W/"`, case-sensitive.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

fn is_weak(tag: &str) -> bool {
    tag.starts_with("W/")
}

/// Weir: "The one entity tag of a response; none when there is none, an empty one, or several".
pub fn entity_tag(fields: &Fields) -> Option<&str> {
    sole(fields, "etag").filter(|tag| !tag.is_empty())
}

/// `Last-Modified` where it may serve as a validator: RFC 9110 §8.8.2.2, "That cache entry includes a Date value which is
/// at least one second after the Last-Modified value".
fn vouching_date(fields: &Fields, response_time: Nanos) -> Option<&str> {
    let text = sole(fields, "last-modified")?;
    let last_modified = dates::parse(text)?;
    if date_value(fields, response_time) - last_modified >= SECOND { Some(text) } else { None }
}

/// Whether it could be validated later (RFC 9111 §4.3.1).
pub fn has_validator(fields: &Fields, response_time: Nanos) -> bool {
    entity_tag(fields).is_some() || vouching_date(fields, response_time).is_some()
}

/// RFC 9111 §4.3.1: "the timestamp given in a Last-Modified header field, which can be used in an If-Modified-Since
/// header field"; "the entity tag given in an ETag field … can be used in an If-None-Match header field". Weir: what a
/// purge has voided is vouched for by its tag alone.
pub fn conditions(stored: &Stored, purged: bool) -> Fields {
    let mut found = Fields::new();
    if let Some(tag) = entity_tag(&stored.fields) {
        found.push(("if-none-match".to_owned(), tag.to_owned()));
    }
    if !purged && let Some(date) = vouching_date(&stored.fields, stored.response_time) {
        found.push(("if-modified-since".to_owned(), date.to_owned()));
    }
    found
}

/// Whether the client is to be told 304 (RFC 9111 §4.3.2, RFC 9110 §13.2.2).
pub fn is_not_modified(request: &Request, stored: &Stored) -> bool {
    // RFC 9110 §13.2.1: "A server MUST ignore all received preconditions if its response to the same request without
    // those conditions … would have been a status code other than a 2xx (Successful) or 412".
    if stored.status < 200 || stored.status > 299 {
        return false;
    }
    if request.method != "GET" && request.method != "HEAD" {
        return false;
    }
    if has(&request.fields, "if-none-match") {
        for line in lines(&request.fields, "if-none-match") {
            for member in split_list(line, false).all() {
                // RFC 9110 §13.1.2: "If the field value is "*", the condition is false if the origin server has a
                // current representation for the target resource."
                if member == "*" {
                    return true;
                }
                // "If the field value is a list of entity tags, the condition is false if one of the listed tags
                // matches the entity tag of the selected representation", by the weak comparison function.
                if let Some(tag) = entity_tag(&stored.fields)
                    && opaque(tag) == opaque(&member)
                {
                    return true;
                }
            }
        }
        // RFC 9110 §13.1.3: "A recipient MUST ignore If-Modified-Since if the request contains an If-None-Match".
        return false;
    }
    // RFC 9110 §13.1.3: ignored "if the received field value is not a valid HTTP-date, the field value has more than one
    // member".
    let Some(since) = sole(&request.fields, "if-modified-since").and_then(dates::parse) else { return false };
    // RFC 9111 §4.3.2: "If a request contains an If-Modified-Since header field and the Last-Modified header field is not
    // present in a stored response, a cache SHOULD use the stored response's Date field value (or, if no Date field is
    // present, the time that the stored response was received) to evaluate the conditional."
    let modified = match sole(&stored.fields, "last-modified").and_then(dates::parse) {
        Some(date) => date,
        None => date_value(&stored.fields, stored.response_time),
    };
    // "If the selected representation's last modification date is earlier or equal to the date provided in the field
    // value, the condition is false." An HTTP-date has whole seconds, so what is compared with one has too.
    modified / SECOND <= since / SECOND
}

/// Whether this 304 is about the stored response that was asked about (RFC 9111 §4.3.4).
pub fn identifies(stored: &Stored, not_modified: &Fields) -> bool {
    if has(not_modified, "etag") {
        let (Some(theirs), Some(ours)) = (entity_tag(not_modified), entity_tag(&stored.fields)) else {
            return false;
        };
        // "If the new response contains one or more strong validators, then each of those strong validators identifies a
        // selected representation for update … If none of the initial set contains at least one of the same strong
        // validators, then the cache MUST NOT use the new response". Weir: "A strong tag may confirm a stored weak one,
        // as compressing proxies weaken tags on 200 and not on 304".
        return opaque(theirs) == opaque(ours);
    }
    if has(not_modified, "last-modified") {
        // "no strong validators but … one or more weak validators, and those validators correspond to one of the initial
        // set's stored responses".
        let Some(theirs) = first(not_modified, "last-modified").and_then(dates::parse) else { return false };
        return first(&stored.fields, "last-modified").and_then(dates::parse) == Some(theirs);
    }
    // Weir: "A 304 without any validator confirms what was asked about."
    true
}

/// The stored response as a 304 leaves it (RFC 9111 §3.2, §4.3.4), and why it may not be stored any more.
pub fn freshen(
    stored: &Stored,
    request: &Request,
    not_modified: &Fields,
    request_time: Nanos,
    response_time: Nanos,
    operator: &Operator,
) -> (Stored, Result<(), Vec<&'static str>>) {
    // "the cache MUST add each header field in the provided response to the stored response, replacing field values that
    // are already present, with the following exceptions".
    let provided = keep_for_storage(not_modified);
    let mut fields = Fields::new();
    for (name, value) in &stored.fields {
        // The 304 says when it was made; if it does not, that was now (RFC 9110 §6.6.1).
        let replaced = has(&provided, name) && !stays(name) || name == "date";
        if !replaced {
            fields.push((name.clone(), value.clone()));
        }
    }
    for (name, value) in &provided {
        if !stays(name) {
            fields.push((name.clone(), value.clone()));
        }
    }
    let date = (!has(&fields, "date")).then(|| dates::format(response_time));
    if let Some(date) = date {
        fields.push(("date".to_owned(), date));
    }
    // The age is the 304's.
    let mut aged = fields.clone();
    for (name, value) in not_modified {
        if name == "age" {
            aged.push((name.clone(), value.clone()));
        }
    }
    let initial_age = corrected_initial_age(&aged, request_time, response_time);
    let windows = store(request, stored.status, &aged, request_time, response_time, operator);
    // Weir: a 304 "may name more of them", never fewer.
    let nominated = vary::selecting(&fields, &stored.nominated, operator.asks_uncoded);
    let fresh = Stored {
        status: stored.status,
        nominated,
        original: request.fields.clone(),
        body: stored.body.clone(),
        response_time,
        initial_age,
        windows: windows.clone().unwrap_or(Windows {
            fresh: 0,
            stale_while_revalidate: 0,
            stale_if_error: 0,
            keep: 0,
            always_validate: false,
            must_revalidate: false,
        }),
        fields,
    };
    (fresh, windows.map(|_| ()))
}

/// RFC 9111 §3.2: "Header fields that the cache's stored response depends upon", "The Content-Length header field". Weir:
/// "Fields that describe the stored content and stay with it", checksums, and the tag, which may differ in strength.
fn stays(name: &str) -> bool {
    let described = ["content-encoding", "content-type", "content-range", "content-length", "etag"];
    let checksums = ["content-md5", "digest", "content-digest", "repr-digest"];
    described.contains(&name) || checksums.contains(&name)
}

/// RFC 9110 §13.1.5: whether `If-Range` lets `Range` count.
pub fn if_range_holds(request: &Fields, stored: &Stored) -> bool {
    if !has(request, "if-range") {
        return true;
    }
    let Some(validator) = sole(request, "if-range") else { return false };
    // "A valid entity-tag can be distinguished from a valid HTTP-date by examining the first three characters for a
    // DQUOTE."
    if validator.chars().take(3).any(|c| c == '"') {
        // "exactly matches the ETag field value for the selected representation using the strong comparison function".
        let Some(tag) = entity_tag(&stored.fields) else { return false };
        return !is_weak(validator) && !is_weak(tag) && validator == tag;
    }
    // "If the HTTP-date validator provided is not a strong validator in the sense defined by Section 8.8.2.2, the
    // condition is false. If the HTTP-date validator provided exactly matches the Last-Modified field value …, the
    // condition is true."
    let Some(date) = dates::parse(validator) else { return false };
    match vouching_date(&stored.fields, stored.response_time) {
        Some(text) => dates::parse(text) == Some(date),
        None => false,
    }
}
