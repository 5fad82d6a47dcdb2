//! Purges for one subject, purges by operators, and the fingerprint.

use super::*;

#[test]
fn same_subject_rules_reach_the_caller_alone() {
    let list = route("list", by_auth(), &["session:{query.s}", "flag"]);
    let narrowings: [(&str, PurgeRule); 5] = [
        ("everything of the caller's", rule("PUT /x/{id}", &[])),
        ("a tag", rule("PUT /x/{id}", &["session:{path.id}"])),
        ("a bare tag", rule("PUT /x/{id}", &["flag"])),
        ("a path", with_paths(&["/l/**"])),
        ("a route", PurgeRule { routes: vec!["list".into()], ..rule("PUT /x/{id}", &[]) }),
    ];
    for (what, rule) in narrowings {
        let plan = plan(from_ref(&list), vec![same(rule)]);
        let entry = |user: &str, query: &str| call("/l", query).by(user).entry(&plan, &list);
        let purge = call("/x/1", "").by("a").purge(&plan, "PUT");
        assert!(hit(&entry("a", "s=1"), &purge), "{what}");
        assert!(hit(&entry("a", ""), &purge), "{what}");
        assert!(!hit(&entry("b", "s=1"), &purge), "{what}");
        assert!(!hit(&entry("b", ""), &purge), "{what}");
        // Without its credential the caller might be anybody.
        let unknown = call("/x/1", "").purge(&plan, "PUT");
        assert!(hit(&entry("a", "s=1"), &unknown) && hit(&entry("b", "s=1"), &unknown), "{what}");
    }
}

#[test]
fn same_subject_and_other_values_do_not_meet() {
    let list = route("list", by_auth(), &["session:{query.s}"]);
    let plan = plan(from_ref(&list), vec![same(rule("PUT /x/{id}", &["session:{path.id}"]))]);
    let entry = call("/l", "s=2").by("a").entry(&plan, &list);
    assert!(!hit(&entry, &call("/x/1", "").by("a").purge(&plan, "PUT")));
    // An operator's purge is not narrowed, and shared answers hold the caller's data too.
    assert!(hit(&entry, &plan.named(&SECRET, &["session:2".into()], &[], &[], &[]).unwrap()));
    let shared = route("shared", SubjectSpec::None, &["session:{query.s}"]);
    let entry = call("/s", "s=1").entry(&plan, &shared);
    assert!(hit(&entry, &call("/x/1", "").by("a").purge(&plan, "PUT")));
}

#[test]
fn callers_as_values() {
    let mine = route("mine", by_auth(), &["user:{subject}"]);
    let plan = plan(from_ref(&mine), vec![rule("PUT /x/{id}", &["user:{subject}"])]);
    let entry = |user: &str| call("/l", "").by(user).entry(&plan, &mine);
    let purge = call("/x/1", "").by("a").purge(&plan, "PUT");
    assert!(hit(&entry("a"), &purge) && !hit(&entry("b"), &purge));
    let unknown = call("/x/1", "").purge(&plan, "PUT");
    assert!(hit(&entry("b"), &unknown));
}

#[test]
fn the_plan_knows_each_subject_spec_once() {
    let public =
        Arc::new(Route { public: true, ..(*route("p", SubjectSpec::Cookie("x".into()), &[])).clone() });
    let routes = [
        route("a", by_auth(), &[]),
        route("b", by_auth(), &[]),
        route("c", SubjectSpec::Cookie("sid".into()), &[]),
        route("d", SubjectSpec::None, &[]),
        public,
    ];
    assert_eq!(plan(&routes, vec![]).subject_specs.len(), 3);
}

#[test]
fn what_an_operator_can_name() {
    let any = route("any", SubjectSpec::None, &["session:{query.s}", "flag"]);
    let plan = plan(from_ref(&any), vec![with_paths(&["/users/*/orders", "/u/{id}/*"])]);
    let entry = call("/users/7/orders", "s=a*b").entry(&plan, &any);
    let named = |tags: &[&str], paths: &[&str], routes: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        plan.named(&SECRET, &own(tags), &own(paths), &own(routes), &["any", "other"])
    };
    for (tags, paths, routes, expected) in [
        (&["*"][..], &[][..], &[][..], true),
        (&["session:a%2Ab"], &[], &[], true),
        (&["session:b"], &[], &[], false),
        (&["session:*"], &[], &[], true),
        (&["session:?"], &[], &[], true),
        (&["other:*"], &[], &[], false),
        (&["flag"], &[], &[], true),
        (&["Flag"], &[], &[], false),
        (&["route:any"], &[], &[], true),
        (&["path:/users/7/orders"], &[], &[], true),
        (&["prefix:/users"], &[], &[], true),
        (&["prefix:/"], &[], &[], true),
        (&[NOBODY], &[], &[], true),
        (&[], &["/users/7/orders"], &[], true),
        (&[], &["/users/7/orders/?x#y"], &[], true),
        (&[], &["/%75sers/7/orders"], &[], true),
        (&[], &["/users/8/orders"], &[], false),
        (&[], &["/users/**"], &[], true),
        (&[], &["/user/**"], &[], false),
        (&[], &["/**"], &[], true),
        (&[], &["/users/*/orders"], &[], true),
        (&[], &["/u/{id}/*"], &[], true),
        (&[], &[], &["any"], true),
        (&[], &[], &["other"], false),
        (&[], &[], &[], false),
    ] {
        let purge = named(tags, paths, routes).unwrap();
        assert_eq!(hit(&entry, &purge), expected, "{tags:?} {paths:?} {routes:?}");
        assert!(purge.tags.is_sorted());
    }
    for (tags, paths, routes, part) in [
        (&["session:a*"][..], &[][..], &[][..], "%2A"),
        (&["session:"], &[], &[], "%2A"),
        (&["a b"], &[], &[], "allowed are"),
        (&["a b:c"], &[], &[], "allowed are"),
        (&["subject:x"], &[], &[], "64 hex"),
        (&["route:none"], &[], &[], "any, other"),
        (&[], &["users"], &[], "begin with `/`"),
        (&[], &["/x/*/y"], &[], "/users/*/orders"),
        (&[], &["/x/*/y/**"], &[], "declares"),
        (&[], &[], &["none"], "any, other"),
    ] {
        let error = named(tags, paths, routes).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(named(&["session:a%2Ab"], &[], &[]).unwrap().names[3], "session:a%2Ab");
}

#[test]
fn the_fingerprint_is_stable_and_tells_plans_apart() {
    let a = || route("a", SubjectSpec::None, &["session:{query.s}"]);
    let base = plan(&[a()], vec![rule("PUT /x", &["session:*"]), rule("PUT /y", &[])]).fingerprint;
    let swapped = plan(&[a()], vec![rule("PUT /y", &[]), rule("PUT /x", &["session:*"])]).fingerprint;
    assert_eq!(base, swapped);
    // Written down: another process and another build must come to the same.
    assert_eq!(TagPlan::new(&[], vec![], 128).fingerprint, EMPTY_FINGERPRINT);
    let others = [
        plan(&[], vec![]),
        plan(&[a()], vec![]),
        plan(&[a()], vec![rule("PUT /x", &["session:*"])]),
        plan(&[a()], vec![same(rule("PUT /x", &["session:*"])), rule("PUT /y", &[])]),
        plan(&[route("b", SubjectSpec::None, &["session:{query.s}"])], vec![]),
        plan(&[route("a", by_auth(), &["session:{query.s}"])], vec![]),
        plan(&[route("a", SubjectSpec::None, &[])], vec![]),
        plan(&[a()], vec![with_paths(&["/x"])]),
        plan(&[a()], vec![PurgeRule { routes: vec!["a".into()], ..rule("PUT /x", &[]) }]),
        plan(&[a()], vec![PurgeRule { soft: true, ..rule("PUT /x", &["session:*"]) }, rule("PUT /y", &[])]),
        TagPlan::new(&[a()], vec![], 64),
    ];
    let distinct: BTreeSet<u64> = others.iter().map(|p| p.fingerprint).chain([base]).collect();
    assert_eq!(distinct.len(), others.len() + 1);
    assert!(!distinct.contains(&0));
    let settled = PurgeRule { settle: Duration::from_secs(2), ..rule("PUT /y", &[]) };
    assert_eq!(base, plan(&[a()], vec![rule("PUT /x", &["session:*"]), settled]).fingerprint);
}

const EMPTY_FINGERPRINT: u64 = 10_111_486_310_413_042_550;
