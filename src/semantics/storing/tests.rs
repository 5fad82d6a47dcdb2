use super::*;
use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

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

/// Terms with every window set, so that its absence shows.
fn terms(origin: OriginMode) -> Terms {
    Terms {
        ttl: Some(secs(300)),
        negative_ttl: Some(secs(10)),
        stale_while_revalidate: Some(secs(30)),
        stale_if_error: Some(secs(40)),
        keep: secs(60),
        origin,
        ..Terms::default()
    }
}

fn no_ttl(origin: OriginMode) -> Terms {
    Terms { ttl: None, negative_ttl: None, ..terms(origin) }
}

fn answer(status: u16, response: Fields<'_>, terms: &Terms) -> Result<Lifetimes, NotStored> {
    full(&Method::GET, &[], status, response, terms)
}

fn full(
    method: &Method,
    request: Fields<'_>,
    status: u16,
    response: Fields<'_>,
    terms: &Terms,
) -> Result<Lifetimes, NotStored> {
    let status = StatusCode::from_u16(status).unwrap();
    admit(method, &headers(request), status, &headers(response), NOW, NOW, terms)
}

fn fresh(status: u16, response: Fields<'_>, terms: &Terms) -> Result<u64, NotStored> {
    answer(status, response, terms).map(|lifetimes| lifetimes.fresh.as_secs())
}

use OriginMode::{Honour, Ignore, Stricter};

const MODES: [OriginMode; 3] = [Stricter, Ignore, Honour];

/// For how long a response is fresh, for each of them.
type ByMode = [Result<u64, NotStored>; 3];

fn cc(line: &str) -> [(&str, &str); 1] {
    [("cache-control", line)]
}

#[test]
fn every_reason_can_be_met() {
    let (get, head) = (Method::GET, Method::HEAD);
    let stricter = terms(Stricter);
    let bare = no_ttl(Stricter);
    let authorized: Fields<'_> = &[("authorization", "Bearer x")];
    type Case<'a> = (NotStored, &'a Method, Fields<'a>, u16, Fields<'a>, &'a Terms);
    let table: [Case<'_>; 15] = [
        (NotStored::Method, &head, &[], 200, &[], &stricter),
        (NotStored::RequestNoStore, &get, &[("cache-control", "no-store")], 200, &[], &stricter),
        (NotStored::Partial, &get, &[], 206, &[("content-range", "bytes 0-1/2")], &stricter),
        (NotStored::ServerError, &get, &[], 500, &[], &stricter),
        (NotStored::Status, &get, &[], 302, &[], &stricter),
        (NotStored::SetCookie, &get, &[], 200, &[("set-cookie", "a=b")], &stricter),
        (NotStored::VaryAny, &get, &[], 200, &[("vary", "*")], &stricter),
        (NotStored::Authorization, &get, authorized, 200, &[], &stricter),
        (NotStored::NoStore, &get, &[], 200, &[("cache-control", "no-store")], &stricter),
        (NotStored::Private, &get, &[], 200, &[("cache-control", "private")], &stricter),
        (
            NotStored::MustUnderstand,
            &get,
            &[],
            299,
            &[("cache-control", "must-understand, max-age=9")],
            &stricter,
        ),
        (NotStored::NoCache, &get, &[], 200, &[("cache-control", "no-cache")], &stricter),
        (NotStored::NoNegativeTtl, &get, &[], 404, &[], &bare),
        (NotStored::NoLifetime, &get, &[], 200, &[], &bare),
        (NotStored::Expired, &get, &[], 200, &[("age", "400")], &stricter),
    ];
    for ((expected, method, request, status, response, terms), listed) in table.iter().zip(NotStored::ALL) {
        assert_eq!(*expected, listed, "the table follows ALL");
        assert_eq!(full(method, request, *status, response, terms), Err(*expected), "{expected:?}");
    }
}

#[test]
fn reasons_have_names_and_sentences_of_their_own() {
    let names: std::collections::HashSet<_> = NotStored::ALL.iter().map(|r| r.as_str()).collect();
    let sentences: std::collections::HashSet<_> = NotStored::ALL.iter().map(|r| r.sentence()).collect();
    assert_eq!((names.len(), sentences.len()), (NotStored::ALL.len(), NotStored::ALL.len()));
    assert!(names.iter().all(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
    assert_eq!(NotStored::VaryAny.to_string(), "vary-any");
}

#[test]
fn what_no_mode_keeps() {
    let grant = ("cache-control", "public, max-age=100");
    for mode in MODES {
        let terms = terms(mode);
        for method in ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "get"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(
                full(&method, &[], 200, &[grant], &terms),
                Err(NotStored::Method),
                "{mode:?} {method}"
            );
        }
        for status in [500, 501, 502, 503, 504, 599, 600, 999] {
            assert_eq!(answer(status, &[grant], &terms), Err(NotStored::ServerError), "{mode:?} {status}");
        }
        for status in [100, 101, 103, 304, 407, 408, 416, 425, 428, 429, 431] {
            assert_eq!(answer(status, &[grant], &terms), Err(NotStored::Status), "{mode:?} {status}");
        }
        assert_eq!(answer(206, &[grant], &terms), Err(NotStored::Partial));
        let ranged = answer(200, &[grant, ("content-range", "bytes 0-1/2")], &terms);
        assert_eq!(ranged.err(), (mode != Honour).then_some(NotStored::Partial), "{mode:?}");
        assert_eq!(answer(200, &[grant, ("set-cookie", "a=b")], &terms), Err(NotStored::SetCookie));
        assert_eq!(answer(200, &[grant, ("vary", "accept, *")], &terms), Err(NotStored::VaryAny));
        assert_eq!(answer(200, &[grant, ("vary", "(")], &terms), Err(NotStored::VaryAny));
        let no_store = [("cache-control", "max-age=1, No-Store")];
        assert_eq!(full(&Method::GET, &no_store, 200, &[grant], &terms), Err(NotStored::RequestNoStore));
        let cookies = Terms { store_set_cookie: true, ..terms };
        assert!(answer(200, &[grant, ("set-cookie", "a=b")], &cookies).is_ok());
    }
}

#[test]
fn server_errors_are_kept_by_leave_and_for_as_long_as_the_backend_says() {
    let modified = [("last-modified", &*ago(1000))];
    let table: [(u16, Fields<'_>, ByMode); 8] = [
        (500, &[], [Err(NotStored::Status); 3]),
        // RFC 6585 §6: never, as it comes from no backend but from a network that wants a login.
        (511, &cc("max-age=100"), [Err(NotStored::Status); 3]),
        (503, &cc("max-age=100"), [Ok(100), Err(NotStored::Status), Ok(100)]),
        (503, &cc("max-age=1000"), [Ok(300), Err(NotStored::Status), Ok(1000)]),
        (503, &modified, [Err(NotStored::Status); 3]),
        (501, &modified, [Err(NotStored::Status), Err(NotStored::Status), Ok(100)]),
        (
            503,
            &cc("no-store, max-age=100"),
            [Err(NotStored::NoStore), Err(NotStored::Status), Err(NotStored::NoStore)],
        ),
        (
            599,
            &cc("must-understand, max-age=100"),
            [Err(NotStored::MustUnderstand), Err(NotStored::Status), Err(NotStored::MustUnderstand)],
        ),
    ];
    for (status, response, expected) in table {
        for (mode, expected) in MODES.into_iter().zip(expected) {
            let terms = Terms { store_errors: true, ..terms(mode) };
            assert_eq!(fresh(status, response, &terms), expected, "{status} {response:?} {mode:?}");
            let windows =
                answer(status, response, &terms).map(|l| (l.stale_while_revalidate, l.stale_if_error));
            assert!(windows.is_err() || windows == Ok((Duration::ZERO, Duration::ZERO)), "never stale");
        }
    }
}

#[test]
fn what_is_targeted_counts_instead_of_the_rest() {
    let later = Timestamp(NOW.0 + 60_000).to_http_date();
    let table: [(Fields<'_>, ByMode); 5] = [
        (&[("cdn-cache-control", "max-age=100"), ("cache-control", "no-store")], [Ok(100), Ok(300), Ok(100)]),
        (
            &[("cdn-cache-control", "no-store"), ("cache-control", "max-age=100")],
            [Err(NotStored::NoStore), Ok(300), Err(NotStored::NoStore)],
        ),
        (&[("cdn-cache-control", "max-age=100"), ("expires", &later)], [Ok(100), Ok(300), Ok(100)]),
        // Nothing is said about a lifetime then: the operator's.
        (&[("cdn-cache-control", "public"), ("expires", &later)], [Ok(300), Ok(300), Ok(300)]),
        (&[("cdn-cache-control", "&"), ("cache-control", "max-age=100")], [Ok(100), Ok(300), Ok(100)]),
    ];
    for (response, expected) in table {
        for (mode, expected) in MODES.into_iter().zip(expected) {
            assert_eq!(fresh(200, response, &terms(mode)), expected, "{response:?} {mode:?}");
        }
    }
    let others = Terms { target_list: [].into(), ..terms(Honour) };
    assert_eq!(fresh(200, &[("cdn-cache-control", "max-age=100")], &others), Ok(300));
}

#[test]
fn reads_by_other_methods() {
    let query = Method::from_bytes(b"QUERY").unwrap();
    for method in [&Method::POST, &query] {
        assert_eq!(full(method, &[], 200, &[], &terms(Stricter)).unwrap().fresh, secs(300));
    }
    let modified: Fields<'_> = &[("last-modified", &ago(1000))];
    assert_eq!(full(&query, &[], 200, modified, &terms(Honour)).unwrap().fresh, secs(100));
    // No heuristic for POST.
    assert_eq!(full(&Method::POST, &[], 200, modified, &terms(Honour)).unwrap().fresh, secs(300));
}

#[test]
fn lifetimes_by_status_and_mode() {
    use NotStored::{NoLifetime, NoNegativeTtl, Status};
    type Column = Result<u64, NotStored>;
    let all = |r: Column| [r, r, r];
    // Status, Cache-Control, then Stricter, Ignore, Honour: with the operator's lifetimes, and without.
    let table: [(u16, &str, [Column; 3], [Column; 3]); 14] = [
        (200, "public", all(Ok(300)), all(Err(NoLifetime))),
        (203, "public", all(Ok(300)), all(Err(NoLifetime))),
        (204, "public", all(Ok(300)), all(Err(NoLifetime))),
        (301, "public", all(Ok(300)), all(Err(NoLifetime))),
        (308, "public", all(Ok(300)), all(Err(NoLifetime))),
        (200, "max-age=100", [Ok(100), Ok(300), Ok(100)], [Ok(100), Err(NoLifetime), Ok(100)]),
        (200, "max-age=1000", [Ok(300), Ok(300), Ok(1000)], [Ok(1000), Err(NoLifetime), Ok(1000)]),
        (200, "max-age=1000, s-maxage=5", [Ok(5), Ok(300), Ok(5)], [Ok(5), Err(NoLifetime), Ok(5)]),
        (404, "public", all(Ok(10)), all(Err(NoNegativeTtl))),
        (410, "max-age=5", [Ok(5), Ok(10), Ok(5)], [Ok(5), Err(NoNegativeTtl), Ok(5)]),
        (404, "max-age=1000", [Ok(10), Ok(10), Ok(1000)], [Ok(1000), Err(NoNegativeTtl), Ok(1000)]),
        (302, "public", all(Err(Status)), all(Err(Status))),
        (302, "max-age=60", [Ok(60), Err(Status), Ok(60)], [Ok(60), Err(Status), Ok(60)]),
        (403, "max-age=1000", [Ok(300), Err(Status), Ok(1000)], [Ok(1000), Err(Status), Ok(1000)]),
    ];
    for (status, line, with, without) in table {
        for (i, mode) in MODES.into_iter().enumerate() {
            assert_eq!(fresh(status, &cc(line), &terms(mode)), with[i], "{status} {line} {mode:?}");
            assert_eq!(fresh(status, &cc(line), &no_ttl(mode)), without[i], "{status} {line} {mode:?} bare");
        }
    }
}

#[test]
fn a_negative_answer_without_its_own_ttl_is_capped_by_ttl() {
    let terms = Terms { negative_ttl: None, ..terms(Stricter) };
    assert_eq!(fresh(404, &cc("max-age=1000"), &terms), Ok(300));
    assert_eq!(fresh(404, &[], &terms), Err(NotStored::NoNegativeTtl));
}

#[test]
fn expires_counts_where_max_age_is_silent() {
    let (date, later) = (ago(0), Timestamp(NOW.0 + 20_000).to_http_date());
    let validated = ("etag", "\"v\"");
    let fields: Fields<'_> = &[("date", &date), ("expires", &later), validated];
    assert_eq!(fresh(200, fields, &terms(Stricter)), Ok(20));
    assert_eq!(fresh(200, fields, &terms(Honour)), Ok(20));
    assert_eq!(fresh(200, fields, &terms(Ignore)), Ok(300));
    let over: Fields<'_> = &[("date", &date), ("expires", "0"), validated];
    assert_eq!(fresh(200, over, &terms(Stricter)), Ok(0));
}

#[test]
fn what_the_backend_states_counts_but_under_ignore() {
    let later = Timestamp(NOW.0 + 20_000).to_http_date();
    let table: [(Fields<'_>, Option<u64>); 4] = [
        (&[], None),
        (&[("last-modified", &ago(1000))], None),
        (&[("cache-control", "max-age=1000, s-maxage=60")], Some(60)),
        (&[("cache-control", "public"), ("expires", &later)], Some(20)),
    ];
    for (response, expected) in table {
        for mode in MODES {
            let stated = stated_lifetime(&headers(response), NOW, &terms(mode));
            assert_eq!(stated, expected.map(secs).filter(|_| mode != Ignore), "{response:?} {mode:?}");
        }
    }
}

#[test]
fn heuristics_are_for_honour_alone() {
    let modified = ago(1000);
    let fields: Fields<'_> = &[("last-modified", &modified)];
    assert_eq!(fresh(200, fields, &terms(Honour)), Ok(100));
    assert_eq!(fresh(404, fields, &no_ttl(Honour)), Ok(100));
    assert_eq!(fresh(405, fields, &no_ttl(Honour)), Ok(100));
    assert_eq!(fresh(200, fields, &terms(Stricter)), Ok(300));
    assert_eq!(fresh(200, fields, &no_ttl(Stricter)), Err(NotStored::NoLifetime));
    assert_eq!(fresh(302, fields, &terms(Honour)), Err(NotStored::Status));
    let public: Fields<'_> = &[("last-modified", &modified), ("cache-control", "public")];
    assert_eq!(fresh(302, public, &terms(Honour)), Ok(100));
}

#[test]
fn what_the_backend_forbids() {
    type Verdict = Result<(), NotStored>;
    let no_store: Verdict = Err(NotStored::NoStore);
    let private: Verdict = Err(NotStored::Private);
    let unknown: Verdict = Err(NotStored::MustUnderstand);
    let table: [(u16, &str, Verdict); 10] = [
        (200, "no-store", no_store),
        (200, "NO-STORE, max-age=100", no_store),
        (200, "Private", private),
        (200, "private=\"x-shown\"", private),
        (200, "private=\"x-absent\"", Ok(())),
        (200, "private, public, max-age=100", private),
        (200, "must-understand, no-store, max-age=100", Ok(())),
        (299, "must-understand, no-store, max-age=100", unknown),
        (206, "must-understand, max-age=100", Err(NotStored::Partial)),
        (200, "max-age=100", Ok(())),
    ];
    for (status, line, expected) in table {
        let response: Fields<'_> = &[("cache-control", line), ("x-shown", "1")];
        for mode in [Stricter, Honour] {
            let verdict = answer(status, response, &terms(mode)).map(drop);
            assert_eq!(verdict, expected, "{status} {line} {mode:?}");
        }
        if status == 200 {
            assert!(answer(status, response, &terms(Ignore)).is_ok(), "{line}");
        }
    }
    for mode in MODES {
        let mine = Terms { per_subject: true, ..terms(mode) };
        assert!(answer(200, &cc("private, max-age=100"), &mine).is_ok());
    }
    let public = Terms { public: true, ..terms(Stricter) };
    assert_eq!(
        answer(200, &cc("private"), &public),
        Err(NotStored::Private),
        "public speaks of credentials only"
    );
}

#[test]
fn authorized_answers() {
    let request: Fields<'_> = &[("authorization", "Bearer x")];
    let no = Err(NotStored::Authorization);
    for (line, by_honour) in [
        ("max-age=9", no),
        ("public, max-age=9", Ok(())),
        ("must-revalidate, max-age=9", Ok(())),
        ("s-maxage=9", Ok(())),
        ("proxy-revalidate, max-age=9", no),
    ] {
        for (mode, expected) in [(Stricter, no), (Ignore, no), (Honour, by_honour)] {
            let verdict = |terms: &Terms| full(&Method::GET, request, 200, &cc(line), terms).map(drop);
            assert_eq!(verdict(&terms(mode)), expected, "{line} {mode:?}");
            assert_eq!(verdict(&Terms { per_subject: true, ..terms(mode) }), Ok(()), "{line} {mode:?}");
            assert_eq!(verdict(&Terms { public: true, ..terms(mode) }), Ok(()), "{line} {mode:?}");
        }
    }
}

#[test]
fn no_cache_needs_a_validator() {
    let tagged: Fields<'_> = &[("cache-control", "no-cache"), ("etag", "\"v\"")];
    for mode in [Stricter, Honour] {
        assert_eq!(answer(200, &cc("no-cache"), &terms(mode)), Err(NotStored::NoCache));
        let kept = answer(200, tagged, &terms(mode)).unwrap();
        assert!(kept.always_validate);
        assert_eq!((kept.stale_while_revalidate, kept.stale_if_error), (secs(0), secs(0)));
        assert_eq!(kept.keep, secs(60));
        let bare = answer(200, tagged, &no_ttl(mode)).unwrap();
        assert_eq!((bare.fresh, bare.always_validate), (secs(0), true));
        assert_eq!(answer(302, tagged, &terms(mode)), Err(NotStored::Status));
    }
    let overruled = answer(200, tagged, &terms(Ignore)).unwrap();
    assert!(!overruled.always_validate);
    assert_eq!(overruled.fresh, secs(300));
    // About a field that is not there: about nothing.
    assert!(!answer(200, &cc("no-cache=\"set-cookie\""), &terms(Stricter)).unwrap().always_validate);
}

#[test]
fn stale_windows_by_whose_word() {
    // Cache-Control, then (SWR, SIE, must_revalidate) under Stricter, Ignore, Honour.
    let operators = (30, 40, false);
    let never = (0, 0, true);
    let table = [
        ("max-age=100", operators, operators, operators),
        ("max-age=100, stale-while-revalidate=7", (7, 40, false), operators, (7, 40, false)),
        ("max-age=100, stale-if-error=0", (30, 0, false), operators, (30, 0, false)),
        ("max-age=100, stale-while-revalidate", (0, 40, false), operators, (0, 40, false)),
        ("max-age=100, must-revalidate", never, operators, never),
        ("max-age=100, must-revalidate, stale-while-revalidate=7", never, operators, never),
        ("max-age=100, proxy-revalidate", never, operators, never),
        ("s-maxage=100", never, operators, never),
        ("s-maxage=100, stale-while-revalidate=7", (7, 0, true), operators, never),
        ("s-maxage=100, proxy-revalidate, stale-while-revalidate=7", never, operators, never),
    ];
    for (line, stricter, ignore, honour) in table {
        for (mode, expected) in [(Stricter, stricter), (Ignore, ignore), (Honour, honour)] {
            let found = answer(200, &cc(line), &terms(mode)).unwrap();
            let windows = (
                found.stale_while_revalidate.as_secs(),
                found.stale_if_error.as_secs(),
                found.must_revalidate,
            );
            assert_eq!(windows, expected, "{line} {mode:?}");
        }
    }
    let silent = Terms { stale_while_revalidate: None, stale_if_error: None, ..terms(Stricter) };
    let none = answer(200, &[], &silent).unwrap();
    assert_eq!((none.stale_while_revalidate, none.stale_if_error), (secs(0), secs(0)));
}

#[test]
fn keep_is_for_what_can_be_validated() {
    let modified = ago(1000);
    let just_now = ago(0);
    let table: [(Fields<'_>, u64); 7] = [
        (&[], 0),
        (&[("etag", "\"v\"")], 60),
        (&[("etag", "W/\"v\"")], 60),
        (&[("etag", "")], 0),
        (&[("last-modified", &modified)], 60),
        (&[("last-modified", &just_now)], 0),
        (&[("last-modified", "junk")], 0),
    ];
    for (response, expected) in table {
        let kept = answer(200, response, &terms(Stricter)).unwrap();
        assert_eq!(kept.keep, secs(expected), "{response:?}");
    }
}

#[test]
fn what_is_over_on_arrival() {
    let plain = Terms { stale_while_revalidate: None, stale_if_error: None, ..terms(Stricter) };
    let expired = Err(NotStored::Expired);
    assert_eq!(fresh(200, &cc("max-age=0"), &plain), expired);
    assert_eq!(fresh(200, &cc("max-age=nonsense"), &plain), expired);
    assert_eq!(fresh(200, &[("age", "300")], &plain), expired);
    assert_eq!(fresh(200, &[("age", "299")], &plain), Ok(300));
    assert_eq!(fresh(200, &[("age", "99999999999")], &plain), expired);
    // Something can still be done with these.
    assert_eq!(fresh(200, &[("cache-control", "max-age=0"), ("etag", "\"v\"")], &plain), Ok(0));
    assert_eq!(fresh(200, &cc("max-age=0, stale-while-revalidate=9"), &plain), Ok(0));
    assert_eq!(fresh(200, &[("age", "300"), ("etag", "\"v\"")], &plain), Ok(300));
    // The time that the upstream took counts (RFC 9111 §4.2.3).
    let slow = admit(
        &Method::GET,
        &HeaderMap::new(),
        StatusCode::OK,
        &headers(&cc("max-age=5")),
        Timestamp(NOW.0 - 5000),
        NOW,
        &plain,
    );
    assert_eq!(slow, Err(NotStored::Expired));
}

#[test]
fn a_backend_whose_clock_is_wrong_is_still_cached() {
    for skew in [ago(3600), Timestamp(NOW.0 + 3_600_000).to_http_date()] {
        assert_eq!(fresh(200, &[("date", &skew)], &terms(Stricter)), Ok(300), "{skew}");
    }
}

prop_compose! {
    fn any_terms()(
        ttl in proptest::option::of(0..1000u64), negative in proptest::option::of(0..1000u64),
        swr in proptest::option::of(0..1000u64), keep in 0..1000u64, mode in 0..3usize,
        per_subject: bool, public: bool, store_set_cookie: bool, store_errors: bool,
    ) -> Terms {
        Terms {
            ttl: ttl.map(secs),
            negative_ttl: negative.map(secs),
            stale_while_revalidate: swr.map(secs),
            stale_if_error: swr.map(secs),
            keep: secs(keep),
            origin: MODES[mode],
            per_subject,
            public,
            store_set_cookie,
            store_errors,
            ..Terms::default()
        }
    }
}

proptest! {
    #[test]
    fn deciding_never_panics_and_never_keeps_what_must_not_be_kept(
        terms in any_terms(),
        status in 100..1000u16,
        line in "((no-store|private|public|no-cache|max-age|s-maxage|must-understand)(=\"?[a-z0-9-]{0,6}\"?)?,? ?){0,4}",
        other in proptest::collection::vec((0..6usize, "[ -~]{0,20}"), 0..4),
        authorized: bool, from: u64, to: u64,
    ) {
        const NAMES: [&str; 6] = ["age", "expires", "vary", "set-cookie", "etag", "last-modified"];
        let mut response = HeaderMap::new();
        response.append("cache-control", HeaderValue::from_str(&line).unwrap());
        for (name, value) in &other {
            response.append(NAMES[*name], HeaderValue::from_str(value).unwrap());
        }
        let mut request = HeaderMap::new();
        if authorized {
            request.append(AUTHORIZATION, HeaderValue::from_static("x"));
        }
        let code = StatusCode::from_u16(status).unwrap();
        let verdict = admit(&Method::GET, &request, code, &response, Timestamp(from), Timestamp(to), &terms);
        if let Ok(lifetimes) = verdict {
            prop_assert!(status >= 200 && status != 206 && status != 304);
            prop_assert!(status < 500 || terms.store_errors);
            prop_assert!(terms.store_set_cookie || !response.contains_key(SET_COOKIE));
            prop_assert!(lifetimes.gone_after() > Duration::ZERO);
            if terms.origin != Ignore {
                let backend = ResponseDirectives::of(&response, &[]);
                prop_assert!(!backend.no_store || backend.must_understand);
                prop_assert!(terms.per_subject || !backend.private.reaches(&response));
            }
            if terms.origin == Stricter {
                let bound = [terms.ttl, terms.negative_ttl].into_iter().flatten().max();
                let bound = terms.ttl.and(bound);
                prop_assert!(bound.is_none_or(|bound| lifetimes.fresh <= bound));
            }
            if terms.origin != Honour {
                prop_assert!(!authorized || terms.per_subject || terms.public);
            }
        }
    }
}
