//! What targets were found to mean: route, normal form and key of requests that came before. A hot target is parsed,
//! matched and hashed once, not for every request.
//!
//! Invariants:
//! - What is remembered is a function of what it is found by, whole and compared byte for byte: method, scheme, `Host`,
//!   target, and the secret of keys. Where anything else has a say (a route's conditions on fields, what a trusted proxy claims
//!   of the outside, a backend's rule about queries), nothing is looked up here.
//! - Only what the store has answered is remembered, so that nobody fills this with targets that mean nothing.
//! - A place is bounded by bytes; what is pushed out costs a parse.
//!
//! It says nothing about who asks: a subject is told from each request's own credentials.

use std::sync::Arc;

use http::{Method, header, request};

use super::identity::Head;
use crate::coherence::View;
use crate::places::{Found, Places};
use crate::policy::key::CacheKey;
use crate::policy::route::Route;

/// Longest `Host` and target that are, bytes together.
const LONGEST: usize = 512;

/// What a target means.
pub(super) struct Meaning {
    method: Method,
    scheme: &'static str,
    host: Box<[u8]>,
    target: Box<str>,
    secret_id: u64,
    pub(super) route: Arc<Route>,
    /// The normalised path.
    pub(super) path: Box<str>,
    /// The normalised query.
    pub(super) query: Box<str>,
    /// The key of those who speak for nobody; everybody else's is made of it.
    pub(super) anonymous: CacheKey,
}

impl Meaning {
    fn is_of(&self, head: &Head<'_>, view: &View, host: &[u8], target: &str) -> bool {
        *self.target == *target
            && *self.host == *host
            && self.method == head.parts.method
            && self.scheme == head.peer.scheme()
            && self.secret_id == view.secret_id
    }
}

/// The memory of them.
#[derive(Default)]
pub(super) struct Memo(Places<Meaning>);

impl Memo {
    /// What this request's target was found to mean under the view's secret.
    pub(super) fn find(&self, head: &Head<'_>, view: &View) -> Option<Found<Meaning>> {
        let (host, target) = spelt(head.parts)?;
        self.0.at(self.hash(host, target), |meaning| meaning.is_of(head, view, host, target))
    }

    /// Remembers what it means.
    pub(super) fn learn(
        &self,
        head: &Head<'_>,
        view: &View,
        route: &Arc<Route>,
        (path, query): (&str, &str),
        anonymous: impl FnOnce() -> CacheKey,
    ) {
        let parts = head.parts;
        let Some((host, target)) = spelt(parts).filter(|(host, target)| host.len() + target.len() <= LONGEST)
        else {
            return;
        };
        let counts = |there: &Meaning| there.secret_id == view.secret_id;
        let is_it = |there: &Meaning| there.is_of(head, view, host, target);
        self.0.put(self.hash(host, target), counts, is_it, || Meaning {
            method: parts.method.clone(),
            scheme: head.peer.scheme(),
            host: host.into(),
            target: target.into(),
            secret_id: view.secret_id,
            route: Arc::clone(route),
            path: path.into(),
            query: query.into(),
            anonymous: anonymous(),
        });
    }

    fn hash(&self, host: &[u8], target: &str) -> u64 {
        self.0.hash(host, target.as_bytes())
    }
}

/// `Host` and target as they were sent; none where the target brings its own host.
fn spelt(parts: &request::Parts) -> Option<(&[u8], &str)> {
    if parts.uri.authority().is_some() {
        return None;
    }
    let host = parts.headers.get(header::HOST).map_or(&b""[..], |line| line.as_bytes());
    Some((host, parts.uri.path_and_query()?.as_str()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::coherence::{Coherence, Epoch};
    use crate::policy::route::tests::route;
    use crate::semantics::timestamp::Timestamp;
    use crate::server::Peer;

    fn parts(method: &str, target: &str, host: &str) -> request::Parts {
        let request = http::Request::builder().method(method).uri(target).header("host", host);
        request.body(()).unwrap().into_parts().0
    }

    fn head(parts: &request::Parts, tls: bool) -> Head<'_> {
        let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), tls };
        Head { parts, peer, host: "", arrived: Duration::ZERO, now: Timestamp(0) }
    }

    #[test]
    fn a_target_is_known_by_all_that_it_was_told_by() {
        let view = |secret| Coherence::new(Epoch(1), [secret; 32], 0, 16);
        let (ours, others) = (view(7), view(8));
        let known = parts("GET", "/a?b", "h");
        // Every place is looked at, so that nothing is told apart by its place alone.
        let memo = Memo(Places::of(1));
        let (route, key) = (Arc::new(route("GET", "/a")), CacheKey([9; 32]));
        memo.learn(&head(&known, false), &ours.view(), &route, ("/a", "b"), || key);
        let finds = |parts: &request::Parts, tls, coherence: &Coherence| {
            let found = memo.find(&head(parts, tls), &coherence.view());
            found.and_then(|found| found.as_ref().map(|meaning| meaning.anonymous))
        };
        assert_eq!(finds(&known, false, &ours), Some(key));
        assert_eq!(finds(&known, true, &ours), None, "another scheme");
        assert_eq!(finds(&known, false, &others), None, "another secret");
        for other in [
            parts("HEAD", "/a?b", "h"),
            parts("GET", "/a?b", "H"),
            parts("GET", "/a?b", "hh"),
            parts("GET", "/a?b=", "h"),
            parts("GET", "/a", "h"),
            parts("GET", "http://h/a?b", "h"),
        ] {
            assert_eq!(finds(&other, false, &ours), None, "{other:?}");
        }
        let long = parts("GET", &format!("/{}", "x".repeat(LONGEST)), "h");
        memo.learn(&head(&long, false), &others.view(), &route, ("/", ""), || key);
        assert_eq!(finds(&long, false, &others), None, "too long");
    }
}
