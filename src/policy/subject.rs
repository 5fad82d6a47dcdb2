//! Subjects: whose answer is it? (DESIGN §3, promise 1)
//!
//! A request takes part in the cache only if every credential it carries is either part of its route's subject or
//! declared of no influence. Credentials are recognised by field name ([`is_credential`]), also in the spelling with
//! underscores that CGI-like backends cannot tell from the other; every cookie is one.
//!
//! The subject's digest is keyed and covers the kind and name of the source, the key set, the issuer and the
//! values, so that no two sources can be mistaken for each other. What it deliberately lacks: a memory (whoever keeps
//! one learns from [`Told`] how far it reaches), and any trust in a claim whose token was not verified.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Map, Value};

use super::cookies::{self, Cookie, cookies};
use super::digest::Digest;
use super::jwt;
pub use super::jwt::Times;
use super::query::name_matches;
use super::route::{IgnoredCredential, Route};
use crate::semantics::fields::{is_credential, is_in_plain_sight, is_override};
use crate::semantics::timestamp::Timestamp;

/// How a route knows its caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
#[derive(Debug, PartialEq, Eq)]
pub struct JwtSpec {
    /// The key set (index into [`KeySets`]).
    pub keys: usize,
    /// Where the token is.
    pub from: TokenSource,
    /// Claims that make the subject, in order (`sub` alone by default; scope, tenant can be added).
    pub claims: Vec<String>,
    /// Required issuer, if given.
    pub issuer: Option<String>,
    /// Accepted audiences, if given.
    pub audience: Vec<String>,
    /// Accepted algorithms (`RS256`, …); empty = whatever the keys allow.
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

/// Whose request this is, as far as its route cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Part of the key; all zero for "nobody in particular". Never shown; `Subject::tag_value` is.
    pub digest: [u8; 32],
    /// Anonymous: the route has no subject, or is per subject and the request carries no credential at all.
    pub anonymous: bool,
    /// Values of the claims that make the subject, for `{claim.x}` in tag templates; a list gives several. Other
    /// claims are left out on purpose: two tokens of one subject may differ in them.
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
    /// The token is malformed, its signature does not verify, or its issuer or audience is another.
    UnverifiedToken,
    /// The token names a key that its set does not have (yet): refreshing the set may help.
    UnknownKey,
    /// The token is expired or not yet valid.
    TokenTime,
    /// The verified token lacks a claim the subject needs, or has it as null or as a number that is not whole.
    MissingClaim,
    /// The named cookie or field occurs several times: caches and backends may pick different ones.
    AmbiguousCredential,
}

impl Bypass {
    /// A short token for logs and `Cache-Status` detail.
    pub fn token(self) -> &'static str {
        match self {
            Bypass::ForeignCredential => "foreign-credential",
            Bypass::UnverifiedToken => "unverified-token",
            Bypass::UnknownKey => "unknown-key",
            Bypass::TokenTime => "token-time",
            Bypass::MissingClaim => "missing-claim",
            Bypass::AmbiguousCredential => "ambiguous-credential",
        }
    }
}

/// Whose request is it? `Ok` = the cache may take part under this subject. Ignored credentials are not looked at
/// (the exchange strips them from what is forwarded, by [`strip_ignored`]).
///
/// A request without any credential is anonymous, on routes with a subject too: those answers are shared among all
/// who send none.
pub fn identify(
    route: &Route,
    headers: &HeaderMap,
    keys: &KeySets,
    secret: &[u8; 32],
    now: Timestamp,
) -> Result<Subject, Bypass> {
    match credential(route, headers)? {
        Some(credential) => credential.tell(keys, secret, now).map(|told| told.subject),
        None => Ok(Subject::anonymous()),
    }
}

/// What a request's subject is to be told by; `None` = it speaks for nobody.
pub fn credential<'a>(route: &'a Route, headers: &'a HeaderMap) -> Result<Option<Credential<'a>>, Bypass> {
    let ignored = Ignored(&route.ignore);
    if headers.contains_key(header::PROXY_AUTHORIZATION) && !ignored.field(&header::PROXY_AUTHORIZATION) {
        return Err(Bypass::ForeignCredential);
    }
    if route.public {
        return Ok(None);
    }
    refuse_foreign(&route.subject, ignored, headers)?;
    Credential::find(&route.subject, ignored, headers)
}

/// Whose request it is where its fields are in plain sight ([`crate::semantics::fields::Sight`]): nobody's, unless the
/// route takes one of those for a name.
pub fn is_anonymous_in_plain_sight(route: &Route) -> bool {
    route.public || !route.subject.own_field().is_some_and(is_in_plain_sight)
}

/// The caller of a mutation under one spec (no foreign-credential rule); `None` = cannot be told. A mutation without
/// the spec's credential cannot be told either: the same person may have sent another one.
pub fn caller(
    spec: &SubjectSpec,
    headers: &HeaderMap,
    keys: &KeySets,
    secret: &[u8; 32],
    now: Timestamp,
) -> Option<Subject> {
    match spec {
        SubjectSpec::None => Some(Subject::anonymous()),
        _ => {
            let credential = Credential::find(spec, Ignored(&[]), headers).ok()??;
            credential.tell(keys, secret, now).ok().map(|told| told.subject)
        }
    }
}

/// Removes what `route.ignore` names, and override fields, from a request about to be forwarded.
pub fn strip_ignored(route: &Route, headers: &mut HeaderMap) {
    let ignored = Ignored(&route.ignore);
    let doomed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| ignored.field(name) || !is_in_plain_sight(name) && with_hyphens(name, is_override))
        .cloned()
        .collect();
    for name in doomed {
        headers.remove(name);
    }
    if !route.ignore.is_empty() {
        cookies::retain(headers, |cookie| !ignored.cookie(cookie));
    }
}

/// What a route declares of no influence.
#[derive(Clone, Copy)]
struct Ignored<'a>(&'a [IgnoredCredential]);

impl Ignored<'_> {
    fn field(self, name: &HeaderName) -> bool {
        self.0.iter().any(|one| matches!(one, IgnoredCredential::Header(field) if field == name))
    }

    /// Only a cookie that every server would see under this name can be ignored.
    fn cookie(self, cookie: &Cookie<'_>) -> bool {
        let Some(name) = cookie.name else { return false };
        !cookie.is_unclear()
            && self
                .0
                .iter()
                .any(|one| matches!(one, IgnoredCredential::Cookie(pattern) if name_matches(pattern, name)))
    }
}

impl SubjectSpec {
    fn own_field(&self) -> Option<&HeaderName> {
        match self {
            SubjectSpec::Header(name) => Some(name),
            SubjectSpec::Jwt(spec) => match &spec.from {
                TokenSource::Header(name) => Some(name),
                TokenSource::Cookie(_) => None,
            },
            SubjectSpec::None | SubjectSpec::Cookie(_) => None,
        }
    }

    fn own_cookie(&self) -> Option<&str> {
        match self {
            SubjectSpec::Cookie(name) => Some(name),
            SubjectSpec::Jwt(spec) => match &spec.from {
                TokenSource::Cookie(name) => Some(name),
                TokenSource::Header(_) => None,
            },
            SubjectSpec::None | SubjectSpec::Header(_) => None,
        }
    }
}

fn refuse_foreign(spec: &SubjectSpec, ignored: Ignored<'_>, headers: &HeaderMap) -> Result<(), Bypass> {
    let own = spec.own_field();
    let concerns =
        |name: &&HeaderName| own != Some(*name) && !is_in_plain_sight(name) && !ignored.field(name);
    for name in headers.keys().filter(concerns) {
        // A spelling of the route's own field that a backend may take for it, or add to it.
        let double = |own: &HeaderName| with_hyphens(name, |hyphened| hyphened == own);
        if *name != header::COOKIE && (speaks_for_somebody(name) || own.is_some_and(double)) {
            return Err(Bypass::ForeignCredential);
        }
    }
    if own == Some(&header::COOKIE) || ignored.field(&header::COOKIE) {
        return Ok(());
    }
    for cookie in cookies(headers).filter(|cookie| !ignored.cookie(cookie)) {
        if cookie.is_unclear() {
            return Err(Bypass::AmbiguousCredential);
        }
        if !spec.own_cookie().is_some_and(|own| cookie.is_named(own)) {
            return Err(Bypass::ForeignCredential);
        }
    }
    Ok(())
}

fn speaks_for_somebody(name: &HeaderName) -> bool {
    // Named here as well, so that promise 1 does not hang on one table alone.
    *name == header::AUTHORIZATION
        || *name == header::PROXY_AUTHORIZATION
        || with_hyphens(name, is_credential)
}

/// Asks about a name, and about its spelling with hyphens if it has underscores.
fn with_hyphens(name: &HeaderName, is: impl Fn(&HeaderName) -> bool) -> bool {
    is(name)
        || name.as_str().contains('_')
            && name.as_str().replace('_', "-").parse::<HeaderName>().is_ok_and(|hyphened| is(&hyphened))
}

/// Parts of a subject's digest.
mod label {
    pub(super) const KIND: u8 = 1;
    pub(super) const SOURCE: u8 = 2;
    pub(super) const VALUE: u8 = 3;
    pub(super) const KEYS: u8 = 4;
    pub(super) const ISSUER: u8 = 5;
    pub(super) const CLAIM: u8 = 6;
    pub(super) const COUNT: u8 = 7;
}

/// A credential of the kind that a route tells its callers by, as a request carries it.
#[derive(Debug)]
pub struct Credential<'a> {
    spec: &'a SubjectSpec,
    text: Text<'a>,
}

#[derive(Debug)]
enum Text<'a> {
    One(&'a [u8]),
    Lines(Vec<&'a [u8]>),
    Joined(Vec<u8>),
}

/// Whose a credential was found to be.
#[derive(Debug, Clone)]
pub struct Told {
    /// Whose.
    pub subject: Subject,
    /// When it is that, if not always.
    pub times: Option<Times>,
}

impl<'a> Credential<'a> {
    /// `None`: the spec's credential is not there.
    fn find(
        spec: &'a SubjectSpec,
        ignored: Ignored<'_>,
        headers: &'a HeaderMap,
    ) -> Result<Option<Credential<'a>>, Bypass> {
        let text = match spec {
            SubjectSpec::None => None,
            SubjectSpec::Header(name) if *name == header::COOKIE => {
                all_cookies(ignored, headers).map(Text::Joined)
            }
            SubjectSpec::Header(name) => field_lines(name, ignored, headers)?,
            SubjectSpec::Cookie(name) => cookie_value(name, ignored, headers)?.map(Text::One),
            SubjectSpec::Jwt(spec) => find_token(&spec.from, ignored, headers)?.map(Text::One),
        };
        Ok(text.map(|text| Credential { spec, text }))
    }

    /// Its whole text, where that is one piece. With the spec, the secret of keys and (of a token) the key set, it alone
    /// says whose it is, within its times.
    pub fn text(&self) -> Option<&'a [u8]> {
        match self.text {
            Text::One(text) => Some(text),
            Text::Lines(_) | Text::Joined(_) => None,
        }
    }

    /// How its route tells callers.
    pub fn spec(&self) -> &'a SubjectSpec {
        self.spec
    }

    /// The key set that a token is verified with.
    pub fn key_set<'k>(&self, keys: &'k KeySets) -> Option<&'k Arc<KeySet>> {
        match self.spec {
            SubjectSpec::Jwt(spec) => jwt::key_set(keys, spec),
            SubjectSpec::None | SubjectSpec::Header(_) | SubjectSpec::Cookie(_) => None,
        }
    }

    /// Whose it is: hashed, or verified.
    pub fn tell(&self, keys: &KeySets, secret: &[u8; 32], now: Timestamp) -> Result<Told, Bypass> {
        let (kind, source) = match self.spec {
            // There is no credential of this kind.
            SubjectSpec::None => return Ok(Told { subject: Subject::anonymous(), times: None }),
            SubjectSpec::Header(name) => ("header", name.as_str()),
            SubjectSpec::Cookie(name) => ("cookie", &**name),
            SubjectSpec::Jwt(spec) => {
                let set = jwt::key_set(keys, spec).ok_or(Bypass::UnknownKey)?;
                let (claims, times) = jwt::verify(spec, set, self.text().unwrap_or_default(), now)?;
                let subject = claims_subject(spec, set, &claims, secret)?;
                return Ok(Told { subject, times: Some(times) });
            }
        };
        let subject = match &self.text {
            Text::One(text) => hashed(secret, kind, source, &[text]),
            Text::Lines(lines) => hashed(secret, kind, source, lines),
            Text::Joined(line) => hashed(secret, kind, source, &[line]),
        };
        Ok(Told { subject, times: None })
    }
}

/// All lines of the subject's field, which must be one if it is a credential.
fn field_lines<'a>(
    name: &HeaderName,
    ignored: Ignored<'_>,
    headers: &'a HeaderMap,
) -> Result<Option<Text<'a>>, Bypass> {
    if ignored.field(name) {
        return Ok(None);
    }
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => Ok(Some(Text::One(one))),
        (Some(_), Some(_)) if speaks_for_somebody(name) => Err(Bypass::AmbiguousCredential),
        (Some(one), Some(two)) => Ok(Some(Text::Lines([one, two].into_iter().chain(lines).collect()))),
    }
}

/// Every cookie that is forwarded, as one line.
fn all_cookies(ignored: Ignored<'_>, headers: &HeaderMap) -> Option<Vec<u8>> {
    if ignored.field(&header::COOKIE) {
        return None;
    }
    let pieces: Vec<&[u8]> = cookies(headers).filter(|c| !ignored.cookie(c)).map(|c| c.piece).collect();
    (!pieces.is_empty()).then(|| pieces.join(&b"; "[..]))
}

fn cookie_value<'a>(
    name: &str,
    ignored: Ignored<'_>,
    headers: &'a HeaderMap,
) -> Result<Option<&'a [u8]>, Bypass> {
    if ignored.field(&header::COOKIE) {
        return Ok(None);
    }
    let mut named = cookies(headers).filter(|cookie| cookie.is_named(name) && !ignored.cookie(cookie));
    match (named.next(), named.next()) {
        (None, _) => Ok(None),
        (Some(cookie), None) if !cookie.is_unclear() => Ok(Some(cookie.value)),
        _ => Err(Bypass::AmbiguousCredential),
    }
}

/// RFC 6750 §2.1: the scheme is case-insensitive. `Authorization` must name it; another field may.
fn find_token<'a>(
    from: &TokenSource,
    ignored: Ignored<'_>,
    headers: &'a HeaderMap,
) -> Result<Option<&'a [u8]>, Bypass> {
    let name = match from {
        TokenSource::Cookie(name) => return cookie_value(name, ignored, headers),
        TokenSource::Header(name) => name,
    };
    if ignored.field(name) {
        return Ok(None);
    }
    let mut lines = headers.get_all(name).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(line), None) => line.as_bytes().trim_ascii(),
        (Some(_), Some(_)) => return Err(Bypass::AmbiguousCredential),
    };
    match line.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(Some(token.trim_ascii())),
        _ if *name == header::AUTHORIZATION => Err(Bypass::UnverifiedToken),
        _ => Ok(Some(line)),
    }
}

/// A subject that only the holder of the same value can be.
fn hashed(secret: &[u8; 32], kind: &str, source: &str, values: &[impl AsRef<[u8]>]) -> Subject {
    let mut digest = subject_digest(secret, kind, source);
    digest.count(label::COUNT, values.len());
    for value in values {
        digest.part(label::VALUE, value.as_ref());
    }
    Subject { digest: digest.finish(), anonymous: false, claims: Vec::new() }
}

fn subject_digest(secret: &[u8; 32], kind: &str, source: &str) -> Digest {
    let mut digest = Digest::new(secret, "weir subject 1");
    digest.part(label::KIND, kind.as_bytes()).part(label::SOURCE, source.as_bytes());
    digest
}

fn claims_subject(
    spec: &JwtSpec,
    set: &KeySet,
    claims: &Map<String, Value>,
    secret: &[u8; 32],
) -> Result<Subject, Bypass> {
    let mut digest = match &spec.from {
        TokenSource::Header(name) => subject_digest(secret, "jwt header", name.as_str()),
        TokenSource::Cookie(name) => subject_digest(secret, "jwt cookie", name),
    };
    digest.part(label::KEYS, set.name.as_bytes());
    // RFC 7519 §4.1.2: `sub` is unique within its issuer only.
    let issuer = claims.get("iss").and_then(jwt::canonical);
    digest.maybe(label::ISSUER, issuer.as_deref().map(str::as_bytes));
    digest.count(label::COUNT, spec.claims.len());
    let mut values = Vec::new();
    for name in &spec.claims {
        let value = claims.get(name).ok_or(Bypass::MissingClaim)?;
        let text = jwt::canonical(value).ok_or(Bypass::MissingClaim)?;
        digest.part(label::CLAIM, name.as_bytes()).part(label::VALUE, text.as_bytes());
        values.extend(jwt::tag_values(value).into_iter().map(|text| (name.clone(), text)));
    }
    // Without a single claim everybody with a valid token would be the same person.
    if spec.claims.is_empty() {
        return Err(Bypass::MissingClaim);
    }
    Ok(Subject { digest: digest.finish(), anonymous: false, claims: values })
}

#[cfg(test)]
mod tests;
