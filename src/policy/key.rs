//! Cache keys: a keyed blake3 over length-prefixed parts (DESIGN §3). No two different requests share one.

use super::digest::Digest;
use super::subject::Subject;
use super::tags::hex;

/// 256 bits that identify a stored response's primary key or variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub [u8; 32]);

/// What identifies a request, already normalised.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// Namespace of the installation.
    pub namespace: &'a str,
    /// Route name.
    pub route: &'a str,
    /// `scheme://host`, or `None` for `host = "any"`.
    pub origin: Option<(&'a str, &'a str)>,
    /// Normalised path.
    pub path: &'a str,
    /// Normalised query.
    pub query: &'a str,
    /// Whose answer.
    pub subject: &'a Subject,
    /// Method and content (type and bytes) of a keyed body.
    pub body: Option<(&'a str, &'a [u8], &'a [u8])>,
}

/// Parts of a key. Their values are part of every stored key's meaning.
mod label {
    pub(super) const NAMESPACE: u8 = 1;
    pub(super) const ROUTE: u8 = 2;
    pub(super) const SCHEME: u8 = 3;
    pub(super) const HOST: u8 = 4;
    pub(super) const PATH: u8 = 5;
    pub(super) const QUERY: u8 = 6;
    pub(super) const SUBJECT: u8 = 7;
    pub(super) const METHOD: u8 = 8;
    pub(super) const CONTENT_TYPE: u8 = 9;
    pub(super) const BODY: u8 = 10;
    pub(super) const PRIMARY: u8 = 11;
    pub(super) const FIELDS: u8 = 12;
    pub(super) const FIELD: u8 = 13;
    pub(super) const VALUE: u8 = 14;
    pub(super) const RULE: u8 = 15;
}

impl CacheKey {
    /// The key of `parts` under the namespace's secret.
    pub fn compute(secret: &[u8; 32], parts: &KeyParts<'_>) -> CacheKey {
        let mut digest = Digest::new(secret, "weir key 2");
        digest
            .part(label::NAMESPACE, parts.namespace.as_bytes())
            .part(label::ROUTE, parts.route.as_bytes())
            .maybe(label::SCHEME, parts.origin.map(|(scheme, _)| scheme.as_bytes()))
            .maybe(label::HOST, parts.origin.map(|(_, host)| host.as_bytes()))
            .part(label::PATH, parts.path.as_bytes())
            .part(label::QUERY, parts.query.as_bytes())
            .maybe(label::METHOD, parts.body.map(|(method, _, _)| method.as_bytes()))
            .maybe(label::CONTENT_TYPE, parts.body.map(|(_, content_type, _)| content_type))
            .maybe(label::BODY, parts.body.map(|(_, _, body)| body));
        CacheKey(digest.finish()).of(parts.subject)
    }

    /// What this key, of those who speak for nobody, is for `subject`.
    pub fn of(self, subject: &Subject) -> CacheKey {
        if subject.anonymous {
            return self;
        }
        // As with a variant: this key is secret-keyed already. The domain is short: one block is hashed.
        let mut digest = Digest::new(&self.0, "weir of 1");
        digest.part(label::SUBJECT, &subject.digest);
        CacheKey(digest.finish())
    }

    /// Where all queries of one path meet, whoever asks: no response lies there.
    pub fn place(secret: &[u8; 32], parts: &KeyParts<'_>) -> CacheKey {
        let mut digest = Digest::new(secret, "weir place 1");
        digest
            .part(label::NAMESPACE, parts.namespace.as_bytes())
            .part(label::ROUTE, parts.route.as_bytes())
            .maybe(label::SCHEME, parts.origin.map(|(scheme, _)| scheme.as_bytes()))
            .maybe(label::HOST, parts.origin.map(|(_, host)| host.as_bytes()))
            .part(label::PATH, parts.path.as_bytes());
        CacheKey(digest.finish())
    }

    /// The key at this place of queries of which a rule leaves the same: `rule` and `query` in their canonical forms.
    pub fn reduced(&self, rule: &[u8], query: &[u8], subject: &Subject) -> CacheKey {
        // As with a variant: the place is secret-keyed already.
        let mut digest = Digest::new(&self.0, "weir reduced 1");
        digest
            .part(label::RULE, rule)
            .part(label::QUERY, query)
            .maybe(label::SUBJECT, (!subject.anonymous).then_some(&subject.digest[..]));
        CacheKey(digest.finish())
    }

    /// The key of one variant of this primary key.
    pub fn variant(&self, selecting: &crate::semantics::vary::Selecting) -> CacheKey {
        // The primary key is secret-keyed already, so it can serve as the secret here.
        let mut digest = Digest::new(&self.0, "weir variant 1");
        digest.part(label::PRIMARY, &self.0).count(label::FIELDS, selecting.0.len());
        for (name, value) in &selecting.0 {
            digest.part(label::FIELD, name.as_str().as_bytes());
            digest.maybe(label::VALUE, value.as_ref().map(http::HeaderValue::as_bytes));
        }
        CacheKey(digest.finish())
    }

    /// 64 hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheKey({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::semantics::vary::Selecting;

    const SECRET: [u8; 32] = [7; 32];

    /// Owned parts, drawn from few and treacherous texts so that near misses are frequent.
    #[derive(Debug, Clone, PartialEq)]
    struct Owned {
        namespace: String,
        route: String,
        origin: Option<(String, String)>,
        path: String,
        query: String,
        subject: Option<u8>,
        body: Option<(String, Vec<u8>, Vec<u8>)>,
    }

    impl Owned {
        fn key(&self) -> CacheKey {
            let subject = self.subject();
            CacheKey::compute(&SECRET, &self.parts(&subject))
        }

        fn subject(&self) -> Subject {
            match self.subject {
                None => Subject::anonymous(),
                Some(n) => Subject { digest: [n; 32], anonymous: false, claims: Vec::new() },
            }
        }

        fn parts<'a>(&'a self, subject: &'a Subject) -> KeyParts<'a> {
            KeyParts {
                namespace: &self.namespace,
                route: &self.route,
                origin: self.origin.as_ref().map(|(s, h)| (s.as_str(), h.as_str())),
                path: &self.path,
                query: &self.query,
                subject,
                body: self.body.as_ref().map(|(m, t, b)| (m.as_str(), t.as_slice(), b.as_slice())),
            }
        }

        /// An injective encoding as naive as can be.
        fn naive(&self) -> String {
            format!("{self:?}")
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "[/a?&=:|\u{0}\u{1}]{0,3}",
            Just("\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}a".to_owned()),
        ]
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 6, b'a']), 0..3)
    }

    fn owned() -> impl Strategy<Value = Owned> {
        (
            text(),
            text(),
            prop::option::of((text(), text())),
            text(),
            text(),
            prop::option::of(0u8..2),
            prop::option::of((text(), bytes(), bytes())),
        )
            .prop_map(|(namespace, route, origin, path, query, subject, body)| Owned {
                namespace,
                route,
                origin,
                path,
                query,
                subject,
                body,
            })
    }

    fn sample() -> Owned {
        Owned {
            namespace: "n".into(),
            route: "r".into(),
            origin: None,
            path: "/ab".into(),
            query: "c".into(),
            subject: None,
            body: None,
        }
    }

    #[test]
    fn each_part_counts() {
        let base = sample();
        let variants = [
            Owned { namespace: "m".into(), ..base.clone() },
            Owned { route: "s".into(), ..base.clone() },
            Owned { origin: Some((String::new(), String::new())), ..base.clone() },
            Owned { origin: Some(("http".into(), "h".into())), ..base.clone() },
            Owned { origin: Some(("httph".into(), String::new())), ..base.clone() },
            Owned { path: "/a".into(), query: "bc".into(), ..base.clone() },
            Owned { query: String::new(), ..base.clone() },
            Owned { subject: Some(0), ..base.clone() },
            Owned { subject: Some(1), ..base.clone() },
            Owned { body: Some((String::new(), Vec::new(), Vec::new())), ..base.clone() },
            Owned { body: Some(("POST".into(), b"ab".to_vec(), b"c".to_vec())), ..base.clone() },
            Owned { body: Some(("POST".into(), b"a".to_vec(), b"bc".to_vec())), ..base.clone() },
            Owned { body: Some(("QUERY".into(), b"a".to_vec(), b"bc".to_vec())), ..base.clone() },
            base.clone(),
        ];
        let keys: std::collections::HashSet<CacheKey> = variants.iter().map(Owned::key).collect();
        assert_eq!(keys.len(), variants.len());
        assert_eq!(base.key(), sample().key());
    }

    #[test]
    fn reduced_keys_differ_by_place_rule_query_and_subject() {
        let place = |owned: &Owned| CacheKey::place(&SECRET, &owned.parts(&owned.subject()));
        let base = sample();
        let others = [
            Owned { namespace: "m".into(), ..base.clone() },
            Owned { route: "s".into(), ..base.clone() },
            Owned { origin: Some(("http".into(), "h".into())), ..base.clone() },
            Owned { path: "/a".into(), ..base.clone() },
        ];
        let mut keys: Vec<CacheKey> = others.iter().map(place).collect();
        keys.extend([place(&base), base.key(), CacheKey::place(&[8; 32], &base.parts(&base.subject()))]);
        let mine = Subject { digest: [1; 32], anonymous: false, claims: Vec::new() };
        for (rule, query, subject) in [
            (&b"r"[..], &b"q"[..], &Subject::anonymous()),
            (b"rq", b"", &Subject::anonymous()),
            (b"", b"rq", &Subject::anonymous()),
            (b"r", b"q", &mine),
        ] {
            keys.push(place(&base).reduced(rule, query, subject));
        }
        let distinct: std::collections::HashSet<CacheKey> = keys.iter().copied().collect();
        assert_eq!(distinct.len(), keys.len());
        // Queries and subjects meet there.
        assert_eq!(place(&base), place(&Owned { query: "z".into(), subject: Some(1), ..base.clone() }));
    }

    #[test]
    fn the_secret_counts() {
        let (base, subject) = (sample(), Subject::anonymous());
        assert_ne!(base.key(), CacheKey::compute(&[8; 32], &base.parts(&subject)));
    }

    #[test]
    fn variants_differ_by_names_values_and_absence() {
        let primary = sample().key();
        let field =
            |name: &str, value: Option<&str>| (name.parse().unwrap(), value.map(|v| v.parse().unwrap()));
        let all = [
            Selecting(vec![]),
            Selecting(vec![field("accept", None)]),
            Selecting(vec![field("accept", Some(""))]),
            Selecting(vec![field("accept", Some("a"))]),
            Selecting(vec![field("accept-language", Some("a"))]),
            Selecting(vec![field("accept", Some("a")), field("accept-language", None)]),
        ];
        let keys: std::collections::HashSet<CacheKey> = all.iter().map(|s| primary.variant(s)).collect();
        assert_eq!(keys.len(), all.len());
        assert!(!keys.contains(&primary));
        assert_ne!(primary.variant(&all[0]), CacheKey([1; 32]).variant(&all[0]));
    }

    #[test]
    fn hex_is_64_digits() {
        assert_eq!(CacheKey([0xaf; 32]).hex(), "af".repeat(32));
        assert_eq!(format!("{:?}", CacheKey([0xaf; 32])), "CacheKey(afafafaf…)");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn keys_are_equal_exactly_if_requests_are(a in owned(), b in owned()) {
            prop_assert_eq!(a.key() == b.key(), a.naive() == b.naive());
        }

        #[test]
        fn moving_a_boundary_changes_the_key(a in owned(), at in 0usize..4) {
            let mut b = a.clone();
            let moved: String = b.path.chars().skip(at).collect();
            b.path = b.path.chars().take(at).collect();
            b.query = moved + &b.query;
            prop_assert_eq!(a.key() == b.key(), a == b);
        }
    }
}
