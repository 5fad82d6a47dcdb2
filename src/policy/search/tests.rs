use http::{HeaderMap, HeaderValue};

use super::*;
use crate::policy::query::QueryRules;
use crate::policy::route::tests::route;
use crate::policy::tags::TagTemplate;
use crate::semantics::search::NO_VARY_SEARCH;

fn rule(line: &str) -> Variance {
    let mut headers = HeaderMap::new();
    headers.insert(NO_VARY_SEARCH, HeaderValue::from_str(line).unwrap());
    Variance::of(&headers).unwrap()
}

fn with(tags: &[&str], query: QueryRules) -> Route {
    let tags = tags.iter().map(|tag| TagTemplate::parse(tag).unwrap()).collect();
    Route { tags, query, ..route("GET", "/x") }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn a_tag_made_of_what_is_dropped_speaks_against_it() {
    let route = with(&["all", "p:x", "session:{query.session}"], QueryRules::default());
    let tag = Some(Conflict::Tag("session:{query.session}".into()));
    assert_eq!(conflict(&route, &rule("params=(\"utm\" \"session\")")), tag);
    assert_eq!(conflict(&route, &rule("except=(\"id\")")), tag);
    assert_eq!(conflict(&route, &rule("params=(\"utm\")")), None);
    assert_eq!(conflict(&route, &rule("except=(\"session\")")), None);
    assert_eq!(conflict(&route, &rule("key-order")), None);
}

#[test]
fn the_operators_lists_speak_against_it() {
    let sets = with(&[], QueryRules { sets: strings(&["ids"]), ..QueryRules::default() });
    assert_eq!(conflict(&sets, &rule("params=(\"ids\")")), Some(Conflict::Set("ids".into())));
    assert_eq!(conflict(&sets, &rule("except=(\"ids\")")), None);
    let only = with(&[], QueryRules { only: Some(strings(&["id", "f_*"])), ..QueryRules::default() });
    assert_eq!(conflict(&only, &rule("params=(\"id\")")), Some(Conflict::Only("id".into())));
    assert_eq!(conflict(&only, &rule("params=(\"f_x\")")), Some(Conflict::Only("f_*".into())));
    assert_eq!(conflict(&only, &rule("except=(\"id\")")), Some(Conflict::Only("f_*".into())));
    assert_eq!(conflict(&only, &rule("params=(\"utm\")")), None);
    let ignored = with(&[], QueryRules { ignore: strings(&["utm"]), ..QueryRules::default() });
    assert_eq!(conflict(&ignored, &rule("params=(\"utm\")")), None, "both say the same");
}

#[test]
fn each_reason_says_which() {
    for (conflict, word) in [
        (Conflict::Tag("a:{query.b}".into()), "`a:{query.b}`"),
        (Conflict::Set("b".into()), "`sets`"),
        (Conflict::Only("b".into()), "`only`"),
    ] {
        assert!(conflict.to_string().contains(word), "{conflict}");
    }
}
