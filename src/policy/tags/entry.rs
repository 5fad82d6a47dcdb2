//! The tags of an entry: what can purge it.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderMap;

use super::expand::{Callers, expand};
use super::name::{absent_name, any_name, hex, narrowed_name, value_name};
use super::paths::{self, prefix_names};
use super::{Facts, HEADER_FAMILY, Tag, TagPlan, response};
use crate::policy::route::Route;
use crate::policy::subject::Subject;

/// An entry's names as they come together.
struct Draft<'a> {
    plan: &'a TagPlan,
    /// Tags without a family, and whether some rule narrows them.
    fixed: BTreeMap<String, bool>,
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
        hashed(secret, self.entry_names(route, facts, Some(response_headers)))
    }

    /// The tags that are known before the response: a flight whose stamp these void is not worth joining.
    pub fn request_tags(&self, secret: &[u8; 32], route: &Route, facts: &Facts<'_>) -> Vec<Tag> {
        hashed(secret, self.entry_names(route, facts, None))
    }

    /// Canonical names; `None` for the response's fields = it is not there yet.
    pub(super) fn entry_names(
        &self,
        route: &Route,
        facts: &Facts<'_>,
        response_headers: Option<&HeaderMap>,
    ) -> Vec<String> {
        let anonymous = Subject::anonymous();
        let subject = facts.subject.unwrap_or(&anonymous);
        let digest = hex(&subject.digest);
        let mut draft = Draft { plan: self, fixed: BTreeMap::new(), families: BTreeMap::new() };
        draft.fixed.insert("*".to_owned(), false);
        draft.fixed.insert(format!("route:{}", route.name), self.narrowed.routes);
        draft.fixed.insert(format!("path:{}", facts.path), self.narrowed.paths);
        draft.fixed.insert(format!("subject:{digest}"), false);
        for name in prefix_names(facts.path) {
            draft.fixed.insert(name, self.narrowed.paths);
        }
        draft.add_globs(facts.path);
        draft.add_templates(route, facts, response_headers.is_some());
        if let Some(headers) = response_headers {
            draft.add_header_tags(headers);
        }
        draft.fit(self.max_tags);
        draft.names(&digest)
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
        for template in &route.tags {
            if template.is_bare() {
                let narrowed = self.plan.narrowed.families.contains(&*template.family);
                self.fixed.insert(template.family.to_string(), narrowed);
                continue;
            }
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
        let found = response::header_tags(headers);
        // No tags at all is no absence: the backend simply names none.
        if !found.tags.is_empty() || !found.complete {
            let family = self.family(HEADER_FAMILY);
            family.every |= !found.complete;
            family.names.extend(found.tags.iter().map(|tag| value_name(HEADER_FAMILY, tag)));
        }
    }

    /// Largest families first, until the rest fits.
    fn fit(&mut self, max_tags: usize) {
        let fixed: usize = self.fixed.values().map(|narrowed| if *narrowed { 2 } else { 1 }).sum();
        let mut total = fixed + self.families.values().map(Family::cost).sum::<usize>();
        while total > max_tags {
            let largest = self.families.values_mut().filter(|f| !f.every && f.names.len() > 1);
            let Some(largest) = largest.max_by_key(|f| f.cost()) else { return };
            total -= largest.cost();
            largest.every = true;
            total += largest.cost();
        }
    }

    fn names(self, digest: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut add = |name: String, narrowed: bool| {
            if narrowed {
                names.push(narrowed_name(&name, digest));
            }
            names.push(name);
        };
        for (name, narrowed) in self.fixed {
            add(name, narrowed);
        }
        for (name, family) in self.families {
            if family.every {
                add(absent_name(&name), family.narrowed);
            } else {
                family.names.into_iter().for_each(|name| add(name, family.narrowed));
            }
            add(any_name(&name), family.narrowed);
        }
        names
    }
}

fn hashed(secret: &[u8; 32], names: Vec<String>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = names.iter().map(|name| Tag::of(secret, name)).collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}
