//! `[[route]]` with what it takes from `[defaults]`, and the stand-in route for unlisted traffic.
//!
//! A key given in a route replaces the whole default, also where it is a list or a table.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use toml::Spanned;

use super::super::file::{
    Compress, Credentials, Defaults, File, Origin, Query, Route as Typed, Subject, UnlistedMode,
};
use super::super::values::{Shared, Span, Switch, Text, show_size};
use super::matching::PATTERN_FORM;
use super::sections::KeyPart;
use super::{Builder, MS, YEAR, secs};
use crate::policy::path::PathTemplate;
use crate::policy::query::QueryRules;
use crate::policy::route::{Coalesce, IgnoredCredential, Matcher, Route};
use crate::policy::subject::SubjectSpec;
use crate::policy::tags::TagTemplate;
use crate::semantics::storing::{CDN_CACHE_CONTROL, OriginMode, Terms};

/// The name under which unlisted traffic is cached with `[defaults] cache = "rfc"`.
pub(super) const UNLISTED: &str = "unlisted";

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
    store_set_cookie: Option<bool>,
    store_errors: Option<bool>,
    subject: Option<&'a Spanned<Subject>>,
    query: Option<&'a Query>,
    ignore: Option<&'a Vec<Text>>,
    vary: Option<&'a Vec<Text>>,
    target_list: Option<&'a Vec<Text>>,
    compress: Option<&'a Spanned<Compress>>,
    max_body: Option<&'a Spanned<super::Size>>,
    coalesce: Option<&'a Spanned<Switch<Shared>>>,
    no_vary_search: Option<bool>,
    fetch_whole: Option<&'a Switch<super::Size>>,
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
            store_set_cookie: either!(store_set_cookie).copied(),
            store_errors: either!(store_errors).copied(),
            subject: either!(subject),
            query: either!(query),
            ignore: either!(ignore),
            vary: either!(vary),
            target_list: either!(target_list),
            compress: either!(compress),
            max_body: either!(max_body),
            coalesce: either!(coalesce),
            no_vary_search: either!(no_vary_search).copied(),
            fetch_whole: either!(fetch_whole),
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
        let (base, sound) = self.base_route(&from, keys, max_body);
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
        let (Some(name), Some(matcher), true) = (name, matcher, sound) else { return part };
        if cache {
            self.check_methods(&matcher, typed.pattern.as_ref());
        }
        // Tags are read from the content, and what is coded here must come uncoded.
        let asks_uncoded = base.compress.is_some() || tags.iter().any(TagTemplate::needs_response_body);
        let terms = Terms { public, asks_uncoded, ..base.terms.clone() };
        let route =
            Route { name: name.into(), matcher, cache, terms, public, any_host, body_key, tags, ..base };
        RoutePart { route: Some(route), ..part }
    }

    /// What a route has apart from its name, matcher and tags: lifetimes, subject, what of a request counts.
    /// False if its subject was wrong (and reported).
    fn base_route(&mut self, from: &Inherited<'_>, keys: &[KeyPart], max_body: u64) -> (Route, bool) {
        let subject = match from.subject {
            Some(subject) => self.subject_once(subject, keys),
            None => Some(SubjectSpec::None),
        };
        let (terms, jitter) = self.terms(from);
        let query = from.query.map(|q| self.query(q)).unwrap_or_default();
        let ignore = from.ignore.map(|i| self.ignored(i)).unwrap_or_default();
        let vary = from.vary.map(|v| self.vary(v)).unwrap_or_default();
        let compress = self.compression(from.compress);
        let own_max = self.size(from.max_body, max_body, 1..=1 << 30);
        if let Some(typed) = from.max_body.filter(|_| own_max > max_body) {
            self.error_once(
                &typed.span(),
                format!("`max_body` is larger than [cache] max_body, {}", show_size(max_body)),
            )
            .map(|p| p.allowed(format!("1B to {}", show_size(max_body))));
        }
        let sound = subject.is_some();
        let subject = subject.unwrap_or_default();
        self.check_ignored_subject(from, &subject, &ignore);
        let per_subject = !matches!(subject, SubjectSpec::None);
        // Where the operator's word counts, his silence does too.
        let no_vary_search = from.no_vary_search.unwrap_or(terms.origin == OriginMode::Honour);
        let nothing = PathTemplate { text: "/**".into(), segments: vec![crate::policy::path::Segment::Rest] };
        let route = Route {
            index: 0,
            name: UNLISTED.into(),
            matcher: Matcher {
                methods: vec![Method::GET],
                path: nothing,
                host: None,
                conditions: Vec::new(),
            },
            cache: true,
            terms: Terms { per_subject, asks_uncoded: compress.is_some(), ..terms },
            jitter,
            subject,
            public: false,
            any_host: false,
            query,
            ignore,
            vary,
            body_key: None,
            tags: Vec::new(),
            compress,
            max_body: own_max,
            coalesce: coalesce(from.coalesce),
            no_vary_search,
            fetch_whole: fetch_whole(from.fetch_whole),
        };
        (route, sound)
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
        let (base, _) = self.base_route(&from, keys, max_body);
        let terms = Terms { ttl: None, negative_ttl: None, origin: OriginMode::Honour, ..base.terms.clone() };
        let by_rfc = file.defaults.credentials.as_ref().filter(|c| *c.get_ref() == Credentials::Rfc);
        if let Some(typed) = by_rfc {
            if file.defaults.cache != Some(UnlistedMode::Rfc) {
                self.warn(
                    &typed.span(),
                    "`credentials = \"rfc\"` is idle: it is about unlisted traffic under `cache = \"rfc\"`",
                );
            } else if file.defaults.subject.as_ref().is_some_and(|s| !matches!(s.get_ref(), Subject::Word(_)))
            {
                self.warn(
                    &typed.span(),
                    "with `credentials = \"rfc\"` the `subject` does not count for unlisted traffic",
                )
                .help("leave `credentials` out to keep answers per subject");
            }
        }
        let no_vary_search = from.no_vary_search.unwrap_or(true);
        Route { index, terms, jitter: 0.0, public: by_rfc.is_some(), no_vary_search, ..base }
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
            store_set_cookie: from.store_set_cookie.unwrap_or(false),
            store_errors: from.store_errors.unwrap_or(false),
            target_list: from.target_list.map_or_else(default_target_list, |given| self.target_list(given)),
            per_subject: false,
            public: false,
            asks_uncoded: false,
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
    pub(super) fn drop_repeats(&mut self, before: usize) {
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

    fn target_list(&mut self, given: &[Text]) -> Arc<[HeaderName]> {
        let mut all = Vec::new();
        for typed in given.iter().filter(|t| !self.reported(&t.span())).collect::<Vec<_>>() {
            if typed.get_ref().eq_ignore_ascii_case("cache-control") {
                self.error(&typed.span(), "`Cache-Control` speaks to every cache")
                    .allowed("names of targeted fields (RFC 9213), such as \"CDN-Cache-Control\"")
                    .help("it counts wherever no targeted field says anything");
            } else if let Some(name) = self.header_name(typed) {
                all.push(name);
            }
        }
        all.into()
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
}

fn default_target_list() -> Arc<[HeaderName]> {
    [CDN_CACHE_CONTROL].into()
}

fn coalesce(given: Option<&Spanned<Switch<Shared>>>) -> Coalesce {
    match given.map(Spanned::get_ref) {
        None | Some(Switch::Plain(true)) => Coalesce::Local,
        Some(Switch::Plain(false)) => Coalesce::Off,
        Some(Switch::Given(Shared)) => Coalesce::Shared,
    }
}

/// The largest content that is fetched whole for the sake of a part.
fn fetch_whole(given: Option<&Switch<super::Size>>) -> u64 {
    match given {
        None | Some(Switch::Plain(true)) => u64::MAX,
        Some(Switch::Plain(false)) => 0,
        Some(Switch::Given(size)) => size.0,
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
