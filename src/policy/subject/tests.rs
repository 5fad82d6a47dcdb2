use http::HeaderMap;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::path::PathTemplate;
use crate::policy::query::QueryRules;
use crate::policy::route::Matcher;
use crate::semantics::storing::Terms;

const SECRET: [u8; 32] = [3; 32];
const HS: &[u8] = b"0123456789abcdef0123456789abcdef";
/// Seconds; tokens below are good around this moment.
const NOW: u64 = 1_700_000_000;

const RSA_N: &str = "5MCcVR4Sc5ksAKphxv1YOokjCK08Sj9DvUrhYYzV1_f7s7QYOjlIx6q1Ug0ou1V3rZps8CzHdU9suqeu0oF91TJuIrm0iYzgx2h0LOdDSJO-ePN4jzkgkvStZ7Y2OVZGx4ww9ACJ8My2-DBuf68hSUIZIE7By_E3TqOzDP1HRacCqvuhUWksexDWa-yYz54j4VIOdszSS0Uid66pY-YQ4VvqST2ikIME6Wm4sRFJ3lboeUcM6DEVa51eTLfHWnN05DFwoKfIzUgL0lzyvKJJyMIHRQOdXhug3UjrTL-G-Qi1i8Gbpyac5lBOiwSe5Dqtjia2yG4xyHOKjobt8FpvaQ";
const EC_X: &str = "Sv1UD1Dx746ANKbXmiHv5Gs4iAFlMcCQ836IZuJoZJU";
const EC_Y: &str = "ptCXY4HJpCR4tGuhoE0MjPBWzkoPuglhCkSxLsL5t5E";
const ED_X: &str = "sY5Cep_rmaIA58lGgt0Jfz5eAAvfqGM-9L8xjy2TKvs";

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
        max_body: 1,
        coalesce: true,
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

// Tokens.

fn spec(from: TokenSource) -> JwtSpec {
    JwtSpec {
        keys: 0,
        from,
        claims: vec!["sub".into()],
        issuer: None,
        audience: Vec::new(),
        algorithms: Vec::new(),
        leeway: 5,
    }
}

fn from_auth() -> JwtSpec {
    spec(TokenSource::Header(header::AUTHORIZATION))
}

fn by_jwt(spec: JwtSpec) -> Route {
    route(SubjectSpec::Jwt(Arc::new(spec)))
}

fn sets(set: KeySet) -> KeySets {
    KeySets(vec![Arc::new(set)])
}

fn hs() -> KeySets {
    sets(KeySet::from_secret("main", HS))
}

fn sign_with(header: &Header, key: &EncodingKey, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

fn sign(claims: &Value) -> String {
    sign_with(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(HS), claims)
}

fn good() -> Value {
    json!({"sub": "alice", "exp": NOW + 60, "iss": "https://issuer", "aud": ["api", "other"]})
}

fn with(change: Value) -> Value {
    let mut claims = good();
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn bearer(spec: JwtSpec, keys: &KeySets, token: &str) -> Result<Subject, Bypass> {
    ask_with(&by_jwt(spec), &[("authorization", &format!("Bearer {token}"))], keys)
}

fn claims_of(claims: &Value) -> Result<Subject, Bypass> {
    bearer(from_auth(), &hs(), &sign(claims))
}

#[test]
fn a_verified_claim_is_the_subject() {
    let alice = claims_of(&good()).unwrap();
    assert!(!alice.anonymous);
    assert_eq!(alice.claims, [("sub".to_owned(), "alice".to_owned())]);
    assert_eq!(claims_of(&with(json!({"exp": NOW + 61, "jti": "x"}))), Ok(alice.clone()));
    assert_ne!(claims_of(&with(json!({"sub": "bob"}))).unwrap().digest, alice.digest);
    assert_ne!(claims_of(&with(json!({"iss": "https://other"}))).unwrap().digest, alice.digest);
    let other_set = sets(KeySet::from_secret("second", HS));
    assert_ne!(bearer(from_auth(), &other_set, &sign(&good())).unwrap().digest, alice.digest);
    let keys = hs();
    assert_eq!(
        ask_with(&by_jwt(from_auth()), &[("authorization", &format!("bEaReR  {}", sign(&good())))], &keys),
        Ok(alice)
    );
    assert_eq!(ask_with(&by_jwt(from_auth()), &[], &keys), Ok(Subject::anonymous()));
}

fn who(value: Value) -> Result<Subject, Bypass> {
    let spec = JwtSpec { claims: vec!["who".into()], ..from_auth() };
    bearer(spec, &hs(), &sign(&with(json!({ "who": value }))))
}

#[test]
fn a_claims_type_counts() {
    let values =
        [json!("1"), json!(1), json!(true), json!("true"), json!([1]), json!(["1"]), json!({"a": 1})];
    let digests: std::collections::BTreeSet<_> =
        values.iter().map(|value| who(value.clone()).unwrap().digest).collect();
    assert_eq!(digests.len(), values.len());
    assert_eq!(who(json!({"a": 1, "b": 2})).unwrap().digest, who(json!({"b": 2, "a": 1})).unwrap().digest);
}

#[test]
fn several_claims_make_one_subject() {
    let both = || JwtSpec { claims: vec!["sub".into(), "scope".into()], ..from_auth() };
    let ask = |claims: &Value| bearer(both(), &hs(), &sign(claims));
    let read = ask(&with(json!({"scope": ["read", "list"]}))).unwrap();
    assert_ne!(ask(&with(json!({"scope": ["read"]}))).unwrap().digest, read.digest);
    assert_eq!(read.claims.iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(), ["alice", "read", "list"]);
    assert_eq!(ask(&good()), Err(Bypass::MissingClaim));
    // Values do not slide from one claim into the next.
    let one = ask(&with(json!({"sub": "ab", "scope": "c"}))).unwrap();
    let other = ask(&with(json!({"sub": "a", "scope": "bc"}))).unwrap();
    assert_ne!(one.digest, other.digest);
}

#[test]
fn unusable_claims() {
    for sub in [json!(null), json!(1.5), json!([1.5]), json!([null]), json!(1e30)] {
        assert_eq!(who(sub.clone()), Err(Bypass::MissingClaim), "{sub}");
    }
    let none = JwtSpec { claims: Vec::new(), ..from_auth() };
    assert_eq!(bearer(none, &hs(), &sign(&good())), Err(Bypass::MissingClaim));
}

#[test]
fn times_are_checked_against_the_time_given() {
    for (change, expected) in [
        (json!({"exp": NOW + 1}), None),
        (json!({"exp": NOW - 4}), None),
        (json!({"exp": NOW as f64 - 4.5}), None),
        (json!({"exp": NOW - 5}), Some(Bypass::TokenTime)),
        (json!({"exp": 0}), Some(Bypass::TokenTime)),
        (json!({"exp": null}), Some(Bypass::TokenTime)),
        (json!({"exp": "9999999999"}), Some(Bypass::UnverifiedToken)),
        (json!({"nbf": NOW + 5}), None),
        (json!({"nbf": NOW + 6}), Some(Bypass::TokenTime)),
        (json!({"nbf": "x"}), Some(Bypass::UnverifiedToken)),
    ] {
        assert_eq!(claims_of(&with(change.clone())).err(), expected, "{change}");
    }
    let mut endless = good();
    endless.as_object_mut().unwrap().remove("exp");
    assert_eq!(claims_of(&endless), Err(Bypass::TokenTime));
}

#[test]
fn issuer_and_audience_must_fit_where_named() {
    let strict =
        || JwtSpec { issuer: Some("https://issuer".into()), audience: vec!["api".into()], ..from_auth() };
    let ask = |change: Value| bearer(strict(), &hs(), &sign(&with(change))).err();
    assert_eq!(ask(json!({})), None);
    assert_eq!(ask(json!({"aud": "api"})), None);
    for change in [
        json!({"iss": "https://issuer/"}),
        json!({"iss": null}),
        json!({"iss": ["https://issuer"]}),
        json!({"aud": "other"}),
        json!({"aud": []}),
        json!({"aud": null}),
        json!({"aud": {"api": 1}}),
    ] {
        assert_eq!(ask(change.clone()), Some(Bypass::UnverifiedToken), "{change}");
    }
}

#[test]
fn forged_tokens_are_refused() {
    let good = sign(&good());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    // {"alg":"none"} and {"alg":"HS256","crit":["b64"],"b64":false}
    let none = "eyJhbGciOiJub25lIn0";
    let crit = "eyJhbGciOiJIUzI1NiIsImNyaXQiOlsiYjY0Il0sImI2NCI6ZmFsc2V9";
    let other_key = sign_with(
        &Header::new(Algorithm::HS256),
        &EncodingKey::from_secret(b"another secret of sufficient size"),
        &self::good(),
    );
    for token in [
        format!("{none}.{payload}."),
        format!("{none}.{payload}"),
        format!("{crit}.{payload}.AAAA"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.AAAA"),
        format!("{good}.x"),
        format!("{good}="),
        other_key,
        String::new(),
        ".".into(),
        "..".into(),
        "é".into(),
    ] {
        assert_eq!(bearer(from_auth(), &hs(), &token), Err(Bypass::UnverifiedToken), "{token}");
    }
    for line in ["Basic YTpi", "Bearer", good.as_str()] {
        assert_eq!(
            ask_with(&by_jwt(from_auth()), &[("authorization", line)], &hs()),
            Err(Bypass::UnverifiedToken)
        );
    }
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["b64".into()]);
    let token = sign_with(&critical, &EncodingKey::from_secret(HS), &self::good());
    assert_eq!(bearer(from_auth(), &hs(), &token), Err(Bypass::UnverifiedToken));
}

#[test]
fn other_credentials_and_doubles_beside_a_token() {
    let line = format!("Bearer {}", sign(&good()));
    let both = by_jwt(from_auth());
    assert_eq!(
        ask_with(&both, &[("authorization", &line), ("cookie", "a=b")], &hs()),
        Err(Bypass::ForeignCredential)
    );
    assert_eq!(ask_with(&both, &[("cookie", "a=b")], &hs()), Err(Bypass::ForeignCredential));
    assert_eq!(
        ask_with(&both, &[("authorization", &line), ("authorization", &line)], &hs()),
        Err(Bypass::AmbiguousCredential)
    );
}

#[test]
fn tokens_in_other_places() {
    let token = sign(&good());
    let by_field = by_jwt(spec(TokenSource::Header("x-token".parse().unwrap())));
    let bare = ask_with(&by_field, &[("x-token", &token)], &hs()).unwrap();
    assert_eq!(ask_with(&by_field, &[("x-token", &format!("bearer {token}"))], &hs()), Ok(bare.clone()));
    let by_crumb = by_jwt(spec(TokenSource::Cookie("t".into())));
    let crumb = ask_with(&by_crumb, &[("cookie", &format!("t={token}"))], &hs()).unwrap();
    assert_ne!(bare.digest, crumb.digest);
    assert_eq!(
        ask_with(&by_crumb, &[("cookie", &format!("t={token}; u=1"))], &hs()),
        Err(Bypass::ForeignCredential)
    );
    assert_eq!(
        ask_with(&by_crumb, &[("cookie", &format!("t={token}; t=1"))], &hs()),
        Err(Bypass::AmbiguousCredential)
    );
}

fn pems() -> [(Algorithm, EncodingKey, &'static [u8]); 3] {
    [
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(include_bytes!("keys/rsa.pem")).unwrap(),
            include_bytes!("keys/rsa.pub.pem"),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(include_bytes!("keys/ec.pem")).unwrap(),
            include_bytes!("keys/ec.pub.pem"),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(include_bytes!("keys/ed.pem")).unwrap(),
            include_bytes!("keys/ed.pub.pem"),
        ),
    ]
}

#[test]
fn public_keys_of_every_kind_verify() {
    for (algorithm, private, public) in pems() {
        let keys = sets(KeySet::from_pem("main", public).unwrap());
        let token = sign_with(&Header::new(algorithm), &private, &good());
        assert!(bearer(from_auth(), &keys, &token).is_ok(), "{algorithm:?}");
        let narrow = JwtSpec { algorithms: vec![Algorithm::PS512], ..from_auth() };
        assert_eq!(bearer(narrow, &keys, &token), Err(Bypass::UnverifiedToken));
        // The classic confusion: a public key's text as HMAC secret.
        let forged = sign_with(&Header::new(Algorithm::HS256), &EncodingKey::from_secret(public), &good());
        assert_eq!(bearer(from_auth(), &keys, &forged), Err(Bypass::UnverifiedToken));
    }
    let certificate = sets(KeySet::from_pem("main", include_bytes!("keys/ec.cert.pem")).unwrap());
    let (algorithm, private, _) = pems().into_iter().nth(1).unwrap();
    assert!(
        bearer(from_auth(), &certificate, &sign_with(&Header::new(algorithm), &private, &good())).is_ok()
    );
}

#[test]
fn unusable_pems_say_why() {
    for (pem, part) in [
        (&include_bytes!("keys/rsa.pem")[..], "private key"),
        (include_bytes!("keys/weak.pub.pem"), "2048"),
        (b"nothing", "no PEM"),
        (b"", "no PEM"),
    ] {
        let error = KeySet::from_pem("main", pem).unwrap_err();
        assert!(error.contains(part) && error.contains("`main`"), "{error}");
    }
}

fn jwks() -> Value {
    json!({"keys": [
        {"kty": "RSA", "kid": "r", "use": "sig", "n": RSA_N, "e": "AQAB"},
        {"kty": "EC", "kid": "e", "crv": "P-256", "x": EC_X, "y": EC_Y, "alg": "ES256"},
        {"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": ED_X, "key_ops": ["verify"]},
        {"kty": "RSA", "kid": "enc", "use": "enc", "n": RSA_N, "e": "AQAB"},
        {"kty": "RSA", "kid": "weak", "n": "AQAB", "e": "AQAB"},
        {"kty": "EC", "kid": "wrong", "crv": "P-384", "x": EC_X, "y": EC_Y},
        {"kty": "oct", "kid": "short", "k": "AAAA"},
        {"kty": "quantum", "kid": "new"},
        7,
    ]})
}

#[test]
fn a_jwks_selects_by_kid() {
    let (set, skipped) = KeySet::from_jwks("main", jwks().to_string().as_bytes()).unwrap();
    assert_eq!((set.keys.len(), skipped), (3, 6));
    assert_eq!(format!("{set:?}"), "KeySet(main, 3 keys)");
    let keys = sets(set);
    for ((algorithm, private, _), kid) in pems().into_iter().zip(["r", "e", "d"]) {
        let token = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
            bearer(from_auth(), &keys, &sign_with(&header, &private, &good()))
        };
        let subject = token(Some(kid)).unwrap();
        assert_eq!(token(None), Ok(subject), "{algorithm:?}");
        assert_eq!(token(Some("rotated")), Err(Bypass::UnknownKey));
        assert_eq!(token(Some("weak")), Err(Bypass::UnknownKey));
        let another = if kid == "r" { "e" } else { "r" };
        assert_eq!(token(Some(another)), Err(Bypass::UnverifiedToken));
    }
    assert_eq!(bearer(from_auth(), &sets(KeySet::empty("main")), &sign(&good())), Err(Bypass::UnknownKey));
    assert_eq!(bearer(from_auth(), &KeySets::default(), &sign(&good())), Err(Bypass::UnknownKey));
}

#[test]
fn a_fixed_key_has_no_unknown_kids() {
    let header = Header { kid: Some("x".into()), ..Header::new(Algorithm::HS256) };
    let good_token = sign_with(&header, &EncodingKey::from_secret(HS), &good());
    assert!(bearer(from_auth(), &hs(), &good_token).is_ok());
    let bad_token = sign_with(&header, &EncodingKey::from_secret(b"x"), &good());
    assert_eq!(bearer(from_auth(), &hs(), &bad_token), Err(Bypass::UnverifiedToken));
}

#[test]
fn bad_jwks_documents_say_why() {
    let many = json!({ "keys": vec![json!({}); 300] });
    for (text, part) in [
        ("x".to_owned(), "no JSON"),
        ("{}".to_owned(), "no list `keys`"),
        ("{\"keys\":[]}".to_owned(), "none of its 0 keys"),
        ("{\"keys\":[{}]}".to_owned(), "none of its 1 keys"),
        (many.to_string(), "at most 256"),
    ] {
        let error = KeySet::from_jwks("main", text.as_bytes()).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn the_caller_of_a_mutation() {
    let now = Timestamp(NOW * 1000);
    let who = |spec: &SubjectSpec, lines: &[(&str, &str)]| caller(spec, &headers(lines), &hs(), &SECRET, now);
    let fields = [("authorization", "a"), ("cookie", "sid=b; x=1")];
    assert_eq!(who(&SubjectSpec::None, &fields), Some(Subject::anonymous()));
    let auth = by_header("authorization");
    assert_eq!(who(&auth, &fields), ask(&route(auth.clone()), &fields[..1]).ok());
    let sid = by_cookie("sid");
    assert_eq!(who(&sid, &fields), ask(&route(sid.clone()), &[("cookie", "sid=b")]).ok());
    assert_eq!(who(&sid, &fields[..1]), None);
    assert_eq!(who(&sid, &[("cookie", "sid=a; sid=b")]), None);
    let jwt = SubjectSpec::Jwt(Arc::new(from_auth()));
    assert_eq!(who(&jwt, &fields), None);
    assert!(who(&jwt, &[("authorization", &format!("Bearer {}", sign(&good())))]).is_some());
}

#[test]
fn every_reason_has_its_token() {
    let all = [
        Bypass::ForeignCredential,
        Bypass::UnverifiedToken,
        Bypass::UnknownKey,
        Bypass::TokenTime,
        Bypass::MissingClaim,
        Bypass::AmbiguousCredential,
    ];
    let tokens: std::collections::BTreeSet<_> = all.iter().map(|b| b.token()).collect();
    assert_eq!(tokens.len(), all.len());
}
