//! Subjects: whose answer is it? (DESIGN §3, promise 1)

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::route::Route;
use crate::semantics::timestamp::Timestamp;

/// How a route knows its caller.
#[derive(Debug, Clone, Default)]
pub enum SubjectSpec {
    /// Answers are not personal. Requests with credentials pass through unless the route is public.
    #[default]
    None,
    /// The whole value(s) of a field, hashed.
    Header(HeaderName),
    /// The value of one cookie, hashed.
    Cookie(Arc<str>),
    /// Claims of a verified token.
    Jwt(Arc<JwtSpec>),
}

/// A verified JWT's claims as subject.
#[derive(Debug)]
pub struct JwtSpec {
    /// Name of the key set (index into [`KeySets`]).
    pub keys: usize,
    /// Where the token is.
    pub from: TokenSource,
    /// Claims that make the subject, in order (`sub` alone by default; scope, tenant can be added).
    pub claims: Vec<String>,
    /// Required issuer, if given.
    pub issuer: Option<String>,
    /// Accepted audiences, if given.
    pub audience: Vec<String>,
    /// Accepted algorithms by name (`RS256`, …).
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    /// Allowed clock difference, seconds.
    pub leeway: u64,
}

/// Where a token is carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer …` or another field (with or without `Bearer `).
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
}

/// The key sets in force now. Refreshing them from files and URLs is `upstream::jwks`' work.
#[derive(Debug, Default, Clone)]
pub struct KeySets(pub Vec<Arc<KeySet>>);

/// One key set: its keys and an identity that becomes part of the subject.
pub struct KeySet {
    /// Stable identity of the set as configured (not of its current keys).
    pub name: Arc<str>,
    /// Keys with optional `kid`.
    pub keys: Vec<VerificationKey>,
}

/// One key.
pub struct VerificationKey {
    /// `kid`, where known.
    pub kid: Option<String>,
    /// The key.
    pub key: jsonwebtoken::DecodingKey,
    /// The algorithms it may verify.
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeySet({}, {} keys)", self.name, self.keys.len())
    }
}

impl KeySet {
    /// Parses a JWKS document (RFC 7517); keys it cannot use are skipped and counted.
    pub fn from_jwks(_name: &str, _json: &[u8]) -> Result<(KeySet, usize), String> {
        unimplemented!()
    }
    /// A shared secret (HS*).
    pub fn from_secret(_name: &str, _secret: &[u8]) -> KeySet {
        unimplemented!()
    }
    /// A PEM public key (RSA, EC, Ed25519) or certificate.
    pub fn from_pem(_name: &str, _pem: &[u8]) -> Result<KeySet, String> {
        unimplemented!()
    }
}

/// Whose request this is, as far as its route cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Part of the key; all zero for "nobody in particular". Never shown; `Subject::tag_value` is.
    pub digest: [u8; 32],
    /// Anonymous: the route has no subject, or is per subject and the request carries no credential at all.
    pub anonymous: bool,
    /// Claim values for `{claim.x}` in tag templates.
    pub claims: Vec<(String, String)>,
}

impl Subject {
    /// The subject of requests that speak for nobody.
    pub fn anonymous() -> Subject {
        Subject { digest: [0; 32], anonymous: true, claims: Vec::new() }
    }
}

/// Why a request on a cached route is not the cache's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// It carries a credential that is not part of the route's subject.
    ForeignCredential,
    /// The token is missing where other credentials are present, malformed, or not verified.
    UnverifiedToken,
    /// The token is expired or not yet valid.
    TokenTime,
    /// The verified token lacks a claim the subject needs.
    MissingClaim,
    /// The named cookie or field occurs several times: caches and backends may pick different ones.
    AmbiguousCredential,
}

/// Whose request is it? `Ok` = the cache may take part under this subject. Ignored credentials are not looked at
/// (the exchange strips them from what is forwarded).
pub fn identify(
    _route: &Route,
    _headers: &HeaderMap,
    _keys: &KeySets,
    _secret: &[u8; 32],
    _now: Timestamp,
) -> Result<Subject, Bypass> {
    unimplemented!()
}

/// The caller of a mutation under one spec (no foreign-credential rule); `None` = cannot be told.
pub fn caller(
    _spec: &SubjectSpec,
    _headers: &HeaderMap,
    _keys: &KeySets,
    _secret: &[u8; 32],
    _now: Timestamp,
) -> Option<Subject> {
    unimplemented!()
}

/// Removes what `route.ignore` names, and override fields, from a request about to be forwarded.
pub fn strip_ignored(_route: &Route, _headers: &mut HeaderMap) {
    unimplemented!()
}
