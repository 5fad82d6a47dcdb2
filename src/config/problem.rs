//! What is wrong with a configuration, and where: one value per finding, printed like a compiler's.
//!
//! ```text
//! error: `5` is not a duration
//!   --> proxy.toml:12:8  (route[1].ttl)
//!    |
//! 12 | ttl = "5"
//!    |       ^^^
//!    = allowed: a number with a unit, such as "250ms", "5s", "1m 30s", "12h", "1d"
//! ```
//!
//! [`Sources`] knows every text that values came from: the file, and one text per environment variable. Each has
//! its own range of offsets, so that one byte range says both which text and where. Secrets are masked here,
//! in the only place that quotes a text.

use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, but probably not as meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// One finding. Its `Display` is a few lines, ending without a newline; no secret is ever part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// The setting, like `route[1].ttl`; empty where no single one is meant.
    pub path: String,
    /// The file's name, or `environment variable WEIR_…`.
    pub file: String,
    /// Line in the file, from 1; 0 = no place in it.
    pub line: usize,
    /// Column in characters, from 1; 0 = no place.
    pub column: usize,
    /// What was read, and what is wrong with it.
    pub message: String,
    /// What is allowed.
    pub allowed: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// The offending line with secrets masked.
    pub excerpt: Option<Excerpt>,
}

/// A quoted line and what to underline in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The line.
    pub text: String,
    /// First underlined character, from 0.
    pub start: usize,
    /// Underlined characters, at least 1.
    pub length: usize,
}

impl Problem {
    /// A finding without a place.
    pub fn new(severity: Severity, file: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            severity,
            path: String::new(),
            file: file.into(),
            line: 0,
            column: 0,
            message: message.into(),
            allowed: None,
            help: None,
            excerpt: None,
        }
    }

    /// Adds what is allowed.
    pub fn allowed(&mut self, text: impl Into<String>) -> &mut Problem {
        self.allowed = Some(text.into());
        self
    }

    /// Adds what to do.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Problem {
        self.help = Some(text.into());
        self
    }

    /// Names the setting, where the place alone does not.
    pub fn about(&mut self, path: impl Into<String>) -> &mut Problem {
        self.path = path.into();
        self
    }

    /// Whether it makes the configuration unusable.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.as_str(), self.message)?;
        let margin = if self.line == 0 { 1 } else { self.line.to_string().len() };
        write!(f, "\n{:margin$}--> {}", "", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "  ({})", self.path)?;
        }
        if let Some(excerpt) = &self.excerpt {
            let number = if self.line > 0 { self.line.to_string() } else { String::new() };
            write!(f, "\n{:margin$} |", "")?;
            write!(f, "\n{number:margin$} | {}", excerpt.text)?;
            let lead: String = excerpt
                .text
                .chars()
                .take(excerpt.start)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n{:margin$} | {lead}{}", "", "^".repeat(excerpt.length))?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, "\n{:margin$} = allowed: {allowed}", "")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

/// One text that values were read from.
struct Source {
    /// File name, or `environment variable X`.
    label: String,
    /// The variable's name, for texts that are not the file.
    variable: Option<String>,
    text: String,
    /// Where its offsets begin.
    offset: usize,
    /// Never quoted.
    secret: bool,
}

/// Every text that values were read from, in one space of offsets. The file is the first and begins at 0.
pub(crate) struct Sources {
    texts: Vec<Source>,
    /// Ranges holding secrets typed into the file.
    masked: Vec<Range<usize>>,
}

impl Sources {
    pub(crate) fn new(file: &str, text: &str) -> Sources {
        let text = text.to_owned();
        let source = Source { label: file.to_owned(), variable: None, text, offset: 0, secret: false };
        Sources { texts: vec![source], masked: Vec::new() }
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &str {
        self.texts.first().map_or("", |s| &s.label)
    }

    /// Adds an environment variable's text; its offsets begin at the returned one.
    pub(crate) fn add_variable(&mut self, name: &str, text: &str, secret: bool) -> usize {
        let offset = self.texts.last().map_or(0, |s| s.offset + s.text.len() + 1);
        self.texts.push(Source {
            label: format!("environment variable {name}"),
            variable: Some(name.to_owned()),
            text: text.to_owned(),
            offset,
            secret,
        });
        offset
    }

    /// Declares that this range of the file is a secret.
    pub(crate) fn mask(&mut self, range: Range<usize>) {
        self.masked.push(range);
    }

    /// Whether a part of this range is a secret.
    pub(crate) fn is_masked(&self, range: &Range<usize>) -> bool {
        self.masked.iter().any(|m| m.start < range.end && range.start < m.end)
    }

    /// The raw text in a range.
    pub(crate) fn raw(&self, range: &Range<usize>) -> &str {
        let source = self.source(range.start);
        let end = range.end.saturating_sub(source.offset).min(source.text.len());
        source.text.get(range.start - source.offset..end).unwrap_or("")
    }

    /// The part of `range` in which `needle` is written, else the whole range: a finer place inside a string.
    pub(crate) fn within(&self, range: &Range<usize>, needle: &str) -> Range<usize> {
        match self.raw(range).find(needle) {
            Some(at) if !needle.is_empty() => range.start + at..range.start + at + needle.len(),
            _ => range.clone(),
        }
    }

    fn source(&self, offset: usize) -> &Source {
        let after = self.texts.partition_point(|s| s.offset <= offset);
        &self.texts[after.saturating_sub(1)]
    }

    /// A problem at a place.
    pub(crate) fn problem(&self, severity: Severity, range: &Range<usize>, message: String) -> Problem {
        let source = self.source(range.start);
        let mut problem = Problem::new(severity, source.label.clone(), message);
        let start = range.start - source.offset;
        let end = range.end.saturating_sub(source.offset);
        if let Some(name) = &source.variable {
            if !source.secret && !source.text.contains('\n') {
                let lead = name.chars().count() + 1;
                let start = floor(&source.text, start);
                let end = floor(&source.text, end).max(start);
                let before = source.text[..start].chars().count();
                let length = source.text[start..end].chars().count();
                let text = format!("{name}={}", source.text);
                problem.excerpt = Some(Excerpt { text, start: lead + before, length: length.max(1) });
            }
            return problem;
        }
        let (line, line_start) = line_of(&source.text, start);
        let line_end = source.text[line_start..].find('\n').map_or(source.text.len(), |n| line_start + n);
        let start = floor(&source.text, start.clamp(line_start, line_end));
        let end = floor(&source.text, end.clamp(start, line_end));
        problem.line = line;
        problem.column = source.text[line_start..start].chars().count() + 1;
        problem.excerpt = Some(self.quote(&source.text, line_start..line_end, start..end));
        problem
    }

    /// Quotes one line of the file with every masked range in it replaced, the underline moved along.
    fn quote(&self, text: &str, line: Range<usize>, mark: Range<usize>) -> Excerpt {
        const MASK: &str = "***";
        let (mut shown, mut start, mut end) = (String::new(), None, None);
        let mut in_mask = false;
        for (at, c) in text[line.clone()].char_indices().map(|(at, c)| (line.start + at, c)) {
            if c == '\r' {
                continue;
            }
            let masked = self.masked.iter().any(|m| m.contains(&at));
            if masked && !in_mask {
                if mark.start >= at {
                    start = None;
                }
                shown.push_str(MASK);
            }
            in_mask = masked;
            let here = shown.chars().count() - if masked { MASK.len() } else { 0 };
            if at >= mark.start && start.is_none() {
                start = Some(here);
            }
            if !masked {
                shown.push(c);
            }
            if at < mark.end {
                end = Some(shown.chars().count());
            }
        }
        let start = start.unwrap_or_else(|| shown.chars().count());
        let length = end.unwrap_or(0).saturating_sub(start).max(1);
        Excerpt { text: shown, start, length }
    }
}

/// The line number (from 1) at a byte offset, and where that line begins.
fn line_of(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..floor(text, offset)];
    (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |n| n + 1))
}

/// The nearest beginning of a character at or before an offset.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// The candidate that `word` was probably meant to be: at most a third of its letters differ.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|c| (distance(&word.to_lowercase(), &c.to_lowercase()), c))
        .filter(|(d, _)| *d <= most)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Edits (insert, remove, replace, swap neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_a_compiler() {
        let sources = Sources::new("proxy.toml", "a = 1\nttl = \"5\"\n");
        let mut p = sources.problem(Severity::Error, &(12..15), "`5` has no unit".into());
        p.about("route[1].ttl").allowed("\"5s\"").help("add a unit");
        let want = "error: `5` has no unit\n --> proxy.toml:2:7  (route[1].ttl)\n  |\n2 | ttl = \"5\"\n  |       ^^^\n  = allowed: \"5s\"\n  = help: add a unit";
        assert_eq!(p.to_string(), want);
    }

    #[test]
    fn masks_secrets_and_keeps_the_underline_in_place() {
        let text = "admin = { token = \"hunter2hunter2\", listn = 1 }\n";
        let mut sources = Sources::new("f", text);
        let secret = text.find("\"hunter").unwrap();
        sources.mask(secret..secret + 16);
        let at = text.find("listn").unwrap();
        let p = sources.problem(Severity::Error, &(at..at + 5), "x".into());
        let shown = p.to_string();
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("token = ***, listn = 1"), "{shown}");
        let excerpt = p.excerpt.unwrap();
        assert_eq!(&excerpt.text[excerpt.start..excerpt.start + excerpt.length], "listn");
        let p = sources.problem(Severity::Error, &(secret..secret + 16), "x".into());
        let excerpt = p.excerpt.unwrap();
        assert_eq!(&excerpt.text[excerpt.start..excerpt.start + excerpt.length], "***");
    }

    #[test]
    fn an_offset_says_which_text() {
        let mut sources = Sources::new("f", "abc");
        let a = sources.add_variable("WEIR_A", "12", false);
        let b = sources.add_variable("WEIR_B", "sssh", true);
        assert_eq!(sources.raw(&(a..a + 2)), "12");
        let p = sources.problem(Severity::Error, &(a..a + 2), "x".into());
        assert_eq!(p.file, "environment variable WEIR_A");
        assert_eq!(p.excerpt.map(|e| e.text).as_deref(), Some("WEIR_A=12"));
        let p = sources.problem(Severity::Error, &(b..b + 4), "x".into());
        assert_eq!((p.file.as_str(), p.excerpt), ("environment variable WEIR_B", None));
        assert_eq!(sources.within(&(0..3), "c"), 2..3);
    }

    #[test]
    fn places_past_the_end_and_between_characters_are_safe() {
        let sources = Sources::new("f", "é = 1");
        assert_eq!(sources.problem(Severity::Error, &(6..6), "x".into()).column, 6);
        sources.problem(Severity::Error, &(1..1), "x".into());
        let empty = Sources::new("f", "");
        assert_eq!(empty.problem(Severity::Error, &(0..0), "x".into()).line, 1);
    }

    #[test]
    fn nearest_finds_slips_and_nothing_else() {
        assert_eq!(nearest("tll", ["ttl", "tags"]), Some("ttl"));
        assert_eq!(nearest("negativ_ttl", ["ttl", "negative_ttl"]), Some("negative_ttl"));
        assert_eq!(nearest("banana", ["ttl", "tags"]), None);
    }
}
