use http::{HeaderName, Request};
use proptest::prelude::*;

use super::*;

/// A route as plain as can be.
pub(crate) fn route(methods: &str, path: &str) -> Route {
    Route {
        index: usize::MAX,
        name: format!("{methods} {path}").into(),
        matcher: Matcher {
            methods: methods.split('|').map(|m| m.parse().unwrap()).collect(),
            path: PathTemplate::parse(path).unwrap(),
            host: None,
            conditions: Vec::new(),
        },
        cache: true,
        terms: Terms::default(),
        jitter: 0.0,
        subject: SubjectSpec::None,
        public: false,
        any_host: false,
        query: QueryRules::default(),
        ignore: Vec::new(),
        vary: Vec::new(),
        body_key: None,
        tags: Vec::new(),
        compress: None,
        max_body: 1 << 20,
        coalesce: Coalesce::Local,
        no_vary_search: false,
        fetch_whole: u64::MAX,
    }
}

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn found(table: &RouteTable, method: &str, uri: &str) -> Option<String> {
    table.find(&parts(method, uri, &[]), "h").map(|route| route.name.to_string())
}

#[test]
fn the_first_in_file_order_wins() {
    let table = RouteTable::new(vec![
        route("GET", "/a/{id}"),
        route("GET", "/a/b"),
        route("GET", "/**"),
        route("POST", "/a/b"),
        route("GET", "/c"),
    ]);
    assert_eq!(found(&table, "GET", "/a/b").as_deref(), Some("GET /a/{id}"));
    assert_eq!(found(&table, "POST", "/a/b").as_deref(), Some("POST /a/b"));
    assert_eq!(found(&table, "GET", "/c").as_deref(), Some("GET /**"));
    assert_eq!(found(&table, "GET", "/a/b/c").as_deref(), Some("GET /**"));
    assert_eq!(found(&table, "DELETE", "/a/b"), None);
    let indices: Vec<usize> = table.iter().map(|r| r.index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    let hit = table.find(&parts("GET", "/a/x%20y?z", &[]), "h").unwrap();
    assert_eq!(hit.matcher.path.matches("/a/x%20y").unwrap().get("id"), Some("x y"));
}

#[test]
fn head_is_get() {
    let table = RouteTable::new(vec![route("GET|POST", "/a"), route("POST", "/b")]);
    assert!(found(&table, "HEAD", "/a").is_some());
    assert!(found(&table, "POST", "/a").is_some());
    assert!(found(&table, "HEAD", "/b").is_none());
    assert!(found(&table, "OPTIONS", "*").is_none());
}

#[test]
fn hosts() {
    for (pattern, host, expected) in [
        ("api.example.com", "api.example.com", true),
        ("api.example.com", "api.example.com:8080", true),
        ("api.example.com:8080", "api.example.com:8080", true),
        ("api.example.com:8080", "api.example.com", false),
        ("api.example.com", "xapi.example.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com:81", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "aexample.com", false),
        ("[::1]", "[::1]:80", true),
        ("[::1]", "[::1]", true),
        ("a", "", false),
    ] {
        assert_eq!(host_matches(pattern, host), expected, "{pattern} {host}");
    }
}

#[test]
fn conditions_must_all_hold() {
    let mut picky = route("GET", "/a");
    let version = HeaderName::from_static("x-v");
    picky.matcher.conditions = vec![
        Condition::Header(version, Some("2".into())),
        Condition::Header(HeaderName::from_static("x-there"), None),
        Condition::Query("format".into(), Some("json".into())),
        Condition::Query("debug".into(), None),
    ];
    let table = RouteTable::new(vec![picky]);
    let good = [("x-v", "1"), ("x-v", "2"), ("x-there", "")];
    assert!(table.find(&parts("GET", "/a?format=%6Ason&debug", &good), "h").is_some());
    for (uri, fields) in [
        ("/a?format=json&debug", &good[..1]),
        ("/a?format=json&debug", &good[1..2]),
        ("/a?format=xml&debug", &good[..]),
        ("/a?format=json", &good[..]),
        ("/a", &good[..]),
    ] {
        assert!(table.find(&parts("GET", uri, fields), "h").is_none(), "{uri} {fields:?}");
    }
}

#[test]
fn the_host_of_a_request() {
    for (uri, fields, host) in [
        ("/a", &[("host", "API.Example.com:80")][..], "api.example.com"),
        ("/a", &[("host", "a:443")], "a:443"),
        ("/a", &[("host", "a:8080")], "a:8080"),
        ("/a", &[("host", "[::1]:80")], "[::1]"),
        ("/a", &[("host", "[::1]")], "[::1]"),
        ("/a", &[("host", "a:")], "a"),
        ("/a", &[("host", "a"), ("host", "b")], "a,b"),
        ("/a", &[], ""),
        ("http://b/a", &[("host", "a")], "b"),
        ("https://b:443/a", &[], "b"),
        ("https://b:80/a", &[], "b:80"),
        ("http://u:p@b:80/a", &[], "b"),
    ] {
        assert_eq!(request_host(&parts("GET", uri, fields), "http"), host, "{uri} {fields:?}");
    }
    // An answer may hold links made of its host: `https://a:80` is another place than `https://a`.
    for (uri, given, host) in [("/a", "a:443", "a"), ("/a", "a:80", "a:80"), ("http://b:80/a", "a", "b")] {
        assert_eq!(request_host(&parts("GET", uri, &[("host", given)]), "https"), host, "{uri} {given}");
    }
}

/// The routes that are tried until all of them have been, in the table's order.
fn candidates(table: &RouteTable, parts: &Parts, host: &str) -> Vec<usize> {
    let tried = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let fits = |at| {
        tried.borrow_mut().insert(at);
        false
    };
    let rest = parts.uri.path().strip_prefix('/');
    table.index.first(rest, &Asked { parts, host, fits }, table.routes.len());
    tried.into_inner().into_iter().collect()
}

#[test]
fn many_routes_stay_cheap_to_search() {
    let routes = (0..500).map(|i| route("GET", &format!("/api/v1/r{i}/{{id}}"))).collect();
    let table = RouteTable::new(routes);
    let tried = candidates(&table, &parts("GET", "/api/v1/r499/7", &[]), "h");
    assert_eq!(tried, [499]);
    assert_eq!(found(&table, "GET", "/api/v1/r499/7").as_deref(), Some("GET /api/v1/r499/{id}"));
}

/// One template for all, and hosts and fields to tell them apart by.
#[test]
fn many_hosts_and_fields_stay_cheap_to_search() {
    let mut routes: Vec<Route> = (0..500).map(|_| route("GET", "/api/{id}")).collect();
    for (i, route) in routes.iter_mut().enumerate() {
        let tenant = Condition::Header(HeaderName::from_static("x-tenant"), Some(format!("t{i}")));
        match i % 2 {
            0 => route.matcher.host = Some(format!("h{i}")),
            _ => route.matcher.conditions = vec![tenant],
        }
    }
    let table = RouteTable::new(routes);
    let ask = parts("GET", "/api/7", &[("x-tenant", "t499"), ("x-tenant", "t499"), ("x-tenant", "t7")]);
    assert_eq!(candidates(&table, &ask, "h498:81"), [7, 498, 499]);
    assert_eq!(table.find(&ask, "other").unwrap().index, 7);
    assert_eq!(table.find(&parts("GET", "/api/7", &[]), "h498").unwrap().index, 498);
}

proptest! {
    #[test]
    fn the_index_agrees_with_trying_each(
        templates in prop::collection::vec("(/(a|b|\\{x\\}|\\*)){0,3}(/|/\\*\\*|/a)", 1..12),
        path in "(/(a|b|%61|)){1,4}",
        hosts in prop::collection::vec(prop::option::of("h|h:81|\\*\\.h|i"), 12),
        wanted in prop::collection::vec(prop::option::of(("x-[ab]", prop::option::of("[12]"))), 12),
        host in "(h|a\\.h|i)(:81)?",
        given in prop::collection::vec(("x-[ab]", "[12]"), 0..4),
    ) {
        let mut routes: Vec<Route> = templates
            .iter()
            .filter(|t| PathTemplate::parse(t).is_ok())
            .map(|t| route("GET", t))
            .collect();
        for (route, (host, wanted)) in routes.iter_mut().zip(hosts.into_iter().zip(wanted)) {
            route.matcher.host = host;
            route.matcher.conditions =
                wanted.into_iter().map(|(name, value)| Condition::Header(name.parse().unwrap(), value)).collect();
        }
        let given: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let parts = parts("GET", &path, &given);
        let naive = routes.iter().position(|r| r.matcher.fits(&parts, &host));
        let table = RouteTable::new(routes);
        prop_assert_eq!(table.find(&parts, &host).map(|route| route.index), naive);
    }
}
