mod people;
mod properties;

use std::collections::BTreeSet;
use std::slice::from_ref;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use serde_json::json;

use super::*;
use crate::policy::query::QueryRules;
use crate::policy::route::Coalesce;
use crate::policy::subject::{KeySets, identify};
use crate::semantics::storing::Terms;
use crate::semantics::timestamp::Timestamp;

const SECRET: [u8; 32] = [9; 32];

fn route(name: &str, subject: SubjectSpec, tags: &[&str]) -> Arc<Route> {
    Arc::new(Route {
        index: 0,
        name: name.into(),
        matcher: matcher("GET", "/**"),
        cache: true,
        terms: Terms::default(),
        jitter: 0.0,
        subject,
        public: false,
        any_host: false,
        query: QueryRules::default(),
        ignore: Vec::new(),
        vary: Vec::new(),
        body_key: None,
        tags: tags.iter().map(|t| TagTemplate::parse(t).unwrap()).collect(),
        compress: None,
        max_body: 1,
        coalesce: Coalesce::Local,
        no_vary_search: false,
        fetch_whole: u64::MAX,
    })
}

fn matcher(method: &str, path: &str) -> Matcher {
    Matcher {
        methods: vec![method.parse().unwrap()],
        path: PathTemplate::parse(path).unwrap(),
        host: None,
        conditions: Vec::new(),
    }
}

fn rule(on: &str, tags: &[&str]) -> PurgeRule {
    let (method, path) = on.split_once(' ').unwrap();
    PurgeRule {
        matcher: matcher(method, path),
        text: on.into(),
        tags: tags.iter().map(|t| TagTemplate::parse(t).unwrap()).collect(),
        paths: Vec::new(),
        routes: Vec::new(),
        same_subject: false,
        settle: Duration::ZERO,
        soft: false,
    }
}

fn with_paths(paths: &[&str]) -> PurgeRule {
    PurgeRule {
        paths: paths.iter().map(|p| PathPattern::parse(p).unwrap()).collect(),
        ..rule("PUT /x/{id}", &[])
    }
}

fn same(rule: PurgeRule) -> PurgeRule {
    PurgeRule { same_subject: true, ..rule }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
}

/// A request and what is known about it, owned.
#[derive(Clone)]
struct Call {
    params: PathParams,
    path: String,
    query: String,
    headers: HeaderMap,
    subject: Option<Subject>,
    request: Option<Value>,
    response: Option<Value>,
    response_headers: HeaderMap,
}

fn call(path: &str, query: &str) -> Call {
    Call {
        params: PathParams::default(),
        path: path.into(),
        query: query.into(),
        headers: HeaderMap::new(),
        subject: None,
        request: None,
        response: None,
        response_headers: HeaderMap::new(),
    }
}

fn known(value: Option<&Value>) -> Json<'_> {
    value.map_or(Json::Unknown, Json::Known)
}

impl Call {
    fn response(self, value: Value) -> Call {
        Call { response: Some(value), ..self }
    }

    fn by(self, user: &str) -> Call {
        let headers = headers(&[("authorization", user)]);
        let route = route("any", by_auth(), &[]);
        let subject = identify(&route, &headers, &KeySets::default(), &SECRET, Timestamp(0)).ok();
        Call { headers, subject, ..self }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            params: &self.params,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            subject: self.subject.as_ref(),
            request: known(self.request.as_ref()),
            response: known(self.response.as_ref()),
        }
    }

    fn entry(&self, plan: &TagPlan, route: &Route) -> Vec<Tag> {
        plan.entry_tags(&SECRET, route, &self.facts(), &self.response_headers)
    }

    fn names(&self, plan: &TagPlan, route: &Route) -> BTreeSet<String> {
        plan.entry_names(route, &self.facts(), Some(&self.response_headers)).into_iter().collect()
    }

    /// As a mutation by `method`.
    fn purge(&self, plan: &TagPlan, method: &str) -> TagSet {
        let facts = Facts { subject: None, ..self.facts() };
        let parts = parts(method, &self.path);
        let rules = plan.matching(&parts, "h");
        let sent = Some(&self.response_headers);
        plan.mutation_tags(&SECRET, &rules, &facts, "h", sent, &KeySets::default(), Timestamp(0))
    }
}

#[test]
fn an_answer_that_never_came_may_have_invalidated_any_group() {
    let plan = plan(&[], vec![rule("PUT /x", &["item:{request.id}"])]);
    let (call, parts) = (call("/x", ""), parts("PUT", "/x"));
    let rules = plan.matching(&parts, "h");
    let names = |headers| {
        let keys = KeySets::default();
        plan.mutation_tags(&SECRET, &rules, &call.facts(), "h", headers, &keys, Timestamp(0)).names
    };
    let (answered, unanswered) = (names(Some(&call.response_headers)), names(None));
    assert_eq!(answered, ["item:*", "item:?", "path:/x", "path:/x/"]);
    assert_eq!(unanswered, ["header:*", "header:?", "item:*", "item:?", "path:/x", "path:/x/"]);
    let alone = plan.rule_tags(&SECRET, &rules, &call.facts(), &KeySets::default(), Timestamp(0));
    assert_eq!(alone.names, ["item:*", "item:?"], "the rules' own share");
}

fn parts(method: &str, uri: &str) -> Parts {
    Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
}

fn by_auth() -> SubjectSpec {
    SubjectSpec::Header("authorization".parse().unwrap())
}

fn hit(entry: &[Tag], purge: &TagSet) -> bool {
    purge.tags.iter().any(|tag| entry.binary_search(tag).is_ok())
}

fn plan(routes: &[Arc<Route>], rules: Vec<PurgeRule>) -> TagPlan {
    TagPlan::new(routes, rules, 128)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

const NOBODY: &str = "subject:0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn each_name_is_told_once_and_hashed_as_it_is() {
    let paths = ["", "/", "//", "//a", "/a//b", "/a/", "/a", "/transactions/42", "*"];
    let plain = route("plain", SubjectSpec::None, &["dashboard", "x:{query.x}", "dashboard"]);
    let narrow = rule("PUT /x", &["dashboard", "x:{query.x}"]);
    let plan = plan(from_ref(&plain), vec![PurgeRule { same_subject: true, ..narrow }]);
    for path in paths {
        for call in [call(path, "x=1"), call(path, "x=1").by("ann"), call(path, "x=1").by("bob")] {
            let names = plan.entry_names(&plain, &call.facts(), Some(&HeaderMap::new()));
            let unique: BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{names:?}");
            let hashed: BTreeSet<Tag> = names.iter().map(|name| Tag::of(&SECRET, name)).collect();
            assert!(call.entry(&plan, &plain).into_iter().eq(hashed), "{names:?}");
        }
    }
}

#[test]
fn an_entry_carries_what_it_is_and_where_it_is() {
    let summary = route("summary", SubjectSpec::None, &["session:{query.session_id}", "dashboard"]);
    let plan = plan(from_ref(&summary), vec![]);
    assert_eq!(
        call("/a/b", "session_id=7").names(&plan, &summary),
        set(&[
            "*",
            "route:summary",
            "path:/a/b",
            "prefix:/",
            "prefix:/a",
            "prefix:/a/b",
            NOBODY,
            "dashboard",
            "session:7",
            "session:?",
        ])
    );
    let tags = call("/a/b", "session_id=7").entry(&plan, &summary);
    assert!(tags.is_sorted() && tags.contains(&TagPlan::everything(&SECRET)));
}

#[test]
fn absent_values_carry_the_wildcard() {
    let list = route("list", SubjectSpec::None, &["session:{query.s}", "tx:{response.items[*].id}"]);
    let plan = plan(from_ref(&list), vec![]);
    for (query, response, expected) in [
        ("", json!({"items": []}), &["session:*", "session:?", "tx:*", "tx:?"][..]),
        ("s=", json!({"items": [{"id": null}]}), &["session:*", "session:?", "tx:*", "tx:?"]),
        ("s=1", json!({"items": [{"id": 5}, {}]}), &["session:1", "session:?", "tx:*", "tx:?"]),
        (
            "s=1&s=2",
            json!({"items": [{"id": 5}, {"id": "x"}]}),
            &["session:1", "session:2", "session:?", "tx:5", "tx:x", "tx:?"],
        ),
        ("s=1", json!({"items": [{"id": 1.5}]}), &["session:1", "session:?", "tx:*", "tx:?"]),
        ("s=1", json!({"items": [{"id": {}}]}), &["session:1", "session:?", "tx:*", "tx:?"]),
        ("s=1", json!({"items": {}}), &["session:1", "session:?", "tx:*", "tx:?"]),
        (
            "s=1",
            json!({"items": [{"id": [1, true]}]}),
            &["session:1", "session:?", "tx:1", "tx:true", "tx:?"],
        ),
        ("s=*", json!([]), &["session:%2A", "session:?", "tx:*", "tx:?"]),
        ("s=a+b", json!([]), &["session:a b", "session:a+b", "session:?", "tx:*", "tx:?"]),
    ] {
        let names = call("/", query).response(response.clone()).names(&plan, &list);
        let found: BTreeSet<String> =
            names.into_iter().filter(|n| n.starts_with("session:") || n.starts_with("tx:")).collect();
        assert_eq!(found, set(expected), "{query} {response}");
    }
    assert!(call("/", "").names(&plan, &list).contains("tx:*"));
}

#[test]
fn every_source_gives_values() {
    let all = route(
        "all",
        by_auth(),
        &[
            "a:{path.id}",
            "b:{header.x-t}",
            "c:{subject}",
            "d:{claim.sub}",
            "e:{request.a[1].b}",
            "f:x-{path.id}-{query.q}",
        ],
    );
    let plan = plan(from_ref(&all), vec![]);
    let mut call = call("/u/7", "q=1&q=2").by("u");
    call.params = PathParams(vec![("id".into(), "7".into())]);
    call.headers.append("x-t", HeaderValue::from_static("t1"));
    call.headers.append("x-t", HeaderValue::from_static("t2"));
    call.request = Some(json!({"a": [0, {"b": false}]}));
    if let Some(subject) = &mut call.subject {
        subject.claims =
            vec![("sub".into(), "s1".into()), ("sub".into(), "s2".into()), ("x".into(), "y".into())];
    }
    let names = call.names(&plan, &all);
    let digest = hex(&call.subject.as_ref().unwrap().digest);
    for name in [
        "a:7",
        "b:t1",
        "b:t2",
        "d:s1",
        "d:s2",
        "e:false",
        "f:x-7-1",
        "f:x-7-2",
        "a:?",
        &format!("c:{digest}"),
    ] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    assert!(names.iter().all(|name| !name.ends_with(":*")));
}

#[test]
fn combinations_are_bounded() {
    let pairs = route("pairs", SubjectSpec::None, &["p:{query.a}-{query.b}"]);
    let plan = plan(from_ref(&pairs), vec![]);
    let query = |n: usize| (0..n).map(|i| format!("a={i}&b={i}")).collect::<Vec<_>>().join("&");
    let eight = call("/", &query(8)).names(&plan, &pairs);
    assert!(eight.contains("p:0-7") && !eight.contains("p:*"));
    let nine = call("/", &query(9)).names(&plan, &pairs);
    assert!(!nine.contains("p:0-7") && nine.contains("p:*") && nine.contains("p:?"));
    let long = call("/", &format!("{}&a=x", query(100).replace("a=", "c="))).names(&plan, &pairs);
    assert!(long.contains("p:x-99") && !long.contains("p:*"));
}

#[test]
fn too_many_tags_widen_the_largest_family_alone() {
    let list = route("list", SubjectSpec::None, &["tx:{response[*]}", "session:{query.s}"]);
    let plan = TagPlan::new(from_ref(&list), vec![rule("PUT /x/{id}", &["tx:{path.id}"])], 16);
    let names = call("/", "s=1&s=2").response(json!((0..1000).collect::<Vec<_>>())).names(&plan, &list);
    assert!(names.len() <= 16);
    for name in ["tx:*", "tx:?", "session:1", "session:2"] {
        assert!(names.contains(name), "{name}");
    }
    let entry = call("/", "s=1").response(json!((0..1000).collect::<Vec<_>>())).entry(&plan, &list);
    assert!(hit(&entry, &call("/x/77", "").purge(&plan, "PUT")) || entry.contains(&Tag::of(&SECRET, "tx:*")));
    let tiny = TagPlan::new(from_ref(&list), vec![], 1);
    let names = call("/", "s=1&s=2").response(json!([1, 2])).names(&tiny, &list);
    assert!(names.contains("session:*") && names.contains("tx:*") && names.contains("*"));
}

#[test]
fn deep_paths_and_deep_purges_meet() {
    let any = route("any", SubjectSpec::None, &[]);
    let deep = "/a".repeat(40);
    let plan = plan(from_ref(&any), vec![]);
    let entry = call(&format!("{deep}/x"), "").entry(&plan, &any);
    for below in [
        "/a/**".to_owned(),
        format!("{deep}/**"),
        format!("{deep}/x/**"),
        "/**".to_owned(),
        "/a/a/".to_owned() + "**",
    ] {
        assert!(hit(&entry, &plan.named(&SECRET, &[], from_ref(&below), &[], &[]).unwrap()), "{below}");
    }
    let beside = format!("{}/**", "/b".repeat(40));
    assert!(!hit(&entry, &plan.named(&SECRET, &[], &[beside], &[], &[]).unwrap()));
    assert!(call(&deep, "").names(&plan, &any).len() < 48);
}

#[test]
fn paths_of_rules() {
    let any = route("any", SubjectSpec::None, &[]);
    let rules =
        vec![with_paths(&["/tx/{id}", "/reports/**", "/users/*/orders", "/u/{id}/*/z", "/v/{other}/y"])];
    let plan = plan(from_ref(&any), rules);
    let mut mutation = call("/x/4%2F2", "");
    mutation.params = PathParams::default();
    let purge = mutation.purge(&plan, "PUT");
    for (path, expected) in [
        ("/x/4%2F2", true),
        ("/tx/4%2F2", true),
        ("/tx/4", false),
        ("/tx/42", false),
        ("/reports", true),
        ("/reports/", true),
        ("/reports/2024/q1", true),
        ("/reportsx", false),
        ("/users/7/orders", true),
        ("/users/7/orders/", true),
        ("/users/7/8/orders", false),
        ("/u/4%2F2/b/z", true),
        ("/u/5/b/z", false),
        ("/v/anything", true),
        ("/v", true),
        ("/w", false),
    ] {
        let entry = call(path, "").entry(&plan, &any);
        assert_eq!(hit(&entry, &purge), expected, "{path}");
    }
}

#[test]
fn a_mutation_purges_its_own_uri_and_those_it_names() {
    let any = route("any", SubjectSpec::None, &[]);
    let plan = plan(from_ref(&any), vec![]);
    let entry = |path: &str| call(path, "").entry(&plan, &any);
    let mut created = call("/tx", "");
    created.response_headers = headers(&[
        ("location", "http://h/tx/9?v"),
        ("content-location", "tx/10"),
        ("cache-group-invalidation", "\"g\""),
    ]);
    let purge = created.purge(&plan, "POST");
    for path in ["/tx", "/tx/", "/tx/9", "/tx/10"] {
        assert!(hit(&entry(path), &purge), "{path}");
    }
    assert!(!hit(&entry("/tx/11"), &purge));
    let mut grouped = call("/other", "");
    grouped.response_headers = headers(&[("cache-groups", "\"g\"")]);
    assert!(hit(&grouped.entry(&plan, &any), &purge));
    for odd in ["/%74x", "//tx", "/a/../tx", "/tx;v=1", "/tx/"] {
        assert!(hit(&entry("/tx"), &call(odd, "").purge(&plan, "POST")), "{odd}");
    }
}

#[test]
fn rules_match_leniently_and_once() {
    let plan = plan(&[], vec![rule("PUT /tx/{id}", &["tx:{path.id}"]), rule("POST /tx/{id}", &[])]);
    let found = |uri: &str| -> Vec<Option<String>> {
        plan.matching(&parts("PUT", uri), "h")
            .into_iter()
            .map(|(_, p)| p.get("id").map(str::to_owned))
            .collect()
    };
    assert_eq!(found("/tx/1"), [Some("1".to_owned())]);
    assert_eq!(found("/tx/1/"), [Some("1".to_owned())]);
    assert_eq!(found("//tx/1"), [Some("1".to_owned())]);
    assert_eq!(found("/a/..%2Ftx/1"), [Some("1".to_owned())]);
    assert_eq!(found("/TX/1"), [Some("1".to_owned())]);
    assert_eq!(found("/ty/1"), [None; 0]);
    assert_eq!(found("/tx/1;2"), [Some("1;2".to_owned()), Some("1".to_owned())]);
}

#[test]
fn overridden_methods_and_urls_match_too() {
    let any = route("any", SubjectSpec::None, &[]);
    let plan = plan(from_ref(&any), vec![rule("DELETE /tx/{id}", &["tx:{path.id}"])]);
    let count = |uri: &str, fields: &[(&str, &str)]| {
        let mut parts = parts("POST", uri);
        parts.headers = headers(fields);
        plan.matching(&parts, "h").len()
    };
    assert_eq!(count("/tx/1", &[]), 0);
    assert_eq!(count("/tx/1", &[("x-http-method-override", "delete")]), 1);
    assert_eq!(count("/tx/1", &[("x-method-override", "PUT"), ("x-http-method", " DELETE ")]), 1);
    assert_eq!(count("/tx/1?_method=delete", &[]), 1);
    assert_eq!(count("/tx?_method=delete", &[("x-original-url", "/tx/1?x")]), 1);
    let mut rewritten = call("/", "");
    rewritten.headers = headers(&[("x-rewrite-url", "/tx/1")]);
    assert!(hit(&call("/tx/1", "").entry(&plan, &any), &rewritten.purge(&plan, "POST")));
}

#[test]
fn unknown_values_purge_the_family() {
    let list = route("list", SubjectSpec::None, &["session:{query.s}"]);
    let other = route("other", SubjectSpec::None, &["barber:{query.b}"]);
    let rules = vec![rule("PUT /x/{id}", &["session:{response.s}"])];
    let plan = plan(&[list.clone(), other.clone()], rules);
    let entry = call("/l", "s=1").entry(&plan, &list);
    let unrelated = call("/o", "b=1").entry(&plan, &other);
    for (response, expected) in [
        (Some(json!({"s": 1})), true),
        (Some(json!({"s": 2})), false),
        (Some(json!({"s": null})), true),
        (Some(json!({})), true),
        (Some(json!({"s": []})), true),
        (None, true),
    ] {
        let purge = Call { response: response.clone(), ..call("/x/1", "") }.purge(&plan, "PUT");
        assert_eq!(hit(&entry, &purge), expected, "{response:?}");
        assert!(!hit(&unrelated, &purge));
    }
    let many = json!({"s": (0..5000).collect::<Vec<_>>()});
    assert!(hit(&entry, &call("/x/1", "").response(many).purge(&plan, "PUT")));
}

#[test]
fn header_tags_are_one_family() {
    let any = route("any", SubjectSpec::None, &[]);
    let plan = plan(from_ref(&any), vec![rule("PUT /x/{id}", &["header:users"])]);
    let mut tagged = call("/l", "");
    tagged.response_headers = headers(&[("surrogate-key", "users user:7"), ("cache-tag", "a b")]);
    let entry = tagged.entry(&plan, &any);
    let plain = call("/l", "").entry(&plan, &any);
    assert!(hit(&entry, &call("/x/1", "").purge(&plan, "PUT")));
    assert!(!hit(&plain, &call("/x/1", "").purge(&plan, "PUT")));
    for (tag, expected) in [
        ("users", true),
        ("user:7", true),
        ("header:a b", true),
        ("header:*", true),
        ("user:8", false),
        ("user:*", false),
    ] {
        assert_eq!(
            hit(&entry, &plan.named(&SECRET, &[tag.to_owned()], &[], &[], &[]).unwrap()),
            expected,
            "{tag}"
        );
    }
    let mut broken = call("/l", "");
    broken.response_headers = headers(&[("cache-groups", "\"")]);
    assert!(hit(&broken.entry(&plan, &any), &call("/x/1", "").purge(&plan, "PUT")));
}

#[test]
fn tags_are_keyed() {
    assert_ne!(Tag::of(&SECRET, "a"), Tag::of(&[8; 32], "a"));
    assert_ne!(Tag::of(&SECRET, "a"), Tag::of(&SECRET, "b"));
}

#[test]
fn request_tags_are_what_is_known_before() {
    let list = route("list", SubjectSpec::None, &["session:{query.s}", "tx:{response[*].id}"]);
    let plan = plan(from_ref(&list), vec![]);
    let before = call("/l", "s=1");
    let early = plan.request_tags(&SECRET, &list, &before.facts());
    let of = |name: &str| Tag::of(&SECRET, name);
    assert!(early.contains(&of("session:1")) && early.contains(&of("tx:?")) && !early.contains(&of("tx:*")));
    let late = before.response(json!([{"id": 1}])).entry(&plan, &list);
    assert!(early.iter().all(|tag| late.binary_search(tag).is_ok()));
}

#[test]
fn short_and_long_names_are_hashed_alike() {
    for length in [0, 1, 53, 54, 244, 245, 246, 2000] {
        let name = "n".repeat(length);
        let mut hasher = blake3::Hasher::new_keyed(&SECRET);
        hasher.update(b"weir tag 1\0").update(name.as_bytes());
        let mut head = [0; 8];
        hasher.finalize_xof().fill(&mut head);
        assert_eq!(Tag::of(&SECRET, &name), Tag(u64::from_le_bytes(head)), "{length}");
    }
}
