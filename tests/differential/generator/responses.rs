//! Responses of the backend: what they say of time, of validators, and to caches.

use super::Shape;
use super::values::add;
use crate::model::message::Fields;
use crate::model::{Nanos, Response, SECOND, Stored};

const STATUSES: [u16; 36] = [
    200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 407, 408, 409, 410, 412,
    414, 416, 421, 422, 425, 428, 429, 431, 451, 500, 501, 502, 503, 504, 511,
];

impl Shape {
    pub(super) fn response(&mut self, received: Nanos) -> Response {
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
    pub(super) fn not_modified(&mut self, stored: &[Stored], received: Nanos) -> Response {
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

    pub(super) fn about_connection(&mut self, fields: &mut Fields) {
        if self.rng.chance(3) {
            let nominated =
                *self.rng.pick(&["close", "X-Hop", "x-hop, cache-control", "etag, keep-alive", "age, date"]);
            add(fields, "connection", nominated);
            add(fields, "x-hop", "1");
            add(fields, "keep-alive", "timeout=5");
        }
    }

    pub(super) fn about_time(&mut self, fields: &mut Fields, received: Nanos) {
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

    pub(super) fn about_validators(&mut self, fields: &mut Fields, received: Nanos) {
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

    pub(super) fn response_directives(&mut self) -> String {
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
                0..9 => format!("max-age={}", self.seconds()),
                9..14 => format!("{}={}", *self.rng.pick(&windows), self.seconds()),
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

    pub(super) fn targeted_directives(&mut self) -> String {
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
}
