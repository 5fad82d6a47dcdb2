//! What the 200 to a HEAD tells of a stored response to GET (RFC 9111 §4.3.5).
//!
//! The head is what a GET would have brought but for its content. So it can show that the stored content is no longer
//! the backend's, or give a stored response new fields and a new life. It never makes a response of its own, and it says
//! nothing about a stored response with another status.
//!
//! The letter lets a head without any validator renew a stored response, since none of its validators differ. Where the
//! operator's `ttl` decides, a monitor that asks with HEAD would then keep an old answer alive for ever: there, one
//! validator has to match.

use http::HeaderMap;
use http::header::{CONTENT_LENGTH, ETAG, LAST_MODIFIED};

use super::block::Lines;
use super::stored::StoredResponse;
use super::storing::{OriginMode, Terms};
use super::timestamp::Timestamp;
use super::{coding, sole, validation};

/// What a head says about a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The backend would still send this content.
    Same,
    /// It would send another.
    Other,
    /// Nothing either way.
    Nothing,
}

/// Compares a stored response with the fields of a 200 to HEAD.
pub fn compare(stored: &StoredResponse, head: &HeaderMap, terms: &Terms) -> Told {
    if stored.status() != http::StatusCode::OK {
        return Told::Other;
    }
    if coding::is_coded(head) != coding::is_coded(&stored.fields()) {
        // Many servers code what they send, and a head has nothing to code: it tells of another representation.
        return Told::Nothing;
    }
    if !same_tag(stored, head) || !same_date(stored, head) || !same_length(stored, head) {
        return Told::Other;
    }
    let vouched = head.contains_key(ETAG)
        || head.contains_key(LAST_MODIFIED)
            && validation::last_modified(&stored.fields(), stored.response_time()).is_some();
    match vouched || terms.origin == OriginMode::Honour {
        true => Told::Same,
        false => Told::Nothing,
    }
}

/// The received `ETag`, if any, is the stored one; weakly, as in a validation.
fn same_tag(stored: &StoredResponse, head: &HeaderMap) -> bool {
    !head.contains_key(ETAG)
        || validation::etag(head).is_some_and(|theirs| {
            validation::etag(&stored.fields())
                .is_some_and(|ours| validation::opaque(ours) == validation::opaque(theirs))
        })
}

fn same_date(stored: &StoredResponse, head: &HeaderMap) -> bool {
    let ours = || stored.fields().sole(&LAST_MODIFIED).and_then(Timestamp::from_line);
    let theirs = || sole(head, &LAST_MODIFIED).and_then(Timestamp::from_field);
    !head.contains_key(LAST_MODIFIED) || theirs().is_some_and(|theirs| ours() == Some(theirs))
}

fn same_length(stored: &StoredResponse, head: &HeaderMap) -> bool {
    let ours = Some(stored.content_length());
    !head.contains_key(CONTENT_LENGTH)
        || sole(head, &CONTENT_LENGTH)
            .and_then(|n| n.to_str().ok()?.parse().ok())
            .is_some_and(|theirs| ours == Some(theirs))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderName, HeaderValue, StatusCode};

    use super::*;
    use crate::semantics::stored::Lifetimes;
    use crate::semantics::vary::Selecting;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let of =
            |(n, v): &(&str, &str)| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_str(v).unwrap());
        lines.iter().map(of).collect()
    }

    fn stored(lines: &[(&str, &str)]) -> StoredResponse {
        let received = Timestamp(784_111_777_000 + 3_600_000);
        let lifetimes = Lifetimes { fresh: Duration::from_secs(60), ..Lifetimes::default() };
        let body = Bytes::from_static(b"content");
        StoredResponse::new(
            StatusCode::OK,
            fields(lines),
            body,
            received,
            received,
            lifetimes,
            Selecting::default(),
        )
    }

    fn told(ours: &[(&str, &str)], theirs: &[(&str, &str)]) -> Told {
        compare(&stored(ours), &fields(theirs), &Terms::default())
    }

    #[test]
    fn every_received_validator_counts() {
        let both = [("etag", "\"a\""), ("last-modified", OLD)];
        for (theirs, expected) in [
            (&[("etag", "\"a\"")][..], Told::Same),
            (&[("etag", "W/\"a\"")], Told::Same),
            (&[("etag", "\"b\"")], Told::Other),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], Told::Other),
            (&[("last-modified", OLD)], Told::Same),
            (&[("last-modified", NEW)], Told::Other),
            (&[("last-modified", "yesterday")], Told::Other),
            (&[("etag", "\"a\""), ("last-modified", NEW)], Told::Other),
            (&[("etag", "\"a\""), ("content-length", "7")], Told::Same),
            (&[("etag", "\"a\""), ("content-length", "8")], Told::Other),
            (&[("etag", "\"a\""), ("content-length", "much")], Told::Other),
            (&[("content-length", "7")], Told::Nothing),
            (&[], Told::Nothing),
        ] {
            assert_eq!(told(&both, theirs), expected, "{theirs:?}");
        }
        assert_eq!(told(&[], &[("etag", "\"a\"")]), Told::Other, "a validator that was not there before");
        assert_eq!(told(&[], &[("last-modified", OLD)]), Told::Other);
    }

    #[test]
    fn a_date_of_the_same_second_vouches_for_nothing() {
        let received = Timestamp(784_111_777_000 + 3_600_000).to_http_date();
        let just_now = [("last-modified", &*received)];
        assert_eq!(told(&just_now, &just_now), Told::Nothing);
    }

    #[test]
    fn to_the_letter_no_validator_is_no_difference() {
        let honour = Terms { origin: OriginMode::Honour, ..Terms::default() };
        assert_eq!(compare(&stored(&[]), &fields(&[]), &honour), Told::Same);
        assert_eq!(compare(&stored(&[]), &fields(&[("content-length", "7")]), &honour), Told::Same);
        assert_eq!(compare(&stored(&[]), &fields(&[("content-length", "1")]), &honour), Told::Other);
    }

    #[test]
    fn another_status_is_another_content() {
        let mut gone = stored(&[("etag", "\"a\"")]);
        gone.change(|parts| parts.status = StatusCode::NOT_FOUND);
        assert_eq!(compare(&gone, &fields(&[("etag", "\"a\"")]), &Terms::default()), Told::Other);
    }

    #[test]
    fn a_head_of_another_coding_tells_nothing() {
        let ours = stored(&[("etag", "\"a\""), ("content-encoding", "gzip")]);
        let plain = fields(&[("etag", "\"b\""), ("content-length", "900")]);
        assert_eq!(compare(&ours, &plain, &Terms::default()), Told::Nothing);
        let coded = fields(&[("etag", "\"b\""), ("content-encoding", "gzip")]);
        assert_eq!(compare(&ours, &coded, &Terms::default()), Told::Other);
        assert_eq!(compare(&stored(&[("etag", "\"a\"")]), &coded, &Terms::default()), Told::Nothing);
    }
}
