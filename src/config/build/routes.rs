//! `[[route]]` with what it takes from `[defaults]`, and the stand-in route for unlisted traffic.
//!
//! A key given in a route replaces the whole default, also where it is a list or a table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use toml::Spanned;

use super::super::file::{Body, Defaults, File, Origin, Query, Route as Typed, Subject, When};
use super::super::values::{Span, Switch, Text, Wanted, WordOr, Words, show_size};
use super::sections::KeyPart;
use super::{Builder, MS, YEAR, secs};
use crate::policy::path::PathTemplate;
use crate::policy::query::QueryRules;
use crate::policy::route::{BodyKey, Condition, IgnoredCredential, Matcher, Route};
use crate::policy::subject::SubjectSpec;
use crate::policy::tags::TagTemplate;
use crate::semantics::storing::{OriginMode, Terms};

/// The name under which unlisted traffic is cached with `[defaults] cache = "rfc"`.
pub(super) const UNLISTED: &str = "unlisted";
const PATTERN_FORM: &str = "\"GET /path/{name}\", \"GET|POST /path\", \"/path/**\" (= GET)";
const QUERY_METHOD: &str = "QUERY";

/// One `[[route]]` and where its parts are. `route` is `None` where something essential was wrong.
pub(super) struct RoutePart {
    pub(super) route: Option<Route>,
    pub(super) span: Range<usize>,
    pub(super) name: Option<String>,
    pub(super) pattern: Option<Range<usize>>,
    /// The subject in force was written in the route itself.
    pub(super) own_subject: bool,
    /// Where its own or the default subject is.
    pub(super) subject: Option<Range<usize>>,
    pub(super) public: Option<Range<usize>>,
    pub(super) origin: Option<Range<usize>>,
    /// Parallel to `route.tags`.
    pub(super) tags: Vec<Range<usize>>,
}

/// What a route and the defaults may both say; the route's word wins.
struct Inherited<'a> {
    ttl: Option<&'a Spanned<Span>>,
    negative_ttl: Option<&'a Spanned<Span>>,
    stale_while_revalidate: Option<&'a Spanned<Span>>,
    stale_if_error: Option<&'a Spanned<Span>>,
    keep: Option<&'a Spanned<Span>>,
    jitter: Option<&'a Spanned<f64>>,
    origin: Option<&'a Spanned<Origin>>,
    client_refresh: Option<bool>,
    subject: Option<&'a Spanned<Subject>>,
    query: Option<&'a Query>,
    ignore: Option<&'a Vec<Text>>,
    vary: Option<&'a Vec<Text>>,
    max_body: Option<&'a Spanned<super::Size>>,
    coalesce: Option<bool>,
}

impl<'a> Inherited<'a> {
    fn of(route: Option<&'a Typed>, defaults: &'a Defaults) -> Inherited<'a> {
        macro_rules! either {
            ($field:ident) => {
                route.and_then(|r| r.$field.as_ref()).or(defaults.$field.as_ref())
            };
        }
        Inherited {
            ttl: either!(ttl),
            negative_ttl: either!(negative_ttl),
            stale_while_revalidate: either!(stale_while_revalidate),
            stale_if_error: either!(stale_if_error),
            keep: either!(keep),
            jitter: either!(jitter),
            origin: either!(origin),
            client_refresh: either!(client_refresh).copied(),
            subject: either!(subject),
            query: either!(query),
            ignore: either!(ignore),
            vary: either!(vary),
            max_body: either!(max_body),
            coalesce: either!(coalesce).copied(),
        }
    }
}

impl Builder<'_, '_> {
    pub(super) fn routes(&mut self, file: &File, keys: &[KeyPart], max_body: u64) -> Vec<RoutePart> {
        // The defaults are checked for their own sake: there may be no route that takes them.
        self.terms(&Inherited::of(None, &file.defaults));
        let mut parts = Vec::new();
        let mut index = 0;
        for entry in &file.route {
            let mut part = self.route(entry, &file.defaults, keys, max_body, &parts);
            if let Some(route) = &mut part.route {
                route.index = index;
                index += 1;
            }
            parts.push(part);
        }
        parts
    }

    fn route(
        &mut self,
        entry: &Spanned<Typed>,
        defaults: &Defaults,
        keys: &[KeyPart],
        max_body: u64,
        earlier: &[RoutePart],
    ) -> RoutePart {
        let typed = entry.get_ref();
        let path = self.document.path_of(&entry.span());
        let from = Inherited::of(Some(typed), defaults);
        let name = self.route_name(typed, &entry.span(), &path, earlier);
        let cache = typed.cache.unwrap_or(true);
        let (any_host, host) = self.host(typed.host.as_ref());
        let matcher = self.matcher(typed.pattern.as_ref(), host, typed.when.as_ref());
        if typed.pattern.is_none() {
            self.missing(&path, Some(&entry.span()), "match", PATTERN_FORM);
        }
        let mut tags = Vec::new();
        let mut tag_spans = Vec::new();
        for tag in typed.tags.iter().flatten() {
            if let Some(template) = self.tag(tag) {
                tags.push(template);
                tag_spans.push(tag.span());
            }
        }
        let body_key = self.body_key(typed, matcher.as_ref(), cache);
        let base = self.base_route(&from, keys, max_body);
        let public = typed.public.as_ref().is_some_and(|p| *p.get_ref());
        let part = RoutePart {
            route: None,
            span: entry.span(),
            name: name.clone(),
            pattern: typed.pattern.as_ref().map(Spanned::span),
            own_subject: typed.subject.is_some(),
            subject: from.subject.map(Spanned::span),
            public: typed.public.as_ref().map(Spanned::span),
            origin: from.origin.map(Spanned::span),
            tags: tag_spans,
        };
        let (Some(name), Some(matcher), Some(base)) = (name, matcher, base) else { return part };
        if cache {
            self.check_methods(&matcher, typed.pattern.as_ref());
        }
        let terms =
            Terms { public, store_set_cookie: typed.store_set_cookie.unwrap_or(false), ..base.terms.clone() };
        let route =
            Route { name: name.into(), matcher, cache, terms, public, any_host, body_key, tags, ..base };
        RoutePart { route: Some(route), ..part }
    }

    /// What a route has apart from its name, matcher and tags: lifetimes, subject, what of a request counts.
    fn base_route(&mut self, from: &Inherited<'_>, keys: &[KeyPart], max_body: u64) -> Option<Route> {
        let subject = match from.subject {
            Some(subject) => self.subject_once(subject, keys),
            None => Some(SubjectSpec::None),
        };
        let (terms, jitter) = self.terms(from);
        let query = from.query.map(|q| self.query(q)).unwrap_or_default();
        let ignore = from.ignore.map(|i| self.ignored(i)).unwrap_or_default();
        let vary = from.vary.map(|v| self.vary(v)).unwrap_or_default();
        let own_max = self.size(from.max_body, max_body, 1..=1 << 30);
        if let Some(typed) = from.max_body.filter(|_| own_max > max_body) {
            self.error_once(
                &typed.span(),
                format!("`max_body` is larger than [cache] max_body, {}", show_size(max_body)),
            )
            .map(|p| p.allowed(format!("1B to {}", show_size(max_body))));
        }
        let subject = subject?;
        self.check_ignored_subject(from, &subject, &ignore);
        let per_subject = !matches!(subject, SubjectSpec::None);
        let nothing = PathTemplate { text: "/**".into(), segments: vec![crate::policy::path::Segment::Rest] };
        Some(Route {
            index: 0,
            name: UNLISTED.into(),
            matcher: Matcher {
                methods: vec![Method::GET],
                path: nothing,
                host: None,
                conditions: Vec::new(),
            },
            cache: true,
            terms: Terms { per_subject, ..terms },
            jitter,
            subject,
            public: false,
            any_host: false,
            query,
            ignore,
            vary,
            body_key: None,
            tags: Vec::new(),
            max_body: own_max,
            coalesce: from.coalesce.unwrap_or(true),
        })
    }

    /// Unlisted traffic follows RFC 9111 to the letter: no lifetime of the operator's, his subject and filters.
    pub(super) fn rfc_route(&mut self, file: &File, keys: &[KeyPart], max_body: u64, index: usize) -> Route {
        let from = Inherited {
            ttl: None,
            negative_ttl: None,
            jitter: None,
            origin: None,
            ..Inherited::of(None, &file.defaults)
        };
        let base = self.base_route(&from, keys, max_body);
        let base = base.unwrap_or_else(|| {
            // The defaults are wrong and that is reported; this stands in until the end refuses the whole.
            Route {
                index,
                name: UNLISTED.into(),
                matcher: Matcher {
                    methods: vec![Method::GET],
                    path: PathTemplate {
                        text: "/**".into(),
                        segments: vec![crate::policy::path::Segment::Rest],
                    },
                    host: None,
                    conditions: Vec::new(),
                },
                cache: false,
                terms: Terms::default(),
                jitter: 0.0,
                subject: SubjectSpec::None,
                public: false,
                any_host: false,
                query: QueryRules::default(),
                ignore: Vec::new(),
                vary: Vec::new(),
                body_key: None,
                tags: Vec::new(),
                max_body,
                coalesce: true,
            }
        });
        let terms = Terms { ttl: None, negative_ttl: None, origin: OriginMode::Honour, ..base.terms.clone() };
        Route { index, terms, jitter: 0.0, ..base }
    }

    fn route_name(
        &mut self,
        typed: &Typed,
        span: &Range<usize>,
        path: &str,
        earlier: &[RoutePart],
    ) -> Option<String> {
        const FORM: &str = "1 to 64 of a-z, 0-9, `_` and `-`, different for every route";
        let Some(name) = &typed.name else {
            self.missing(path, Some(span), "name", FORM);
            return None;
        };
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if text.is_empty() || text.len() > 64 || !text.chars().all(good) {
            let problem = self.error(&name.span(), format!("`{text}` is not a route name")).allowed(FORM);
            let lower: String =
                text.to_ascii_lowercase().chars().map(|c| if good(c) { c } else { '-' }).take(64).collect();
            if !lower.is_empty() {
                problem.help(format!("for example `{lower}`"));
            }
            return None;
        }
        if text == UNLISTED {
            self.error(&name.span(), format!("`{UNLISTED}` is what traffic without a route is called"))
                .allowed("any other name");
            return None;
        }
        if earlier.iter().any(|r| r.name.as_deref() == Some(text)) {
            self.error(&name.span(), format!("two routes are called `{text}`")).allowed(FORM);
        }
        Some(text.clone())
    }

    fn terms(&mut self, from: &Inherited<'_>) -> (Terms, f64) {
        let origin = match from.origin.map(Spanned::get_ref) {
            None | Some(Origin::Stricter) => OriginMode::Stricter,
            Some(Origin::Ignore) => OriginMode::Ignore,
            Some(Origin::Honour) => OriginMode::Honour,
        };
        if let Some(zero) = from.ttl.filter(|t| t.get_ref().0.is_zero()) {
            self.error_once(&zero.span(), "a `ttl` of nothing would keep nothing".to_owned())
                .map(|p| p.allowed("1ms to 365d").help("`cache = false` in a route leaves it uncached"));
        }
        // To the letter of RFC 9111 only where the operator has not said otherwise.
        let ttl = match (from.ttl, origin) {
            (Some(ttl), _) => Some(ttl.get_ref().0),
            (None, OriginMode::Honour) => None,
            (None, _) => Some(secs(300)),
        };
        self.window(from.ttl.filter(|t| !t.get_ref().0.is_zero()), MS);
        let terms = Terms {
            ttl,
            negative_ttl: self.window(from.negative_ttl, MS),
            stale_while_revalidate: self.window(from.stale_while_revalidate, Duration::ZERO),
            stale_if_error: self.window(from.stale_if_error, Duration::ZERO),
            keep: self.window(from.keep, Duration::ZERO).unwrap_or(secs(60)),
            origin,
            client_refresh: from.client_refresh.unwrap_or(true),
            ..Terms::default()
        };
        let jitter = from.jitter.map_or(0.0, |j| *j.get_ref());
        if let Some(typed) = from.jitter.filter(|_| !(0.0..=0.5).contains(&jitter)) {
            self.error_once(&typed.span(), format!("the jitter {jitter} is out of range"))
                .map(|p| p.allowed("0.0 to 0.5: the fraction by which lifetimes are spread"));
        }
        (terms, jitter)
    }

    /// A lifetime; one inherited by many routes is complained about once.
    fn window(&mut self, given: Option<&Spanned<Span>>, least: Duration) -> Option<Duration> {
        let given = given?;
        if self.reported(&given.span()) {
            return Some(given.get_ref().0);
        }
        self.duration_or_none(Some(given), least..=YEAR)
    }

    fn subject_once(&mut self, given: &Spanned<Subject>, keys: &[KeyPart]) -> Option<SubjectSpec> {
        let before = self.document.problems.len();
        let spec = self.subject(given, keys);
        self.drop_repeats(before);
        spec
    }

    /// Whether an error at this very place is known already: what many routes inherit is wrong only once.
    fn reported(&self, span: &Range<usize>) -> bool {
        let probe = self.document.sources.problem(super::Severity::Error, span, String::new());
        self.document
            .problems
            .iter()
            .any(|p| p.is_error() && p.file == probe.file && (p.line, p.column) == (probe.line, probe.column))
    }

    fn error_once(&mut self, span: &Range<usize>, message: String) -> Option<&mut super::Problem> {
        if self.reported(span) {
            return None;
        }
        Some(self.error(span, message))
    }

    /// Forgets problems found since `before` that were found earlier, too.
    fn drop_repeats(&mut self, before: usize) {
        let new = self.document.problems.split_off(before);
        for problem in new {
            if !self.document.problems.contains(&problem) {
                self.document.problems.push(problem);
            }
        }
    }

    fn query(&mut self, given: &Query) -> QueryRules {
        let names = |list: &[Text]| list.iter().map(|t| t.get_ref().clone()).collect::<Vec<_>>();
        if let Some(only) = &given.only {
            for name in given.ignore.iter().filter(|i| only.iter().any(|o| o.get_ref() == i.get_ref())) {
                let message = format!("`{}` is in both `only` and `ignore`", name.get_ref());
                self.error_once(&name.span(), message).map(|p| p.help("take it out of one of the two"));
            }
        }
        QueryRules {
            ignore: names(&given.ignore),
            only: given.only.as_deref().map(names),
            sets: names(&given.sets),
        }
    }

    fn ignored(&mut self, given: &[Text]) -> Vec<IgnoredCredential> {
        const FORM: &str = "\"cookie:name\", \"cookie:prefix*\" or \"header:name\"";
        let mut all = Vec::new();
        for typed in given {
            let text = typed.get_ref();
            let parsed = match text.split_once(':') {
                Some(("cookie", name)) => {
                    let plain = name.strip_suffix('*').unwrap_or(name);
                    let good = name == "*" || super::subjects::is_cookie_name(plain);
                    good.then(|| IgnoredCredential::Cookie(name.to_owned()))
                }
                Some(("header", name)) => {
                    name.to_ascii_lowercase().parse().ok().map(IgnoredCredential::Header)
                }
                _ => None,
            };
            match parsed {
                Some(parsed) => all.push(parsed),
                None => {
                    self.error_once(&typed.span(), format!("`{text}` names no credential"))
                        .map(|p| p.allowed(FORM));
                }
            }
        }
        all
    }

    /// Stripping the very credential that says whose answer it is would make everybody nobody.
    fn check_ignored_subject(
        &mut self,
        from: &Inherited<'_>,
        subject: &SubjectSpec,
        ignore: &[IgnoredCredential],
    ) {
        use crate::policy::subject::TokenSource;
        let source = match subject {
            SubjectSpec::None => return,
            SubjectSpec::Header(name) => TokenSource::Header(name.clone()),
            SubjectSpec::Cookie(name) => TokenSource::Cookie(name.to_string()),
            SubjectSpec::Jwt(spec) => spec.from.clone(),
        };
        for (at, ignored) in ignore.iter().enumerate() {
            let same = match (ignored, &source) {
                (IgnoredCredential::Header(a), TokenSource::Header(b)) => a == b,
                (IgnoredCredential::Header(a), TokenSource::Cookie(_)) => *a == http::header::COOKIE,
                (IgnoredCredential::Cookie(a), TokenSource::Cookie(b)) => match a.strip_suffix('*') {
                    Some(prefix) => b.starts_with(prefix),
                    None => a == b,
                },
                (IgnoredCredential::Cookie(_), TokenSource::Header(_)) => false,
            };
            if let Some(span) = from.ignore.and_then(|i| i.get(at)).map(Spanned::span).filter(|_| same) {
                self.error_once(
                    &span,
                    "this is the route's own subject: it cannot be of no influence".to_owned(),
                )
                .map(|p| p.help("take it out of `ignore`, or say `subject = \"none\"`"));
            }
        }
    }

    fn vary(&mut self, given: &[Text]) -> Vec<HeaderName> {
        let mut all = Vec::new();
        for typed in given.iter().filter(|t| !self.reported(&t.span())).collect::<Vec<_>>() {
            if typed.get_ref().trim() == "*" {
                self.error(&typed.span(), "`*` would vary by everything: nothing would ever be reused")
                    .allowed("names of request headers");
            } else if let Some(name) = self.header_name(typed) {
                all.push(name);
            }
        }
        all
    }

    /// `host`: whether it is left out of the key, and which one must match.
    pub(super) fn host(&mut self, given: Option<&Text>) -> (bool, Option<String>) {
        let Some(typed) = given else { return (false, None) };
        let text = typed.get_ref().trim().to_ascii_lowercase();
        if text == "any" {
            return (true, None);
        }
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let parsed = name.parse::<http::uri::Authority>().ok().filter(super::sections::has_sound_port);
        if name.is_empty() || name.contains(['*', '/', '@', ' ']) || parsed.is_none() {
            self.error(&typed.span(), format!("`{}` is not a host", typed.get_ref())).allowed(
                "\"any\", \"api.example.com\", \"*.example.com\", with a port where it is not the default",
            );
            return (false, None);
        }
        (false, Some(text))
    }

    /// `GET|POST /x/{id}` with the conditions of `when`.
    pub(super) fn matcher(
        &mut self,
        pattern: Option<&Text>,
        host: Option<String>,
        when: Option<&When>,
    ) -> Option<Matcher> {
        let conditions = when.map(|w| self.conditions(w)).unwrap_or_default();
        let pattern = pattern?;
        let (text, span) = (pattern.get_ref().trim(), pattern.span());
        let (methods, path) = match text.split_once(char::is_whitespace) {
            _ if text.starts_with('/') => ("GET", text),
            Some((methods, path)) => (methods, path.trim()),
            None => {
                self.error(&span, format!("`{text}` has no path")).allowed(PATTERN_FORM);
                return None;
            }
        };
        let mut all: Vec<Method> = Vec::new();
        for name in methods.split('|') {
            let upper = !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            match Method::from_bytes(name.as_bytes()).ok().filter(|_| upper) {
                Some(method) if all.contains(&method) => {}
                Some(method) => all.push(method),
                None => {
                    let at =
                        self.document.sources.within(&span, if name.is_empty() { methods } else { name });
                    self.error(&at, format!("`{name}` is not a method"))
                        .allowed("methods in capitals with `|` between them, such as \"GET|POST\"");
                    return None;
                }
            }
        }
        let at = self.document.sources.within(&span, path);
        if let Some((before, _)) = path.split_once('?') {
            self.error(&at, format!("`{path}` holds a query"))
                .allowed(format!("a path alone: \"{before}\""))
                .help("the query never decides which path it is; use `when = { query = { … } }`");
            return None;
        }
        match PathTemplate::parse(path) {
            Ok(path) => Some(Matcher { methods: all, path, host, conditions }),
            Err(error) => {
                self.error(&at, error).allowed(PATTERN_FORM);
                None
            }
        }
    }

    fn conditions(&mut self, when: &When) -> Vec<Condition> {
        let mut all = Vec::new();
        let header =
            |b: &mut Self, name: &Text, value| b.header_name(name).map(|n| Condition::Header(n, value));
        for (name, value) in &when.header {
            let Some(value) = self.wanted(value) else { continue };
            all.extend(header(self, name, value));
        }
        for (name, value) in &when.query {
            let Some(value) = self.wanted(value) else { continue };
            all.push(Condition::Query(name.get_ref().clone(), value));
        }
        all
    }

    fn wanted(&mut self, value: &Spanned<Switch<Wanted>>) -> Option<Option<String>> {
        match value.get_ref() {
            Switch::Plain(true) => Some(None),
            Switch::Given(text) => Some(Some(text.0.clone())),
            Switch::Plain(false) => {
                self.error(&value.span(), "a condition cannot ask for absence")
                    .allowed("true (present) or the text it must equal")
                    .help("put a route with the condition `true` before this one");
                None
            }
        }
    }

    pub(super) fn tag(&mut self, typed: &Text) -> Option<TagTemplate> {
        match TagTemplate::parse(typed.get_ref()) {
            Ok(template) => Some(template),
            Err(error) => {
                self.error(&typed.span(), error);
                None
            }
        }
    }

    fn check_methods(&mut self, matcher: &Matcher, pattern: Option<&Text>) {
        let Some(pattern) = pattern else { return };
        for method in &matcher.methods {
            let cacheable = matches!(*method, Method::GET | Method::POST) || method.as_str() == QUERY_METHOD;
            if !cacheable {
                let at = self.document.sources.within(&pattern.span(), method.as_str());
                let help = match *method {
                    Method::HEAD => "GET routes answer HEAD, too",
                    Method::OPTIONS | Method::TRACE => "such requests pass through without a route",
                    _ => {
                        "what a mutation purges is said in [[purge]]; `cache = false` lets a route pass through"
                    }
                };
                self.error(&at, format!("answers to {method} are not cached"))
                    .allowed("GET, POST with a `body`, QUERY")
                    .help(help);
            }
        }
    }

    fn body_key(&mut self, typed: &Typed, matcher: Option<&Matcher>, cache: bool) -> Option<BodyKey> {
        let has = |name: &str| matcher.is_some_and(|m| m.methods.iter().any(|m| m.as_str() == name));
        let (posts, queries) = (has("POST"), has(QUERY_METHOD));
        let Some(given) = &typed.body else {
            if posts
                && cache
                && let Some(pattern) = &typed.pattern
            {
                let path = self.document.path_of(&pattern.span()).replace(".match", ".body");
                if !self.document.was_damaged(&path) {
                    let at = self.document.sources.within(&pattern.span(), "POST");
                    self.error(&at, "a POST is a mutation unless the route says what makes its body a read")
                        .allowed("`body` in this route: \"graphql\", { member = \"action\", one_of = [\"search\"] }, or \
                                  \"any\" where every POST here is a read");
                }
            }
            return queries.then_some(BodyKey::Any);
        };
        if matcher.is_some() && !posts && !queries {
            self.warn(&given.span(), "`body` has no effect on a route without POST or QUERY");
        }
        self.body(given)
    }

    fn body(&mut self, given: &Spanned<Body>) -> Option<BodyKey> {
        let table = match given.get_ref() {
            WordOr::Word("graphql") => return Some(BodyKey::GraphQl),
            WordOr::Word(_) => return Some(BodyKey::Any),
            WordOr::Table(table) => table,
        };
        let path = self.document.path_of(&given.span());
        let one_of = table.one_of.as_ref().map(|o| o.0.clone()).unwrap_or_default();
        match &table.member {
            Some(member) if !one_of.is_empty() && !member.get_ref().is_empty() => {
                Some(BodyKey::Json { member: member.get_ref().clone(), one_of })
            }
            _ => {
                if !self.document.was_damaged(&path) {
                    self.error(&given.span(), "`member` and `one_of` belong together")
                        .allowed(super::super::file::BodyTable::FORM);
                }
                None
            }
        }
    }
}

/// Names of all routes as typed, also of those that are wrong: a reference to one of them is no mistake.
pub(super) fn known_names(parts: &[RoutePart]) -> BTreeMap<&str, &RoutePart> {
    parts.iter().filter_map(|p| Some((p.name.as_deref()?, p))).collect()
}

/// The `Arc` under which a route is known to rules.
pub(super) fn shared(name: &str) -> Arc<str> {
    Arc::from(name)
}
