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

mod common;
mod entry;
mod expand;
mod fingerprint;
mod name;
mod paths;
mod purge;
mod response;
mod template;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::HeaderMap;
use serde_json::Value;

pub(crate) use self::name::hex;
pub use self::paths::PathPattern;
pub use self::template::{JsonPath, JsonStep, Part, Source, TagTemplate};
use super::path::{PathParams, PathTemplate};
use super::route::{Matcher, Route};
use super::subject::{Subject, SubjectSpec};

/// The family of tags that responses carry in fields of their own.
const HEADER_FAMILY: &str = "header";

/// Most names that a [`TagSet`] keeps for logs.
const MAX_LOGGED_NAMES: usize = 64;

/// A tag's 64-bit hash, keyed with the namespace's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// Keeps these hashes apart from others by the same secret.
const TAG_DOMAIN: &[u8; 11] = b"weir tag 1\0";

impl Tag {
    /// Hashes a canonical name.
    pub fn of(secret: &[u8; 32], name: &str) -> Tag {
        // Hashed in one go where it fits: blake3's state is large, and setting it up costs more than a short name.
        let mut begun = [0; 256];
        let length = TAG_DOMAIN.len() + name.len();
        let hash = match begun.get_mut(..length) {
            Some(whole) => {
                let (domain, rest) = whole.split_at_mut(TAG_DOMAIN.len());
                domain.copy_from_slice(TAG_DOMAIN);
                rest.copy_from_slice(name.as_bytes());
                blake3::keyed_hash(secret, whole)
            }
            None => {
                let mut hasher = blake3::Hasher::new_keyed(secret);
                hasher.update(TAG_DOMAIN).update(name.as_bytes()).finalize()
            }
        };
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Tag(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
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
    /// Entries become stale rather than void: they may still be used where stale responses may.
    pub soft: bool,
}

/// All purge rules together with what they demand of entries.
#[derive(Debug, Default)]
pub struct TagPlan {
    /// Rules in file order. All that match a mutation apply.
    pub rules: Vec<PurgeRule>,
    /// Fingerprint of every tag template and purge rule (DESIGN §4.2); never 0.
    pub fingerprint: u64,
    /// Distinct subject specs of all routes (for `subject = "same"`), filled by [`TagPlan::new`].
    pub subject_specs: Vec<SubjectSpec>,
    /// Most tags per entry; over it, families fall to their wildcard.
    pub max_tags: usize,
    /// Distinct patterns with inner wildcards that some rule purges.
    globs: Vec<PathTemplate>,
    narrowed: Narrowed,
}

/// What rules with `subject = "same"` aim at: entries carry these tags once more, narrowed to their own subject.
#[derive(Debug, Default)]
struct Narrowed {
    /// Families and bare words.
    families: BTreeSet<Arc<str>>,
    paths: bool,
    routes: bool,
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
    /// Compiles the plan and its fingerprint from routes and rules. A `max_tags` below what an entry needs at the
    /// least (its path's depth and some) only means that every family falls to its wildcard at once.
    pub fn new(routes: &[Arc<Route>], rules: Vec<PurgeRule>, max_tags: usize) -> TagPlan {
        let mut plan = TagPlan {
            fingerprint: fingerprint::fingerprint(routes, &rules, max_tags),
            max_tags,
            ..TagPlan::default()
        };
        let mut seen = BTreeSet::new();
        for route in routes.iter().filter(|route| !route.public) {
            if seen.insert(fingerprint::subject_text(&route.subject)) {
                plan.subject_specs.push(route.subject.clone());
            }
        }
        for rule in &rules {
            for pattern in &rule.paths {
                if let PathPattern::Glob(template) = pattern
                    && !plan.globs.contains(template)
                {
                    plan.globs.push(template.clone());
                }
            }
            if rule.same_subject {
                plan.narrowed.families.extend(rule.tags.iter().map(|tag| tag.family.clone()));
                plan.narrowed.paths |= !rule.paths.is_empty();
                plan.narrowed.routes |= !rule.routes.is_empty();
            }
        }
        plan.rules = rules;
        plan
    }

    /// Whether entries of this route need their JSON response parsed.
    pub fn route_needs_response(&self, route: &Route) -> bool {
        route.tags.iter().any(TagTemplate::needs_response_body)
    }

    /// The tag that every entry carries.
    pub fn everything(secret: &[u8; 32]) -> Tag {
        Tag::of(secret, "*")
    }
}

impl TagSet {
    /// Hashes canonical names; keeps the first of them for logs.
    pub fn from_names(secret: &[u8; 32], names: BTreeSet<String>) -> TagSet {
        let mut tags: Vec<Tag> = names.iter().map(|name| Tag::of(secret, name)).collect();
        tags.sort_unstable();
        tags.dedup();
        TagSet { tags, names: names.into_iter().take(MAX_LOGGED_NAMES).collect() }
    }
}

/// Tag-carrying response fields, removed before an answer leaves Weir.
pub const TAG_FIELDS: [&str; 4] = ["surrogate-key", "cache-tag", "xkey", "cache-groups"];

#[cfg(test)]
mod tests;
