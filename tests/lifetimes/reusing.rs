//! May what is kept answer a request? Tables `clients-at-a-glance`, `asks`, `use`, `softened`, `errors`, `softened-errors` and `vouching`, and the
//! walk that asks them and `semantics::reuse` about every way of being kept, at every age that matters.

use std::collections::BTreeSet;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use weir::semantics::cache_control::{LONGEST, RequestDirectives};
use weir::semantics::reuse::{
    Reuse, Validate, decide, decide_stale, on_error, on_error_stale, only_if_cached,
};
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::storing::Terms;
use weir::semantics::timestamp::Timestamp;
use weir::semantics::validation::conditional_fields;
use weir::semantics::vary::Selecting;

use super::answers::{NOW, headers, show, show_fields, unshow};
use super::table::{Holds, Rules, Table, Vocabulary, disagreement, fit};

const CC: &str = "Cache-Control";

/// What a client may send.
const REQUESTS: &[&[(&str, &str)]] = &[
    &[],
    &[(CC, "no-cache")],
    &[("Pragma", "no-cache")],
    &[("Pragma", "no-cache"), (CC, "max-age=30")],
    &[(CC, "max-age=0")],
    &[(CC, "max-age=30")],
    &[(CC, "max-age=100000")],
    &[(CC, "max-age=later")],
    &[(CC, "min-fresh=10")],
    &[(CC, "min-fresh=100000")],
    &[(CC, "max-stale")],
    &[(CC, "max-stale=5")],
    &[(CC, "max-age=30, max-stale")],
    &[(CC, "max-age=100000, max-stale=35")],
    &[(CC, "min-fresh=10, max-stale")],
    &[(CC, "no-cache, max-stale")],
    &[(CC, "stale-if-error=20")],
    &[(CC, "stale-if-error=100000")],
    &[(CC, "stale-if-error=0")],
    &[(CC, "no-cache, stale-if-error=20")],
    &[(CC, "no-store")],
    &[(CC, "only-if-cached, max-stale")],
];

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asks {
    no_cache: bool,
    only_if_cached: bool,
    no_store: bool,
    max_age: Option<Duration>,
    min_fresh: Option<Duration>,
    max_stale: Option<Duration>,
    if_error: Option<Duration>,
}

const TIMES: [&str; 4] = ["`max-age` of", "`min-fresh` of", "`max-stale` of", "`stale-if-error` of"];
const FLAGS: [&str; 3] = ["`no-cache`", "`only-if-cached`", "`no-store`"];

impl Asks {
    fn read(headers: &HeaderMap) -> Asks {
        let said = RequestDirectives::of(headers);
        Asks {
            no_cache: said.no_cache,
            only_if_cached: only_if_cached(headers),
            no_store: said.no_store,
            max_age: said.max_age,
            min_fresh: said.min_fresh,
            max_stale: said.max_stale,
            if_error: said.stale_if_error,
        }
    }

    fn text(&self) -> String {
        let length = |time| if time == LONGEST { "any length".to_owned() } else { show(time) };
        let times = [self.max_age, self.min_fresh, self.max_stale, self.if_error];
        let times =
            TIMES.iter().zip(times).filter_map(|(name, time)| time.map(|t| format!("{name} {}", length(t))));
        let flags = [self.no_cache, self.only_if_cached, self.no_store];
        let flags = FLAGS.iter().zip(flags).filter(|(_, said)| *said).map(|(name, _)| (*name).to_owned());
        let all: Vec<_> = flags.chain(times).collect();
        if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
    }

    fn parse(text: &str) -> Asks {
        let mut asks = Asks::default();
        for part in text.split(", ").filter(|part| *part != "nothing") {
            let time = |name: &str| {
                let length = part.strip_prefix(name)?.trim();
                if length == "any length" { Some(LONGEST) } else { unshow(length) }
            };
            let [max_age, min_fresh, max_stale, if_error] = TIMES.map(time);
            asks.no_cache |= part == FLAGS[0];
            asks.only_if_cached |= part == FLAGS[1];
            asks.no_store |= part == FLAGS[2];
            asks.max_age = asks.max_age.or(max_age);
            asks.min_fresh = asks.min_fresh.or(min_fresh);
            asks.max_stale = asks.max_stale.or(max_stale);
            asks.if_error = asks.if_error.or(if_error);
            assert!(asks != Asks::default(), "`{part}` asks for nothing");
        }
        asks
    }
}

/// The table of requests as the code reads them.
pub fn asks_made() -> Table {
    let row = |fields: &&[(&'static str, &'static str)]| {
        vec![show_fields(fields), Asks::read(&headers(fields)).text()]
    };
    Table::whole("asks", 1, &["the client sends", "it asks for"], REQUESTS.iter().map(row).collect())
}

/// A request for something that is kept and has this age.
#[derive(Debug, Clone, Copy)]
struct Use {
    lifetimes: Lifetimes,
    age: Duration,
    asks: Asks,
}

impl Use {
    fn end(&self) -> Duration {
        let l = &self.lifetimes;
        l.fresh + l.stale_while_revalidate.max(l.stale_if_error).max(l.keep)
    }

    fn staleness(&self) -> Duration {
        self.age.saturating_sub(self.lifetimes.fresh)
    }
}

const YOUNG: &str = "`max-age` of 0s or below its age";
const LEFT: &str = "`min-fresh` above what is left";
const ALONE: &str = "`max-age` without `max-stale`";
const REACHES: &str = "`max-stale` that reaches so far";
const SHORT: &str = "`max-stale` that does not reach so far";
const ERROR_REACHES: &str = "`stale-if-error` that reaches so far";
const LEAVE: &str = "stale by the client's leave";
const EACH_TIME: &str = "validated each time";
const OVER: &str = "after all windows";
const WHILE: &str = "before the end of `stale-while-revalidate`";
const IF_ERROR: &str = "before the end of `stale-if-error`";

fn word(text: &str) -> Option<Holds<Use>> {
    let holds: fn(&Use) -> bool = match text {
        OVER => |u| u.age >= u.end(),
        EACH_TIME => |u| u.lifetimes.always_validate,
        LEAVE => |u| !u.lifetimes.must_revalidate,
        "fresh" => |u| u.age < u.lifetimes.fresh,
        WHILE => |u| u.age < u.lifetimes.fresh + u.lifetimes.stale_while_revalidate,
        IF_ERROR => |u| u.age < u.lifetimes.fresh + u.lifetimes.stale_if_error,
        "a window `stale-while-revalidate`" => |u| !u.lifetimes.stale_while_revalidate.is_zero(),
        "a window `stale-if-error`" => |u| !u.lifetimes.stale_if_error.is_zero(),
        "`no-cache`" => |u| u.asks.no_cache,
        "`min-fresh`" => |u| u.asks.min_fresh.is_some(),
        YOUNG => |u| u.asks.max_age.is_some_and(|limit| limit.is_zero() || limit < u.age),
        LEFT => |u| u.asks.min_fresh.is_some_and(|wanted| u.age + wanted > u.lifetimes.fresh),
        ALONE => |u| u.asks.max_age.is_some() && u.asks.max_stale.is_none(),
        REACHES => |u| u.asks.max_stale.is_some_and(|limit| u.staleness() <= limit),
        SHORT => |u| u.asks.max_stale.is_some_and(|limit| u.staleness() > limit),
        ERROR_REACHES => |u| u.asks.if_error.is_some_and(|limit| u.age < u.lifetimes.fresh + limit),
        "is not 0s" => |u| u.asks.if_error.is_some_and(|limit| !limit.is_zero()),
        _ => return None,
    };
    Some(Box::new(holds))
}

const CONDITIONS: [&str; 2] = ["what is kept", "the client asks for"];
const HEADS: [&str; 2] = ["`client_refresh = true`", "`client_refresh = false`"];

fn open_use() -> Table {
    let rows: &[&[&str]] = &[
        &[OVER, "any"],
        &[EACH_TIME, "any"],
        &["any", "`no-cache`"],
        &["fresh", YOUNG],
        &["fresh", LEFT],
        &["fresh", "any"],
        &["any", "`min-fresh`"],
        &["any", ALONE],
        &["any", YOUNG],
        &["any", SHORT],
        &[WHILE, "any"],
        &[LEAVE, REACHES],
        &["any", "any"],
    ];
    Table::open("use", &CONDITIONS, &HEADS, rows)
}

fn open_softened() -> Table {
    let rows: &[&[&str]] = &[
        &[OVER, "any"],
        &[EACH_TIME, "any"],
        &["any", "`no-cache`"],
        &["any", "`min-fresh`"],
        &["any", ALONE],
        &["any", YOUNG],
        &["any", SHORT],
        &["a window `stale-while-revalidate` and before the end of `stale-while-revalidate`", "any"],
        &["any", "any"],
    ];
    Table::open("softened", &CONDITIONS, &HEADS, rows)
}

fn open_errors() -> Table {
    let rows: &[&[&str]] = &[
        &[OVER, "any"],
        &[EACH_TIME, "any"],
        &["any", "`no-cache`"],
        &[IF_ERROR, "any"],
        &[LEAVE, ERROR_REACHES],
        &["any", "any"],
    ];
    Table::open("errors", &CONDITIONS, &HEADS, rows)
}

fn open_softened_errors() -> Table {
    let rows: &[&[&str]] = &[
        &[OVER, "any"],
        &[EACH_TIME, "any"],
        &["any", "`no-cache`"],
        &["a window `stale-if-error` and before the end of `stale-if-error`", "any"],
        &[LEAVE, "`stale-if-error` that reaches so far and is not 0s"],
        &["any", "any"],
    ];
    Table::open("softened-errors", &CONDITIONS, &HEADS, rows)
}

/// What comes of a request; the age is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fresh,
    Behind,
    Accepted,
    Validated(Validate),
    Gone,
    StandsIn,
    Error,
}

fn outcomes() -> Vocabulary<Use, Outcome> {
    Vocabulary::new()
        .word("answered", |_| Outcome::Fresh)
        .word("answered stale, refreshed behind", |_| Outcome::Behind)
        .word("answered stale", |_| Outcome::Accepted)
        .word("validated, being stale", |_| Outcome::Validated(Validate::Stale))
        .word("validated, as `no-cache` says", |_| Outcome::Validated(Validate::ResponseNoCache))
        .word("validated, as asked", |_| Outcome::Validated(Validate::RequestAsks))
        .word("fetched", |_| Outcome::Gone)
        .word("answered stale instead", |_| Outcome::StandsIn)
        .word("the error", |_| Outcome::Error)
}

fn decided(age: Duration, reuse: Reuse) -> Outcome {
    let (told, outcome) = match reuse {
        Reuse::Fresh { age } => (age, Outcome::Fresh),
        Reuse::WhileRevalidate { age } => (age, Outcome::Behind),
        Reuse::ClientAcceptsStale { age } => (age, Outcome::Accepted),
        Reuse::MustValidate(why) => (age, Outcome::Validated(why)),
        Reuse::Gone => (age, Outcome::Gone),
    };
    assert_eq!(told, age);
    outcome
}

type Judge = fn(&StoredResponse, &HeaderMap, Timestamp, &Terms) -> Outcome;

const JUDGES: [Judge; 4] = [
    |stored, request, now, terms| decided(stored.current_age(now), decide(stored, request, now, terms)),
    |stored, request, now, terms| decided(stored.current_age(now), decide_stale(stored, request, now, terms)),
    |stored, request, now, terms| match on_error(stored, request, now, terms) {
        true => Outcome::StandsIn,
        false => Outcome::Error,
    },
    |stored, request, now, terms| match on_error_stale(stored, request, now, terms) {
        true => Outcome::StandsIn,
        false => Outcome::Error,
    },
];

fn open() -> [Table; 4] {
    [open_use(), open_softened(), open_errors(), open_softened_errors()]
}

/// Every use of every kept answer.
pub struct Walk {
    cases: Vec<(Use, HeaderMap)>,
}

impl Walk {
    /// `asks` as the page has it.
    pub fn new<'a>(kept: impl Iterator<Item = &'a Lifetimes>, asks: &Table) -> Walk {
        assert_eq!(asks.rows.len(), REQUESTS.len(), "the requests of the page");
        let requests: Vec<_> = REQUESTS
            .iter()
            .zip(&asks.rows)
            .map(|(fields, row)| {
                assert_eq!(show_fields(fields), row[0], "the requests of the page, in their order");
                (headers(fields), Asks::parse(&row[1]))
            })
            .collect();
        let mut cases = Vec::new();
        for lifetimes in kept {
            for age in ages(lifetimes) {
                for (headers, asks) in &requests {
                    cases.push((Use { lifetimes: *lifetimes, age, asks: *asks }, headers.clone()));
                }
            }
        }
        Walk { cases }
    }

    fn each(&self, judge: Judge) -> impl Iterator<Item = (&Use, usize, Outcome)> {
        self.cases.iter().flat_map(move |(case, headers)| {
            let (stored, now) = (stored(case.lifetimes), NOW.plus(case.age));
            [true, false].into_iter().enumerate().map(move |(column, client_refresh)| {
                let terms = Terms { client_refresh, ..Terms::default() };
                (case, column, judge(&stored, headers, now, &terms))
            })
        })
    }

    pub fn made(&self) -> Vec<Table> {
        let tables = open().into_iter().zip(JUDGES);
        tables
            .map(|(open, judge)| {
                fit(&open, word, &outcomes(), |say| {
                    self.each(judge).for_each(|(case, column, outcome)| say(case, column, outcome));
                })
            })
            .collect()
    }

    /// Asks the page about every use. Returns how many there were.
    pub fn compare(&self, page: &str) -> usize {
        let mut count = 0;
        for (open, judge) in open().into_iter().zip(JUDGES) {
            let table = open.read_from(page);
            assert_eq!(table.skeleton(), open.skeleton(), "the table {}", table.name);
            let vocabulary = outcomes();
            let rules = Rules::compile(&table, word, &vocabulary);
            for (case, column, outcome) in self.each(judge) {
                let told = rules.ask(case, column);
                let what = format!("{}, {}:", table.name, HEADS[column]);
                assert!(told == Some(outcome), "{}", disagreement(&what, case, &told, &outcome));
                count += 1;
            }
            rules.assert_none_idle();
        }
        count
    }
}

/// Both sides of every moment at which something may change.
fn ages(lifetimes: &Lifetimes) -> BTreeSet<Duration> {
    let secs = Duration::from_secs;
    let l = lifetimes;
    let ends =
        [Duration::ZERO, l.stale_while_revalidate, l.stale_if_error, l.keep, secs(5), secs(20), secs(35)];
    let moments = ends.map(|window| l.fresh + window).into_iter().chain([
        Duration::ZERO,
        secs(30),
        l.fresh.saturating_sub(secs(10)),
        l.fresh / 2,
    ]);
    let step = Duration::from_millis(1);
    moments.flat_map(|at| [at.saturating_sub(step), at, at + step]).collect()
}

fn stored(lifetimes: Lifetimes) -> StoredResponse {
    with_fields(HeaderMap::new(), lifetimes)
}

fn with_fields(headers: HeaderMap, lifetimes: Lifetimes) -> StoredResponse {
    StoredResponse::new(
        StatusCode::OK,
        headers,
        bytes::Bytes::new(),
        NOW,
        NOW,
        lifetimes,
        Selecting::default(),
    )
}

/// What each request comes to, by the age of what is kept.
pub fn clients_made() -> Table {
    let secs = Duration::from_secs;
    let lifetimes = Lifetimes {
        fresh: secs(300),
        stale_while_revalidate: secs(30),
        stale_if_error: secs(40),
        keep: secs(60),
        ..Lifetimes::default()
    };
    let columns: [(&str, u64, Judge); 7] = [
        ("fresh: 100s old", 100, JUDGES[0]),
        ("stale for 10s", 310, JUDGES[0]),
        ("stale for 50s", 350, JUDGES[0]),
        ("stale for 60s", 360, JUDGES[0]),
        ("softly purged, 100s old", 100, JUDGES[1]),
        ("the backend fails, stale for 35s", 335, JUDGES[2]),
        ("the backend fails, stale for 50s", 350, JUDGES[2]),
    ];
    let cells = |fields: &[(&'static str, &'static str)], client_refresh| {
        let request = headers(fields);
        let terms = Terms { client_refresh, ..Terms::default() };
        columns.map(|(_, age, judge)| {
            let outcome = judge(&stored(lifetimes), &request, NOW.plus(secs(age)), &terms);
            let known = matches!(outcome, Outcome::Fresh | Outcome::Behind | Outcome::Accepted);
            if only_if_cached(&request) && !known {
                return "504".to_owned();
            }
            let word = outcomes().0.into_iter().find(|(_, value)| {
                let nothing = Use { lifetimes, age: secs(age), asks: Asks::default() };
                value(&nothing) == outcome
            });
            word.unwrap().0
        })
    };
    let asked =
        REQUESTS.iter().map(|fields| [vec![show_fields(fields)], cells(fields, true).to_vec()].concat());
    // With `client_refresh = false` all others are as one.
    let deaf: Vec<_> = REQUESTS.iter().filter(|fields| !only_if_cached(&headers(fields))).collect();
    let same = cells(&[], false);
    assert!(deaf.iter().all(|fields| cells(fields, false) == same));
    let last = [
        vec!["any of these with `client_refresh = false`, but for `only-if-cached`".to_owned()],
        same.to_vec(),
    ];
    let heads: Vec<_> = ["the client sends"].into_iter().chain(columns.map(|(name, ..)| name)).collect();
    Table::whole("clients-at-a-glance", 1, &heads, asked.chain([last.concat()]).collect())
}

/// By which of its fields a kept answer can be asked about.
pub fn vouching_made() -> Table {
    let answers: &[&[(&str, &str)]] = &[
        &[],
        &[("ETag", "\"v1\"")],
        &[("ETag", "W/\"v1\"")],
        &[("Last-Modified", "10h ago")],
        &[("Last-Modified", "now")],
        &[("ETag", "\"v1\""), ("Last-Modified", "10h ago")],
    ];
    let sent = |fields: &[(&'static str, &'static str)], purged| {
        let sent = conditional_fields(&with_fields(headers(fields), Lifetimes::default()), purged);
        let shown: Vec<_> = sent
            .iter()
            .map(|(name, _)| match name.as_str() {
                "if-none-match" => "`If-None-Match`".to_owned(),
                "if-modified-since" => "`If-Modified-Since`".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        if shown.is_empty() { "nothing: it is fetched anew".to_owned() } else { shown.join(", ") }
    };
    let row = |fields: &&[(&'static str, &'static str)]| {
        vec![show_fields(fields), sent(fields, false), sent(fields, true)]
    };
    let heads = ["the kept answer has", "asked by", "asked by after a purge, soft or not"];
    Table::whole("vouching", 1, &heads, answers.iter().map(row).collect())
}
