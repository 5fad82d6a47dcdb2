//! `subject`: whose answers these are.

use std::ops::Range;
use std::sync::Arc;

use http::HeaderName;
use jsonwebtoken::Algorithm;
use toml::Spanned;

use super::super::file::{Jwt, Subject, SubjectTable, TokenFrom};
use super::super::problem::nearest;
use super::super::values::{Text, WordOr, Words};
use super::sections::KeyPart;
use super::{Builder, secs};
use crate::policy::subject::{JwtSpec, SubjectSpec, TokenSource};

const SHARED: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const PUBLIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

impl Builder<'_, '_> {
    /// Compiles one `subject`; `None` = wrong, and reported.
    pub(super) fn subject(&mut self, given: &Spanned<Subject>, keys: &[KeyPart]) -> Option<SubjectSpec> {
        let table = match given.get_ref() {
            WordOr::Word(_) => return Some(SubjectSpec::None),
            WordOr::Table(table) => table,
        };
        let ways = [
            table.header.as_ref().map(Spanned::span),
            table.cookie.as_ref().map(Spanned::span),
            table.jwt.as_ref().map(Spanned::span),
        ];
        let ways: Vec<_> = ways.into_iter().flatten().collect();
        let path = self.document.path_of(&given.span());
        match ways.as_slice() {
            [_] => {}
            [] => {
                if !self.document.was_damaged(&path) {
                    self.error(&given.span(), "the subject is empty").allowed(SubjectTable::FORM);
                }
                return None;
            }
            [_, second, ..] => {
                self.error(second, "a subject has one source").allowed(SubjectTable::FORM);
                return None;
            }
        }
        if let Some(header) = &table.header {
            return self.header_name(header).map(SubjectSpec::Header);
        }
        if let Some(cookie) = &table.cookie {
            return self.cookie_name(cookie).map(|name| SubjectSpec::Cookie(name.into()));
        }
        let jwt = table.jwt.as_ref()?;
        self.jwt(jwt.get_ref(), &jwt.span(), keys).map(|spec| SubjectSpec::Jwt(Arc::new(spec)))
    }

    fn jwt(&mut self, jwt: &Jwt, span: &Range<usize>, keys: &[KeyPart]) -> Option<JwtSpec> {
        let path = self.document.path_of(span);
        let set = self.jwt_keys(jwt, span, &path, keys);
        let claims = self.jwt_claims(jwt);
        let from = match &jwt.from {
            None => Some(TokenSource::Header(http::header::AUTHORIZATION)),
            Some(from) => self.token_from(from),
        };
        let algorithms = self.jwt_algorithms(jwt, set.map(|at| &keys[at]));
        let leeway = self.duration(jwt.leeway.as_ref(), secs(30), secs(0)..=secs(600));
        if let Some(typed) = jwt.leeway.as_ref().filter(|_| leeway.subsec_nanos() > 0) {
            self.error(&typed.span(), "the leeway is not a whole number of seconds").allowed("0s to 10m");
        }
        Some(JwtSpec {
            keys: set?,
            from: from?,
            claims: claims?,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.as_ref().map(|a| a.0.clone()).unwrap_or_default(),
            algorithms: algorithms?,
            leeway: leeway.as_secs(),
        })
    }

    /// The position of the named key set.
    fn jwt_keys(&mut self, jwt: &Jwt, span: &Range<usize>, path: &str, keys: &[KeyPart]) -> Option<usize> {
        let Some(name) = &jwt.keys else {
            self.missing(path, Some(span), "keys", "the name of a [[keys]] table");
            return None;
        };
        let found = keys.iter().position(|k| k.name == *name.get_ref());
        if found.is_none() && !self.document.was_damaged("keys") {
            let message = format!("no [[keys]] is called `{}`", name.get_ref());
            let names: Vec<&str> = keys.iter().map(|k| k.name.as_str()).collect();
            let near = nearest(name.get_ref(), names.iter().copied());
            let allowed = if names.is_empty() {
                "the name of a [[keys]] table; there is none yet".to_owned()
            } else {
                names.join(", ")
            };
            let problem = self.error(&name.span(), message).allowed(allowed);
            if let Some(near) = near {
                problem.help(format!("did you mean `{near}`?"));
            }
        }
        found
    }

    fn jwt_claims(&mut self, jwt: &Jwt) -> Option<Vec<String>> {
        let claims = match (&jwt.claim, &jwt.claims) {
            (Some(_), Some(many)) => {
                self.error(&many.span(), "both `claim` and `claims` are given").allowed("one of the two");
                return None;
            }
            (Some(one), None) => vec![one],
            (None, Some(many)) if many.get_ref().is_empty() => {
                self.error(&many.span(), "without a claim every caller would be the same")
                    .allowed("at least one claim, such as [\"sub\"]");
                return None;
            }
            (None, Some(many)) => many.get_ref().iter().collect(),
            (None, None) => return Some(vec!["sub".to_owned()]),
        };
        for claim in claims.iter().filter(|c| c.get_ref().is_empty()) {
            self.error(&claim.span(), "a claim without a name").allowed("a name such as \"sub\"");
        }
        Some(claims.into_iter().map(|c| c.get_ref().clone()).collect())
    }

    fn token_from(&mut self, from: &Spanned<TokenFrom>) -> Option<TokenSource> {
        match (&from.get_ref().header, &from.get_ref().cookie) {
            (Some(header), None) => self.header_name(header).map(TokenSource::Header),
            (None, Some(cookie)) => self.cookie_name(cookie).map(TokenSource::Cookie),
            _ => {
                let path = self.document.path_of(&from.span());
                if !self.document.was_damaged(&path) {
                    self.error(&from.span(), "a token is in one place")
                        .allowed("{ header = \"authorization\" } or { cookie = \"token\" }");
                }
                None
            }
        }
    }

    fn jwt_algorithms(&mut self, jwt: &Jwt, keys: Option<&KeyPart>) -> Option<Vec<Algorithm>> {
        let keys = keys?;
        let fitting: &[Algorithm] = if keys.shared { &SHARED } else { &PUBLIC };
        let Some(given) = &jwt.algorithms else { return Some(fitting.to_vec()) };
        let names: Vec<String> = fitting.iter().map(|a| format!("{a:?}")).collect();
        let allowed = format!("any of {}", names.join(", "));
        if given.get_ref().is_empty() {
            self.error(&given.span(), "without an algorithm no token is ever accepted").allowed(allowed);
            return None;
        }
        let mut all = Vec::new();
        for typed in given.get_ref() {
            let name = typed.get_ref();
            let known = SHARED.iter().chain(&PUBLIC).find(|a| format!("{a:?}") == *name);
            match known {
                Some(algorithm) if fitting.contains(algorithm) => all.push(*algorithm),
                // Public keys used as a shared secret would let anybody sign: everybody knows them.
                Some(_) if keys.sound => {
                    let kind = if keys.shared { "a shared secret" } else { "public keys" };
                    let message =
                        format!("`{name}` does not go with key set `{}`, which holds {kind}", keys.name);
                    self.error(&typed.span(), message).allowed(allowed.clone());
                }
                Some(_) => {}
                None => {
                    self.error(&typed.span(), format!("`{name}` is not an algorithm"))
                        .allowed(allowed.clone());
                }
            }
        }
        Some(all)
    }

    /// A field name, lower-cased.
    pub(super) fn header_name(&mut self, typed: &Text) -> Option<HeaderName> {
        let name = typed.get_ref().to_ascii_lowercase().parse::<HeaderName>().ok();
        if name.is_none() {
            self.error(&typed.span(), format!("`{}` is not a header name", typed.get_ref()))
                .allowed("letters, digits and `-`, such as \"authorization\"");
        }
        name
    }

    fn cookie_name(&mut self, typed: &Text) -> Option<String> {
        let name = typed.get_ref();
        if !is_cookie_name(name) {
            self.error(&typed.span(), format!("`{name}` is not a cookie name"))
                .allowed("a name without spaces, quotes, `=`, `;` and `,`, such as \"sid\"");
            return None;
        }
        Some(name.clone())
    }
}

/// RFC 6265 §4.1.1: a cookie's name is a token.
pub(super) fn is_cookie_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&b))
}
