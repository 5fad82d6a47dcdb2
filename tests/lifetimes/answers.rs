//! Answers of a backend, and what their fields say: the table `answers`, made by the functions that read fields.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use weir::semantics::cache_control::ResponseDirectives;
use weir::semantics::freshness;
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::storing::CDN_CACHE_CONTROL;
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::{Selecting, Vary};

use super::table::Table;

/// When every answer comes.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A field as the page shows it; a date is written as a distance from now.
type Field = (&'static str, &'static str);

const CC: &str = "Cache-Control";
const TAGGED: Field = ("ETag", "\"v1\"");

/// What a backend may say.
pub const ANSWERS: &[&[Field]] = &[
    &[],
    &[TAGGED],
    &[("Last-Modified", "10h ago")],
    &[("Last-Modified", "now")],
    &[(CC, "max-age=60")],
    &[(CC, "max-age=3600")],
    &[(CC, "max-age=3600"), TAGGED],
    &[(CC, "max-age=5"), ("Last-Modified", "10h ago")],
    &[(CC, "max-age=0")],
    &[(CC, "max-age=0"), TAGGED],
    &[(CC, "max-age=soon"), TAGGED],
    &[(CC, "max-age=60, max-age=3600")],
    &[(CC, "max-age=3600, s-maxage=60")],
    &[(CC, "s-maxage=3600, stale-while-revalidate=7"), TAGGED],
    &[(CC, "max-age=60, stale-while-revalidate=7, stale-if-error=9")],
    &[(CC, "max-age=3600, must-revalidate"), TAGGED],
    &[(CC, "max-age=60, proxy-revalidate, stale-if-error=9")],
    &[("Expires", "in 1m")],
    &[("Expires", "in 1m"), (CC, "max-age=3600")],
    &[("Expires", "0")],
    &[("CDN-Cache-Control", "max-age=60"), (CC, "no-store")],
    &[("CDN-Cache-Control", "no-store"), (CC, "max-age=60")],
    &[("CDN-Cache-Control", "?"), (CC, "max-age=60")],
    &[(CC, "public")],
    &[(CC, "public"), ("Last-Modified", "10h ago")],
    &[(CC, "immutable")],
    &[("Pragma", "no-cache")],
    &[(CC, "no-store")],
    &[(CC, "no-store, max-age=60")],
    &[(CC, "must-understand, no-store, max-age=60")],
    &[(CC, "private, max-age=60")],
    &[(CC, "private=\"x-name\"")],
    &[(CC, "no-cache")],
    &[(CC, "no-cache"), TAGGED],
    &[(CC, "no-cache, max-age=3600, stale-while-revalidate=7"), ("Last-Modified", "10h ago")],
    &[("Age", "200")],
    &[("Age", "200"), (CC, "max-age=60")],
    &[("Age", "200"), (CC, "max-age=60"), TAGGED],
    &[("Age", "4000"), (CC, "max-age=3600"), TAGGED],
    &[("Set-Cookie", "a=b")],
    &[("Set-Cookie", "a=b"), (CC, "private, no-store")],
    &[("Vary", "*")],
    &[("Vary", "Accept"), (CC, "max-age=60")],
    &[("Content-Range", "bytes 0-9/20"), (CC, "max-age=60")],
];

/// What an answer's fields say, as far as anything depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Says {
    pub flags: Vec<&'static str>,
    pub lifetime: Option<Duration>,
    pub heuristic: Option<Duration>,
    pub while_revalidate: Option<Duration>,
    pub if_error: Option<Duration>,
    pub age: Duration,
}

/// Everything that is said or not, in the page's words.
const FLAGS: [&str; 12] = [
    "`no-store`",
    "`no-cache`",
    "`private`",
    "`public`",
    "`must-revalidate`",
    "`proxy-revalidate`",
    "`must-understand`",
    "`s-maxage`",
    "a validator",
    "`Set-Cookie`",
    "`Vary: *`",
    "`Content-Range`",
];

/// An answer, ready to be judged.
pub struct Spoken {
    pub headers: HeaderMap,
    /// What the page says that it says.
    pub says: Says,
}

/// A date at a distance from now, or the text.
fn value(text: &str) -> HeaderValue {
    let at = match text.strip_prefix("in ").and_then(unshow) {
        Some(ahead) => Some(NOW.plus(ahead)),
        None if text == "now" => Some(NOW),
        None => {
            text.strip_suffix(" ago").and_then(unshow).map(|ago| Timestamp(NOW.0 - ago.as_millis() as u64))
        }
    };
    HeaderValue::try_from(at.map_or_else(|| text.to_owned(), Timestamp::to_http_date)).unwrap()
}

pub fn headers(fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, text) in fields {
        map.append(name.parse::<HeaderName>().unwrap(), value(text));
    }
    map
}

pub fn show_fields(fields: &[Field]) -> String {
    let one = |(name, text): &Field| match text.ends_with(" ago") || text.starts_with("in ") || *text == "now"
    {
        true => format!("`{name}:` {text}"),
        false => format!("`{name}: {text}`"),
    };
    let all: Vec<_> = fields.iter().map(one).collect();
    if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
}

/// `1h`, `5m`, `7s`.
pub fn show(time: Duration) -> String {
    match time.as_secs() {
        0 => "0s".to_owned(),
        s if s % 3600 == 0 => format!("{}h", s / 3600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

pub fn unshow(text: &str) -> Option<Duration> {
    let unit = match text.chars().last()? {
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    Some(Duration::from_secs(text[..text.len() - 1].parse::<u64>().ok()? * unit))
}

impl Says {
    /// What the code reads.
    fn read(headers: &HeaderMap) -> Says {
        let directives = ResponseDirectives::of(headers, &[CDN_CACHE_CONTROL]);
        let stored = StoredResponse::new(
            StatusCode::OK,
            headers.clone(),
            bytes::Bytes::new(),
            NOW,
            NOW,
            Lifetimes::default(),
            Selecting::default(),
        );
        let holds = [
            directives.no_store,
            directives.no_cache.reaches(headers),
            directives.private.reaches(headers),
            directives.public,
            directives.must_revalidate,
            directives.proxy_revalidate,
            directives.must_understand,
            directives.s_maxage.is_some(),
            stored.has_validator(),
            headers.contains_key("set-cookie"),
            Vary::of(headers, &[]) == Vary::Any,
            headers.contains_key("content-range"),
        ];
        Says {
            flags: FLAGS.iter().zip(holds).filter(|(_, holds)| *holds).map(|(flag, _)| *flag).collect(),
            lifetime: freshness::explicit_lifetime(headers, &directives, NOW),
            heuristic: freshness::heuristic_lifetime(headers, NOW),
            while_revalidate: directives.stale_while_revalidate,
            if_error: directives.stale_if_error,
            age: freshness::initial_age(headers, NOW, NOW),
        }
    }

    fn text(&self) -> String {
        let times = [
            ("a lifetime of", self.lifetime),
            ("a heuristic of", self.heuristic),
            ("`stale-while-revalidate` of", self.while_revalidate),
            ("`stale-if-error` of", self.if_error),
            ("an age of", Some(self.age).filter(|age| !age.is_zero())),
        ];
        let times = times.iter().filter_map(|(name, time)| time.map(|t| format!("{name} {}", show(t))));
        let all: Vec<_> = times.chain(self.flags.iter().map(|flag| (*flag).to_owned())).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }

    /// What the page says.
    fn parse(text: &str) -> Says {
        let mut says = Says::default();
        for part in text.split(", ").filter(|part| *part != "nothing") {
            if let Some(flag) = FLAGS.iter().find(|flag| **flag == part) {
                says.flags.push(flag);
                continue;
            }
            let (name, time) = part.rsplit_once(' ').unwrap_or_else(|| panic!("`{part}` says nothing"));
            let time = unshow(time);
            match name {
                "a lifetime of" => says.lifetime = time,
                "a heuristic of" => says.heuristic = time,
                "`stale-while-revalidate` of" => says.while_revalidate = time,
                "`stale-if-error` of" => says.if_error = time,
                "an age of" => says.age = time.unwrap_or_default(),
                _ => panic!("`{part}` says nothing"),
            }
        }
        says
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }
}

/// What the code reads in each answer.
pub fn made() -> Table {
    let row = |fields: &&[Field]| vec![show_fields(fields), Says::read(&headers(fields)).text()];
    Table::whole("answers", 1, &["the backend sends", "it says"], ANSWERS.iter().map(row).collect())
}

/// The answers, each with what the page says that it says.
pub fn spoken(page: &Table) -> Vec<Spoken> {
    assert_eq!(page.rows.len(), ANSWERS.len(), "the answers of the page");
    let one = |(fields, row): (&&[Field], &Vec<String>)| {
        assert_eq!(show_fields(fields), row[0], "the answers of the page, in their order");
        Spoken { headers: headers(fields), says: Says::parse(&row[1]) }
    };
    ANSWERS.iter().zip(&page.rows).map(one).collect()
}
