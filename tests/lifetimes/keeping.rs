//! Is an answer kept, and with which windows? Tables `kept`, `fresh`, `windows` and `arrival`, and the walk that asks them
//! and `storing::admit` about every combination of settings, requests, statuses and answers.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use weir::semantics::stored::Lifetimes;
use weir::semantics::storing::{NotStored, Terms, admit};

use super::answers::{NOW, Spoken};
use super::settings::{HEADS, IF_ERROR, MODES, NEGATIVE_TTL, Owner, Setting, TTL, WHILE_REVALIDATE};
use super::table::{Holds, Rules, Table, Vocabulary, disagreement, fit};

const STATUSES: [u16; 28] = [
    103, 200, 203, 204, 206, 226, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 410, 414,
    416, 429, 451, 500, 501, 503, 599,
];

pub struct Request {
    name: &'static str,
    method: Method,
    headers: HeaderMap,
}

fn requests() -> Vec<Request> {
    let one = |name, method: &str, field: Option<(header::HeaderName, &str)>| Request {
        name,
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        headers: field.into_iter().map(|(name, text)| (name, text.parse().unwrap())).collect(),
    };
    vec![
        one("GET", "GET", None),
        one("GET, authorized", "GET", Some((header::AUTHORIZATION, "Bearer x"))),
        one("GET, no-store", "GET", Some((header::CACHE_CONTROL, "no-store"))),
        one("HEAD", "HEAD", None),
        one("POST", "POST", None),
        one("QUERY, authorized", "QUERY", Some((header::AUTHORIZATION, "Bearer x"))),
    ]
}

/// One answer to one request under one setting.
#[derive(Clone, Copy)]
pub struct Case {
    setting: &'static Setting,
    request: &'static Request,
    status: u16,
    answer: &'static Spoken,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (request, setting) = (self.request.name, self.setting);
        writeln!(f, "{request} → {}: {:?}", self.status, self.answer.says)?;
        write!(f, "  under {}: {setting:?}", MODES[setting.mode])
    }
}

impl Case {
    fn code(&self, terms: &Terms) -> Result<Lifetimes, NotStored> {
        let status = StatusCode::from_u16(self.status).unwrap();
        let (request, answer) = (self.request, self.answer);
        admit(&request.method, &request.headers, status, &answer.headers, NOW, NOW, terms)
    }

    fn says(&self, flag: &str) -> bool {
        self.answer.says.has(flag)
    }
}

/// `status 200 203 500–599`.
fn in_list(list: &str, status: u16) -> bool {
    list.split(' ').any(|part| {
        let (from, to) = part.split_once('–').unwrap_or((part, part));
        (from.parse().unwrap()..=to.parse().unwrap()).contains(&status)
    })
}

/// What the words of conditions mean.
fn word(text: &str) -> Option<Holds<Case>> {
    if let Some(list) = text.strip_prefix("not ") {
        let list = list.to_owned();
        return Some(Box::new(move |case| !in_list(&list, case.status)));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let list = text.to_owned();
        return Some(Box::new(move |case| in_list(&list, case.status)));
    }
    fn holds(of: fn(&Case) -> bool) -> Option<Holds<Case>> {
        Some(Box::new(of))
    }
    match text {
        "neither GET, POST nor QUERY" => {
            holds(|c| !matches!(c.request.method.as_str(), "GET" | "POST" | "QUERY"))
        }
        "asked by GET or QUERY" => holds(|c| c.request.method != Method::POST),
        "asked with `no-store`" => holds(|c| c.request.headers.contains_key(header::CACHE_CONTROL)),
        "asked with `Authorization`" => holds(|c| c.request.headers.contains_key(header::AUTHORIZATION)),
        "a lifetime" => holds(|c| c.answer.says.lifetime.is_some()),
        "a heuristic" => holds(|c| c.answer.says.heuristic.is_some()),
        "no `must-understand`" => holds(|c| !c.says("`must-understand`")),
        "no validator" => holds(|c| !c.says("a validator")),
        "neither `public`, `must-revalidate` nor `s-maxage`" => {
            holds(|c| !c.says("`public`") && !c.says("`must-revalidate`") && !c.says("`s-maxage`"))
        }
        "`ttl`" => holds(|c| c.setting.terms.ttl.is_some()),
        "`negative_ttl`" => holds(|c| c.setting.negative_ttl),
        "no `store_errors`" => holds(|c| !c.setting.errors),
        "no `store_set_cookie`" => holds(|c| !c.setting.set_cookie),
        "no subject" => holds(|c| c.setting.owner != Owner::Subject),
        "neither subject nor `public`" => holds(|c| c.setting.owner == Owner::Nobody),
        flag => {
            let flag = flag.to_owned();
            Some(Box::new(move |case| case.says(&flag)))
        }
    }
}

const QUESTIONS: [&str; 3] = ["the answer", "status", "the request and the route"];

fn open_kept() -> Table {
    let rows: &[&[&str]] = &[
        &["any", "any", "neither GET, POST nor QUERY"],
        &["any", "any", "asked with `no-store`"],
        &["any", "206", "any"],
        &["`Content-Range`", "any", "any"],
        &["any", "500–999", "no `store_errors`"],
        &["any", "100–199 304 407 408 416 425 428 429 431", "any"],
        &["`Set-Cookie`", "any", "no `store_set_cookie`"],
        &["`Vary: *`", "any", "any"],
        &["`must-understand`", UNKNOWN, "any"],
        &["`no-store` and no `must-understand`", "any", "any"],
        &["`private`", "any", "no subject"],
        &["any", "any", "asked with `Authorization` and neither subject nor `public`"],
        &[
            "neither `public`, `must-revalidate` nor `s-maxage`",
            "any",
            "asked with `Authorization` and neither subject nor `public`",
        ],
        &["`no-cache` and no validator", "any", "any"],
    ];
    Table::open("kept", &QUESTIONS, &HEADS, rows)
}

/// Statuses with rules that Weir does not know, or may not follow.
const UNKNOWN: &str = "not 200 203 204 300–303 307 308 400 401 403–406 409 410 414 415 421 422 451";

const BY_TTL: &str = "200 203 204 300 301 308";
const BY_NEGATIVE_TTL: &str = "404 410";

fn open_fresh() -> Table {
    let rows: &[&[&str]] = &[
        &["a lifetime", BY_TTL, "`ttl`"],
        &["a lifetime", BY_TTL, "any"],
        &["a heuristic", BY_TTL, "asked by GET or QUERY"],
        &["any", BY_TTL, "`ttl`"],
        &["`no-cache`", BY_TTL, "any"],
        &["any", BY_TTL, "any"],
        &["a lifetime", BY_NEGATIVE_TTL, "`negative_ttl`"],
        &["a lifetime", BY_NEGATIVE_TTL, "`ttl`"],
        &["a lifetime", BY_NEGATIVE_TTL, "any"],
        &["a heuristic", BY_NEGATIVE_TTL, "asked by GET or QUERY"],
        &["any", BY_NEGATIVE_TTL, "`negative_ttl`"],
        &["any", BY_NEGATIVE_TTL, "any"],
        &["a lifetime", "any", "`ttl`"],
        &["a lifetime", "any", "any"],
        &["a heuristic", "405 414 501", "asked by GET or QUERY"],
        &["a heuristic and `public`", "any", "asked by GET or QUERY"],
        &["any", "any", "any"],
    ];
    Table::open("fresh", &QUESTIONS, &HEADS, rows)
}

/// Reasons that have words of their own in the tables.
fn reasons<C: 'static, V: 'static>(vocabulary: Vocabulary<C, V>, of: fn(NotStored) -> V) -> Vocabulary<C, V> {
    let all = NotStored::ALL.iter().filter(|reason| **reason != NotStored::Expired);
    all.fold(vocabulary, |known, reason| known.word(&format!("not stored: {reason}"), move |_| of(*reason)))
}

type Fresh = Result<Option<Duration>, NotStored>;

fn lifetimes() -> Vocabulary<Case, Fresh> {
    let shorter = |one: Option<Duration>, other: Option<Duration>| Ok(one.zip(other).map(|(a, b)| a.min(b)));
    let vocabulary = Vocabulary::new()
        .word("0s", |_| Ok(Some(Duration::ZERO)))
        .word("`ttl`", |c: &Case| Ok(c.setting.terms.ttl.and(Some(TTL))))
        .word("`negative_ttl`", |c| Ok(c.setting.negative_ttl.then_some(NEGATIVE_TTL)))
        .word("the lifetime", |c| Ok(c.answer.says.lifetime))
        .word("the shorter of lifetime and `ttl`", move |c| {
            shorter(c.answer.says.lifetime, c.setting.terms.ttl.and(Some(TTL)))
        })
        .word("the shorter of lifetime and `negative_ttl`", move |c| {
            shorter(c.answer.says.lifetime, c.setting.negative_ttl.then_some(NEGATIVE_TTL))
        })
        .word("the heuristic", |c| Ok(c.answer.says.heuristic));
    reasons(vocabulary, Err)
}

/// What is asked about an answer that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    WhileRevalidate,
    IfError,
    ByLeave,
    EachTime,
    Keep,
}

const ASKED: [Asked; 5] =
    [Asked::WhileRevalidate, Asked::IfError, Asked::ByLeave, Asked::EachTime, Asked::Keep];

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Time(Option<Duration>),
    Yes(bool),
}

type Question = (Case, Asked);

impl Asked {
    fn of(self, lifetimes: &Lifetimes) -> Told {
        match self {
            Asked::WhileRevalidate => Told::Time(Some(lifetimes.stale_while_revalidate)),
            Asked::IfError => Told::Time(Some(lifetimes.stale_if_error)),
            Asked::ByLeave => Told::Yes(!lifetimes.must_revalidate),
            Asked::EachTime => Told::Yes(lifetimes.always_validate),
            Asked::Keep => Told::Time(Some(lifetimes.keep)),
        }
    }

    fn stated(self, case: &Case) -> Option<Duration> {
        match self {
            Asked::WhileRevalidate => case.answer.says.while_revalidate,
            Asked::IfError => case.answer.says.if_error,
            _ => None,
        }
    }

    fn operators(self, case: &Case) -> Option<Duration> {
        let setting = case.setting;
        let (given, window) = match self {
            Asked::WhileRevalidate => (setting.while_revalidate, WHILE_REVALIDATE),
            Asked::IfError => (setting.if_error, IF_ERROR),
            _ => return None,
        };
        Some(if given { window } else { Duration::ZERO })
    }
}

const WINDOWS: &str = "how long stale";
const LEAVE: &str = "stale by the client's leave";
const EACH_TIME: &str = "validated each time";
const KEEP: &str = "how long to be validated";

fn open_windows() -> Table {
    let rows: &[&[&str]] = &[
        &[WINDOWS, "any", "500–999"],
        &[WINDOWS, "`no-cache`", "any"],
        &[WINDOWS, "`must-revalidate`", "any"],
        &[WINDOWS, "`proxy-revalidate`", "any"],
        &[WINDOWS, "`s-maxage` and this window", "any"],
        &[WINDOWS, "`s-maxage`", "any"],
        &[WINDOWS, "this window", "any"],
        &[WINDOWS, "any", "any"],
        &[LEAVE, "any", "500–999"],
        &[LEAVE, "`must-revalidate`", "any"],
        &[LEAVE, "`proxy-revalidate`", "any"],
        &[LEAVE, "`s-maxage`", "any"],
        &[LEAVE, "any", "any"],
        &[EACH_TIME, "`no-cache`", "any"],
        &[EACH_TIME, "any", "any"],
        &[KEEP, "a validator", "any"],
        &[KEEP, "any", "any"],
    ];
    Table::open("windows", &["question", "the answer", "status"], &HEADS, rows)
}

fn word_of_windows(text: &str) -> Option<Holds<Question>> {
    fn asked(which: &'static [Asked]) -> Option<Holds<Question>> {
        Some(Box::new(move |(_, asked)| which.contains(asked)))
    }
    match text {
        WINDOWS => asked(&[Asked::WhileRevalidate, Asked::IfError]),
        LEAVE => asked(&[Asked::ByLeave]),
        EACH_TIME => asked(&[Asked::EachTime]),
        KEEP => asked(&[Asked::Keep]),
        "this window" => Some(Box::new(|(case, asked)| asked.stated(case).is_some())),
        _ => word(text).map(|holds| -> Holds<Question> { Box::new(move |(case, _)| holds(case)) }),
    }
}

fn windows() -> Vocabulary<Question, Told> {
    Vocabulary::new()
        .word("not at all", |_| Told::Time(Some(Duration::ZERO)))
        .word("the operator's window", |(case, asked): &Question| Told::Time(asked.operators(case)))
        .word("the backend's window", |(case, asked)| Told::Time(asked.stated(case)))
        .word("`keep`", |(case, _)| Told::Time(Some(case.setting.terms.keep)))
        .word("yes", |_| Told::Yes(true))
        .word("no", |_| Told::Yes(false))
}

/// An answer's age when it comes, and what it would be kept for.
type Arrival = (Duration, Lifetimes);

fn open_arrival() -> Table {
    let rows: &[&[&str]] = &[&["below the end of the last window"], &["any"]];
    Table::open("arrival", &["its age on arrival"], &["it is"], rows)
}

fn word_of_arrival(text: &str) -> Option<Holds<Arrival>> {
    let below = text == "below the end of the last window";
    below.then(|| -> Holds<Arrival> {
        Box::new(|(age, l)| *age < l.fresh + l.stale_while_revalidate.max(l.stale_if_error).max(l.keep))
    })
}

fn arrivals() -> Vocabulary<Arrival, Option<NotStored>> {
    Vocabulary::new().word("kept", |_| None).word("not stored: expired", |_| Some(NotStored::Expired))
}

/// Every combination, and what the code says to each.
pub struct Walk {
    settings: &'static [Setting],
    answers: &'static [Spoken],
    requests: &'static [Request],
    /// Positions in `verdicts`, in the order of [`Walk::each`].
    said: Vec<u16>,
    verdicts: Vec<Result<Lifetimes, NotStored>>,
}

impl Walk {
    pub fn new(settings: &'static [Setting], answers: Vec<Spoken>) -> Walk {
        let mut walk = Walk {
            settings,
            answers: Vec::leak(answers),
            requests: Vec::leak(requests()),
            said: Vec::new(),
            verdicts: Vec::new(),
        };
        let half = settings.len() / 2;
        let parts = std::thread::scope(|scope| {
            let first = scope.spawn(|| walk.judge(&settings[..half]));
            let second = walk.judge(&settings[half..]);
            [first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second]
        });
        for (said, verdicts) in parts {
            let position = |verdict| match walk.verdicts.iter().position(|known| *known == verdict) {
                Some(at) => at as u16,
                None => {
                    walk.verdicts.push(verdict);
                    walk.verdicts.len() as u16 - 1
                }
            };
            let moved: Vec<u16> = verdicts.into_iter().map(position).collect();
            walk.said.extend(said.into_iter().map(|at| moved[usize::from(at)]));
        }
        walk
    }

    fn cases(&self, settings: &'static [Setting]) -> impl Iterator<Item = Case> + use<> {
        let (requests, answers) = (self.requests, self.answers);
        settings.iter().flat_map(move |setting| {
            requests.iter().flat_map(move |request| {
                STATUSES.iter().flat_map(move |&status| {
                    answers.iter().map(move |answer| Case { setting, request, status, answer })
                })
            })
        })
    }

    /// What the code says to each case, as positions in what it says at all. It says the same whether clients may
    /// refresh or not.
    fn judge(&self, settings: &'static [Setting]) -> (Vec<u16>, Vec<Result<Lifetimes, NotStored>>) {
        let (mut known, mut verdicts, mut said) = (HashMap::new(), Vec::new(), Vec::new());
        for setting in settings {
            let deaf = Terms { client_refresh: false, ..setting.terms.clone() };
            for case in self.cases(std::slice::from_ref(setting)) {
                let verdict = case.code(&setting.terms);
                assert_eq!(case.code(&deaf), verdict, "`client_refresh` counts for {case:?}");
                let key = verdict.map(|l| {
                    let windows = (l.stale_while_revalidate, l.stale_if_error, l.keep);
                    (l.fresh, windows, l.always_validate, l.must_revalidate)
                });
                said.push(*known.entry(key).or_insert_with(|| {
                    verdicts.push(verdict);
                    verdicts.len() as u16 - 1
                }));
            }
        }
        (said, verdicts)
    }

    fn each(&self) -> impl Iterator<Item = (Case, &Result<Lifetimes, NotStored>)> {
        self.cases(self.settings).zip(self.said.iter().map(|at| &self.verdicts[usize::from(*at)]))
    }

    /// The tables with their answers still open.
    pub fn open() -> [Table; 4] {
        [open_kept(), open_fresh(), open_windows(), open_arrival()]
    }

    /// Every way in which an answer is kept.
    pub fn kept(&self) -> impl Iterator<Item = &Lifetimes> {
        self.verdicts.iter().flatten()
    }

    /// The tables as the code would have them, one built on the other.
    pub fn made(&self) -> [Table; 4] {
        let no = reasons(Vocabulary::new(), Some);
        let kept = fit(&open_kept(), word, &no, |say| {
            self.each().for_each(|(case, verdict)| say(&case, case.setting.mode, verdict.err()));
        });
        let refused = Rules::compile(&kept, word, &no);
        let fresh = fit(&open_fresh(), word, &lifetimes(), |say| {
            for (case, verdict) in self.each() {
                let decided = match verdict {
                    // Its lifetime is not told.
                    Err(NotStored::Expired) => continue,
                    verdict => verdict.map(|lifetimes| Some(lifetimes.fresh)),
                };
                if refused.ask(&case, case.setting.mode).is_none() {
                    say(&case, case.setting.mode, decided);
                }
            }
        });
        let windows = fit(&open_windows(), word_of_windows, &windows(), |say| {
            for (case, verdict) in self.each() {
                for asked in ASKED.into_iter().filter(|_| verdict.is_ok()) {
                    say(&(case, asked), case.setting.mode, asked.of(verdict.as_ref().unwrap()));
                }
            }
        });
        let page = Page::new(&kept, &fresh, &windows, &open_arrival());
        let arrival = fit(&open_arrival(), word_of_arrival, &arrivals(), |say| {
            for (case, verdict) in self.each() {
                if let Ok(lifetimes) = page.before_arrival(&case) {
                    say(&(case.answer.says.age, lifetimes), 0, verdict.err());
                }
            }
        });
        [kept, fresh, windows, arrival]
    }

    /// Asks the page about every combination. Returns how many there were, clients that may refresh and may not apart.
    pub fn compare(&self, tables: &[Table; 4]) -> usize {
        let [kept, fresh, windows, arrival] = tables;
        for (table, open) in tables.iter().zip(Walk::open()) {
            assert_eq!(table.skeleton(), open.skeleton(), "the table {}", table.name);
        }
        let page = Page::new(kept, fresh, windows, arrival);
        let part = |odd: bool| {
            for (_, (case, verdict)) in self.each().enumerate().filter(|(at, _)| (at % 2 == 1) == odd) {
                let told = page.verdict(&case);
                assert!(told.as_ref() == Some(verdict), "{}", disagreement("admit", &case, &told, verdict));
            }
        };
        std::thread::scope(|scope| {
            let odd = scope.spawn(|| part(true));
            part(false);
            // What it panicked with is the message.
            odd.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        page.kept.assert_none_idle();
        page.fresh.assert_none_idle();
        page.windows.assert_none_idle();
        page.arrival.assert_none_idle();
        2 * self.said.len()
    }
}

/// The four tables, read one after the other.
struct Page {
    kept: Rules<'static, Case, Option<NotStored>>,
    fresh: Rules<'static, Case, Fresh>,
    windows: Rules<'static, Question, Told>,
    arrival: Rules<'static, Arrival, Option<NotStored>>,
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

impl Page {
    fn new(kept: &Table, fresh: &Table, windows_: &Table, arrival: &Table) -> Page {
        Page {
            kept: Rules::compile(kept, word, leak(reasons(Vocabulary::new(), Some))),
            fresh: Rules::compile(fresh, word, leak(lifetimes())),
            windows: Rules::compile(windows_, word_of_windows, leak(windows())),
            arrival: Rules::compile(arrival, word_of_arrival, leak(arrivals())),
        }
    }

    /// What is kept and for how long, were it not for its age.
    fn before_arrival(&self, case: &Case) -> Result<Lifetimes, Option<NotStored>> {
        let mode = case.setting.mode;
        if let Some(reason) = self.kept.ask(case, mode) {
            return Err(reason);
        }
        let fresh = match self.fresh.ask(case, mode) {
            Some(Ok(Some(fresh))) => fresh,
            Some(Err(reason)) => return Err(Some(reason)),
            Some(Ok(None)) | None => return Err(None),
        };
        let told = |asked| self.windows.ask(&(*case, asked), mode);
        let time = |asked| match told(asked) {
            Some(Told::Time(Some(time))) => Ok(time),
            _ => Err(None),
        };
        let yes = |asked| match told(asked) {
            Some(Told::Yes(yes)) => Ok(yes),
            _ => Err(None),
        };
        Ok(Lifetimes {
            fresh,
            stale_while_revalidate: time(Asked::WhileRevalidate)?,
            stale_if_error: time(Asked::IfError)?,
            keep: time(Asked::Keep)?,
            always_validate: yes(Asked::EachTime)?,
            must_revalidate: !yes(Asked::ByLeave)?,
        })
    }

    /// `None` = the page has nothing to say.
    fn verdict(&self, case: &Case) -> Option<Result<Lifetimes, NotStored>> {
        let lifetimes = match self.before_arrival(case) {
            Ok(lifetimes) => lifetimes,
            Err(reason) => return reason.map(Err),
        };
        let expired = self.arrival.ask(&(case.answer.says.age, lifetimes), 0)?;
        Some(expired.map_or(Ok(lifetimes), Err))
    }
}
