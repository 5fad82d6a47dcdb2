//! Routes: which requests the operator's words are about.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};

use super::path::{PathParams, PathTemplate};
use super::query::QueryRules;
use super::subject::SubjectSpec;
use super::tags::TagTemplate;
use crate::semantics::storing::Terms;

/// One `[[route]]`, compiled.
#[derive(Debug, Clone)]
pub struct Route {
    /// Position in the table; stable for one policy.
    pub index: usize,
    /// Its name: part of keys, metrics label, log field.
    pub name: Arc<str>,
    /// What it matches.
    pub matcher: Matcher,
    /// `cache = false`: matched requests pass through.
    pub cache: bool,
    /// Lifetimes and whose word counts. `per_subject` and `public` are set from the fields below.
    pub terms: Terms,
    /// ±fraction by which the TTL is spread per entry, 0.0–0.5.
    pub jitter: f64,
    /// Whose answers these are.
    pub subject: SubjectSpec,
    /// The operator vouches that answers do not depend on credentials.
    pub public: bool,
    /// `host = "any"`: scheme and host are not part of the key.
    pub any_host: bool,
    /// What of the query counts.
    pub query: QueryRules,
    /// Credentials declared of no influence; stripped before forwarding.
    pub ignore: Vec<IgnoredCredential>,
    /// Fields every answer varies by, besides the backend's `Vary`.
    pub vary: Vec<HeaderName>,
    /// For POST/QUERY reads: what makes a body a read, and the body becomes part of the key.
    pub body_key: Option<BodyKey>,
    /// Tags its entries get.
    pub tags: Vec<TagTemplate>,
    /// Largest body kept, bytes.
    pub max_body: u64,
    /// Whether concurrent misses share one fetch.
    pub coalesce: bool,
}

/// Which requests.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// Methods; GET implies HEAD.
    pub methods: Vec<Method>,
    /// The path.
    pub path: PathTemplate,
    /// Host, lower-case, without port unless given; `*.` prefix allowed. `None` = any.
    pub host: Option<String>,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// A header or query condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The field is present (and equals the value, if given).
    Header(HeaderName, Option<String>),
    /// The query parameter is present (and equals the value, if given).
    Query(String, Option<String>),
}

/// `cookie:_ga*` or `header:x-api-key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IgnoredCredential {
    /// A cookie by name; trailing `*` is a prefix.
    Cookie(String),
    /// A whole field.
    Header(HeaderName),
}

/// When a request with a body is a read that may be answered from the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyKey {
    /// Every request on the route is a read (the operator's word; implied for QUERY).
    Any,
    /// GraphQL: JSON with a `query` whose selected operation is a query, not a mutation or subscription.
    GraphQl,
    /// A JSON member (dotted path) has one of these string values.
    Json {
        /// Dotted path, e.g. `action`.
        member: String,
        /// Allowed values.
        one_of: Vec<String>,
    },
}

impl BodyKey {
    /// Whether this body is a read.
    pub fn is_read(&self, _body: &[u8]) -> bool {
        unimplemented!()
    }
}

/// A request matched.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The route.
    pub route: Arc<Route>,
    /// What its template captured.
    pub params: PathParams,
}

/// Routes in documented order: as written in the file; the first that matches wins.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
}

impl RouteTable {
    /// Takes the routes in file order.
    pub fn new(_routes: Vec<Route>) -> RouteTable {
        unimplemented!()
    }
    /// All routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
    /// The first route that matches. `host` as [`request_host`] gives it.
    pub fn find(&self, _parts: &Parts, _host: &str) -> Option<RouteMatch> {
        unimplemented!()
    }
}

/// The request's host, lower-case, default ports removed: `:authority` / absolute form, else `Host`, else empty.
pub fn request_host(_parts: &Parts) -> String {
    unimplemented!()
}
