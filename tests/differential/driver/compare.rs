//! What counts as agreement.

use std::collections::BTreeMap;
use std::fmt::Debug;

use http::HeaderMap;
use weir::semantics::reuse::{Reuse, Validate};
use weir::semantics::stored::{Lifetimes, StoredResponse};

use super::translate::{header_map, nanos, text};
use crate::model::message::{Fields, lines};
use crate::model::reuse::Verdict;
use crate::model::{MILLISECOND, Nanos, Stored, Windows, freshness};

/// Where the two differ.
#[derive(Debug, Clone)]
pub struct Disagreement {
    pub about: String,
    pub weir: String,
    pub model: String,
}

pub type Agreed<T = ()> = Result<T, Box<Disagreement>>;

pub fn differ<T>(about: &str, weir: &impl Debug, model: &impl Debug) -> Agreed<T> {
    Err(Box::new(Disagreement {
        about: about.to_owned(),
        weir: format!("{weir:?}"),
        model: format!("{model:?}"),
    }))
}

pub fn agree<T: PartialEq + Debug>(about: &str, weir: T, model: T) -> Agreed {
    if weir == model { Ok(()) } else { differ(about, &weir, &model) }
}

/// The reason given must be one that there is; which of several is nobody's business.
pub fn agree_on_storing(
    about: &str,
    weir: Result<(), &'static str>,
    model: &Result<(), Vec<&'static str>>,
) -> Agreed {
    match (&weir, model) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(reason), Err(reasons)) if reasons.contains(reason) => Ok(()),
        _ => differ(about, &weir, model),
    }
}

pub fn agree_on_reuse(about: &str, weir: &Reuse, model: &Verdict, stored: &Stored, now: Nanos) -> Agreed {
    let expected_age = freshness::current_age(stored, now);
    let same = match (weir, model) {
        (Reuse::Fresh { age }, Verdict::Fresh)
        | (Reuse::WhileRevalidate { age }, Verdict::WhileRevalidate)
        | (Reuse::ClientAcceptsStale { age }, Verdict::ClientAcceptsStale) => nanos(*age) == expected_age,
        (Reuse::MustValidate(why), Verdict::MustValidate(reasons)) => reasons.contains(&match why {
            Validate::Stale => "stale",
            Validate::ResponseNoCache => "response-no-cache",
            Validate::RequestAsks => "request-asks",
        }),
        (Reuse::Gone, Verdict::Gone) => true,
        _ => false,
    };
    if same { Ok(()) } else { differ(about, weir, &(model, expected_age, &stored.windows)) }
}

pub fn agree_on_stored(about: &str, weir: &StoredResponse, model: &Stored) -> Agreed {
    agree(&format!("{about}: status"), weir.status().as_u16(), model.status)?;
    agree(&format!("{about}: body"), weir.body_bytes(), &model.body[..])?;
    agree(&format!("{about}: fields"), grouped_headers(&weir.fields().to_map(0)), grouped(&model.fields))?;
    agree(&format!("{about}: initial_age"), nanos(weir.initial_age()), model.initial_age)?;
    agree(&format!("{about}: windows"), windows(&weir.lifetimes()), kept(&model.windows))?;
    let mut nominated = model.nominated.clone();
    nominated.sort();
    let names: Vec<String> = weir.selecting().names().map(ToString::to_string).collect();
    agree(&format!("{about}: selecting"), names, nominated)?;
    agree(
        &format!("{about}: matches its own request"),
        weir.selecting().matches(&header_map(&model.original)),
        true,
    )
}

/// In milliseconds that have begun.
pub fn whole(nanos: Nanos) -> Nanos {
    (nanos + MILLISECOND - 1) / MILLISECOND * MILLISECOND
}

/// What is kept has whole milliseconds, as times have: a window ends before the first that lies behind it.
fn kept(windows: &Windows) -> Windows {
    Windows {
        fresh: whole(windows.fresh),
        stale_while_revalidate: whole(windows.stale_while_revalidate),
        stale_if_error: whole(windows.stale_if_error),
        keep: whole(windows.keep),
        ..windows.clone()
    }
}

/// What a client is sent of a response.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Whole,
    Unsatisfiable(String),
    /// `Content-Range` and content of each part.
    Parts(Vec<(String, Vec<u8>)>),
}

/// Takes a `multipart/byteranges` apart (RFC 9110 §14.6, RFC 2046 §5.1.1).
pub fn body_parts(content_type: &str, body: &[u8], stored: &Stored) -> Vec<(String, Vec<u8>)> {
    let broken = |why: &str| vec![(format!("{why}: {content_type}"), body.to_vec())];
    let Some(boundary) = content_type.strip_prefix("multipart/byteranges; boundary=") else {
        return broken("content type");
    };
    let text: String = body.iter().map(|b| char::from(*b)).collect();
    let text = format!("\r\n{text}");
    let Some((inside, _)) = text.rsplit_once(&format!("\r\n--{boundary}--")) else { return broken("end") };
    let mut parts = Vec::new();
    for part in inside.split(&format!("\r\n--{boundary}\r\n")).skip(1) {
        let Some((head, content)) = part.split_once("\r\n\r\n") else { return broken("part") };
        let mut range = String::new();
        let mut kind = None;
        for line in head.split("\r\n") {
            let Some((name, value)) = line.split_once(": ") else { continue };
            if name.eq_ignore_ascii_case("content-range") {
                range = value.to_owned();
            }
            if name.eq_ignore_ascii_case("content-type") {
                kind = Some(value);
            }
        }
        // RFC 9110 §15.3.7.2: "If the selected representation would have had a Content-Type header field in a 200 (OK)
        // response, the server SHOULD generate that same Content-Type header field in the header area of each body part."
        if kind != lines(&stored.fields, "content-type").first().copied() {
            return broken("part's type");
        }
        parts.push((range, content.chars().map(|c| c as u8).collect()));
    }
    parts
}

pub fn grouped(fields: &Fields) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in fields {
        groups.entry(name.clone()).or_default().push(value.clone());
    }
    groups
}

pub fn grouped_headers(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    grouped(&headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
}

pub fn windows(lifetimes: &Lifetimes) -> Windows {
    Windows {
        fresh: nanos(lifetimes.fresh),
        stale_while_revalidate: nanos(lifetimes.stale_while_revalidate),
        stale_if_error: nanos(lifetimes.stale_if_error),
        keep: nanos(lifetimes.keep),
        always_validate: lifetimes.always_validate,
        must_revalidate: lifetimes.must_revalidate,
    }
}
