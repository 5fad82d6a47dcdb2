//! `Cache-Control` as a plain list of names and optional values (RFC 9111 §5.2), and what each asker wants of it.

use super::message::{Fields, has, is_token, lines, split_list, trim, unquote};
use super::structured::{self, Item};
use super::{Nanos, SECOND};

/// RFC 9111 §1.2.2: "the cache MUST consider the value to be 2147483648 (2^31)".
pub const LONGEST: Nanos = 2_147_483_648 * SECOND;

/// What follows a directive's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    None,
    Text(String),
    Malformed,
}

/// One directive, its name in lower case: "Cache directives are identified by a token, to be compared
/// case-insensitively" (RFC 9111 §5.2).
#[derive(Debug, Clone)]
pub struct Directive {
    pub name: String,
    pub value: Value,
    /// It stands where the quotes of its line make no sense any more.
    pub doubtful: bool,
}

/// All directives of all lines: RFC 9110 §5.3, lines are one list.
pub fn directives(fields: &Fields) -> Vec<Directive> {
    let mut found = Vec::new();
    for line in lines(fields, "cache-control") {
        let list = split_list(line, true);
        for member in &list.members {
            found.push(directive(member, false));
        }
        for member in &list.doubtful {
            found.push(directive(member, true));
        }
    }
    found
}

/// `cache-directive = token [ "=" ( token / quoted-string ) ]`
fn directive(member: &str, doubtful: bool) -> Directive {
    let Some((name, argument)) = member.split_once('=') else {
        return Directive { name: member.to_ascii_lowercase(), value: Value::None, doubtful };
    };
    // Weir: "spaced" is malformed; the name still counts.
    let value = if name != trim(name) || argument != trim(argument) {
        Value::Malformed
    } else if let Some(text) = unquote(argument) {
        Value::Text(text)
    } else if is_token(argument) {
        Value::Text(argument.to_owned())
    } else {
        Value::Malformed
    };
    Directive { name: trim(name).to_ascii_lowercase(), value, doubtful }
}

/// `delta-seconds = 1*DIGIT`; "If a cache receives a delta-seconds value greater than the greatest integer it can
/// represent … the cache MUST consider the value to be 2147483648 (2^31)" (RFC 9111 §1.2.2).
pub fn delta_seconds(text: &str) -> Option<Nanos> {
    if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let mut value: i128 = 0;
    for c in text.chars() {
        value = value * 10 + i128::from(c as u32 - '0' as u32);
        if value > LONGEST / SECOND {
            return Some(LONGEST);
        }
    }
    Some(value * SECOND)
}

/// How far `no-cache` or `private` reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    No,
    Named(Vec<String>),
    All,
}

/// What a response says to this cache.
#[derive(Debug, Clone)]
pub struct ResponseWord {
    pub no_store: bool,
    pub no_cache: Reach,
    pub private: Reach,
    pub public: bool,
    pub must_revalidate: bool,
    pub proxy_revalidate: bool,
    pub must_understand: bool,
    pub max_age: Option<Nanos>,
    pub s_maxage: Option<Nanos>,
    pub stale_while_revalidate: Option<Nanos>,
    pub stale_if_error: Option<Nanos>,
    pub targeted: bool,
}

/// RFC 9213 §2.2: "the cache MUST select the first (in target-list order) field with a valid, non-empty value and use
/// its value to determine the caching policy for the response".
pub fn response_word(fields: &Fields, target_list: &[String]) -> ResponseWord {
    for name in target_list {
        if !has(fields, name) {
            continue;
        }
        let all = lines(fields, name).join(", ");
        // RFC 9213 §2.1: "If a targeted field in a given response is empty, or a parsing error is encountered, that
        // field MUST be ignored by the cache".
        let Some(members) = structured::dictionary(&all) else { continue };
        if members.is_empty() {
            continue;
        }
        return word(&targeted(&members), true);
    }
    word(&directives(fields), false)
}

/// RFC 9213 §2.1 says which structured type stands for which argument.
fn targeted(members: &[(String, Item)]) -> Vec<Directive> {
    let mut found = Vec::new();
    for (name, item) in members {
        let value = match item {
            // Weir: "`no-store=?0` says nothing".
            Item::Boolean(false) => {
                if is_lifetime(name) {
                    Value::Malformed
                } else {
                    continue;
                }
            }
            Item::Boolean(true) => Value::None,
            Item::Integer(value) if *value >= 0 && is_lifetime(name) => Value::Text(value.to_string()),
            // "no-cache … has a value that can be either Boolean true or a string containing a comma-delimited list of
            // field names"; "max-age … has an integer value". Weir: "a lifetime that is no integer is zero".
            Item::Text(text) if !is_lifetime(name) => Value::Text(text.clone()),
            _ => Value::Malformed,
        };
        found.push(Directive { name: name.clone(), value, doubtful: false });
    }
    found
}

fn is_lifetime(name: &str) -> bool {
    ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"].contains(&name)
}

fn word(directives: &[Directive], targeted: bool) -> ResponseWord {
    ResponseWord {
        // RFC 9111 §5.2.2.3 lets must-understand lift no-store: only where it is clear that it says so.
        no_store: flag(directives, "no-store")
            || directives.iter().any(|d| d.name == "must-understand" && !is_clear(d)),
        no_cache: reach(directives, "no-cache"),
        private: reach(directives, "private"),
        public: granted(directives, "public"),
        must_revalidate: flag(directives, "must-revalidate"),
        proxy_revalidate: flag(directives, "proxy-revalidate"),
        must_understand: granted(directives, "must-understand"),
        max_age: lifetime(directives, "max-age"),
        s_maxage: lifetime(directives, "s-maxage"),
        stale_while_revalidate: lifetime(directives, "stale-while-revalidate"),
        stale_if_error: lifetime(directives, "stale-if-error"),
        targeted,
    }
}

/// Weir: "a flag with a needless argument (`no-store=1`): the flag".
fn flag(directives: &[Directive], name: &str) -> bool {
    directives.iter().any(|d| d.name == name)
}

/// Weir: broken quotes are to "distrust what the line grants"; "the reading that stores and reuses less wins".
fn granted(directives: &[Directive], name: &str) -> bool {
    directives.iter().any(|d| d.name == name && is_clear(d))
}

fn is_clear(directive: &Directive) -> bool {
    !directive.doubtful && directive.value != Value::Malformed
}

/// RFC 9111 §4.2.1: "Caches are encouraged to consider responses that have invalid freshness information … to be
/// stale"; "When there is more than one value present for a given directive … either the first occurrence should be
/// used or the response should be considered stale". Weir: "a directive that occurs twice: the shortest lifetime".
fn lifetime(directives: &[Directive], name: &str) -> Option<Nanos> {
    let mut shortest: Option<Nanos> = None;
    for directive in directives {
        if directive.name != name {
            continue;
        }
        let value = match &directive.value {
            Value::Text(text) if !directive.doubtful => delta_seconds(text).unwrap_or(0),
            _ => 0,
        };
        shortest = Some(shortest.map_or(value, |known| known.min(value)));
    }
    shortest
}

/// RFC 9111 §5.2.2.4 and §5.2.2.7: "The qualified form … with an argument that lists one or more field names". Weir:
/// "a field list with a name that is none: the directive without its list".
fn reach(directives: &[Directive], name: &str) -> Reach {
    let mut named = Vec::new();
    let mut present = false;
    for directive in directives {
        if directive.name != name {
            continue;
        }
        present = true;
        let Value::Text(text) = &directive.value else { return Reach::All };
        // Broken quotes may have cut the list short.
        if directive.doubtful {
            return Reach::All;
        }
        let members = split_list(text, true).all();
        if members.is_empty() {
            return Reach::All;
        }
        for member in members {
            if !is_token(&member) {
                return Reach::All;
            }
            named.push(member.to_ascii_lowercase());
        }
    }
    if present { Reach::Named(named) } else { Reach::No }
}

/// Weir: "Treating a named field that is there as the whole response is what RFC 9111 §5.2.2.4 and §5.2.2.7 allow for".
pub fn reaches(reach: &Reach, fields: &Fields) -> bool {
    match reach {
        Reach::No => false,
        Reach::All => true,
        Reach::Named(names) => names.iter().any(|name| has(fields, name)),
    }
}

/// What a request says (RFC 9111 §5.2.1, RFC 5861 §4).
#[derive(Debug, Clone, Default)]
pub struct RequestWord {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Nanos>,
    pub min_fresh: Option<Nanos>,
    pub max_stale: Option<Nanos>,
    pub stale_if_error: Option<Nanos>,
}

/// RFC 9111 §5.4: `Pragma: no-cache` was "defined for HTTP/1.0 caches, so that clients could specify a "no-cache"
/// request". Weir: where there is no `Cache-Control`.
pub fn request_word(fields: &Fields) -> RequestWord {
    if !has(fields, "cache-control") {
        let mut no_cache = false;
        for line in lines(fields, "pragma") {
            for member in split_list(line, true).all() {
                if member.eq_ignore_ascii_case("no-cache") {
                    no_cache = true;
                }
            }
        }
        return RequestWord { no_cache, ..RequestWord::default() };
    }
    let directives = directives(fields);
    RequestWord {
        no_store: flag(&directives, "no-store"),
        no_cache: flag(&directives, "no-cache"),
        only_if_cached: flag(&directives, "only-if-cached"),
        max_age: lifetime(&directives, "max-age"),
        min_fresh: min_fresh(&directives),
        max_stale: max_stale(&directives),
        stale_if_error: lifetime(&directives, "stale-if-error"),
    }
}

/// Weir: "the longest `min-fresh`"; "a malformed one is not there".
fn min_fresh(directives: &[Directive]) -> Option<Nanos> {
    let mut longest: Option<Nanos> = None;
    for directive in directives {
        if directive.name == "min-fresh"
            && !directive.doubtful
            && let Value::Text(text) = &directive.value
            && let Some(value) = delta_seconds(text)
        {
            longest = Some(longest.map_or(value, |known| known.max(value)));
        }
    }
    longest
}

/// RFC 9111 §5.2.1.2: "If no value is assigned to max-stale, then the client will accept a stale response of any age."
/// Weir: "a malformed one is not there"; of two the shortest.
fn max_stale(directives: &[Directive]) -> Option<Nanos> {
    let mut shortest: Option<Nanos> = None;
    for directive in directives {
        if directive.name != "max-stale" || directive.doubtful {
            continue;
        }
        let value = match &directive.value {
            Value::None => Some(LONGEST),
            Value::Text(text) => delta_seconds(text),
            Value::Malformed => None,
        };
        if let Some(value) = value {
            shortest = Some(shortest.map_or(value, |known| known.min(value)));
        }
    }
    shortest
}
