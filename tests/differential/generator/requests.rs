//! Requests: directives, selecting fields, conditions and ranges.

use super::Shape;
use super::values::add;
use crate::model::message::Fields;
use crate::model::{Nanos, Request, SECOND, Stored, dates, freshness};

impl Shape {
    pub(super) fn request(&mut self, stored: &[Stored]) -> Request {
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

    pub(super) fn request_directives(&mut self, stored: &[Stored]) -> String {
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
    pub(super) fn near(&mut self, stored: &[Stored]) -> String {
        if stored.is_empty() {
            return self.seconds();
        }
        let one = self.rng.pick(stored).clone();
        let age = freshness::current_age(&one, self.now);
        let span = if self.rng.chance(50) { age } else { (one.windows.fresh - age).abs() };
        let off = *self.rng.pick(&[-1, 0, 0, 1]);
        (span / SECOND + off).max(0).to_string()
    }

    pub(super) fn selecting(&mut self, fields: &mut Fields) {
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

    pub(super) fn client_conditions(&mut self, fields: &mut Fields, stored: &[Stored]) {
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
    pub(super) fn date_near(&mut self, stored: &[Stored]) -> String {
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

    pub(super) fn client_range(&mut self, fields: &mut Fields, stored: &[Stored]) {
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
}
