use super::*;
use http::HeaderValue;
use http::header::SET_COOKIE;
use proptest::prelude::*;

fn lines(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
    }
    headers
}

fn response(line: &str) -> ResponseDirectives {
    ResponseDirectives::of(&lines(&[line]), &[])
}

fn request(line: &str) -> RequestDirectives {
    RequestDirectives::of(&lines(&[line]))
}

fn seconds(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

/// A response with targeted fields.
fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

const TARGETS: [HeaderName; 2] =
    [HeaderName::from_static("weir-cache-control"), HeaderName::from_static("cdn-cache-control")];

#[test]
fn the_first_targeted_field_that_says_something_is_all_that_counts() {
    let lifetime = |response: &[(&'static str, &str)]| {
        let found = ResponseDirectives::of(&fields(response), &TARGETS);
        (found.max_age.map(|age| age.as_secs()), found.targeted)
    };
    let (cc, cdn, weir) = ("cache-control", "cdn-cache-control", "weir-cache-control");
    type Case<'a> = (&'a [(&'static str, &'a str)], (Option<u64>, bool));
    let table: [Case<'_>; 16] = [
        (&[(cc, "max-age=1")], (Some(1), false)),
        (&[(cc, "max-age=1"), (cdn, "max-age=2")], (Some(2), true)),
        (&[(cc, "max-age=1"), (cdn, "max-age=2"), (weir, "max-age=3")], (Some(3), true)),
        (&[(cc, "max-age=1"), (cdn, "must-revalidate")], (None, true)),
        (&[(cdn, "max-age=2"), (cdn, "no-store")], (Some(2), true)),
        // Whose name is on nobody's list.
        (&[(cc, "max-age=1"), ("surrogate-control", "max-age=2")], (Some(1), false)),
        // Nothing, or nothing that can be parsed: as if it were not there.
        (&[(cc, "max-age=1"), (cdn, "")], (Some(1), false)),
        (&[(cc, "max-age=1"), (cdn, "max-age=2, &&&")], (Some(1), false)),
        (&[(cc, "max-age=1"), (cdn, "Max-Age=2")], (Some(1), false)),
        (&[(cc, "max-age=1"), (cdn, "max-age =2")], (Some(1), false)),
        (&[(cc, "max-age=1"), (weir, "&"), (cdn, "max-age=2")], (Some(2), true)),
        // Valid, but no lifetime: none at all.
        (&[(cc, "max-age=1"), (cdn, "max-age=\"2\"")], (Some(0), true)),
        (&[(cc, "max-age=1"), (cdn, "max-age=2.5")], (Some(0), true)),
        (&[(cc, "max-age=1"), (cdn, "max-age=-2")], (Some(0), true)),
        (&[(cc, "max-age=1"), (cdn, "max-age=(1 2)")], (Some(0), true)),
        (&[(cdn, "max-age=999999999999;why=x")], (Some(1 << 31), true)),
    ];
    for (response, expected) in table {
        assert_eq!(lifetime(response), expected, "{response:?}");
    }
}

#[test]
fn targeted_flags_and_scopes() {
    let of = |line| ResponseDirectives::of(&fields(&[("cdn-cache-control", line)]), &TARGETS);
    assert!(of("no-store").no_store && of("no-store=1").no_store && !of("no-store=?0, public").no_store);
    assert_eq!(of("no-cache").no_cache, Scope::Whole);
    assert_eq!(of("no-cache=\"set-cookie\"").no_cache, Scope::Fields(vec![SET_COOKIE]));
    assert_eq!(of("private=set-cookie").private, Scope::Whole, "a token is no list of fields");
    assert_eq!(of("foo, max-age=5, s-maxage=9").s_maxage, seconds(9));
    // Of another type than it has: not the directive's argument (RFC 9213 §2.1).
    assert_eq!((of("private=5").private, of("no-cache=5").no_cache), (Scope::Whole, Scope::Whole));
    assert_eq!((of("private=?0").private, of("max-age=?0").max_age), (Scope::Absent, seconds(0)));
}

#[test]
fn lifetimes_however_they_are_written() {
    let table = [
        ("", None),
        ("max-age=60", seconds(60)),
        ("MAX-AGE=60", seconds(60)),
        ("Max-Age=\"60\"", seconds(60)),
        ("max-age=\"6\\0\"", seconds(60)),
        ("foo, max-age=60 , bar=1", seconds(60)),
        ("foo=\"a, max-age=1\", max-age=60", seconds(60)),
        ("max-age=007", seconds(7)),
        // The stricter of two words.
        ("max-age=60, max-age=30", seconds(30)),
        ("max-age=30, max-age=60", seconds(30)),
        ("max-age=60, max-age=x", seconds(0)),
        // No number: stale.
        ("max-age", seconds(0)),
        ("max-age=", seconds(0)),
        ("max-age=-1", seconds(0)),
        ("max-age=+60", seconds(0)),
        ("max-age=1.5", seconds(0)),
        ("max-age=60s", seconds(0)),
        ("max-age='60'", seconds(0)),
        ("max-age = 60", seconds(0)),
        ("max-age= 60", seconds(0)),
        ("max-age =60", seconds(0)),
        ("max-age=\"60", seconds(0)),
        ("max-age=60 30", seconds(0)),
        // Not the directive.
        ("x-max-age=60", None),
        ("max-age-x=60", None),
        ("foo=\"max-age=60\"", None),
        // Too large.
        ("max-age=2147483648", seconds(1 << 31)),
        ("max-age=99999999999999999999999999", seconds(1 << 31)),
    ];
    for (line, expected) in table {
        assert_eq!(response(line).max_age, expected, "{line}");
    }
}

#[test]
fn every_line_counts() {
    let found = ResponseDirectives::of(&lines(&["max-age=60", "NO-STORE", "s-maxage=5, max-age=10"]), &[]);
    assert!(found.no_store);
    assert_eq!((found.max_age, found.s_maxage), (seconds(10), seconds(5)));
}

#[test]
fn flags_of_a_response() {
    let all = response(
        "no-store, public, must-revalidate, Proxy-Revalidate, must-understand, no-transform, \
         stale-while-revalidate=7, stale-if-error=8, immutable",
    );
    assert!(all.no_store && all.public && all.must_revalidate && all.proxy_revalidate);
    assert!(all.must_understand && all.no_transform);
    assert_eq!((all.stale_while_revalidate, all.stale_if_error), (seconds(7), seconds(8)));
    assert!(response("no-store=1").no_store);
    assert!(response("no-store =x").no_store);
    assert!(!response("foo=\"no-store\"").no_store);
}

#[test]
fn what_follows_an_unclosed_string_may_forbid_but_not_grant() {
    for line in ["foo=\"bar, no-store, max-age=60", "foo=\"bar, no-store, b=\"z, max-age=60"] {
        let found = response(line);
        assert!(found.no_store, "{line}");
        assert_eq!(found.max_age, seconds(0), "{line}");
    }
    // A mere name grants as much as a number.
    assert!(!response("foo=\"bar, public").public);
    assert!(response("public, foo=\"bar").public && response("public=1").public);
    let lifted = response("no-store, foo=\"bar, must-understand");
    assert!(lifted.no_store && !lifted.must_understand);
    assert!(response("foo=\"bar, must-understand").no_store, "what it may mean is not to store");
    assert_eq!(request("foo=\"bar, max-stale").max_stale, None);
    assert!(request("foo=\"bar, only-if-cached, no-cache").no_cache);
}

#[test]
fn field_lists_reach_as_far_as_their_fields() {
    let mut with_cookie = HeaderMap::new();
    with_cookie.insert(SET_COOKIE, HeaderValue::from_static("a=b"));
    let none = HeaderMap::new();
    for (line, reaches_plain, reaches_cookie) in [
        ("no-cache", true, true),
        ("no-cache=\"set-cookie\"", false, true),
        ("no-cache=Set-Cookie", false, true),
        ("no-cache=\"x-a, set-cookie\"", false, true),
        ("no-cache=\"x-a\", no-cache=\"set-cookie\"", false, true),
        ("no-cache=\"x-a\", no-cache", true, true),
        ("no-cache, no-cache=\"x-a\"", true, true),
        ("no-cache=\"\"", true, true),
        ("no-cache=\"not a name\"", true, true),
        ("no-cache=\"x-a", true, true),
        ("max-age=1", false, false),
    ] {
        let scope = response(line).no_cache;
        assert_eq!(scope.reaches(&none), reaches_plain, "{line}");
        assert_eq!(scope.reaches(&with_cookie), reaches_cookie, "{line}");
        let private = response(&line.replace("no-cache", "PRIVATE")).private;
        assert_eq!(private, scope, "{line}");
    }
}

#[test]
fn directives_of_a_request() {
    let all =
        request("No-Cache, no-store, only-if-cached, no-transform, max-age=1, min-fresh=2, max-stale=3");
    assert!(all.no_cache && all.no_store && all.only_if_cached && all.no_transform);
    assert_eq!((all.max_age, all.min_fresh, all.max_stale), (seconds(1), seconds(2), seconds(3)));
    assert_eq!(request("max-stale").max_stale, Some(LONGEST));
    assert_eq!(request("max-stale, max-stale=5").max_stale, seconds(5));
    assert_eq!(request("max-stale=x").max_stale, None);
    assert_eq!(request("min-fresh=x").min_fresh, None);
    assert_eq!(request("min-fresh=3, min-fresh=9, min-fresh=1").min_fresh, seconds(9));
    assert_eq!(request("max-age=x").max_age, seconds(0));
    assert_eq!(request("stale-if-error=30").stale_if_error, seconds(30));
}

#[test]
fn pragma_speaks_only_where_cache_control_is_silent() {
    let mut headers = HeaderMap::new();
    headers.insert(PRAGMA, HeaderValue::from_static("foo, No-Cache"));
    assert!(RequestDirectives::of(&headers).no_cache);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=5"));
    assert!(!RequestDirectives::of(&headers).no_cache);
    headers.remove(CACHE_CONTROL);
    headers.insert(PRAGMA, HeaderValue::from_static("x-no-cache"));
    assert!(!RequestDirectives::of(&headers).no_cache);
}

proptest! {
    #[test]
    fn reading_never_panics_and_never_exceeds_the_limit(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        text in "((max-age|private|no-cache|max-stale)?[=\", 0-9a-z\\\\-]{0,12}){0,6}",
    ) {
        let mut headers = HeaderMap::new();
        for value in [&bytes[..], text.as_bytes()] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(CACHE_CONTROL, value.clone());
                headers.append(PRAGMA, value);
            }
        }
        let found = ResponseDirectives::of(&headers, &[]);
        for given in [found.max_age, found.s_maxage, found.stale_if_error, found.stale_while_revalidate] {
            prop_assert!(given.unwrap_or_default() <= LONGEST);
        }
        let _ = RequestDirectives::of(&headers);
    }

    #[test]
    fn a_forbidding_word_is_heard_whatever_stands_around_it(
        before in "[a-z=]{0,10}(=\"[a-z ,]{0,10}\")?", after in "[a-z=\", ]{0,10}",
    ) {
        let line = format!("{before}, no-store, {after}");
        prop_assert!(response(&line).no_store, "{}", line);
    }
}
