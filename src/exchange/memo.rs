//! What targets were found to mean: route, normal form and key of requests that came before. A hot target is parsed,
//! matched and hashed once, not for every request.
//!
//! Invariants:
//! - What is remembered is a function of what it is found by, whole and compared byte for byte: method, scheme, `Host`,
//!   target, and the secret of keys. Where anything else has a say (a route's conditions on fields, what a trusted proxy claims
//!   of the outside, a backend's rule about queries), nothing is looked up here.
//! - Only what was answered from memory is remembered, so that nobody fills this with targets that mean nothing.
//! - It is bounded by places, and a place by bytes; what is pushed out costs a parse.
//!
//! It says nothing about who asks: a subject is told from each request's own credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use http::{Method, header, request};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::identity::Head;
use crate::coherence::View;
use crate::policy::key::CacheKey;
use crate::policy::route::Route;

/// How many targets are remembered: a power of two.
const PLACES: usize = 16_384;
/// Longest `Host` and target that are, bytes together.
const LONGEST: usize = 512;
/// Of how many newcomers one takes the place of another target.
const PUSHES: u32 = 8;

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
    /// The key of those who speak for nobody.
    pub(super) anonymous: CacheKey,
}

/// The memory of them.
pub(super) struct Memo {
    places: Box<[ArcSwapOption<Meaning>]>,
    seed: u64,
    newcomers: AtomicU32,
}

impl Default for Memo {
    fn default() -> Memo {
        let mut seed = [0; 8];
        // Without a random source, whoever knows this program can make targets push each other out.
        let _ = getrandom::fill(&mut seed);
        let places = (0..PLACES).map(|_| ArcSwapOption::empty()).collect();
        Memo { places, seed: u64::from_ne_bytes(seed), newcomers: AtomicU32::new(0) }
    }
}

impl Memo {
    /// What this request's target was found to mean under the view's secret.
    pub(super) fn find(&self, head: &Head<'_>, view: &View) -> Option<Guard<Option<Arc<Meaning>>>> {
        let parts = head.parts;
        let (host, target) = spelt(parts)?;
        let place = self.places[self.place(host, target)].load();
        let same = place.as_ref().is_some_and(|meaning| {
            *meaning.target == *target
                && *meaning.host == *host
                && meaning.method == parts.method
                && meaning.scheme == head.peer.scheme()
                && meaning.secret_id == view.secret_id
        });
        same.then_some(place)
    }

    /// Remembers what it means.
    pub(super) fn learn(
        &self,
        head: &Head<'_>,
        view: &View,
        route: &Arc<Route>,
        (path, query): (&str, &str),
        anonymous: CacheKey,
    ) {
        let parts = head.parts;
        let Some((host, target)) = spelt(parts).filter(|(host, target)| host.len() + target.len() <= LONGEST)
        else {
            return;
        };
        let place = &self.places[self.place(host, target)];
        let taken = place.load().as_ref().is_some_and(|there| there.secret_id == view.secret_id);
        if taken && self.newcomers.fetch_add(1, Ordering::Relaxed) % PUSHES != 0 {
            return;
        }
        place.store(Some(Arc::new(Meaning {
            method: parts.method.clone(),
            scheme: head.peer.scheme(),
            host: host.into(),
            target: target.into(),
            secret_id: view.secret_id,
            route: Arc::clone(route),
            path: path.into(),
            query: query.into(),
            anonymous,
        })));
    }

    fn place(&self, host: &[u8], target: &str) -> usize {
        let host = xxh3_64_with_seed(host, self.seed);
        // Reduced below the number of places, which is a power of two.
        xxh3_64_with_seed(target.as_bytes(), host) as usize & (PLACES - 1)
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
