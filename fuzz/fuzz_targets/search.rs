//! `No-Vary-Search`: which queries are equivalent, and what of a route speaks against a rule
//! (draft-ietf-httpbis-no-vary-search).
#![no_main]

use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weir::config::{Env, load_str};
use weir::policy::Policy;
use weir::policy::query::{QueryRules, values};
use weir::policy::search::{Conflict, conflict};
use weir::semantics::search::{NO_VARY_SEARCH, Variance};
use weir_fuzz::{lines, sections};

fuzz_target!(|data: &[u8]| {
    let [said, one, other] = sections(data);
    let (Ok(one), Ok(other)) = (std::str::from_utf8(one), std::str::from_utf8(other)) else { return };
    let headers = lines(&NO_VARY_SEARCH, said);
    let Some(rule) = Variance::of(&headers) else { return };
    again(&headers, &rule);
    pieces(&rule, one);
    equivalent(&rule, one, other);
    ordered(&headers, one);
    routes(&rule, one, other);
});

/// Said again as one line in its plainest spelling, it is the same rule; with anything unclear beside it, it is none.
fn again(headers: &HeaderMap, rule: &Variance) {
    let line: Vec<&[u8]> = headers.get_all(NO_VARY_SEARCH).iter().map(HeaderValue::as_bytes).collect();
    let dictionary = sfv::Parser::new(&line.join(&b", "[..])).parse::<sfv::Dictionary>().expect("a rule");
    let plain = sfv::FieldType::serialize(&dictionary).expect("not empty");
    // Spaces after commas may make it too long to be believed.
    if plain.len() <= line.iter().map(|line| line.len()).sum() {
        let plain = HeaderMap::from_iter([(NO_VARY_SEARCH, HeaderValue::try_from(plain).expect("ASCII"))]);
        let same = Variance::of(&plain).expect("still a rule");
        assert_eq!((&same, same.canonical()), (rule, rule.canonical()));
    }
    for unclear in ["key-order=1", "params=\"a\"", "except", "=", "params=(\"%ff\")", "params=(a)"] {
        let mut worse = headers.clone();
        worse.append(NO_VARY_SEARCH, HeaderValue::from_static(unclear));
        assert_eq!(Variance::of(&worse), None, "{unclear}");
    }
}

/// As a form reads it; `None` where it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let text = values(&format!("x={text}"), "x").pop()?;
    (!text.contains('\u{fffd}')).then_some(text)
}

fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|piece| !piece.is_empty())
}

fn name(piece: &str) -> &str {
    piece.split('=').next().unwrap_or_default()
}

/// A parameter that is dropped changes nothing wherever it stands; one that is not is seen.
fn pieces(rule: &Variance, query: &str) {
    let Some(reduced) = rule.reduce(query) else { return };
    assert_eq!(rule.reduce(query).as_ref(), Some(&reduced));
    let all: Vec<&str> = pairs(query).collect();
    assert_eq!(rule.reduce(&all.join("&&")).as_ref(), Some(&reduced));
    for (at, piece) in all.iter().enumerate().take(16) {
        let Some(name) = decoded(name(piece)) else { continue };
        assert!(!rule.drops(&name) || rule.drops_some(&name));
        let mut without = all.clone();
        without.remove(at);
        let less = rule.reduce(&without.join("&")).expect("less of what can be read");
        assert_eq!(less == reduced, rule.drops(&name), "{query:?} without {piece:?}");
        assert!(less.len() <= reduced.len());
    }
    let kept: Vec<&str> =
        all.into_iter().filter(|piece| decoded(name(piece)).is_none_or(|name| !rule.drops(&name))).collect();
    assert_eq!(rule.reduce(&kept.join("&")), Some(reduced), "{query:?}");
}

/// Equivalent are those, and those alone, whose parameters that matter have equal values in equal order.
fn equivalent(rule: &Variance, one: &str, other: &str) {
    let (Some(mine), Some(theirs)) = (rule.reduce(one), rule.reduce(other)) else { return };
    let names = || pairs(one).chain(pairs(other)).take(32).filter_map(|piece| decoded(name(piece)));
    if mine == theirs {
        for name in names().filter(|name| !rule.drops(name)) {
            assert_eq!(values(one, &name), values(other, &name), "{one:?} {other:?} {name:?}");
        }
    }
    // What follows both alike does not bring them together or apart.
    let longer = |query: &str| rule.reduce(&format!("{query}&zz=1&a=%20"));
    assert_eq!(longer(one) == longer(other), mine == theirs, "{one:?} {other:?}");
}

/// With `key-order` names have no order, and the values of one name have.
fn ordered(headers: &HeaderMap, query: &str) {
    let mut headers = headers.clone();
    headers.append(NO_VARY_SEARCH, HeaderValue::from_static("key-order"));
    let Some(rule) = Variance::of(&headers) else { return };
    let Some(reduced) = rule.reduce(query) else { return };
    let mut sorted: Vec<(String, &str)> =
        pairs(query).filter_map(|piece| Some((decoded(name(piece))?, piece))).collect();
    if sorted.len() != pairs(query).count() {
        return;
    }
    sorted.sort_by(|a, b| b.0.cmp(&a.0));
    let backwards: Vec<&str> = sorted.iter().map(|(_, piece)| *piece).collect();
    assert_eq!(rule.reduce(&backwards.join("&")).as_ref(), Some(&reduced), "{query:?}");
    // What is asked of the backend means the same as what the client asked.
    let normal = QueryRules::default().normalise(Some(query));
    assert_eq!(rule.reduce(&normal), Some(reduced), "{query:?} {normal:?}");
}

/// Where nothing speaks against a rule, equivalent queries agree on all that the operator's words name.
fn routes(rule: &Variance, one: &str, other: &str) {
    for route in policy().routes.iter() {
        let against = conflict(route, rule);
        match &against {
            Some(Conflict::Tag(tag)) => assert!(rule.drops("session") && tag.contains("{query.session}")),
            Some(Conflict::Set(name)) => assert!(rule.drops(name) && route.query.sets.contains(name)),
            Some(Conflict::Only(name)) => {
                assert!(route.query.only.as_ref().is_some_and(|only| only.contains(name)));
                assert!(rule.drops_some(name.trim_end_matches('*')));
            }
            None => {}
        }
        let normal = |query| route.query.normalise(Some(query));
        let (one, other) = (normal(one), normal(other));
        let (mine, theirs) = (rule.reduce(&one), rule.reduce(&other));
        if against.is_some() || mine.is_none() || mine != theirs {
            continue;
        }
        match &*route.name {
            "tagged" => assert_eq!(values(&one, "session"), values(&other, "session")),
            "sets" => assert_eq!(values(&one, "ids"), values(&other, "ids")),
            "only" => {
                let names = || pairs(&one).chain(pairs(&other)).filter_map(|piece| decoded(name(piece)));
                assert!(names().all(|name| values(&one, &name) == values(&other, &name)));
            }
            unknown => panic!("a route {unknown}"),
        }
    }
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let text = r#"
            listen = "127.0.0.1:1"
            upstream = "http://127.0.0.1:2"
            [defaults]
            ttl = "1m"
            [[route]]
            name = "tagged"
            match = "GET /tagged"
            tags = ["all", "session:{query.session}"]
            [[route]]
            name = "sets"
            match = "GET /sets"
            query = { sets = ["ids"] }
            [[route]]
            name = "only"
            match = "GET /only"
            query = { only = ["id", "f_*"] }
        "#;
        load_str("search", text, &Env::empty()).expect("a configuration").config.policy
    })
}
