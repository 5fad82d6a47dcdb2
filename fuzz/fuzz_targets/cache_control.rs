//! `Cache-Control` of requests and responses, `Pragma`, and targeted fields (RFC 9111 §5.2, RFC 9213).
#![no_main]

use std::time::Duration;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weir::semantics::cache_control::{LONGEST, RequestDirectives, ResponseDirectives, Scope};
use weir::semantics::storing::CDN_CACHE_CONTROL;
use weir_fuzz::{lines, map_values, sections};

fuzz_target!(|data: &[u8]| {
    let [said, more, targeted] = sections(data);
    let headers = lines(&CACHE_CONTROL, said);
    response(&headers, more);
    request(&headers, more);
    self::targeted(&headers, targeted);
});

fn response(headers: &HeaderMap, more: &[u8]) {
    let found = ResponseDirectives::of(headers, &[]);
    assert!(!found.targeted);
    bounded(&found);
    // Names of directives and fields have no case.
    let shouted = map_values(headers, |_, value| value.to_ascii_uppercase());
    assert_eq!(found, ResponseDirectives::of(&shouted, &[]));
    // What was understood can be said plainly.
    let plain = HeaderMap::from_iter([(CACHE_CONTROL, render(&found))]);
    assert_eq!(normal(&found), normal(&ResponseDirectives::of(&plain, &[])), "{plain:?}");
    // Another line takes nothing back.
    let mut longer = headers.clone();
    for line in &lines(&CACHE_CONTROL, more) {
        longer.append(CACHE_CONTROL, line.1.clone());
    }
    stricter(&ResponseDirectives::of(&longer, &[]), &found);
    longer.append(CACHE_CONTROL, HeaderValue::from_static("no-store, private, max-age=0"));
    let forbidden = ResponseDirectives::of(&longer, &[]);
    assert!(forbidden.no_store && forbidden.private == Scope::Whole);
    assert_eq!(forbidden.max_age, Some(Duration::ZERO));
}

fn bounded(found: &ResponseDirectives) {
    let windows = [found.max_age, found.s_maxage, found.stale_while_revalidate, found.stale_if_error];
    for window in windows.into_iter().flatten() {
        assert!(window <= LONGEST && window.subsec_nanos() == 0);
    }
    for scope in [&found.no_cache, &found.private] {
        assert_ne!(*scope, Scope::Fields(Vec::new()));
    }
}

/// `more` was said on top of `less`: it forbids at least as much, and grants no longer lifetime.
fn stricter(more: &ResponseDirectives, less: &ResponseDirectives) {
    assert!(more.no_store >= less.no_store && more.must_understand >= less.must_understand);
    assert!(more.must_revalidate >= less.must_revalidate && more.proxy_revalidate >= less.proxy_revalidate);
    assert!(more.no_transform >= less.no_transform);
    let no_longer =
        |more: Option<Duration>, less: Option<Duration>| less.is_none() || more <= less && more.is_some();
    assert!(no_longer(more.max_age, less.max_age) && no_longer(more.s_maxage, less.s_maxage));
    assert!(no_longer(more.stale_while_revalidate, less.stale_while_revalidate));
    assert!(no_longer(more.stale_if_error, less.stale_if_error));
    for (more, less) in [(&more.no_cache, &less.no_cache), (&more.private, &less.private)] {
        match (more, less) {
            (Scope::Whole, _) | (_, Scope::Absent) => {}
            (Scope::Fields(more), Scope::Fields(less)) => {
                assert!(less.iter().all(|name| more.contains(name)))
            }
            _ => panic!("{less:?} became {more:?}"),
        }
    }
}

/// In its plainest spelling.
fn render(found: &ResponseDirectives) -> HeaderValue {
    let mut out = Vec::new();
    let flags = [
        (found.no_store, "no-store"),
        (found.public, "public"),
        (found.must_revalidate, "must-revalidate"),
        (found.proxy_revalidate, "proxy-revalidate"),
        (found.must_understand, "must-understand"),
        (found.no_transform, "no-transform"),
    ];
    out.extend(flags.iter().filter(|(said, _)| *said).map(|(_, name)| (*name).to_owned()));
    for (scope, name) in [(&found.no_cache, "no-cache"), (&found.private, "private")] {
        match scope {
            Scope::Absent => {}
            Scope::Whole => out.push(name.to_owned()),
            Scope::Fields(names) => {
                let names: Vec<&str> = names.iter().map(http::HeaderName::as_str).collect();
                out.push(format!("{name}=\"{}\"", names.join(", ")));
            }
        }
    }
    let numbers = [
        (found.max_age, "max-age"),
        (found.s_maxage, "s-maxage"),
        (found.stale_while_revalidate, "stale-while-revalidate"),
        (found.stale_if_error, "stale-if-error"),
    ];
    out.extend(numbers.iter().filter_map(|(said, name)| Some(format!("{name}={}", (*said)?.as_secs()))));
    HeaderValue::try_from(out.join(", ")).expect("names and numbers")
}

fn normal(found: &ResponseDirectives) -> ResponseDirectives {
    ResponseDirectives { targeted: false, ..found.clone() }
}

fn request(headers: &HeaderMap, more: &[u8]) {
    let found = RequestDirectives::of(headers);
    let shouted = map_values(headers, |_, value| value.to_ascii_uppercase());
    assert_eq!(found, RequestDirectives::of(&shouted));
    let windows = [found.max_age, found.min_fresh, found.max_stale, found.stale_if_error];
    assert!(windows.into_iter().flatten().all(|window| window <= LONGEST));
    // `Pragma` speaks where `Cache-Control` is silent, and nowhere else (RFC 9111 §5.4).
    let mut both = headers.clone();
    both.extend(lines(&PRAGMA, more));
    if headers.is_empty() {
        let pragma = RequestDirectives::of(&both);
        assert_eq!(RequestDirectives { no_cache: pragma.no_cache, ..RequestDirectives::default() }, pragma);
    } else {
        assert_eq!(found, RequestDirectives::of(&both));
    }
}

fn targeted(headers: &HeaderMap, said: &[u8]) {
    let targets = [CDN_CACHE_CONTROL];
    let mut both = headers.clone();
    both.extend(lines(&CDN_CACHE_CONTROL, said));
    let found = ResponseDirectives::of(&both, &targets);
    bounded(&found);
    let line: Vec<&[u8]> = both.get_all(CDN_CACHE_CONTROL).iter().map(HeaderValue::as_bytes).collect();
    let line = line.join(&b", "[..]);
    match sfv::Parser::new(&line).parse::<sfv::Dictionary>() {
        Ok(dictionary) if !dictionary.is_empty() => {
            assert!(found.targeted);
            // As its own serialisation it says the same.
            let plain = sfv::FieldType::serialize(&dictionary).expect("not empty");
            let plain =
                HeaderMap::from_iter([(CDN_CACHE_CONTROL, HeaderValue::try_from(plain).expect("ASCII"))]);
            assert_eq!(found, ResponseDirectives::of(&plain, &targets));
            // What it said can be said in `Cache-Control`.
            let plain = HeaderMap::from_iter([(CACHE_CONTROL, render(&found))]);
            assert_eq!(normal(&found), normal(&ResponseDirectives::of(&plain, &[])), "{plain:?}");
        }
        // Not there, empty or no dictionary: `Cache-Control` speaks (RFC 9213 §2.2).
        _ => assert_eq!(found, ResponseDirectives::of(headers, &[])),
    }
}
