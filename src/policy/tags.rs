//! Tags: what a purge can name (DESIGN §4.2). One encoder makes every tag; the three rules for unknowns live here.
//!
//! Canonical names (before hashing; `%`, `*`, `?`, `|`, controls in values are percent-encoded):
//!
//! ```text
//! *                        everything
//! route:summary            every entry of a route
//! path:/transactions/42    every entry of one path (any query, subject, variant)
//! prefix:/transactions     every entry at or below a path
//! subject:<hex>            every entry of one subject
//! header:users             from Surrogate-Key, Cache-Tag, xkey, Cache-Groups
//! session:abc              a template's value;  session:*  absent value;  session:?  any of the family
//! glob:/reports/*/x        a rule's path pattern with inner wildcards
//! T@<hex>                  tag T narrowed to one subject (rules with subject = "same")
//! ```

use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;
use serde_json::Value;

use super::path::{PathParams, PathTemplate};
use super::route::{Matcher, Route};
use super::subject::{KeySets, Subject};
use crate::semantics::timestamp::Timestamp;

/// A tag's 64-bit hash, keyed with the namespace's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

impl Tag {
    /// Hashes a canonical name.
    pub fn of(_secret: &[u8; 32], _name: &str) -> Tag {
        unimplemented!()
    }
}

/// `session:{query.session_id}`: a family and the places its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTemplate {
    /// As typed.
    pub text: Arc<str>,
    /// What precedes the first `:`.
    pub family: Arc<str>,
    /// Literal text and placeholders after the `:`.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Literal(String),
    /// A value.
    Value(Source),
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `{path.id}`
    Path(String),
    /// `{query.session_id}`; every occurrence is a value.
    Query(String),
    /// `{header.x-tenant}`
    Header(http::HeaderName),
    /// `{subject}`: the caller's digest in hex.
    Subject,
    /// `{claim.sub}`
    Claim(String),
    /// `{request.session_id}`: JSON request body.
    Request(JsonPath),
    /// `{response.items[*].id}`: JSON response body.
    Response(JsonPath),
}

/// `items[*].id`, `[*].id`, `session_id`, `a.b[0].c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(pub Vec<JsonStep>);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonStep {
    /// `.name`
    Member(String),
    /// `[3]`
    Index(usize),
    /// `[*]`
    Each,
}

impl TagTemplate {
    /// Compiles; errors name what is allowed. A placeholder needs a literal `family:` before it.
    pub fn parse(_text: &str) -> Result<TagTemplate, String> {
        unimplemented!()
    }
    /// Whether it needs the JSON request body / response body.
    pub fn needs_request_body(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Value(Source::Request(_))))
    }
    /// See [`TagTemplate::needs_request_body`].
    pub fn needs_response_body(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Value(Source::Response(_))))
    }
}

/// A JSON body as far as it is known.
#[derive(Debug, Clone, Copy)]
pub enum Json<'a> {
    /// Parsed.
    Known(&'a Value),
    /// Not JSON, too large, cut off, or not there yet.
    Unknown,
}

/// What templates may draw on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Captured parameters of the matched template.
    pub params: &'a PathParams,
    /// The path as normalised (or as received where it has no normal form).
    pub path: &'a str,
    /// The query as forwarded.
    pub query: &'a str,
    /// Request fields.
    pub headers: &'a HeaderMap,
    /// The caller.
    pub subject: Option<&'a Subject>,
    /// Request body.
    pub request: Json<'a>,
    /// Response body.
    pub response: Json<'a>,
}

/// One `[[purge]]`, compiled.
#[derive(Debug, Clone)]
pub struct PurgeRule {
    /// Which mutations.
    pub matcher: Matcher,
    /// As typed, for logs and warnings.
    pub text: Arc<str>,
    /// Tags it purges.
    pub tags: Vec<TagTemplate>,
    /// Paths it purges: exact, `/x/**`, or with inner wildcards / parameters of the rule's own template.
    pub paths: Vec<PathPattern>,
    /// Routes it purges.
    pub routes: Vec<Arc<str>>,
    /// `subject = "same"`: only the caller's entries.
    pub same_subject: bool,
    /// Keep the tags unstorable this long after the purge (a backend whose reads lag its writes).
    pub settle: std::time::Duration,
}

/// A purge's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// One path, possibly with the rule's own parameters: `/transactions/{id}`.
    Exact(PathTemplate),
    /// A path and all below: `/reports/**`.
    Below(PathTemplate),
    /// Inner wildcards: `/users/*/orders`.
    Glob(PathTemplate),
}

/// All purge rules together with what they demand of entries.
#[derive(Debug, Default)]
pub struct TagPlan {
    /// Rules in file order. All that match a mutation apply.
    pub rules: Vec<PurgeRule>,
    /// Fingerprint of every tag template and purge rule (DESIGN §4.2); never 0.
    pub fingerprint: u64,
    /// Distinct subject specs of all routes (for `subject = "same"`), filled by [`TagPlan::new`].
    pub subject_specs: Vec<super::subject::SubjectSpec>,
    /// Most tags per entry; over it, families fall to their wildcard.
    pub max_tags: usize,
}

/// What a purge names: canonical names and their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagSet {
    /// Sorted, without repeats.
    pub tags: Vec<Tag>,
    /// Canonical names in the same purge, for logs (bounded; may be fewer than `tags`).
    pub names: Vec<String>,
}

impl TagPlan {
    /// Compiles the plan and its fingerprint from routes and rules.
    pub fn new(_routes: &[Arc<Route>], _rules: Vec<PurgeRule>, _max_tags: usize) -> TagPlan {
        unimplemented!()
    }

    /// Whether entries of this route need their JSON response parsed.
    pub fn route_needs_response(&self, route: &Route) -> bool {
        route.tags.iter().any(TagTemplate::needs_response_body)
    }

    /// The tags of an entry about to be stored: `*`, its route, path, ancestors, subject, template tags with
    /// family rules, header tags, and the narrowed composites the rules demand. `response_headers` are as received.
    pub fn entry_tags(
        &self,
        _secret: &[u8; 32],
        _route: &Route,
        _facts: &Facts<'_>,
        _response_headers: &HeaderMap,
    ) -> Vec<Tag> {
        unimplemented!()
    }

    /// The tags that are known before the response: a flight whose stamp these void is not worth joining.
    pub fn request_tags(&self, _secret: &[u8; 32], _route: &Route, _facts: &Facts<'_>) -> Vec<Tag> {
        unimplemented!()
    }

    /// The rules that match a mutation, each with what its template captured.
    pub fn matching(&self, _parts: &Parts, _host: &str) -> Vec<(&PurgeRule, PathParams)> {
        unimplemented!()
    }

    /// Everything a mutation purges: its own URI (`path:`), same-origin `Location`/`Content-Location` (from
    /// `response_headers`, RFC 9111 §4.4), and the union over `rules`. Unknown values widen to their family, an
    /// unknown caller to every subject.
    #[allow(clippy::too_many_arguments)]
    pub fn mutation_tags(
        &self,
        _secret: &[u8; 32],
        _rules: &[(&PurgeRule, PathParams)],
        _facts: &Facts<'_>,
        _host: &str,
        _response_headers: Option<&HeaderMap>,
        _keys: &KeySets,
        _now: Timestamp,
    ) -> TagSet {
        unimplemented!()
    }

    /// A purge from the admin API: `tags` as an operator writes them (`session:abc`, `dashboard:*`), `paths`
    /// (`/x`, `/x/**`, or a glob that some rule declares), `routes`, `subject` digests. The error names what is allowed.
    pub fn named(
        &self,
        _secret: &[u8; 32],
        _tags: &[String],
        _paths: &[String],
        _routes: &[String],
        _known_routes: &[&str],
    ) -> Result<TagSet, String> {
        unimplemented!()
    }

    /// The tag that every entry carries.
    pub fn everything(secret: &[u8; 32]) -> Tag {
        Tag::of(secret, "*")
    }
}

/// Tag-carrying response fields, removed before an answer leaves Weir.
pub const TAG_FIELDS: [&str; 4] = ["surrogate-key", "cache-tag", "xkey", "cache-groups"];
