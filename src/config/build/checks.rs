//! What is wrong or doubtful between routes, tags and rules, each sound by itself.

use std::collections::BTreeSet;
use std::ops::Range;

use http::Method;

use super::super::file::File;
use super::Builder;
use super::purges::{PurgePart, captures};
use super::routes::RoutePart;
use crate::policy::Unlisted;
use crate::policy::path::{PathTemplate, Segment};
use crate::policy::route::{Condition, IgnoredCredential, Matcher, Route};
use crate::policy::subject::SubjectSpec;
use crate::policy::tags::{JsonStep, Part, PurgeRule, Source, TagTemplate};
use crate::semantics::storing::OriginMode;

/// The family of tags that the backend's own fields give (`Surrogate-Key` and its like).
pub(super) const HEADER_FAMILY: &str = "header";

impl Builder<'_, '_> {
    pub(super) fn cross_checks(
        &mut self,
        file: &File,
        routes: &[RoutePart],
        rules: &[PurgePart],
        unlisted: Unlisted,
    ) {
        for part in routes {
            if let Some(route) = &part.route {
                self.check_route_tags(part, route);
                self.check_sharing(part, route, file);
            }
        }
        for part in rules {
            if let Some(rule) = &part.rule {
                self.check_rule_tags(part, rule, routes);
            }
        }
        // The rest compares things; where one is missing, every finding about the others may be wrong.
        if self.document.was_damaged("route") || routes.iter().any(|r| r.route.is_none()) {
            return;
        }
        self.check_anonymous(routes);
        self.check_overlaps(routes);
        self.check_families(routes, rules);
        self.check_purged_paths(routes, rules, unlisted);
        self.check_soft_rules(routes, rules);
        if !self.document.was_damaged("purge") && rules.iter().all(|r| r.rule.is_some()) {
            self.check_row_tags(routes, rules);
            self.check_idle_rules(rules);
            self.check_unpurged(routes, rules);
        }
    }

    /// Where a route's tags take their values from.
    fn check_route_tags(&mut self, part: &RoutePart, route: &Route) {
        for (tag, span) in route.tags.iter().zip(&part.tags) {
            for source in sources(tag) {
                match source {
                    Source::Path(name) => self.check_capture(span, name, &route.matcher.path, "match"),
                    Source::Request(_) if route.body_key.is_none() => {
                        self.warn(span, "a GET has no request body: this tag never has a value of its own")
                            .help("take the value from {path…}, {query…}, {header…} or {response…}");
                    }
                    Source::Subject if is_shared(route) && !part.damaged_subject(self) => {
                        self.warn(span, "`{subject}` on a route without a subject is the same for everybody")
                            .help("give the route a `subject`, or drop the tag");
                    }
                    Source::Claim(claim) => self.check_claim(span, claim, route, part),
                    _ => {}
                }
            }
        }
    }

    fn check_capture(&mut self, span: &Range<usize>, name: &str, template: &PathTemplate, key: &str) {
        if captures(template).any(|n| n == name) {
            return;
        }
        let placeholder = format!("{{path.{name}}}");
        let at = self.document.sources.within(span, &placeholder);
        let known: Vec<String> = captures(template).map(|n| format!("{{path.{n}}}")).collect();
        let problem = self.error(&at, format!("`{placeholder}` is not in `{key} = \"{}\"`", template.text));
        if known.is_empty() {
            problem.help(format!("write `{{{name}}}` into the path of `{key}` to capture it"));
        } else {
            problem.allowed(known.join(", "));
        }
    }

    fn check_claim(&mut self, span: &Range<usize>, claim: &str, route: &Route, part: &RoutePart) {
        let at = self.document.sources.within(span, &format!("{{claim.{claim}}}"));
        match &route.subject {
            SubjectSpec::Jwt(spec) if spec.claims.iter().any(|c| c == claim) => {}
            SubjectSpec::Jwt(spec) => {
                let known: Vec<String> = spec.claims.iter().map(|c| format!("{{claim.{c}}}")).collect();
                self.error(&at, format!("the claim `{claim}` is not part of the route's subject"))
                    .allowed(known.join(", "))
                    .help("only claims that make the subject have values: add it to `claims`");
            }
            _ if part.damaged_subject(self) => {}
            _ => {
                self.error(&at, format!("`{{claim.{claim}}}` needs a subject made of a token's claims"))
                    .help("subject = { jwt = { keys = \"…\" } }");
            }
        }
    }

    /// `public`, `origin = "ignore"` and a subject, where they work against each other.
    fn check_sharing(&mut self, part: &RoutePart, route: &Route, file: &File) {
        let Some(public) = part.public.as_ref().filter(|_| route.public && route.cache) else { return };
        if !is_shared(route) {
            let message = if part.own_subject {
                "`public` together with a `subject`: the subject does not count, one answer is shared among all"
            } else {
                "`public` on a route with the default subject: the subject does not count, one answer is shared among all"
            };
            self.warn(public, message).help(
                "drop `public` to keep answers per caller (credentials of no influence belong into `ignore`), or say \
                 `subject = \"none\"` if sharing is meant",
            );
        }
        if route.terms.origin == OriginMode::Ignore {
            let place = part.origin.clone().filter(|_| file.defaults.origin.is_none());
            let own = place.unwrap_or_else(|| public.clone());
            self.warn(&own, "`origin = \"ignore\"` with `public = true`: answers that the backend calls private are shared")
                .help("leave `origin` at \"stricter\" so that the backend's `private` and `no-store` count");
        }
    }

    /// Said once for all routes: it is a way to work, but a surprise to some.
    fn check_anonymous(&mut self, routes: &[RoutePart]) {
        let silent = |p: &&RoutePart| {
            p.subject.is_none() && p.route.as_ref().is_some_and(|r| r.cache && is_shared(r) && !r.public)
        };
        let named: Vec<&RoutePart> = routes.iter().filter(silent).collect();
        let Some(first) = named.first() else { return };
        if first.damaged_subject(self) {
            return;
        }
        let names: Vec<&str> = named.iter().filter_map(|p| p.name.as_deref()).collect();
        let span = first.pattern.clone().unwrap_or_else(|| first.span.clone());
        let list = names.join(", ");
        let message =
            format!("no subject and not public: requests with credentials pass through uncached ({list})");
        self.note(&span, message).help(
            "say whose answers these are with `subject`, `public = true` if everybody gets the same, or \
             `subject = \"none\"` if that is how it should be",
        );
    }

    fn check_rule_tags(&mut self, part: &PurgePart, rule: &PurgeRule, routes: &[RoutePart]) {
        for (tag, span) in rule.tags.iter().zip(&part.tags) {
            for source in sources(tag) {
                match source {
                    Source::Path(name) => self.check_capture(span, name, &rule.matcher.path, "on"),
                    Source::Claim(claim) if routes.iter().all(|r| r.route.is_some()) => {
                        let known =
                            routes.iter().filter_map(|r| r.route.as_ref()).any(|r| match &r.subject {
                                SubjectSpec::Jwt(spec) => spec.claims.iter().any(|c| c == claim),
                                _ => false,
                            });
                        if !known {
                            let at = self.document.sources.within(span, &format!("{{claim.{claim}}}"));
                            self.warn(&at, format!("no route's subject holds the claim `{claim}`: the tag's whole family is purged"));
                        }
                    }
                    _ => {}
                }
            }
        }
        let Some(span) = part.subject.as_ref().filter(|_| rule.same_subject) else { return };
        let named = || {
            routes.iter().filter(|r| r.name.as_deref().is_some_and(|n| rule.routes.iter().any(|x| **x == *n)))
        };
        let only_routes = rule.tags.is_empty() && rule.paths.is_empty() && !rule.routes.is_empty();
        if only_routes && named().all(|r| r.route.as_ref().is_some_and(is_shared)) {
            self.warn(
                span,
                "none of these routes has a subject: their answers belong to nobody in particular",
            )
            .help("drop `subject`, or give the routes one");
        }
    }

    /// Routes that no request reaches, or only in part.
    fn check_overlaps(&mut self, parts: &[RoutePart]) {
        for (at, later) in parts.iter().enumerate() {
            let (Some(route), Some(span)) = (&later.route, &later.pattern) else { continue };
            for earlier in parts[..at].iter().filter_map(|p| p.route.as_ref()) {
                if covers(&earlier.matcher, &route.matcher) {
                    self.warn(
                        span,
                        format!(
                            "route `{}` is never reached: `{}` before it matches everything it does",
                            route.name, earlier.name
                        ),
                    )
                    .help(format!("the first match wins: put `{}` before `{}`", route.name, earlier.name));
                    break;
                }
                if collides(&earlier.matcher, &route.matcher) {
                    self.warn(
                        span,
                        format!(
                            "routes `{}` and `{}` both match some requests, which the first of them gets",
                            earlier.name, route.name
                        ),
                    )
                    .help(
                        "make one of the two narrower, or leave the order as it is if that is what you want",
                    );
                }
            }
        }
    }

    /// A purge of something that nothing carries.
    fn check_families(&mut self, routes: &[RoutePart], rules: &[PurgePart]) {
        let carried: BTreeSet<&str> = routes
            .iter()
            .filter_map(|r| r.route.as_ref())
            .filter(|r| r.cache)
            .flat_map(|r| r.tags.iter().map(|t| &*t.family))
            .collect();
        for part in rules {
            let Some(rule) = &part.rule else { continue };
            for (tag, span) in rule.tags.iter().zip(&part.tags) {
                let family = &*tag.family;
                if family == HEADER_FAMILY || carried.contains(family) {
                    continue;
                }
                let message = format!("no route carries a tag of the family `{family}`: this purges nothing");
                let near = super::super::problem::nearest(family, carried.iter().copied());
                let allowed: Vec<&str> = carried.iter().copied().chain([HEADER_FAMILY]).collect();
                let problem = self.warn(span, message).allowed(allowed.join(", "));
                match near {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help("add the tag to the routes whose answers the mutation changes"),
                };
            }
        }
    }

    fn check_purged_paths(&mut self, routes: &[RoutePart], rules: &[PurgePart], unlisted: Unlisted) {
        if unlisted == Unlisted::Rfc {
            return;
        }
        for part in rules {
            let Some(rule) = &part.rule else { continue };
            for (pattern, span) in rule.paths.iter().zip(&part.paths) {
                let mut cached = routes.iter().filter_map(|r| r.route.as_ref()).filter(|r| r.cache);
                if !cached.any(|r| paths_meet(&pattern.template().segments, &r.matcher.path.segments)) {
                    self.warn(span, "no cached route has such a path: this purges nothing");
                }
            }
        }
    }

    /// DESIGN §4.2: a tag taken from a list's rows cannot cover a row that newly enters the list.
    fn check_row_tags(&mut self, routes: &[RoutePart], rules: &[PurgePart]) {
        for part in routes {
            let Some(route) = &part.route else { continue };
            let Some((_, span)) = route.tags.iter().zip(&part.tags).find(|(t, _)| is_from_rows(t)) else {
                continue;
            };
            let by_collection = route.tags.iter().any(|t| !is_from_rows(t));
            let otherwise = rules.iter().filter_map(|p| p.rule.as_ref()).any(|rule| {
                rule.routes.iter().any(|n| **n == *route.name)
                    || rule
                        .paths
                        .iter()
                        .any(|p| paths_meet(&p.template().segments, &route.matcher.path.segments))
            });
            if !by_collection && !otherwise {
                self.warn(span, "a tag taken from a list's rows cannot cover a row that newly enters the list").help(
                    format!(
                        "add a tag of the collection as well, such as \"{}\", and purge it where rows are created",
                        route.name
                    ),
                );
            }
        }
    }

    /// Tags that no mutation purges; said once for all, as a change from outside may still be announced.
    fn check_unpurged(&mut self, routes: &[RoutePart], rules: &[PurgePart]) {
        let rules = rules.iter().filter_map(|part| part.rule.as_ref());
        let purged: BTreeSet<&str> =
            rules.flat_map(|rule| rule.tags.iter().map(|tag| &*tag.family)).collect();
        let cached =
            routes.iter().filter_map(|part| Some((part.route.as_ref().filter(|r| r.cache)?, &part.tags)));
        let tags = cached.flat_map(|(route, spans)| route.tags.iter().zip(spans));
        let mut idle: Vec<(&str, &Range<usize>)> = Vec::new();
        for (tag, span) in tags {
            if !purged.contains(&*tag.family) && idle.iter().all(|(known, _)| *known != &*tag.family) {
                idle.push((&tag.family, span));
            }
        }
        let Some((_, first)) = idle.first() else { return };
        let names: Vec<String> = idle.iter().map(|(family, _)| format!("`{family}`")).collect();
        let what = if let [one] = names.as_slice() {
            format!("the tag family {one}")
        } else {
            format!("the tag families {}", names.join(", "))
        };
        self.note(first, format!("no purge rule names {what}: only a purge from outside does")).help(
            "name it in the `tags` of the [[purge]] whose mutation changes these answers, or drop the tag",
        );
    }

    /// A rule that says nothing which an earlier one has not said.
    fn check_idle_rules(&mut self, parts: &[PurgePart]) {
        for (at, later) in parts.iter().enumerate() {
            let Some(rule) = &later.rule else { continue };
            let said = |earlier: &&PurgeRule| {
                covers(&earlier.matcher, &rule.matcher)
                    && (!earlier.same_subject || rule.same_subject)
                    && (!earlier.soft || rule.soft)
                    && earlier.settle >= rule.settle
                    && rule.tags.iter().all(|t| earlier.tags.contains(t))
                    && rule.paths.iter().all(|p| earlier.paths.contains(p))
                    && rule.routes.iter().all(|r| earlier.routes.contains(r))
            };
            if let Some(earlier) = parts[..at].iter().filter_map(|p| p.rule.as_ref()).find(said) {
                let span = later.on.clone().unwrap_or_else(|| later.span.clone());
                self.warn(&span, format!("the rule adds nothing to the earlier `on = \"{}\"`", earlier.text))
                    .help("all rules that match a mutation apply");
            }
        }
    }
}

impl RoutePart {
    /// Whether this route's subject (or the default one) was taken out for an error of its own.
    fn damaged_subject(&self, b: &Builder<'_, '_>) -> bool {
        let path = b.document.path_of(&self.span);
        b.document.was_damaged(&format!("{path}.subject")) || b.document.was_damaged("defaults.subject")
    }
}

fn is_shared(route: &Route) -> bool {
    matches!(route.subject, SubjectSpec::None)
}

fn sources(tag: &TagTemplate) -> impl Iterator<Item = &Source> {
    tag.parts.iter().filter_map(|part| match part {
        Part::Value(source) => Some(source),
        _ => None,
    })
}

fn is_from_rows(tag: &TagTemplate) -> bool {
    sources(tag).any(|s| matches!(s, Source::Response(path) if path.0.contains(&JsonStep::Each)))
}

/// Whether the first matches whatever the second does.
fn covers(a: &Matcher, b: &Matcher) -> bool {
    b.methods.iter().all(|m| has_method(a, m))
        && path_covers(&a.path.segments, &b.path.segments)
        && host_covers(a.host.as_deref(), b.host.as_deref())
        && a.conditions.iter().all(|wanted| b.conditions.iter().any(|given| implies(given, wanted)))
}

/// RFC 9110 §9.3.2: a GET route answers HEAD, too.
fn has_method(matcher: &Matcher, method: &Method) -> bool {
    matcher.methods.contains(method) || (*method == Method::HEAD && matcher.methods.contains(&Method::GET))
}

/// Some requests are for both, and it is not simply an exception written before its rule.
fn collides(a: &Matcher, b: &Matcher) -> bool {
    let (one, other) = (&a.path.segments, &b.path.segments);
    let nested = path_covers(other, one) && a.methods.iter().all(|m| has_method(b, m));
    a.methods.iter().any(|m| has_method(b, m))
        && paths_meet(one, other)
        && !nested
        && (host_covers(a.host.as_deref(), b.host.as_deref()) || host_covers(b.host.as_deref(), a.host.as_deref()))
        // Conditions are there to tell requests apart; whether they do is the operator's to know.
        && a.conditions.is_empty()
        && b.conditions.is_empty()
}

/// Whether a request for which `given` holds is one for which `wanted` holds.
fn implies(given: &Condition, wanted: &Condition) -> bool {
    match (given, wanted) {
        (Condition::Header(a, _), Condition::Header(b, None)) => a == b,
        (Condition::Query(a, _), Condition::Query(b, None)) => a == b,
        _ => given == wanted,
    }
}

fn host_covers(a: Option<&str>, b: Option<&str>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) if a == b => true,
        (Some(a), Some(b)) => {
            let bare = |h: &str| h.strip_prefix("*.").unwrap_or(h).to_owned();
            a.strip_prefix("*.").is_some_and(|suffix| bare(b).ends_with(&format!(".{suffix}")))
        }
    }
}

/// Whether template `a` matches every path that `b` does.
fn path_covers(a: &[Segment], b: &[Segment]) -> bool {
    match (a.split_first(), b.split_first()) {
        (Some((Segment::Rest, _)), _) => true,
        (None, None) => true,
        (None, _) | (_, None) => false,
        (Some(_), Some((Segment::Rest, _))) => false,
        (Some((x, a)), Some((y, b))) => segment_covers(x, y) && path_covers(a, b),
    }
}

fn segment_covers(a: &Segment, b: &Segment) -> bool {
    match (a, b) {
        (Segment::Literal(x), Segment::Literal(y)) => x == y,
        // Parameters match no empty segment: a trailing slash is not theirs.
        (_, Segment::Literal(y)) => !y.is_empty(),
        (Segment::Literal(_), _) => false,
        _ => true,
    }
}

/// Whether some path is matched by both templates.
pub(super) fn paths_meet(a: &[Segment], b: &[Segment]) -> bool {
    match (a.split_first(), b.split_first()) {
        (Some((Segment::Rest, _)), _) | (_, Some((Segment::Rest, _))) | (None, None) => true,
        (None, _) | (_, None) => false,
        (Some((x, a)), Some((y, b))) => (segment_covers(x, y) || segment_covers(y, x)) && paths_meet(a, b),
    }
}

/// What a route ignores, for the summary.
pub(in crate::config) fn show_ignored(ignored: &IgnoredCredential) -> String {
    match ignored {
        IgnoredCredential::Cookie(name) => format!("cookie:{name}"),
        IgnoredCredential::Header(name) => format!("header:{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(text: &str) -> Vec<Segment> {
        PathTemplate::parse(text).unwrap().segments
    }

    #[test]
    fn a_template_covers_another() {
        for (a, b, covers, meets) in [
            ("/x/{id}", "/x/latest", true, true),
            ("/x/latest", "/x/{id}", false, true),
            ("/x/{id}", "/x/*", true, true),
            ("/x/**", "/x", true, true),
            ("/x/**", "/x/{a}/{b}", true, true),
            ("/x/{a}", "/x/**", false, true),
            ("/a/{x}/c", "/a/b/{y}", false, true),
            ("/a", "/b", false, false),
            ("/a/{x}", "/a/", false, false),
            ("/a", "/a/b", false, false),
        ] {
            assert_eq!(path_covers(&segments(a), &segments(b)), covers, "{a} covers {b}");
            assert_eq!(paths_meet(&segments(a), &segments(b)), meets, "{a} meets {b}");
        }
    }

    #[test]
    fn hosts_cover() {
        assert!(host_covers(None, Some("a")));
        assert!(host_covers(Some("*.example.com"), Some("api.example.com")));
        assert!(host_covers(Some("*.example.com"), Some("*.eu.example.com")));
        assert!(!host_covers(Some("*.example.com"), Some("example.com")));
        assert!(!host_covers(Some("a"), None));
    }
}
