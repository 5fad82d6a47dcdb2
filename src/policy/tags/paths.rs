//! Path tags: `path:` for one path, `prefix:` for a path and all below, `glob:` for patterns with inner wildcards.
//!
//! An entry carries its own path, the prefixes of it down to [`MAX_DEPTH`] segments, and the declared patterns that
//! match it. A purge of a deeper prefix names its first [`MAX_DEPTH`] segments: coarser, so nothing is missed.

use super::name::push_encoded;
use crate::policy::path::{PathParams, PathTemplate, Segment, encode_segment, readings};

/// Segments of the longest `prefix:` tag.
const MAX_DEPTH: usize = 32;

/// Patterns behave like a family: too many on one entry become `glob:*`.
pub(super) const GLOB_FAMILY: &str = "glob";

/// A purge's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// One path, possibly with the rule's own parameters: `/transactions/{id}`.
    Exact(PathTemplate),
    /// A path and all below: `/reports/**`.
    Below(PathTemplate),
    /// Inner wildcards: `/users/*/orders`.
    Glob(PathTemplate),
}

impl PathPattern {
    /// Compiles `/x/{id}`, `/x/**` or `/x/*/y` into the variant that fits; errors as [`PathTemplate::parse`].
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        PathTemplate::parse(text).map(PathPattern::of)
    }

    /// The variant that fits a template.
    pub fn of(template: PathTemplate) -> PathPattern {
        if template.segments.contains(&Segment::Any) {
            PathPattern::Glob(template)
        } else if template.segments.last() == Some(&Segment::Rest) {
            PathPattern::Below(template)
        } else {
            PathPattern::Exact(template)
        }
    }

    /// The template.
    pub fn template(&self) -> &PathTemplate {
        match self {
            PathPattern::Exact(t) | PathPattern::Below(t) | PathPattern::Glob(t) => t,
        }
    }

    /// The parameters it needs from the mutation's own template.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.template().segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            _ => None,
        })
    }

    /// What a purge names for it. A parameter that the mutation did not capture widens it to all below its literal
    /// beginning.
    pub(super) fn purge_names(&self, params: &PathParams) -> Vec<String> {
        match self {
            PathPattern::Glob(template) => glob_purge_names(template, params),
            PathPattern::Exact(template) => match substitute(template, params) {
                Ok(path) => path_names(&path),
                Err(known) => below_names(&known),
            },
            PathPattern::Below(template) => {
                let (Ok(path) | Err(path)) = substitute(template, params);
                below_names(&path)
            }
        }
    }
}

/// The template's path with its parameters filled in, without a final `**`; `Err` is the part before a parameter
/// that is not there.
fn substitute(template: &PathTemplate, params: &PathParams) -> Result<String, String> {
    let mut path = String::new();
    for segment in &template.segments {
        let text = match segment {
            Segment::Literal(text) => encode_segment(text),
            Segment::Param(name) => match params.get(name) {
                Some(value) => encode_segment(value),
                None => return Err(path),
            },
            Segment::Any => return Err(path),
            Segment::Rest => break,
        };
        path.push('/');
        path.push_str(&text);
    }
    Ok(path)
}

/// `path:` under every reading of a path.
pub(super) fn path_names(path: &str) -> Vec<String> {
    readings(path).iter().map(|path| format!("path:{path}")).collect()
}

/// `prefix:` under every reading of a path; the empty path and `/` are everybody's ancestor.
pub(super) fn below_names(path: &str) -> Vec<String> {
    let path = if path.is_empty() { "/" } else { path };
    let mut names: Vec<String> = readings(path).iter().map(|path| deepest_prefix(path)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// `prefix:/`, `prefix:/a`, `prefix:/a/b`, … down to the path itself (a trailing slash does not count), each once, and
/// whether it is the last.
pub(super) fn each_prefix(path: &str, mut tell: impl FnMut(&str, bool)) {
    const ROOT: &str = "prefix:/";
    let rest = path.strip_prefix('/').unwrap_or(path);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    tell(ROOT, rest.is_empty());
    let mut name = String::with_capacity(ROOT.len() + rest.len());
    name.push_str(ROOT);
    name.push_str(rest);
    let ends = rest.match_indices('/').map(|(at, _)| at).chain([rest.len()]).take(MAX_DEPTH);
    // An empty first segment is the root once more.
    for end in ends.map(|end| ROOT.len() + end).filter(|end| *end > ROOT.len()) {
        tell(name.get(..end).unwrap_or(&name), end == name.len());
    }
}

/// The last of them.
fn deepest_prefix(path: &str) -> String {
    let mut deepest = String::new();
    each_prefix(path, |name, _| name.clone_into(&mut deepest));
    deepest
}

/// The tag that an entry of this path carries for a pattern; with or without a trailing slash.
pub(super) fn glob_name_of_entry(glob: &PathTemplate, path: &str) -> Option<String> {
    let params = readings(path).iter().find_map(|path| glob.matches(path))?;
    Some(glob_name(glob, params.0.iter().map(|(_, value)| value.as_str())))
}

fn glob_purge_names(glob: &PathTemplate, params: &PathParams) -> Vec<String> {
    let wanted = glob.segments.iter().filter_map(|segment| match segment {
        Segment::Param(name) => Some(params.get(name)),
        _ => None,
    });
    let every = format!("{GLOB_FAMILY}:*");
    match wanted.collect::<Option<Vec<&str>>>() {
        Some(values) => vec![glob_name(glob, values.into_iter()), every],
        None => vec![every, format!("{GLOB_FAMILY}:?")],
    }
}

/// `glob:/users/{id}/orders/*|42`: the pattern, then the values of its parameters.
fn glob_name<'a>(glob: &PathTemplate, values: impl Iterator<Item = &'a str>) -> String {
    let mut name = format!("{GLOB_FAMILY}:{}", glob.text);
    for value in values {
        name.push('|');
        push_encoded(&mut name, value);
    }
    name
}
