//! Points in wall-clock time as HTTP caching counts them: milliseconds since the Unix epoch.
//!
//! Nothing here asks what time it is; every moment comes in as an argument. HTTP dates have whole
//! seconds, so a round trip through one loses the milliseconds.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

/// Milliseconds since 1970-01-01T00:00:00Z. Where it comes from is `crate::time`'s business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// The last second that an HTTP date can name: 9999-12-31T23:59:59Z.
const LAST_HTTP_SECOND: u64 = 253_402_300_799;

impl Timestamp {
    /// The time elapsed since `earlier`; zero when `earlier` lies ahead (clocks step back).
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment moved ahead by `by`, saturating.
    pub fn plus(self, by: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Whole seconds since the Unix epoch.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Reads an HTTP date in any of its three formats (RFC 9110 §5.6.7), in any case and with any day of the week,
    /// which says nothing that the date does not; `None` when it is none of them or lies before 1970.
    pub fn from_http_date(text: &str) -> Option<Timestamp> {
        let text = text.trim();
        strictly(text).or_else(|| leniently(text))
    }

    /// Reads a field value that is one HTTP date; `None` when it is not.
    pub fn from_field(value: &HeaderValue) -> Option<Timestamp> {
        Timestamp::from_line(value.as_bytes())
    }

    /// The same of a value's bytes.
    pub fn from_line(value: &[u8]) -> Option<Timestamp> {
        let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii())?;
        Timestamp::from_http_date(text)
    }

    /// This moment as an IMF-fixdate, e.g. `Sun, 06 Nov 1994 08:49:37 GMT`; years past 9999 read as the end of 9999.
    pub fn to_http_date(self) -> String {
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.seconds().min(LAST_HTTP_SECOND)))
    }
}

const WEEK: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Longer than any date in the three formats.
const LONGEST_DATE: usize = 40;

/// A date as the standard writes it.
fn strictly(text: &str) -> Option<Timestamp> {
    // In all three a space precedes the hour; httpdate takes anything there after a year of two digits.
    let hour = text.find(':')?.checked_sub(3)?;
    if text.as_bytes().get(hour) != Some(&b' ') {
        return None;
    }
    let elapsed = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::default().plus(elapsed))
}

/// A date whose letters are in another case, or whose day of the week is another.
fn leniently(text: &str) -> Option<Timestamp> {
    let written = text.find(|c: char| !c.is_ascii_alphabetic()).filter(|_| text.len() <= LONGEST_DATE)?;
    let (day, date) = text.split_at(written);
    // Short, or at full length.
    let mut week = WEEK.iter().map(|name| if written == 3 { &name[..3] } else { name });
    week.clone().find(|name| name.eq_ignore_ascii_case(day))?;
    let date = capitalised(date).replace(" Gmt", " GMT");
    week.find_map(|name| strictly(&format!("{name}{date}")))
}

/// Each word with its first letter in upper case and the others in lower case.
fn capitalised(text: &str) -> String {
    let mut within = false;
    let letter = |c: char| {
        let first = c.is_ascii_alphabetic() && !within;
        within = c.is_ascii_alphabetic();
        if first { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
    };
    text.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_formats_name_one_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "  Sun, 06 Nov 1994 08:49:37 GMT ",
            "SUN, 06 NOV 1994 08:49:37 gmt",
            "sunday, 06-nov-94 08:49:37 Gmt",
            "SuN nOv  6 08:49:37 1994",
            // Said by the date already, and often wrong where it is made by hand.
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Tuesday, 06-Nov-94 08:49:37 GMT",
            "Wed Nov  6 08:49:37 1994",
        ] {
            assert_eq!(Timestamp::from_http_date(text), Some(Timestamp(784_111_777_000)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "Sunday, 06-Nov-94T08:49:37 GMT",
            "Sunday, 06-Nov-94108:49:37 GMT",
            "0",
            "-1",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 36 Nov 1994 08:49:37 GMT",
            "Fun, 06 Nov 1994 08:49:37 GMT",
            "Su, 06 Nov 1994 08:49:37 GMT",
            "Sundae, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT and more",
        ] {
            assert_eq!(Timestamp::from_http_date(text), None, "{text}");
        }
        let binary = HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        assert_eq!(Timestamp::from_field(&binary), None);
    }

    #[test]
    fn elapsed_time_never_goes_below_zero_or_over_the_top() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(9).since(Timestamp(5)), Duration::from_millis(4));
        assert_eq!(Timestamp(1).plus(Duration::MAX), Timestamp(u64::MAX));
        assert!(Timestamp(u64::MAX).to_http_date().contains("9999"));
    }

    proptest! {
        #[test]
        fn dates_round_trip_in_whole_seconds(seconds in 0..LAST_HTTP_SECOND) {
            let moment = Timestamp(seconds * 1000);
            prop_assert_eq!(Timestamp::from_http_date(&moment.to_http_date()), Some(moment));
        }

        #[test]
        fn reading_never_panics(text in ".*") {
            let _ = Timestamp::from_http_date(&text);
        }
    }
}
