//! Whose credentials were found to be whose: hashed, or verified, once and not for every request.
//!
//! Invariants:
//! - What is remembered is a function of what it is found by, whole: the spec, the credential (compared byte for byte), the
//!   secret of keys and, of a token, the very key set that is in force. A token's times are looked at each time.
//! - Only who was told is remembered; a refusal is worked out anew.
//! - What lies at a place is compared only with a credential of the same wide hash: how long a comparison takes tells
//!   nobody about other people's credentials.
//! - Credentials lie here in the open, in memory alone: at most as many, and each as long, as there is room for. What is
//!   pushed out costs a hash or a verification.

use std::sync::Arc;

use crate::coherence::View;
use crate::places::Places;
use crate::policy::subject::{Credential, KeySet, KeySets, Subject, SubjectSpec, Told};
use crate::semantics::timestamp::Timestamp;

/// Longest credential that is remembered, bytes: tokens with many claims fit.
const LONGEST: usize = 2048;

struct Known {
    hash: u128,
    text: Box<[u8]>,
    spec: SubjectSpec,
    secret_id: u64,
    set: Option<Arc<KeySet>>,
    told: Told,
}

/// The memory of them.
#[derive(Default)]
pub(super) struct Callers(Places<Known>);

impl Known {
    fn is_of(&self, asked: &Asked<'_>) -> bool {
        self.hash == asked.hash
            && self.secret_id == asked.secret_id
            && same(self.set.as_ref(), asked.set)
            && *self.text == *asked.text
            && self.spec == *asked.spec
    }

    /// Whether it may be asked for again, as far as can be seen from what is asked now.
    fn counts(&self, asked: &Asked<'_>, now: Timestamp) -> bool {
        let in_force = || self.spec != *asked.spec || same(self.set.as_ref(), asked.set);
        self.secret_id == asked.secret_id && self.told.times.is_none_or(|times| times.hold(now)) && in_force()
    }
}

/// All that a credential's subject hangs on.
struct Asked<'a> {
    hash: u128,
    text: &'a [u8],
    spec: &'a SubjectSpec,
    secret_id: u64,
    set: Option<&'a Arc<KeySet>>,
}

impl Callers {
    /// Whose this credential was found to be, if it still is.
    pub(super) fn find(
        &self,
        credential: &Credential<'_>,
        keys: &KeySets,
        view: &View,
        now: Timestamp,
    ) -> Option<Subject> {
        let asked = self.asked(credential, keys, view)?;
        let known = self.0.at(place(&asked), |known| known.is_of(&asked))?;
        let told = &known.as_ref()?.told;
        told.times.is_none_or(|times| times.hold(now)).then(|| told.subject.clone())
    }

    /// Remembers whose it was found to be just now, by these keys under this view's secret.
    pub(super) fn learn(
        &self,
        credential: &Credential<'_>,
        keys: &KeySets,
        view: &View,
        told: &Told,
        now: Timestamp,
    ) {
        let Some(asked) = self.asked(credential, keys, view) else { return };
        let counts = |known: &Known| known.counts(&asked, now);
        self.0.put(
            place(&asked),
            counts,
            |known| known.is_of(&asked),
            || Known {
                hash: asked.hash,
                text: asked.text.into(),
                spec: asked.spec.clone(),
                secret_id: asked.secret_id,
                set: asked.set.cloned(),
                told: told.clone(),
            },
        );
    }

    fn asked<'a>(&self, credential: &'a Credential<'_>, keys: &'a KeySets, view: &View) -> Option<Asked<'a>> {
        let text = credential.text().filter(|text| text.len() <= LONGEST)?;
        let (set, hash) = (credential.key_set(keys), self.0.wide(text));
        Some(Asked { hash, text, spec: credential.spec(), secret_id: view.secret_id, set })
    }
}

/// One token may be told by several specs: each has a place for it.
fn place(asked: &Asked<'_>) -> u64 {
    let spec = match asked.spec {
        SubjectSpec::Jwt(spec) => Arc::as_ptr(spec).addr() as u64,
        SubjectSpec::None | SubjectSpec::Header(_) | SubjectSpec::Cookie(_) => 0,
    };
    // Any part of the hash will do. Addresses are multiples of their alignment.
    asked.hash as u64 ^ spec >> 4
}

/// A key set that was read again is another, also if it says the same.
fn same(one: Option<&Arc<KeySet>>, other: Option<&Arc<KeySet>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::coherence::{Coherence, Epoch};
    use crate::policy::route::Route;
    use crate::policy::route::tests::route;
    use crate::policy::subject::{JwtSpec, TokenSource, credential};

    const SECRET: &[u8] = b"a secret of thirty-two bytes or more";
    const NOW: Timestamp = Timestamp(1_000_000);

    fn by_header() -> Route {
        Route { subject: SubjectSpec::Header(http::header::AUTHORIZATION), ..route("GET", "/a") }
    }

    fn by_token(claim: &str) -> Route {
        let spec = JwtSpec {
            keys: 0,
            from: TokenSource::Header(http::header::AUTHORIZATION),
            claims: vec![claim.to_owned()],
            issuer: None,
            audience: Vec::new(),
            algorithms: Vec::new(),
            leeway: 0,
        };
        Route { subject: SubjectSpec::Jwt(Arc::new(spec)), ..route("GET", "/a") }
    }

    fn key_sets() -> KeySets {
        KeySets(vec![Arc::new(KeySet::from_secret("main", SECRET))])
    }

    /// A token of these seconds.
    fn token(start: u64, end: u64) -> String {
        let claims = serde_json::json!({"sub": "alice", "id": "alice", "nbf": start, "exp": end});
        let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
        format!("Bearer {token}")
    }

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())])
    }

    fn coherence(secret: u8) -> Coherence {
        Coherence::new(Epoch(1), [secret; 32], 0, 16)
    }

    /// Everything in one place, so that nothing is told apart by its place alone; `known` is remembered there.
    fn memory(known: (&Route, &str), keys: &KeySets, coherence: &Coherence) -> (Callers, Subject) {
        let callers = Callers(Places::of(1));
        let headers = headers(known.1);
        let found = credential(known.0, &headers).unwrap().unwrap();
        let view = coherence.view();
        let told = found.tell(keys, &view.secret, NOW).unwrap();
        callers.learn(&found, keys, &view, &told, NOW);
        (callers, told.subject)
    }

    fn find(
        callers: &Callers,
        (route, text): (&Route, &str),
        keys: &KeySets,
        coherence: &Coherence,
        now: Timestamp,
    ) -> Option<Subject> {
        let headers = headers(text);
        callers.find(&credential(route, &headers).unwrap().unwrap(), keys, &coherence.view(), now)
    }

    #[test]
    fn a_credential_is_known_by_all_that_its_subject_was_told_by() {
        let (route, keys, ours) = (by_header(), KeySets::default(), coherence(7));
        let (callers, alice) = memory((&route, "alice"), &keys, &ours);
        let of = |route: &Route, text: &str, coherence: &Coherence| {
            find(&callers, (route, text), &keys, coherence, NOW)
        };
        assert_eq!(of(&route, "alice", &ours), Some(alice));
        for other in ["alicf", "alic", "alice2", "Alice"] {
            assert_eq!(of(&route, other, &ours), None, "{other}");
        }
        assert_eq!(of(&route, "alice", &coherence(8)), None, "another secret");
        assert_eq!(of(&by_token("sub"), "Bearer alice", &ours), None, "another spec");
        let long = "x".repeat(LONGEST + 1);
        let (callers, _) = memory((&route, &long), &keys, &ours);
        assert_eq!(find(&callers, (&route, &long), &keys, &ours, NOW), None, "too long");
    }

    #[test]
    fn what_is_over_makes_room_at_once() {
        let (route, keys, ours) = (by_token("sub"), key_sets(), coherence(7));
        let (mine, others) = (token(900, 1100), token(901, 1200));
        let learn = |callers: &Callers, text: &str, keys: &KeySets, seconds: u64| {
            let (headers, now) = (headers(text), Timestamp(seconds * 1000));
            let found = credential(&route, &headers).unwrap().unwrap();
            let view = ours.view();
            callers.learn(&found, keys, &view, &found.tell(keys, &view.secret, now).unwrap(), now);
            find(callers, (&route, text), keys, &ours, now).is_some()
        };
        // The first newcomer's turn has been spent.
        let spent = |text: &str| {
            let (callers, _) = memory((&route, text), &keys, &ours);
            assert!(learn(&callers, &mine, &keys, 1000));
            callers
        };
        assert!(!learn(&spent(&others), &others, &keys, 1099), "it is still asked for");
        assert!(learn(&spent(&others), &others, &keys, 1100), "it has ended");
        assert!(learn(&spent(&others), &mine, &key_sets(), 1000), "of keys that are no longer in force");
    }

    #[test]
    fn a_token_is_known_within_its_times_and_while_its_very_key_set_is_in_force() {
        let (route, keys, ours) = (by_token("sub"), key_sets(), coherence(7));
        let token = token(900, 1100);
        let (callers, alice) = memory((&route, &token), &keys, &ours);
        let at = |seconds: u64, keys: &KeySets| {
            find(&callers, (&route, &token), keys, &ours, Timestamp(seconds * 1000))
        };
        assert_eq!(at(1000, &keys), Some(alice.clone()));
        assert_eq!(at(1000, &keys.clone()), Some(alice.clone()));
        assert_eq!((at(1099, &keys), at(1100, &keys)), (Some(alice.clone()), None), "it ends");
        assert_eq!((at(900, &keys), at(899, &keys)), (Some(alice), None), "it begins");
        assert_eq!(at(1000, &key_sets()), None, "read again");
        assert_eq!(at(1000, &KeySets::default()), None, "gone");
        let other = by_token("id");
        assert_eq!(find(&callers, (&other, &token), &keys, &ours, NOW), None, "another claim");
    }
}
