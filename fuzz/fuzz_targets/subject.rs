//! Credentials: cookies, fields, tokens; whose request is it? (RFC 6265 §4.2, RFC 6750 §2.1, RFC 7519)
#![no_main]

use std::sync::{Arc, OnceLock};

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weir::config::{Env, load_str};
use weir::policy::json::parse_strict;
use weir::policy::route::{IgnoredCredential, Route};
use weir::policy::subject::{
    Bypass, JwtSpec, KeySet, KeySets, Subject, SubjectSpec, TokenSource, caller, identify, strip_ignored,
};
use weir::semantics::fields::is_credential;
use weir::semantics::timestamp::Timestamp;
use weir_fuzz::{fields, number, sections};

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fuzz_target!(|data: &[u8]| {
    let [headers, claims, changes, jwks] = sections(data);
    let headers = fields(headers);
    for route in routes() {
        credentials(route, &headers);
    }
    token(claims, changes);
    let _ = KeySet::from_jwks("fuzz", jwks);
    if let Some(value) = parse_strict(claims) {
        assert_eq!(serde_json::from_slice::<Value>(claims).ok().as_ref(), Some(&value));
    }
});

fn credentials(route: &Route, headers: &HeaderMap) {
    let found = identify_as(route, headers);
    let mut forwarded = headers.clone();
    strip_ignored(route, &mut forwarded);
    // What is declared of no influence has none: neither on the subject nor, being gone, on the backend.
    assert_eq!(identify_as(route, &forwarded), found, "{headers:?}");
    let again = forwarded.clone();
    strip_ignored(route, &mut forwarded);
    assert_eq!(forwarded, again);
    let Ok(subject) = found else { return };
    assert_eq!(subject.anonymous, subject.digest == [0; 32]);
    if !route.public {
        // Every credential that goes on is the subject's own.
        let own = |name: &HeaderName| match &route.subject {
            SubjectSpec::Header(own) => own == name,
            SubjectSpec::Cookie(_) => *name == COOKIE,
            SubjectSpec::Jwt(spec) => match &spec.from {
                TokenSource::Header(own) => own == name,
                TokenSource::Cookie(_) => *name == COOKIE,
            },
            SubjectSpec::None => false,
        };
        let empty =
            |name: &HeaderName| *name == COOKIE && forwarded.get_all(name).iter().all(holds_no_cookie);
        for name in forwarded.keys().filter(|name| is_credential(name) && !empty(name)) {
            assert!(own(name), "{name} goes on for {subject:?}");
            assert!(!subject.anonymous, "{name} of nobody: {forwarded:?}");
        }
        for name in ["x-api-key", "x_auth_token", "proxy-authorization", "x-forwarded-user"] {
            let mut more = headers.clone();
            more.append(name, HeaderValue::from_static("another"));
            assert!(identify_as(route, &more) != Ok(subject.clone()), "{name} does not count");
        }
        // Another cookie or value is another caller, or nobody's business.
        let mut more = headers.clone();
        more.append(COOKIE, HeaderValue::from_static("sid=another"));
        assert!(identify_as(route, &more) != Ok(subject.clone()), "a cookie does not count");
    }
    if let Some(as_caller) = caller(&route.subject, headers, keys(), SECRET, NOW).filter(|_| !route.public) {
        let ignoring = !route.ignore.is_empty();
        assert!(ignoring || as_caller == subject, "{as_caller:?} mutates what {subject:?} reads");
    }
}

fn holds_no_cookie(line: &HeaderValue) -> bool {
    line.as_bytes().iter().all(|b| matches!(b, b';' | b' ' | b'\t'))
}

fn identify_as(route: &Route, headers: &HeaderMap) -> Result<Subject, Bypass> {
    identify(route, headers, keys(), SECRET, NOW)
}

fn token(claims: &[u8], changes: &[u8]) {
    let Ok(Value::Object(mut claims)) = serde_json::from_slice(claims) else { return };
    claims.insert("exp".into(), 1_700_000_060.into());
    claims.remove("nbf");
    let key = EncodingKey::from_secret(SECRET);
    let Ok(token) = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key) else { return };
    let route = &routes()[3];
    let found = with_token(route, token.as_bytes());
    match claims.get("sub") {
        // RFC 7519 §4.1.2: a string; what is verified reads it as one.
        Some(Value::Array(_) | Value::Object(_)) => assert!(found.is_err(), "{found:?}"),
        // Of a number that is not whole the parser has kept only a part.
        Some(sub) if !sub.is_null() && holds_no_fraction(sub) => assert!(found.is_ok(), "{found:?}"),
        _ => assert_eq!(found, Err(Bypass::MissingClaim)),
    }
    // Changed anywhere, it is no longer a token.
    let mut changed = token.clone().into_bytes();
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) * 7 % changed.len();
        changed[at] = change[1];
    }
    if changed != token.as_bytes() && HeaderValue::from_bytes(&changed).is_ok() {
        let spaced = changed.trim_ascii() == token.as_bytes();
        assert!(spaced || with_token(route, &changed).is_err(), "{token} as {changed:?}");
    }
    let (seconds, _) = number(changes);
    let now = Timestamp(NOW.0.saturating_add(seconds.saturating_mul(1000)));
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).expect("ASCII"));
    let later = identify(route, &headers, keys(), SECRET, now);
    assert!(seconds < 65 || found.is_err() || later == Err(Bypass::TokenTime), "{later:?} after {seconds} s");
    assert!(seconds >= 60 || later == found);
}

fn holds_no_fraction(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(holds_no_fraction),
        Value::Object(members) => members.values().all(holds_no_fraction),
        _ => true,
    }
}

fn with_token(route: &Route, token: &[u8]) -> Result<Subject, Bypass> {
    let mut headers = HeaderMap::new();
    let line = HeaderValue::from_bytes(&[b"Bearer ", token].concat()).expect("a value");
    headers.insert(AUTHORIZATION, line);
    identify_as(route, &headers)
}

fn keys() -> &'static KeySets {
    static KEYS: OnceLock<KeySets> = OnceLock::new();
    KEYS.get_or_init(|| KeySets(vec![Arc::new(KeySet::from_secret("main", SECRET))]))
}

fn routes() -> &'static [Route] {
    static ROUTES: OnceLock<Vec<Route>> = OnceLock::new();
    ROUTES.get_or_init(|| {
        let text = "listen = \"127.0.0.1:1\"\nupstream = \"http://127.0.0.1:2\"\n[[route]]\nname = \"r\"\nmatch = \"GET /\"\nttl = \"1m\"\n";
        let plain = load_str("route", text, &Env::empty()).expect("a configuration").config.policy.routes;
        let plain = Route::clone(&plain.as_slice()[0]);
        let jwt = |from| {
            SubjectSpec::Jwt(Arc::new(JwtSpec {
                keys: 0,
                from,
                claims: vec!["sub".into()],
                issuer: None,
                audience: Vec::new(),
                algorithms: Vec::new(),
                leeway: 5,
            }))
        };
        let subjects = [
            SubjectSpec::None,
            SubjectSpec::Header(AUTHORIZATION),
            SubjectSpec::Cookie("sid".into()),
            jwt(TokenSource::Header(AUTHORIZATION)),
            jwt(TokenSource::Cookie("sid".into())),
            SubjectSpec::Header(COOKIE),
            SubjectSpec::Header(HeaderName::from_static("x-tenant")),
        ];
        let mut routes: Vec<Route> = subjects.into_iter().map(|subject| Route { subject, ..plain.clone() }).collect();
        for i in 0..routes.len() {
            let ignore = vec![
                IgnoredCredential::Cookie("_ga*".into()),
                IgnoredCredential::Cookie("lang".into()),
                IgnoredCredential::Header(HeaderName::from_static("x-user")),
            ];
            routes.push(Route { ignore, ..routes[i].clone() });
        }
        routes.push(Route { public: true, ..plain });
        routes
    })
}
