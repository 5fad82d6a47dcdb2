//! Content codings that this cache applies itself (RFC 9110 §8.4, §12.5.3): which responses, for whom, and what the
//! fields then say.
//!
//! By its fields a response that is kept coded stays the uncoded response that the backend sent: `ETag`, digests and
//! length are that one's. What a client gets is dressed on delivery, as one of two forms of the same response:
//!
//! | | plain | coded |
//! |---|---|---|
//! | `Content-Encoding` | none | the coding |
//! | `ETag` | as the backend gave it | weak: other bytes with the same meaning (RFC 9110 §8.8.3.3) |
//! | digests, `Accept-Ranges` | as the backend gave them | none: they are about other bytes |
//! | `Vary` | with `Accept-Encoding` | with `Accept-Encoding` |
//!
//! Parts are cut from the plain form alone, so that a client never joins bytes of one form with bytes of the other: a
//! weak tag matches no `If-Range`, and `Last-Modified`, which both forms share, is not believed there.
//!
//! It lacks the work itself, which is `coder`'s, and any weighing of `q` beyond refusal.

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::block::Lines;
use super::cache_control::{RequestDirectives, ResponseDirectives};
use super::fields::{self, is_digest};
use super::{lists, validation};

/// A coding that is applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// `gzip` (RFC 9110 §8.4.1.3): understood by nearly every client.
    Gzip,
    /// `br` (RFC 7932).
    Br,
    /// `zstd` (RFC 8878).
    Zstd,
}

impl Coding {
    /// All of them.
    pub const ALL: [Coding; 3] = [Coding::Gzip, Coding::Br, Coding::Zstd];

    /// Its registered name.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Br => "br",
            Coding::Zstd => "zstd",
        }
    }
}

/// How a stored content was coded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coded {
    /// The coding.
    pub coding: Coding,
    /// Length of the content without it, bytes.
    pub length: u64,
}

/// The operator's words about compressing what the backend sends uncoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// The one coding that is kept.
    pub coding: Coding,
    /// How hard to try, in the coding's own scale.
    pub level: u8,
    /// Content of a known length below this is left alone, bytes.
    pub min_size: u64,
    /// Media types that are worth it.
    pub types: Vec<MediaRange>,
}

/// `type/subtype`, `type/*` or `type/*+suffix`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaRange {
    kind: String,
    sub: Sub,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Sub {
    Any,
    Suffix(String),
    Exactly(String),
}

impl MediaRange {
    /// Reads one; `None` where it is none. Parameters are no part of it.
    pub fn parse(text: &str) -> Option<MediaRange> {
        let lower = text.trim().to_ascii_lowercase();
        let (kind, sub) = lower.split_once('/')?;
        // A token, as field names are.
        let token = |t: &str| HeaderName::from_bytes(t.as_bytes()).is_ok() && !t.contains('*');
        let sub = match sub.strip_prefix('*') {
            Some("") => Sub::Any,
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('+') && token(suffix) => {
                Sub::Suffix(suffix.to_owned())
            }
            Some(_) => return None,
            None => Sub::Exactly(sub.to_owned()),
        };
        let sound = token(kind) && !matches!(&sub, Sub::Exactly(exact) if !token(exact));
        sound.then(|| MediaRange { kind: kind.to_owned(), sub })
    }

    /// Whether a media type without parameters, in lower case, is in it.
    fn contains(&self, kind: &str, sub: &str) -> bool {
        self.kind == kind
            && match &self.sub {
                Sub::Any => true,
                Sub::Suffix(suffix) => sub.ends_with(suffix),
                Sub::Exactly(exact) => sub == exact,
            }
    }
}

/// What becomes much smaller, as a rule.
pub const COMPRESSIBLE: [&str; 10] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/x-ndjson",
    "application/javascript",
    "application/xml",
    "application/*+xml",
    "application/graphql",
    "application/wasm",
    "image/svg+xml",
];

/// Why a response is not coded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncoded {
    /// The backend has coded it.
    Already,
    /// `Cache-Control: no-transform` (RFC 9111 §5.2.2.6).
    NoTransform,
    /// A stream of events, whose readers want each as it comes.
    Endless,
    /// It has no content (204), or claims to be a part.
    Nothing,
    /// It is shorter than the operator's bound.
    Small,
    /// Its media type is not among the operator's, or it names none.
    Type,
}

/// Whether a response is to be coded. `length` is what it declares, bytes.
pub fn admit(
    words: &Compression,
    status: StatusCode,
    response: &HeaderMap,
    length: Option<u64>,
    target_list: &[HeaderName],
) -> Result<Coding, Uncoded> {
    if is_coded(response) {
        return Err(Uncoded::Already);
    }
    if is_untouchable(response, target_list) {
        return Err(Uncoded::NoTransform);
    }
    if fields::is_event_stream(response) {
        return Err(Uncoded::Endless);
    }
    if status == StatusCode::NO_CONTENT || response.contains_key(CONTENT_RANGE) || length == Some(0) {
        return Err(Uncoded::Nothing);
    }
    if length.is_some_and(|length| length < words.min_size) {
        return Err(Uncoded::Small);
    }
    if is_of(response, &words.types) { Ok(words.coding) } else { Err(Uncoded::Type) }
}

/// Whether nobody may touch the content. That is no matter of caching alone: a word to all caches counts beside a
/// targeted one.
pub fn is_untouchable(response: &HeaderMap, target_list: &[HeaderName]) -> bool {
    let said = |list| ResponseDirectives::of(response, list).no_transform;
    said(&[]) || said(target_list)
}

fn is_of(response: &HeaderMap, types: &[MediaRange]) -> bool {
    let line = super::sole(response, &CONTENT_TYPE).and_then(|line| line.to_str().ok());
    let essence = line.map(|line| line.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    essence
        .as_deref()
        .and_then(|essence| essence.split_once('/'))
        .is_some_and(|(kind, sub)| types.iter().any(|range| range.contains(kind, sub)))
}

/// Whether the content came coded: whoever gets it must have asked for that.
pub fn is_coded(response: &impl Lines) -> bool {
    response
        .lines(&CONTENT_ENCODING)
        .flat_map(lists::members)
        .any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
}

/// In which form a client gets a response that is coded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As the backend sent it.
    Plain,
    /// Coded.
    Coded,
}

/// The form for this request; `part` where a part is asked for. A client that says nothing about codings gets none,
/// though RFC 9110 §12.5.3 would allow any.
pub fn form(request: &HeaderMap, coding: Coding, part: bool) -> Form {
    let accepted = fields::accepts(request, coding.as_str());
    // Nobody may touch what this client gets (RFC 9111 §5.2.1.6): the plain form is what the backend sent.
    let untouched = || RequestDirectives::of(request).no_transform;
    let plain = (part && fields::accepts(request, "identity")) || !accepted || untouched();
    if plain { Form::Plain } else { Form::Coded }
}

/// Makes the fields of the uncoded response those of the form that is sent. Who sends it says how long it is.
pub fn dress(headers: &mut HeaderMap, coding: Coding, form: Form) {
    add_vary(headers);
    if form == Form::Plain {
        return;
    }
    strip_digests(headers);
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
    match validation::etag(headers).and_then(weak) {
        Some(tag) => drop(headers.insert(ETAG, tag)),
        None => drop(headers.remove(ETAG)),
    }
}

/// Removes checksums of the plain form's bytes.
pub fn strip_digests(fields: &mut HeaderMap) {
    let digests: Vec<HeaderName> = fields.keys().filter(|name| is_digest(name)).cloned().collect();
    for name in &digests {
        fields.remove(name);
    }
}

/// A weak tag with the same opaque part; `None` for what is no entity tag.
fn weak(tag: &[u8]) -> Option<HeaderValue> {
    match tag {
        [b'W', b'/', b'"', ..] => HeaderValue::from_bytes(tag).ok(),
        strong @ [b'"', .., b'"'] => HeaderValue::from_bytes(&[b"W/", strong].concat()).ok(),
        _ => None,
    }
}

fn add_vary(headers: &mut HeaderMap) {
    let named = |wanted: &[u8]| {
        headers
            .get_all(VARY)
            .iter()
            .flat_map(|line| lists::members(line.as_bytes()))
            .any(|name| name.eq_ignore_ascii_case(wanted))
    };
    if !named(ACCEPT_ENCODING.as_str().as_bytes()) && !named(b"*") {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests;
