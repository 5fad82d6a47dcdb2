//! Whose answer to what: everything that decides whether and under which key the cache takes part. No await, no I/O.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Version, header, request};

use super::search::Reduced;
use super::{Exchange, forwarded};
use crate::coherence::View;
use crate::policy::key::{CacheKey, KeyParts};
use crate::policy::path::{self, UnsafePath};
use crate::policy::route::Route;
use crate::policy::subject::{self, Bypass, Subject, SubjectSpec};
use crate::semantics::timestamp::Timestamp;
use crate::server::Peer;

/// A request as its head tells it, and when it came.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) parts: &'a request::Parts,
    pub(super) peer: Peer,
    /// As [`crate::policy::route::request_host`] gives it.
    pub(super) host: &'a str,
    /// Read from `Clock::elapsed` after it had arrived.
    pub(super) arrived: Duration,
    pub(super) now: Timestamp,
}

/// What a cacheable read is about.
pub(super) struct Identity {
    /// The normalised path: keyed, and forwarded.
    pub(super) path: String,
    /// The normalised query: keyed, and forwarded.
    pub(super) query: String,
    pub(super) subject: Subject,
    pub(super) key: CacheKey,
    /// How `key` was made, where that is by a rule of the backend's about queries.
    pub(super) reduced: Option<Reduced>,
}

impl Identity {
    /// Path and query, unless a rule of the backend's has a say in the key.
    pub(super) fn normal(&self) -> Option<(&str, &str)> {
        self.reduced.is_none().then_some((&*self.path, &*self.query))
    }
}

/// What the head alone tells of an [`Identity`].
pub(super) struct Admitted<'a> {
    path: Cow<'a, str>,
    subject: Subject,
}

impl Admitted<'_> {
    pub(super) fn into_owned(self) -> Admitted<'static> {
        Admitted { path: Cow::Owned(self.path.into_owned()), subject: self.subject }
    }
}

/// A key, and what it was made of.
pub(super) struct Keyed<'a> {
    pub(super) key: CacheKey,
    path: Cow<'a, str>,
    query: Cow<'a, str>,
    subject: Subject,
    reduced: Option<Reduced>,
}

impl Keyed<'_> {
    /// Path and query in their normal forms, unless a rule of the backend's has a say in the key.
    pub(super) fn normal(&self) -> Option<(&str, &str)> {
        self.reduced.is_none().then_some((&*self.path, &*self.query))
    }

    pub(super) fn into_identity(self) -> Identity {
        let Keyed { key, path, query, subject, reduced } = self;
        Identity { path: path.into_owned(), query: query.into_owned(), subject, key, reduced }
    }
}

impl Exchange {
    /// What can be told from the head alone, or why the cache takes no part.
    pub(super) fn admissible<'a>(
        &self,
        head: &Head<'a>,
        route: &Route,
    ) -> Result<Admitted<'a>, &'static str> {
        if !self.store.enabled() {
            return Err("disabled");
        }
        let headers = &head.parts.headers;
        if headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE) {
            return Err("precondition");
        }
        let path = path::normalise(head.parts.uri.path()).map_err(UnsafePath::token)?;
        let view = self.store.coherence().view();
        Ok(Admitted { path, subject: self.subject(head, route, &view)? })
    }

    /// Whose request it is, or why the cache takes no part.
    pub(super) fn subject(
        &self,
        head: &Head<'_>,
        route: &Route,
        view: &View,
    ) -> Result<Subject, &'static str> {
        let refused = |why: Bypass| {
            if why == Bypass::UnknownKey {
                self.refresher.poke();
            }
            why.token()
        };
        let Some(credential) = subject::credential(route, &head.parts.headers).map_err(refused)? else {
            return Ok(Subject::anonymous());
        };
        let keys = self.keys.load();
        if let Some(known) = self.callers.find(&credential, &keys, view, head.now) {
            return Ok(known);
        }
        let told = credential.tell(&keys, &view.secret, head.now).map_err(refused)?;
        self.callers.learn(&credential, &keys, view, &told, head.now);
        Ok(told.subject)
    }

    /// Whether to tell who asks would keep others on its connection waiting: a signature is dear, and with HTTP/2 what is
    /// not done in a stream's own task is done in the connection's.
    pub(super) fn takes_long(&self, head: &Head<'_>, route: &Route) -> bool {
        if head.parts.version != Version::HTTP_2 || !matches!(route.subject, SubjectSpec::Jwt(_)) {
            return false;
        }
        let Ok(Some(credential)) = subject::credential(route, &head.parts.headers) else { return false };
        let view = self.store.coherence().view();
        self.callers.find(&credential, &self.keys.load(), &view, head.now).is_none()
    }

    /// The key of an admitted request, by its body too where there is one that counts.
    pub(super) fn keyed<'a>(
        &self,
        head: &Head<'a>,
        route: &Route,
        admitted: Admitted<'a>,
        body: Option<&Bytes>,
    ) -> Keyed<'a> {
        let Admitted { path, subject } = admitted;
        let query = route.query.normalise(head.parts.uri.query());
        let view = self.store.coherence().view();
        let exact = self.key(&view.secret, head, route, (&path, &query), &subject, body);
        let reduced = match body {
            None => self.reduced(head, route, &path, &query, &subject, exact),
            Some(_) => None,
        };
        let key = reduced.as_ref().map_or(exact, |reduced| reduced.key);
        Keyed { key, path, query, subject, reduced }
    }

    /// The key of a path and a query in their normal forms, under this secret.
    pub(super) fn key(
        &self,
        secret: &[u8; 32],
        head: &Head<'_>,
        route: &Route,
        (path, query): (&str, &str),
        subject: &Subject,
        body: Option<&Bytes>,
    ) -> CacheKey {
        let headers = &head.parts.headers;
        let outside = forwarded::outside(headers, head.peer, &self.config.trust_forwarded, head.host);
        let content_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let parts = KeyParts {
            namespace: self.store.namespace(),
            route: &route.name,
            origin: (!route.any_host).then_some((outside.scheme, &*outside.host)),
            path,
            query,
            subject,
            body: body.map(|b| (head.parts.method.as_str(), content_type, &b[..])),
        };
        CacheKey::compute(secret, &parts)
    }
}
