//! Verification of JSON Web Tokens (RFC 7519, RFC 7515) and the keys for it.
//!
//! A token is believed only if its signature verifies under a configured key with an algorithm that both the route
//! and the key allow, and its times, issuer and audience fit. Time is an argument: the library's own clock is not
//! used. Keys that a token brings along (`jwk`, `jku`, `x5c`) are never looked at, and `none` is no algorithm here.

use std::sync::Arc;

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Header, Validation};
use serde_json::{Map, Value};

use super::subject::{Bypass, JwtSpec, KeySet, VerificationKey};
use crate::semantics::timestamp::Timestamp;

/// Most keys in one JWKS document.
const MAX_KEYS: usize = 256;

/// Most keys tried for one token.
const MAX_TRIED: usize = 16;

/// RFC 7518 §3.3: a key of 2048 bits or larger.
const MIN_RSA_BYTES: usize = 256;

/// RFC 7518 §3.2: a key of the hash's size or larger.
const MIN_SECRET_BYTES: usize = 32;

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

impl KeySet {
    /// Parses a JWKS document (RFC 7517); keys it cannot use are skipped and counted. A document without a single
    /// usable key is an error that says of each why, and never shows a key.
    pub fn from_jwks(name: &str, json: &[u8]) -> Result<(KeySet, usize), String> {
        let document: Value =
            serde_json::from_slice(json).map_err(|e| format!("key set `{name}` is no JSON: {e}"))?;
        let listed = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or_else(|| format!("key set `{name}` has no list `keys` (RFC 7517 §5)"))?;
        if listed.len() > MAX_KEYS {
            return Err(format!(
                "key set `{name}` has {} keys; at most {MAX_KEYS} are allowed",
                listed.len()
            ));
        }
        let mut keys = Vec::new();
        let mut unusable = Vec::new();
        for value in listed {
            match key_from_jwk(value) {
                Ok(key) => keys.push(key),
                Err(why) => unusable.push((value, why)),
            }
        }
        if keys.is_empty() {
            return Err(format!("key set `{name}`: {}; {USABLE}", none_of(&unusable)));
        }
        let skipped = unusable.len();
        Ok((KeySet { name: name.into(), keys }, skipped))
    }

    /// A shared secret (HS*).
    pub fn from_secret(name: &str, secret: &[u8]) -> KeySet {
        let key = DecodingKey::from_secret(secret);
        KeySet {
            name: name.into(),
            keys: vec![VerificationKey { kid: None, key, algorithms: HMAC.to_vec() }],
        }
    }

    /// A PEM public key (RSA, EC, Ed25519) or certificate.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<KeySet, String> {
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err(format!(
                "key set `{name}` is a private key; Weir only verifies, give it the public key"
            ));
        }
        let key = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem]
            .into_iter()
            .filter_map(|parse| parse(pem).ok())
            .find_map(|key| Some((fitting_algorithms(&key)?, key)));
        let Some((algorithms, key)) = key else {
            return Err(format!(
                "key set `{name}` is no PEM public key or certificate of type RSA (2048 bits or more), EC (P-256, P-384) or Ed25519"
            ));
        };
        Ok(KeySet { name: name.into(), keys: vec![VerificationKey { kid: None, key, algorithms }] })
    }

    /// A set that has not been fetched yet: every token is [`Bypass::UnknownKey`].
    pub fn empty(name: &str) -> KeySet {
        KeySet { name: name.into(), keys: Vec::new() }
    }
}

/// What a set needs at least one of.
const USABLE: &str =
    "needed is a public signature key of type RSA (2048 bits or more), EC (P-256, P-384) or OKP (Ed25519)";

/// Most keys that an error tells about one by one.
const MAX_TOLD: usize = 8;

/// Most characters that it quotes of what a document says.
const MAX_QUOTED: usize = 64;

/// Why a key of a set is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unusable {
    NoKey,
    Shared,
    NotForSignatures,
    Kind,
    Size,
    Algorithm,
}

impl Unusable {
    fn as_str(self) -> &'static str {
        match self {
            Unusable::NoKey => "is no key that can be read",
            Unusable::Shared => "is a shared secret, which only `secret` may give",
            Unusable::NotForSignatures => "is not for verifying signatures by its `use` or `key_ops`",
            Unusable::Kind => "is of a type or curve that is not supported",
            Unusable::Size => "is too short, or of another length than its curve asks for",
            Unusable::Algorithm => "is for an algorithm that it does not fit, or that is not supported",
        }
    }
}

fn key_from_jwk(value: &Value) -> Result<VerificationKey, Unusable> {
    let said = |name: &str| value.get(name).and_then(Value::as_str);
    match (said("kty"), said("crv")) {
        // What is published, or fetched, is no secret between two: who can read the set could sign.
        (Some("oct"), _) => return Err(Unusable::Shared),
        (Some("RSA"), _)
        | (Some("EC"), None | Some("P-256" | "P-384"))
        | (Some("OKP"), None | Some("Ed25519")) => {}
        (Some(_), _) => return Err(Unusable::Kind),
        (None, _) => return Err(Unusable::NoKey),
    }
    let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|_| what_cannot_be_read(value))?;
    let meant_for_signatures = jwk.common.public_key_use.is_none_or_signature()
        && jwk.common.key_operations.as_ref().is_none_or(|ops| ops.contains(&KeyOperations::Verify));
    if !meant_for_signatures {
        return Err(Unusable::NotForSignatures);
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| Unusable::NoKey)?;
    let mut algorithms = fitting_algorithms(&key).ok_or(Unusable::Size)?;
    if let AlgorithmParameters::EllipticCurve(params) = &jwk.algorithm {
        let curve = format!("{:?}", params.curve);
        if (curve == "P256") != (algorithms == [Algorithm::ES256]) {
            return Err(Unusable::Size);
        }
    }
    if let Some(only) = jwk.common.key_algorithm {
        let only = Algorithm::try_from(only).map_err(|_| Unusable::Algorithm)?;
        algorithms.retain(|algorithm| *algorithm == only);
    }
    match algorithms.is_empty() {
        true => Err(Unusable::Algorithm),
        false => Ok(VerificationKey { kid: jwk.common.key_id, key, algorithms }),
    }
}

/// Of a key that could not be read as a whole: what is strange in it.
fn what_cannot_be_read(value: &Value) -> Unusable {
    let without = |names: &[&str]| {
        let mut value = value.clone();
        if let Some(members) = value.as_object_mut() {
            names.iter().for_each(|name| drop(members.remove(*name)));
        }
        serde_json::from_value::<Jwk>(value).is_ok()
    };
    if without(&["alg"]) {
        Unusable::Algorithm
    } else if without(&["use", "key_ops"]) {
        Unusable::NotForSignatures
    } else {
        Unusable::NoKey
    }
}

/// Why a set is of no use, key by key.
fn none_of(unusable: &[(&Value, Unusable)]) -> String {
    let mut text = format!("none of its {} keys can be used", unusable.len());
    for (place, (value, why)) in unusable.iter().take(MAX_TOLD).enumerate() {
        text.push_str(if place == 0 { ": " } else { "; " });
        text.push_str(&format!("key {}", place + 1));
        let said = ["kid", "kty", "crv", "use", "alg"].iter().filter_map(|name| {
            let quoted = value.get(name)?.as_str()?.chars().take(MAX_QUOTED).collect::<String>();
            Some(format!("{name} {quoted:?}"))
        });
        let said = said.collect::<Vec<_>>().join(", ");
        if !said.is_empty() {
            text.push_str(&format!(" ({said})"));
        }
        text.push(' ');
        text.push_str(why.as_str());
    }
    if let Some(more @ 1..) = unusable.len().checked_sub(MAX_TOLD) {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

trait MaybeUse {
    fn is_none_or_signature(&self) -> bool;
}

impl MaybeUse for Option<PublicKeyUse> {
    fn is_none_or_signature(&self) -> bool {
        self.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature)
    }
}

/// What a key may verify, by its family and size; `None` if it is too weak or of the wrong shape.
fn fitting_algorithms(key: &DecodingKey) -> Option<Vec<Algorithm>> {
    let length = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|b| **b == 0).count(),
    };
    match (key.family(), length) {
        (AlgorithmFamily::Hmac, MIN_SECRET_BYTES..) => Some(HMAC.to_vec()),
        (AlgorithmFamily::Rsa, MIN_RSA_BYTES..) => Some(RSA.to_vec()),
        // An uncompressed point: 0x04 and two coordinates (RFC 7518 §3.4 ties each hash to one curve).
        (AlgorithmFamily::Ec, 65) => Some(vec![Algorithm::ES256]),
        (AlgorithmFamily::Ec, 97) => Some(vec![Algorithm::ES384]),
        (AlgorithmFamily::Ed, 32) => Some(vec![Algorithm::EdDSA]),
        _ => None,
    }
}

/// When a token is in force, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    start: Option<f64>,
    end: f64,
    leeway: f64,
}

impl Times {
    /// RFC 7519 §4.1.4 and §4.1.5.
    pub fn hold(&self, now: Timestamp) -> bool {
        let now = now.0 as f64 / 1000.0;
        now < self.end + self.leeway && self.start.is_none_or(|start| now >= start - self.leeway)
    }
}

/// The claims of a token that is genuine, in force, and meant for this route; and when it is.
pub(super) fn verify(
    spec: &JwtSpec,
    keys: &KeySet,
    token: &[u8],
    now: Timestamp,
) -> Result<(Map<String, Value>, Times), Bypass> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Bypass::UnverifiedToken)?;
    // RFC 7515 §4.1.11: extensions that must be understood and are not make the token invalid.
    if header.crit.is_some() || header.enc.is_some() {
        return Err(Bypass::UnverifiedToken);
    }
    let claims = verify_signature(spec, keys, &header, token)?;
    let times = times(&claims, spec.leeway)?;
    if !times.hold(now) {
        return Err(Bypass::TokenTime);
    }
    check_audience(spec, &claims)?;
    Ok((claims, times))
}

/// The key that `kid` selects; keys without one, and all keys where the token names none, are tried in turn.
fn verify_signature(
    spec: &JwtSpec,
    keys: &KeySet,
    header: &Header,
    token: &[u8],
) -> Result<Map<String, Value>, Bypass> {
    if !spec.algorithms.is_empty() && !spec.algorithms.contains(&header.alg) {
        return Err(Bypass::UnverifiedToken);
    }
    let named = |key: &&VerificationKey| header.kid.is_some() && key.kid == header.kid;
    let selectable = |key: &&VerificationKey| header.kid.is_none() || key.kid.is_none() || named(key);
    let fitting = keys.keys.iter().filter(selectable).filter(|key| key.algorithms.contains(&header.alg));
    for key in fitting.take(MAX_TRIED) {
        if let Ok(data) =
            jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &signature_only(header.alg))
        {
            return Ok(data.claims);
        }
    }
    let might_be_new =
        keys.keys.is_empty() || header.kid.is_some() && !keys.keys.iter().any(|key| named(&key));
    Err(if might_be_new && !keys.is_fixed() { Bypass::UnknownKey } else { Bypass::UnverifiedToken })
}

impl KeySet {
    /// A secret or PEM: nothing will ever be added.
    fn is_fixed(&self) -> bool {
        matches!(self.keys.as_slice(), [only] if only.kid.is_none())
    }
}

/// Everything else is checked here, against the time that is given.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// A token without an end is not accepted: nothing would ever take its answers away.
fn times(claims: &Map<String, Value>, leeway: u64) -> Result<Times, Bypass> {
    let seconds = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().filter(|s| s.is_finite()).map(Some).ok_or(Bypass::UnverifiedToken),
    };
    let end = seconds("exp")?.ok_or(Bypass::TokenTime)?;
    Ok(Times { start: seconds("nbf")?, end, leeway: leeway as f64 })
}

/// RFC 7519 §4.1.1 and §4.1.3, as far as the operator names them.
fn check_audience(spec: &JwtSpec, claims: &Map<String, Value>) -> Result<(), Bypass> {
    if let Some(issuer) = &spec.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(Bypass::UnverifiedToken);
    }
    let accepted = |value: &Value| value.as_str().is_some_and(|one| spec.audience.iter().any(|a| a == one));
    let meant = match claims.get("aud") {
        _ if spec.audience.is_empty() => true,
        Some(Value::Array(several)) => several.iter().any(accepted),
        Some(one) => accepted(one),
        None => false,
    };
    if meant { Ok(()) } else { Err(Bypass::UnverifiedToken) }
}

/// The one text of a claim's value, its type included: `"1"` is not `1`. `None` for null, and for numbers that are not
/// whole or beyond 64 bits: parsing has rounded those, and two people could become one.
pub(super) fn canonical(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Number(number) if number.is_f64() => None,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value.to_string()),
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(canonical).collect();
            Some(format!("[{}]", items?.join(",")))
        }
        Value::Object(members) => {
            let mut texts = members
                .iter()
                .map(|(name, value)| Some(format!("{}:{}", Value::from(name.as_str()), canonical(value)?)))
                .collect::<Option<Vec<String>>>()?;
            texts.sort_unstable();
            Some(format!("{{{}}}", texts.join(",")))
        }
    }
}

/// A claim's values as tags name them: texts, whole numbers and truth values, also a list of them.
pub(super) fn tag_values(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Bool(flag) => vec![flag.to_string()],
        Value::Number(number) if !number.is_f64() => vec![number.to_string()],
        Value::Array(items) if !items.iter().any(Value::is_array) => {
            items.iter().flat_map(tag_values).collect()
        }
        _ => Vec::new(),
    }
}

/// The set a spec refers to.
pub(super) fn key_set<'a>(sets: &'a super::subject::KeySets, spec: &JwtSpec) -> Option<&'a Arc<KeySet>> {
    sets.0.get(spec.keys)
}
