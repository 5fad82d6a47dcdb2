//! What a request must be like: methods, path, host, conditions, and for POST what its body must say.

use http::Method;
use toml::Spanned;

use super::super::file::{Body, BodyTable, Route as Typed, When};
use super::super::values::{Switch, Text, Wanted, WordOr, Words};
use super::Builder;
use crate::policy::path::PathTemplate;
use crate::policy::route::{BodyKey, Condition, Matcher};
use crate::policy::tags::TagTemplate;

/// What `match` may look like.
pub(super) const PATTERN_FORM: &str = "\"GET /path/{name}\", \"GET|POST /path\", \"/path/**\" (= GET)";
const QUERY_METHOD: &str = "QUERY";

impl Builder<'_, '_> {
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

    pub(super) fn check_methods(&mut self, matcher: &Matcher, pattern: Option<&Text>) {
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

    pub(super) fn body_key(
        &mut self,
        typed: &Typed,
        matcher: Option<&Matcher>,
        cache: bool,
    ) -> Option<BodyKey> {
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
                        .allowed(BodyTable::FORM);
                }
                None
            }
        }
    }
}
