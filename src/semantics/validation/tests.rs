use super::*;
use crate::semantics::storing::OriginMode;
use bytes::Bytes;
use http::{Request, StatusCode};
use proptest::prelude::*;
use std::time::Duration;

/// Sun, 06 Nov 1994 08:49:37 GMT.
const NOW: Timestamp = Timestamp(784_111_777_000);

type Fields<'a> = &'a [(&'a str, &'a str)];

fn headers(fields: Fields<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ago(seconds: u64) -> String {
    Timestamp(NOW.0 - seconds * 1000).to_http_date()
}

fn terms() -> Terms {
    Terms { ttl: Some(secs(300)), ..Terms::default() }
}

/// Received 100 s before NOW.
fn stored(fields: Fields<'_>) -> StoredResponse {
    let received = Timestamp(NOW.0 - 100_000);
    StoredResponse::new(
        StatusCode::OK,
        headers(fields),
        Bytes::from_static(b"content"),
        received,
        received,
        crate::semantics::stored::Lifetimes { fresh: secs(300), ..Default::default() },
        Selecting::default(),
    )
}

fn is_not_modified(request: Fields<'_>, stored: &StoredResponse) -> bool {
    evaluate(&Method::GET, &headers(request), stored) == Precondition::NotModified
}

fn get(fields: Fields<'_>) -> Parts {
    let mut parts = Request::new(()).into_parts().0;
    parts.headers = headers(fields);
    parts
}

#[test]
fn if_none_match() {
    let table = [
        ("\"a\"", "\"a\"", true),
        ("\"a\"", "W/\"a\"", true),
        ("W/\"a\"", "\"a\"", true),
        ("W/\"a\"", "W/\"a\"", true),
        ("\"a\"", "\"b\"", false),
        ("\"a\"", "\"b\", \"a\"", true),
        ("\"a\"", "\"b\",, W/\"a\" ,\"c\"", true),
        ("\"a,b\"", "\"a,b\"", true),
        ("\"a,b\"", "\"a\", \"b\"", false),
        ("\"a\\\"", "\"a\\\", \"b\"", true),
        ("\"a\"", "*", true),
        ("\"a\"", "\"*\"", false),
        ("\"a\"", "a", false),
        ("a", "a", true),
        ("\"a\"", "w/\"a\"", false),
        ("\"a\"", "", false),
        ("\"a\"", "\"b", false),
    ];
    for (tag, given, expected) in table {
        let stored = stored(&[("etag", tag)]);
        assert_eq!(is_not_modified(&[("if-none-match", given)], &stored), expected, "{tag} {given}");
    }
    let lines: Fields<'_> = &[("if-none-match", "\"b\""), ("if-none-match", "\"a\"")];
    assert!(is_not_modified(lines, &stored(&[("etag", "\"a\"")])));
    assert!(is_not_modified(&[("if-none-match", "*")], &stored(&[])));
    assert!(!is_not_modified(&[("if-none-match", "\"a\"")], &stored(&[])));
    assert!(!is_not_modified(lines, &stored(&[("etag", "\"a\""), ("etag", "\"b\"")])), "two tags are none");
}

#[test]
fn if_modified_since() {
    let (old, new) = (ago(5000), ago(50));
    let dated = stored(&[("last-modified", &ago(1000)), ("date", &ago(100))]);
    let equal = ago(1000);
    for (given, expected) in [(&old, false), (&equal, true), (&new, true), (&"junk".to_owned(), false)] {
        assert_eq!(is_not_modified(&[("if-modified-since", given)], &dated), expected, "{given}");
    }
    let twice: Fields<'_> = &[("if-modified-since", &new), ("if-modified-since", &new)];
    assert!(!is_not_modified(twice, &dated));
    // If-None-Match silences it, whatever it says.
    let both: Fields<'_> = &[("if-modified-since", &new), ("if-none-match", "\"x\"")];
    assert!(!is_not_modified(both, &dated));
    // Without Last-Modified, Date stands in; without Date, the moment of receipt.
    assert!(is_not_modified(&[("if-modified-since", &new)], &stored(&[("date", &ago(100))])));
    assert!(!is_not_modified(&[("if-modified-since", &ago(101))], &stored(&[("date", &ago(100))])));
    assert!(is_not_modified(&[("if-modified-since", &ago(100))], &stored(&[])));
}

#[test]
fn conditionals_are_for_get_and_head_and_for_success() {
    let request = headers(&[("if-none-match", "*")]);
    let mut stored = stored(&[("etag", "\"a\"")]);
    let at = |method, stored: &StoredResponse| evaluate(&method, &request, stored);
    assert_eq!(at(Method::HEAD, &stored), Precondition::NotModified);
    assert_eq!(at(Method::POST, &stored), Precondition::Send);
    for status in [404, 301] {
        stored.change(|parts| parts.status = StatusCode::from_u16(status).unwrap());
        assert_eq!(at(Method::GET, &stored), Precondition::Send);
    }
    stored.change(|parts| parts.status = StatusCode::NO_CONTENT);
    assert_eq!(at(Method::GET, &stored), Precondition::NotModified);
}

#[test]
fn what_a_validation_asks() {
    let modified = ago(1000);
    let as_sent = ago(100);
    let table: [(Fields<'_>, &[&str], &[&str]); 7] = [
        (&[], &[], &[]),
        (&[("etag", "\"a\"")], &["if-none-match"], &["if-none-match"]),
        (&[("etag", "W/\"a\"")], &["if-none-match"], &["if-none-match"]),
        (&[("last-modified", &modified)], &["if-modified-since"], &[]),
        (
            &[("last-modified", &modified), ("etag", "\"a\"")],
            &["if-none-match", "if-modified-since"],
            &["if-none-match"],
        ),
        // Modified in the second it was sent in: may have changed again since.
        (&[("last-modified", &as_sent)], &[], &[]),
        (&[("last-modified", "junk"), ("etag", "")], &[], &[]),
    ];
    for (fields, live, purged) in table {
        let stored = stored(fields);
        let names = |purged| {
            let fields = conditional_fields(&stored, purged);
            fields.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(false), live, "{fields:?}");
        assert_eq!(names(true), purged, "{fields:?}");
        assert_eq!(stored.has_validator(), !live.is_empty(), "{fields:?}");
    }
    let asked = conditional_fields(&stored(&[("etag", "W/\"a\"")]), false);
    assert_eq!(asked, [(IF_NONE_MATCH, HeaderValue::from_static("W/\"a\""))]);
}

#[test]
fn which_response_a_304_speaks_about() {
    let (one, other) = (ago(1000), ago(2000));
    let table: [(Fields<'_>, Fields<'_>, bool); 15] = [
        // No tag is none that is stored, however odd that one is.
        (&[("etag", "W/")], &[("etag", "")], false),
        (&[("etag", "W/")], &[("etag", "W/")], true),
        (&[("etag", "\"a\"")], &[("etag", "\"a\"")], true),
        (&[("etag", "\"a\"")], &[("etag", "\"b\"")], false),
        (&[("etag", "\"a\"")], &[("etag", "W/\"a\"")], true),
        (&[("etag", "W/\"a\"")], &[("etag", "\"a\"")], true),
        (&[("etag", "\"a\"")], &[], true),
        (&[("last-modified", &one)], &[("etag", "\"a\"")], false),
        (&[("last-modified", &one)], &[("last-modified", &one)], true),
        (&[("last-modified", &one)], &[("last-modified", &other)], false),
        (&[("last-modified", &one)], &[("last-modified", "junk")], false),
        (&[("etag", "\"a\"")], &[("last-modified", &one)], false),
        (&[("etag", "\"a\""), ("last-modified", &one)], &[("last-modified", &one)], true),
        (
            &[("etag", "\"a\""), ("last-modified", &one)],
            &[("etag", "\"a\""), ("last-modified", &other)],
            true,
        ),
        (&[("etag", "\"a\"")], &[("etag", "\"a\""), ("etag", "\"a\"")], false),
    ];
    for (fields, not_modified, expected) in table {
        assert_eq!(selects(&stored(fields), &headers(not_modified)), expected, "{fields:?} {not_modified:?}");
    }
}

#[test]
fn a_304_brings_new_fields_and_keeps_the_content() {
    let before = stored(&[
        ("etag", "W/\"a\""),
        ("content-type", "text/plain"),
        ("content-encoding", "gzip"),
        ("content-digest", "sha-256=:x:"),
        ("cache-control", "max-age=5"),
        ("date", &ago(100)),
        ("x-old", "1"),
        ("x-hop", "stored"),
        ("x-both", "1"),
        ("x-both", "2"),
    ]);
    let not_modified = headers(&[
        ("etag", "\"a\""),
        ("content-type", "text/html"),
        ("content-encoding", "br"),
        ("content-digest", "sha-256=:y:"),
        ("content-length", "0"),
        ("cache-control", "max-age=50"),
        ("date", &ago(0)),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "1"),
        ("surrogate-key", "k"),
        ("age", "3"),
        ("x-both", "3"),
        ("x-new", "1"),
    ]);
    let (after, verdict) = freshen(&before, &get(&[]), &not_modified, NOW, NOW, &terms());
    assert_eq!(verdict, Ok(()));
    assert_eq!(after.body(), before.body());
    let value = |name: &str| {
        after.fields().get(&name.parse().unwrap()).map(|v| String::from_utf8(v.to_vec()).unwrap())
    };
    for (name, expected) in [
        ("etag", Some("W/\"a\"")),
        ("content-type", Some("text/plain")),
        ("content-encoding", Some("gzip")),
        ("content-digest", Some("sha-256=:x:")),
        ("content-length", None),
        ("cache-control", Some("max-age=50")),
        ("x-hop", Some("stored")),
        ("connection", None),
        ("keep-alive", None),
        ("surrogate-key", None),
        ("age", None),
        ("x-old", Some("1")),
        ("x-both", Some("3")),
        ("x-new", Some("1")),
        ("date", Some(&*ago(0))),
    ] {
        assert_eq!(value(name).as_deref(), expected, "{name}");
    }
    assert_eq!(after.fields().all(&"x-both".parse().unwrap()).count(), 1);
    assert_eq!(after.initial_age(), secs(3));
    assert_eq!(after.response_time(), NOW);
    assert_eq!(after.lifetimes().fresh, secs(50));
}

#[test]
fn a_304_without_a_date_was_made_when_it_came() {
    let before = stored(&[("etag", "\"a\""), ("date", &ago(100)), ("via", "1.1 edge")]);
    let (after, verdict) = freshen(&before, &get(&[]), &headers(&[]), Timestamp(NOW.0 - 2000), NOW, &terms());
    assert_eq!(verdict, Ok(()));
    assert_eq!(after.initial_age(), secs(2));
    assert_eq!(after.fields().get(&DATE), Some(ago(0).as_bytes()));
    assert_eq!(after.lifetimes().fresh, secs(300));
}

#[test]
fn a_freshened_response_may_turn_out_not_to_be_storable() {
    let before = stored(&[("etag", "\"a\"")]);
    for (field, expected) in [
        (("cache-control", "no-store"), NotStored::NoStore),
        (("cache-control", "private"), NotStored::Private),
        (("set-cookie", "a=b"), NotStored::SetCookie),
        (("vary", "*"), NotStored::VaryAny),
    ] {
        let (after, verdict) = freshen(&before, &get(&[]), &headers(&[field]), NOW, NOW, &terms());
        assert_eq!(verdict, Err(expected));
        assert_eq!(after.body(), before.body());
        assert!(
            after.fields().contains(&field.0.parse().unwrap()),
            "this client gets what the upstream told it"
        );
        assert!(after.is_gone(NOW));
    }
    let honour = Terms { origin: OriginMode::Honour, ttl: None, ..terms() };
    let (_, verdict) = freshen(&before, &get(&[]), &headers(&[]), NOW, NOW, &honour);
    assert_eq!(verdict, Err(NotStored::NoLifetime));
}

#[test]
fn head_freshens_what_get_stored() {
    let before = stored(&[("etag", "\"a\"")]);
    let mut request = get(&[]);
    request.method = Method::HEAD;
    assert_eq!(freshen(&before, &request, &headers(&[]), NOW, NOW, &terms()).1, Ok(()));
}

#[test]
fn a_304_may_add_selecting_fields() {
    let request = get(&[("accept", "a/b"), ("x-v", "1")]);
    let mut before = stored(&[("etag", "\"a\""), ("vary", "accept")]);
    before.change(|parts| {
        parts.selecting = Selecting::from_request(&[http::header::ACCEPT], &request.headers);
    });
    let names = |not_modified: Fields<'_>| {
        let (after, _) = freshen(&before, &request, &headers(not_modified), NOW, NOW, &terms());
        assert!(after.selecting().matches(&request.headers));
        after.selecting().names().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["accept"]);
    assert_eq!(names(&[("vary", "accept")]), ["accept"]);
    assert_eq!(names(&[("vary", "x-v")]), ["accept", "x-v"]);
}

proptest! {
    #[test]
    fn nothing_here_panics(
        tag in proptest::collection::vec(any::<u8>(), 0..30), given in proptest::collection::vec(any::<u8>(), 0..60),
        date in "[ -~]{0,30}",
    ) {
        let mut response = HeaderMap::new();
        let mut request = HeaderMap::new();
        if let (Ok(tag), Ok(given)) = (HeaderValue::from_bytes(&tag), HeaderValue::from_bytes(&given)) {
            response.append(ETAG, tag);
            request.append(IF_NONE_MATCH, given);
        }
        response.append(LAST_MODIFIED, HeaderValue::from_str(&date).unwrap());
        request.append(IF_MODIFIED_SINCE, HeaderValue::from_str(&date).unwrap());
        let mut stored = stored(&[]);
        stored.change(|parts| parts.headers = response.clone());
        let _ = evaluate(&Method::GET, &request, &stored);
        let _ = selects(&stored, &request);
        let (after, verdict) = freshen(&stored, &get(&[]), &response, NOW, NOW, &terms());
        prop_assert_eq!(after.body(), stored.body());
        prop_assert_eq!(verdict, Ok(()));
        prop_assert_eq!(stored.has_validator(), !conditional_fields(&stored, false).is_empty());
    }

    #[test]
    fn a_stored_tag_confirms_itself(tag in "(W/)?\"[!#-~]{0,20}\"", others in "(\"[a-z,]{0,5}\", ?){0,3}") {
        let stored = stored(&[("etag", &tag)]);
        let list = format!("{others}{tag}");
        prop_assert!(is_not_modified(&[("if-none-match", &list)], &stored));
        prop_assert!(selects(&stored, &stored.fields().to_map(0)));
    }
}
