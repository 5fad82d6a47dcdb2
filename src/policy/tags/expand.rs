//! Templates to values. Whatever is absent, unclear or too much makes the result incomplete; what that means (a
//! wildcard on a read, the whole family on a purge) is decided by the callers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::name::hex;
use super::template::{JsonPath, JsonStep, Part, Source, TagTemplate};
use super::{Facts, Json};
use crate::policy::query;
use crate::policy::subject::Subject;

/// Most combinations of several placeholders in one template.
const MAX_PRODUCT: usize = 64;

/// Whose request it is: the caller of a read, or everybody a mutation's caller may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Callers<'a> {
    pub(super) subjects: &'a [Subject],
    /// There may be others.
    pub(super) unknown: bool,
}

/// The values of one template.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// Not yet encoded; without repeats.
    pub(super) texts: BTreeSet<String>,
    /// False: a value was absent or unknown, or there were more than the limit.
    pub(super) complete: bool,
}

impl Values {
    fn none() -> Values {
        Values::default()
    }

    fn push(&mut self, text: String, limit: usize) {
        // An empty value selects nothing in most APIs (`?session_id=`): as good as absent.
        if text.is_empty() || self.texts.len() >= limit && !self.texts.contains(&text) {
            self.complete = false;
        } else {
            self.texts.insert(text);
        }
    }

    fn full(&self, limit: usize) -> bool {
        !self.complete && self.texts.len() >= limit
    }
}

/// The values of a template; at most `limit`.
pub(super) fn expand(
    template: &TagTemplate,
    facts: &Facts<'_>,
    callers: Callers<'_>,
    limit: usize,
) -> Values {
    let mut result = Values { texts: BTreeSet::from([String::new()]), complete: true };
    for part in &template.parts {
        let values = match part {
            Part::Every => return Values::none(),
            Part::Literal(text) => {
                result.texts = result.texts.into_iter().map(|head| head + text).collect();
                continue;
            }
            Part::Value(source) => source_values(source, facts, callers, limit),
        };
        result.complete &= values.complete;
        let product = result.texts.len().saturating_mul(values.texts.len());
        let either = result.texts.len().max(values.texts.len());
        if values.texts.is_empty() || product > MAX_PRODUCT.max(either) {
            return Values::none();
        }
        result.texts = result
            .texts
            .iter()
            .flat_map(|head| values.texts.iter().map(move |v| format!("{head}{v}")))
            .collect();
    }
    result
}

fn source_values(source: &Source, facts: &Facts<'_>, callers: Callers<'_>, limit: usize) -> Values {
    let mut values = Values { texts: BTreeSet::new(), complete: true };
    match source {
        Source::Path(name) => {
            if let Some(value) = facts.params.get(name) {
                values.push(value.to_owned(), limit);
            }
        }
        Source::Query(name) => {
            for text in query_values(facts.query, name) {
                values.push(text, limit);
            }
        }
        Source::Header(name) => {
            for line in facts.headers.get_all(name) {
                values.push(String::from_utf8_lossy(line.as_bytes()).trim().to_owned(), limit);
            }
        }
        Source::Subject => {
            values.complete = !callers.unknown;
            for subject in callers.subjects {
                values.push(hex(&subject.digest), limit);
            }
        }
        Source::Claim(name) => push_claims(&mut values, name, callers, limit),
        Source::Request(path) => push_json(&mut values, facts.request, path, limit),
        Source::Response(path) => push_json(&mut values, facts.response, path, limit),
    }
    if values.texts.is_empty() {
        values.complete = false;
    }
    values
}

/// Decoded values; where a `+` occurs, both readings of it (not every backend takes it for a space).
fn query_values(query: &str, name: &str) -> Vec<String> {
    let mut found = query::values(query, name);
    for raw in query::raw_values(query, name).filter(|raw| raw.contains('+')) {
        found.push(percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned());
    }
    found
}

/// A way of telling callers apart that knows no such claim adds nothing: its reads carry the wildcard.
fn push_claims(values: &mut Values, name: &str, callers: Callers<'_>, limit: usize) {
    values.complete = !callers.unknown;
    for (_, value) in callers.subjects.iter().flat_map(|s| &s.claims).filter(|(claim, _)| claim == name) {
        values.push(value.clone(), limit);
    }
}

fn push_json(values: &mut Values, json: Json<'_>, path: &JsonPath, limit: usize) {
    match json {
        Json::Known(value) => walk(values, value, &path.0, limit),
        Json::Unknown => values.complete = false,
    }
}

/// As deep as the template is long.
fn walk(values: &mut Values, value: &Value, steps: &[JsonStep], limit: usize) {
    let Some((step, rest)) = steps.split_first() else { return push_leaf(values, value, limit) };
    let next = match (step, value) {
        (JsonStep::Member(name), Value::Object(members)) => members.get(name),
        (JsonStep::Index(index), Value::Array(items)) => items.get(*index),
        (JsonStep::Each, Value::Array(items)) if !items.is_empty() => {
            for item in items {
                if values.full(limit) {
                    return;
                }
                walk(values, item, rest, limit);
            }
            return;
        }
        _ => None,
    };
    match next {
        Some(next) => walk(values, next, rest, limit),
        None => values.complete = false,
    }
}

/// Texts, whole numbers and truth values; a list of them counts item by item. Fractions have several spellings, and
/// numbers beyond 64 bits have lost digits already: both are unknown.
fn push_leaf(values: &mut Values, value: &Value, limit: usize) {
    match value {
        Value::String(text) => values.push(text.clone(), limit),
        Value::Bool(flag) => values.push(flag.to_string(), limit),
        Value::Number(number) if !number.is_f64() => values.push(number.to_string(), limit),
        Value::Array(items) if !items.is_empty() && !items.iter().any(Value::is_array) => {
            for item in items {
                if values.full(limit) {
                    return;
                }
                push_leaf(values, item, limit);
            }
        }
        _ => values.complete = false,
    }
}
