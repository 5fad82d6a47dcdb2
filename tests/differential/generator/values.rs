//! What stands in fields: numbers, lists and dates, as they should be and otherwise.

use super::{Rng, Shape};
use crate::model::message::Fields;
use crate::model::{Nanos, dates};

impl Shape {
    pub(super) fn seconds(&mut self) -> String {
        let sane = ["0", "1", "5", "10", "30", "60", "60", "600", "600", "3600"];
        let odd =
            ["2147483647", "2147483648", "99999999999999999999999", "007", "\"5\"", "86400", "31536000"];
        let value = if self.odd() { *self.rng.pick(&odd) } else { *self.rng.pick(&sane) };
        value.to_owned()
    }

    pub(super) fn odd_member(&mut self) -> String {
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

    pub(super) fn joined(&mut self, members: &[String]) -> String {
        let comma = *self.rng.pick(&[", ", ",", ", ", " ,", ",\t", ",,"]);
        members.join(comma)
    }

    /// Mostly as dates are.
    pub(super) fn date(&mut self, at: Nanos) -> String {
        if self.rng.chance(15) { any_date(&mut self.rng, at) } else { dates::format(at.max(0)) }
    }

    pub(super) fn odd_date(&mut self, at: Nanos) -> String {
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

pub(super) fn add(fields: &mut Fields, name: &str, value: &str) {
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
