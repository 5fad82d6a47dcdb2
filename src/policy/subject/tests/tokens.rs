//! Tokens: signatures, times, claims, keys.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::*;

const HS: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA_N: &str = "5MCcVR4Sc5ksAKphxv1YOokjCK08Sj9DvUrhYYzV1_f7s7QYOjlIx6q1Ug0ou1V3rZps8CzHdU9suqeu0oF91TJuIrm0iYzgx2h0LOdDSJO-ePN4jzkgkvStZ7Y2OVZGx4ww9ACJ8My2-DBuf68hSUIZIE7By_E3TqOzDP1HRacCqvuhUWksexDWa-yYz54j4VIOdszSS0Uid66pY-YQ4VvqST2ikIME6Wm4sRFJ3lboeUcM6DEVa51eTLfHWnN05DFwoKfIzUgL0lzyvKJJyMIHRQOdXhug3UjrTL-G-Qi1i8Gbpyac5lBOiwSe5Dqtjia2yG4xyHOKjobt8FpvaQ";
const EC_X: &str = "Sv1UD1Dx746ANKbXmiHv5Gs4iAFlMcCQ836IZuJoZJU";
const EC_Y: &str = "ptCXY4HJpCR4tGuhoE0MjPBWzkoPuglhCkSxLsL5t5E";
const ED_X: &str = "sY5Cep_rmaIA58lGgt0Jfz5eAAvfqGM-9L8xjy2TKvs";

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
            EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")).unwrap(),
            include_bytes!("../keys/rsa.pub.pem"),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(include_bytes!("../keys/ec.pem")).unwrap(),
            include_bytes!("../keys/ec.pub.pem"),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(include_bytes!("../keys/ed.pem")).unwrap(),
            include_bytes!("../keys/ed.pub.pem"),
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
    let certificate = sets(KeySet::from_pem("main", include_bytes!("../keys/ec.cert.pem")).unwrap());
    let (algorithm, private, _) = pems().into_iter().nth(1).unwrap();
    assert!(
        bearer(from_auth(), &certificate, &sign_with(&Header::new(algorithm), &private, &good())).is_ok()
    );
}

#[test]
fn unusable_pems_say_why() {
    for (pem, part) in [
        (&include_bytes!("../keys/rsa.pem")[..], "private key"),
        (include_bytes!("../keys/weak.pub.pem"), "2048"),
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
fn a_set_of_no_use_says_why_of_each_key() {
    const SECRET: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
    let rsa = |member: &str, value: Value| {
        let mut key = json!({"kty": "RSA", "kid": "r", "n": RSA_N, "e": "AQAB"});
        key[member] = value;
        key
    };
    let ec = |crv: &str, alg: &str| json!({"kty": "EC", "crv": crv, "x": EC_X, "y": EC_Y, "alg": alg});
    for (key, parts) in [
        (
            json!({"kty": "oct", "kid": "legacy", "k": SECRET, "alg": "HS256"}),
            &["key 1 (kid \"legacy\", kty \"oct\", alg \"HS256\")", "a shared secret"][..],
        ),
        (rsa("use", json!("enc")), &["(kid \"r\", kty \"RSA\", use \"enc\") is not for verifying"]),
        (rsa("key_ops", json!(["encrypt"])), &["is not for verifying"]),
        (rsa("alg", json!("RSA-OAEP")), &["alg \"RSA-OAEP\") is for an algorithm"]),
        (rsa("alg", json!("ES256")), &["alg \"ES256\") is for an algorithm"]),
        (rsa("alg", json!("XY1")), &["alg \"XY1\") is for an algorithm"]),
        (rsa("n", json!("AQAB")), &["is too short"]),
        (rsa("n", json!("!")), &["is no key"]),
        (rsa("n", json!(7)), &["is no key"]),
        (ec("P-384", "ES384"), &["crv \"P-384\", alg \"ES384\") is too short, or of another length"]),
        (ec("P-521", "ES512"), &["crv \"P-521\""]),
        (ec("secp256k1", "ES256K"), &["crv \"secp256k1\", alg \"ES256K\") is of a type or curve"]),
        (json!({"kty": "OKP", "crv": "Ed448", "x": ED_X}), &["crv \"Ed448\") is of a type or curve"]),
        (json!({"kty": "AKP", "kid": "pq", "alg": "ML-DSA-65"}), &["kty \"AKP\"", "is of a type or curve"]),
        (json!({"kid": "\u{1b}[31m\n"}), &["key 1 (kid \"\\u{1b}[31m\\n\") is no key"]),
        (json!(7), &["key 1 is no key"]),
    ] {
        let text = json!({ "keys": [key] }).to_string();
        let error = KeySet::from_jwks("main", text.as_bytes()).unwrap_err();
        for part in ["key set `main`: none of its 1 keys can be used", "RSA (2048 bits or more), EC"] {
            assert!(error.contains(part), "{text}: {error}");
        }
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains(SECRET) && !error.contains(RSA_N), "{error}");
    }
    let long = json!({ "keys": vec![json!({"kty": "oct", "kid": "x".repeat(10_000)}); 20] });
    let error = KeySet::from_jwks("main", long.to_string().as_bytes()).unwrap_err();
    assert!(error.contains("key 8 ") && error.contains("; and 12 more;") && error.len() < 2000, "{error}");
}

#[test]
fn a_shared_secret_in_a_key_set_verifies_nothing() {
    let mut document = jwks();
    let secret =
        json!({"kty": "oct", "kid": "s", "alg": "HS256", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"});
    document["keys"].as_array_mut().unwrap().push(secret);
    let (set, skipped) = KeySet::from_jwks("main", document.to_string().as_bytes()).unwrap();
    assert_eq!((set.keys.len(), skipped), (3, 7));
    let signed = |kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        sign_with(&header, &EncodingKey::from_secret(HS), &good())
    };
    let keys = sets(set);
    assert_eq!(bearer(from_auth(), &keys, &signed("s")), Err(Bypass::UnknownKey));
    assert_eq!(bearer(from_auth(), &keys, &signed("r")), Err(Bypass::UnverifiedToken));
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
