//! The tags of an entry: what can purge it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use http::HeaderMap;

use super::expand::{Callers, expand};
use super::name::{absent_name, any_name, hex, narrowed_name, value_name};
use super::{Facts, HEADER_FAMILY, Tag, TagPlan, common, paths, response};
use crate::policy::route::Route;

/// An entry's families as they come together.
struct Draft<'a> {
    plan: &'a TagPlan,
    families: BTreeMap<String, Family>,
}

#[derive(Default)]
struct Family {
    /// Canonical names.
    names: BTreeSet<String>,
    /// A value was absent, or there were too many: only the wildcard is left.
    every: bool,
    narrowed: bool,
}

impl Family {
    /// How many tags it takes: its values or the wildcard, and `:?`; each once more where narrowed.
    fn cost(&self) -> usize {
        let names = if self.every { 1 } else { self.names.len() };
        (names + 1) * if self.narrowed { 2 } else { 1 }
    }
}

/// The digest of [`crate::policy::subject::Subject::anonymous`].
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Whose name it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Many entries have it.
    Common,
    /// Few do.
    Own,
}

impl TagPlan {
    /// The tags of an entry about to be stored: `*`, its route, path, ancestors, subject, template tags with
    /// family rules, header tags, and the narrowed composites the rules demand. `response_headers` are as received.
    /// Sorted, without repeats. Over `max_tags` the largest families fall to their wildcard, one after the other;
    /// what is left then is never cut.
    pub fn entry_tags(
        &self,
        secret: &[u8; 32],
        route: &Route,
        facts: &Facts<'_>,
        response_headers: &HeaderMap,
    ) -> Vec<Tag> {
        self.hashed(secret, route, facts, Some(response_headers))
    }

    /// The tags that are known before the response: a flight whose stamp these void is not worth joining.
    pub fn request_tags(&self, secret: &[u8; 32], route: &Route, facts: &Facts<'_>) -> Vec<Tag> {
        self.hashed(secret, route, facts, None)
    }

    fn hashed(
        &self,
        secret: &[u8; 32],
        route: &Route,
        facts: &Facts<'_>,
        response_headers: Option<&HeaderMap>,
    ) -> Vec<Tag> {
        // What an entry without tags of its route's takes.
        let slashes = facts.path.bytes().filter(|b| *b == b'/').count();
        let mut tags = Vec::with_capacity(5 + slashes);
        self.each_name(route, facts, response_headers, &mut |name, whose| {
            tags.push(match whose {
                Whose::Common => common::tag(secret, name),
                Whose::Own => Tag::of(secret, name),
            });
        });
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Canonical names; `None` for the response's fields = it is not there yet.
    #[cfg(test)]
    pub(super) fn entry_names(
        &self,
        route: &Route,
        facts: &Facts<'_>,
        response_headers: Option<&HeaderMap>,
    ) -> Vec<String> {
        let mut names = Vec::new();
        self.each_name(route, facts, response_headers, &mut |name, _| names.push(name.to_owned()));
        names
    }

    /// Tells each name to `tell`, all of them once.
    fn each_name(
        &self,
        route: &Route,
        facts: &Facts<'_>,
        response_headers: Option<&HeaderMap>,
        tell: &mut impl FnMut(&str, Whose),
    ) {
        let mut draft = Draft { plan: self, families: BTreeMap::new() };
        draft.add_globs(facts.path);
        draft.add_templates(route, facts, response_headers.is_some());
        if let Some(headers) = response_headers {
            draft.add_header_tags(headers);
        }
        let digest = match facts.subject {
            Some(subject) if subject.digest != [0; 32] => Cow::Owned(hex(&subject.digest)),
            _ => Cow::Borrowed(NOBODY),
        };
        draft.fit(self.max_tags, |count| self.each_fixed(route, facts.path, &digest, count));
        let mut tell = |name: &str, whose, narrowed| {
            if narrowed {
                tell(&narrowed_name(name, &digest), Whose::Own);
            }
            tell(name, whose);
        };
        self.each_fixed(route, facts.path, &digest, &mut tell);
        for (name, family) in draft.families {
            if family.every {
                tell(&absent_name(&name), Whose::Common, family.narrowed);
            } else {
                family.names.iter().for_each(|name| tell(name, Whose::Own, family.narrowed));
            }
            tell(&any_name(&name), Whose::Common, family.narrowed);
        }
    }

    /// Tells each name without a family, and whether some rule narrows it.
    fn each_fixed(&self, route: &Route, path: &str, subject: &str, tell: &mut dyn FnMut(&str, Whose, bool)) {
        let narrowed = &self.narrowed;
        let mut name = String::with_capacity(path.len().max(route.name.len()).max(subject.len()) + 8);
        let mut in_family = |family: &str, value: &str, whose, narrowed| {
            name.clear();
            name.push_str(family);
            name.push_str(value);
            tell(&name, whose, narrowed);
        };
        in_family("*", "", Whose::Common, false);
        in_family("route:", &route.name, Whose::Common, narrowed.routes);
        in_family("path:", path, Whose::Own, narrowed.paths);
        in_family("subject:", subject, Whose::Common, false);
        paths::each_prefix(path, |name, is_last| {
            tell(name, if is_last { Whose::Own } else { Whose::Common }, narrowed.paths);
        });
        let bare = || route.tags.iter().filter(|tag| tag.is_bare()).map(|tag| &*tag.family);
        for (n, family) in bare().enumerate() {
            if !bare().take(n).any(|before| before == family) {
                tell(family, Whose::Common, narrowed.families.contains(family));
            }
        }
    }
}

impl Draft<'_> {
    fn family(&mut self, name: &str) -> &mut Family {
        let narrowed = match name {
            paths::GLOB_FAMILY => self.plan.narrowed.paths,
            name => self.plan.narrowed.families.contains(name),
        };
        let family = self.families.entry(name.to_owned()).or_default();
        family.narrowed = narrowed;
        family
    }

    fn add_globs(&mut self, path: &str) {
        let plan = self.plan;
        for name in plan.globs.iter().filter_map(|glob| paths::glob_name_of_entry(glob, path)) {
            self.family(paths::GLOB_FAMILY).names.insert(name);
        }
    }

    fn add_templates(&mut self, route: &Route, facts: &Facts<'_>, has_response: bool) {
        let callers =
            Callers { subjects: facts.subject.map_or(&[][..], std::slice::from_ref), unknown: false };
        let limit = self.plan.max_tags.max(1);
        for template in route.tags.iter().filter(|template| !template.is_bare()) {
            let values = (has_response || !template.needs_response_body())
                .then(|| expand(template, facts, callers, limit));
            // The family is there from now on: with it comes `:?`, even while its values are not known.
            let family = self.family(&template.family);
            if let Some(values) = values {
                family.every |= !values.complete;
                family.names.extend(values.texts.iter().map(|text| value_name(&template.family, text)));
            }
        }
    }

    fn add_header_tags(&mut self, headers: &HeaderMap) {
        if headers.is_empty() {
            return;
        }
        let found = response::header_tags(headers);
        // No tags at all is no absence: the backend simply names none.
        if !found.tags.is_empty() || !found.complete {
            let family = self.family(HEADER_FAMILY);
            family.every |= !found.complete;
            family.names.extend(found.tags.iter().map(|tag| value_name(HEADER_FAMILY, tag)));
        }
    }

    /// Largest families first, until the rest fits. `each_fixed` tells what there is beside them.
    fn fit(&mut self, max_tags: usize, each_fixed: impl FnOnce(&mut dyn FnMut(&str, Whose, bool))) {
        if self.families.is_empty() {
            return;
        }
        let mut total = self.families.values().map(Family::cost).sum::<usize>();
        each_fixed(&mut |_, _, narrowed| total += if narrowed { 2 } else { 1 });
        while total > max_tags {
            let largest = self.families.values_mut().filter(|f| !f.every && f.names.len() > 1);
            let Some(largest) = largest.max_by_key(|f| f.cost()) else { return };
            total -= largest.cost();
            largest.every = true;
            total += largest.cost();
        }
    }
}
