//! Routes: which requests the operator's words are about.
//!
//! The table keeps file order: the first route whose method, path, host and conditions all hold wins. A trie over the
//! templates' segments, with hosts and wanted field values at its ends, only narrows the candidates down, so that 500
//! routes cost about as much as a few; it never decides. What makes a body a read is in [`super::body`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method};

pub use super::body::BodyKey;
use super::path::{self, PathTemplate, Segment};
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
    /// Whether this request is meant. `host` as [`request_host`] gives it.
    pub fn fits(&self, parts: &Parts, host: &str) -> bool {
        self.matches_method(&parts.method)
            && self.matches_circumstances(parts, host)
            && self.path.covers(parts.uri.path())
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

/// Routes in documented order: as written in the file; the first that matches wins.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    index: Node,
    /// Some route has a condition on fields.
    asks_fields: bool,
}

/// One position in the templates' segments, and the routes that end there.
#[derive(Debug, Default)]
struct Node {
    /// Sorted.
    literals: Vec<(Box<str>, Node)>,
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

    /// The first of these before `limit` that this request might be for and that `fits`.
    fn first(&self, asked: &Asked<'_, impl Fn(usize) -> bool>, limit: usize) -> usize {
        let mut first = asked.first_of(&self.others, limit);
        if !self.hosts.is_empty() {
            // A pattern without a port matches any.
            for host in [asked.host, without_port(asked.host)] {
                first = self.hosts.get(host).map_or(first, |routes| asked.first_of(routes, first));
            }
        }
        for (name, values) in &self.fields {
            for line in asked.parts.headers.get_all(name) {
                let wanted = std::str::from_utf8(line.as_bytes()).ok().and_then(|line| values.get(line));
                first = wanted.map_or(first, |routes| asked.first_of(routes, first));
            }
        }
        first
    }
}

/// A request that a route is looked for.
struct Asked<'a, F> {
    parts: &'a Parts,
    host: &'a str,
    /// Whether the route at this position matches.
    fits: F,
}

impl<F: Fn(usize) -> bool> Asked<'_, F> {
    /// The first of `routes`, in the table's order, before `limit` that fits.
    fn first_of(&self, routes: &[usize], limit: usize) -> usize {
        let found = routes.iter().take_while(|route| **route < limit).find(|route| (self.fits)(**route));
        found.copied().unwrap_or(limit)
    }
}

impl Node {
    fn insert(&mut self, matcher: &Matcher, route: usize) {
        let mut node = self;
        for segment in &matcher.path.segments {
            node = match segment {
                Segment::Literal(text) => node.literal(text),
                Segment::Param(_) | Segment::Any => node.any.get_or_insert_default(),
                Segment::Rest => {
                    node.rest.insert(matcher, route);
                    return;
                }
            };
        }
        node.here.insert(matcher, route);
    }

    fn literal(&mut self, text: &str) -> &mut Node {
        let at = match self.literals.binary_search_by(|(literal, _)| (**literal).cmp(text)) {
            Ok(at) => at,
            Err(at) => {
                self.literals.insert(at, (text.into(), Node::default()));
                at
            }
        };
        &mut self.literals[at].1
    }

    /// The first route before `limit` whose template might match what is left of a path (`None` = its end) and that
    /// fits. Visits a node at most once, whatever the path is.
    fn first(&self, rest: Option<&str>, asked: &Asked<'_, impl Fn(usize) -> bool>, limit: usize) -> usize {
        let mut limit = self.rest.first(asked, limit);
        let Some(rest) = rest else { return self.here.first(asked, limit) };
        let (segment, tail) = path::split_segment(rest);
        if !self.literals.is_empty() {
            let text = path::decode(segment);
            if let Ok(at) = self.literals.binary_search_by(|(literal, _)| (**literal).cmp(&*text)) {
                limit = self.literals[at].1.first(tail, asked, limit);
            }
        }
        match &self.any {
            Some(next) => next.first(tail, asked, limit),
            None => limit,
        }
    }
}

impl RouteTable {
    /// Takes the routes in file order. Their `index` is set to their position.
    pub fn new(routes: Vec<Route>) -> RouteTable {
        let mut index = Node::default();
        let routes: Vec<_> = routes
            .into_iter()
            .enumerate()
            .map(|(i, mut route)| {
                index.insert(&route.matcher, i);
                route.index = i;
                Arc::new(route)
            })
            .collect();
        let asks_fields = routes.iter().any(|route| {
            route.matcher.conditions.iter().any(|condition| matches!(condition, Condition::Header(..)))
        });
        RouteTable { routes, index, asks_fields }
    }
    /// Whether fields other than `Host` have a say in which route matches.
    pub fn asks_fields(&self) -> bool {
        self.asks_fields
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
    pub fn find(&self, parts: &Parts, host: &str) -> Option<&Arc<Route>> {
        let rest = parts.uri.path().strip_prefix('/')?;
        let fits = |at: usize| self.routes.get(at).is_some_and(|route| route.matcher.fits(parts, host));
        let asked = Asked { parts, host, fits };
        self.routes.get(self.index.first(Some(rest), &asked, self.routes.len()))
    }
}

/// The request's host, lower-case, default ports removed: `:authority` / absolute form, else `Host`, else empty.
///
/// Which port is the default says the target's own scheme, or else `scheme`: `http://a:80` and `https://a:443` are what
/// they are without the port, `https://a:80` is not. Several `Host` lines, which a server should have refused (RFC 9112 §3.2), give a name that no
/// pattern matches.
pub fn request_host<'a>(parts: &'a Parts, scheme: &str) -> Cow<'a, str> {
    let host = match parts.uri.authority() {
        Some(authority) => Cow::Borrowed(authority.as_str().rsplit('@').next().unwrap_or_default()),
        None => host_field(&parts.headers),
    };
    let default = if parts.uri.scheme_str().unwrap_or(scheme) == "https" { "443" } else { "80" };
    let keep = match port_of(&host) {
        Some(port) if port == default => without_port(&host).len(),
        _ => host.strip_suffix(':').map_or(host.len(), str::len),
    };
    let host = match host {
        Cow::Borrowed(host) => Cow::Borrowed(&host[..keep]),
        Cow::Owned(host) => Cow::Owned(host[..keep].to_owned()),
    };
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host }
}

/// The value of `Host`; several lines, or what is no text, as nobody would write it.
fn host_field(headers: &HeaderMap) -> Cow<'_, str> {
    let mut lines = headers.get_all(HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Cow::Borrowed(""),
        (Some(only), None) => match String::from_utf8_lossy(only.as_bytes()) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        },
        _ => {
            let lines = headers.get_all(HOST).iter();
            let lines: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
            Cow::Owned(lines.join(",").trim().to_owned())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
