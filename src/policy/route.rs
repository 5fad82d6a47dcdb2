//! Routes: which requests the operator's words are about.
//!
//! The table keeps file order: the first route whose method, path, host and conditions all hold wins. A trie over the
//! templates' segments, with hosts and wanted field values at its ends, only narrows the candidates down, so that 500
//! routes cost about as much as a few; it never decides. What makes a body a read is in [`super::body`].

use std::collections::HashMap;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, Method};

pub use super::body::BodyKey;
use super::path::{self, PathParams, PathTemplate, Segment};
use super::query::{self, QueryRules};
use super::subject::SubjectSpec;
use super::tags::TagTemplate;
use crate::semantics::coding::Compression;
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
    /// How content is kept and sent that the backend sends uncoded; `None` = as it came.
    pub compress: Option<Arc<Compression>>,
    /// Largest body kept, bytes.
    pub max_body: u64,
    /// Whether concurrent misses share one fetch.
    pub coalesce: Coalesce,
    /// Whether the backend's `No-Vary-Search` counts.
    pub no_vary_search: bool,
    /// Largest content, bytes, that is fetched whole where a part is asked for that is not stored.
    pub fetch_whole: u64,
}

/// With whom concurrent misses share one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Coalesce {
    /// With nobody: each goes to the backend.
    Off,
    /// With those of the same instance.
    #[default]
    Local,
    /// With those of every instance on the same Redis.
    Shared,
}

/// Which requests.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// Methods; GET implies HEAD. None listed = none matched.
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

impl Matcher {
    /// Whether this request is meant, and what the template captured. `host` as [`request_host`] gives it.
    pub fn matches(&self, parts: &Parts, host: &str) -> Option<PathParams> {
        if !self.matches_method(&parts.method) || !self.matches_circumstances(parts, host) {
            return None;
        }
        self.path.matches(parts.uri.path())
    }

    /// RFC 9110 §9.3.2: HEAD is GET without content.
    pub(crate) fn matches_method(&self, method: &Method) -> bool {
        self.methods.contains(method) || (*method == Method::HEAD && self.methods.contains(&Method::GET))
    }

    /// Host and conditions.
    pub(crate) fn matches_circumstances(&self, parts: &Parts, host: &str) -> bool {
        self.host.as_deref().is_none_or(|pattern| host_matches(pattern, host))
            && self.conditions.iter().all(|condition| condition.holds(parts))
    }
}

impl Condition {
    fn holds(&self, parts: &Parts) -> bool {
        match self {
            Condition::Header(name, None) => parts.headers.contains_key(name),
            Condition::Header(name, Some(wanted)) => {
                parts.headers.get_all(name).iter().any(|line| line.as_bytes() == wanted.as_bytes())
            }
            Condition::Query(name, wanted) => {
                let found = query::values(parts.uri.query().unwrap_or_default(), name);
                match wanted {
                    None => !found.is_empty(),
                    Some(wanted) => found.contains(wanted),
                }
            }
        }
    }
}

/// A pattern without a port matches any port; `*.` stands for one or more labels.
fn host_matches(pattern: &str, host: &str) -> bool {
    let host = if port_of(pattern).is_some() { host } else { without_port(host) };
    match pattern.strip_prefix("*.") {
        Some(suffix) => {
            host.strip_suffix(suffix).and_then(|h| h.strip_suffix('.')).is_some_and(|label| !label.is_empty())
        }
        None => pattern == host,
    }
}

/// The port of `host:port`, mindful of `[::1]`.
fn port_of(host: &str) -> Option<&str> {
    let (_, port) = host.rsplit_once(':')?;
    (!port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())).then_some(port)
}

fn without_port(host: &str) -> &str {
    match port_of(host) {
        Some(port) => &host[..host.len() - port.len() - 1],
        None => host,
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
    index: Node,
}

/// One position in the templates' segments, and the routes that end there.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    here: Ends,
    rest: Ends,
}

/// Positions in the table by a host or a value.
type ByText = HashMap<Box<str>, Vec<usize>>;

/// Routes (by position in the table) that one path leads to, told apart by a host or a field that only some requests have.
#[derive(Debug, Default)]
struct Ends {
    /// By the one host that each is for.
    hosts: ByText,
    /// By the value that each wants a field to have.
    fields: Vec<(HeaderName, ByText)>,
    others: Vec<usize>,
}

impl Ends {
    fn insert(&mut self, matcher: &Matcher, route: usize) {
        let exact = matcher.host.as_deref().filter(|host| !host.starts_with("*."));
        let wanted = matcher.conditions.iter().find_map(|condition| match condition {
            Condition::Header(name, Some(value)) => Some((name, value.as_str())),
            _ => None,
        });
        let place = match (exact, wanted) {
            (Some(host), _) => self.hosts.entry(host.into()).or_default(),
            (None, Some((name, value))) => self.by(name).entry(value.into()).or_default(),
            (None, None) => &mut self.others,
        };
        place.push(route);
    }

    fn by(&mut self, name: &HeaderName) -> &mut ByText {
        let known = self.fields.iter().position(|(known, _)| known == name);
        let at = known.unwrap_or_else(|| {
            self.fields.push((name.clone(), ByText::new()));
            self.fields.len() - 1
        });
        &mut self.fields[at].1
    }

    /// Adds those that this request might be for; some may be added twice.
    fn collect(&self, parts: &Parts, host: &str, found: &mut Vec<usize>) {
        found.extend_from_slice(&self.others);
        if !self.hosts.is_empty() {
            // A pattern without a port matches any.
            for host in [host, without_port(host)] {
                found.extend(self.hosts.get(host).into_iter().flatten());
            }
        }
        for (name, values) in &self.fields {
            let lines = parts.headers.get_all(name).iter();
            let wanted = lines.filter_map(|line| values.get(std::str::from_utf8(line.as_bytes()).ok()?));
            found.extend(wanted.flatten());
        }
    }
}

impl Node {
    fn insert(&mut self, matcher: &Matcher, route: usize) {
        let mut node = self;
        for segment in &matcher.path.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry((**text).into()).or_default(),
                Segment::Param(_) | Segment::Any => node.any.get_or_insert_default(),
                Segment::Rest => {
                    node.rest.insert(matcher, route);
                    return;
                }
            };
        }
        node.here.insert(matcher, route);
    }

    /// Every route that might match. Bounded by the number of nodes, whatever the path is.
    fn candidates(&self, parts: &Parts, host: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let Some(rest) = parts.uri.path().strip_prefix('/') else { return found };
        let mut open = vec![(self, Some(rest))];
        while let Some((node, rest)) = open.pop() {
            node.rest.collect(parts, host, &mut found);
            let Some(rest) = rest else {
                node.here.collect(parts, host, &mut found);
                continue;
            };
            let (segment, tail) = path::split_segment(rest);
            if let Some(next) = node.literals.get(&*path::decode(segment)) {
                open.push((next, tail));
            }
            if let Some(next) = &node.any {
                open.push((next, tail));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl RouteTable {
    /// Takes the routes in file order. Their `index` is set to their position.
    pub fn new(routes: Vec<Route>) -> RouteTable {
        let mut index = Node::default();
        let routes = routes
            .into_iter()
            .enumerate()
            .map(|(i, mut route)| {
                index.insert(&route.matcher, i);
                route.index = i;
                Arc::new(route)
            })
            .collect();
        RouteTable { routes, index }
    }
    /// All routes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
    /// The routes as a slice, in order.
    pub fn as_slice(&self) -> &[Arc<Route>] {
        &self.routes
    }
    /// The first route that matches. `host` as [`request_host`] gives it.
    pub fn find(&self, parts: &Parts, host: &str) -> Option<RouteMatch> {
        self.index.candidates(parts, host).into_iter().find_map(|i| {
            let route = self.routes.get(i)?;
            let params = route.matcher.matches(parts, host)?;
            Some(RouteMatch { route: route.clone(), params })
        })
    }
}

/// The request's host, lower-case, default ports removed: `:authority` / absolute form, else `Host`, else empty.
///
/// Without a scheme in the request target, `:80` counts as the default and `:443` does not (the scheme is a separate
/// part of keys). Several `Host` lines, which a server should have refused (RFC 9112 §3.2), give a name that no
/// pattern matches.
pub fn request_host(parts: &Parts) -> String {
    let host = match parts.uri.authority() {
        Some(authority) => authority.as_str().rsplit('@').next().unwrap_or_default().to_ascii_lowercase(),
        None => {
            let lines = parts.headers.get_all(http::header::HOST);
            let lines: Vec<_> = lines.iter().map(|l| String::from_utf8_lossy(l.as_bytes())).collect();
            lines.join(",").trim().to_ascii_lowercase()
        }
    };
    let default = if parts.uri.scheme_str() == Some("https") { "443" } else { "80" };
    let keep = match port_of(&host) {
        Some(port) if port == default => without_port(&host).len(),
        _ => host.strip_suffix(':').map_or(host.len(), str::len),
    };
    host[..keep].to_owned()
}

#[cfg(test)]
pub(super) mod tests;
