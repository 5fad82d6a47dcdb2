//! Tag templates as operators write them: `session:{query.session_id}`, `tx:{response.items[*].id}`, `dashboard`.

use std::sync::Arc;

use super::name::decode_typed;

/// `session:{query.session_id}`: a family and the places its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTemplate {
    /// As typed.
    pub text: Arc<str>,
    /// What precedes the first `:`; a bare word without `:` is its own family and has no parts.
    pub family: Arc<str>,
    /// Literal text and placeholders after the `:`.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Literal(String),
    /// A value.
    Value(Source),
    /// `*` as the whole value: the family as such (`session:*`).
    Every,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `{path.id}`
    Path(String),
    /// `{query.session_id}`; every occurrence is a value.
    Query(String),
    /// `{header.x-tenant}`; every line is a value.
    Header(http::HeaderName),
    /// `{subject}`: the caller's digest in hex.
    Subject,
    /// `{claim.sub}`: only claims that the subject is made of have values.
    Claim(String),
    /// `{request.session_id}`: JSON request body.
    Request(JsonPath),
    /// `{response.items[*].id}`: JSON response body.
    Response(JsonPath),
}

/// `items[*].id`, `[*].id`, `session_id`, `a.b[0].c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(pub Vec<JsonStep>);

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonStep {
    /// `.name`
    Member(String),
    /// `[3]`
    Index(usize),
    /// `[*]`
    Each,
}

const SOURCES: &str = "`{path.NAME}`, `{query.NAME}`, `{header.NAME}`, `{subject}`, `{claim.NAME}`, `{request.PATH}` and `{response.PATH}`";

/// Families that Weir itself fills.
pub(super) const RESERVED: [(&str, &str); 5] = [
    ("route", "use `routes = [...]`"),
    ("path", "use `paths = [...]`"),
    ("prefix", "use `paths = [\"/x/**\"]`"),
    ("glob", "use `paths = [...]`"),
    ("subject", "use `subject = \"same\"`"),
];

impl TagTemplate {
    /// Compiles; errors name what is allowed. A placeholder needs a literal `family:` before it.
    pub fn parse(text: &str) -> Result<TagTemplate, String> {
        let fail = |why: String| Err(format!("tag `{text}`: {why}"));
        let Some((family, value)) = text.split_once(':') else {
            return match check_family(text) {
                Ok(()) => Ok(TagTemplate { text: text.into(), family: text.into(), parts: Vec::new() }),
                Err(why) => fail(why),
            };
        };
        if let Err(why) = check_family(family) {
            return fail(why);
        }
        if let Some((_, instead)) = RESERVED.iter().find(|(name, _)| *name == family) {
            return fail(format!("the family `{family}` is filled by Weir itself; {instead}"));
        }
        match parse_value(value) {
            Ok(parts) => Ok(TagTemplate { text: text.into(), family: family.into(), parts }),
            Err(why) => fail(why),
        }
    }
    /// Whether it needs the JSON request body.
    pub fn needs_request_body(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Value(Source::Request(_))))
    }
    /// Whether it needs the JSON response body.
    pub fn needs_response_body(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Value(Source::Response(_))))
    }
    /// A bare word: one fixed tag, without values and wildcards.
    pub fn is_bare(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Family names and bare words.
pub(super) fn check_family(family: &str) -> Result<(), String> {
    if family.contains(['{', '}']) {
        return Err(
            "a placeholder needs a literal `family:` before it, as in `session:{query.session_id}`".into()
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if family.is_empty() || !family.chars().all(allowed) {
        return Err(format!(
            "`{family}` is no family name: letters, digits, `_`, `-` and `.` before the first `:`"
        ));
    }
    Ok(())
}

fn parse_value(value: &str) -> Result<Vec<Part>, String> {
    if value == "*" {
        return Ok(vec![Part::Every]);
    }
    let mut parts = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let (literal, placeholder) = match rest.split_once('{') {
            Some((literal, tail)) => (literal, Some(tail)),
            None => (rest, None),
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(parse_literal(literal)?));
        }
        let Some(tail) = placeholder else { break };
        let (source, tail) =
            tail.split_once('}').ok_or_else(|| format!("`{{{tail}` is not closed by a `}}`"))?;
        parts.push(Part::Value(parse_source(source)?));
        rest = tail;
    }
    if parts.is_empty() {
        return Err(
            "nothing follows the `:`; write a value, a placeholder, or `*` for the whole family".into()
        );
    }
    Ok(parts)
}

fn parse_literal(literal: &str) -> Result<String, String> {
    if let Some(c) = literal.chars().find(|c| matches!(c, '*' | '?' | '|' | '}') || c.is_control()) {
        return Err(format!(
            "`{}` may not stand in a value: `*` alone means the whole family, and {SOURCES} are placeholders; write a literal one as `%{:02X}`",
            c.escape_debug(),
            u32::from(c)
        ));
    }
    Ok(decode_typed(literal))
}

fn parse_source(source: &str) -> Result<Source, String> {
    let unknown = || format!("`{{{source}}}` is no placeholder; allowed are {SOURCES}");
    let end = source.find(['.', '[']).unwrap_or(source.len());
    let (kind, rest) = source.split_at(end);
    let name = rest.strip_prefix('.').filter(|name| !name.is_empty());
    let named = || name.map(str::to_owned).ok_or_else(unknown);
    match kind {
        "path" => named().map(Source::Path),
        "query" => named().map(Source::Query),
        "claim" => named().map(Source::Claim),
        "header" => {
            named()?.parse().map(Source::Header).map_err(|_| format!("`{{{source}}}` names no valid field"))
        }
        "subject" if rest.is_empty() => Ok(Source::Subject),
        "request" => parse_json_path(source, rest).map(Source::Request),
        "response" => parse_json_path(source, rest).map(Source::Response),
        _ => Err(unknown()),
    }
}

fn parse_json_path(source: &str, text: &str) -> Result<JsonPath, String> {
    let bad = || {
        format!(
            "`{{{source}}}` is no JSON path; write members as `.name`, list items as `[0]` and all items as `[*]`"
        )
    };
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            if name.is_empty() || name.contains(']') {
                return Err(bad());
            }
            steps.push(JsonStep::Member(name.to_owned()));
            rest = tail;
        } else {
            let (index, tail) = rest.strip_prefix('[').and_then(|t| t.split_once(']')).ok_or_else(bad)?;
            steps.push(match index {
                "*" => JsonStep::Each,
                digits => JsonStep::Index(digits.parse().map_err(|_| bad())?),
            });
            rest = tail;
        }
    }
    if steps.is_empty() { Err(bad()) } else { Ok(JsonPath(steps)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn templates_compile() {
        let t = TagTemplate::parse("tx:{response.items[*].id}").unwrap();
        assert_eq!(&*t.family, "tx");
        assert!(t.needs_response_body() && !t.needs_request_body() && !t.is_bare());
        let path =
            JsonPath(vec![JsonStep::Member("items".into()), JsonStep::Each, JsonStep::Member("id".into())]);
        assert_eq!(t.parts, [Part::Value(Source::Response(path))]);

        let t = TagTemplate::parse("x:{path.a}-{query.b}%2A").unwrap();
        assert_eq!(
            t.parts,
            [
                Part::Value(Source::Path("a".into())),
                Part::Literal("-".into()),
                Part::Value(Source::Query("b".into())),
                Part::Literal("*".into()),
            ]
        );
        let t = TagTemplate::parse("x:{request[0].a}").unwrap();
        assert!(t.needs_request_body());
        assert_eq!(TagTemplate::parse("x:*").unwrap().parts, [Part::Every]);
        assert!(TagTemplate::parse("dashboard").unwrap().is_bare());
        assert_eq!(TagTemplate::parse("a:b:c").unwrap().parts, [Part::Literal("b:c".into())]);
        assert_eq!(TagTemplate::parse("a:{subject}").unwrap().parts, [Part::Value(Source::Subject)]);
        assert_eq!(
            TagTemplate::parse("a:{claim.https://x/tenant}").unwrap().parts,
            [Part::Value(Source::Claim("https://x/tenant".into()))]
        );
        assert!(TagTemplate::parse("header:users").is_ok());
    }

    #[test]
    fn errors_name_what_is_allowed() {
        for (text, part) in [
            ("", "family name"),
            ("*", "family name"),
            (":x", "family name"),
            ("{query.a}", "literal `family:`"),
            ("{query.a}:x", "literal `family:`"),
            ("a b", "family name"),
            ("x:", "nothing follows"),
            ("x:a*", "%2A"),
            ("x:a?", "%3F"),
            ("x:}", "%7D"),
            ("x:{query.a", "not closed"),
            ("x:{cookie.a}", "allowed are"),
            ("x:{query}", "allowed are"),
            ("x:{query.}", "allowed are"),
            ("x:{subject.a}", "allowed are"),
            ("x:{header.a b}", "valid field"),
            ("x:{response}", "JSON path"),
            ("x:{response.}", "JSON path"),
            ("x:{response[x]}", "JSON path"),
            ("x:{response[*}", "JSON path"),
            ("x:{response.a[0]b}", "JSON path"),
            ("route:x", "routes"),
            ("path:/x", "paths"),
            ("subject:x", "same"),
        ] {
            let error = TagTemplate::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*|[a:{}.\\[\\]*%2response]{0,24}") {
            let _ = TagTemplate::parse(&text);
        }
    }
}
