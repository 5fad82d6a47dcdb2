//! The parsed document: a tree of values that know their places, read piece by piece.
//!
//! A deserializer stops at its first error. To report all of them, [`Document::read`] takes the offending entry
//! out and reads again, until what is left is sound. What was taken out is remembered, so that nobody later
//! complains that it is missing.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Problem, Severity, Sources, nearest};

/// Most errors reported in one go; past it the file is something else altogether.
const MAX_ERRORS: usize = 100;

/// One step of a path in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seg {
    /// A key.
    Key(String),
    /// An array's element.
    Index(usize),
}

/// `route[1].ttl`
pub(crate) fn show_path(path: &[Seg]) -> String {
    let mut shown = String::new();
    for seg in path {
        match seg {
            Seg::Key(k) if shown.is_empty() => shown.push_str(k),
            Seg::Key(k) => {
                shown.push('.');
                shown.push_str(k);
            }
            Seg::Index(i) => shown.push_str(&format!("[{i}]")),
        }
    }
    shown
}

/// The file with what the environment put over it, and everything found wrong so far.
pub(crate) struct Document<'i> {
    /// The texts behind the spans.
    pub(crate) sources: Sources,
    /// What is left of the tree.
    pub(crate) root: DeTable<'i>,
    /// Findings.
    pub(crate) problems: Vec<Problem>,
    /// Every entry's places and path, as they were before anything was taken out.
    places: Vec<(Range<usize>, String)>,
    /// Paths of entries taken out because they were wrong.
    removed: BTreeSet<String>,
}

impl<'i> Document<'i> {
    /// Parses; syntax errors are findings, and what can be understood is kept.
    pub(crate) fn parse(file: &str, text: &'i str) -> Document<'i> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut sources = Sources::new(file, text);
        let mut problems = Vec::new();
        if !errors.is_empty() {
            super::env::mask_lines(text, &mut sources);
        }
        for error in errors.into_iter().take(MAX_ERRORS) {
            let span = error.span().unwrap_or(0..0);
            let (message, allowed) = split_expected(error.message());
            let mut problem = sources.problem(Severity::Error, &span, message);
            problem.allowed = allowed;
            problems.push(problem);
        }
        let mut root = root.into_inner();
        normalise(&mut root);
        let mut document = Document { sources, root, problems, places: Vec::new(), removed: BTreeSet::new() };
        document.index();
        document
    }

    /// Notes where everything is. Again after the tree has grown.
    pub(crate) fn index(&mut self) {
        let mut places = Vec::new();
        walk(&self.root, &mut Vec::new(), &mut |path, key, value| {
            let shown = show_path(path);
            places.extend(key.map(|k| (k, shown.clone())));
            places.push((value.span(), shown));
        });
        self.places = places;
    }

    /// The path of the smallest entry that holds this place.
    pub(crate) fn path_of(&self, span: &Range<usize>) -> String {
        let holds = |r: &Range<usize>| r.start <= span.start && span.end <= r.end && r.start < r.end;
        let places = self.places.iter().filter(|(r, _)| holds(r));
        // Later ones are deeper: of equals the last wins.
        places.rev().min_by_key(|(r, _)| r.end - r.start).map(|(_, p)| p.clone()).unwrap_or_default()
    }

    /// Where a setting's value is, if it was given.
    pub(crate) fn place_of(&self, path: &str) -> Option<Range<usize>> {
        self.places.iter().rev().find(|(_, p)| p == path).map(|(r, _)| r.clone())
    }

    /// Adds a finding at a place.
    pub(crate) fn report(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
    ) -> &mut Problem {
        let mut problem = self.sources.problem(severity, span, message);
        problem.path = self.path_of(span);
        self.add(problem)
    }

    /// Adds a finding.
    pub(crate) fn add(&mut self, problem: Problem) -> &mut Problem {
        let at = self.problems.len();
        self.problems.push(problem);
        &mut self.problems[at]
    }

    /// Whether this entry, or all it is part of, was taken out for an error already reported.
    pub(crate) fn was_removed(&self, path: &str) -> bool {
        self.removed.iter().any(|r| {
            path.strip_prefix(r.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Whether anything below this path (or it itself) was taken out.
    pub(crate) fn was_damaged(&self, path: &str) -> bool {
        self.was_removed(path)
            || self.removed.iter().any(|r| {
                r.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
    }

    /// Takes out the entry at this place.
    pub(crate) fn remove_at(&mut self, span: &Range<usize>) -> bool {
        let Some(path) = find(&self.root, span) else { return false };
        self.removed.insert(self.path_of(span));
        remove(&mut self.root, &path)
    }

    /// Reads the tree; every entry that cannot be read is reported and taken out.
    pub(crate) fn read<T: DeserializeOwned + Default>(&mut self) -> T {
        while self.problems.len() < MAX_ERRORS {
            let root = Spanned::new(0..0, self.root.clone());
            let error = match T::deserialize(toml::de::Deserializer::from(root)) {
                Ok(value) => return value,
                Err(error) => error,
            };
            let span = error.span().unwrap_or(0..0);
            self.report_unreadable(&span, error.message());
            if !self.remove_at(&span) {
                break;
            }
        }
        T::default()
    }

    fn report_unreadable(&mut self, span: &Range<usize>, message: &str) {
        let (message, allowed) = split_expected(message);
        if let Some(key) = message.strip_prefix("unknown field `").and_then(|m| m.strip_suffix('`')) {
            let allowed = allowed.unwrap_or_default();
            let known: Vec<&str> = allowed.split('`').skip(1).step_by(2).collect();
            let near = nearest(key, known.iter().copied());
            let list = known.join(", ");
            let message = format!("unknown key `{key}`");
            self.mask_unknown(span, key, near);
            let problem = self.report(Severity::Error, span, message).allowed(list);
            if let Some(near) = near {
                problem.help(format!("did you mean `{near}`?"));
            }
            return;
        }
        if self.sources.is_masked(span) {
            // The message quotes what was read.
            self.report(Severity::Error, span, "read something else".to_owned()).allowed = allowed;
            return;
        }
        let variant = message.strip_prefix("unknown variant `").and_then(|m| m.strip_suffix('`'));
        let near = variant
            .zip(allowed.as_deref())
            .and_then(|(word, list)| nearest(word, list.split('`').skip(1).step_by(2)).map(str::to_owned));
        let problem = self.report(Severity::Error, span, readable(&message));
        problem.allowed = allowed;
        if let Some(near) = near {
            problem.help(format!("did you mean `{near}`?"));
        }
    }

    /// What stands behind a misspelt `tokn` is as secret as what stands behind `token`.
    fn mask_unknown(&mut self, span: &Range<usize>, key: &str, near: Option<&str>) {
        let secretive = |word: &str| {
            ["token", "secret", "pass", "url", "key", "pem", "auth"]
                .iter()
                .any(|s| word.to_ascii_lowercase().contains(s))
        };
        if !(secretive(key) || near.is_some_and(secretive)) {
            return;
        }
        let path = self.path_of(span);
        let values: Vec<_> = self.places.iter().filter(|(r, p)| *p == path && r != span).cloned().collect();
        for (range, _) in values {
            self.sources.mask(range);
        }
    }
}

/// `upstream = "http://…"` is short for `[upstream] url = "http://…"`.
fn normalise(root: &mut DeTable<'_>) {
    if let Some(value) = root.get_mut("upstream")
        && value.get_ref().is_str()
    {
        let span = value.span();
        let url = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
        let mut table = DeTable::new();
        // Empty ranges hold no place: findings about the URL are about `upstream.url`.
        table.insert(Spanned::new(span.start..span.start, "url".into()), Spanned::new(span.clone(), url));
        *value = Spanned::new(span.start..span.start, DeValue::Table(table));
    }
}

/// Calls `f` for every entry: its path, its key's place (where it has one) and its value.
pub(crate) fn walk<'t>(
    table: &'t DeTable<'_>,
    path: &mut Vec<Seg>,
    f: &mut impl FnMut(&[Seg], Option<Range<usize>>, &'t Spanned<DeValue<'_>>),
) {
    for (key, value) in table.iter() {
        path.push(Seg::Key(key.get_ref().to_string()));
        f(path, Some(key.span()), value);
        walk_value(value, path, f);
        path.pop();
    }
}

fn walk_value<'t>(
    value: &'t Spanned<DeValue<'_>>,
    path: &mut Vec<Seg>,
    f: &mut impl FnMut(&[Seg], Option<Range<usize>>, &'t Spanned<DeValue<'_>>),
) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, path, f),
        DeValue::Array(array) => {
            for (at, element) in array.iter().enumerate() {
                path.push(Seg::Index(at));
                f(path, None, element);
                walk_value(element, path, f);
                path.pop();
            }
        }
        _ => {}
    }
}

/// The entry whose key or value is exactly this place, else the smallest that holds it.
fn find(root: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Seg>> {
    let mut best: Option<(usize, Vec<Seg>)> = None;
    walk(root, &mut Vec::new(), &mut |path, key, value| {
        for place in key.into_iter().chain([value.span()]) {
            let holds = place.start <= span.start && span.end <= place.end && place.start < place.end;
            let size = place.end - place.start;
            if holds && best.as_ref().is_none_or(|(least, _)| size <= *least) {
                best = Some((size, path.to_vec()));
            }
        }
    });
    best.map(|(_, path)| path)
}

/// Takes one entry out of the tree.
pub(crate) fn remove(root: &mut DeTable<'_>, path: &[Seg]) -> bool {
    let Some((Seg::Key(first), rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return root.remove(first.as_str()).is_some();
    }
    root.get_mut(first.as_str()).is_some_and(|value| remove_below(value.get_mut(), rest))
}

fn remove_below(value: &mut DeValue<'_>, path: &[Seg]) -> bool {
    match (value, path) {
        (DeValue::Table(table), [Seg::Key(_), ..]) => remove(table, path),
        (DeValue::Array(array), [Seg::Index(at)]) if *at < array.len() => {
            let kept = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
            *array = kept.filter(|(i, _)| i != at).map(|(_, v)| v).collect();
            true
        }
        (DeValue::Array(array), [Seg::Index(at), rest @ ..]) => {
            array.get_mut(*at).is_some_and(|v| remove_below(v.get_mut(), rest))
        }
        _ => false,
    }
}

/// Puts a value at a path, making the tables on the way. False where something else is in the way.
pub(crate) fn put<'i>(root: &mut DeTable<'i>, path: &[Seg], value: Spanned<DeValue<'i>>) -> bool {
    let Some((Seg::Key(first), rest)) = path.split_first() else { return false };
    // A place of no length: messages about it belong to the value.
    let at = value.span().start;
    if rest.is_empty() {
        root.remove(first.as_str());
        root.insert(Spanned::new(at..at, first.clone().into()), value);
        return true;
    }
    if !root.contains_key(first.as_str()) {
        let table = DeValue::Table(DeTable::new());
        root.insert(Spanned::new(at..at, first.clone().into()), Spanned::new(at..at, table));
    }
    root.get_mut(first.as_str()).is_some_and(|next| put_below(next.get_mut(), rest, value))
}

fn put_below<'i>(next: &mut DeValue<'i>, path: &[Seg], value: Spanned<DeValue<'i>>) -> bool {
    match (next, path) {
        (DeValue::Table(table), _) => put(table, path, value),
        (DeValue::Array(array), [Seg::Index(at), rest @ ..]) => {
            array.get_mut(*at).is_some_and(|v| put_below(v.get_mut(), rest, value))
        }
        _ => false,
    }
}

/// The same value with every place moved along.
pub(crate) fn shift<'i>(value: Spanned<DeValue<'i>>, by: usize) -> Spanned<DeValue<'i>> {
    let moved = value.span().start + by..value.span().end + by;
    let inner = match value.into_inner() {
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|v| shift(v, by)).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(k, v)| {
                    let place = k.span().start + by..k.span().end + by;
                    (Spanned::new(place, k.into_inner()), shift(v, by))
                })
                .collect(),
        ),
        other => other,
    };
    Spanned::new(moved, inner)
}

/// `what was read, expected what is allowed`
fn split_expected(message: &str) -> (String, Option<String>) {
    match message.split_once(", expected ") {
        Some((read, allowed)) => {
            let allowed = match allowed {
                "i64" => "a whole number",
                "f64" => "a number",
                "a boolean" => "true or false",
                "a borrowed string" => "a string",
                "a sequence" => "a list, such as [\"a\", \"b\"]",
                "a map" => "a table",
                other => other.strip_prefix("one of ").unwrap_or(other),
            };
            // The names of our own structs mean nothing to the reader.
            let allowed = if allowed.starts_with("struct ") { "a table" } else { allowed };
            (read.to_owned(), Some(allowed.to_owned()))
        }
        None => (message.to_owned(), None),
    }
}

/// Takes the jargon out of a deserializer's message.
fn readable(message: &str) -> String {
    if let Some(read) = message.strip_prefix("invalid type: ") {
        return format!("read {}", read.replace("sequence", "a list").replace("map", "a table"));
    }
    if let Some(read) = message.strip_prefix("invalid value: ") {
        return format!("read {read}");
    }
    if let Some(word) = message.strip_prefix("unknown variant ") {
        return format!("read {word}");
    }
    message.to_owned()
}
