//! `[[purge]]`: which mutations make which answers untrue.

use std::ops::Range;
use std::time::Duration;

use http::Method;
use toml::Spanned;

use super::super::file::{File, Purge};
use super::super::problem::nearest;
use super::super::values::Text;
use super::routes::{RoutePart, known_names, shared};
use super::{Builder, secs};
use crate::policy::path::{PathTemplate, Segment};
use crate::policy::route::Matcher;
use crate::policy::tags::{PathPattern, PurgeRule};

const ON_FORM: &str = "\"PUT /transactions/{id}\", \"POST|PUT|DELETE /orders/**\"";

/// One `[[purge]]` and where its parts are. `rule` is `None` where something essential was wrong.
pub(super) struct PurgePart {
    pub(super) rule: Option<PurgeRule>,
    pub(super) span: Range<usize>,
    pub(super) on: Option<Range<usize>>,
    /// Parallel to `rule.tags`.
    pub(super) tags: Vec<Range<usize>>,
    /// Parallel to `rule.paths`.
    pub(super) paths: Vec<Range<usize>>,
    pub(super) subject: Option<Range<usize>>,
    pub(super) soft: Option<Range<usize>>,
}

impl Builder<'_, '_> {
    pub(super) fn purges(&mut self, file: &File, routes: &[RoutePart]) -> Vec<PurgePart> {
        file.purge.iter().map(|entry| self.purge(entry, routes)).collect()
    }

    fn purge(&mut self, entry: &Spanned<Purge>, routes: &[RoutePart]) -> PurgePart {
        let typed = entry.get_ref();
        let path = self.document.path_of(&entry.span());
        let (_, host) = self.host(typed.host.as_ref());
        let matcher = self.purge_matcher(typed, &entry.span(), &path, host);
        let mut part = PurgePart {
            rule: None,
            span: entry.span(),
            on: typed.on.as_ref().map(Spanned::span),
            tags: Vec::new(),
            paths: Vec::new(),
            subject: typed.subject.as_ref().map(Spanned::span),
            soft: typed.soft.as_ref().map(Spanned::span),
        };
        let mut tags = Vec::new();
        for tag in typed.tags.iter().flatten() {
            if let Some(template) = self.tag(tag) {
                tags.push(template);
                part.tags.push(tag.span());
            }
        }
        let mut paths = Vec::new();
        for pattern in typed.paths.iter().flatten() {
            if let Some(compiled) = self.purge_path(pattern, matcher.as_ref()) {
                paths.push(compiled);
                part.paths.push(pattern.span());
            }
        }
        let names = typed.routes.iter().flatten();
        let names = names.filter_map(|name| self.purged_route(name, routes)).collect();
        let settle = self.duration(typed.settle.as_ref(), Duration::ZERO, Duration::ZERO..=secs(3600));
        self.purges_something(typed, &entry.span(), &path);
        let text = typed.on.as_ref().map_or("", |on| on.get_ref().as_str());
        part.rule = matcher.map(|matcher| PurgeRule {
            matcher,
            text: text.into(),
            tags,
            paths,
            routes: names,
            same_subject: typed.subject.is_some(),
            settle,
            soft: typed.soft.as_ref().is_some_and(|soft| *soft.get_ref()),
        });
        part
    }

    fn purge_matcher(
        &mut self,
        typed: &Purge,
        span: &Range<usize>,
        path: &str,
        host: Option<String>,
    ) -> Option<Matcher> {
        let Some(on) = &typed.on else {
            self.missing(path, Some(span), "on", ON_FORM);
            return None;
        };
        let text = on.get_ref().trim();
        if text.starts_with('/') {
            self.error(&on.span(), format!("`{text}` names no method, and a purge follows a mutation"))
                .allowed(ON_FORM)
                .help(format!("for example \"POST|PUT|PATCH|DELETE {text}\""));
            return None;
        }
        let matcher = self.matcher(Some(on), host, typed.when.as_ref())?;
        for method in &matcher.methods {
            let safe = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method);
            if safe || method.as_str() == "QUERY" {
                let at = self.document.sources.within(&on.span(), method.as_str());
                self.error(&at, format!("{method} is a safe method: it does not change anything"))
                    .allowed("methods that change something: POST, PUT, PATCH, DELETE and others of the API");
            }
        }
        Some(matcher)
    }

    fn purge_path(&mut self, typed: &Text, matcher: Option<&Matcher>) -> Option<PathPattern> {
        let text = typed.get_ref();
        for kind in ["query.", "header.", "claim.", "request", "response", "path."] {
            if let Some(at) = text.find(&format!("{{{kind}")) {
                let placeholder: String = text[at..].chars().take_while(|c| *c != '}').chain(['}']).collect();
                let at = self.document.sources.within(&typed.span(), &placeholder);
                let problem = self.error(&at, format!("`{placeholder}` cannot stand in a path"));
                problem.allowed("`{name}` from the rule's own `on`, `*` for one segment, `/**` at the end");
                if kind == "path." {
                    problem.help(format!("write `{}`", placeholder.replace("path.", "")));
                } else {
                    problem.help("purge by a tag that the routes carry instead");
                }
                return None;
            }
        }
        let pattern = match PathPattern::parse(text) {
            Ok(pattern) => pattern,
            Err(error) => {
                self.error(&typed.span(), error)
                    .allowed("\"/reports\", \"/reports/{id}\", \"/reports/**\", \"/users/*/orders\"");
                return None;
            }
        };
        let params: Vec<String> = pattern.params().map(str::to_owned).collect();
        for name in params {
            if let Some(matcher) = matcher
                && !captures(&matcher.path).any(|n| n == name)
            {
                let at = self.document.sources.within(&typed.span(), &format!("{{{name}}}"));
                let known: Vec<String> = captures(&matcher.path).map(|n| format!("{{{n}}}")).collect();
                self.error(&at, format!("`{{{name}}}` is not in `on = \"{}\"`", matcher.path.text)).allowed(
                    if known.is_empty() {
                        "`*` for any one segment; `on` captures nothing".to_owned()
                    } else {
                        known.join(", ")
                    },
                );
            }
        }
        Some(pattern)
    }

    fn purged_route(&mut self, name: &Text, routes: &[RoutePart]) -> Option<std::sync::Arc<str>> {
        let known = known_names(routes);
        if known.contains_key(name.get_ref().as_str()) {
            return Some(shared(name.get_ref()));
        }
        // A route whose name was wrong may be the one meant.
        if routes.iter().all(|r| r.name.is_some()) && !self.document.was_removed("route") {
            let names: Vec<&str> = known.keys().copied().collect();
            let near = nearest(name.get_ref(), names.iter().copied());
            let allowed = if names.is_empty() { "no route is defined".to_owned() } else { names.join(", ") };
            let problem =
                self.error(&name.span(), format!("no route is called `{}`", name.get_ref())).allowed(allowed);
            if let Some(near) = near {
                problem.help(format!("did you mean `{near}`?"));
            }
        }
        None
    }

    fn purges_something(&mut self, typed: &Purge, span: &Range<usize>, path: &str) {
        let nothing = |list: &Option<Vec<Text>>| list.as_ref().is_none_or(Vec::is_empty);
        if nothing(&typed.tags)
            && nothing(&typed.paths)
            && nothing(&typed.routes)
            && !self.document.was_damaged(path)
        {
            let at = typed.on.as_ref().map_or_else(|| span.clone(), Spanned::span);
            let problem = self.error(&at, "the rule purges nothing");
            problem.about(path).allowed("at least one of `tags`, `paths` and `routes`");
            if typed.subject.is_some() {
                problem.help("for all that this caller has: paths = [\"/**\"]");
            }
        }
    }
}

/// The names that a template captures.
pub(super) fn captures(template: &PathTemplate) -> impl Iterator<Item = &str> {
    template.segments.iter().filter_map(|segment| match segment {
        Segment::Param(name) => Some(&**name),
        _ => None,
    })
}
