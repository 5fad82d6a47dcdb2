//! Fields put together from the pieces of their grammar, in any order: both sides must read the same in them.

use http::header::{AGE, CACHE_CONTROL, RANGE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use weir::semantics::cache_control::{RequestDirectives, ResponseDirectives, Scope};
use weir::semantics::ranges::{Slice, slice};
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::validation::{Precondition, evaluate};
use weir::semantics::vary::{Selecting, Vary};
use weir::semantics::{fields, freshness};

use crate::driver::{Agreed, agree, header_map, nanos, text};
use crate::generator::Rng;
use crate::model::cache_control::{Reach, RequestWord, ResponseWord, request_word, response_word};
use crate::model::message::Fields;
use crate::model::ranges::Answer;
use crate::model::{self, MILLISECOND, Nanos, Request, Stored, Windows, dates};

const DIRECTIVES: [&str; 56] = [
    "max-age",
    "max-age=",
    "MAX-AGE=",
    "s-maxage=",
    "no-cache",
    "no-cache=",
    "private",
    "private=",
    "no-store",
    "public",
    "must-understand",
    "must-revalidate",
    "proxy-revalidate",
    "stale-if-error=",
    "stale-while-revalidate=",
    "min-fresh=",
    "max-stale",
    "max-stale=",
    "only-if-cached",
    "x",
    "5",
    "60",
    "0",
    "2147483648",
    "99999999999999999999",
    "-",
    "+",
    ".",
    ",",
    ",",
    ",",
    ", ",
    " ",
    "\t",
    "=",
    "\"",
    "\"",
    "\"",
    "\\",
    ";",
    "x-a",
    "etag",
    "*",
    "?0",
    "?1",
    "(",
    ")",
    ":",
    "é",
    "'",
    "/",
    "\"etag\"",
    "\"x-a, b\"",
    "=1",
    "max-age=5",
    ",,",
];

const SELECTING: [&str; 16] = [
    "accept",
    "Accept",
    "x-v",
    "*",
    ",",
    ",",
    ", ",
    " ",
    "\t",
    "\"",
    "/",
    "é",
    "_",
    ";",
    "accept-encoding",
    "\\",
];

const CODINGS: [&str; 30] = [
    "gzip", "GZIP", "x-gzip", "br", "zstd", "identity", "*", "deflate", ",", ",", ", ", " ", ";", ";q=",
    ";Q=", "q", "=", "0", "1", "0.5", ".", "0.000", "1.000", "1.001", "0.0001", "\"", "\t", "; q=0", ";q=0",
    ";x=1",
];

const POSITIONS: [&str; 20] = [
    "bytes",
    "Bytes",
    "=",
    "bytes=",
    "bytes=",
    "-",
    "-",
    ",",
    ", ",
    " ",
    "0",
    "1",
    "5",
    "9",
    "10",
    "99999999999999999999999",
    "x",
    "\"",
    "+",
    "0-0",
];

const TAGS: [&str; 16] = [
    "\"a\"", "W/\"a\"", "\"b\"", "W/", "\"", "a", ",", ",", " ", "*", "w/", "\\", "\"\"", ", ", "\"a,b\"",
    ";",
];

const AGES: [&str; 12] =
    ["0", "7", "99999999999999999999", "2147483649", ",", " ", "-", "+", ".", "\"", "x", ";"];

/// One of everything.
pub fn compare(rng: &mut Rng) -> Agreed {
    cache_control(rng)?;
    selecting(rng)?;
    codings(rng)?;
    ranges(rng)?;
    tags(rng)?;
    ages(rng)?;
    date(rng)
}

/// Up to two lines of up to nine pieces.
fn lines(rng: &mut Rng, name: &str, pieces: &[&str]) -> Fields {
    let mut lines = Fields::new();
    for _ in 0..if rng.chance(20) { 2 } else { 1 } {
        let mut line = String::new();
        for _ in 0..rng.below(10) {
            line.push_str(rng.pick::<&str>(pieces));
        }
        lines.push((name.to_owned(), line.trim_matches([' ', '\t']).to_owned()));
    }
    lines
}

fn about(what: &str, fields: &Fields) -> String {
    format!("{what} of {:?}", fields.iter().map(|(_, value)| value).collect::<Vec<_>>())
}

fn cache_control(rng: &mut Rng) -> Agreed {
    let written = lines(rng, CACHE_CONTROL.as_str(), &DIRECTIVES);
    let headers = header_map(&written);
    let none: [HeaderName; 0] = [];
    let word = response_word(&written, &[]);
    agree(&about("response", &written), said(&ResponseDirectives::of(&headers, &none)), meant(&word))?;
    let asked = asked(&RequestDirectives::of(&headers));
    agree(&about("request", &written), asked, wanted(&request_word(&written)))?;
    // The same pieces, read as a structured field.
    let cdn = HeaderName::from_static("cdn-cache-control");
    let targeted: Fields = written.iter().map(|(_, value)| (cdn.to_string(), value.clone())).collect();
    let theirs = ResponseDirectives::of(&header_map(&targeted), std::slice::from_ref(&cdn));
    let ours = response_word(&targeted, &[cdn.to_string()]);
    agree(&about("targeted", &targeted), said(&theirs), meant(&ours))
}

type Said = (Vec<bool>, Vec<Option<Nanos>>, [Reach; 2]);

fn said(found: &ResponseDirectives) -> Said {
    let reach = |scope: &Scope| match scope {
        Scope::Absent => Reach::No,
        Scope::Whole => Reach::All,
        Scope::Fields(names) => Reach::Named(sorted(names.iter().map(ToString::to_string))),
    };
    let flags = vec![
        found.no_store,
        found.public,
        found.must_revalidate,
        found.proxy_revalidate,
        found.must_understand,
        found.targeted,
    ];
    let spans = [found.max_age, found.s_maxage, found.stale_while_revalidate, found.stale_if_error];
    (flags, spans.iter().map(|s| s.map(nanos)).collect(), [reach(&found.no_cache), reach(&found.private)])
}

fn meant(word: &ResponseWord) -> Said {
    let reach = |reach: &Reach| match reach {
        Reach::Named(names) => Reach::Named(sorted(names.iter().cloned())),
        other => other.clone(),
    };
    let flags = vec![
        word.no_store,
        word.public,
        word.must_revalidate,
        word.proxy_revalidate,
        word.must_understand,
        word.targeted,
    ];
    let spans = vec![word.max_age, word.s_maxage, word.stale_while_revalidate, word.stale_if_error];
    (flags, spans, [reach(&word.no_cache), reach(&word.private)])
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

type Asked = ([bool; 3], [Option<Nanos>; 4]);

fn asked(found: &RequestDirectives) -> Asked {
    let spans = [found.max_age, found.min_fresh, found.max_stale, found.stale_if_error];
    ([found.no_store, found.no_cache, found.only_if_cached], spans.map(|span| span.map(nanos)))
}

fn wanted(word: &RequestWord) -> Asked {
    let spans = [word.max_age, word.min_fresh, word.max_stale, word.stale_if_error];
    ([word.no_store, word.no_cache, word.only_if_cached], spans)
}

fn selecting(rng: &mut Rng) -> Agreed {
    let written = lines(rng, VARY.as_str(), &SELECTING);
    let theirs = match Vary::of(&header_map(&written), &[]) {
        Vary::None => Some(Vec::new()),
        Vary::Fields(names) => Some(sorted(names.iter().map(ToString::to_string))),
        Vary::Any => None,
    };
    let ours = model::vary::nominated(&written).map(|names| sorted(names.into_iter()));
    agree(&about("Vary", &written), theirs, ours)
}

fn codings(rng: &mut Rng) -> Agreed {
    let written = lines(rng, "accept-encoding", &CODINGS);
    let theirs = fields::accept_encoding(&header_map(&written)).map(|value| text(&value));
    agree(&about("Accept-Encoding", &written), theirs, model::vary::accept_encoding(&written))
}

fn ranges(rng: &mut Rng) -> Agreed {
    let written = lines(rng, RANGE.as_str(), &POSITIONS);
    let (weir, model) = stored(&[]);
    let theirs = match slice(&Method::GET, &header_map(&written), &weir) {
        Slice::Whole => "whole".to_owned(),
        Slice::Unsatisfiable { .. } => "none".to_owned(),
        Slice::Single { content_range, .. } => content_range,
        Slice::Multiple { .. } => "several".to_owned(),
        Slice::Coded { .. } => "coded".to_owned(),
    };
    let request = Request { method: "GET".to_owned(), fields: written.clone() };
    let ours = match model::ranges::answer(&request, &model) {
        Answer::Whole => "whole".to_owned(),
        Answer::Unsatisfiable => "none".to_owned(),
        Answer::Parts(parts) if parts.len() > 1 => "several".to_owned(),
        Answer::Parts(parts) => format!("bytes {}-{}/10", parts[0].0, parts[0].1),
    };
    agree(&about("Range", &written), theirs, ours)
}

fn tags(rng: &mut Rng) -> Agreed {
    let mut written = lines(rng, "if-none-match", &TAGS);
    let tag = rng.pick(&TAGS[..7]).trim_matches(' ');
    let (weir, model) = stored(&[("etag", tag)]);
    let theirs = evaluate(&Method::GET, &header_map(&written), &weir) == Precondition::NotModified;
    let request = Request { method: "GET".to_owned(), fields: written.clone() };
    let ours = model::validation::is_not_modified(&request, &model);
    written.push(("etag".to_owned(), tag.to_owned()));
    agree(&about("If-None-Match", &written), theirs, ours)
}

fn ages(rng: &mut Rng) -> Agreed {
    let written = lines(rng, AGE.as_str(), &AGES);
    let theirs = nanos(freshness::age_value(&header_map(&written)));
    agree(&about("Age", &written), theirs, model::freshness::age_value(&written))
}

/// A date in one of the three formats, with a little damage.
fn date(rng: &mut Rng) -> Agreed {
    let at = rng.below(9_000_000_000_000) as Nanos * MILLISECOND;
    let mut written: Vec<char> = crate::generator::any_date(rng, at).chars().collect();
    for _ in 0..rng.below(4) {
        let (place, new) = (
            rng.below(written.len()),
            *rng.pick(&['0', '1', '3', '9', ' ', ':', '-', ',', 'a', 'T', '\t', 'é']),
        );
        match rng.below(3) {
            0 => written[place] = new,
            1 => written.insert(place, new),
            _ => drop(written.remove(place)),
        }
    }
    let written: String = written.into_iter().collect();
    let written = written.trim_matches([' ', '\t']);
    let bytes: Vec<u8> = written.chars().map(|c| c as u8).collect();
    let theirs = Timestamp::from_field(&HeaderValue::from_bytes(&bytes).unwrap());
    let ours = dates::parse(written);
    agree(&format!("the date {written:?}"), theirs.map(|t| Nanos::from(t.0) * MILLISECOND), ours)
}

/// Ten bytes, on either side.
fn stored(fields: &[(&str, &str)]) -> (StoredResponse, Stored) {
    let fields: Fields =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let headers: HeaderMap = header_map(&fields);
    let weir = StoredResponse::new(
        StatusCode::OK,
        headers,
        bytes::Bytes::from_static(b"0123456789"),
        Timestamp(0),
        Timestamp(0),
        Lifetimes::default(),
        Selecting::default(),
    );
    let windows = Windows {
        fresh: 0,
        stale_while_revalidate: 0,
        stale_if_error: 0,
        keep: 0,
        always_validate: false,
        must_revalidate: false,
    };
    let model = Stored {
        status: 200,
        fields,
        body: b"0123456789".to_vec(),
        response_time: 0,
        initial_age: 0,
        windows,
        nominated: Vec::new(),
        original: Fields::new(),
    };
    (weir, model)
}
