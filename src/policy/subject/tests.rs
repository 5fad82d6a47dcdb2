mod tokens;

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::policy::path::PathTemplate;
use crate::policy::query::QueryRules;
use crate::policy::route::{Coalesce, Matcher};
use crate::semantics::storing::Terms;

const SECRET: [u8; 32] = [3; 32];
/// Seconds; tokens below are good around this moment.
const NOW: u64 = 1_700_000_000;

fn route(subject: SubjectSpec) -> Route {
    Route {
        index: 0,
        name: "r".into(),
        matcher: Matcher {
            methods: vec![http::Method::GET],
            path: PathTemplate::parse("/**").unwrap(),
            host: None,
            conditions: Vec::new(),
        },
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
        tags: Vec::new(),
        compress: None,
        max_body: 1,
        coalesce: Coalesce::Local,
        no_vary_search: false,
        fetch_whole: u64::MAX,
    }
}

fn ignoring(subject: SubjectSpec, ignore: &[&str]) -> Route {
    let ignore = ignore
        .iter()
        .map(|text| match text.split_once(':').unwrap() {
            ("cookie", name) => IgnoredCredential::Cookie(name.to_owned()),
            (_, name) => IgnoredCredential::Header(name.parse().unwrap()),
        })
        .collect();
    Route { ignore, ..route(subject) }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap())).collect()
}

fn ask_with(route: &Route, lines: &[(&str, &str)], keys: &KeySets) -> Result<Subject, Bypass> {
    identify(route, &headers(lines), keys, &SECRET, Timestamp(NOW * 1000))
}

fn ask(route: &Route, lines: &[(&str, &str)]) -> Result<Subject, Bypass> {
    ask_with(route, lines, &KeySets::default())
}

fn by_header(name: &str) -> SubjectSpec {
    SubjectSpec::Header(name.parse().unwrap())
}

fn by_cookie(name: &str) -> SubjectSpec {
    SubjectSpec::Cookie(name.into())
}

#[test]
fn without_a_subject_any_credential_passes_by() {
    let plain = route(SubjectSpec::None);
    assert_eq!(ask(&plain, &[("accept", "a"), ("x-request-id", "1")]), Ok(Subject::anonymous()));
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "x-auth-token",
        "x-forwarded-user",
        "remote-user",
        "client-cert",
        "x-forwarded-client-cert",
        "x_api_key",
        "remote_user",
    ] {
        assert_eq!(ask(&plain, &[(name, "a=b")]), Err(Bypass::ForeignCredential), "{name}");
    }
}

#[test]
fn public_routes_do_not_look() {
    let public = Route { public: true, ..route(by_header("authorization")) };
    assert_eq!(ask(&public, &[("authorization", "a"), ("cookie", "b")]), Ok(Subject::anonymous()));
    assert_eq!(ask(&public, &[("proxy-authorization", "a")]), Err(Bypass::ForeignCredential));
    let ignoring = Route { public: true, ..ignoring(SubjectSpec::None, &["header:proxy-authorization"]) };
    assert_eq!(ask(&ignoring, &[("proxy-authorization", "a")]), Ok(Subject::anonymous()));
}

#[test]
fn a_header_makes_a_subject_of_its_holder() {
    let by_auth = route(by_header("authorization"));
    let a = ask(&by_auth, &[("authorization", "Bearer a")]).unwrap();
    let b = ask(&by_auth, &[("authorization", "Bearer b")]).unwrap();
    assert!(!a.anonymous && a.digest != b.digest && a.digest != [0; 32]);
    assert_eq!(ask(&by_auth, &[("authorization", "Bearer a")]), Ok(a.clone()));
    assert_eq!(ask(&by_auth, &[]), Ok(Subject::anonymous()));
    assert_ne!(ask(&by_auth, &[("authorization", "")]), Ok(Subject::anonymous()));
    assert_eq!(
        ask(&by_auth, &[("authorization", "a"), ("authorization", "a")]),
        Err(Bypass::AmbiguousCredential)
    );
    for other in ["cookie", "x-api-key", "x-forwarded-user"] {
        assert_eq!(ask(&by_auth, &[("authorization", "a"), (other, "c=d")]), Err(Bypass::ForeignCredential));
        assert_eq!(ask(&by_auth, &[(other, "c=d")]), Err(Bypass::ForeignCredential));
    }
    let key = identify(
        &by_auth,
        &headers(&[("authorization", "Bearer a")]),
        &KeySets::default(),
        &[4; 32],
        Timestamp(0),
    );
    assert_ne!(key.unwrap().digest, a.digest);
}

#[test]
fn a_header_that_is_no_credential_can_have_several_lines() {
    let tenant = route(by_header("x-tenant"));
    let one = ask(&tenant, &[("x-tenant", "ab")]).unwrap();
    let two = ask(&tenant, &[("x-tenant", "a"), ("x-tenant", "b")]).unwrap();
    let swapped = ask(&tenant, &[("x-tenant", "b"), ("x-tenant", "a")]).unwrap();
    assert!(one != two && two != swapped);
    assert_eq!(ask(&tenant, &[("x-tenant", "a"), ("authorization", "b")]), Err(Bypass::ForeignCredential));
    // A backend behind CGI conventions reads both as HTTP_X_TENANT.
    assert_eq!(ask(&tenant, &[("x-tenant", "a"), ("x_tenant", "b")]), Err(Bypass::ForeignCredential));
}

#[test]
fn a_cookie_makes_a_subject_alone() {
    let by_sid = route(by_cookie("sid"));
    let a = ask(&by_sid, &[("cookie", "sid=a")]).unwrap();
    assert_eq!(ask(&by_sid, &[("cookie", " sid = a ;; ")]), Ok(a.clone()));
    assert_ne!(ask(&by_sid, &[("cookie", "sid=b")]), Ok(a.clone()));
    assert_eq!(ask(&by_sid, &[]), Ok(Subject::anonymous()));
    assert_eq!(ask(&by_sid, &[("cookie", "")]), Ok(Subject::anonymous()));
    for (line, why) in [
        ("sid=a; lang=en", Bypass::ForeignCredential),
        ("lang=en", Bypass::ForeignCredential),
        ("SID=a", Bypass::ForeignCredential),
        ("sid", Bypass::ForeignCredential),
        ("sid=a; sid=b", Bypass::AmbiguousCredential),
        ("sid=a; sid=a", Bypass::AmbiguousCredential),
        ("sid=\"a; x\"", Bypass::AmbiguousCredential),
    ] {
        assert_eq!(ask(&by_sid, &[("cookie", line)]), Err(why), "{line}");
    }
    assert_eq!(ask(&by_sid, &[("cookie", "sid=a"), ("cookie", "sid=b")]), Err(Bypass::AmbiguousCredential));
    assert_eq!(ask(&by_sid, &[("cookie", "sid=a"), ("authorization", "b")]), Err(Bypass::ForeignCredential));
}

#[test]
fn ignored_credentials_do_not_count() {
    let by_sid = ignoring(by_cookie("sid"), &["cookie:_ga*", "cookie:lang", "header:x-api-key"]);
    let a = ask(&by_sid, &[("cookie", "sid=a")]).unwrap();
    let noisy = [("cookie", "_ga=1; sid=a; _ga_X=2"), ("cookie", "lang=en"), ("x-api-key", "k")];
    assert_eq!(ask(&by_sid, &noisy), Ok(a));
    assert_eq!(ask(&by_sid, &[("cookie", "_ga=1; other=2")]), Err(Bypass::ForeignCredential));
    assert_eq!(ask(&by_sid, &[("cookie", "_ga")]), Err(Bypass::ForeignCredential));
    assert_eq!(ask(&by_sid, &[("cookie", "_ga=\"1; sid=a; x\"")]), Err(Bypass::AmbiguousCredential));

    let plain = ignoring(SubjectSpec::None, &["cookie:_ga*"]);
    assert_eq!(ask(&plain, &[("cookie", "_ga=1")]), Ok(Subject::anonymous()));
    assert_eq!(ask(&plain, &[("cookie", "_ga=1; x=2")]), Err(Bypass::ForeignCredential));
    let none = ignoring(SubjectSpec::None, &["header:cookie", "header:authorization"]);
    assert_eq!(ask(&none, &[("cookie", "x=2"), ("authorization", "a")]), Ok(Subject::anonymous()));
    // Ignoring wins over the subject, as the backend will not see it either.
    let both = ignoring(by_header("authorization"), &["header:authorization"]);
    assert_eq!(ask(&both, &[("authorization", "a")]), Ok(Subject::anonymous()));
}

#[test]
fn the_whole_cookie_field_can_be_the_subject() {
    let by_all = ignoring(by_header("cookie"), &["cookie:_ga"]);
    let a = ask(&by_all, &[("cookie", "a=1; b=2")]).unwrap();
    assert_eq!(ask(&by_all, &[("cookie", "a=1"), ("cookie", "_ga=7;b=2")]), Ok(a.clone()));
    assert_ne!(ask(&by_all, &[("cookie", "b=2; a=1")]), Ok(a));
    assert_eq!(ask(&by_all, &[("cookie", "_ga=7")]), Ok(Subject::anonymous()));
}

#[test]
fn sources_are_never_mistaken_for_each_other() {
    let digest = |spec, lines: &[(&str, &str)]| ask(&route(spec), lines).unwrap().digest;
    let all = [
        digest(by_header("x-a"), &[("x-a", "v")]),
        digest(by_header("x-b"), &[("x-b", "v")]),
        digest(by_header("cookie"), &[("cookie", "v=v")]),
        digest(by_cookie("v"), &[("cookie", "v=v")]),
        digest(by_cookie("w"), &[("cookie", "w=v")]),
        [0; 32],
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn what_is_ignored_is_not_forwarded() {
    let stripping = ignoring(by_cookie("sid"), &["cookie:_ga*", "header:x-api-key"]);
    let mut fields = headers(&[
        ("cookie", "_ga=1; sid=a"),
        ("cookie", "_gat=2; lang=en"),
        ("x-api-key", "k"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("accept", "a"),
    ]);
    strip_ignored(&stripping, &mut fields);
    assert_eq!(fields, headers(&[("cookie", "sid=a; lang=en"), ("accept", "a")]));
    let mut fields = headers(&[("cookie", "_ga=1")]);
    strip_ignored(&stripping, &mut fields);
    assert!(fields.is_empty());
    let mut untouched = headers(&[("cookie", "sid=a;lang=en"), ("cookie", "b")]);
    strip_ignored(&stripping, &mut untouched);
    assert_eq!(untouched.get_all("cookie").iter().count(), 2);
}

proptest! {
    /// Promise 1, as directly as it can be put: what is forwarded after stripping decides the subject alone.
    #[test]
    fn same_subject_same_forwarded_credentials(
        a in prop::collection::vec("(sid|_ga|lang|x)=?[ab\"]{0,2}", 0..4),
        b in prop::collection::vec("(sid|_ga|lang|x)=?[ab\"]{0,2}", 0..4),
    ) {
        let by_sid = ignoring(by_cookie("sid"), &["cookie:_ga", "cookie:lang"]);
        let forwarded = |cookies: &[String]| {
            let mut fields = headers(&[("cookie", &cookies.join("; "))]);
            let subject = identify(&by_sid, &fields, &KeySets::default(), &SECRET, Timestamp(0)).ok()?;
            strip_ignored(&by_sid, &mut fields);
            Some((subject, cookies::cookies(&fields).map(|c| c.piece.to_vec()).collect::<Vec<_>>()))
        };
        if let (Some((one, sent)), Some((other, sent_too))) = (forwarded(&a), forwarded(&b)) {
            prop_assert_eq!(one == other, sent == sent_too);
        }
    }
}
