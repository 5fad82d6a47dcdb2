//! `POST /purge` and `POST /flush`.
//!
//! A purge names tags, paths, routes and subjects; what it voids is their *union*. Count first, publish then:
//! the count is a bounded look-up, the purge itself never scans. Both run in a task of their own, so that a
//! caller who hangs up does not leave a purge half done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};

use super::reply::{Problem, json};
use super::{Admin, AdminState};
use crate::body::Body;
use crate::coherence::{Event, EventKind};
use crate::policy::subject::{SubjectSpec, caller};
use crate::policy::tags::{Tag, TagPlan, TagSet};
use crate::store::{Counted, Purged, Reach};

/// Largest body, bytes.
const BODY_BYTES: usize = 64 * 1024;
/// Longest wait for a whole body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest look-up for the count, if the caller does not ask for more: the purge waits for it.
const QUICK_COUNT: Duration = Duration::from_millis(5);
/// Longest look-up for a count of everything.
const WHOLE_COUNT: Duration = Duration::from_secs(2);

/// What a purge names, as typed. `tag`, `path` and `route` are taken for their plurals, one text for a list of one.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PurgeRequest {
    #[serde(alias = "tag")]
    tags: Texts,
    #[serde(alias = "path")]
    paths: Texts,
    #[serde(alias = "route")]
    routes: Texts,
    subject: Option<SubjectSelector>,
    soft: bool,
    count: CountWish,
}

/// How much is counted before the purge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CountWish {
    /// Nothing: a purge takes as long with a million entries as with ten.
    None,
    /// What memory shows in a moment.
    #[default]
    Quick,
    /// Everything, for seconds if it must be.
    Whole,
}

impl CountWish {
    fn limit(self) -> Option<Duration> {
        match self {
            CountWish::None => None,
            CountWish::Quick => Some(QUICK_COUNT),
            CountWish::Whole => Some(WHOLE_COUNT),
        }
    }
}

/// `"a"` or `["a", "b"]`.
#[derive(Debug, Default, PartialEq)]
struct Texts(Vec<String>);

/// Whose entries.
#[derive(Debug, PartialEq)]
enum SubjectSelector {
    /// The subject's digest: 64 hex digits.
    Digest(String),
    /// Whoever these request fields speak for on that route.
    Caller(CallerSelector),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CallerSelector {
    route: String,
    headers: std::collections::BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Texts, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Texts)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for SubjectSelector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SubjectSelector, D::Error> {
        struct DigestOrCaller;
        impl<'de> Visitor<'de> for DigestOrCaller {
            type Value = SubjectSelector;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hex digits, or {\"route\": …, \"headers\": {…}}")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SubjectSelector, E> {
                if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    Ok(SubjectSelector::Digest(text.to_ascii_lowercase()))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SubjectSelector, A::Error> {
                CallerSelector::deserialize(MapAccessDeserializer::new(map)).map(SubjectSelector::Caller)
            }
        }
        deserializer.deserialize_any(DigestOrCaller)
    }
}

impl PurgeRequest {
    fn parse(body: &[u8]) -> Result<PurgeRequest, Problem> {
        let bad = |why: String| {
            let detail = format!(
                "The body is not a purge: {why}. A purge is a JSON object with at least one of `tags`, `paths`, \
                 `routes` (lists of strings) and `subject` (64 hex digits, or an object with `route` and `headers`); \
                 `soft` (true or false) and `count` (\"quick\" or \"whole\") may go with them."
            );
            Problem::new(StatusCode::BAD_REQUEST, "bad-body", detail)
        };
        let request: PurgeRequest = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        // serde would take a list for the members in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(bad("it is a list".to_owned()));
        }
        if request.names_nothing() {
            let detail = "The purge names nothing. Name at least one of `tags`, `paths`, `routes`, `subject`; \
                          to void everything, POST /flush.";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "empty-purge", detail));
        }
        Ok(request)
    }

    fn names_nothing(&self) -> bool {
        self.tags.0.is_empty()
            && self.paths.0.is_empty()
            && self.routes.0.is_empty()
            && self.subject.is_none()
    }

    /// Names of more than one kind: worth a word, as some expect an intersection.
    fn mixes_subject(&self) -> bool {
        let others = [&self.tags, &self.paths, &self.routes];
        self.subject.is_some() && others.iter().any(|texts| !texts.0.is_empty())
    }
}

/// What a purge did.
struct Done {
    counted: Option<Counted>,
    purged: Purged,
}

impl Admin {
    pub(super) async fn purge(self: Arc<Self>, body: Incoming) -> Result<Response<Body>, Problem> {
        let request = PurgeRequest::parse(&read(body).await?)?;
        let view = self.state.store.coherence().view().clone();
        let named = self.state.named(&request, &view.secret)?;
        let event = Event {
            kind: if request.soft { EventKind::Soft } else { EventKind::Purge },
            tags: named.tags.clone(),
            rules: self.state.policy.tags.fingerprint,
            hashed_with: view.secret_id,
            ..Event::default()
        };
        let done = self.publish(named.tags, event, request.count).await?;
        tracing::info!(
            names = named.names.join(", "),
            entries = done.counted.map(|counted| counted.entries),
            seq = done.purged.seq,
            soft = request.soft,
            applied = applied(done.purged.reach),
            "purged by the admin API"
        );
        let mut warnings = done.warnings();
        if request.mixes_subject() {
            let words = "`subject` does not narrow the other names: the union of all was purged.";
            warnings.push(words.into());
        }
        Ok(json(StatusCode::OK, &done.report(&named.names, &warnings)))
    }

    pub(super) async fn flush(self: Arc<Self>) -> Result<Response<Body>, Problem> {
        let everything = TagPlan::everything(&self.state.store.coherence().view().secret);
        let done = self.publish(vec![everything], Event::flush(), CountWish::Quick).await?;
        tracing::warn!(
            entries = done.counted.map(|counted| counted.entries),
            seq = done.purged.seq,
            applied = applied(done.purged.reach),
            "flushed by the admin API"
        );
        Ok(json(StatusCode::OK, &done.report(&["*".to_owned()], &done.warnings())))
    }

    /// Counts what carries `tags`, then publishes, in a task that the caller cannot cancel.
    async fn publish(
        self: &Arc<Self>,
        tags: Vec<Tag>,
        event: Event,
        count: CountWish,
    ) -> Result<Done, Problem> {
        let store = self.state.store.clone();
        let work = self.tasks.spawn(async move {
            let counted = match count.limit() {
                Some(limit) => Some(store.count(&tags, count == CountWish::Whole, limit).await),
                None => None,
            };
            Done { counted, purged: store.publish(event, None).await }
        });
        work.await.map_err(|error| {
            tracing::error!(%error, "a purge by the admin API failed");
            let detail = "The purge failed inside Weir; the log has the reason. It may not have happened.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "purge-failed", detail)
        })
    }
}

impl Done {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.counted.map(|counted| (counted.entries, counted.complete)) {
            Some((0, true)) => warnings.push("Nothing carried these tags.".into()),
            Some((0, false)) => warnings.push(
                "Nothing in this instance's memory carried these tags, as far as looked; `count` = \"whole\" looks \
                 everywhere."
                    .into(),
            ),
            _ => {}
        }
        if self.purged.is_owed() {
            let words = "The purge log could not be reached: the purge holds here now and reaches the other \
                         instances when the log is back.";
            warnings.push(words.into());
        }
        warnings
    }

    fn report(&self, names: &[String], warnings: &[String]) -> Value {
        json!({
            "purged": self.counted.map(|counted| counted.entries),
            "complete": self.counted.is_some_and(|counted| counted.complete),
            "seq": self.purged.seq,
            "applied": applied(self.purged.reach),
            "owed": self.purged.is_owed(),
            "tags": names,
            "warnings": warnings,
        })
    }
}

impl AdminState {
    /// Turns names into tags, hashed with `secret`.
    fn named(&self, request: &PurgeRequest, secret: &[u8; 32]) -> Result<TagSet, Problem> {
        let mut tags = request.tags.0.clone();
        if let Some(selector) = &request.subject {
            tags.push(format!("subject:{}", self.subject_digest(selector, secret)?));
        }
        let routes: Vec<&str> = self.policy.routes.iter().map(|route| &*route.name).collect();
        let named = self.policy.tags.named(secret, &tags, &request.paths.0, &request.routes.0, &routes);
        named.map_err(|why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-name", why))
    }

    fn subject_digest(&self, selector: &SubjectSelector, secret: &[u8; 32]) -> Result<String, Problem> {
        let selector = match selector {
            SubjectSelector::Digest(digest) => return Ok(digest.clone()),
            SubjectSelector::Caller(selector) => selector,
        };
        let refuse = |token, detail| Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, token, detail));
        let Some(route) = self.policy.routes.iter().find(|route| *route.name == *selector.route) else {
            let known: Vec<&str> = self.policy.routes.iter().map(|route| &*route.name).collect();
            let detail = format!("There is no route {:?}. Routes: {}.", selector.route, known.join(", "));
            return refuse("unknown-route", detail);
        };
        if matches!(route.subject, SubjectSpec::None) {
            let detail =
                format!("Route {:?} has no subject: its entries are nobody's in particular.", route.name);
            return refuse("no-subject", detail);
        }
        let headers = fields(&selector.headers)?;
        match caller(&route.subject, &headers, &self.keys.load(), secret, self.clock.now()) {
            Some(subject) if !subject.anonymous => Ok(hex(&subject.digest)),
            _ => {
                let detail = format!(
                    "The given headers do not say who calls route {:?}, whose subject is {}.",
                    route.name,
                    describe(&route.subject)
                );
                refuse("unknown-subject", detail)
            }
        }
    }
}

/// Where a purge is in force, in the word of the answer.
fn applied(reach: Reach) -> &'static str {
    match reach {
        Reach::Everywhere => "everywhere",
        Reach::Owed => "owed",
        Reach::Unconfirmed => "unconfirmed",
    }
}

/// A subject specification in the words of proxy.toml.
fn describe(spec: &SubjectSpec) -> String {
    match spec {
        SubjectSpec::None => "none".into(),
        SubjectSpec::Header(name) => format!("{{ header = \"{name}\" }}"),
        SubjectSpec::Cookie(name) => format!("{{ cookie = \"{name}\" }}"),
        SubjectSpec::Jwt(spec) => format!("a verified token's claims {}", spec.claims.join(", ")),
    }
}

fn fields(given: &std::collections::BTreeMap<String, String>) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            let detail =
                format!("`subject.headers` holds {name:?}, which is no header field, or its value is none.");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bad-header", detail));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_BYTES).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let detail = format!("The body is larger than {BODY_BYTES} bytes.");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail))
        }
        Ok(Err(error)) => {
            let detail = format!("The body broke off: {error}.");
            Err(Problem::new(StatusCode::BAD_REQUEST, "body-broken", detail))
        }
        Err(_) => {
            let detail = format!("The body was not complete within {} s.", BODY_TIMEOUT.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PurgeRequest, Problem> {
        PurgeRequest::parse(text.as_bytes())
    }

    #[test]
    fn lists_single_texts_and_singular_names_mean_the_same() {
        let many = parse(r#"{"tags":["a:1"],"paths":["/x"],"routes":["r"]}"#).unwrap();
        let one = parse(r#"{"tag":"a:1","path":"/x","route":"r"}"#).unwrap();
        assert_eq!(many, one);
        assert!(!one.mixes_subject());
    }

    #[test]
    fn a_subject_is_a_digest_or_the_fields_of_a_caller() {
        let digest = "AB".repeat(32);
        let parsed = parse(&format!(r#"{{"subject":"{digest}"}}"#)).unwrap();
        assert_eq!(parsed.subject, Some(SubjectSelector::Digest("ab".repeat(32))));
        let text = r#"{"subject":{"route":"r","headers":{"authorization":"Bearer x"}},"tags":"a:b"}"#;
        let parsed = parse(text).unwrap();
        assert!(matches!(&parsed.subject, Some(SubjectSelector::Caller(c)) if c.route == "r"));
        assert!(parsed.mixes_subject());
    }

    #[test]
    fn errors_name_the_place_and_what_is_allowed() {
        let cases = [
            ("{\n \"tagz\": []}", "unknown field `tagz`"),
            ("{\n \"tags\": 5}", "a string or a list of strings at line 2"),
            ("{\n \"tags\": [5]}", "expected a string at line 2"),
            ("{\n \"subject\": \"abc\"}", "64 hex digits"),
            ("{\n \"subject\": {\"route\": \"x\"}}", "missing field `headers` at line 2"),
            ("{\n \"subject\": {\"route\": \"x\", \"headers\": {}, \"z\": 1}}", "unknown field `z`"),
            ("{\n \"tags\": [\"a\"]", "line 2 column"),
            ("", "line 1 column 0"),
            ("[]", "The body is not a purge"),
        ];
        for (text, words) in cases {
            let problem = parse(text).unwrap_err();
            assert_eq!((problem.status, problem.token), (StatusCode::BAD_REQUEST, "bad-body"), "{text}");
            assert!(problem.detail.contains(words), "{text}: {}", problem.detail);
            assert!(problem.detail.contains("`tags`, `paths`"), "{}", problem.detail);
        }
    }

    #[test]
    fn a_purge_is_soft_only_if_it_says_so() {
        assert!(parse(r#"{"tags":"a:1","soft":true}"#).unwrap().soft);
        assert!(!parse(r#"{"tags":"a:1","soft":false}"#).unwrap().soft);
        assert!(!parse(r#"{"tags":"a:1"}"#).unwrap().soft);
        assert!(parse(r#"{"tags":"a:1","soft":"yes"}"#).unwrap_err().detail.contains("expected a boolean"));
        assert_eq!(parse(r#"{"soft":true}"#).unwrap_err().token, "empty-purge");
    }

    #[test]
    fn an_empty_purge_is_refused() {
        for text in ["{}", r#"{"tags":[]}"#, r#"{"tags":[],"paths":[],"routes":[],"subject":null}"#] {
            assert_eq!(parse(text).unwrap_err().token, "empty-purge", "{text}");
        }
    }

    #[test]
    fn header_fields_that_are_none_are_refused() {
        for (name, value) in [("a b", "x"), ("x", "a\nb")] {
            let given = [(name.to_owned(), value.to_owned())].into();
            assert_eq!(fields(&given).unwrap_err().token, "bad-header");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = PurgeRequest::parse(&body);
        }
    }
}
