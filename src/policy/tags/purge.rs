//! What a mutation, or an operator, purges: always a plain union of tags.

use std::collections::BTreeSet;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

use super::expand::{Callers, expand};
use super::name::{absent_name, any_name, decode_typed, hex, narrowed_name, value_name};
use super::paths::{below_names, path_names};
use super::template::{Part, RESERVED, Source, TagTemplate, check_family};
use super::{Facts, HEADER_FAMILY, PathPattern, PurgeRule, TagPlan, TagSet, response};
use crate::policy::path::{PathParams, readings};
use crate::policy::query;
use crate::policy::subject::{KeySets, Subject, caller};
use crate::semantics::timestamp::Timestamp;

/// Most values that one template adds to one purge; beyond it the purge is for the whole family.
const MAX_VALUES: usize = 1024;

impl TagPlan {
    /// The rules that match a mutation, each with what its template captured.
    ///
    /// A request is read as leniently as a backend might: encoded and repeated slashes, dot segments, `;` parameters,
    /// a trailing slash more or less, letters in another case, methods and URLs overridden by a field or `_method`.
    /// So a rule may come up more than once, with other captures. A backend that is stricter refuses such a mutation,
    /// and then nothing is purged. An override inside a form body goes unnoticed.
    pub fn matching(&self, parts: &Parts, host: &str) -> Vec<(&PurgeRule, PathParams)> {
        let (methods, paths) = (methods_of(parts), paths_of(parts.uri.path(), &parts.headers));
        let mut found = Vec::new();
        for rule in &self.rules {
            let matcher = &rule.matcher;
            if !methods.iter().any(|m| matcher.matches_method(m))
                || !matcher.matches_circumstances(parts, host)
            {
                continue;
            }
            let mut seen: Vec<PathParams> = Vec::new();
            for params in paths.iter().filter_map(|path| matcher.path.matches_in_any_case(path)) {
                if !seen.contains(&params) {
                    seen.push(params.clone());
                    found.push((rule, params));
                }
            }
        }
        found
    }

    /// Everything a mutation purges: its own URI (`path:`), same-origin `Location`/`Content-Location` and groups (from
    /// `response_headers`, RFC 9111 §4.4, RFC 9875 §3), and the union over `rules`. Unknown values widen to their family,
    /// groups too where there are no `response_headers` to name them; an unknown caller to every subject.
    #[allow(clippy::too_many_arguments)]
    pub fn mutation_tags(
        &self,
        secret: &[u8; 32],
        rules: &[(&PurgeRule, PathParams)],
        facts: &Facts<'_>,
        host: &str,
        response_headers: Option<&HeaderMap>,
        keys: &KeySets,
        now: Timestamp,
    ) -> TagSet {
        let own = paths_of(facts.path, facts.headers);
        let mut names: BTreeSet<String> = own.iter().map(|path| format!("path:{path}")).collect();
        let groups = match response_headers {
            Some(headers) => {
                for path in response::related_paths(headers, host, facts.path) {
                    names.extend(path_names(&path));
                }
                response::invalidated_groups(headers)
            }
            None => response::unknown_groups(),
        };
        names.extend(group_names(&groups));
        names.extend(self.names_of(secret, rules, facts, keys, now));
        TagSet::from_names(secret, names)
    }

    /// What `Cache-Group-Invalidation` alone purges (RFC 9875 §3): all that a refusal can, whose own word it is. `None` =
    /// there is no such field.
    pub fn group_tags(&self, secret: &[u8; 32], response_headers: &HeaderMap) -> Option<TagSet> {
        let names = group_names(&response::invalidated_groups(response_headers));
        (!names.is_empty()).then(|| TagSet::from_names(secret, names))
    }

    /// What `rules` alone purge.
    pub fn rule_tags(
        &self,
        secret: &[u8; 32],
        rules: &[(&PurgeRule, PathParams)],
        facts: &Facts<'_>,
        keys: &KeySets,
        now: Timestamp,
    ) -> TagSet {
        TagSet::from_names(secret, self.names_of(secret, rules, facts, keys, now))
    }

    fn names_of(
        &self,
        secret: &[u8; 32],
        rules: &[(&PurgeRule, PathParams)],
        facts: &Facts<'_>,
        keys: &KeySets,
        now: Timestamp,
    ) -> BTreeSet<String> {
        let (subjects, unknown) = if rules.iter().any(|(rule, _)| rule.needs_caller()) {
            self.callers(secret, facts, keys, now)
        } else {
            (Vec::new(), true)
        };
        let callers = Callers { subjects: &subjects, unknown };
        rules
            .iter()
            .flat_map(|(rule, params)| rule.purge_names(&Facts { params, ..*facts }, callers))
            .collect()
    }

    /// Everybody the caller may be, under each way in which some route tells its callers apart, and whether that is
    /// all. Shared answers hold the caller's data too, so nobody in particular is always among them.
    fn callers(
        &self,
        secret: &[u8; 32],
        facts: &Facts<'_>,
        keys: &KeySets,
        now: Timestamp,
    ) -> (Vec<Subject>, bool) {
        let mut subjects = vec![Subject::anonymous()];
        let mut unknown = false;
        for spec in &self.subject_specs {
            match caller(spec, facts.headers, keys, secret, now) {
                Some(subject) if subjects.contains(&subject) => {}
                Some(subject) => subjects.push(subject),
                None => unknown = true,
            }
        }
        (subjects, unknown)
    }
}

/// A purge of groups; of all of them where some are not known.
fn group_names(groups: &response::Found) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if !groups.tags.is_empty() || !groups.complete {
        names.insert(absent_name(HEADER_FAMILY));
        names.extend(groups.tags.iter().map(|group| value_name(HEADER_FAMILY, group)));
    }
    if !groups.complete {
        names.insert(any_name(HEADER_FAMILY));
    }
    names
}

/// The method, and those that fields or the query put in its place for some backends.
fn methods_of(parts: &Parts) -> Vec<Method> {
    let fields = ["x-http-method-override", "x-http-method", "x-method-override"];
    let in_fields = lines_of(&parts.headers, &fields).map(|line| line.as_bytes().to_vec());
    let in_query =
        query::values(parts.uri.query().unwrap_or_default(), "_method").into_iter().map(String::into_bytes);
    let overriding = in_fields
        .chain(in_query)
        .filter_map(|name| Method::from_bytes(name.trim_ascii().to_ascii_uppercase().as_slice()).ok());
    std::iter::once(parts.method.clone()).chain(overriding).collect()
}

/// All readings of the path, and of those that fields put in its place for some backends.
fn paths_of(path: &str, headers: &HeaderMap) -> Vec<String> {
    let mut paths = readings(path);
    for line in lines_of(headers, &["x-original-url", "x-rewrite-url"]) {
        let text = String::from_utf8_lossy(line.as_bytes());
        paths.extend(readings(text.split(['?', '#']).next().unwrap_or_default().trim()));
    }
    paths
}

/// All lines of these fields, also in the spelling with underscores, which CGI and WSGI cannot tell apart.
fn lines_of<'a>(headers: &'a HeaderMap, names: &[&str]) -> impl Iterator<Item = &'a HeaderValue> {
    headers
        .iter()
        .filter(|(name, _)| {
            let name = name.as_str();
            names.contains(&name) || name.contains('_') && names.contains(&&*name.replace('_', "-"))
        })
        .map(|(_, line)| line)
}

impl PurgeRule {
    fn needs_caller(&self) -> bool {
        let personal = |part: &Part| matches!(part, Part::Value(Source::Subject | Source::Claim(_)));
        self.same_subject || self.tags.iter().flat_map(|t| &t.parts).any(personal)
    }

    /// What this rule names; `facts.params` are its own captures.
    fn purge_names(&self, facts: &Facts<'_>, callers: Callers<'_>) -> Vec<String> {
        let mut names = Vec::new();
        for template in &self.tags {
            names.extend(template_purge_names(template, facts, callers));
        }
        for pattern in &self.paths {
            names.extend(pattern.purge_names(facts.params));
        }
        names.extend(self.routes.iter().map(|route| format!("route:{route}")));
        if self.same_subject { narrow(names, callers) } else { names }
    }
}

/// "Only the caller's entries". Without a target that is everything of the caller's.
fn narrow(names: Vec<String>, callers: Callers<'_>) -> Vec<String> {
    let personal = || callers.subjects.iter().filter(|subject| !subject.anonymous);
    match (names.is_empty(), callers.unknown) {
        (true, true) => vec!["*".to_owned()],
        (true, false) => personal().map(|subject| format!("subject:{}", hex(&subject.digest))).collect(),
        (false, true) => names,
        (false, false) => {
            let digests: Vec<String> = callers.subjects.iter().map(|subject| hex(&subject.digest)).collect();
            names
                .iter()
                .flat_map(|name| digests.iter().map(move |digest| narrowed_name(name, digest)))
                .collect()
        }
    }
}

/// A purge of `x:abc` also names `x:*`; one whose value is unknown or absent names `x:?` and `x:*`.
fn template_purge_names(template: &TagTemplate, facts: &Facts<'_>, callers: Callers<'_>) -> Vec<String> {
    if template.is_bare() {
        return vec![template.family.to_string()];
    }
    let values = expand(template, facts, callers, MAX_VALUES);
    let mut names = vec![absent_name(&template.family)];
    if !values.complete {
        names.push(any_name(&template.family));
    }
    names.extend(values.texts.iter().map(|text| value_name(&template.family, text)));
    names
}

impl TagPlan {
    /// A purge from the admin API: `tags` as an operator writes them (`session:abc`, `dashboard:*`), `paths`
    /// (`/x`, `/x/**`, or a glob that some rule declares), `routes`. The error names what is allowed.
    ///
    /// A tag may be `*` (everything), a bare word, `family:value` (a literal `*` in a value is `%2A`), `family:*` (the
    /// whole family), or `subject:` with 64 hex digits. It also reaches entries whose backend gave that tag in
    /// `Surrogate-Key` and its kin, whether written `users` or `header:users`.
    pub fn named(
        &self,
        secret: &[u8; 32],
        tags: &[String],
        paths: &[String],
        routes: &[String],
        known_routes: &[&str],
    ) -> Result<TagSet, String> {
        let mut names = BTreeSet::new();
        for tag in tags {
            names.extend(self.named_tag(tag, known_routes)?);
        }
        for path in paths {
            names.extend(self.named_path(path)?);
        }
        for route in routes {
            names.insert(named_route(route, known_routes)?);
        }
        Ok(TagSet::from_names(secret, names))
    }

    fn named_tag(&self, tag: &str, known_routes: &[&str]) -> Result<Vec<String>, String> {
        if tag == "*" {
            return Ok(vec![tag.to_owned()]);
        }
        let Some((family, value)) = tag.split_once(':') else {
            check_family(tag).map_err(|_| bad_tag(tag))?;
            return Ok(vec![tag.to_owned(), value_name(HEADER_FAMILY, tag), absent_name(HEADER_FAMILY)]);
        };
        match family {
            "route" => return named_route(value, known_routes).map(|name| vec![name]),
            "path" | "glob" => return self.named_path(value),
            "prefix" => return self.named_path(&format!("{}/**", value.trim_end_matches('/'))),
            "subject" => {
                let digest = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
                let name = || vec![format!("subject:{}", value.to_ascii_lowercase())];
                return digest.then(name).ok_or_else(|| {
                    format!("tag `{tag}`: a subject is named by the 64 hex digits of its digest")
                });
            }
            _ => check_family(family).map_err(|_| bad_tag(tag))?,
        }
        debug_assert!(!RESERVED.iter().any(|(reserved, _)| *reserved == family));
        if matches!(value, "*" | "?") {
            return Ok(vec![absent_name(family), any_name(family)]);
        }
        if value.is_empty() || value.contains(['*', '?']) {
            return Err(format!(
                "tag `{tag}`: `*` stands for the whole family only as the whole value (`{family}:*`); write a literal `*` as `%2A` and a `?` as `%3F`"
            ));
        }
        let value = decode_typed(value);
        let mut names = vec![value_name(family, &value), absent_name(family)];
        if family != HEADER_FAMILY {
            names.push(value_name(HEADER_FAMILY, &format!("{family}:{value}")));
            names.push(absent_name(HEADER_FAMILY));
        }
        Ok(names)
    }

    fn named_path(&self, path: &str) -> Result<Vec<String>, String> {
        if let Some(glob) = self.globs.iter().find(|glob| *glob.text == *path) {
            return Ok(PathPattern::Glob(glob.clone()).purge_names(&PathParams::default()));
        }
        if !path.starts_with('/') {
            return Err(format!("path `{path}` must begin with `/`"));
        }
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if let Some(base) = path.strip_suffix("/**").filter(|base| !base.contains('*')) {
            return Ok(below_names(base));
        }
        if path.contains('*') {
            let declared: Vec<&str> = self.globs.iter().map(|glob| &*glob.text).collect();
            let declared = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
            return Err(format!(
                "path `{path}`: allowed are exact paths, `/x/**`, and patterns that a purge rule declares ({declared}); write a literal `*` as `%2A`"
            ));
        }
        Ok(path_names(path))
    }
}

fn bad_tag(tag: &str) -> String {
    format!(
        "tag `{tag}`: allowed are `*`, a bare word, `family:value` and `family:*`; family names have letters, digits, `_`, `-` and `.`"
    )
}

fn named_route(route: &str, known: &[&str]) -> Result<String, String> {
    if known.contains(&route) {
        Ok(format!("route:{route}"))
    } else {
        Err(format!("route `{route}` does not exist; known routes: {}", known.join(", ")))
    }
}
