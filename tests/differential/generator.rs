//! Histories: random, from a seed, and drawn towards where the rules change.
//!
//! A history is about one cache key. Most of its fields are as a backend and its clients send them; some are malformed,
//! doubled, huge or contradictory. The clock is advanced to the very ends of windows, and a millisecond beside them.

use crate::model::message::Fields;
use crate::model::{
    MILLISECOND, Nanos, Operator, Origin, Request, Response, SECOND, Stored, dates, freshness,
};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One request, and what the backend says should it be asked.
#[derive(Debug, Clone)]
pub struct Step {
    /// When the request comes.
    pub now: Nanos,
    pub request: Request,
    /// How long the backend takes; less than nothing where the clock is set back meanwhile.
    pub delay: Nanos,
    /// The first answer, to a conditional request where there is something to ask about; `None` = no connection.
    pub first: Option<Response>,
    /// The answer to the request without conditions, where the first one could not be used.
    pub second: Option<Response>,
}

/// Everything that makes a run.
#[derive(Debug, Clone)]
pub struct History {
    pub operator: Operator,
    pub steps: Vec<Step>,
}

/// What is the same all through a history.
pub struct Shape {
    rng: Rng,
    pub operator: Operator,
    method: &'static str,
    vary: Vec<&'static str>,
    /// The backend's clock less this one's.
    skew: Nanos,
    /// In percent, how often something is not as it should be.
    oddness: usize,
    now: Nanos,
}

/// The first moment of every history.
pub const START: Nanos = 1_790_000_000_000 * MILLISECOND;

const VARY: [&str; 16] = [
    "accept",
    "Accept",
    "accept-language",
    "Accept-Language, accept",
    "accept-encoding",
    "x-v",
    "x-v, x-v,",
    "X-V, accept",
    "cookie",
    "user-agent , x-v",
    "*",
    "x-v, *",
    "x v",
    "\"x-v\"",
    "",
    "x-v,,accept",
];

const STATUSES: [u16; 36] = [
    200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 407, 408, 409, 410, 412,
    414, 416, 421, 422, 425, 428, 429, 431, 451, 500, 501, 502, 503, 504, 511,
];

impl Shape {
    pub fn new(seed: u64) -> Shape {
        let mut rng = Rng(seed);
        let operator = operator(&mut rng);
        let methods = ["GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "POST", "QUERY"];
        let method = rng.pick(&methods);
        let mut vary = Vec::new();
        for _ in 0..rng.below(6).saturating_sub(2) {
            let some = if rng.chance(20) { VARY.len() } else { 10 };
            vary.push(*rng.pick(&VARY[..some]));
        }
        let skews = [0, 0, 0, 0, 0, 0, 1, -1, 3, -3, 60, -60, 86_400, -86_400];
        let skew = *rng.pick(&skews) * SECOND;
        let oddness = *rng.pick(&[2, 5, 10, 30]);
        let now = START + rng.below(100_000) as Nanos * MILLISECOND;
        Shape { rng, operator, method, vary, skew, oddness, now }
    }

    /// The next step, knowing what is stored.
    pub fn step(&mut self, stored: &[Stored]) -> Step {
        self.advance(stored);
        let request = self.request(stored);
        let delays = [0, 0, 1, 7, 80, 999, 1_000, 1_001, 2_500, 30_000];
        let mut delay = *self.rng.pick(&delays) * MILLISECOND;
        if self.rng.chance(1) {
            delay = -delay;
        }
        let received = self.now + delay;
        let first = match self.rng.below(100) {
            0..12 => None,
            12..55 => Some(self.not_modified(stored, received)),
            _ => Some(self.response(received)),
        };
        let second = (!self.rng.chance(5)).then(|| self.response(received));
        Step { now: self.now, request, delay, first, second }
    }

    fn odd(&mut self) -> bool {
        let oddness = self.oddness;
        self.rng.chance(oddness)
    }

    fn advance(&mut self, stored: &[Stored]) {
        if !stored.is_empty() && self.rng.chance(65) {
            let one = self.rng.pick(stored).clone();
            let windows = &one.windows;
            let ends = [
                windows.fresh,
                windows.fresh,
                windows.fresh + windows.stale_while_revalidate,
                windows.fresh + windows.stale_if_error,
                windows.fresh + windows.keep,
                windows.fresh / 2,
                windows.fresh + self.rng.below(20) as Nanos * SECOND,
                self.rng.below(70) as Nanos * SECOND,
            ];
            let wanted = *self.rng.pick(&ends) + *self.rng.pick(&[-1, 0, 0, 1]) * MILLISECOND;
            let at = one.response_time + wanted - one.initial_age;
            // Whole milliseconds, as clocks here have.
            let at = at.div_euclid(MILLISECOND) * MILLISECOND;
            if at >= self.now && at < self.now + 40_000_000 * SECOND {
                self.now = at;
                return;
            }
        }
        self.now += match self.rng.below(20) {
            0..6 => self.rng.below(20) as Nanos * MILLISECOND,
            6..15 => self.rng.below(9_000) as Nanos * MILLISECOND,
            15..19 => self.rng.below(100_000) as Nanos * MILLISECOND,
            _ => -(self.rng.below(5_000) as Nanos) * MILLISECOND,
        };
    }

    // ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────

    fn request(&mut self, stored: &[Stored]) -> Request {
        let method = if self.method == "GET" && self.rng.chance(8) { "HEAD" } else { self.method };
        let mut fields = Fields::new();
        if self.rng.chance(35) {
            for _ in 0..if self.rng.chance(15) { 2 } else { 1 } {
                let line = self.request_directives(stored);
                add(&mut fields, "cache-control", &line);
            }
        }
        if self.rng.chance(4) {
            let pragma = *self.rng.pick(&["no-cache", "No-Cache", "x, no-cache", "nothing", "no-cache=1"]);
            add(&mut fields, "pragma", pragma);
        }
        self.selecting(&mut fields);
        if self.rng.chance(8) {
            add(&mut fields, "authorization", "Bearer t");
        }
        if self.rng.chance(18) {
            self.client_conditions(&mut fields, stored);
        }
        if self.rng.chance(12) {
            self.client_range(&mut fields, stored);
        }
        Request { method: method.to_owned(), fields }
    }

    fn request_directives(&mut self, stored: &[Stored]) -> String {
        let mut members = Vec::new();
        for _ in 0..1 + self.rng.below(2) {
            let near = self.near(stored);
            let names =
                ["max-age", "max-age", "min-fresh", "min-fresh", "max-stale", "max-stale", "stale-if-error"];
            let member = match self.rng.below(12) {
                0 => "no-cache".to_owned(),
                1 => "max-stale".to_owned(),
                2 => (*self.rng.pick(&[
                    "no-store",
                    "only-if-cached",
                    "no-transform",
                    "x-unknown=3",
                    "NO-CACHE",
                ]))
                .to_owned(),
                3 if self.odd() => self.odd_member(),
                _ => {
                    let name = *self.rng.pick(&names);
                    let value = if self.rng.chance(50) { near } else { self.seconds() };
                    format!("{name}={value}")
                }
            };
            members.push(member);
        }
        self.joined(&members)
    }

    /// About the age, or what is left or past of the freshness, of something stored; in whole seconds.
    fn near(&mut self, stored: &[Stored]) -> String {
        if stored.is_empty() {
            return self.seconds();
        }
        let one = self.rng.pick(stored).clone();
        let age = freshness::current_age(&one, self.now);
        let span = if self.rng.chance(50) { age } else { (one.windows.fresh - age).abs() };
        let off = *self.rng.pick(&[-1, 0, 0, 1]);
        (span / SECOND + off).max(0).to_string()
    }

    fn selecting(&mut self, fields: &mut Fields) {
        const ACCEPT: [&str; 7] = [
            "text/html",
            "application/json",
            "text/html,application/json",
            "text/html , application/json",
            "Text/HTML",
            "a/b;c=\"x,y\"",
            "",
        ];
        const LANGUAGE: [&str; 7] = ["de", "DE", "en", "de,en", "de, EN", "en, de", "de;q=0.5"];
        const ENCODING: [&str; 18] = [
            "gzip",
            "GZIP",
            "x-gzip",
            "br, gzip",
            "gzip,br",
            "*",
            "identity",
            "gzip;q=0",
            "zstd, br, gzip",
            "identity;q=0",
            "*;q=0",
            "gzip;q=1.0, identity; q=0",
            "br;q=0.001",
            "gzip;q=0.000",
            "deflate",
            "",
            "*, br;q=0",
            "gzip;q=1.1",
        ];
        const OTHER: [&str; 6] = ["1", "2", "1,2", "1, 2", "a b", ""];
        for (name, values) in [
            ("accept", &ACCEPT[..]),
            ("accept-language", &LANGUAGE),
            ("accept-encoding", &ENCODING),
            ("x-v", &OTHER),
        ] {
            let times = match self.rng.below(20) {
                0..12 => 0,
                12..19 => 1,
                _ => 2,
            };
            for _ in 0..times {
                // Mostly of two values, so that requests meet.
                let some = if self.rng.chance(70) { 2 } else { values.len() };
                let value = *self.rng.pick(&values[..some]);
                add(fields, name, value);
            }
        }
        if self.rng.chance(5) {
            let value = *self.rng.pick(&["a=1", "a=2", "a=1; b=2"]);
            add(fields, "cookie", value);
        }
        if self.rng.chance(5) {
            let value = *self.rng.pick(&["curl", "Curl", "moz (a, b)"]);
            add(fields, "user-agent", value);
        }
    }

    fn client_conditions(&mut self, fields: &mut Fields, stored: &[Stored]) {
        let tags = [
            "\"a\"", "W/\"a\"", "\"b\"", "W/\"b\"", "*", "a", "\"a,b\"", "\"x\"", "w/\"a\"", "\"a\\\"", "",
            "\"a\", *",
        ];
        if self.rng.chance(60) {
            for _ in 0..if self.rng.chance(15) { 2 } else { 1 } {
                let mut members = Vec::new();
                for _ in 0..1 + self.rng.below(3) {
                    let some = if self.odd() { tags.len() } else { 5 };
                    members.push((*self.rng.pick(&tags[..some])).to_owned());
                }
                let line = self.joined(&members);
                add(fields, "if-none-match", &line);
            }
        }
        if self.rng.chance(60) {
            for _ in 0..if self.rng.chance(8) { 2 } else { 1 } {
                let line = self.date_near(stored);
                add(fields, "if-modified-since", &line);
            }
        }
    }

    /// A date about which something stored is dated.
    fn date_near(&mut self, stored: &[Stored]) -> String {
        let mut around = self.now + self.skew - self.rng.below(200) as Nanos * SECOND;
        if !stored.is_empty() && self.rng.chance(80) {
            let one = self.rng.pick(stored).clone();
            let name = *self.rng.pick(&["last-modified", "date"]);
            let known = one.fields.iter().find(|(n, _)| n == name).and_then(|(_, v)| dates::parse(v));
            around = known.unwrap_or(one.response_time);
        }
        let off = *self.rng.pick(&[-1, 0, 0, 0, 1]);
        self.date(around + off * SECOND)
    }

    fn client_range(&mut self, fields: &mut Fields, stored: &[Stored]) {
        let mut members = Vec::new();
        for _ in 0..match self.rng.below(20) {
            0..11 => 1,
            11..19 => 1 + self.rng.below(4),
            _ => 15 + self.rng.below(4),
        } {
            let (first, last) = (self.rng.below(45), self.rng.below(60));
            members.push(match self.rng.below(12) {
                0..6 => format!("{}-{}", first.min(last), first.max(last)),
                6..8 => format!("{first}-"),
                8..11 => format!("-{}", self.rng.below(30)),
                _ if self.odd() => (*self.rng.pick(&[
                    "5-3",
                    "x-1",
                    "-",
                    "1",
                    "--1",
                    "99999999999999999999999-",
                    "-99999999999999999999",
                    "1 -2",
                    "+1-2",
                ]))
                .to_owned(),
                _ => "0-0".to_owned(),
            });
        }
        let unit = if self.odd() { *self.rng.pick(&["Bytes", "items", "bytes ", ""]) } else { "bytes" };
        let set = self.joined(&members);
        for _ in 0..if self.rng.chance(3) { 2 } else { 1 } {
            add(fields, "range", &format!("{unit}={set}"));
        }
        if self.rng.chance(30) {
            for _ in 0..if self.rng.chance(8) { 2 } else { 1 } {
                let tags = ["\"a\"", "W/\"a\"", "\"b\"", "a", ""];
                let value = if self.rng.chance(60) {
                    (*self.rng.pick(&tags)).to_owned()
                } else {
                    self.date_near(stored)
                };
                add(fields, "if-range", &value);
            }
        }
    }

    // ── Responses ────────────────────────────────────────────────────────────────────────────────────────────────

    fn response(&mut self, received: Nanos) -> Response {
        let status = match self.rng.below(20) {
            0..15 => 200,
            15..18 => *self.rng.pick(&[404, 410, 301, 500, 502, 503, 504, 403, 501, 405]),
            _ => *self.rng.pick(&STATUSES),
        };
        let mut fields = Fields::new();
        self.about_time(&mut fields, received);
        self.about_validators(&mut fields, received);
        if !self.vary.is_empty() && self.rng.chance(85) {
            for _ in 0..if self.rng.chance(10) { 2 } else { 1 } {
                let vary = self.vary.clone();
                let vary = *self.rng.pick(&vary);
                add(&mut fields, "vary", vary);
            }
        }
        if self.rng.chance(4) {
            add(&mut fields, "set-cookie", "a=1");
        }
        if self.rng.chance(2) {
            add(&mut fields, "content-range", "bytes 0-4/9");
        }
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("x-new", "1"),
            ("content-length", "3"),
            ("surrogate-key", "k"),
            ("trailer", "x"),
            ("via", "1.1 other"),
            ("pragma", "no-cache"),
            ("content-digest", "sha-256=:AA==:"),
        ] {
            if self.rng.chance(10) {
                add(&mut fields, name, value);
            }
        }
        self.about_connection(&mut fields);
        let length = *self.rng.pick(&[0, 1, 10, 40, 41]);
        let body = (0..length).map(|_| b'a' + self.rng.below(26) as u8).collect();
        Response { status, fields, body }
    }

    /// A 304, mostly about what is stored.
    fn not_modified(&mut self, stored: &[Stored], received: Nanos) -> Response {
        let mut fields = Fields::new();
        self.about_time(&mut fields, received);
        if stored.is_empty() || self.rng.chance(20) {
            self.about_validators(&mut fields, received);
        } else {
            let one = self.rng.pick(stored).clone();
            for name in ["etag", "last-modified"] {
                for (known, value) in &one.fields {
                    if known == name && self.rng.chance(70) {
                        let value = match self.rng.below(12) {
                            0 => format!("W/{value}"),
                            1 => value.trim_start_matches("W/").to_owned(),
                            _ => value.clone(),
                        };
                        add(&mut fields, name, &value);
                    }
                }
            }
        }
        if !self.vary.is_empty() && self.rng.chance(30) {
            let vary = self.vary.clone();
            let vary = *self.rng.pick(&vary);
            add(&mut fields, "vary", vary);
        }
        for (name, value) in [
            ("content-type", "text/html"),
            ("content-encoding", "br"),
            ("content-length", "99"),
            ("content-range", "bytes 0-4/9"),
            ("content-md5", "AA=="),
            ("content-digest", "sha-256=:BB==:"),
            ("content-location", "/there"),
            ("set-cookie", "b=2"),
            ("x-new", "2"),
            ("x-new", "3"),
            ("via", "1.1 another"),
            ("cache-tag", "t"),
        ] {
            if self.rng.chance(6) {
                add(&mut fields, name, value);
            }
        }
        self.about_connection(&mut fields);
        Response { status: 304, fields, body: Vec::new() }
    }

    fn about_connection(&mut self, fields: &mut Fields) {
        if self.rng.chance(3) {
            let nominated =
                *self.rng.pick(&["close", "X-Hop", "x-hop, cache-control", "etag, keep-alive", "age, date"]);
            add(fields, "connection", nominated);
            add(fields, "x-hop", "1");
            add(fields, "keep-alive", "timeout=5");
        }
    }

    fn about_time(&mut self, fields: &mut Fields, received: Nanos) {
        let theirs = received + self.skew;
        if !self.rng.chance(6) {
            let mut date = theirs - self.rng.below(2) as Nanos * SECOND;
            if self.rng.chance(5) {
                date -= self.rng.below(400) as Nanos * SECOND;
            }
            let value = if self.odd() { self.odd_date(date) } else { self.date(date) };
            add(fields, "date", &value);
            if self.rng.chance(1) {
                add(fields, "date", &value);
            }
        }
        if self.rng.chance(75) {
            for _ in 0..if self.rng.chance(15) { 2 } else { 1 } {
                let line = self.response_directives();
                add(fields, "cache-control", &line);
            }
        }
        if self.rng.chance(8) {
            let line = self.targeted_directives();
            let name = *self.rng.pick(&["cdn-cache-control", "cdn-cache-control", "weir-cache-control"]);
            add(fields, name, &line);
            if self.rng.chance(10) {
                let line = self.targeted_directives();
                add(fields, name, &line);
            }
        }
        if self.rng.chance(25) {
            for _ in 0..if self.rng.chance(8) { 2 } else { 1 } {
                let at = theirs + (self.rng.below(200) as Nanos - 30) * SECOND;
                let value = if self.odd() { self.odd_date(at) } else { self.date(at) };
                add(fields, "expires", &value);
            }
        }
        if self.rng.chance(15) {
            let odd = [
                "-1",
                "1.5",
                "x",
                "",
                "99999999999999999999",
                "5;a=1",
                "3, 9",
                ", 4",
                "\"3\"",
                "7200",
                "0x1",
            ];
            let sane = ["0", "1", "5", "30", "60", "61"];
            let value = if self.odd() { *self.rng.pick(&odd) } else { *self.rng.pick(&sane) };
            add(fields, "age", value);
            if self.odd() {
                add(fields, "age", "1");
            }
        }
    }

    fn about_validators(&mut self, fields: &mut Fields, received: Nanos) {
        if self.rng.chance(55) {
            let sane = ["\"a\"", "\"a\"", "W/\"a\"", "\"b\"", "W/\"b\""];
            let odd = ["", "a", "\"a", "\"a,b\"", "w/\"a\"", "\"\"", "W/", "\"a\\\"", "\"a\", \"b\"", "*"];
            let value = if self.odd() { *self.rng.pick(&odd) } else { *self.rng.pick(&sane) };
            add(fields, "etag", value);
            if self.odd() && self.rng.chance(20) {
                add(fields, "etag", "\"a\"");
            }
        }
        if self.rng.chance(45) {
            let back = *self.rng.pick(&[0, 1, 2, 59, 600, 600, 86_400, 31_536_000, -1, -5]);
            let at = received + self.skew - back * SECOND;
            let value = if self.odd() { self.odd_date(at) } else { self.date(at) };
            add(fields, "last-modified", &value);
            if self.odd() && self.rng.chance(20) {
                add(fields, "last-modified", &value);
            }
        }
    }

    fn response_directives(&mut self) -> String {
        let mut members = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let flags = [
                "public",
                "must-revalidate",
                "proxy-revalidate",
                "no-cache",
                "no-store",
                "private",
                "must-understand",
                "immutable",
                "no-transform",
            ];
            let windows = [
                "s-maxage",
                "stale-while-revalidate",
                "stale-while-revalidate",
                "stale-if-error",
                "stale-if-error",
            ];
            let member = match self.rng.below(20) {
                0..8 => format!("max-age={}", self.seconds()),
                8..14 => format!("{}={}", *self.rng.pick(&windows), self.seconds()),
                14..17 => (*self.rng.pick(&flags)).to_owned(),
                17 => {
                    let name = *self.rng.pick(&["no-cache", "private"]);
                    let list = *self.rng.pick(&[
                        "\"set-cookie\"",
                        "\"x-new, etag\"",
                        "x-new",
                        "\"X-New\"",
                        "\"x-absent\"",
                        "etag",
                    ]);
                    format!("{name}={list}")
                }
                _ if self.odd() => self.odd_member(),
                _ => format!("max-age={}", self.seconds()),
            };
            members.push(if self.rng.chance(5) { member.to_ascii_uppercase() } else { member });
        }
        self.joined(&members)
    }

    fn targeted_directives(&mut self) -> String {
        let mut members = Vec::new();
        for _ in 0..1 + self.rng.below(3) {
            let flags = [
                "public",
                "must-revalidate",
                "no-cache",
                "no-store",
                "private",
                "no-store=?0",
                "no-cache=?1",
            ];
            let odd = [
                "max-age",
                "max-age=1.5",
                "max-age=-5",
                "Max-Age=5",
                "max-age=\"5\"",
                "max-age=?0",
                "max-age = 5",
                "no-store=1",
                "private=\"x-new\"",
                "no-cache=(\"a\" b)",
                "private=x-new",
                "max-age=5;a=1",
                "max-age=1000000000000000",
                "max-age=999999999999999",
                "",
                "x=\"a",
                "no-cache=\"x-absent\"",
                "x=:AA==:",
                "max-age=x",
                "private=?0",
                "no-cache=\"etag\"",
            ];
            members.push(match self.rng.below(20) {
                0..10 => format!("max-age={}", self.seconds()),
                10..13 => format!(
                    "{}={}",
                    *self.rng.pick(&["s-maxage", "stale-if-error", "stale-while-revalidate"]),
                    self.seconds()
                ),
                13..17 => (*self.rng.pick(&flags)).to_owned(),
                _ => (*self.rng.pick(&odd)).to_owned(),
            });
        }
        self.joined(&members)
    }

    // ── Values ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn seconds(&mut self) -> String {
        let sane = ["0", "1", "2", "5", "10", "30", "60", "600"];
        let odd =
            ["2147483647", "2147483648", "99999999999999999999999", "007", "\"5\"", "86400", "31536000"];
        let value = if self.odd() { *self.rng.pick(&odd) } else { *self.rng.pick(&sane) };
        value.to_owned()
    }

    fn odd_member(&mut self) -> String {
        let odd = [
            "max-age",
            "max-age=",
            "max-age=-1",
            "max-age=1.5",
            "max-age=5x",
            "max-age = 5",
            "max-age= 5",
            "max-age=\"5",
            "max-age=\"5\"x",
            "max-age='5'",
            "max-age=+5",
            "s-maxage=x",
            "=5",
            "no-store=1",
            "no-cache=",
            "private=\"\"",
            "private=\"a b\"",
            "private=\", ,\"",
            "x=\"max-age=100, no-store\"",
            "x=\"a\\\", max-age=50",
            "\"max-age=5\"",
            "public=1",
            "no-cache=\"x-absent, *\"",
            "max-stale=x",
            "min-fresh=x",
            "max-stale=",
            "min-fresh",
            "stale-if-error=x",
            "stale-while-revalidate",
            "must-revalidate=\"x\"",
            "max-age=5;x",
            "no-store ",
            "no-cache =x",
            "max-age=\"\\5\"",
            "private=\"x-absent\\\"",
            "stale-if-error=\"60\"",
            "no-cache=\"x-absent\"",
            "x=\"",
            "public=\"",
            "\"",
            "max-age=60\"",
            "s-maxage=\"60\"\"",
            "must-revalidate=\"a,b",
            "max-stale=\"",
            "min-fresh=\"",
        ];
        (*self.rng.pick(&odd)).to_owned()
    }

    fn joined(&mut self, members: &[String]) -> String {
        let comma = *self.rng.pick(&[", ", ",", ", ", " ,", ",\t", ",,"]);
        members.join(comma)
    }

    /// Mostly as dates are.
    fn date(&mut self, at: Nanos) -> String {
        if self.rng.chance(15) { any_date(&mut self.rng, at) } else { dates::format(at.max(0)) }
    }

    fn odd_date(&mut self, at: Nanos) -> String {
        let fixed = dates::format(at.max(0));
        match self.rng.below(16) {
            0 => "0".to_owned(),
            1 => String::new(),
            2 => fixed.replace("GMT", "UTC"),
            3 => fixed.replace("GMT", "+0000"),
            4 => fixed.replacen(' ', "  ", 1),
            5 => format!("{fixed} "),
            6 => "Thu, 01 Jan 1970 00:00:00 GMT".to_owned(),
            7 => "Wed, 31 Dec 1969 23:59:59 GMT".to_owned(),
            8 => "Fri, 31 Dec 9999 23:59:59 GMT".to_owned(),
            9 => format!("Mon{}", &fixed[3..]),
            10 => "Tue, 30 Feb 2027 10:00:00 GMT".to_owned(),
            11 => "Thu, 31 Dec 2026 23:59:60 GMT".to_owned(),
            12 => fixed[..fixed.len() - 4].to_owned(),
            13 => fixed[5..].to_owned(),
            14 => format!("Xyz{}", &fixed[3..]),
            _ => "Saturday, 21-Nov-71 10:00:00 GMT".to_owned(),
        }
    }
}

/// In one of the three formats.
pub fn any_date(rng: &mut Rng, at: Nanos) -> String {
    let fixed = dates::format(at.max(0));
    match rng.below(4) {
        0 => rfc850(&fixed),
        1 => asctime(&fixed),
        2 => fixed.to_ascii_lowercase(),
        _ => fixed,
    }
}

fn add(fields: &mut Fields, name: &str, value: &str) {
    fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc850(fixed: &str) -> String {
    let day = match &fixed[..3] {
        "Mon" => "Monday",
        "Tue" => "Tuesday",
        "Wed" => "Wednesday",
        "Thu" => "Thursday",
        "Fri" => "Friday",
        "Sat" => "Saturday",
        _ => "Sunday",
    };
    format!("{day}, {}-{}-{} {}", &fixed[5..7], &fixed[8..11], &fixed[14..16], &fixed[17..])
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as `Sun Nov  6 08:49:37 1994`.
fn asctime(fixed: &str) -> String {
    let day = fixed[5..7].strip_prefix('0').map_or(fixed[5..7].to_owned(), |d| format!(" {d}"));
    format!("{} {} {day} {} {}", &fixed[..3], &fixed[8..11], &fixed[17..25], &fixed[12..16])
}

fn operator(rng: &mut Rng) -> Operator {
    let spans = [0, 1, 5, 10, 60, 600];
    let mut span = |percent: usize| {
        rng.chance(percent).then(|| {
            let seconds = *rng.pick(&spans) * SECOND;
            if rng.chance(10) { seconds + 500 * MILLISECOND } else { seconds }
        })
    };
    let (ttl, negative_ttl) = (span(75), span(40));
    let (stale_while_revalidate, stale_if_error) = (span(40), span(40));
    let keep = span(70).unwrap_or(0);
    let lists: [&[&str]; 4] =
        [&["cdn-cache-control"], &["cdn-cache-control"], &["weir-cache-control", "cdn-cache-control"], &[]];
    Operator {
        ttl,
        negative_ttl,
        stale_while_revalidate,
        stale_if_error,
        keep,
        origin: *rng.pick(&[Origin::Stricter, Origin::Ignore, Origin::Honour, Origin::Honour]),
        per_subject: rng.chance(20),
        public: rng.chance(20),
        store_set_cookie: rng.chance(40),
        store_errors: rng.chance(30),
        client_refresh: rng.chance(75),
        target_list: rng.pick(&lists).iter().map(|name| (*name).to_owned()).collect(),
    }
}
